"""Nearest neighbours on the sphere by unit vectors: exact at RA 0/360 and at the poles (R-S2, R-S3)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
ARCSEC = np.pi / 180.0 / 3600.0


def unit_vectors(ra_deg: npt.ArrayLike, dec_deg: npt.ArrayLike) -> Floats:
    """Unit vectors, shape (n, 3)."""
    ra, dec = np.radians(np.asarray(ra_deg, float)), np.radians(np.asarray(dec_deg, float))
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def chord(angle_arcsec: float) -> float:
    """Straight distance on the unit sphere of two points ``angle_arcsec`` apart."""
    return float(2.0 * np.sin(angle_arcsec * ARCSEC / 2.0))


def chord_to_arcsec(distance: npt.ArrayLike) -> Floats:
    """Angle of a chord, arcsec."""
    return np.asarray(2.0 * np.arcsin(np.clip(np.asarray(distance) / 2.0, 0.0, 1.0)) / ARCSEC)


class SkyIndex:
    """A list of positions that can be asked for the nearest one.

    Parameters
    ----------
    ra_deg, dec_deg
        Degrees, shape (n,).
    """

    def __init__(self, ra_deg: npt.ArrayLike, dec_deg: npt.ArrayLike) -> None:
        self.size = int(np.size(ra_deg))
        self._tree = cKDTree(unit_vectors(ra_deg, dec_deg)) if self.size else None

    def nearest(self, ra_deg: npt.ArrayLike, dec_deg: npt.ArrayLike, radius_arcsec: float) -> tuple[Ints, Floats]:
        """Index of the nearest member within the radius (-1 for none) and its distance (arcsec; nan for none)."""
        count = int(np.size(ra_deg))
        if self._tree is None or count == 0:
            return np.full(count, -1), np.full(count, np.nan)
        # the bound is exclusive: one ulp more makes the radius inclusive
        bound = np.nextafter(chord(radius_arcsec), np.inf)
        distance, index = self._tree.query(unit_vectors(ra_deg, dec_deg), k=1, distance_upper_bound=bound)
        found = np.isfinite(distance)
        separation = np.where(found, chord_to_arcsec(np.where(found, distance, 0.0)), np.nan)
        return np.where(found, index, -1).astype(np.int64), separation

    def pairs(self, radius_arcsec: float) -> Ints:
        """All pairs of members within the radius, shape (n, 2), first index below the second."""
        if self._tree is None:
            return np.zeros((0, 2), np.int64)
        return np.asarray(self._tree.query_pairs(chord(radius_arcsec), output_type="ndarray"), dtype=np.int64).reshape(
            -1, 2
        )
