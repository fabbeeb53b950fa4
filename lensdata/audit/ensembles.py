"""Does each member of a mean-logit ensemble earn its place? Leaving one out in turn, at each false-positive rate (R-M3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from lensdata.audit import roc
from lensdata.audit.paired import paired_bootstrap

EARNED, HURTS, OPEN = "earns its place", "hurts", "not shown"


def leave_one_out(
    labels: npt.ArrayLike,
    logits: npt.ArrayLike,
    members: Sequence[str],
    levels: Sequence[float],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """What each member adds to the mean logit, and the members that are left where those that hurt are gone.

    A member's contribution is the completeness of the mean of all less that of the mean without it, with a paired 95%
    interval. One rate's verdict need not be another's: a network may help among the bulk and hurt at the top.

    Parameters
    ----------
    labels, logits
        Labels (N,), 1 a lens, and the members' logits (N, k) of the same objects, k at least 2.
    members
        Their names (k,).
    levels
        False-positive rates.

    Returns
    -------
    dict
        For each rate, by name: ``contributions`` (value, low, high, verdict by member) to the mean of all, and ``gated``, the
        members that are left when the one that hurts most is taken out, then the next of those that remain, until none hurts
        (of two copies either hurts, both together may be the best there is); null with a ``reason`` where the rate allows no
        false positive.
    """
    values, label = np.asarray(logits, np.float64), np.asarray(labels)
    if values.shape[1] < 2:
        raise ValueError("leaving one out needs two members")
    negatives = int((label == 0).sum())
    out: dict[str, Any] = {}
    for level in levels:
        if not roc.allowed(level, negatives):
            out[f"{level:g}"] = {
                "contributions": None,
                "gated": None,
                "reason": f"{negatives} negatives allow no false positive",
            }
            continue
        gains = partial(contributions, label, level=level, resamples=resamples, seed=seed)
        first = found = gains(values, members)
        kept = list(range(len(members)))
        while len(kept) > 2 and (hurting := [name for name, entry in found.items() if entry["verdict"] == HURTS]):
            worst = min(hurting, key=lambda name: found[name]["value"])
            kept = [place for place in kept if members[place] != worst]
            found = gains(values[:, kept], [members[place] for place in kept])
        out[f"{level:g}"] = {"contributions": first, "gated": [members[place] for place in kept]}
    return out


def contributions(
    label: npt.NDArray[Any],
    logits: npt.NDArray[np.float64],
    members: Sequence[str],
    level: float,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Completeness at a rate of the mean logit less that without each member, by name."""
    whole, figure = logits.mean(axis=1), {"tpr": partial(roc.tpr_at_fpr, level=level)}
    found = {}
    for place, name in enumerate(members):
        without = np.delete(logits, place, axis=1).mean(axis=1)
        gain = paired_bootstrap(label, whole, without, figure, resamples, seed)["tpr"]
        verdict = EARNED if gain.low > 0 else HURTS if gain.high < 0 else OPEN
        found[name] = {"value": gain.value, "low": gain.low, "high": gain.high, "verdict": verdict}
    return found
