"""The key figures of a finder in parts of the sample: where it works and where it does not (R-E1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import roc_auc_score

from lensdata.audit import intervals, roc
from lensdata.catalogue.strata import DEPTH_EDGES_MAG, PSF_EDGES_ARCSEC
from lensdata.config.evaluation import EvaluateConfig

Mask = npt.NDArray[np.bool_]
THETA_E_EDGES = (0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0)  # arcsec; R-E1
OVERALL_FPR = 1e-2  # of the threshold that all strata are judged at


@dataclass(frozen=True)
class Stratum:
    """One part of the sample.

    Attributes
    ----------
    of
        Whom the division is of: in one of lenses every stratum is judged against all others of the sample, in one of
        others against all lenses.
    members
        Mask of the rows that belong to it, of either label; shape (n,).
    """

    kind: str
    name: str
    of: Literal["both", "lenses", "others"]
    members: Mask


def strata_of(rows: pd.DataFrame) -> Iterator[Stratum]:
    """Every stratum of the judged rows, for the columns that are there and not all null."""
    lens = (rows["label"] == 1).to_numpy()
    yield from _named(rows, "type", "both")
    yield from _named(rows[lens], "tier", "lenses", within=lens)
    yield from _named(rows[~lens], "confuser", "others", missing="no category", within=~lens)
    for kind, column, edges in (("psf", "psf_bin", PSF_EDGES_ARCSEC), ("depth", "depth_bin", DEPTH_EDGES_MAG)):
        for number, name in enumerate(bin_names(edges)):
            members = _numbers(rows, column) == number
            if members.any():
                yield Stratum(kind, name, "both", members)
    yield from _named(rows, "nobs_z_bin", "both")
    theta = _numbers(rows, "theta_e")
    for low, high in pairwise(THETA_E_EDGES):
        members = lens & (theta >= low) & (theta < high)
        if members.any():
            yield Stratum("theta_e", f"{low:g}-{high:g}", "lenses", members)
    arcless = lens & (_numbers(rows, "arc_snr") == 0)
    if arcless.any():
        yield Stratum("arc_snr", "0", "lenses", arcless)


def bin_names(edges: tuple[float, ...]) -> list[str]:
    """What the bins between edges are called.

    >>> bin_names((1.0, 1.2))
    ['< 1', '1-1.2', '>= 1.2']
    """
    return [f"< {edges[0]:g}", *(f"{low:g}-{high:g}" for low, high in pairwise(edges)), f">= {edges[-1]:g}"]


def _named(
    rows: pd.DataFrame,
    column: str,
    of: Literal["both", "lenses", "others"],
    missing: str | None = None,
    within: Mask | None = None,
) -> Iterator[Stratum]:
    """A stratum per value of a column of names; rows without one are in ``missing``, or in none."""
    if column not in rows or not rows[column].notna().any():
        return
    names = rows[column].fillna(missing).astype(object) if missing else rows[column].astype(object)
    for name in sorted(names.dropna().unique()):
        inside = (names == name).to_numpy(bool)
        members = inside
        if within is not None:
            members = np.zeros(len(within), bool)
            members[within] = inside
        yield Stratum(column, str(name), of, members)


def _numbers(rows: pd.DataFrame, column: str) -> npt.NDArray[np.float64]:
    """A column as float64; all NaN where there is none."""
    if column not in rows:
        return np.full(len(rows), np.nan)
    return np.asarray(rows[column].to_numpy(np.float64, na_value=np.nan))


def stratified(rows: pd.DataFrame, others: pd.DataFrame | None, config: EvaluateConfig) -> dict[str, Any]:
    """The section ``strata`` of ``metrics.json``.

    The threshold of an overall FPR of 1e-2 is the judged split's, the same for all strata; the intervals of what is found or
    let through at it hold it fixed.

    Parameters
    ----------
    rows
        Judged rows with ``label, logit``.
    others
        Scored rows of other splits, with ``split``, for the comparison of splits.

    Returns
    -------
    dict
        ``threshold`` (logit), ``smallest``, ``edges`` of the bins, ``groups`` (a list of strata per kind) and ``brick``.
    """
    counts = roc.compress(rows["label"], rows["logit"])
    threshold = roc.threshold_at_fpr(counts, OVERALL_FPR) if roc.allowed(OVERALL_FPR, counts.n_negative) else None
    groups: dict[str, list[dict[str, Any]]] = {}
    for stratum in strata_of(rows):
        groups.setdefault(stratum.kind, []).append(_figures(rows, stratum, threshold, config))
    everything = rows if others is None else pd.concat([rows, others])
    for stratum in _named(everything, "split", "both"):
        groups.setdefault("split", []).append(_figures(everything, stratum, threshold, config))
    return {
        "overall_fpr": OVERALL_FPR,
        "overall_fpr_measurable": roc.allowed(OVERALL_FPR, int((rows["label"] == 0).sum())) > 0,
        "logit_threshold": threshold if threshold is not None and np.isfinite(threshold) else None,
        "smallest": config.smallest_stratum,
        "edges": {
            "psf": {"of": "psfsize_r", "unit": "arcsec", "edges": list(PSF_EDGES_ARCSEC)},
            "depth": {"of": "psfdepth_r, 5 sigma", "unit": "mag", "edges": list(DEPTH_EDGES_MAG)},
            "theta_e": {"of": "theta_e", "unit": "arcsec", "edges": list(THETA_E_EDGES)},
        },
        "groups": groups,
        "brick": brick_spread(rows, config.smallest_stratum),
    }


def _figures(rows: pd.DataFrame, stratum: Stratum, threshold: float | None, config: EvaluateConfig) -> dict[str, Any]:
    """One stratum: AUC, completeness and false-positive rates, each with interval and n, or ``too_few``."""
    label, logit = (rows["label"] == 1).to_numpy(), rows["logit"].to_numpy(np.float64)
    positives = logit[label & (stratum.members if stratum.of != "others" else True)]
    negatives = logit[~label & (stratum.members if stratum.of != "lenses" else True)]
    found: dict[str, Any] = {"name": stratum.name, "n_positive": len(positives), "n_negative": len(negatives)}
    if min(len(positives), len(negatives)) < config.smallest_stratum:
        found["auc"] = {"too_few": True, "n_positive": len(positives), "n_negative": len(negatives)}
    else:
        sample = np.r_[np.ones(len(positives)), np.zeros(len(negatives))], np.r_[positives, negatives]
        area = intervals.bootstrap(roc.compress(*sample), {"auc": roc.auc}, config.resamples, config.seed)["auc"]
        found["auc"] = {"value": area.value, "low": area.low, "high": area.high,
                        "n_positive": len(positives), "n_negative": len(negatives)}  # fmt: skip
    if stratum.of != "others":
        found["tpr_at_overall_fpr_0.01"] = _above(positives, threshold, config.smallest_stratum)
    if stratum.of != "lenses":
        found["fpr_at_score_0.5"] = _share(negatives > 0, config.smallest_stratum)
        found["fpr_at_overall_fpr_0.01"] = _above(negatives, threshold, config.smallest_stratum)
    return found


def _above(logits: npt.NDArray[np.float64], threshold: float | None, smallest: int) -> dict[str, Any]:
    """Share at or above a threshold; too few where the sample allows none."""
    if threshold is None:
        return {"too_few": True, "hits": None, "n": len(logits)}
    return _share(logits >= threshold, smallest)


def _share(hits: Mask, smallest: int) -> dict[str, Any]:
    counts = {"hits": int(hits.sum()), "n": len(hits)}
    if len(hits) < smallest:
        return {"too_few": True, **counts}
    found = intervals.binomial(counts["hits"], counts["n"])
    return {"value": found.value, "low": found.low, "high": found.high, **counts}


def brick_spread(rows: pd.DataFrame, smallest: int) -> dict[str, Any]:
    """How much the AUC differs between bricks; bricks with too few of a class are counted, not judged.

    Much of the spread is chance: `smallest` objects of a class make an AUC uncertain by about a tenth.
    """
    if "brickname" not in rows or not rows["brickname"].notna().any():
        return {"too_few": True, "bricks": 0, "judged": 0}
    grouped = rows.groupby("brickname")
    lenses, size = grouped["label"].sum(), grouped.size()
    enough = size.index[np.minimum(lenses, size - lenses) >= smallest]
    counts = {"bricks": len(size), "judged": len(enough)}
    if len(enough) < 2:
        return {"too_few": True, **counts}
    kept = rows[rows["brickname"].isin(enough)]
    areas = [float(roc_auc_score(part["label"], part["logit"])) for _, part in kept.groupby("brickname")]
    return {**counts, "mean": float(np.mean(areas)), "std": float(np.std(areas, ddof=1)),
            "lowest": min(areas), "highest": max(areas)}  # fmt: skip
