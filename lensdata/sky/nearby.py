"""Which of many rows lie near one of a few positions, without asking about every row (R-S2).

Rows of a sweep come in the order of the survey's bricks, so a block of them covers a small box of the sky. Positions outside
the box, widened by the radius, cannot be near any of its rows; most blocks have no position left and are done.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lensdata.sky.crossmatch import SkyIndex

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
SLACK = 1.0 + 1e-9


@dataclass(frozen=True)
class Box:
    """A box that holds all rows of a block; degrees. Rows on both sides of RA 0 make it as wide as the sky."""

    ra_min: float
    ra_max: float
    dec_min: float
    dec_max: float

    @classmethod
    def around(cls, ra: Floats, dec: Floats) -> Box:
        """The box of at least one position; nan where a position is nan."""
        return cls(float(ra.min()), float(ra.max()), float(dec.min()), float(dec.max()))

    @property
    def on_sky(self) -> bool:
        """Whether every position of the block is one: finite, right ascension 0-360, declination -90 to 90."""
        return self.ra_min >= 0 and self.ra_max <= 360 and self.dec_min >= -90 and self.dec_max <= 90

    def may_touch(self, ra: Floats, radius: float) -> npt.NDArray[np.bool_]:
        """Of positions within ``radius`` (degrees) of the box's declinations, those whose right ascension is near enough.

        Never false for one that is near a row.
        """
        highest = max(abs(self.dec_min), abs(self.dec_max)) + radius
        if highest >= 90:  # a circle around the pole crosses every right ascension
            return np.ones(len(ra), bool)
        # widest difference in RA of two points this close: sin(d_ra) = sin(radius) / cos(dec)
        sine = np.sin(np.radians(radius)) / np.cos(np.radians(highest))
        margin = 180.0 if sine >= 1 else np.degrees(np.arcsin(sine)) * SLACK
        offset = np.mod(ra - (self.ra_min - margin), 360.0)
        return np.asarray(offset <= self.ra_max - self.ra_min + 2 * margin)


class Neighbourhood:
    """Positions that blocks of rows are compared with.

    Parameters
    ----------
    ra_deg, dec_deg
        Degrees, shape (n,); n may be 0.
    radius_arcsec
        Rows within it, its edge included, are near.
    """

    def __init__(self, ra_deg: npt.ArrayLike, dec_deg: npt.ArrayLike, radius_arcsec: float) -> None:
        self._ra, self._dec = np.asarray(ra_deg, float), np.asarray(dec_deg, float)
        self._radius = radius_arcsec
        order = np.argsort(self._dec)
        self._sorted_ra, self._sorted_dec = self._ra[order], self._dec[order]
        self._index: SkyIndex | None = None

    def near(self, ra: Floats, dec: Floats, box: Box) -> tuple[Ints, Ints, Floats]:
        """Rows near a position, the nearest position of each, and the separation.

        Parameters
        ----------
        ra, dec
            Of the rows, degrees, shape (rows,).
        box
            That holds them all.

        Returns
        -------
        tuple
            (row numbers, ascending; index of the nearest position; arcsec), each of shape (near rows,)
        """
        reach = self._radius / 3600.0 * SLACK
        band = slice(*np.searchsorted(self._sorted_dec, [box.dec_min - reach, box.dec_max + reach]))
        centres = self._sorted_dec[band]
        centres = centres[box.may_touch(self._sorted_ra[band], reach)]
        if centres.size == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        rows = _in_bands(dec, centres, reach)
        if self._index is None:
            self._index = SkyIndex(self._ra, self._dec)
        nearest, separation = self._index.nearest(ra[rows], dec[rows], self._radius)
        found = nearest >= 0
        return rows[found], nearest[found], separation[found]


def _in_bands(dec: Floats, centres: Floats, half_width: float) -> Ints:
    """Rows whose declination is within half a width of one of the sorted centres."""
    first = np.searchsorted(centres, dec - half_width)
    inside = first < len(centres)
    inside &= centres[np.minimum(first, len(centres) - 1)] <= dec + half_width
    return np.flatnonzero(inside)
