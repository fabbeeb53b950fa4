"""Brick coadds of the simulated sky as files: names, layout and compression of the real ones.

Source: legacysurvey.org/dr10/files and legacypipe ``survey.get_compression_kwargs``: Rice in tiles of 100 x 100,
quantised in steps of 1e-4 nanomaggies, subtractive dithering that keeps exact zeros.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from lensdata import storage
from lensdata.simulation.rendering import Renderer
from lensdata.simulation.sky import BRICK_PIXELS, PIXEL_SCALE, Bricks, bricks_by_id
from lensdata.simulation.world import COADD_FOLDER

TILE = 100
QUANTUM = 1e-4
"""Step of the quantised pixel values, nanomaggies."""
_STRIP = 600


def coadd_path(brickname: str, band: str) -> str:
    """Path of a brick image below the data release's folder.

    >>> coadd_path("0959p805", "r")
    'coadd/095/0959p805/legacysurvey-0959p805-image-r.fits.fz'
    """
    return f"{COADD_FOLDER}/{brickname[:3]}/{brickname}/legacysurvey-{brickname}-image-{band}.fits.fz"


def write_brick(renderer: Renderer, brick: int, band: str, folder: str) -> str:
    """Write one band of one brick under ``folder``; returns its URI."""
    uri = storage.join(folder, coadd_path(str(bricks_by_id([brick]).name[0]), band))
    storage.write_bytes(uri, brick_fits(brick, band, brick_image(renderer, brick, band)))
    return uri


def brick_image(renderer: Renderer, brick: int, band: str) -> npt.NDArray[np.float32]:
    """The whole image, drawn in strips to keep memory small."""
    strips = [
        renderer.render_window(brick, y, 0, _STRIP, BRICK_PIXELS, band)[0] for y in range(0, BRICK_PIXELS, _STRIP)
    ]
    return np.concatenate(strips)


def brick_fits(brick: int, band: str, image: npt.NDArray[np.float32]) -> bytes:
    """The compressed FITS file of an image: empty primary, image in HDU 1."""
    compressed = fits.CompImageHDU(
        image,
        brick_header(bricks_by_id([brick]), band),
        compression_type="RICE_1",
        tile_shape=(TILE, TILE),
        quantize_level=-QUANTUM,
        quantize_method=2,  # SUBTRACTIVE_DITHER_2
        dither_seed=1 + brick % 10000,
    )
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), compressed]).writeto(buffer)
    return buffer.getvalue()


def brick_header(brick: Bricks, band: str) -> fits.Header:
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
        ("IMTYPE", "image", "LegacySurvey image type"),
        ("MAGZERO", 22.5, "Magnitude zeropoint"),
        ("BUNIT", "nanomaggy", "AB mag = 22.5 - 2.5*log10(nanomaggy)"),
    ):
        header[key] = (value, comment)
    return header
