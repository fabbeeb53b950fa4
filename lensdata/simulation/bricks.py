"""Brick coadds of the simulated sky as files: names, layout and compression of the real ones.

Source: legacysurvey.org/dr10/files and legacypipe ``survey.get_compression_kwargs``, tiles of 100 x 100 pixels:

- image: Rice, quantised in steps of 1e-4 nanomaggies, subtractive dithering that keeps exact zeros;
- invvar: Rice, quantised to a sixteenth of the noise, no dithering (tiles of one value are kept exactly, by gzip);
- maskbits: HCOMPRESS of 32-bit integers, lossless.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from lensdata import storage
from lensdata.cutouts import coadds
from lensdata.cutouts.coadds import Kind
from lensdata.simulation.conditions import holes, mask_circles, observe, pixel_sigma
from lensdata.simulation.rendering import Renderer
from lensdata.simulation.sky import BANDS, BRICK_PIXELS, PIXEL_SCALE, Bricks, brick_pixels, bricks_by_id

TILE = 100
QUANTUM = 1e-4
"""Step of the quantised pixel values, nanomaggies."""
ALLMASK = {"g": 5, "r": 6, "z": 7, "i": 15}
"""Bit of MASKBITS by band: all exposures are masked there."""
UNITS = {"image": "nanomaggy", "invvar": "1/nanomaggy^2", "maskbits": ""}
_STRIP = 600


def coadd_path(brickname: str, band: str) -> str:
    """Path of a brick image below the data release's folder.

    >>> coadd_path("0959p805", "r")
    'coadd/095/0959p805/legacysurvey-0959p805-image-r.fits.fz'
    """
    return coadds.coadd_path(brickname, "image", band)


def write_brick(renderer: Renderer, brick: int, band: str, folder: str) -> str:
    """Write the image of one band of one brick under ``folder``; returns its URI."""
    uri = storage.join(folder, coadd_path(str(bricks_by_id([brick]).name[0]), band))
    storage.write_bytes(uri, brick_fits(brick, band, brick_image(renderer, brick, band)))
    return uri


def write_extra(renderer: Renderer, brick: int, kind: Kind, band: str, folder: str) -> str:
    """Write what goes with a brick's images: ``invvar`` of a band, or ``maskbits`` (no band)."""
    uri = storage.join(folder, coadds.coadd_path(str(bricks_by_id([brick]).name[0]), kind, band))
    header = brick_header(bricks_by_id([brick]), band, kind)
    if kind == "maskbits":
        how = {"compression_type": "HCOMPRESS_1", "hcomp_scale": 0}
        content = _compressed(brick_maskbits(renderer, brick), header, how)
    else:
        how = {"compression_type": "RICE_1", "quantize_level": 16, "quantize_method": -1}  # NO_DITHER
        content = _compressed(brick_invvar(renderer, brick, band), header, how)
    storage.write_bytes(uri, content)
    return uri


def brick_image(renderer: Renderer, brick: int, band: str) -> npt.NDArray[np.float32]:
    """The whole image, drawn in strips to keep memory small."""
    strips = [
        renderer.render_window(brick, y, 0, _STRIP, BRICK_PIXELS, band)[0] for y in range(0, BRICK_PIXELS, _STRIP)
    ]
    return np.concatenate(strips)


def brick_invvar(renderer: Renderer, brick: int, band: str) -> npt.NDArray[np.float32]:
    """Inverse variance of the pixels, 1 / nanomaggies^2: that of the noise drawn, 0 where there are no data.

    One value over the brick, as the renderer leaves out the photon noise of sources; real ones vary with the exposures.
    """
    config = renderer.survey.config
    seen, column = observe(config.seed, config.sky, np.array([brick])), BANDS.index(band)
    image = np.zeros((BRICK_PIXELS, BRICK_PIXELS), np.float32)
    if seen.nobs[0, column] > 0:
        image += np.float32(pixel_sigma(seen.psfsize[0, column], seen.psfdepth[0, column]) ** -2)
    for hole in holes(config.seed, config.sky, brick):
        if hole.band == band:
            image[hole.y0 : hole.y1, hole.x0 : hole.x1] = 0
    return image


def brick_maskbits(renderer: Renderer, brick: int) -> npt.NDArray[np.int32]:
    """MASKBITS of the pixels (legacysurvey.org/dr10/bitmasks).

    Where a catalogue row of the brick carries a bit, its pixel does: both come from `mask_circles`. Pixels that a band
    leaves empty carry its ALLMASK bit, which the catalogue does not know of; NPRIMARY is not set.
    """
    config, centre = renderer.survey.config, bricks_by_id([brick])
    image = np.zeros((BRICK_PIXELS, BRICK_PIXELS), np.int32)
    for circle in mask_circles(config.seed, config.galaxies.mask_circles_per_brick, brick):
        x, y = (float(v) for v in brick_pixels(circle.ra, circle.dec, float(centre.ra[0]), float(centre.dec[0])))
        radius = circle.radius_arcsec / PIXEL_SCALE
        rows = np.arange(max(0, int(y - radius)), min(BRICK_PIXELS, int(y + radius) + 2))
        columns = np.arange(max(0, int(x - radius)), min(BRICK_PIXELS, int(x + radius) + 2))
        inside = np.hypot(columns[None, :] - x, rows[:, None] - y) < radius
        image[np.ix_(rows, columns)] |= inside.astype(np.int32) << circle.bit
    seen = observe(config.seed, config.sky, np.array([brick]))
    for column, band in enumerate(BANDS):
        if seen.nobs[0, column] == 0:
            image |= 1 << ALLMASK[band]
    for hole in holes(config.seed, config.sky, brick):
        image[hole.y0 : hole.y1, hole.x0 : hole.x1] |= 1 << ALLMASK[hole.band]
    return image


def brick_fits(brick: int, band: str, image: npt.NDArray[np.float32]) -> bytes:
    """The compressed FITS file of an image: empty primary, image in HDU 1."""
    how = {"compression_type": "RICE_1", "quantize_level": -QUANTUM, "quantize_method": 2}  # SUBTRACTIVE_DITHER_2
    return _compressed(image, brick_header(bricks_by_id([brick]), band), how | {"dither_seed": 1 + brick % 10000})


def _compressed(image: npt.NDArray[Any], header: fits.Header, how: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    compressed = fits.CompImageHDU(image, header, tile_shape=(TILE, TILE), **how)
    fits.HDUList([fits.PrimaryHDU(), compressed]).writeto(buffer)
    return buffer.getvalue()


def brick_header(brick: Bricks, band: str, kind: Kind = "image") -> fits.Header:
    """The words of a coadd's header that a reader needs."""
    scale, middle = PIXEL_SCALE / 3600, (BRICK_PIXELS + 1) / 2
    header = fits.Header()
    for key, value, comment in (
        ("SURVEY", "DECaLS", "simulated"),
        ("DRVERSIO", 10000, "Survey data release number"),
        ("BRICKNAM", str(brick.name[0]), "LegacySurvey brick RRRr[pm]DDd"),
        ("BRICKID", int(brick.brickid[0]), "LegacySurvey brick id"),
        ("RAMIN", float(brick.ra1[0]), "Brick RA min"),
        ("RAMAX", float(brick.ra2[0]), "Brick RA max"),
        ("DECMIN", float(brick.dec1[0]), "Brick Dec min"),
        ("DECMAX", float(brick.dec2[0]), "Brick Dec max"),
        ("BRICKRA", float(brick.ra[0]), "Brick center"),
        ("BRICKDEC", float(brick.dec[0]), "Brick center"),
        ("BAND", band, "Filter"),
        ("CTYPE1", "RA---TAN", "TANgent plane"),
        ("CTYPE2", "DEC--TAN", "TANgent plane"),
        ("CRVAL1", float(brick.ra[0]), "Reference RA"),
        ("CRVAL2", float(brick.dec[0]), "Reference Dec"),
        ("CRPIX1", middle, "Reference x"),
        ("CRPIX2", middle, "Reference y"),
        ("CD1_1", -scale, "CD matrix"),
        ("CD1_2", 0.0, "CD matrix"),
        ("CD2_1", 0.0, "CD matrix"),
        ("CD2_2", scale, "CD matrix"),
        ("EQUINOX", 2000.0, ""),
        ("IMTYPE", kind, "LegacySurvey image type"),
        ("MAGZERO", 22.5, "Magnitude zeropoint"),
        ("BUNIT", UNITS[kind], "AB mag = 22.5 - 2.5*log10(nanomaggy)"),
    ):
        header[key] = (value, comment)
    return header
