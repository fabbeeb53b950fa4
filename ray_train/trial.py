"""One trial of a study, in its own process: exactly `ray_train.train`, then the figures that a study compares (R-A3)."""

from __future__ import annotations

import logging
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from lensdata import jobs, steps, storage
from lensdata.config.base import validate
from lensdata.config.training import TrainingConfig
from lensdata.errors import InputError
from lensdata.hashing import text_hash
from lensdata.steps import JobFailed
from ray_train.run_folder import RunFolder
from ray_train.train import ALONE, Surroundings, train
from ray_train.trial_figures import Measured, gate_figures, network_figures

log = logging.getLogger(__name__)

METRICS, VERSION = "metrics.json", 1
FAILED, STOPPED, RUNS, CONFIGS, LOGS, PREPARED = "failed", "stopped", "trials", "configs", "logs", "prepared"


@dataclass(frozen=True)
class Task:
    """What the process of a trial needs to know; plain values, so that it travels."""

    study: str
    trial: str
    cell: str
    variants: dict[str, str]
    overrides: dict[str, Any]
    seed: int
    config: dict[str, Any]
    manifest: str
    test_limit: int | None
    gate_samples: int
    gpus: float = 0

    @property
    def run(self) -> str:
        """The run folder."""
        return storage.join(self.study, RUNS, self.trial)

    @property
    def metrics(self) -> str:
        """What a finished trial leaves."""
        return storage.join(self.run, METRICS)

    def other(self, kind: str) -> str:
        """What a failed or stopped trial leaves, `kind` being `FAILED` or `STOPPED`."""
        return storage.join(self.study, kind, f"{self.trial}.json")

    @property
    def facts(self) -> dict[str, Any]:
        """The trial's own part of its results."""
        return {
            "schema_version": VERSION, "trial": self.trial, "cell": self.cell, "variants": self.variants, "seed": self.seed,
            "overrides": self.overrides,
        }  # fmt: skip


def run_trial(task: Task, surroundings: Surroundings = ALONE) -> None:
    """Train and measure, or go on where it was; a failure is recorded, not raised."""
    with logged(task):
        while steps.process_in(task.run) is not None:  # the same cell, drawn twice by a search, is being trained
            time.sleep(1)
        if storage.exists(task.other(FAILED)):
            return
        try:
            steps.run_request(
                steps.parse(jobs.find("train"), arguments(task)), partial(train, surroundings=surroundings)
            )
            if not storage.exists(task.metrics):
                storage.write_json(task.metrics, task.facts | finished(task))
        except (InputError, JobFailed) as error:
            record_failure(task, str(error))
        except Exception as error:  # one trial's crash is a row of the table, with its stack in the log
            log.exception("trial=%s failed", task.trial)
            record_failure(task, f"{type(error).__name__}: {' '.join(str(error).split())[:400]}")


def arguments(task: Task) -> list[str]:
    """The command line of `ray_train.train` for this trial; its configuration file is written."""
    text = yaml.safe_dump(validate(TrainingConfig, task.config, task.trial).model_dump(mode="json"), sort_keys=False)
    address = storage.join(task.study, CONFIGS, f"{task.trial}.yaml")
    storage.write_bytes(address, text.encode())
    path = local_copy(address)
    path.write_text(text)
    limit = [] if task.test_limit is None else ["--test-limit", str(task.test_limit)]
    return ["--config", str(path), "--output", task.run, *limit, f"inputs.manifest={task.manifest}"]


def finished(task: Task) -> dict[str, Any]:
    """What a finished run says of itself, and what is measured of it on the validation split."""
    folder = RunFolder(task.run)
    config = validate(TrainingConfig, task.config, task.trial)
    if config.execution.runtime == "ray":  # the GPUs are the workers'; this process may have none
        config = config.model_copy(update={"execution": config.execution.model_copy(update={"device": "auto"})})
    records = folder.records()
    run = Measured(task.run, task.manifest, config, task.test_limit)
    best = curve_figures(records)["best_epoch"]
    found = network_figures(run, "val") | gate_figures(run, task.gate_samples, best)
    found.pop("auroc")  # of the same network as best_val_auroc, on the same stamps
    return {
        "status": "done", "reason": None, **curve_figures(records), **found, "test_auroc": None,
        "test_auroc_by_thetae": None, "test_core_sensitivity": None, "cost": cost(records, task.gpus, peak_bytes()),
    }  # fmt: skip


def curve_figures(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the records of the epochs say."""
    best = next((record for record in reversed(records) if record["best"]), None)
    return {
        "epochs": len(records),
        "best_epoch": None if best is None else best["epoch"],
        "best_val_auroc": None if best is None else best["val_auc"],
    }


def cost(records: Sequence[dict[str, Any]], gpus: float, peak: int | None = None) -> dict[str, Any] | None:
    """Time, speed and memory of the epochs that count: starting, scoring and what was repeated after a kill is not in it.

    Parameters
    ----------
    gpus
        Reserved, fractions too.
    peak
        Most memory of the process on a CPU, bytes; None where that is not this process.
    """
    if not records:
        return None
    seconds = sum(record["seconds"] + record["val_seconds"] for record in records)
    on_gpu = records[-1]["device"] == "cuda"
    on_gpu_most = max(
        (record["gpu_memory_bytes"] for record in records if record.get("gpu_memory_bytes")), default=None
    )
    return {
        "seconds": seconds,
        "images_per_second": sum(r["train_rows"] for r in records) / sum(r["seconds"] for r in records),
        "device": records[-1]["device"],
        "threads": records[-1]["threads"],
        "residency": records[-1]["residency"],
        "gpu_hours": seconds / 3600 * gpus if on_gpu else 0.0,
        "cpu_hours": 0.0 if on_gpu else seconds / 3600 * records[-1]["threads"],
        "peak_memory_bytes": on_gpu_most if on_gpu else peak,
    }


def peak_bytes() -> int:
    """Most memory that this process has had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def record_failure(task: Task, reason: str) -> None:
    """A row for the table: the study goes on without this trial."""
    records = RunFolder(task.run).records()
    log.error("trial=%s failed reason=%r", task.trial, reason)
    row = task.facts | {
        "status": "failed",
        "reason": reason,
        **curve_figures(records),
        "cost": cost(records, task.gpus),
    }
    storage.write_json(task.other(FAILED), row)


def record_stop(task: Task, reason: str) -> None:
    """A row for a trial that the scheduler did not let go on."""
    records = RunFolder(task.run).records()
    row = task.facts | {
        "status": "stopped",
        "reason": reason,
        **curve_figures(records),
        "cost": cost(records, task.gpus),
    }
    storage.write_json(task.other(STOPPED), row)


@contextmanager
def logged(task: Task) -> Iterator[None]:
    """Everything that is logged goes to the trial's own file, too; one that a killed process left is continued."""
    steps.setup_logging()
    address = storage.join(task.study, LOGS, f"{task.trial}.log")
    path = local_copy(address)
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
        if storage.is_s3(address):
            storage.write_bytes(address, path.read_bytes())


def local_copy(address: str) -> Path:
    """Where a file of the study lies on this machine: there itself, or a temporary file of the same name."""
    if not storage.is_s3(address):
        return storage.local_path(address)
    return Path(tempfile.gettempdir()) / f"lensdata-{text_hash(address)[:8]}-{address.rsplit('/', 1)[-1]}"
