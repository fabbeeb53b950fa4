"""Can the label be told from observing conditions alone? (R-S8, in the spirit of R-E4)

A network sees depth and seeing in the pixels. Where they differ between positives and negatives it can learn them in
place of arcs, and no score on the same sample will show it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import logit
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn's own dependency

from lensdata.audit import intervals, roc
from lensdata.audit.baseline import classifier
from lensdata.hashing import second_key

Floats = npt.NDArray[np.float64]
GROUPS = {  # permuted together: each of a kind tells most of what the others tell
    "PSF size": ("psfsize_g", "psfsize_r", "psfsize_z"),
    "depth": ("psfdepth_g", "psfdepth_r", "psfdepth_z", "galdepth_g", "galdepth_r", "galdepth_z"),
    "exposures": ("nobs_g", "nobs_r", "nobs_z"),
    "declination": ("dec",),
    "reddening": ("ebv",),
}
FEATURES = tuple(name for names in GROUPS.values() for name in names)
MIN_OBJECTS = 20  # of each class


def drawn(sample: pd.DataFrame, rows_max: int, seed: int) -> pd.DataFrame:
    """All positives, and the negatives of smallest sampling key up to ``rows_max`` rows (as many as positives at least)."""
    positives, negatives = sample[sample["label"] == 1], sample[sample["label"] == 0]
    room = max(rows_max - len(positives), len(positives))
    keys = second_key(negatives["source_id"].to_numpy(), seed, "gate")
    return pd.concat([positives, negatives.iloc[np.argsort(keys)[:room]]])


def conditions_gate(sample: pd.DataFrame, rows_max: int, resamples: int, seed: int) -> dict[str, Any]:
    """Out-of-fold AUC of gradient boosting on observing conditions, and which kind of condition carries it.

    The folds are the sample's own: all objects of a HEALPix pixel are in one, so that a classifier cannot win by
    remembering a patch of sky. The interval is of stratified resamples of objects; objects of one pixel are not
    independent, so it is a little too narrow.

    Parameters
    ----------
    sample
        `FEATURES`, ``label, fold, source_id``.

    Returns
    -------
    dict
        ``measured`` false with a ``reason``; or ``auc, low, high, n_positive, n_negative, folds`` and ``importance``:
        the AUC lost when the columns of one kind are shuffled among the objects left out.
    """
    rows = drawn(sample, rows_max, seed)
    label = (rows["label"] == 1).to_numpy()
    sizes = {"n_positive": int(label.sum()), "n_negative": int((~label).sum())}
    if min(sizes.values()) < MIN_OBJECTS:
        return {"measured": False, "reason": f"fewer than {MIN_OBJECTS} positives or negatives", **sizes}
    fold = rows["fold"].to_numpy()
    usable = [value for value in np.unique(fold) if 0 < label[fold != value].sum() < (fold != value).sum()]
    judged = np.isin(fold, usable)
    if len(np.unique(label[judged])) < 2:
        return {"measured": False, "reason": "all positives are in one fold of pixels", **sizes}
    values = rows[list(FEATURES)].to_numpy(np.float64, na_value=np.nan)
    # One thread: trees of 15 leaves are too little work for several, and on a busy machine those wait for each other
    with threadpool_limits(1):
        scores = _out_of_fold(values, label, fold, usable, seed)
    gaps = intervals.compress(label[judged], scores["all"][judged])
    found = intervals.bootstrap(gaps, (), resamples, seed)["auc"]
    importance = {name: found.value - _auc(label[judged], values[judged]) for name, values in scores.items()}
    del importance["all"]
    return {
        "measured": True, "auc": found.value, "low": found.low, "high": found.high, **sizes, "folds": len(usable),
        "importance": dict(sorted(importance.items(), key=lambda item: -item[1])),
    }  # fmt: skip


def _out_of_fold(
    values: Floats, label: npt.NDArray[np.bool_], fold: npt.NDArray[Any], usable: list[Any], seed: int
) -> dict[str, Floats]:
    """Scores of every object by a model that saw no object of its fold: as it is, and with each kind of column shuffled."""
    rng = np.random.default_rng(seed)
    scores = {name: np.full(len(label), np.nan) for name in ("all", *GROUPS)}
    for value in usable:
        left_out = np.flatnonzero(fold == value)
        model = classifier(seed, trees=60, learning_rate=0.1).fit(values[fold != value], label[fold != value])
        # the share of positives differs between folds, and must not shift the scores of one against another's
        prior = logit(label[fold != value].mean())
        scores["all"][left_out] = model.decision_function(values[left_out]) - prior
        for name, members in GROUPS.items():
            shuffled = values[left_out].copy()
            columns = [FEATURES.index(member) for member in members]
            shuffled[:, columns] = shuffled[rng.permutation(len(left_out))][:, columns]
            scores[name][left_out] = model.decision_function(shuffled) - prior
    return scores


def _auc(label: npt.NDArray[np.bool_], scores: Floats) -> float:
    gaps = intervals.compress(label, scores)
    return float(roc.auc(gaps.roc()))
