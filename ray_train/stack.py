"""Combine the scores of several runs, and find out whether that is better than their mean (R-M3).

    python -m ray_train.stack --output stacks/demo inputs.manifest=manifests/audit_70_15_15 \\
        inputs.members.resnet=runs/resnet inputs.members.shielded=runs/shielded

A member is a run folder, or a table of scores (out-of-fold ones, say). The output is a table of scores, one row per form and
stamp, and ``stacking.json`` with the comparison.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from lensdata import jobs, steps, storage, tables
from lensdata.audit import intervals, roc
from lensdata.audit.paired import paired_bootstrap
from lensdata.config.stack import StackConfig
from lensdata.errors import InputError
from lensdata.shards.manifests import read_manifest, require_classes
from lensdata.steps import JobRun, Outcome
from ray_train.core import stacking
from ray_train.training import write_scores

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
REFERENCES = ("best_member", "mean_logit")  # what a combination has to beat


@dataclass(frozen=True)
class Sample:
    """Members' logits (N, k), features (N, F) as they are in the manifest, and labels (N,)."""

    logits: Floats
    features: Floats
    labels: npt.NDArray[np.int64]

    def of(self, rows: npt.NDArray[Any]) -> Sample:
        """Some of the rows."""
        return Sample(self.logits[rows], self.features[rows], self.labels[rows])


Predictor = Callable[[Sample], Floats]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; returns its exit code."""
    return steps.run_job(jobs.find("stack"), stack, sys.argv[1:] if argv is None else list(argv))


def stack(run: JobRun) -> Outcome:
    """Fit every form, score all rows, compare on the judged split."""
    config: StackConfig = run.config
    members = {name.removeprefix("members."): uri for name, uri in run.inputs.items() if name.startswith("members.")}
    if len(members) < 2:
        raise InputError(
            f"stack needs two members or more, found {len(members)}: give inputs.members.NAME=RUN for each."
        )
    manifest = read_manifest(run.inputs["manifest"])
    require_classes(manifest, sorted({config.fit_on, config.judge_on}))
    rows, in_sample = joined(manifest.table.to_pandas(), members, config.fit_on)
    sample, used = sample_of(rows, list(members), config)
    fold = folds_of(rows, config)
    scores, chosen = {}, ""
    for form in config.forms:
        scores[form] = combined(FORMS[form], sample, rows["split"].to_numpy(str), fold, config)
        log.info("form=%s", form)
    if "best_member" in scores:
        chosen = list(members)[_best(sample.of(rows["split"].to_numpy(str) == config.fit_on))]
    found = compare(rows, scores, config) | {
        "members": list(members), "best_member": chosen, "features": used, "fit_on": config.fit_on, "judge_on": config.judge_on,
        "folds": config.folds if fold is not None else 0, "in_sample": in_sample,
    }  # fmt: skip
    table = pa.concat_tables(score_rows(rows, form, logit, fold, run) for form, logit in scores.items())
    write_scores(table, storage.join(run.output, "dataset", "part-00000.parquet"))
    storage.write_json(storage.join(run.output, "stacking.json"), found)
    log.info("%s", found["message"])
    _, content = tables.content_hash([table])
    return Outcome(len(table), content, {"accepted": found["accepted"], "message": found["message"]})


# --- reading -----------------------------------------------------------------------------------------------------------


def joined(manifest: pd.DataFrame, members: dict[str, str], fit_on: str) -> tuple[pd.DataFrame, list[str]]:
    """Manifest rows that are fitted or judged, with a column ``logit NAME`` per member; members whose fit is in-sample.

    Raises
    ------
    InputError
        A member has no score for a row, two for one, or used a row as another split.
    """
    rows, in_sample = manifest, []
    for name, uri in members.items():
        address = storage.join(uri, "scores") if storage.exists(storage.join(uri, "run_info.json")) else uri
        scores = tables.read_table(address, tables.SCORES).to_pandas()
        if scores["cutout_id"].duplicated().any():
            raise InputError(
                f"Member {name} ({uri}) scores {int(scores['cutout_id'].duplicated().sum())} stamps twice."
            )
        own = scores[["cutout_id", "logit", "split"]].rename(
            columns={"logit": f"logit {name}", "split": "member split"}
        )
        rows = rows.merge(own, on="cutout_id", how="left", validate="one_to_one")
        missing = rows[f"logit {name}"].isna() & rows["split"].isin(["train", "val", "test"])
        if missing.any():
            raise InputError(
                f"Member {name} ({uri}) has no score for {int(missing.sum())} of {len(rows)} rows of the manifest."
            )
        moved = int((rows["member split"] != rows["split"]).sum())
        out_of_fold = scores["fold"].notna().all()
        if moved and not out_of_fold:
            raise InputError(
                f"Member {name} ({uri}) used {moved} of {len(rows)} rows as another split than the manifest."
            )
        if fit_on == "train" and not out_of_fold:
            in_sample.append(name)
        rows = rows.drop(columns="member split")
    if in_sample:
        log.warning(
            "members=%s fit=in-sample: they were trained on the rows that fit the combinations", ",".join(in_sample)
        )
    return rows, in_sample


def sample_of(rows: pd.DataFrame, members: list[str], config: StackConfig) -> tuple[Sample, list[str]]:
    """Logits and standardised features; a feature that is missing for a row has the median."""
    used = [name for name in config.features if name in rows and rows[name].notna().any()]
    fitted = (rows["split"] == config.fit_on).to_numpy()
    columns = []
    for name in used:
        values = rows[name].to_numpy(np.float64, na_value=np.nan)
        centre, spread = np.nanmedian(values[fitted]), np.nanstd(values[fitted])
        columns.append(np.nan_to_num((values - centre) / (spread or 1.0), nan=0.0))
    features = np.stack(columns, axis=1) if columns else np.empty((len(rows), 0))
    logits = rows[[f"logit {name}" for name in members]].to_numpy(np.float64)
    return Sample(logits, features, rows["label"].to_numpy(np.int64)), used


def folds_of(rows: pd.DataFrame, config: StackConfig) -> npt.NDArray[np.int64] | None:
    """Fold of every row of the fitted split, -1 for the others, None without cross-fitting; HEALPix groups stay together."""
    if config.fit_on != config.judge_on:
        return None
    fitted = np.flatnonzero(rows["split"] == config.fit_on)
    part = rows.iloc[fitted]
    known = "healpix_128" in part and part["healpix_128"].notna().all()
    groups = part["healpix_128"].to_numpy(np.int64) if known else np.arange(len(part))
    smallest = int(part["label"].value_counts().min())
    if smallest < config.folds:
        raise InputError(
            f"{config.folds} folds need {config.folds} of either class in {config.fit_on}; found {smallest}."
        )
    fold = np.full(len(rows), -1)
    cut = StratifiedGroupKFold(config.folds, shuffle=True, random_state=config.seed)
    for number, (_, left_out) in enumerate(cut.split(fitted, part["label"], groups)):
        fold[fitted[left_out]] = number
    return fold


# --- combining ---------------------------------------------------------------------------------------------------------


def combined(
    form: Callable[[Sample, int], Predictor], sample: Sample, split: npt.NDArray[Any],
    fold: npt.NDArray[np.int64] | None, config: StackConfig,
) -> Floats:  # fmt: skip
    """Logits of all rows: of the fitted split by fits to its other folds, of the others by a fit to all of it."""
    fitted = split == config.fit_on
    out = form(sample.of(fitted), config.seed)(sample)
    if fold is not None:
        for number in range(config.folds):
            out[fold == number] = form(sample.of(fitted & (fold != number)), config.seed)(sample.of(fold == number))
    return out


def _best(fitted: Sample) -> int:
    """The member of the highest AUC."""
    return int(np.argmax([roc_auc_score(fitted.labels, logits) for logits in fitted.logits.T]))


def _best_member(fitted: Sample, _: int) -> Predictor:
    best = _best(fitted)
    return lambda sample: sample.logits[:, best].copy()


def _mean_logit(_: Sample, __: int) -> Predictor:
    return lambda sample: np.asarray(sample.logits.mean(axis=1))


def _mean_probability(_: Sample, __: int) -> Predictor:
    """As a logit, from sums of logarithms: probabilities near 1 would tie."""

    def predict(sample: Sample) -> Floats:
        one, other = (special.logsumexp(special.log_expit(sign * sample.logits), axis=1) for sign in (1, -1))
        return np.asarray(one - other)

    return predict


def _mean_rank(fitted: Sample, _: int) -> Predictor:
    """The mean share of the fitted rows that each member ranks below, as a logit."""
    ordered = np.sort(fitted.logits, axis=0)

    def predict(sample: Sample) -> Floats:
        size = len(ordered)
        below = [
            (np.searchsorted(known, values, "left") + np.searchsorted(known, values, "right") + 1) / (2 * size + 2)
            for known, values in zip(ordered.T, sample.logits.T, strict=True)
        ]
        return np.asarray(special.logit(np.mean(below, axis=0)))

    return predict


def _logistic(fitted: Sample, _: int) -> Predictor:
    clipped = fitted.logits.clip(-stacking.LOGIT_LIMIT, stacking.LOGIT_LIMIT)
    model = LogisticRegression(C=1.0, max_iter=1000).fit(clipped, fitted.labels)
    return lambda sample: np.asarray(
        model.decision_function(sample.logits.clip(-stacking.LOGIT_LIMIT, stacking.LOGIT_LIMIT))
    )


def _network(make: Callable[[int, int], torch.nn.Module], fitted: Sample, seed: int) -> Predictor:
    def tensors(sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(sample.logits), torch.from_numpy(sample.features)

    model = stacking.fit(make, *tensors(fitted), torch.from_numpy(fitted.labels.astype(np.float64)), seed)

    def predict(sample: Sample) -> Floats:
        with torch.no_grad():
            return np.asarray(model(*tensors(sample)).numpy())

    return predict


FORMS: dict[str, Callable[[Sample, int], Predictor]] = {
    "best_member": _best_member,
    "mean_probability": _mean_probability,
    "mean_logit": _mean_logit,
    "mean_rank": _mean_rank,
    "logistic": _logistic,
    "mlp": partial(_network, stacking.MlpCombiner),
    "weighted_free": partial(_network, stacking.FreeCombiner),
    "weighted_constrained": partial(_network, stacking.ConstrainedCombiner),
}


# --- judging -----------------------------------------------------------------------------------------------------------


def compare(rows: pd.DataFrame, scores: dict[str, Floats], config: StackConfig) -> dict[str, Any]:
    """Every form's figures on the judged split, and whether it beats the best member and the mean logit.

    A form is accepted if its completeness is higher than that of both at every false-positive rate, each with a paired interval
    above zero and with p < 0.05 after Holm's correction over forms, references and rates. A rate that allows no false positive
    among this many negatives cannot be judged, and nothing is accepted on it.
    """
    judged = (rows["split"] == config.judge_on).to_numpy()
    label = rows.loc[judged, "label"].to_numpy(np.int64)
    sizes = {"n_positive": int(label.sum()), "n_negative": int((label == 0).sum())}
    measurable = {level: int(np.floor(level * sizes["n_negative"] * (1 + 1e-12))) >= 1 for level in config.fpr_levels}
    forms: dict[str, dict[str, Any]] = {}
    for form, logit in scores.items():
        own = logit[judged]
        found = intervals.bootstrap(roc.compress(label, own), config.fpr_levels, config.resamples, config.seed)
        forms[form] = {"metrics": {name: _plain(value) for name, value in found.items()}, "against": {}}
        for reference in (name for name in REFERENCES if name in scores and name != form):
            other = paired_bootstrap(
                label, own, scores[reference][judged], config.fpr_levels, config.resamples, config.seed
            )
            forms[form]["against"][reference] = {name: _plain(d) | {"p_value": d.p_value} for name, d in other.items()}
    _accept(forms, measurable)
    accepted = [form for form, entry in forms.items() if entry["accepted"]]
    best = max(accepted, key=lambda form: forms[form]["metrics"]["auc"]["value"], default=None)
    unmeasured = [f"{level:g}" for level, enough in measurable.items() if not enough]
    if best is not None:
        message = f"{best} beats the best member and the mean logit at every false-positive rate."
    elif unmeasured:
        message = (f"No combination can be accepted: {sizes['n_negative']} negatives do not allow a false positive at FPR "
                   f"{', '.join(unmeasured)}.")  # fmt: skip
    else:
        message = "No combination is shown to be better than both the best member and the mean logit."
    return {"forms": forms, "accepted": best, "message": message, **sizes, "unmeasured_fpr": unmeasured}


def _accept(forms: dict[str, dict[str, Any]], measurable: dict[float, bool]) -> None:
    """Add ``accepted`` to every form, and Holm's p-values to its comparisons."""
    tests = [
        found
        for entry in forms.values()
        for against in entry["against"].values()
        for name, found in against.items()
        if name.startswith("tpr_at_fpr_") and measurable[float(name.removeprefix("tpr_at_fpr_"))]
    ]
    for test, corrected in zip(
        tests, intervals.holm([test["p_value"] for test in tests]) if tests else [], strict=True
    ):
        test["p_holm"] = float(corrected)
    for form, entry in forms.items():
        own = [
            found
            for against in entry["against"].values()
            for name, found in against.items()
            if name.startswith("tpr_at_fpr_")
        ]
        entry["accepted"] = (
            form not in REFERENCES and set(entry["against"]) == set(REFERENCES) and all(measurable.values())
            and all(found["low"] > 0 and found["p_holm"] < 0.05 for found in own)
        )  # fmt: skip


def score_rows(
    rows: pd.DataFrame, form: str, logit: Floats, fold: npt.NDArray[np.int64] | None, run: JobRun
) -> pa.Table:
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
