"""What comes out of a study: its trials' results, the winner trained on all data, the report (R-A3, R-A4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lensdata import steps, storage
from lensdata.audit.decision import Decision
from lensdata.audit.studies import TrialResult, read_trial
from lensdata.config.base import config_hash, validate
from lensdata.config.training import TrainingConfig
from lensdata.config.tuning import RangeConfig, StudyConfig
from lensdata.report.study import Study
from lensdata.shards.manifests import read_manifest
from lensdata.steps import JobFailed, JobRun
from ray_train.study import choices
from ray_train.training import pairs_of
from ray_train.trial import CONFIGS, FAILED, METRICS, RUNS, STOPPED, Task
from ray_train.trial_figures import Measured, network_figures

WINNER = "winner"  # begins the name of its training, beside the trials
Scores = tuple[npt.NDArray[Any], ...]


def collect(study: str, order: Sequence[str] = ()) -> list[TrialResult]:
    """The results of all trials that have ended, in the order given and then by name; the winner's later training is not one."""
    found = {}
    for kind in (FAILED, STOPPED):
        folder = storage.join(study, kind)
        for uri in storage.list_files(folder) if storage.exists(folder) else []:
            name = uri.rsplit("/", 1)[-1].removesuffix(".json")
            if not name.startswith(f"{WINNER}-"):
                found[name] = read_trial(uri)
    folder = storage.join(study, CONFIGS)
    for uri in storage.list_files(folder) if storage.exists(folder) else []:
        name = uri.rsplit("/", 1)[-1].removesuffix(".yaml")
        metrics = storage.join(study, RUNS, name, METRICS)
        if not name.startswith(f"{WINNER}-") and storage.exists(metrics):
            found[name] = read_trial(metrics)
    place = {name: number for number, name in enumerate(order)}
    return [found[name] for name in sorted(found, key=lambda name: (place.get(name, len(place)), name))]


def validation_scores(study: str, results: Sequence[TrialResult]) -> dict[str, Scores]:
    """Keys, labels and logits of the validation stamps of every finished trial."""
    out = {}
    for result in results:
        if result.status == "done":
            uri = storage.join(study, RUNS, result.trial, "scores", "dataset", "val.parquet")
            rows = pq.read_table(pa.BufferReader(storage.read_bytes(uri)), columns=["cutout_id", "label", "logit"])
            out[result.trial] = tuple(rows[name].to_numpy() for name in ("cutout_id", "label", "logit"))
    return out


def winner_task(task: Task) -> Task:
    """The training of a cell on all data, under a name of its own: another winner is another run."""
    return replace(task, trial=f"{WINNER}-{task.cell}")


def measure_winner(task: Task) -> TrialResult:
    """The winner's result, with what it does on the test split: read here, once, and nowhere else in a study (R-T10).

    Raises
    ------
    JobFailed
        Its training failed.
    """
    if not storage.exists(task.metrics):
        reason = (
            storage.read_json(task.other(FAILED))["reason"]
            if storage.exists(task.other(FAILED))
            else "it has no result"
        )
        raise JobFailed(f"the winner could not be trained on all data: {reason}")
    row = storage.read_json(task.metrics)
    if row["test_auroc"] is None:
        config = validate(TrainingConfig, task.config, task.trial)
        found = network_figures(Measured(task.run, task.manifest, config, task.test_limit), "test")
        row |= {
            "test_auroc": found["auroc"],
            "test_auroc_by_thetae": found["auroc_by_thetae"],
            "test_core_sensitivity": found["core_sensitivity"],
        }
        storage.write_json(task.metrics, row)
    return read_trial(task.metrics)


def study_of(
    run: JobRun, results: Sequence[TrialResult], reference: str, decision: Decision | None, winner: TrialResult | None
) -> Study:
    """Everything that the report is made of."""
    config: StudyConfig = run.config
    return Study(
        name=config.name,
        axes={
            name: () if isinstance(axis, RangeConfig) else tuple(choices(name, axis))
            for name, axis in config.axes.items()
        },
        seeds=config.seeds,
        reference=reference,
        trials=results,
        scores=validation_scores(run.output, results),
        decision=decision,
        winner=winner,
        notes=notes(run, results, decision),
        provenance={
            "commit": steps.git_commit(),
            "configuration": config_hash(config),
            "manifests": {name: manifest_content(uri) for name, uri in sorted(run.inputs.items())},
            "folder": run.final.rsplit("/", 1)[-1],
        },
    )


def notes(run: JobRun, results: Sequence[TrialResult], decision: Decision | None) -> list[str]:
    """What no table says: pairs that give themselves away, and a tree that does not ask whether a network is good."""
    config: StudyConfig = run.config
    paired = [uri for uri in run.inputs.values() if pairs_of(read_manifest(uri).layout().bands)]
    out = []
    if any("injection" in set(read_manifest(uri).column("kind").astype(str)) for uri in paired):
        out.append(
            "In the paired set a positive and its control share the noise of every pixel, and a stamp of label 0 and another host "
            "do not: a network need not see arcs to tell them apart, so its AUC is no measure of finding them."
        )
    if config.scheduler.name == "pbt":
        out.append(
            "Members of a population go on from each other's networks: spread and intervals over seeds are not those of "
            "independent trainings."
        )
    if decision is not None and decision.winner is not None and config.decision is not None:
        mine = [one.best_val_auroc for one in results if one.variants[config.decision.axis] == decision.winner]
        known = [auc for auc in mine if auc is not None]
        if known and sum(known) / len(known) <= config.decision.val_auc:
            out.append(
                f"The tree asks for shortcuts, not for skill: the validation AUC of {decision.winner}, "
                f"{sum(known) / len(known):.4f}, misses the target of {config.decision.val_auc:g} (R-E10)."
            )
    return out


def manifest_content(uri: str) -> str:
    """The content identity of a manifest."""
    described = storage.join(uri, "_table.json")
    return str(storage.read_json(described)["content"]) if storage.exists(described) else "unknown"
