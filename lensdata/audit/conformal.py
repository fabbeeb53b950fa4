"""Selection with a bound on its share of false discoveries: conformal p-values and Benjamini-Hochberg.

The p-value of a stamp is the share of calibration negatives that score as high; where the survey's non-lenses are exchangeable
with them, selecting by Benjamini-Hochberg over *all* that was scored keeps the expected share of non-lenses below the rate
asked for (Bates et al. 2023, Ann. Statist. 51, 149; Benjamini & Hochberg 1995). Within a group of like conditions
exchangeability is less of a wish.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def p_values(scores: npt.ArrayLike, calibration: npt.ArrayLike) -> Floats:
    """(1 + calibration negatives that score as high) / (n + 1); the smallest is 1 / (n + 1).

    >>> p_values([5.0, 2.0, 2.5], [1.0, 2.0, 3.0]).tolist()
    [0.25, 0.75, 0.5]
    """
    known = np.sort(np.asarray(calibration, np.float64))
    below = np.searchsorted(known, np.asarray(scores, np.float64), side="left")
    return np.asarray((1 + len(known) - below) / (len(known) + 1), np.float64)


def q_values(p: npt.ArrayLike, num_tests: int) -> Floats:
    """Smallest false-discovery rate at which each is selected (Benjamini-Hochberg).

    Parameters
    ----------
    p
        The smallest p-values of all tests, in any order.
    num_tests
        All tests, those with larger p-values included. What is left out can only make true values smaller: what is selected
        by these is selected by all.
    """
    values = np.asarray(p, np.float64)
    if num_tests < len(values):
        raise ValueError(f"{len(values)} p-values of {num_tests} tests")
    order = np.argsort(values, kind="stable")
    scaled = values[order] * num_tests / np.arange(1, len(values) + 1)
    q = np.empty(len(values))
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q
