"""Ranking metrics from counts: the exact compression that makes a bootstrap of them cheap (R-E1).

Every ranking metric depends on the negatives only through how many of them fall in each gap between consecutive distinct
positive scores, and on each of these scores. Whoever resamples objects then only redraws these counts, and one set of
functions serves the sample and 10,000 resamples at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer]
ROUNDING = 1 + 1e-12  # 1e-3 of 2,000 negatives are two, whatever the product says in binary


@dataclass(frozen=True)
class GapCounts:
    """Scores reduced to counts, from the highest score down.

    Attributes
    ----------
    positives
        Positives at each distinct positive score, descending; shape (K,).
    negatives
        Negatives of each cell that has any; shape (J,).
    cells
        Which cells these are, ascending; shape (J,). Cell 2k + 1 holds the negatives equal to score k, cell 2k those above
        it and below the score before, cell 2K those below all.
    scores
        The distinct positive scores, descending; shape (K,).
    """

    positives: Ints
    negatives: Ints
    cells: Ints
    scores: Floats

    @property
    def n_positive(self) -> int:
        """Number of positives."""
        return int(self.positives.sum())

    @property
    def n_negative(self) -> int:
        """Number of negatives."""
        return int(self.negatives.sum())

    def roc(self) -> Roc:
        """The curve of the sample itself."""
        return roc(self.positives, self.negatives, self.cells)


@dataclass(frozen=True)
class Roc:
    """ROC curves as cumulated counts from the top; leading axes are resamples.

    Attributes
    ----------
    true
        Positives among the first i distinct positive scores; shape (..., K + 1).
    false
        Negatives in the first j non-empty cells; shape (..., J + 1).
    cells
        Which cells these are; shape (J,).
    """

    true: Ints
    false: Ints
    cells: Ints

    @property
    def n_positive(self) -> Ints:
        """Positives of each resample."""
        return np.asarray(self.true[..., -1])

    @property
    def n_negative(self) -> Ints:
        """Negatives of each resample."""
        return np.asarray(self.false[..., -1])

    def false_through(self, cell: Ints) -> Ints:
        """Negatives in all cells up to and including each of ``cell``."""
        return np.asarray(self.false[..., np.searchsorted(self.cells, cell, side="right")])


def compress(label: npt.ArrayLike, score: npt.ArrayLike) -> GapCounts:
    """Reduce labels (1 positive) and scores to gap counts.

    Raises
    ------
    ValueError
        A class is absent, or a score is not finite.
    """
    labels, scores = checked(label, score)
    ascending, counts = np.unique(scores[labels], return_counts=True)
    cells, negatives = np.unique(cell_of(ascending, scores[~labels]), return_counts=True)
    return GapCounts(counts[::-1].astype(np.int64), negatives, cells, ascending[::-1].copy())


def checked(label: npt.ArrayLike, score: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Labels as booleans and scores as float64; ValueError where they allow no ROC curve."""
    labels, scores = np.asarray(label).astype(bool), np.asarray(score, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    if labels.all() or not labels.any():
        raise ValueError("both classes are needed")
    return labels, scores


def cell_of(positive_scores: Floats, scores: Floats) -> npt.NDArray[np.int64]:
    """The cell of each negative, given the distinct positive scores in ascending order."""
    below = np.searchsorted(positive_scores, scores, side="left")
    equal = positive_scores[np.minimum(below, len(positive_scores) - 1)] == scores
    # `below` counts the positive scores under a negative: from the top that is cell 2 (K - below), one less on a tie
    return np.asarray(2 * (len(positive_scores) - below) - equal)


def roc(positives: Ints, negatives: Ints, cells: Ints) -> Roc:
    """Cumulate counts of positives (..., K) and of negatives (..., J) in ``cells`` (J,)."""
    return Roc(_cumulated(positives), _cumulated(negatives), np.asarray(cells))


def _cumulated(counts: Ints) -> Ints:
    out = np.zeros((*counts.shape[:-1], counts.shape[-1] + 1), np.int32)  # half the memory; samples stay below 2^31
    np.cumsum(counts, axis=-1, out=out[..., 1:])
    return out


def auc(curve: Roc) -> Floats:
    """Area under the ROC curve."""
    above, tied = curve.true[..., curve.cells // 2], curve.cells % 2 == 1
    doubled = above + np.where(tied, curve.true[..., (curve.cells + 1) // 2], above)  # before and after the cell
    counts = np.diff(curve.false, axis=-1).astype(np.float64)
    area = np.einsum("...j,...j->...", counts, doubled.astype(np.float64))
    return np.asarray(area / (2.0 * curve.n_positive * curve.n_negative))


def auc_error(curve: Roc) -> Floats:
    """Standard error of the AUC (DeLong, DeLong & Clarke-Pearson 1988), of every resample at once.

    From the same components as in `delong`, which finds them by mid-ranks.
    """
    of_positives, of_negatives = missed(curve)
    variance = variance_of_mean(np.diff(curve.true, axis=-1), of_positives)
    return np.asarray(np.sqrt(variance + variance_of_mean(np.diff(curve.false, axis=-1), of_negatives)))


def missed(curve: Roc) -> tuple[Floats, Floats]:
    """Share of negatives above each distinct positive score, and of positives below each cell of negatives, ties half.

    The mean of either over the objects is 1 - AUC; shapes (..., K) and (..., J).
    """
    order = 2 * np.arange(curve.true.shape[-1] - 1)
    above = 0.5 * (curve.false_through(order) + curve.false_through(order + 1))
    found = 0.5 * (curve.true[..., curve.cells // 2] + curve.true[..., (curve.cells + 1) // 2])
    return above / curve.n_negative[..., None], 1 - found / curve.n_positive[..., None]


def variance_of_mean(counts: Ints, values: Floats) -> Floats:
    """Variance of the mean of values that ``counts`` objects have each; over the last axis."""
    weights = counts.astype(np.float64)
    size = weights.sum(-1)
    mean = np.einsum("...k,...k->...", weights, values) / size
    squares = np.einsum("...k,...k,...k->...", weights, values, values) / size
    variance = np.maximum(squares - mean**2, 0.0) / np.maximum(size - 1, 1)
    return np.asarray(np.where(variance < 1e-15 / size, 0.0, variance))  # what rounding leaves of equal values


def behind_half_of_loss(counts: GapCounts) -> int:
    """How few of the lowest positives cause half of what the AUC lacks to 1: what it, and its interval, rest on.

    >>> behind_half_of_loss(compress([1, 1, 1, 0, 0], [0.9, 0.8, 0.1, 0.5, 0.2]))
    1
    """
    curve, order = counts.roc(), 2 * np.arange(len(counts.scores))
    missed = np.repeat(curve.false_through(order) + curve.false_through(order + 1), counts.positives)[::-1]
    return int(np.searchsorted(np.cumsum(missed), 0.5 * missed.sum())) + 1 if missed.any() else 0


def partial_auc(curve: Roc, max_fpr: float) -> Floats:
    """Area up to a false-positive rate, standardised so that chance is 0.5 and perfection 1 (McClish 1989).

    The same number as ``sklearn.metrics.roc_auc_score(max_fpr=)``.
    """
    above = curve.true[..., curve.cells // 2]
    tied = np.where(curve.cells % 2 == 1, curve.true[..., (curve.cells + 1) // 2] - above, 0)
    limit = max_fpr * curve.n_negative
    counts = np.diff(curve.false, axis=-1)
    inside = np.clip(limit[..., None] - curve.false[..., :-1], 0, counts)
    # along a cell of tied scores the curve climbs evenly: its mean height over the part inside
    area = (inside * (above + 0.5 * tied * inside / np.maximum(counts, 1))).sum(-1)
    area = area / (curve.n_positive * curve.n_negative)
    chance = 0.5 * max_fpr**2
    return np.asarray(0.5 * (1 + (area - chance) / (max_fpr - chance)))


def tpr_at_fpr(curve: Roc, level: float) -> Floats:
    """Largest completeness over the thresholds whose false-positive rate is at most ``level``."""
    return tpr_at_count(curve, np.floor(level * curve.n_negative * ROUNDING))


def tpr_at_count(curve: Roc, allowed: npt.ArrayLike) -> Floats:
    """Largest completeness over the thresholds with at most so many false positives (scalar or per resample)."""
    reached = (curve.false[..., 1:] <= np.asarray(allowed)[..., None]).sum(-1)  # cells that may be passed
    stop = np.append(curve.cells // 2, curve.true.shape[-1] - 1)[reached]
    found = np.take_along_axis(curve.true, stop[..., None], axis=-1)[..., 0]
    return np.asarray(found / curve.n_positive)


def allowed(level: float, n_negative: int) -> int:
    """False positives that a false-positive rate allows among so many negatives; with 0 it cannot be measured.

    >>> allowed(1e-2, 394), allowed(1e-3, 394), allowed(1e-4, 10_000)
    (3, 0, 1)
    """
    return int(np.floor(level * n_negative * ROUNDING))


def threshold_at_fpr(counts: GapCounts, level: float) -> float:
    """Lowest positive score whose false-positive rate is at most ``level``; infinite where there is none."""
    return threshold_at_count(counts, int(np.floor(level * counts.n_negative * ROUNDING)))


def threshold_at_count(counts: GapCounts, allowed: int) -> float:
    """Lowest positive score with at most so many negatives at or above it; infinite where there is none."""
    false = counts.roc().false_through(2 * np.arange(len(counts.scores)) + 1)
    below = np.flatnonzero(false <= allowed)
    return float(counts.scores[below[-1]]) if below.size else float("inf")


def precision(curve: Roc) -> Floats:
    """Precision of the threshold at each distinct positive score; shape (..., K). Zero where nothing is found."""
    true = curve.true[..., 1:]
    false = curve.false_through(2 * np.arange(true.shape[-1]) + 1)
    return np.asarray(true / np.maximum(true + false, 1))


def average_precision(curve: Roc) -> Floats:
    """Average precision (sum of precision times the step in recall), as scikit-learn defines it."""
    found = np.einsum("...k,...k->...", np.diff(curve.true, axis=-1).astype(np.float64), precision(curve))
    return np.asarray(found / curve.n_positive)


def precision_at_recall(curve: Roc, recall: float) -> Floats:
    """Highest precision over the thresholds that find at least this share of the positives."""
    enough = curve.true[..., 1:] >= np.ceil(recall * curve.n_positive / ROUNDING)[..., None]
    return np.asarray(np.where(enough, precision(curve), 0.0).max(-1))


def recall_at_precision(curve: Roc, wanted: float) -> Floats:
    """Largest completeness over the thresholds with at least this precision; zero where there is none."""
    pure = precision(curve) * ROUNDING >= wanted
    return np.asarray(np.where(pure, curve.true[..., 1:], 0).max(-1) / curve.n_positive)


def precision_in_top(curve: Roc, size: int) -> Floats:
    """Share of positives among the ``size`` highest scores; of scores tied at the end, as many as their share."""
    order = np.arange(curve.true.shape[-1] - 1)
    true = np.diff(curve.true, axis=-1)
    before = curve.true[..., :-1] + curve.false_through(2 * order)
    tied = curve.true[..., 1:] + curve.false_through(2 * order + 1) - before
    return np.asarray((true * np.clip((size - before) / np.maximum(tied, 1), 0, 1)).sum(-1) / size)
