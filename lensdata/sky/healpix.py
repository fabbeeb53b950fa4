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


# Two pixels that do not touch are further apart than this x 2^-order: 40.0 in every order from 1 to 6, less a tenth.
GAP_DEG = 36.0
ROWS_PER_CELL = 100_000


def widest_order(radius_arcsec: float) -> int:
    """The highest order whose pixels reach, with those that touch them, everything within the radius of any point in them.

    >>> widest_order(5.0)
    14
    """
    return int(np.clip(np.floor(np.log2(GAP_DEG * 3600.0 / radius_arcsec)), 0, 29))


def cell_order(rows: int, radius_arcsec: float) -> int:
    """Order at which a cell of a survey holds about 10^5 rows, no higher than the margins of that radius allow.

    >>> cell_order(27_000_000, 11.0)
    3
    """
    wanted = np.ceil(np.log(max(rows / ROWS_PER_CELL / 12, 1.0)) / np.log(4))
    return int(min(wanted, widest_order(radius_arcsec)))


def cells_with_margin(
    ra_deg: npt.ArrayLike, dec_deg: npt.ArrayLike, order: int, radius_arcsec: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The cell of each position, and every further cell that has a point within the radius of it.

    A position is placed in a pixel so small that the disc around it just fits into that pixel and those that touch it; the
    cells of these are the answer. It names a few cells more than the disc meets, and none fewer, at the poles as elsewhere.

    Parameters
    ----------
    ra_deg, dec_deg
        Degrees, shape (n,).
    order
        Order of the cells, at most `widest_order` of the radius.

    Returns
    -------
    tuple
        (index of the position, NESTED cell of ``order``); the first n are the positions in their own cells.
    """
    fine = widest_order(radius_arcsec)
    if order > fine:
        raise ValueError(f"cells of order {order} are too small for margins of {radius_arcsec} arcsec; at most {fine}")
    depth = 2 * (fine - order)
    pixel = ang2pix(ra_deg, dec_deg, 1 << fine)
    cell = pixel >> depth
    # x and y in the cell are the even and odd bits: a pixel on its border has all of one of them 0 or 1
    bits = np.int64((1 << depth) - 1)
    border = np.zeros(pixel.shape, bool)
    for axis in (np.int64(0x5555555555555555) & bits, np.int64(0x2AAAAAAAAAAAAAAA) & bits):
        border |= ((pixel & axis) == 0) | ((pixel & axis) == axis)
    rows = np.flatnonzero(border)
    touching = np.asarray(healpy.get_all_neighbours(1 << fine, pixel[rows], nest=True), np.int64).reshape(8, -1)
    behind = touching >> depth
    place, row = np.nonzero((touching >= 0) & (behind != cell[rows]))
    copies = np.unique(np.stack([rows[row], behind[place, row]]), axis=1)
    return np.concatenate([np.arange(pixel.size), copies[0]]), np.concatenate([cell, copies[1]])
