"""Quantities derived from Tractor columns, and the strata (R-S1, R-S5)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

STRATUM_TYPES = ("SER", "DEV", "REX")
NOBS_BINS = ("1-2", "3-5", "6-10", "11+")
NOBS_EDGES = (1, 3, 6, 11)
STRATA = tuple(f"{kind}/{nobs}" for kind in STRATUM_TYPES for nobs in NOBS_BINS[1:])
PSF_EDGES_ARCSEC = (1.0, 1.2, 1.4, 1.6)
DEPTH_EDGES_MAG = (23.0, 23.5, 24.0, 24.5)
Floats = npt.NDArray[np.float64]


def magnitude(flux: npt.ArrayLike) -> Floats:
    """AB magnitude of a flux in nanomaggies, 22.5 - 2.5 log10; nan where the flux is not positive.

    >>> float(magnitude(10.0))
    20.0
    """
    values = np.asarray(flux, dtype=np.float64)
    positive = values > 0
    return np.where(positive, 22.5 - 2.5 * np.log10(np.where(positive, values, 1.0)), np.nan)


def axis_ratio(e1: npt.ArrayLike, e2: npt.ArrayLike) -> Floats:
    """b/a from Tractor's ellipticity components: |e| = (1 - b/a) / (1 + b/a).

    >>> round(float(axis_ratio(1 / 3, 0.0)), 12)
    0.5
    """
    size = np.minimum(np.hypot(np.asarray(e1, np.float64), np.asarray(e2, np.float64)), 1.0)
    return np.asarray((1.0 - size) / (1.0 + size))


def depth_magnitude(psfdepth: npt.ArrayLike) -> Floats:
    """5-sigma point-source depth in AB magnitudes from PSFDEPTH (inverse variance, 1/nanomaggy^2); nan where zero."""
    values = np.asarray(psfdepth, dtype=np.float64)
    positive = values > 0
    return np.where(positive, magnitude(5.0 / np.sqrt(np.where(positive, values, 1.0))), np.nan)


def bin_index(values: npt.ArrayLike, edges: tuple[float, ...]) -> npt.NDArray[np.int8]:
    """Bin of each value: 0 below the first edge, len(edges) from the last on; -1 for nan."""
    numbers = np.asarray(values, dtype=np.float64)
    return np.where(np.isnan(numbers), -1, np.searchsorted(edges, numbers, side="right")).astype(np.int8)


def nobs_bin(nobs: npt.ArrayLike) -> npt.NDArray[Any]:
    """Bin of the number of exposures: none, 1-2, 3-5, 6-10, 11+; None where the number is nan.

    >>> nobs_bin([0, 4, np.nan]).tolist()
    ['none', '3-5', None]
    """
    numbers = np.asarray(nobs)
    bins = np.array(("none", *NOBS_BINS))[np.searchsorted(NOBS_EDGES, numbers, side="right")]
    unknown = np.isnan(numbers)
    if not unknown.any():
        return bins
    known = bins.astype(object)
    known[unknown] = None
    return known


def type_bin(kind: npt.NDArray[np.str_]) -> npt.NDArray[np.str_]:
    """SER, DEV, REX, or other."""
    return np.where(np.isin(kind, STRATUM_TYPES), kind, "other")


def stratum(types: npt.NDArray[np.str_], nobs_bins: npt.NDArray[Any]) -> npt.NDArray[np.object_]:
    """``type/nobs_z bin``; None outside the strata, the empty 1-2 bin included."""
    names = np.char.add(np.char.add(types.astype(str), "/"), nobs_bins.astype(str)).astype(object)
    names[~np.isin(names.astype(str), STRATA)] = None
    return names
