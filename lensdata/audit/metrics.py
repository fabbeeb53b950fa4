"""The numbers of a report from scores joined to their manifest (R-E1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lensdata.audit import calibration, intervals
from lensdata.config.evaluation import EvaluateConfig
from lensdata.hashing import cutout_id

TITLES = {"auc": "AUC", "average_precision": "average precision"}


def entry(
    title: str, found: intervals.Interval, n_positive: int, n_negative: int | None, **more: Any
) -> dict[str, Any]:
    """One metric of ``metrics.json``."""
    return {"title": title, "value": found.value, "low": found.low, "high": found.high,
            "n_positive": n_positive, "n_negative": n_negative, **more}  # fmt: skip


def ranking(rows: pd.DataFrame, config: EvaluateConfig) -> dict[str, dict[str, Any]]:
    """AUC, average precision and completeness at fixed FPR, with intervals and the false positives behind them."""
    counts = intervals.compress(rows["label"], rows["logit"])
    found = intervals.bootstrap(counts, config.fpr_levels, config.resamples, config.seed)
    out = {}
    for name, interval in found.items():
        more: dict[str, Any] = {}
        if name.startswith("tpr_at_fpr_"):
            level = float(name.removeprefix("tpr_at_fpr_"))
            threshold = intervals.threshold_at_fpr(counts, level)
            more = {
                "false_positives": int(((rows["label"] == 0) & (rows["logit"] >= threshold)).sum()),
                "false_positives_allowed": int(np.floor(level * counts.n_negative * (1 + 1e-12))),
                "logit_threshold": threshold if np.isfinite(threshold) else None,
            }
        title = TITLES.get(name, f"completeness at FPR {name.removeprefix('tpr_at_fpr_')}")
        out[name] = entry(title, interval, counts.n_positive, counts.n_negative, **more)
    return out


def at_half(rows: pd.DataFrame) -> dict[str, Any]:
    """Confusion matrix and accuracy at a score of 0.5."""
    predicted, label = rows["score"] > 0.5, rows["label"] == 1
    matrix = {
        "true_positive": int((predicted & label).sum()),
        "false_positive": int((predicted & ~label).sum()),
        "true_negative": int((~predicted & ~label).sum()),
        "false_negative": int((~predicted & label).sum()),
    }
    return {"accuracy": float((predicted == label).mean()), **matrix}


def calibrated(rows: pd.DataFrame, bins: int) -> dict[str, Any]:
    """Calibration errors and the bins of the reliability diagram."""
    found = calibration.reliability(rows["label"], rows["score"], bins)
    return {
        "ece": calibration.expected_calibration_error(found),
        "brier": calibration.brier_score(rows["label"], rows["score"]),
        "bins": [{"mean_score": b.mean_score, "observed": b.observed.value, "low": b.observed.low, "high": b.observed.high,
                  "members": b.members} for b in found],
    }  # fmt: skip


def confuser_rates(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """False-positive rate per confuser category, at a score of 0.5 and at the threshold of an overall FPR of 1e-2."""
    counts = intervals.compress(rows["label"], rows["logit"])
    threshold = intervals.threshold_at_fpr(counts, 1e-2)
    negatives = rows[rows["label"] == 0]
    groups = (
        negatives["confuser"].fillna("no category")
        if "confuser" in negatives
        else pd.Series("all", index=negatives.index)
    )
    out = []
    kinds = list(negatives.groupby(groups)) if groups.nunique() > 1 else []
    for name, group in [("all negatives", negatives), *kinds]:
        for rule, hits in (("score > 0.5", group["score"] > 0.5), ("overall FPR 0.01", group["logit"] >= threshold)):
            found = intervals.binomial(int(hits.sum()), len(group))
            out.append({"category": str(name), "rule": rule, "value": found.value, "low": found.low, "high": found.high,
                        "false_positives": int(hits.sum()), "n_negative": len(group)})  # fmt: skip
    return out


def against_controls(rows: pd.DataFrame, controls: pd.DataFrame, config: EvaluateConfig) -> dict[str, Any]:
    """The judged lenses without their arcs: they should score like negatives, and below themselves.

    Parameters
    ----------
    controls
        ``cutout_id, logit, score`` of control stamps.
    """
    lenses = rows[rows["label"] == 1]
    lenses = lenses.assign(control_id=cutout_id(lenses["source_id"].to_numpy(), "control"))
    paired = lenses.merge(
        controls[["cutout_id", "logit", "score"]], left_on="control_id", right_on="cutout_id", suffixes=("", "_control")
    )
    negatives = rows.loc[rows["label"] == 0, "logit"]
    both = pd.concat([paired["logit_control"], negatives])
    label = np.r_[np.ones(len(paired)), np.zeros(len(negatives))]
    found = intervals.bootstrap(intervals.compress(label, both), (), config.resamples, config.seed)["auc"]
    above = intervals.binomial(int((paired["logit"] > paired["logit_control"]).sum()), len(paired))
    return {
        "auc": entry("AUC of lenses without arcs against negatives", found, len(paired), len(negatives)),
        "lens_above_its_control": entry("lenses that score above themselves without arc", above, len(paired), None),
        "median_score_lens": float(paired["score"].median()),
        "median_score_control": float(paired["score_control"].median()),
        "median_score_negative": float(rows.loc[rows["label"] == 0, "score"].median()),
        "scores_control": [round(float(value), 5) for value in paired["score_control"]],
    }


def catalogue_only(rows: pd.DataFrame, config: EvaluateConfig) -> dict[str, Any]:
    """AUC of the classifier that sees catalogue columns only (``catalogue_score``) on the judged rows."""
    found = intervals.bootstrap(
        intervals.compress(rows["label"], rows["catalogue_score"]), (), config.resamples, config.seed
    )["auc"]
    positives = int((rows["label"] == 1).sum())
    return entry("AUC of a catalogue-only classifier", found, positives, len(rows) - positives)
