"""Exact stratified bootstrap of ranking metrics, and binomial intervals (R-E1).

Every ranking metric depends on the negatives only through how many of them fall in each gap between consecutive distinct
positive scores, and on each of these scores. A bootstrap resample of the negatives is then exactly one multinomial draw
over at most 2K + 1 cells (K distinct positive scores), so that 10,000 resamples of 135,000 scores take seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
CHUNK_VALUES = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A value with the limits of its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class GapCounts:
    """Scores reduced to counts, from the highest score down.

    Attributes
    ----------
    positives
        Positives at each distinct positive score, descending; shape (K,).
    negatives
        Negatives per cell, shape (2K + 1,): cell 2k + 1 holds those equal to score k, cell 2k those above it and below the
        one before, the last cell those below all.
    scores
        The distinct positive scores, descending; shape (K,).
    """

    positives: Ints
    negatives: Ints
    scores: Floats

    @property
    def n_positive(self) -> int:
        """Number of positives."""
        return int(self.positives.sum())

    @property
    def n_negative(self) -> int:
        """Number of negatives."""
        return int(self.negatives.sum())


def compress(label: npt.ArrayLike, score: npt.ArrayLike) -> GapCounts:
    """Reduce labels (1 positive) and scores to gap counts.

    Raises
    ------
    ValueError
        A class is absent, or a score is not finite.
    """
    labels, scores = np.asarray(label).astype(bool), np.asarray(score, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    if labels.all() or not labels.any():
        raise ValueError("both classes are needed")
    ascending, counts = np.unique(scores[labels], return_counts=True)
    below = np.searchsorted(ascending, scores[~labels], side="left")
    equal = ascending[np.minimum(below, len(ascending) - 1)] == scores[~labels]
    # `below` counts the positive scores under a negative: from the top that is cell 2 (K - below), one less on a tie
    cell = 2 * (len(ascending) - below) - equal
    return GapCounts(
        counts[::-1].astype(np.int64), np.bincount(cell, minlength=2 * len(ascending) + 1), ascending[::-1].copy()
    )


def auc(positives: npt.ArrayLike, negatives: npt.ArrayLike) -> Floats:
    """Area under the ROC curve of gap counts; leading axes are resamples."""
    p, m = np.asarray(positives, np.float64), np.asarray(negatives, np.float64)
    above = np.cumsum(m, axis=-1)
    total = above[..., -1:]
    at, at_or_above = m[..., 1::2], above[..., 1::2]
    return np.asarray(((total - at_or_above + 0.5 * at) * p).sum(-1) / (total[..., 0] * p.sum(-1)))


def average_precision(positives: npt.ArrayLike, negatives: npt.ArrayLike) -> Floats:
    """Average precision (sum of precision times the step in recall), as scikit-learn defines it."""
    p, m = np.asarray(positives, np.float64), np.asarray(negatives, np.float64)
    true, false = np.cumsum(p, axis=-1), np.cumsum(m, axis=-1)[..., 1::2]
    return np.asarray((p * true / np.maximum(true + false, 1.0)).sum(-1) / p.sum(-1))


def tpr_at_fpr(positives: npt.ArrayLike, negatives: npt.ArrayLike, level: float) -> Floats:
    """Largest completeness over the thresholds whose false-positive rate is at most ``level``."""
    p, m = np.asarray(positives, np.float64), np.asarray(negatives, np.float64)
    false, total = np.cumsum(m, axis=-1)[..., 1::2], m.sum(-1, keepdims=True)
    allowed = false <= np.floor(level * total * (1 + 1e-12))
    reached = np.where(allowed, np.cumsum(p, axis=-1), 0.0).max(axis=-1)
    return np.asarray(reached / p.sum(-1))


def threshold_at_fpr(counts: GapCounts, level: float) -> float:
    """Lowest positive score whose false-positive rate is at most ``level``; infinite where there is none."""
    false = np.cumsum(counts.negatives)[1::2]
    allowed = np.flatnonzero(false <= np.floor(level * counts.n_negative * (1 + 1e-12)))
    return float(counts.scores[allowed[-1]]) if allowed.size else float("inf")


def bootstrap(counts: GapCounts, fpr_levels: tuple[float, ...], resamples: int, seed: int) -> dict[str, Interval]:
    """AUC, average precision and completeness at fixed false-positive rates with 95% percentile intervals.

    Positives and negatives are resampled separately (stratified), all metrics on the same resamples. The interval of a
    completeness is the wider of the bootstrap's and the Jeffreys interval at a fixed threshold.
    """
    rng = np.random.default_rng(seed)
    full = np.flatnonzero(counts.negatives)
    share_n = counts.negatives[full] / counts.n_negative
    share_p = counts.positives / counts.n_positive
    metrics = {"auc": auc, "average_precision": average_precision}
    drawn: dict[str, list[Floats]] = {
        name: [] for name in [*metrics, *(f"tpr_at_fpr_{level:g}" for level in fpr_levels)]
    }
    chunk = max(1, CHUNK_VALUES // len(counts.negatives))
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        p = rng.multinomial(counts.n_positive, share_p, size)
        m = np.zeros((size, len(counts.negatives)), np.int64)
        m[:, full] = rng.multinomial(counts.n_negative, share_n, size)
        for name, metric in metrics.items():
            drawn[name].append(metric(p, m))
        for level in fpr_levels:
            drawn[f"tpr_at_fpr_{level:g}"].append(tpr_at_fpr(p, m, level))
    values = {name: float(metric(counts.positives, counts.negatives)) for name, metric in metrics.items()}
    values |= {
        f"tpr_at_fpr_{level:g}": float(tpr_at_fpr(counts.positives, counts.negatives, level)) for level in fpr_levels
    }
    found = {name: Interval(values[name], *_percentiles(np.concatenate(parts))) for name, parts in drawn.items()}
    for name, interval in found.items():
        if name.startswith("tpr"):  # resampling none (or all) of the positives found cannot tell how uncertain that is
            exact = binomial(round(interval.value * counts.n_positive), counts.n_positive)
            found[name] = Interval(interval.value, min(interval.low, exact.low), max(interval.high, exact.high))
    return found


def _percentiles(values: Floats) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def binomial(successes: int, trials: int) -> Interval:
    """A fraction with its 95% Jeffreys interval; (nan, 0, 1) without trials.

    >>> round(binomial(0, 10).high, 3)
    0.217
    """
    if trials == 0:
        return Interval(float("nan"), 0.0, 1.0)
    posterior = stats.beta(successes + 0.5, trials - successes + 0.5)
    low = 0.0 if successes == 0 else float(posterior.ppf(0.025))
    high = 1.0 if successes == trials else float(posterior.ppf(0.975))
    return Interval(successes / trials, low, high)
