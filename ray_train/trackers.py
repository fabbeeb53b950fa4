"""Where the curves of a run go besides `metrics.jsonl` (R-T7): TensorBoard, Weights & Biases, MLflow.

A tracker only listens: one that fails is dropped with a warning, and the training goes on. What a run is lies in its
folder; a tracker that missed some epochs is given them when the run is resumed.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from lensdata import storage
from lensdata.config.base import flattened
from lensdata.config.training import TrackersConfig
from lensdata.errors import InputError
from ray_train.core.loop import Record
from ray_train.run_folder import RunFolder

log = logging.getLogger(__name__)

CURVES = (
    "train_loss", "val_loss", "val_auc", "lr", "grad_norm_mean", "grad_norm_max", "images_per_second", "seconds",
    "val_accuracy_negative", "val_accuracy_positive",
)  # fmt: skip
RUN_TAG = "lensdata.run"  # the MLflow tag by which a resumed run finds itself
MLFLOW_PARAMETER_LENGTH = 6000
TAG_DIGITS = 16
PATIENCE_S = 60  # with a service that does not answer; no terminal is asked for a key longer than that either
MLFLOW_RETRIES = 2


class Tracker(Protocol):
    """Listens to a run; worker 0 has one of each that the configuration names."""

    def epoch_done(self, records: list[Record]) -> None:
        """Take the latest of these records."""
        ...

    def close(self) -> None:
        """The run has come to its end; not called when it is interrupted."""
        ...


def build_trackers(config: TrackersConfig, folder: RunFolder, run_config: dict[str, Any]) -> list[Tracker]:
    """The trackers that a configuration names.

    Parameters
    ----------
    config
        The section `trackers`.
    run_config
        The complete configuration, as plain values; it is shown beside the curves.

    Raises
    ------
    InputError
        The package of a tracker is not installed.
    """
    made: list[Tracker] = [Patient(TensorBoard(folder.path("tensorboard")))] if config.tensorboard else []
    if config.wandb is not None:
        made.append(Patient(WandB(folder, run_config, project=config.wandb, mode=config.wandb_mode)))
    if config.mlflow is not None:
        made.append(Patient(MLflow(folder, run_config, uri=config.mlflow, experiment=config.mlflow_experiment)))
    return made


def check_trackers(config: TrackersConfig) -> None:
    """Refuse trackers whose package is not installed, before a run starts; nothing is imported.

    Raises
    ------
    InputError
        Names the setting and the extra to install.
    """
    for name in ("wandb", "mlflow"):
        if getattr(config, name) is not None and importlib.util.find_spec(name) is None:
            raise InputError(_missing(name))


def run_key(folder: RunFolder, run_config: Mapping[str, Any]) -> str:
    """The name of a run in a tracker: the folder's, and a hash of what is trained; the same when it is resumed.

    How and where a run is executed, and who listens, does not make it another one.
    """
    meant = {name: value for name, value in run_config.items() if name not in ("execution", "trackers")}
    text = json.dumps(meant, sort_keys=True, default=str)
    name = re.sub(r"[^\w.-]", "_", folder.run_id, flags=re.ASCII)  # what services and their queries take
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:TAG_DIGITS]}"


def figures(record: Record) -> dict[str, float]:
    """The curves of one epoch."""
    return {name: float(record[name]) for name in CURVES if record.get(name) is not None}


class Patient:
    """A tracker that cannot end a run: after its first failure it is not asked again, and a warning says so once."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker: Tracker | None = tracker

    def epoch_done(self, records: list[Record]) -> None:
        """Tell the tracker, if it is still there."""
        self._try(lambda tracker: tracker.epoch_done(records))

    def close(self) -> None:
        """Close it, if it is still there."""
        self._try(lambda tracker: tracker.close())

    def _try(self, action: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            action(self._tracker)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            log.warning("tracker=%s dropped; the run goes on reason=%r", type(self._tracker).__name__, reason)
            log.debug("tracker failed", exc_info=error)
            self._tracker = None


class TensorBoard:
    """Writes event files to ``<run>/tensorboard``; on S3 they are uploaded after every epoch."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._local = Path(tempfile.mkdtemp(prefix="lensdata-tensorboard-")) if storage.is_s3(folder) else None
        self._writer: Any = None

    def epoch_done(self, records: list[Record]) -> None:
        """Add the latest epoch."""
        record = records[-1]
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and only wanted here

            # What an interrupted run wrote from this epoch on is hidden, so that curves do not double.
            self._writer = SummaryWriter(str(self._local or self._folder), purge_step=record["epoch"])
        for name in CURVES:
            self._writer.add_scalar(name, record[name], record["epoch"])
        self._writer.flush()
        if self._local is not None:
            for path in self._local.iterdir():
                storage.write_bytes(storage.join(self._folder, path.name), path.read_bytes())

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()


class WandB:
    """A run of Weights & Biases, called as its folder.

    Offline, each start of the run leaves a folder in ``<run>/wandb`` with the epochs that no earlier one has; ``wandb sync
    --append`` sends them, oldest first. ``wandb.json`` in the run folder says how far they go.
    """

    def __init__(self, folder: RunFolder, run_config: dict[str, Any], *, project: str, mode: str) -> None:
        self._wandb = _import("wandb")
        self._folder, self._config = folder, run_config
        self._project, self._mode = project, mode
        self._run: Any = None
        self._next = 0  # first epoch that is not there yet

    def epoch_done(self, records: list[Record]) -> None:
        """Add the epochs that are not there yet."""
        if self._run is None:
            self._start()
        for record in records[self._next :]:
            self._run.log(figures(record), step=int(record["epoch"]), commit=True)
        self._next = len(records)
        storage.write_json(self._mark, {"run": self._run.id, "epochs": self._next})

    def close(self) -> None:
        """End the run; what is on its way is sent."""
        if self._run is not None:
            self._run.finish()

    @property
    def _mark(self) -> str:
        return self._folder.path("wandb.json")

    def _start(self) -> None:
        key = run_key(self._folder, self._config)
        known = storage.read_json(self._mark) if storage.exists(self._mark) else {}
        self._next = int(known["epochs"]) if known.get("run") == key else 0
        on_s3 = storage.is_s3(self._folder.uri)
        self._run = self._wandb.init(
            project=self._project, id=key, name=self._folder.run_id, resume="allow", mode=self._mode, config=self._config,
            dir=tempfile.mkdtemp(prefix="lensdata-wandb-") if on_s3 else self._folder.uri,
            settings=self._wandb.Settings(silent=True, console="off", login_timeout=PATIENCE_S, init_timeout=PATIENCE_S),
        )  # fmt: skip
        if self._mode == "online":
            self._next = int(self._run.step)  # the service knows best: the step after the last one that it has


class MLflow:
    """A run of an MLflow experiment, found again by its tag; only epochs that it does not have are added."""

    def __init__(self, folder: RunFolder, run_config: dict[str, Any], *, uri: str, experiment: str) -> None:
        # By itself it would repeat a request for many minutes, in which the training waits.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(MLFLOW_RETRIES))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(PATIENCE_S))
        mlflow = _import("mlflow")
        self._mlflow, self._uri, self._experiment = mlflow, uri, experiment
        self._folder, self._config = folder, run_config
        self._client: Any = None
        self._run_id = ""
        self._done: set[int] = set()

    def epoch_done(self, records: list[Record]) -> None:
        """Add the latest epoch; of a run that starts, all epochs that the server does not have yet."""
        if self._client is None:
            self._start()
        new = [record for record in records if record["epoch"] not in self._done]
        for record in new:
            when = int(1000 * time.time())
            metrics = [
                self._mlflow.entities.Metric(name, value, when, int(record["epoch"]))
                for name, value in figures(record).items()
            ]
            self._client.log_batch(self._run_id, metrics=metrics)
            self._done.add(int(record["epoch"]))

    def close(self) -> None:
        """Say that the run is finished."""
        if self._client is not None:
            self._client.set_terminated(self._run_id, "FINISHED")

    def _start(self) -> None:
        client = self._mlflow.MlflowClient(tracking_uri=self._uri)
        found = client.get_experiment_by_name(self._experiment)
        experiment = found.experiment_id if found else client.create_experiment(self._experiment)
        key = run_key(self._folder, self._config)
        runs = client.search_runs([experiment], filter_string=f"tags.`{RUN_TAG}` = '{key}'", max_results=1)
        if runs:
            self._run_id = runs[0].info.run_id
            client.update_run(self._run_id, "RUNNING")
            # An epoch whose first curve is there is there whole: a batch is logged together.
            self._done = {metric.step for metric in client.get_metric_history(self._run_id, "train_loss")}
        else:
            run = client.create_run(experiment, run_name=self._folder.run_id, tags={RUN_TAG: key})
            self._run_id = run.info.run_id
            for name, value in flattened(self._config).items():
                client.log_param(self._run_id, name, str(value)[:MLFLOW_PARAMETER_LENGTH])
        self._client = client


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(_missing(name)) from error


def _missing(name: str) -> str:
    return (
        f"trackers.{name} is set, but the package {name} is not installed; install lensdata[{name}] or set it to null."
    )
