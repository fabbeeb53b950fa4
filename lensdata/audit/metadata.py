"""Does the score of galaxies that are no lenses know how they were observed? (R-E5)

A finder may well score deep images higher, for more is seen in them; among galaxies without an arc, and at equal catalogue
properties, it should not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from lensdata.audit import intervals, roc
from lensdata.audit.conditions import FEATURES as CONDITIONS

Floats = npt.NDArray[np.float64]
CONTROLS = ("mag_g", "mag_r", "mag_z", "gr", "rz", "shape_r", "axis_ratio", "sersic")
DEEP_EXPOSURES = 10  # in z: the deepest stratum
SMALLEST_SAMPLE = 100
PASSED, WARNED = 0.10, 0.20  # of the size of the strongest partial correlation; this project's own limits


def regression(negatives: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    """Partial rank correlations of the logit with observing conditions at equal catalogue properties.

    Ranks of logit and condition are freed of what is linear in the ranks of `CONTROLS` and in the type; their correlation is
    Spearman's partial. Intervals by Fisher's z with Fieller, Hartley & Pearson's (1957) variance 1.06 / (n - k - 3).

    Parameters
    ----------
    negatives
        ``logit`` and whatever the manifest has of `CONDITIONS`, `CONTROLS` and ``type``.

    Returns
    -------
    dict
        ``measured`` false with a ``reason``; or ``n``, ``conditions`` (column, value, low, high, p_value by Holm's correction),
        ``r2_catalogue`` and ``r2_with_conditions`` (adjusted, of the logit's ranks), ``predicts_deep`` (AUC of the score for
        ten or more z exposures).
    """
    present = [name for name in CONDITIONS if _varies(negatives, name)]
    controls = [name for name in CONTROLS if _varies(negatives, name)]
    known = negatives.dropna(subset=["logit", *present])
    if not present or len(known) < SMALLEST_SAMPLE:
        reason = (
            "the manifest has no observing conditions" if not present else f"fewer than {SMALLEST_SAMPLE} negatives"
        )
        return {"measured": False, "reason": reason, "n": len(known)}
    design = _design(known, controls)
    logit = stats.rankdata(known["logit"])
    found: list[dict[str, Any]] = []
    for name in present:
        value = _partial(logit, stats.rankdata(known[name].to_numpy(np.float64)), design)
        found.append({"column": name, **_fisher(value, len(known), design.shape[1] - 1)})
    for entry, corrected in zip(found, intervals.holm([entry["p_value"] for entry in found]), strict=True):
        entry["p_value"] = float(corrected)
    ranks = np.column_stack([stats.rankdata(known[name].to_numpy(np.float64)) for name in present])
    return {
        "measured": True, "n": len(known), "controls": controls, "conditions": found,
        "r2_catalogue": _adjusted_r2(logit, design), "r2_with_conditions": _adjusted_r2(logit, np.column_stack([design, ranks])),
        "predicts_deep": _deep(known, resamples, seed),
    }  # fmt: skip


def verdict(found: dict[str, Any]) -> dict[str, Any]:
    """PASS, WARN or FAIL of the strongest partial correlation."""
    title = "strongest rank correlation of the others' logit with an observing condition, at equal catalogue properties"
    base: dict[str, Any] = {"check": "metadata_regression", "title": title, "n_positive": 0, "n_negative": found["n"],
                            "source": "this project's own limit, on the size"}  # fmt: skip
    if not found["measured"]:
        return base | {
            "value": None,
            "low": None,
            "high": None,
            "limits": None,
            "verdict": "NOT MEASURED",
            "message": found["reason"],
        }
    strongest = max(found["conditions"], key=lambda entry: abs(entry["value"]))
    size = abs(strongest["value"])
    said = "PASS" if size < PASSED or strongest["p_value"] > 0.05 else "WARN" if size < WARNED else "FAIL"
    return base | {key: strongest[key] for key in ("value", "low", "high")} | {
        "limits": {"pass": PASSED, "warn": WARNED}, "verdict": said,
        "message": f"with {strongest['column']} (p = {strongest['p_value']:.2g} after Holm's correction)",
    }  # fmt: skip


def _varies(rows: pd.DataFrame, name: str) -> bool:
    return name in rows and rows[name].notna().mean() > 0.5 and rows[name].nunique() > 1


def _design(known: pd.DataFrame, controls: list[str]) -> Floats:
    """Ranks of the controls (a missing value has the middle rank) and the types, with a constant."""
    columns: list[Floats] = [np.ones(len(known))]
    for name in controls:
        values = known[name].to_numpy(np.float64, na_value=np.nan)
        columns.append(stats.rankdata(np.where(np.isnan(values), np.nanmedian(values), values)))
    if "type" in known:
        kinds = pd.get_dummies(known["type"].fillna("none"), drop_first=True, dtype=np.float64)
        columns += [kinds[name].to_numpy() for name in kinds]
    return np.column_stack(columns)


def _residual(values: Floats, design: Floats) -> Floats:
    return np.asarray(values - design @ np.linalg.lstsq(design, values, rcond=None)[0])


def _partial(one: Floats, two: Floats, design: Floats) -> float:
    first, second = _residual(one, design), _residual(two, design)
    size = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / size) if size > 0 else 0.0


def _fisher(value: float, n: int, controlled: int) -> dict[str, float]:
    error = np.sqrt(1.06 / max(n - controlled - 3, 1))
    z = np.arctanh(np.clip(value, -0.999999, 0.999999))
    low, high = np.tanh(z + stats.norm.ppf([0.025, 0.975]) * error)
    return {"value": value, "low": float(low), "high": float(high), "p_value": float(2 * stats.norm.sf(abs(z) / error))}


def _adjusted_r2(values: Floats, design: Floats) -> float:
    rest = _residual(values, design)
    freedom = len(values) - np.linalg.matrix_rank(design)
    return float(1 - (rest @ rest / freedom) / np.var(values, ddof=1)) if freedom > 0 else float("nan")


def _deep(known: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any] | None:
    if "nobs_z" not in known:
        return None
    deep = (known["nobs_z"] >= DEEP_EXPOSURES).to_numpy()
    if min(deep.sum(), (~deep).sum()) < 10:
        return None
    found = intervals.bootstrap(roc.compress(deep, known["logit"]), (), resamples, seed)["auc"]
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "n_deep": int(deep.sum()),
        "n_other": int((~deep).sum()),
    }
