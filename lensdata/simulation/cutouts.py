"""The cutout service without HTTP: what it makes of a query, and the FITS file it answers with.

Behaves as github.com/legacysurvey/imagine (map/cutouts.py, map/views.py) does, its traps included: the default layer
is ls-dr9; a layer it does not know is answered with text and status 200; one unavailable band letter makes it return
all bands; sizes above 3000 are cut without a word; no data are exact zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lensdata.simulation.rendering import Renderer
from lensdata.simulation.sky import (
    BRICK_PIXELS,
    PIXEL_SCALE,
    brick_pixels,
    bricks_at,
    bricks_by_id,
    plane_to_sky,
)

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

MAX_SIZE, DEFAULT_SIZE = 3000, 256
LANCZOS = 3
_FITS_BLOCK = 2880


@dataclass(frozen=True)
class Layer:
    """A layer of the service: its bands, header words, and which sky it shows."""

    bands: str
    survey: str
    version: str
    noise: str
    arcs: bool = True


LAYERS = {
    "ls-dr9": Layer("grz", "LegacySurvey", "DR9", "dr9"),
    "ls-dr10": Layer("griz", "LegacySurvey", "DR10", "dr10"),
    "ls-dr10-south": Layer("griz", "LegacySurvey", "DR10", "dr10"),
    "ls-dr10-noarcs": Layer("griz", "LegacySurvey", "DR10", "dr10", arcs=False),
}
"""``ls-dr10-noarcs`` exists in the simulation only: the same sky and noise without the lensed arcs."""
DEFAULT_LAYER = "ls-dr9"


@dataclass(frozen=True)
class CutoutRequest:
    """A query after the service's rules: degrees, arcsec per pixel, pixels."""

    ra: float
    dec: float
    layer: str
    bands: str
    pixscale: float
    width: int
    height: int


class MissingPosition(ValueError):
    """ra or dec is missing or no number: status 400."""


class UnknownLayer(ValueError):
    """The layer does not exist: status 200, text ``no such layer``."""


class OffFootprint(ValueError):
    """No brick at the position: status 500."""


def parse_query(query: Mapping[str, str]) -> CutoutRequest:
    """Apply the service's rules to a query.

    Raises
    ------
    MissingPosition, UnknownLayer
        As the service answers.
    ValueError
        A size that is no integer (the service fails with 500).

    >>> parse_query({"ra": "10", "dec": "-5", "layer": "ls-dr10", "bands": "gqz", "size": "4000"})
    CutoutRequest(ra=10.0, dec=-5.0, layer='ls-dr10', bands='griz', pixscale=0.262, width=3000, height=3000)
    """
    try:
        ra, dec = float(query["ra"]), float(query["dec"])
    except (KeyError, ValueError) as error:
        raise MissingPosition("need ra and dec") from error
    name = query.get("layer", DEFAULT_LAYER)
    if name not in LAYERS:
        raise UnknownLayer(name)
    available = LAYERS[name].bands
    bands = query.get("bands", available)
    if not bands or any(band not in available for band in bands):
        bands = available
    size = int(query.get("size", DEFAULT_SIZE))
    width, height = (min(int(query.get(key, size)), MAX_SIZE) for key in ("width", "height"))
    if width < 1 or height < 1 or not (-90 <= dec <= 90 and np.isfinite(ra)):
        raise ValueError("size or position out of range")
    return CutoutRequest(ra % 360, dec, name, bands, float(query.get("pixscale", PIXEL_SCALE)), width, height)


def cutout_fits(renderer: Renderer, request: CutoutRequest) -> bytes:
    """The FITS file of a cutout.

    Raises
    ------
    OffFootprint
        The position lies outside the simulated box.
    """
    if not renderer.survey.covers(request.ra, request.dec):
        raise OffFootprint(f"no overlap at {request.ra}, {request.dec}")
    image = cutout_pixels(renderer, request)
    data = image if len(request.bands) > 1 else image[0]
    body = np.ascontiguousarray(data, dtype=">f4").tobytes()
    return _header(request, data.shape) + body + bytes(-len(body) % _FITS_BLOCK)


def cutout_pixels(renderer: Renderer, request: CutoutRequest) -> Float32Array:
    """Brick pixels resampled with Lanczos-3 to the tangent plane asked for; shape (bands, height, width).

    The brick that holds the position gives every pixel it covers, its neighbours the rest. (The service averages
    bricks where they overlap; the simulation does not, because its bricks do not share exposures.)
    """
    out = np.zeros((len(request.bands), request.height, request.width))
    done = np.zeros((request.height, request.width), bool)
    for brick in _bricks_of(request):
        x, y = _brick_coordinates(request, brick)
        covered = (x > -0.5) & (x < BRICK_PIXELS - 0.5) & (y > -0.5) & (y < BRICK_PIXELS - 0.5) & ~done
        if covered.any():
            out = np.where(covered, _resample(renderer, request, brick, x, y), out)
            done |= covered
        if done.all():
            break
    return out.astype(np.float32)


def _plane(request: CutoutRequest) -> tuple[FloatArray, FloatArray]:
    """Standard coordinates (degrees) of the pixel centres: columns (1, width), rows (height, 1)."""
    xi = -(np.arange(request.width) - (request.width - 1) / 2) * request.pixscale / 3600
    eta = (np.arange(request.height) - (request.height - 1) / 2) * request.pixscale / 3600
    return xi[None, :], eta[:, None]


def _bricks_of(request: CutoutRequest) -> list[int]:
    """The brick at the centre, then the others that a grid of positions over the cutout meets."""
    xi, eta = _plane(request)
    step_x, step_y = max(1, request.width // 12), max(1, request.height // 12)
    columns = np.append(xi[0, ::step_x], xi[0, -1])
    rows = np.append(eta[::step_y, 0], eta[-1, 0])
    ra, dec = plane_to_sky(np.tile(columns, len(rows)), np.repeat(rows, len(columns)), request.ra, request.dec)
    first = int(bricks_at(request.ra, request.dec).brickid[0])
    return [first, *(int(b) for b in np.unique(bricks_at(ra, dec).brickid) if b != first)]


def _brick_coordinates(request: CutoutRequest, brick: int) -> tuple[FloatArray, FloatArray]:
    """Brick pixel coordinates of every output pixel."""
    xi, eta = np.broadcast_arrays(*_plane(request))
    centre = bricks_by_id([brick])
    return brick_pixels(*plane_to_sky(xi, eta, request.ra, request.dec), float(centre.ra[0]), float(centre.dec[0]))


def _resample(renderer: Renderer, request: CutoutRequest, brick: int, x: FloatArray, y: FloatArray) -> FloatArray:
    """Lanczos-3 interpolation in two passes, along the rows and then along the columns.

    The grids of a cutout and its brick are turned against each other by less than a tenth of a degree, so a column
    of the output follows a column of the input closely and the passes may be separated: within the six rows of the
    kernel the shift is below 0.01 pixel.
    """
    y_low = max(int(np.floor(y.min())) - LANCZOS, -LANCZOS)
    y_high = min(int(np.ceil(y.max())) + LANCZOS, BRICK_PIXELS + LANCZOS)
    x_low = max(int(np.floor(x.min())) - LANCZOS, -LANCZOS)
    x_high = min(int(np.ceil(x.max())) + LANCZOS, BRICK_PIXELS + LANCZOS)
    layer = LAYERS[request.layer]
    window = renderer.render_window(
        brick, y_low, x_low, y_high - y_low + 1, x_high - x_low + 1, request.bands, arcs=layer.arcs, layer=layer.noise
    ).astype(np.float64)
    # First pass: the input row that each output row crosses nearest says where its columns lie.
    rows = np.arange(y_low, y_high + 1)
    follow = np.clip(np.searchsorted(y.mean(axis=1), rows), 0, request.height - 1)
    along = _interpolate(window, x[follow] - x_low)
    return np.swapaxes(_interpolate(np.swapaxes(along, 1, 2), (y - y_low).T), 1, 2)


def _interpolate(image: FloatArray, position: FloatArray) -> FloatArray:
    """Lanczos-3 along the last axis.

    ``image`` is (bands, n, m); ``position`` (n, k) gives the places along m; the result is (bands, n, k). Places
    outside count as zero.
    """
    below = np.floor(position)
    weights = lanczos_weights(position - below)
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1)))
    # A row of the padded image starts at this offset of its flattened plane.
    start = (np.arange(position.shape[0]) * padded.shape[2])[:, None]
    first = below.astype(np.int64) - LANCZOS + 2
    plane = padded.reshape(len(image), -1)
    out = np.zeros((len(image), *position.shape))
    for tap in range(2 * LANCZOS):
        out += weights[tap] * plane[:, start + np.clip(first + tap, 0, padded.shape[2] - 1)]
    return out


def lanczos_weights(fraction: FloatArray) -> FloatArray:
    """Lanczos-3 weights of the six pixels around a place, for its fractional part; they add up to 1.

    The sine of pi (f + k) is that of pi f up to its sign, so two sines and a cosine serve all six pixels.

    Returns
    -------
    ndarray
        Shape (6, ...): for the pixels -2 to +3 around the floor of the place.
    """
    sine, third_sine, third_cosine = (
        np.sin(np.pi * fraction),
        np.sin(np.pi * fraction / 3),
        np.cos(np.pi * fraction / 3),
    )
    weights = np.empty((2 * LANCZOS, *fraction.shape))
    for tap in range(2 * LANCZOS):
        k = LANCZOS - 1 - tap
        distance = fraction + k
        third = third_sine * np.cos(np.pi * k / 3) + third_cosine * np.sin(np.pi * k / 3)
        with np.errstate(invalid="ignore", divide="ignore"):
            weights[tap] = (-1) ** k * sine * third / distance**2
        weights[tap][np.abs(distance) < 1e-9] = np.pi**2 / 3  # the limit of the line above
    return np.asarray(weights / weights.sum(axis=0))


def _header(request: CutoutRequest, shape: tuple[int, ...]) -> bytes:
    """The primary header, one block: the words and order of the service's answers."""
    layer = LAYERS[request.layer]
    scale = request.pixscale / 3600
    cards: list[tuple[str, object]] = [("SIMPLE", True), ("BITPIX", -32), ("NAXIS", len(shape))]
    cards += [(f"NAXIS{k + 1}", length) for k, length in enumerate(reversed(shape))]
    cards += [("SURVEY", layer.survey), ("VERSION", layer.version), ("IMAGETYP", "image"), ("BANDS", request.bands)]
    cards += [(f"BAND{k}", band) for k, band in enumerate(request.bands)]
    cards += [("CTYPE1", "RA---TAN"), ("CTYPE2", "DEC--TAN"), ("CRVAL1", request.ra), ("CRVAL2", request.dec)]
    cards += [("CRPIX1", (request.width + 1) / 2), ("CRPIX2", (request.height + 1) / 2)]
    cards += [("CD1_1", -scale), ("CD1_2", 0.0), ("CD2_1", 0.0), ("CD2_2", scale)]
    cards += [("IMAGEW", float(request.width)), ("IMAGEH", float(request.height))]
    text = "".join(_card(key, value) for key, value in cards) + "END".ljust(80)
    return text.ljust(_FITS_BLOCK).encode("ascii")


@lru_cache(maxsize=4096)
def _card(key: str, value: object) -> str:
    """One 80-character header card (FITS standard 4.0, section 4.2)."""
    if isinstance(value, bool):
        shown = ("T" if value else "F").rjust(20)
    elif isinstance(value, str):
        shown = f"'{value:<8}'".ljust(20)
    elif isinstance(value, int):
        shown = str(value).rjust(20)
    else:
        shown = f"{value:.15G}".rjust(20)
        shown = shown if any(mark in shown for mark in ".E") else f"{value:.1f}".rjust(20)
    return f"{key:<8}= {shown}".ljust(80)
