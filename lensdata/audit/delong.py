"""Variance of the AUC without resampling, and the paired test of two AUCs (DeLong, DeLong & Clarke-Pearson 1988; R-E1).

By mid-ranks in O(n log n), after Sun & Xu 2014, "Fast implementation of DeLong's algorithm", IEEE Signal Processing
Letters 21, 1389.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import expit, logit

from lensdata.audit.intervals import Interval, with_floor
from lensdata.audit.paired import Difference
from lensdata.audit.roc import checked

Floats = npt.NDArray[np.float64]
Z_95 = 1.959963984540054


@dataclass(frozen=True)
class DeLong:
    """AUCs of one or more finders on the same objects.

    Attributes
    ----------
    auc
        Shape (finders,).
    covariance
        Of these; shape (finders, finders).
    n_positive, n_negative
        Objects of either class.
    """

    auc: Floats
    covariance: Floats
    n_positive: int
    n_negative: int

    def interval(self, finder: int = 0) -> Interval:
        """95% interval of a finder's AUC, normal and cut at 0 and 1; see `intervals.with_floor` for an AUC of 0 or 1."""
        value, error = self._value_and_error(finder)
        found = Interval(value, max(0.0, value - Z_95 * error), min(1.0, value + Z_95 * error))
        return with_floor("auc", found, self.n_positive, self.n_negative)

    def logit_interval(self, finder: int = 0) -> Interval:
        """The same, normal in the logit of the AUC: it stays inside (0, 1) and is better near 1 (Pepe 2003, 5.2.4)."""
        value, error = self._value_and_error(finder)
        if value in (0.0, 1.0):
            return self.interval(finder)
        reach = Z_95 * error / (value * (1 - value))
        return Interval(value, float(expit(logit(value) - reach)), float(expit(logit(value) + reach)))

    def difference(self, one: int = 0, two: int = 1) -> Difference:
        """AUC of one finder less that of another: normal 95% interval and two-sided p-value."""
        value = float(self.auc[one] - self.auc[two])
        c = self.covariance
        error = float(np.sqrt(max(0.0, c[one, one] + c[two, two] - 2 * c[one, two])))
        p = 2 * float(stats.norm.sf(abs(value) / error)) if error > 0 else float(value == 0)
        return Difference(value, value - Z_95 * error, value + Z_95 * error, p)

    def _value_and_error(self, finder: int) -> tuple[float, float]:
        return float(self.auc[finder]), float(np.sqrt(self.covariance[finder, finder]))


def delong(label: npt.ArrayLike, *scores: npt.ArrayLike) -> DeLong:
    """AUCs of finders that scored the same objects, with their covariance.

    Parameters
    ----------
    label, scores
        Labels (1 positive) and each finder's scores; shape (n,).

    Raises
    ------
    ValueError
        A class has fewer than two members, or a score is not finite.
    """
    v10, v01 = (np.array(parts) for parts in zip(*(components(label, score) for score in scores), strict=True))
    n_positive, n_negative = v10.shape[1], v01.shape[1]
    covariance = np.cov(v10, ddof=1) / n_positive + np.cov(v01, ddof=1) / n_negative
    return DeLong(v10.mean(axis=1), np.atleast_2d(covariance), n_positive, n_negative)


def components(label: npt.ArrayLike, score: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Of every positive the share of negatives below it, of every negative that of positives above it, ties half.

    The mean of either is the AUC, and the variances of these means add up to its own.

    Parameters
    ----------
    label, score
        Labels (1 positive) and scores; shape (n,).

    Returns
    -------
    tuple
        Of the positives and of the negatives, in the order given; shapes (n_positive,) and (n_negative,).

    Raises
    ------
    ValueError
        A class has fewer than two members, or a score is not finite.

    >>> [part.tolist() for part in components([1, 1, 0, 0], [3, 1, 1, 0])]
    [[1.0, 0.75], [0.75, 1.0]]
    """
    labels, values = checked(label, score)
    ours, others = values[labels], values[~labels]
    if min(len(ours), len(others)) < 2:
        raise ValueError("two members of either class are needed")
    ranks = stats.rankdata(np.concatenate([ours, others]))
    # rank among all less rank among its own: how many of the other class lie below, ties half
    of_positives = (ranks[: len(ours)] - stats.rankdata(ours)) / len(others)
    return of_positives, 1 - (ranks[len(ours) :] - stats.rankdata(others)) / len(ours)
