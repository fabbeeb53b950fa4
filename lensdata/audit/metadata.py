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

from lensdata.audit import intervals, metrics, roc
from lensdata.audit.blocks import SMALLEST_NUMBER
from lensdata.audit.conditions import FEATURES as CONDITIONS

Floats = npt.NDArray[np.float64]
CONTROLS = ("mag_g", "mag_r", "mag_z", "gr", "rz", "shape_r", "axis_ratio", "sersic")
DEEP_EXPOSURES = 10  # in z: the deepest stratum
SMALLEST_SAMPLE = 100
PASSED, WARNED = 0.10, 0.20  # of the size of a partial correlation; this project's own limits
SIGNIFICANT = 0.05  # of p after Holm's correction
BLOCK_RESAMPLES = 1000
LARGEST = 0.999999  # size of a correlation that has a z
OF_PATCHES, OF_OBJECTS = "patches of sky", "objects"
ORDER = ("PASS", "WARN", "FAIL")


def regression(negatives: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    """Partial rank correlations of the logit with observing conditions at equal catalogue properties.

    Ranks of logit and condition are freed of what is linear in the ranks of `CONTROLS` and in the type; their correlation is
    Spearman's partial. Neighbours share depth, seeing and exposures, so that intervals and p-values come from a bootstrap over
    patches of sky (`_over_patches`). Where patches are not known, or too few, from Fisher's z over objects, with Fieller, Hartley &
    Pearson's (1957) variance 1.06 / (n - k - 3); these are too narrow where neighbours are alike.

    Parameters
    ----------
    negatives
        ``logit`` and whatever the manifest has of `CONDITIONS`, `CONTROLS`, ``type``, ``healpix_128`` and ``group_id``.

    Returns
    -------
    dict
        ``measured`` false with a ``reason``; or ``n``, ``interval`` ("patches of sky" or "objects"), ``n_patches`` (null where they
        are not known), ``conditions`` (column, value, low, high, p_value by Holm's correction), ``r2_catalogue`` and
        ``r2_with_conditions`` (adjusted, of the logit's ranks), ``predicts_deep`` (AUC of the score for ten or more z exposures).
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
    ranks = np.column_stack([stats.rankdata(known[name].to_numpy(np.float64)) for name in present])
    rest = _residual(np.column_stack([logit, ranks]), design)
    patch = metrics.blocks_of(known)
    patches = None if patch is None else len(np.unique(patch))
    if patch is not None and patches is not None and patches >= SMALLEST_NUMBER:
        interval, errors, freedom = OF_PATCHES, _over_patches(rest, patch, seed), float(patches - 2)
    else:
        error = np.sqrt(1.06 / max(len(known) - design.shape[1] - 2, 1))
        interval, errors, freedom = OF_OBJECTS, np.full(len(present), error), np.inf
    values = _correlations(rest.T @ rest)
    found: list[dict[str, Any]] = [
        {"column": name, **_limits(float(value), float(error), freedom)}
        for name, value, error in zip(present, values, errors, strict=True)
    ]
    for entry, corrected in zip(found, intervals.holm([entry["p_value"] for entry in found]), strict=True):
        entry["p_value"] = float(corrected)
    return {
        "measured": True, "n": len(known), "controls": controls, "conditions": found, "interval": interval, "n_patches": patches,
        "r2_catalogue": _adjusted_r2(logit, design), "r2_with_conditions": _adjusted_r2(logit, np.column_stack([design, ranks])),
        "predicts_deep": _deep(known, resamples, seed),
    }  # fmt: skip


def verdict(found: dict[str, Any]) -> dict[str, Any]:
    """PASS, WARN or FAIL of the partial correlations: the worst over the conditions, and of these the strongest."""
    title = "strongest rank correlation of the others' logit with an observing condition, at equal catalogue properties"
    source = (
        f"passes where the interval is inside +-{PASSED:.2f}, or p exceeds {SIGNIFICANT:.2f} and the interval is inside "
        f"+-{WARNED:.2f}; this project's own limits"
    )
    base: dict[str, Any] = {"check": "metadata_regression", "title": title, "n_positive": 0, "n_negative": found["n"],
                            "source": source}  # fmt: skip
    if not found["measured"]:
        nothing = dict.fromkeys(("value", "low", "high", "limits"))
        return base | nothing | {"verdict": "NOT MEASURED", "message": found["reason"]}
    said, message, shown = max(
        ((*_judged(entry), entry) for entry in found["conditions"]),
        key=lambda each: (ORDER.index(each[0]), abs(each[2]["value"])),
    )
    return base | {key: shown[key] for key in ("value", "low", "high")} | {
        "limits": {"pass": PASSED, "warn": WARNED}, "verdict": said,
        "message": f"with {shown['column']}{message} (p = {shown['p_value']:.2g} after Holm's correction, interval over "
        f"{found['interval']})",
    }  # fmt: skip


def _judged(entry: dict[str, Any]) -> tuple[str, str]:
    """Verdict of one partial correlation, and what there is to say: nothing found is no PASS where little could be found."""
    size, largest = abs(entry["value"]), max(abs(entry["low"]), abs(entry["high"]))
    if largest < PASSED:
        return "PASS", ""
    if entry["p_value"] > SIGNIFICANT:
        return ("PASS", "") if largest < WARNED else ("WARN", ", too few to say")
    return ("WARN" if size < WARNED else "FAIL"), ""


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


def _over_patches(rest: Floats, patch: npt.NDArray[np.int64], seed: int) -> Floats:
    """Standard error of Fisher's z of each condition, by resampling whole patches of sky.

    Ranks and their regression on the catalogue stay as they are: a resample weighs patches, and the correlation of what is left
    follows from sums over patches.

    Parameters
    ----------
    rest
        What is left of the ranks of the logit (first) and of the conditions, (n, 1 + c).
    patch
        Of each object, (n,).
    """
    place = np.unique(patch, return_inverse=True)[1]
    count, width = int(place.max()) + 1, rest.shape[1]
    products = np.column_stack([np.ones(len(rest)), rest, rest * rest, rest[:, :1] * rest])
    sums = np.zeros((count, products.shape[1]))
    np.add.at(sums, place, products)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), BLOCK_RESAMPLES)
    drawn = weights @ sums
    mean, square, cross = (drawn[:, 1 + k * width : 1 + (k + 1) * width] / drawn[:, :1] for k in range(3))
    covariance, variance = cross - mean[:, :1] * mean, square - mean**2
    size = np.sqrt(np.maximum(variance[:, :1] * variance, 0))
    correlation = np.divide(covariance, size, out=np.zeros_like(covariance), where=size > 0)[:, 1:]
    z = np.arctanh(correlation.clip(-LARGEST, LARGEST))
    # a resample is about a sample's own mean and slope, which takes two of its degrees of freedom
    return np.asarray(z.std(axis=0, ddof=1) * np.sqrt(count / (count - 2)))


def _correlations(products: Floats) -> Floats:
    """Correlation of the first variable with the others, from their sums of products; 0 where one does not vary."""
    size = np.sqrt(products[0, 0] * np.diag(products)[1:])
    return np.asarray(np.divide(products[0, 1:], size, out=np.zeros(len(products) - 1), where=size > 0))


def _limits(value: float, error: float, freedom: float) -> dict[str, float]:
    """A correlation with its 95% interval and p-value, by Student's t of Fisher's z in units of its standard error."""
    z = np.arctanh(np.clip(value, -LARGEST, LARGEST))
    low, high = np.tanh(z + stats.t.ppf([0.025, 0.975], freedom) * error)
    p_value = float(2 * stats.t.sf(abs(z) / error, freedom)) if error > 0 else 1.0
    return {"value": value, "low": float(low), "high": float(high), "p_value": p_value}


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
