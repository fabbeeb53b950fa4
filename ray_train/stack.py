"""Combine the scores of several runs, and find out whether that is better than their mean (R-M3).

    python -m ray_train.stack --output stacks/demo inputs.manifest=manifests/audit_70_15_15 \\
        inputs.members.resnet=runs/resnet inputs.members.shielded=runs/shielded

A member is a run folder, a table of scores (out-of-fold ones, say), or a table for either split: ``inputs.members.NAME.train=TABLE
inputs.members.NAME.val=TABLE``. The output is a table of scores, one row per form and stamp, and ``stacking.json`` with the
comparison.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from scipy import special

from lensdata import jobs, steps, storage, tables
from lensdata.audit import intervals, metadata, roc
from lensdata.audit.ensembles import leave_one_out
from lensdata.audit.metrics import blocks_of
from lensdata.audit.paired import paired_bootstrap
from lensdata.config.stack import CONDITIONS, StackConfig, completeness
from lensdata.errors import InputError
from lensdata.shards.manifests import read_manifest, require_classes
from lensdata.steps import JobRun, Outcome
from ray_train.stacking import (
    FEATURE_WEIGHTED,
    PARTS,
    Floats,
    Ints,
    Options,
    Sample,
    best_member,
    combined,
    features_alone,
    fold_numbers,
)
from ray_train.training import write_part

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
REFERENCES = ("best_member", "mean_logit")  # rows to compare with, never accepted
SIGNIFICANT = 0.05  # of p-values after Holm's correction
ALONE = (
    0.55  # AUC of the features alone whose lower limit may not lie above: weights of such features can be a shortcut
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; returns its exit code."""
    return steps.run_job(jobs.find("stack"), stack, sys.argv[1:] if argv is None else list(argv))


def stack(run: JobRun) -> Outcome:
    """Fit every form, score all rows, compare on the judged split."""
    config: StackConfig = run.config
    members = members_of(run.inputs)
    manifest = read_manifest(run.inputs["manifest"])
    require_classes(manifest, sorted({config.fit_on, config.judge_on}))
    rows, in_sample = joined(manifest.table.to_pandas(), members, config)
    sample, used = sample_of(rows, list(members), config)
    fitted = (rows["split"] == config.fit_on).to_numpy()
    fold = folds_of(sample, fitted, config)
    scores: dict[str, Floats] = {}
    for form in config.forms:
        scores[form] = combined(form, sample, fitted, fold, Options(config.seed, config.offset))
        log.info("form=%s", form)
    found = compare(rows, sample, list(members), scores, config) | {
        "members": list(members), "best_member": list(members)[best_member(sample.of(fitted))], "features": used,
        "fit_on": config.fit_on, "judge_on": config.judge_on, "folds": 0 if fold is None else config.folds,
        "folded_by": "stamp" if blocks_of(rows) is None else "patch of sky", "in_sample": in_sample,
        "leave_one_out": leave_one_out(
            sample.of(fitted).labels, sample.of(fitted).logits, list(members), config.fpr_levels, config.resamples, config.seed
        ),
    }  # fmt: skip
    table = pa.concat_tables(score_rows(rows, form, logit, fold, run) for form, logit in scores.items())
    write_part(table, storage.join(run.output, "dataset", "part-00000.parquet"))
    storage.write_json(storage.join(run.output, "stacking.json"), found)
    log.info("%s", found["message"])
    _, content = tables.content_hash([table])
    return Outcome(len(table), content, {"accepted": found["accepted"], "message": found["message"]})


# --- reading -----------------------------------------------------------------------------------------------------------


def members_of(inputs: dict[str, str]) -> dict[str, dict[str, str]]:
    """Tables of every member by the split that they are given for, "" for all splits."""
    members: dict[str, dict[str, str]] = {}
    for name, uri in inputs.items():
        if not name.startswith("members."):
            continue
        member, _, split = name.removeprefix("members.").partition(".")
        if split not in ("", *SPLITS):
            raise InputError(f"inputs.{name}: a member is one table, or one for each of train, val and test.")
        if uri in [known for given in members.values() for known in given.values()]:
            raise InputError(f"{uri} is given twice: each member, and each of its splits, needs a table of its own.")
        members.setdefault(member, {})[split] = uri
        if "" in members[member] and len(members[member]) > 1:
            raise InputError(f"Member {member} is given as one table and by splits; give one or the other.")
    if len(members) < 2:
        raise InputError(
            f"stack needs two members or more, found {len(members)}: give inputs.members.NAME=RUN for each."
        )
    return members


def joined(
    manifest: pd.DataFrame, members: dict[str, dict[str, str]], config: StackConfig
) -> tuple[pd.DataFrame, list[str]]:
    """Manifest rows that all members score, with a column ``logit NAME`` of each; members whose fit is in-sample.

    Raises
    ------
    InputError
        A member lacks a score for a row that is fitted or judged, has two for one, or one that is no number; it used a row as
        another split; or two members are one.
    """
    rows, in_sample = manifest, []
    needed = manifest["split"].isin([config.fit_on, config.judge_on]).to_numpy()
    for name, uris in members.items():
        own = scores_of(name, uris, manifest).rename(columns={"logit": f"logit {name}"})
        rows = rows.merge(own, on="cutout_id", how="left", validate="one_to_one")
        scored, in_fold = rows["member split"].notna(), rows["member fold"].notna()
        if missing := int((~scored & needed).sum()):
            raise InputError(
                f"Member {name} has no score for {missing} of {int(needed.sum())} rows of {config.fit_on} and {config.judge_on}."
            )
        if strange := int((scored & ~np.isfinite(rows[f"logit {name}"].astype(np.float64))).sum()):
            raise InputError(f"Member {name} has {strange} logits that are no finite number; score its stamps again.")
        if moved := int((scored & ~in_fold & (rows["member split"] != rows["split"])).sum()):
            raise InputError(f"Member {name} used {moved} of {len(rows)} rows as another split than the manifest.")
        if config.fit_on == "train" and (~in_fold & (rows["split"] == "train")).any():
            in_sample.append(name)
        rows = rows.drop(columns=["member split", "member fold"])
    rows = rows.dropna(subset=[f"logit {name}" for name in members])
    for one, two in combinations(members, 2):
        if (rows[f"logit {one}"] == rows[f"logit {two}"]).all():
            raise InputError(f"Members {one} and {two} have the same logits everywhere: they are one run.")
    if in_sample:
        log.warning("members=%s fit=in-sample: they were trained on the rows that fit the forms", ",".join(in_sample))
    return rows, in_sample


def scores_of(name: str, uris: dict[str, str], manifest: pd.DataFrame) -> pd.DataFrame:
    """A member's ``cutout_id, logit, member split, member fold``; of a table for one split, the rows of that split."""
    parts = []
    for split, uri in uris.items():
        address = storage.join(uri, "scores") if storage.exists(storage.join(uri, "run_info.json")) else uri
        scores = tables.read_table(address, tables.SCORES).to_pandas()
        if twice := int(scores["cutout_id"].duplicated().sum()):
            raise InputError(f"Member {name} ({uri}) scores {twice} stamps twice.")
        wanted = manifest if not split else manifest[manifest["split"] == split]
        parts.append(scores[scores["cutout_id"].isin(wanted["cutout_id"])])
    found = pd.concat(parts)[["cutout_id", "logit", "split", "fold"]]
    return found.rename(columns={"split": "member split", "fold": "member fold"})


def sample_of(rows: pd.DataFrame, members: list[str], config: StackConfig) -> tuple[Sample, list[str]]:
    """Logits and standardised features, with the names of these; a feature that is missing for a row has the median.

    Raises
    ------
    InputError
        A feature is text; or one that was asked for is not in the manifest. Of the default ones, those that are there serve.
    """
    used = [name for name in config.features if name in rows and rows[name].notna().any()]
    absent = sorted(set(config.features) - set(used))
    text = [name for name in used if not pd.api.types.is_numeric_dtype(rows[name])]
    if text or (absent and config.features != CONDITIONS):
        wrong = [f"no column {', '.join(absent)} with a value"] * bool(absent) + [f"text in {', '.join(text)}"] * bool(
            text
        )
        raise InputError(f"features have to be columns of numbers; the manifest has {' and '.join(wrong)}.")
    fitted = (rows["split"] == config.fit_on).to_numpy()
    columns = []
    for name in used:
        values = rows[name].to_numpy(np.float64, na_value=np.nan)
        known = values[fitted][~np.isnan(values[fitted])]
        centre, spread = (np.median(known), np.std(known)) if known.size else (0.0, 0.0)
        columns.append(np.nan_to_num((values - centre) / (spread or 1.0), nan=0.0))
    features = np.stack(columns, axis=1) if columns else np.empty((len(rows), 0))
    logits = rows[[f"logit {name}" for name in members]].to_numpy(np.float64)
    blocks = blocks_of(rows)
    groups = np.arange(len(rows)) if blocks is None else blocks
    return Sample(logits, features, rows["label"].to_numpy(np.int64), groups), used


def folds_of(sample: Sample, fitted: npt.NDArray[np.bool_], config: StackConfig) -> Ints | None:
    """Fold of every fitted row, -1 for the others; None where another split judges."""
    if config.fit_on != config.judge_on:
        return None
    fold = np.full(len(fitted), -1)
    fold[fitted] = fold_numbers(sample.of(fitted), config.folds, config.seed)
    return fold


# --- judging -----------------------------------------------------------------------------------------------------------


def compare(
    rows: pd.DataFrame, sample: Sample, members: list[str], scores: dict[str, Floats], config: StackConfig
) -> dict[str, Any]:
    """Every form's figures on the judged split, and whether it beats each member and the mean logit.

    A form is accepted if its completeness is higher than that of all these at every false-positive rate, each with a paired
    interval above zero and with p < 0.05 after Holm's correction over forms, references and rates. A rate that allows no false
    positive among this many negatives cannot be judged, and nothing is accepted on it; nor is a form whose features alone tell
    the classes apart. Of several, the one of the highest completeness at the lowest rate is taken.
    """
    judged = (rows["split"] == config.judge_on).to_numpy()
    part, shown = sample.of(judged), rows[judged]
    references = {f"members.{name}": part.logits[:, place] for place, name in enumerate(members)}
    references["mean_logit"] = part.logits.mean(axis=1)
    alone = (
        features_alone(part, config.folds or PARTS, config.resamples, config.seed)
        if set(FEATURE_WEIGHTED) & set(scores)
        else None
    )
    negatives = int((part.labels == 0).sum())
    unmeasured = [level for level in config.fpr_levels if level * negatives * roc.ROUNDING < 1]
    forms: dict[str, dict[str, Any]] = {}
    for form, logit in scores.items():
        own = logit[judged]
        against = {} if form == "best_member" else {name: other for name, other in references.items() if name != form}
        forms[form] = figures(part.labels, own, against, unmeasured, config)
        # weights that follow the observing conditions can become a shortcut of their own
        others = shown.assign(logit=own)[part.labels == 0]
        forms[form]["conditions"] = metadata.verdict(metadata.regression(others, 100, config.seed))
        if form in FEATURE_WEIGHTED:
            forms[form]["features_alone"] = alone
    accepted, message = accept(forms, negatives, unmeasured, config)
    sizes = {"n_positive": int(part.labels.sum()), "n_negative": negatives}
    return {
        "forms": forms,
        "accepted": accepted,
        "message": message,
        **sizes,
        "unmeasured_fpr": [f"{level:g}" for level in unmeasured],
    }


def figures(
    labels: Ints, own: Floats, references: dict[str, Floats], unmeasured: list[float], config: StackConfig
) -> dict[str, Any]:
    """A form's metrics, and its paired differences from each reference; null at rates that allow no false positive."""
    rates = {completeness(level): partial(roc.tpr_at_fpr, level=level) for level in config.fpr_levels}
    wanted: dict[str, Any] = {"auc": roc.auc, **rates}
    drawn = (config.resamples, config.seed)
    found = intervals.bootstrap(
        roc.compress(labels, own), {**wanted, "average_precision": roc.average_precision}, *drawn
    )
    against = {name: paired_bootstrap(labels, own, other, wanted, *drawn) for name, other in references.items()}
    entry: dict[str, Any] = {
        "metrics": {name: _plain(value) for name, value in found.items()},
        "against": {
            name: {key: _plain(value) | {"p_value": value.p_value} for key, value in differences.items()}
            for name, differences in against.items()
        },
    }
    reason = f"{int((labels == 0).sum())} negatives allow no false positive"
    for name in map(completeness, unmeasured):
        for place in (entry["metrics"], *entry["against"].values()):
            place[name] = {"value": None, "low": None, "high": None, "reason": reason}
    return entry


def accept(
    forms: dict[str, dict[str, Any]], negatives: int, unmeasured: list[float], config: StackConfig
) -> tuple[str | None, str]:
    """The form to use, if any, and a sentence; adds ``accepted`` or the ``reason`` why not, and Holm's p-values, to the forms."""
    candidates = {form: entry for form, entry in forms.items() if form not in REFERENCES}
    tests = [
        found for entry in candidates.values() for against in entry["against"].values() for found in _rates(against)
    ]
    p_values = [test["p_value"] for test in tests]
    for test, corrected in zip(tests, intervals.holm(p_values) if tests else (), strict=True):
        test["p_holm"] = float(corrected)
    for form, entry in forms.items():
        entry["accepted"] = form in candidates
    nobody = _why_nobody(candidates, len(tests), negatives, unmeasured, config)
    for entry in candidates.values():
        if reason := nobody or _shortcut(entry) or _not_better(entry):
            entry |= {"accepted": False, "reason": reason}
    lowest = completeness(min(config.fpr_levels))
    best = max(
        (form for form, entry in candidates.items() if entry["accepted"]),
        key=lambda form: [forms[form]["metrics"][name]["value"] for name in (lowest, "auc")], default=None,
    )  # fmt: skip
    if best is not None:
        return best, f"{best} beats every member and the mean logit at every false-positive rate."
    if nobody is not None:
        return None, f"No combination can be accepted: {nobody}."
    refused = [f" {form} is refused: {reason}." for form, entry in candidates.items() if (reason := _shortcut(entry))]
    return None, f"No combination is shown to be better than every member and the mean logit.{''.join(refused)}"


def _rates(against: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Differences in completeness from a reference, where the rate is measurable."""
    return [found for name, found in against.items() if name != "auc" and found["value"] is not None]


def _why_nobody(
    candidates: dict[str, Any], tests: int, negatives: int, unmeasured: list[float], config: StackConfig
) -> str | None:
    if not candidates:
        return f"forms has nothing besides {' and '.join(REFERENCES)}"
    if unmeasured:
        return f"{negatives} negatives do not allow a false positive at FPR {', '.join(f'{level:g}' for level in unmeasured)}"
    least = 2 / (config.resamples + 1)  # p-value that so many resamples can show
    if least * tests >= SIGNIFICANT:
        return (f"{config.resamples} resamples cannot show p < {SIGNIFICANT:g} among {tests} comparisons; "
                f"take {round(2 * tests / SIGNIFICANT)} or more")  # fmt: skip
    return None


def _shortcut(entry: dict[str, Any]) -> str | None:
    alone = entry.get("features_alone")
    if not alone or alone["value"] is None or alone["low"] <= ALONE:
        return None
    return f"its features alone tell lenses from others (AUC {alone['value']:.3f}, {alone['low']:.3f} to {alone['high']:.3f})"


def _not_better(entry: dict[str, Any]) -> str | None:
    left = [
        name for name, against in entry["against"].items()
        if any(found["low"] <= 0 or found["p_holm"] >= SIGNIFICANT for found in _rates(against))
    ]  # fmt: skip
    return f"not shown to be better than {', '.join(left)}" if left else None


def score_rows(rows: pd.DataFrame, form: str, logit: Floats, fold: Ints | None, run: JobRun) -> pa.Table:
    """A form's scores in their declared columns."""
    count = len(rows)
    columns = {
        "run_id": pa.array([run.final.rstrip("/").rsplit("/", 1)[-1]] * count, pa.string()),
        "model": pa.array([form] * count, pa.string()),
        "fold": pa.nulls(count, pa.int8()) if fold is None else pa.array(fold, pa.int8(), mask=fold < 0),
        "logit": pa.array(logit.astype(np.float32)),
        "score": pa.array(special.expit(logit).astype(np.float32)),
        "tier": pa.array(rows["tier"], pa.string(), from_pandas=True)
        if "tier" in rows
        else pa.nulls(count, pa.string()),
    }
    columns |= {name: pa.array(rows[name]) for name in ("cutout_id", "split", "label", "sample_weight")}
    return tables.validate(pa.table(columns), tables.SCORES, form)


def _plain(found: Any) -> dict[str, float]:
    return {"value": found.value, "low": found.low, "high": found.high}


if __name__ == "__main__":
    sys.exit(main())
