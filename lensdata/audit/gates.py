"""Can something simpler than a network tell the classes apart? Linear gates on the pixels it sees (R-E4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn's own dependency

Floats = npt.NDArray[np.floating]
CORE_RADIUS = 5.0  # pixels
FOLDS = 5
PENALTY = 0.01  # inverse strength: hundreds of pixels against two thousand stamps need a strong one


def core_pixels(stamps: Floats, radius: float = CORE_RADIUS) -> Floats:
    """Pixels with r < radius about the centre pixel n // 2 of prepared stamps (n, H, W, C), as features (n, k)."""
    return np.asarray(stamps[:, _radii(stamps) < radius].reshape(len(stamps), -1), np.float64)


def radial_profile(stamps: Floats) -> Floats:
    """Mean of each one-pixel ring and plane of prepared stamps (n, H, W, C), as features (n, rings * C)."""
    ring = np.floor(_radii(stamps) + 0.5).astype(np.int64).ravel()
    counts = np.bincount(ring)
    flat = stamps.reshape(len(stamps), ring.size, -1).astype(np.float64)
    sums = np.zeros((len(stamps), len(counts), flat.shape[2]))
    for number in range(len(counts)):
        sums[:, number] = flat[:, ring == number].sum(axis=1)
    return np.asarray((sums / counts[:, None]).reshape(len(stamps), -1))


def pair_differences(stamps: Floats, pairs: Sequence[tuple[int, int]]) -> Floats:
    """Of each pair of planes of prepared stamps (n, H, W, C): variances, and the mean of their difference (n, 3 * pairs)."""
    features = []
    for one, two in pairs:
        stamp, control = (stamps[..., plane].reshape(len(stamps), -1).astype(np.float64) for plane in (one, two))
        features += [stamp.var(axis=1), control.var(axis=1), (stamp - control).mean(axis=1)]
    return np.stack(features, axis=1)


def linear_auc(
    features: Floats, labels: npt.NDArray[np.integer], groups: npt.NDArray[np.integer] | None, seed: int
) -> float:
    """AUC of a logistic regression, each stamp judged by a fit to the other folds; NaN where a class is too small.

    Parameters
    ----------
    groups
        Of the stamps, e.g. HEALPix pixels; members of one group stay in one fold. None lets all fall freely.
    """
    smallest = int(np.bincount(labels, minlength=2).min())
    if smallest < FOLDS:
        return float("nan")
    model = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=1000))
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    folds = kind(FOLDS, shuffle=True, random_state=seed)
    with threadpool_limits(1):
        scores = cross_val_predict(model, features, labels, groups=groups, cv=folds, method="decision_function")
    return float(roc_auc_score(labels, scores))


def balanced_sample(labels: npt.NDArray[np.integer], size: int, seed: int) -> npt.NDArray[np.int64]:
    """Sorted indices of up to ``size`` stamps, as many of either class as there are, up to half each."""
    random = np.random.default_rng(seed)
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[: size // 2] for label in (0, 1)
    ]  # at most half of each, so that a rare class is not lost among the other
    return np.sort(np.concatenate(chosen))


def _radii(stamps: Floats) -> Floats:
    height, width = stamps.shape[1:3]
    rows, columns = np.arange(height) - height // 2, np.arange(width) - width // 2
    return np.asarray(np.hypot(rows[:, None], columns[None, :]))
