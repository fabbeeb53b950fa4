"""Whether a score of 0.8 means that 8 of 10 are lenses (R-E2).

With one lens among a hundred objects a small calibration error says little: the constant score "share of lenses" has none.
Skill against that constant, the decomposition of the Brier score and the reliability of the highest scores say the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, xlogy
from scipy.stats import rankdata
from sklearn.isotonic import isotonic_regression
from sklearn.metrics import brier_score_loss

from lensdata.audit.intervals import Interval, binomial

Floats = npt.NDArray[np.float64]
TAIL_FRACTIONS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)  # of all judged objects, by descending score


@dataclass(frozen=True)
class Bin:
    """One bin of the reliability diagram: mean score, observed fraction with its interval, members."""

    mean_score: float
    observed: Interval
    members: int

    @property
    def error(self) -> float:
        """Distance of mean score and observed fraction."""
        return abs(self.mean_score - self.observed.value)


@dataclass(frozen=True)
class Corp:
    """The Brier score as miscalibration less discrimination plus uncertainty: ``mcb - dsc + unc``.

    Attributes
    ----------
    mcb
        What the best monotone recalibration, fitted to these very objects, would gain.
    dsc
        What these recalibrated scores gain over the constant share of lenses.
    unc
        Brier score of that constant.
    """

    mcb: float
    dsc: float
    unc: float


def reliability(label: npt.ArrayLike, score: npt.ArrayLike, bins: int = 15) -> list[Bin]:
    """Bins of equal width over [0, 1]; empty ones are left out."""
    scores = np.asarray(score, np.float64)
    return _binned(label, scores, np.minimum((scores * bins).astype(np.int64), bins - 1))


def equal_mass(label: npt.ArrayLike, score: npt.ArrayLike, bins: int = 15) -> list[Bin]:
    """Bins of as nearly equal numbers of objects as tied scores, which stay together, allow."""
    scores = np.asarray(score, np.float64)
    share = (rankdata(scores) - 0.5) / len(scores)  # tied scores share their mean rank
    return _binned(label, scores, (share * bins).astype(np.int64))


def _binned(label: npt.ArrayLike, scores: Floats, index: npt.NDArray[np.int64]) -> list[Bin]:
    members = np.bincount(index)
    hits = np.bincount(index, np.asarray(label, np.float64))
    sums = np.bincount(index, scores)
    return [
        Bin(float(total / count), binomial(round(found), int(count)), int(count))
        for count, found, total in zip(members, hits, sums, strict=True)
        if count
    ]


def expected_calibration_error(bins: list[Bin]) -> float:
    """Mean distance of score and observed fraction, weighted by members."""
    members = sum(entry.members for entry in bins)
    return float(sum(entry.members * entry.error for entry in bins) / members)


def maximum_calibration_error(bins: list[Bin], smallest: int) -> float | None:
    """Largest distance over bins of at least ``smallest`` members; else it is that of the noisiest. None without any."""
    return max((entry.error for entry in bins if entry.members >= smallest), default=None)


def debiased_squared_error(bins: list[Bin]) -> float:
    """Mean squared calibration error less what the noise of the observed fractions adds; negative where that is more.

    The plug-in estimate with the unbiased variance of every observed fraction subtracted: Kumar, Liang & Ma 2019,
    "Verified Uncertainty Calibration", section 5. A bin of one member has no variance and is left out.
    """
    used = [entry for entry in bins if entry.members > 1]
    members = sum(entry.members for entry in used)
    if not members:
        return float("nan")
    terms = (b.members * (b.error**2 - b.observed.value * (1 - b.observed.value) / (b.members - 1)) for b in used)
    return float(sum(terms) / members)


def log_loss(label: npt.ArrayLike, logit: npt.ArrayLike) -> float:
    """Mean negative log-likelihood, from logits: a sure miss costs its logit, where a probability of 1 would cost infinity.

    >>> round(log_loss([1, 0], [40.0, 40.0]), 6)
    20.0
    """
    sign = 1 - 2 * np.asarray(label, np.float64)
    return float(np.logaddexp(0.0, sign * np.asarray(logit, np.float64)).mean())


def log_loss_of_probabilities(label: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """The same from probabilities; infinite where one of 0 or 1 is a miss."""
    y, p = np.asarray(label, np.float64), np.asarray(score, np.float64)
    return float(-(xlogy(y, p) + xlogy(1 - y, 1 - p)).mean())


def skill(loss: float, constant_loss: float) -> float:
    """Share of the loss of the best constant score that is gained: 1 perfect, 0 no better, negative worse."""
    return 1 - loss / constant_loss


def brier_skill(label: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """Brier skill score against the constant share of lenses (``sklearn.metrics.d2_brier_score``, from 1.8 on)."""
    share = float(np.mean(np.asarray(label)))
    return skill(float(brier_score_loss(label, score)), share * (1 - share))


def log_loss_skill(label: npt.ArrayLike, loss: float) -> float:
    """Skill of a log-loss against the constant share of lenses."""
    share = float(np.mean(np.asarray(label)))
    return skill(loss, log_loss(label, np.log(share) - np.log1p(-share)))


def corp(label: npt.ArrayLike, score: npt.ArrayLike, rank_by: npt.ArrayLike | None = None) -> Corp:
    """Decompose the Brier score by isotonic recalibration (Dimitriadis, Gneiting & Jordan 2021, PNAS 118, e2016191118).

    Parameters
    ----------
    rank_by
        What orders the objects: logits, where probabilities are tied at 1 that the finder tells apart.
    """
    y, p = np.asarray(label, np.float64), np.asarray(score, np.float64)
    rank = rankdata(p if rank_by is None else np.asarray(rank_by, np.float64), method="dense") - 1
    members = np.bincount(rank)
    fitted = isotonic_regression(np.bincount(rank, y) / members, sample_weight=members)[rank]
    share = y.mean()
    best, constant = float(((fitted - y) ** 2).mean()), float(share * (1 - share))
    return Corp(float(((p - y) ** 2).mean()) - best, constant - best, constant)


def tail(
    label: npt.ArrayLike, logit: npt.ArrayLike, fractions: tuple[float, ...] = TAIL_FRACTIONS
) -> list[tuple[float, Bin | None]]:
    """Reliability of the objects of highest score, by share of all objects; those tied with the last are included.

    Returns
    -------
    list
        (fraction, bin), the bin None where the fraction is less than one object.
    """
    labels, logits = np.asarray(label, np.int64), np.asarray(logit, np.float64)
    order = np.argsort(-logits, kind="stable")
    found: list[tuple[float, Bin | None]] = []
    for fraction in fractions:
        size = round(fraction * len(logits))
        if size == 0:
            found.append((fraction, None))
            continue
        inside = logits >= logits[order[size - 1]]
        observed = binomial(int(labels[inside].sum()), int(inside.sum()))
        found.append((fraction, Bin(float(expit(logits[inside]).mean()), observed, int(inside.sum()))))
    return found
