"""Recovery of real lenses: how many of an external list a finder finds (R-E9)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lensdata.audit import roc
from lensdata.audit.intervals import binomial


def recovery(
    listed: pd.DataFrame, judged: pd.DataFrame, trained_on: set[int], fpr_levels: tuple[float, ...], *, circular: bool
) -> dict[str, Any]:
    """Share of a list's objects above the thresholds at fixed false-positive rates of the judged split.

    Parameters
    ----------
    listed
        ``cutout_id, logit`` of the list's stamps.
    judged
        ``label, logit`` of the judged split, whose others set the thresholds.
    trained_on
        ``cutout_id`` of the run's training and validation rows: finding those again proves little, and they are counted apart.
    circular
        The list was made by finders of the same family, so that recovering it is partly a matter of course.

    Returns
    -------
    dict
        ``n, n_trained_on, circular, levels``: of each rate the threshold, and ``never_trained``, ``trained_on`` and ``split``
        (the judged split's own lenses) as hits, n and a fraction with its 95% Jeffreys interval; and ``gap``, the judged lenses'
        completeness less that of the list's objects never trained on.
    """
    known = listed["cutout_id"].isin(trained_on).to_numpy()
    counts = roc.compress(judged["label"], judged["logit"])
    own = judged.loc[judged["label"] == 1, "logit"].to_numpy()
    levels = []
    for level in fpr_levels:
        threshold = roc.threshold_at_fpr(counts, level)
        hits = listed["logit"].to_numpy() >= threshold
        never, split = _share(hits[~known]), _share(own >= threshold)
        gap = None if never["value"] is None else split["value"] - never["value"]
        levels.append({"fpr": level, "logit_threshold": threshold if np.isfinite(threshold) else None, "never_trained": never,
                       "trained_on": _share(hits[known]), "split": split, "gap": gap})  # fmt: skip
    return {"n": len(listed), "n_trained_on": int(known.sum()), "circular": circular, "levels": levels}


def _share(hits: np.ndarray[Any, Any]) -> dict[str, Any]:
    if not len(hits):
        return {"value": None, "low": None, "high": None, "hits": 0, "n": 0}
    found = binomial(int(hits.sum()), len(hits))
    return {"value": found.value, "low": found.low, "high": found.high, "hits": int(hits.sum()), "n": len(hits)}
