"""Where things are: the survey's bricks, the tangent projection and the pixel grid of a brick."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

BANDS = ("g", "r", "i", "z")
PIXEL_SCALE = 0.262
"""Pixel size of a brick coadd, arcsec (legacysurvey.org/dr10/files)."""
BRICK_PIXELS = 3600
"""Side of a brick coadd; CRPIX is its middle, 1800.5."""
BRICK_SIZE_DEG = 0.25
BRICK_MARGIN_DEG = (BRICK_PIXELS * PIXEL_SCALE / 3600 - BRICK_SIZE_DEG) / 2
"""Width of the strip of a brick image outside the brick's unique area (21.6 arcsec)."""


@dataclass(frozen=True)
class Bricks:
    """Bricks of the survey, one array per property; the arrays have one length.

    ``brickid`` counts from 1; ``ra1 <= ra < ra2`` and ``dec1 <= dec < dec2`` bound the unique area, in degrees.
    """

    brickid: IntArray
    ra: FloatArray
    dec: FloatArray
    ra1: FloatArray
    ra2: FloatArray
    dec1: FloatArray
    dec2: FloatArray

    def __len__(self) -> int:
        return len(self.brickid)

    @property
    def name(self) -> npt.NDArray[np.str_]:
        """Names RRRR[pm]DDD of the centres; tenths of a degree, cut off."""
        return np.array([brick_name(ra, dec) for ra, dec in zip(self.ra, self.dec, strict=True)], dtype="U8")


def brick_name(ra: float, dec: float) -> str:
    """Name of the brick with that centre.

    >>> brick_name(179.68, 30.0)
    '1796p300'
    """
    return f"{int(ra * 10):04d}{'p' if dec >= 0 else 'm'}{int(abs(dec) * 10):03d}"


@lru_cache(maxsize=1)
def _rows() -> tuple[IntArray, IntArray]:
    """Bricks per declination row, and the number of bricks before each row.

    Rows are 0.25 deg high with centres from -90 to +90; a row holds the smallest even number of bricks that are
    not wider than 0.25 deg at its southern (northern) wider edge. Source: the public layout of the Legacy Surveys
    bricks (legacysurvey.org/dr10/files, ``survey-bricks``): 662,174 in all.
    """
    num_rows = round(180 / BRICK_SIZE_DEG) + 1
    centre = -90 + BRICK_SIZE_DEG * np.arange(num_rows)
    wide = np.maximum(np.abs(centre) - BRICK_SIZE_DEG / 2, 0)
    per_row = 2 * np.ceil(360 / BRICK_SIZE_DEG * np.cos(np.radians(wide)) / 2).astype(np.int64)
    per_row[[0, -1]] = 1
    return per_row, np.concatenate([[0], np.cumsum(per_row)])


def bricks_at(ra: npt.ArrayLike, dec: npt.ArrayLike) -> Bricks:
    """The brick whose unique area holds each position (degrees; arrays of one length)."""
    ra_, dec_ = np.atleast_1d(np.asarray(ra, float)) % 360, np.atleast_1d(np.asarray(dec, float))
    row = np.clip(np.floor((dec_ + 90) / BRICK_SIZE_DEG + 0.5).astype(np.int64), 0, len(_rows()[0]) - 1)
    per_row, before = _rows()
    column = np.minimum((ra_ / 360 * per_row[row]).astype(np.int64), per_row[row] - 1)
    return _bricks(row, column, before[row] + column + 1)


def bricks_by_id(brickid: npt.ArrayLike) -> Bricks:
    """The bricks of these numbers."""
    numbers = np.atleast_1d(np.asarray(brickid, np.int64))
    before = _rows()[1]
    row = np.searchsorted(before, numbers - 1, side="right") - 1
    return _bricks(row, numbers - 1 - before[row], numbers)


def bricks_in_box(ra_min: float, ra_max: float, dec_min: float, dec_max: float) -> Bricks:
    """All bricks whose centre lies in the box (degrees, upper edges excluded)."""
    per_row, before = _rows()
    found = []
    for row in range(len(per_row)):
        centre = -90 + BRICK_SIZE_DEG * row
        if dec_min <= centre < dec_max:
            width = 360 / per_row[row]
            first, last = int(np.ceil(ra_min / width - 0.5)), int(np.ceil(ra_max / width - 0.5))
            found.append(before[row] + np.arange(first, last) + 1)
    return bricks_by_id(np.concatenate(found) if found else np.empty(0, np.int64))


def _bricks(row: IntArray, column: IntArray, brickid: IntArray) -> Bricks:
    width: FloatArray = np.asarray(360 / _rows()[0][row], np.float64)
    dec: FloatArray = np.asarray(-90 + BRICK_SIZE_DEG * row, np.float64)
    half = BRICK_SIZE_DEG / 2
    return Bricks(brickid, (column + 0.5) * width, dec, column * width, (column + 1) * width, dec - half, dec + half)


def sky_to_plane(ra: npt.ArrayLike, dec: npt.ArrayLike, ra0: float, dec0: float) -> tuple[FloatArray, FloatArray]:
    """Tangent (gnomonic) projection at (ra0, dec0): standard coordinates (xi east, eta north) in degrees.

    Source: Calabretta & Greisen 2002, A&A 395, 1077, section 5.1.3.
    """
    a, d = np.radians(np.asarray(ra, float) - ra0), np.radians(np.asarray(dec, float))
    d0 = np.radians(dec0)
    below = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(a)
    xi = np.cos(d) * np.sin(a) / below
    eta = (np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(a)) / below
    return np.degrees(xi), np.degrees(eta)


def plane_to_sky(xi: npt.ArrayLike, eta: npt.ArrayLike, ra0: float, dec0: float) -> tuple[FloatArray, FloatArray]:
    """Inverse of `sky_to_plane`; degrees in, (ra, dec) in degrees out."""
    x, y = np.radians(np.asarray(xi, float)), np.radians(np.asarray(eta, float))
    d0 = np.radians(dec0)
    below = np.cos(d0) - y * np.sin(d0)
    ra = (ra0 + np.degrees(np.arctan2(x, below))) % 360
    dec = np.degrees(np.arctan2(np.sin(d0) + y * np.cos(d0), np.hypot(x, below)))
    return ra, dec


def brick_pixels(ra: npt.ArrayLike, dec: npt.ArrayLike, ra0: float, dec0: float) -> tuple[FloatArray, FloatArray]:
    """Pixel coordinates (x, y), counted from 0, in the image of the brick centred at (ra0, dec0)."""
    xi, eta = sky_to_plane(ra, dec, ra0, dec0)
    centre = (BRICK_PIXELS - 1) / 2
    return centre - xi * 3600 / PIXEL_SCALE, centre + eta * 3600 / PIXEL_SCALE
