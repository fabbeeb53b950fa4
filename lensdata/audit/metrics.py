"""The numbers of a report from scores joined to their manifest (R-E1)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lensdata.audit import blocks, intervals, roc
from lensdata.audit.delong import delong
from lensdata.audit.intervals import Interval, binomial
from lensdata.audit.paired import paired_bootstrap
from lensdata.config.evaluation import EvaluateConfig
from lensdata.errors import InputError
from lensdata.hashing import cutout_id

PARTIAL_FPR = 1e-2
RECALLS, PRECISION = (0.9, 0.95), 0.95  # R-E1
FEW_LENSES = 5  # behind half of an AUC's loss: intervals of such samples hold the truth too seldom (test_coverage.py)
TPR_ALLOWED = {"tpr0": 0, "tpr10": 9}  # false positives; "fewer than 10" (Metcalf et al. 2019, A&A 625, A119)
TITLES = {
    "auc": "AUC",
    "average_precision": "average precision",
    f"partial_auc_{PARTIAL_FPR:g}": f"partial AUC to FPR {PARTIAL_FPR:g} (McClish: 0.5 chance, 1 perfect)",
    "tpr0": "TPR0: completeness before the first false positive",
    "tpr10": "TPR10: completeness with fewer than 10 false positives",
    f"recall_at_precision_{PRECISION:g}": f"recall at precision {PRECISION:g}",
}


def entry(title: str, found: Interval, n_positive: int, n_negative: int | None, **more: Any) -> dict[str, Any]:
    """One metric of ``metrics.json``."""
    return {"title": title, "value": found.value, "low": found.low, "high": found.high,
            "n_positive": n_positive, "n_negative": n_negative, **more}  # fmt: skip


def headline_figures(config: EvaluateConfig, size: int) -> dict[str, Any]:
    """Functions of ROC curves by name: everything that is given with a bootstrap interval."""
    wanted: dict[str, Any] = dict(intervals.figures(config.fpr_levels))
    wanted[f"partial_auc_{PARTIAL_FPR:g}"] = partial(roc.partial_auc, max_fpr=PARTIAL_FPR)
    wanted |= {name: partial(roc.tpr_at_count, allowed=allowed) for name, allowed in TPR_ALLOWED.items()}
    wanted |= {f"precision_at_recall_{r:g}": partial(roc.precision_at_recall, recall=r) for r in RECALLS}
    wanted[f"recall_at_precision_{PRECISION:g}"] = partial(roc.recall_at_precision, wanted=PRECISION)
    return wanted | {f"top_{k}": partial(roc.precision_in_top, size=k) for k in config.top_k if k <= size}


def ranking(rows: pd.DataFrame, config: EvaluateConfig) -> dict[str, dict[str, Any]]:
    """Every ranking metric with its interval and what is behind it.

    Of two intervals, over objects and over patches of sky, the wider is given and ``interval`` names it. The AUC also has
    DeLong's, plain and in the logit. Over objects the AUC's interval is studentised, all others are percentiles.
    """
    counts = roc.compress(rows["label"], rows["logit"])
    wanted = headline_figures(config, len(rows))
    by_object = intervals.bootstrap(counts, wanted, config.resamples, config.seed)
    by_sky, why_not = _over_sky(rows, wanted, config)
    found = {}
    for name in wanted:
        one, two = (_with_binomial(name, either[name], counts) for either in (by_object, by_sky or by_object))
        sky = two.high - two.low > one.high - one.low
        more: dict[str, Any] = {"interval": "bootstrap over patches of sky" if sky else "bootstrap over objects"}
        more |= {"by_object": [one.low, one.high], "by_sky": [two.low, two.high] if by_sky else None}
        if why_not:
            more["by_sky_reason"] = why_not
        more |= _behind(name, two, rows, counts)
        found[name] = entry(_title(name), two if sky else one, counts.n_positive, counts.n_negative, **more)
    if min(counts.n_positive, counts.n_negative) > 1:
        area = delong(rows["label"], rows["logit"])
        for key, limits in (("delong", area.interval()), ("delong_logit", area.logit_interval())):
            found["auc"][key] = [limits.low, limits.high]
    return found


def _over_sky(
    rows: pd.DataFrame, wanted: dict[str, Any], config: EvaluateConfig
) -> tuple[dict[str, Interval] | None, str | None]:
    """Intervals over blocks of sky, or the reason why there are none."""
    block = blocks_of(rows)
    if block is None:
        return None, "the manifest has no HEALPix pixels"
    try:
        return blocks.block_bootstrap(rows["label"], rows["logit"], block, wanted, config.resamples, config.seed), None
    except blocks.TooFewBlocks as error:
        return None, str(error)


def blocks_of(rows: pd.DataFrame) -> npt.NDArray[np.int64] | None:
    """Blocks of sky of the rows: HEALPix pixels, joined where duplicates span them; None where pixels are not known."""
    if "healpix_128" not in rows or rows["healpix_128"].isna().any():
        return None
    known = "group_id" in rows and rows["group_id"].notna().all()
    return blocks.sky_blocks(rows["healpix_128"], rows["group_id"] if known else None)


def _with_binomial(name: str, found: Interval, counts: roc.GapCounts) -> Interval:
    """A precision at least as uncertain as a fraction of the objects it is of: a pure list stays pure when resampled."""
    if name.startswith("top_"):
        trials = int(name.removeprefix("top_"))
    elif name.startswith("precision_at_recall_") and found.value > 0:
        hits = np.ceil(float(name.removeprefix("precision_at_recall_")) * counts.n_positive / roc.ROUNDING)
        trials = round(hits / found.value)
    else:
        return found
    return intervals.widened(found, binomial(round(found.value * trials), trials))


def _title(name: str) -> str:
    if name.startswith("tpr_at_fpr_"):
        return f"completeness at FPR {name.removeprefix('tpr_at_fpr_')}"
    if name.startswith("precision_at_recall_"):
        return f"precision at recall {name.removeprefix('precision_at_recall_')}"
    return TITLES.get(name) or f"share of lenses among the {name.removeprefix('top_')} highest scores"


def _behind(name: str, found: Interval, rows: pd.DataFrame, counts: roc.GapCounts) -> dict[str, Any]:
    """What a completeness rests on: false positives, how many were allowed, and the threshold; lenses of a top list."""
    if name == "auc":
        behind = roc.behind_half_of_loss(counts)
        few = f"half of what is missing to 1 rests on {behind} lens{'' if behind == 1 else 'es'}: the interval may be too narrow"
        return {"lenses_behind_half_of_loss": behind} | ({"note": few} if 0 < behind < FEW_LENSES else {})
    if name.startswith("top_"):
        size = int(name.removeprefix("top_"))
        return {"lenses_found": found.value * size, "lenses": counts.n_positive}
    if name in TPR_ALLOWED:
        allowed = TPR_ALLOWED[name]
    elif name.startswith("tpr_at_fpr_"):
        allowed = roc.allowed(float(name.removeprefix("tpr_at_fpr_")), counts.n_negative)
    else:
        return {}
    threshold = roc.threshold_at_count(counts, allowed)
    false = int(((rows["label"] == 0) & (rows["logit"] >= threshold)).sum())
    limit: dict[str, Any] = {"logit_threshold": threshold if np.isfinite(threshold) else None}
    if name == "tpr0":  # the bootstrap fails for an extreme; the figure is that of test_coverage.py
        limit["note"] = "rests on the single highest negative: its intervals hold the truth in about 8 of 10 samples"
    if name in TPR_ALLOWED:  # of TPR0 none is allowed by definition: the page would call it not measurable
        return {"false_positives_at_most": allowed, "false_positives_behind": false, **limit}
    return {"false_positives": false, "false_positives_allowed": allowed, **limit}


def at_half(rows: pd.DataFrame) -> dict[str, Any]:
    """Confusion matrix, accuracy, completeness, precision and false-positive rate at a score of 0.5."""
    predicted, label = rows["logit"] > 0, rows["label"] == 1
    true, false = int((predicted & label).sum()), int((predicted & ~label).sum())
    matrix = {
        "true_positive": true,
        "false_positive": false,
        "true_negative": int((~predicted & ~label).sum()),
        "false_negative": int((~predicted & label).sum()),
    }
    shares = {
        "completeness": binomial(true, int(label.sum())),
        "precision": binomial(true, true + false),
        "false_positive_rate": binomial(false, int((~label).sum())),
    }
    return {"accuracy": float((predicted == label).mean()), **matrix} | {
        name: _share(found, "nothing scores above 0.5") for name, found in shares.items()
    }


def accuracy(rows: pd.DataFrame) -> dict[str, Any]:
    """Share of objects on the right side of a score of 0.5; with few lenses it is mostly the share of others."""
    right = ((rows["logit"] > 0) == (rows["label"] == 1)).sum()
    positives = int((rows["label"] == 1).sum())
    return entry("accuracy at score 0.5", binomial(int(right), len(rows)), positives, len(rows) - positives)


def purity(rows: pd.DataFrame, config: EvaluateConfig) -> dict[str, Any]:
    """Share of lenses to expect above each threshold where lenses are as rare as in a survey.

    prevalence * TPR / (prevalence * TPR + (1 - prevalence) * FPR), at a score of 0.5 and at the thresholds of the fixed
    false-positive rates. The interval holds the threshold fixed and lets both rates vary as their Jeffreys posteriors; it
    holds if a survey's lenses and galaxies look like the sample's.
    """
    counts = roc.compress(rows["label"], rows["logit"])
    logit, lens = rows["logit"].to_numpy(np.float64), (rows["label"] == 1).to_numpy()
    above = {"score > 0.5": logit > 0}
    for level in config.fpr_levels:
        above[f"FPR {level:g}"] = logit >= roc.threshold_at_fpr(counts, level)
    unmeasured = {f"FPR {level:g}" for level in config.fpr_levels if not roc.allowed(level, counts.n_negative)}
    found: list[dict[str, Any]] = []
    for name, passed in above.items():
        if name in unmeasured:
            reason = f"{counts.n_negative} others allow no false positive at this rate"
            found.append({"threshold": name, "n_positive": counts.n_positive, "n_negative": counts.n_negative,
                          "value": None, "low": None, "high": None, "reason": reason})  # fmt: skip
            continue
        true, false = int((passed & lens).sum()), int((passed & ~lens).sum())
        expected = purity_interval(
            (true, counts.n_positive), (false, counts.n_negative), config.survey_prevalence, config.seed
        )
        found.append(
            {"threshold": name, "true_positives": true, "false_positives": false, "n_positive": counts.n_positive,
             "n_negative": counts.n_negative, **_share(expected, "nothing passes this threshold")}
        )  # fmt: skip
    return {"prevalence": config.survey_prevalence, "thresholds": found}


def purity_interval(true: tuple[int, int], false: tuple[int, int], prevalence: float, seed: int) -> Interval:
    """Purity at a prevalence with its 95% interval, from (found, of how many) of lenses and of others.

    >>> round(purity_interval((80, 100), (10, 100_000), 1e-4, 0).value, 2)
    0.44
    """
    rng = np.random.default_rng(seed)
    rates = [np.r_[hits / trials, rng.beta(hits + 0.5, trials - hits + 0.5, 20_000)] for hits, trials in (true, false)]
    lenses, others = prevalence * rates[0], (1 - prevalence) * rates[1]
    expected = lenses / np.maximum(lenses + others, np.finfo(float).tiny)
    low, high = intervals.percentiles(expected[1:])
    if false[0] == 0:
        high = 1.0
    value = float(expected[0]) if true[0] + false[0] else float("nan")
    return Interval(value, 0.0 if true[0] == 0 else low, high)


def _share(found: Interval, reason: str) -> dict[str, Any]:
    """An interval for JSON: null with a reason where there is no value."""
    if np.isnan(found.value):
        return {"value": None, "low": None, "high": None, "reason": reason}
    return {"value": found.value, "low": found.low, "high": found.high}


def confuser_rates(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """False-positive rate per confuser category, at a score of 0.5 and at the threshold of an overall FPR of 1e-2."""
    counts = roc.compress(rows["label"], rows["logit"])
    threshold = roc.threshold_at_fpr(counts, 1e-2)
    measurable = roc.allowed(1e-2, counts.n_negative) > 0
    negatives = rows[rows["label"] == 0]
    groups = (
        negatives["confuser"].fillna("no category")
        if "confuser" in negatives
        else pd.Series("all", index=negatives.index)
    )
    out = []
    kinds = list(negatives.groupby(groups)) if groups.nunique() > 1 else []
    for name, group in [("all negatives", negatives), *kinds]:
        rules = {"score > 0.5": group["score"] > 0.5}
        if measurable:
            rules["overall FPR 0.01"] = group["logit"] >= threshold
        for rule, hits in rules.items():
            found = binomial(int(hits.sum()), len(group))
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
    if not len(paired):
        raise InputError(
            f"The controls hold none of the {len(lenses)} judged lenses: their keys are those of kind control."
        )
    negatives = rows.loc[rows["label"] == 0, "logit"]
    both = pd.concat([paired["logit_control"], negatives])
    label = np.r_[np.ones(len(paired)), np.zeros(len(negatives))]
    found = intervals.bootstrap(roc.compress(label, both), {"auc": roc.auc}, config.resamples, config.seed)["auc"]
    above = binomial(int((paired["logit"] > paired["logit_control"]).sum()), len(paired))
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
        roc.compress(rows["label"], rows["catalogue_score"]), {"auc": roc.auc}, config.resamples, config.seed
    )["auc"]
    positives = int((rows["label"] == 1).sum())
    return entry("AUC of a catalogue-only classifier", found, positives, len(rows) - positives)


def above_catalogue(rows: pd.DataFrame, config: EvaluateConfig) -> dict[str, Any]:
    """How much more than the catalogue-only classifier the network knows: AUC less AUC, of the same objects."""
    found = paired_bootstrap(
        rows["label"], rows["logit"], rows["catalogue_score"], {"auc": roc.auc}, config.resamples, config.seed
    )["auc"]
    positives = int((rows["label"] == 1).sum())
    interval = Interval(found.value, found.low, found.high)
    return entry(
        "AUC of the network less that of the catalogue",
        interval,
        positives,
        len(rows) - positives,
        p_value=found.p_value,
    )
