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
        """Index of the nearest member within the radius (-1 for none) and its distance (arcsec; nan for none).

        Of members at the same distance it is the first, so that the answer does not depend on how the tree was built.
        """
        count = int(np.size(ra_deg))
        if self._tree is None or count == 0:
            return np.full(count, -1), np.full(count, np.nan)
        vectors = unit_vectors(ra_deg, dec_deg)
        # the bound is exclusive: one ulp more makes the radius inclusive
        bound = np.nextafter(chord(radius_arcsec), np.inf)
        distances, indices = self._tree.query(vectors, k=2, distance_upper_bound=bound)
        distance, index = distances[:, 0], indices[:, 0].astype(np.int64)
        found = np.isfinite(distance)
        tied = np.flatnonzero(found & (distances[:, 1] == distance))
        if tied.size:
            index[tied] = self._first_of_nearest(vectors[tied], distance[tied])
        separation = np.where(found, chord_to_arcsec(np.where(found, distance, 0.0)), np.nan)
        return np.where(found, index, -1), separation

    def _first_of_nearest(self, vectors: Floats, distance: Floats) -> Ints:
        """First member at exactly the distance of the nearest one; asks for more neighbours until one is further."""
        assert self._tree is not None
        out = np.full(len(vectors), -1, np.int64)
        waiting, k = np.arange(len(vectors)), 4
        while waiting.size:
            distances, indices = self._tree.query(vectors[waiting], k=k)
            same = distances == distance[waiting][:, None]
            done = ~same[:, -1] | (k >= self.size)
            out[waiting[done]] = np.where(same, indices, self.size)[done].min(axis=1)
            waiting, k = waiting[~done], 4 * k
        return out

    def pairs(self, radius_arcsec: float) -> Ints:
        """All pairs of members within the radius, shape (n, 2), first index below the second."""
        if self._tree is None:
            return np.zeros((0, 2), np.int64)
        return np.asarray(self._tree.query_pairs(chord(radius_arcsec), output_type="ndarray"), dtype=np.int64).reshape(
            -1, 2
        )
