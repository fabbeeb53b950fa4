"""Figures of a validation pass, in numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under the ROC curve, ties counted half (Mann-Whitney); NaN where a class is missing.

    Examples
    --------
    >>> auc([0, 1, 1], [0.1, 0.1, 0.7])
    0.75
    """
    positive = np.asarray(labels).astype(bool)
    _, inverse, counts = np.unique(np.asarray(scores, np.float64), return_inverse=True, return_counts=True)
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        return float("nan")
    last_rank = np.cumsum(counts)
    mean_rank = last_rank - (counts - 1) / 2
    rank_sum = mean_rank[inverse][positive].sum()
    return float((rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def cross_entropy(labels: npt.ArrayLike, logits: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Mean binary cross-entropy of logits, in float64 and without overflow; NaN without weight."""
    y, z = np.asarray(labels, np.float64), np.asarray(logits, np.float64)
    losses = np.logaddexp(0.0, z) - y * z
    share = np.ones_like(losses) if weights is None else np.asarray(weights, np.float64)
    return float((losses * share).sum() / share.sum()) if share.sum() else float("nan")


def class_accuracy(labels: npt.ArrayLike, logits: npt.ArrayLike) -> tuple[float, float]:
    """Fraction right at p = 0.5 among negatives and among positives."""
    y, predicted = np.asarray(labels).astype(bool), np.asarray(logits) > 0
    return float(np.mean(~predicted[~y])), float(np.mean(predicted[y]))
