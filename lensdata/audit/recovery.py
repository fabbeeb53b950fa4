"""Recovery of real lenses: how many of an external list a finder finds (R-E9)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lensdata.audit import roc
from lensdata.audit.intervals import binomial
from lensdata.errors import InputError

Hits = npt.NDArray[np.bool_]


def recovery(
    listed: pd.DataFrame, judged: pd.DataFrame, trained_on: set[int], fpr_levels: tuple[float, ...], *, circular: bool
) -> dict[str, Any]:
    """Share of a list's objects above the thresholds at fixed false-positive rates of the judged split.

    Parameters
    ----------
    listed
        ``cutout_id, logit`` of the list's stamps, and ``label`` where it is known: a list of lenses, each once.
    judged
        ``label, logit`` of the judged split, whose others set the thresholds.
    trained_on
        ``cutout_id`` of the run's training and validation rows: finding those again proves little, and they are counted apart.
        A ``cutout_id`` follows from the ``source_id``, so that the list's stamps are known again if they were given theirs.
    circular
        The list was made by finders of the same family, so that recovering it is partly a matter of course.

    Returns
    -------
    dict
        ``n, n_trained_on, circular, levels``: of each rate the threshold, ``false_positives_allowed``, and ``never_trained``,
        ``trained_on`` and ``split`` (the judged split's own lenses) as hits, n and a fraction with its 95% Jeffreys interval; and
        ``gap``, the judged lenses' completeness less that of the list's objects never trained on, with its 95% interval (`gap`).
        Where the rate allows no false positive all of these are null with a ``reason``.

    Raises
    ------
    InputError
        The list is empty, holds a stamp twice, or holds what is no lens.
    """
    _check(listed)
    known = listed["cutout_id"].isin(trained_on).to_numpy()
    counts = roc.compress(judged["label"], judged["logit"])
    logit, own = listed["logit"].to_numpy(), judged.loc[judged["label"] == 1, "logit"].to_numpy()
    levels = []
    for level in fpr_levels:
        allowed = roc.allowed(level, counts.n_negative)
        threshold = roc.threshold_at_fpr(counts, level)
        reason = None if allowed else f"this rate allows no false positive among {counts.n_negative} others"
        hits = {"never_trained": logit[~known], "trained_on": logit[known], "split": own}
        shares = {name: _share(values >= threshold, reason) for name, values in hits.items()}
        levels.append({
            "fpr": level, "logit_threshold": threshold if allowed and np.isfinite(threshold) else None,
            "false_positives_allowed": allowed, **shares, "gap": gap(shares["split"], shares["never_trained"]),
        })  # fmt: skip
    return {"n": len(listed), "n_trained_on": int(known.sum()), "circular": circular, "levels": levels}


def gap(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """Difference of two independent fractions with its 95% interval, from both Wilson intervals (Newcombe 1998, method 10).

    >>> found = gap({"value": 0.8, "hits": 56, "n": 70}, {"value": 0.6, "hits": 48, "n": 80})
    >>> [round(found[key], 4) for key in ("value", "low", "high")]
    [0.2, 0.0524, 0.3339]
    """
    if one["value"] is None or two["value"] is None:
        return {"value": None, "low": None, "high": None, "reason": one.get("reason") or two.get("reason")}
    first, second = (binomial(share["hits"], share["n"], "wilson") for share in (one, two))
    value = first.value - second.value
    return {
        "value": value,
        "low": value - float(np.hypot(first.value - first.low, second.high - second.value)),
        "high": value + float(np.hypot(first.high - first.value, second.value - second.low)),
    }


def _check(listed: pd.DataFrame) -> None:
    """Refuse what is no list of lenses."""
    if not len(listed):
        raise InputError("The scores of a list of lenses to recover have no rows.")
    twice = int(listed["cutout_id"].duplicated().sum())
    if twice:
        raise InputError(
            f"{twice} of {len(listed)} rows of a list of lenses to recover repeat a cutout_id; list each lens once."
        )
    others = int((listed["label"] == 0).sum()) if "label" in listed else 0
    if others:
        raise InputError(
            f"{others} of {len(listed)} rows of a list of lenses to recover have label 0; give the scores of a list of lenses only."
        )


def _share(hits: Hits, reason: str | None) -> dict[str, Any]:
    """A fraction with its interval and what it is of; null with a reason."""
    if reason or not len(hits):
        nothing = {"value": None, "low": None, "high": None, "hits": None if reason else 0, "n": len(hits)}
        return nothing | {"reason": reason or "there are none"}
    found = binomial(int(hits.sum()), len(hits))
    return {"value": found.value, "low": found.low, "high": found.high, "hits": int(hits.sum()), "n": len(hits)}
