"""Train a network on a manifest (R-T1 to R-T9).

    python -m ray_train.train --config configs/training/demo.yaml --output runs/demo inputs.manifest=manifests/audit

An interrupted run goes on from its last checkpoint when the same line is given again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lensdata import jobs, steps, storage, tables
from lensdata.config.base import config_hash, dump_yaml
from lensdata.config.training import TrainingConfig
from lensdata.steps import JobRun, Outcome
from ray_train import ray_environment
from ray_train.context import Lender, LocalContext, choose_device, use_threads
from ray_train.run_folder import RunFolder
from ray_train.trackers import Tracker, build_trackers
from ray_train.training import Plan, check_plan, recipe_of, run_training

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Surroundings:
    """What a study gives the runs that it starts in its own processes.

    Attributes
    ----------
    listeners
        Told of every epoch besides the configured trackers.
    lender
        Holds prepared stamps that several runs use.
    inherited
        A copy of another run to go on from (`RunFolder.copy_to`).
    """

    listeners: Sequence[Tracker] = ()
    lender: Lender | None = None
    inherited: Path | None = None


ALONE = Surroundings()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; returns its exit code."""
    return steps.run_job(jobs.find("train"), train, sys.argv[1:] if argv is None else list(argv))


def train(run: JobRun, surroundings: Surroundings = ALONE) -> Outcome:
    """Check everything here, then train where `execution.runtime` says; a study says what is around a local run."""
    config: TrainingConfig = run.config
    plan = Plan(
        config.model_dump(mode="json"), run.inputs["manifest"], run.output, run.inputs.get("init_from"), run.test_limit
    )
    folder = RunFolder(run.output)
    if surroundings.inherited is not None and not folder.records():
        folder.take_over(surroundings.inherited)
    facts = check_plan(plan)
    storage.write_bytes(folder.path("config.yaml"), dump_yaml(config).encode())
    storage.write_json(folder.path("run_info.json"), run_info(run, folder, facts))
    if config.execution.runtime == "ray":
        ray_environment.prepare()
        from ray_train.ray_backend import train_on_ray  # after the line above; and a local run needs no Ray

        train_on_ray(plan, config)
    else:
        train_here(plan, config, surroundings)
    return _outcome(folder)


def train_here(plan: Plan, config: TrainingConfig, surroundings: Surroundings = ALONE) -> None:
    """The same loop in this process."""
    folder = RunFolder(plan.output)
    use_threads(config.execution.threads)
    context = LocalContext(
        folder,
        recipe_of(config),
        choose_device(config.execution.device),
        fatal_health=config.health.fatal,
        trackers=[*build_trackers(config.trackers, folder, plan.config), *surroundings.listeners],
        lender=surroundings.lender,
    )
    run_training(plan, context)
    context.close()


def run_info(run: JobRun, folder: RunFolder, facts: dict[str, Any]) -> dict[str, Any]:
    """Who trained what, with what, where (R-T6)."""
    config: TrainingConfig = run.config
    described = storage.join(run.inputs["manifest"], "_table.json")
    return {
        "run_id": folder.run_id,
        **steps.provenance(run.argv),
        "resumed_after_epochs": len(folder.records()),
        "config": {**_config_file(run.argv), "hash": config_hash(config)},
        "manifest": {
            "uri": run.inputs["manifest"],
            "content": storage.read_json(described).get("content") if storage.exists(described) else None,
            "sha256": {
                name.rsplit("/", 1)[-1]: storage.sha256(name) for name in tables.dataset_files(run.inputs["manifest"])
            },
        },
        "init_from": run.inputs.get("init_from") or config.model.weights,
        "seed": config.seed,
        "model": config.model.arch,
        **facts,
        "hardware": hardware(config.execution.threads),
    }


def hardware(threads: int) -> dict[str, Any]:
    """The machine of the driver (with Ray on a cluster, workers may have another)."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads or os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def _config_file(argv: Sequence[str]) -> dict[str, Any]:
    """The configuration file of the command line, with its SHA-256."""
    for index, word in enumerate(argv):
        path = argv[index + 1] if word == "--config" and index + 1 < len(argv) else word.removeprefix("--config=")
        if word.startswith("--config"):
            return {"file": path, "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()}
    return {"file": None, "sha256": None}


def _outcome(folder: RunFolder) -> Outcome:
    """The identity of a run is what its best checkpoint says of every stamp."""
    rows, content = tables.finish_table(folder.path("scores"), tables.SCORES)
    best, last = (storage.read_json(folder.path(f"{name}.json")) for name in ("best", "last"))
    return Outcome(rows=rows, content=content, report={"best": best, "last": last})


if __name__ == "__main__":
    sys.exit(main())
