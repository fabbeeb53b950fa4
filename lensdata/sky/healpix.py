"""HEALPix pixels; the one module that imports healpy."""

from __future__ import annotations

import healpy
import numpy as np
import numpy.typing as npt

NSIDE = 128
NUM_PIXELS = 12 * NSIDE**2


def ang2pix(ra_deg: npt.ArrayLike, dec_deg: npt.ArrayLike, nside: int = NSIDE) -> npt.NDArray[np.int64]:
    """NESTED pixel of each position.

    Parameters
    ----------
    ra_deg, dec_deg
        Degrees; right ascension may lie outside 0-360.

    >>> int(ang2pix(45.0, 0.0))
    92842
    """
    pixels = healpy.ang2pix(nside, np.asarray(ra_deg, float), np.asarray(dec_deg, float), nest=True, lonlat=True)
    return np.asarray(pixels, dtype=np.int64)


def pix2ang(pixel: npt.ArrayLike, nside: int = NSIDE) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Centre (ra, dec) of NESTED pixels, degrees."""
    ra, dec = healpy.pix2ang(nside, np.asarray(pixel), nest=True, lonlat=True)
    return np.asarray(ra), np.asarray(dec)
