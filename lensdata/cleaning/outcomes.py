"""What becomes of each negative after it was ranked or looked at (R-N1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lensdata.audit.intervals import binomial
from lensdata.config.cleaning import CleanConfig

KEEP, DROP, RELABEL = "keep", "drop", "relabel"
VERDICTS = {"lens": "lens", "maybe": "maybe", "not": "not_a_lens", "artefact": "artefact", "disagree": "disagree"}
BY = ("stratum", "pool", "confuser")


def with_outcomes(rows: pd.DataFrame, config: CleanConfig) -> pd.DataFrame:
    """Every row of the manifest with ``outcome`` (keep, drop, relabel) and ``reason``.

    Parameters
    ----------
    rows
        ``label, split, confuser`` of the manifest with ``verdict`` of the graders and ``flagged`` of the ranking, null where
        nobody looked or ranked. Lenses, and rows of splits that are not to be changed, are kept whatever these say.
    """
    verdict = rows["verdict"].astype(object).where(rows["verdict"].notna(), None)
    changeable = (rows["label"] == 0) & rows["split"].isin(config.splits)
    if config.remove == "graded":
        treatment = {name: getattr(config.outcomes, key) for name, key in VERDICTS.items()}
        outcome = verdict.map(lambda given: treatment.get(given, KEEP))
        reason = verdict.map(lambda given: f"graded {given}" if given is not None else None)
    else:
        taken = rows["flagged"].eq(True)
        protected = taken & rows["confuser"].notna() & config.keep_confusers
        outcome = pd.Series(np.where(taken & ~protected, DROP, KEEP), rows.index)
        reason = pd.Series(None, rows.index, dtype=object)
        reason[taken], reason[protected] = "above the threshold", "a confuser stays"
    outcome = outcome.where(changeable, KEEP)
    return rows.assign(outcome=outcome, reason=reason.where(changeable, None), verdict=verdict)


def counts(rows: pd.DataFrame) -> dict[str, Any]:
    """X% flagged, Y inspected, Z% of these plausible lenses, with 95% intervals; and where they are (R-N1, R-D2).

    Parameters
    ----------
    rows
        Of `with_outcomes`; ``flagged, verdict, outcome, split`` and the columns of `BY` where the manifest has them.
    """
    negatives = rows[rows["label"] == 0]
    flagged, looked_at = negatives["flagged"].eq(True), negatives["verdict"].notna()
    plausible = negatives["verdict"].isin(["lens", "maybe"])
    found: dict[str, Any] = {
        "negatives": len(negatives),
        "flagged": _share(int(flagged.sum()), int(negatives["flagged"].notna().sum())),
        "inspected": int(looked_at.sum()),
        "plausible": _share(int(plausible.sum()), int(looked_at.sum())),
        "plausible_of_flagged": _share(int((plausible & flagged).sum()), int((looked_at & flagged).sum())),
        "dropped": int((rows["outcome"] == DROP).sum()),
        "relabelled": int((rows["outcome"] == RELABEL).sum()),
        "confusers_that_stay": int((rows["reason"] == "a confuser stays").sum()),
        "splits": {split: _prevalence(part) for split, part in rows.groupby("split", sort=True)},
    }
    for name in BY:
        if name in negatives and negatives[name].notna().any():
            groups = negatives.assign(flagged=flagged, inspected=looked_at, plausible=plausible).groupby(
                negatives[name].fillna("none"), sort=True
            )
            found[f"by_{name}"] = {
                str(key): {"negatives": len(part), "dropped": int((part["outcome"] == DROP).sum())}
                | {what: int(part[what].sum()) for what in ("flagged", "inspected", "plausible")}
                for key, part in groups
            }  # fmt: skip
    return found


def _prevalence(rows: pd.DataFrame) -> dict[str, Any]:
    """Lenses and others of a split before and after, and how many others there are to a lens."""
    after = rows[rows["outcome"] != DROP]
    lens_after = (after["label"] == 1) | (after["outcome"] == RELABEL)
    out: dict[str, Any] = {}
    for name, lenses, total in (
        ("before", int((rows["label"] == 1).sum()), len(rows)),
        ("after", int(lens_after.sum()), len(after)),
    ):
        out[name] = {"lenses": lenses, "others": total - lenses, "ratio": (total - lenses) / lenses if lenses else None}
    return out


def _share(hits: int, total: int) -> dict[str, Any]:
    if not total:
        return {"hits": hits, "n": 0, "value": None, "low": None, "high": None}
    found = binomial(hits, total)
    return {"hits": hits, "n": total, "value": found.value, "low": found.low, "high": found.high}
