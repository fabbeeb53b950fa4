"""Running trials with Ray Tune (R-A1): where each runs, which go on, and what is drawn next.

Import it after `ray_environment.prepare`. What is done lies in the study's folder, as for every run; Ray Tune's own record of
an experiment is thrown away, so that a resumed study needs neither the same Ray nor a snapshot of the right moment.
"""

from __future__ import annotations

import logging
import os
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, TrialScheduler

from lensdata import storage
from lensdata.config.base import validate
from lensdata.config.training import TrainingConfig
from lensdata.config.tuning import Axis, RangeConfig, StudyConfig
from lensdata.errors import InputError
from lensdata.steps import JobFailed
from ray_train.gauges import RayGauges
from ray_train.population import KEYS, build_population, first_keys, member
from ray_train.ray_backend import ray_session
from ray_train.run_folder import RunFolder
from ray_train.sharing import GPU_SHARE, ActorLender, end_holders, holder_name, start_holders
from ray_train.study import choices
from ray_train.trackers import Patient
from ray_train.train import Surroundings
from ray_train.trial import FAILED, Task, record_failure, record_stop, run_trial

log = logging.getLogger(__name__)

RAY_FOLDER = "ray"  # in the study's folder, while Ray tunes
DRIVER_CPUS = 0.1  # of a trial whose workers are Ray Train's
Find = Callable[[dict[str, Any], str], Task]
"""From what Tune knows of a trial, its configuration and name, to its task."""
OBJECTIVE, EPOCHS = "objective", "epochs"  # what schedulers and searches read
WORST_LOSS = 1e9
TOLD = ("epoch", "val_auc", "val_loss", "train_loss", "lr", "images_per_second", "seconds")


def reports(monitor: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What Tune is told after the latest of these epochs; the objective is the best so far, for that network is kept."""
    best = (max if monitor == "val_auc" else min)(record[monitor] for record in records)
    return {name: records[-1][name] for name in TOLD} | {OBJECTIVE: best, EPOCHS: len(records)}


class TuneReports:
    """A listener (see `ray_train.trackers.Tracker`) that tells Tune of every epoch, also of those before a restart.

    The last epoch is told by `finish`, when the trial has its result: stopped at its end it would have cost everything and given
    nothing.

    Parameters
    ----------
    epochs
        Of the training.
    hand_over_every
        Epochs after which Tune gets a copy of the run for other trials to go on from; 0: never.
    inherited
        The run goes on from such a copy: its epochs are told already.
    """

    def __init__(
        self, folder: RunFolder, monitor: str, epochs: int, hand_over_every: int, inherited: Path | None
    ) -> None:
        self._folder, self._monitor, self._epochs, self._every = folder, monitor, epochs, hand_over_every
        self._told = 0 if inherited is None else RunFolder(str(inherited)).epochs()
        self._tell(folder.records(), epochs - 1)

    def epoch_done(self, records: list[dict[str, Any]]) -> None:
        """Tell Tune; it may not return."""
        self._tell(records, self._epochs - 1)

    def close(self) -> None:
        """The network is trained; it is not measured yet."""

    def finish(self) -> None:
        """The trial has its result. A member of a population is not told at its end: it would be made a copy of another."""
        if not self._every:
            self._tell(self._folder.records(), self._epochs)
        if not self._told:  # it failed before its first epoch: the worst there is, so that a search goes elsewhere
            worst = 0.0 if self._monitor == "val_auc" else WORST_LOSS
            tune.report({OBJECTIVE: worst, self._monitor: worst, EPOCHS: 0})

    def _tell(self, records: list[dict[str, Any]], most: int) -> None:
        while self._told < min(len(records), most):
            self._told += 1
            told = reports(self._monitor, records[: self._told])
            if not self._every or self._told % self._every or self._told < len(records):
                tune.report(told)
                continue
            with tempfile.TemporaryDirectory() as copy:
                self._folder.copy_to(Path(copy))
                tune.report(told, checkpoint=tune.Checkpoint.from_directory(copy))


class Bookkeeper(tune.Callback):
    """Writes down what a trial's own process cannot: that it was stopped, or that it died too often."""

    def __init__(self, find: Find, scheduler: str, holders: Sequence[Any]) -> None:
        self._find, self._scheduler, self._holders = find, scheduler, holders

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial returned, or was stopped."""
        task = self._find(trial.config, str(trial))
        self._release(task)
        ended = storage.exists(task.metrics) or storage.exists(task.other(FAILED))
        if not ended and self._scheduler != "none":
            epochs = (trial.last_result or {}).get(EPOCHS, 0)
            record_stop(task, f"{self._scheduler} stopped it after {epochs} epochs")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process died, and no restart is left."""
        task = self._find(trial.config, str(trial))
        self._release(task)
        record_failure(task, f"its process died {trial.num_failures} times; see whether the machine ran out of memory")

    def _release(self, task: Task) -> None:
        for holder in self._holders:
            holder.give_back.remote(task.trial)


def run_known(tasks: Sequence[Task], config: StudyConfig) -> None:
    """Run trials that are known beforehand, as many at once as the study says."""
    by_name = {task.trial: task for task in tasks}
    space: dict[str, Any] = {"trial": tune.grid_search(list(by_name))}
    if config.scheduler.name == "pbt":
        space = {
            "trial": tune.grid_search(list(by_name)),
            KEYS: tune.sample_from(lambda spec: first_keys(config, spec.config.trial)),
        }
    # By the name that Tune gave the trial at its start: population based training copies configurations, their "trial" too.
    _fit(config, lambda _, name: by_name[name], space, tasks[0].study, searcher=None, samples=1)


def run_searched(config: StudyConfig, study: str, at: Callable[[dict[str, Any]], Task]) -> None:
    """Let Optuna draw cells, each trained with every seed.

    Raises
    ------
    InputError
        Optuna is not installed.
    """
    try:
        import optuna  # noqa: F401 - the searcher imports it later, in words of its own
        from ray.tune.search.optuna import OptunaSearch
        from ray.tune.search.repeater import Repeater
    except ImportError as error:
        raise InputError("search.name optuna needs the package optuna; pip install 'lensdata[optuna]'.") from error
    mode = _mode(config)
    searcher = OptunaSearch(
        metric=OBJECTIVE, mode=mode, seed=config.search.seed,
        space={name: distribution(name, axis) for name, axis in config.axes.items()},
    )  # fmt: skip
    repeated = Repeater(searcher, repeat=len(config.seeds), set_index=True)
    _fit(
        config,
        lambda point, _: at(point),
        {},
        study,
        searcher=repeated,
        samples=config.search.num_cells * len(config.seeds),
    )


def distribution(name: str, axis: Axis) -> Any:
    """An axis as Optuna draws from it."""
    from optuna import distributions

    if not isinstance(axis, RangeConfig):
        return distributions.CategoricalDistribution(list(choices(name, axis)))
    if axis.integer:
        return distributions.IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return distributions.FloatDistribution(axis.low, axis.high, log=axis.log)


def build_scheduler(config: StudyConfig, epochs: int) -> TrialScheduler | None:
    """The scheduler of a study, over trials of up to so many epochs."""
    chosen = config.scheduler
    grace = min(chosen.grace_epochs, epochs)
    if chosen.name == "asha":
        # One more than there are: a trial that reaches its end must score its stamps, not be stopped.
        return ASHAScheduler(
            time_attr=EPOCHS, max_t=epochs + 1, grace_period=grace, reduction_factor=chosen.reduction_factor
        )
    if chosen.name == "median":
        return MedianStoppingRule(time_attr=EPOCHS, grace_period=grace)
    if chosen.name == "pbt":  # the value now, not the best so far: what is copied is the network as it is
        return build_population(config, config.search.monitor, _mode(config), EPOCHS)
    return None


def _fit(
    config: StudyConfig,
    find: Find,
    space: dict[str, Any],
    study: str,
    *,
    searcher: Any,
    samples: int,
) -> None:
    folder = storage.join(study, RAY_FOLDER)
    storage.remove(folder)  # of an attempt that was killed
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # every run has its own records and event files
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the study's own table says more
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C is an interruption, not the end of all trials
    warnings.filterwarnings("ignore", message="Consider boosting PBT performance")
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    with ray_session(max(1, round(cpus_per_trial(config) * config.execution.concurrent))):
        gpus = config.execution.gpus_per_trial
        _require_resources(config)
        holders = []
        local = config.training.execution.num_workers == 1
        if gpus and config.execution.share_stamps and config.execution.concurrent > 1 and local:
            holders = start_holders(study, borrowers=config.execution.concurrent)
        resources = {
            "CPU": cpus_per_trial(config) if local else DRIVER_CPUS,
            **({"GPU": gpus} if gpus and local else {}),
        }
        shared = bool(holders)
        filesystem, path = storage.filesystem(folder) if storage.is_s3(folder) else (None, folder)

        def trainable(values: dict[str, Any]) -> None:
            with inherited_run() as inherited:
                task = find(values, tune.get_context().get_trial_name())
                if KEYS in values:
                    task = member(task, config, values[KEYS], inherited)
                around, listener = surroundings(task, config, shared, inherited)
                run_trial(task, around)
                listener.finish()

        scheduler, population = build_scheduler(config, config.training.epochs), config.scheduler.name == "pbt"
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=OBJECTIVE if scheduler and not population else None,
                mode=_mode(config) if scheduler and not population else None,
                scheduler=scheduler, search_alg=searcher, num_samples=samples,
                max_concurrent_trials=config.execution.concurrent,
                trial_name_creator=lambda trial: trial.config.get("trial", trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name=f"attempt-{uuid.uuid4().hex[:8]}", storage_path=path, storage_filesystem=filesystem, verbose=0,
                failure_config=tune.FailureConfig(max_failures=config.execution.max_failures),
                callbacks=[Bookkeeper(find, config.scheduler.name, holders)],
            ),
        )  # fmt: skip
        try:
            tuner.fit()
        except ray.exceptions.RayError as error:
            raise JobFailed(
                f"Ray was lost while the study was going on ({type(error).__name__}); {study} keeps what is done: give the same "
                "command again when Ray runs."
            ) from error
        finally:
            end_holders(holders)
            storage.remove(folder)


@contextmanager
def inherited_run() -> Iterator[Path | None]:
    """The copy of another member's run that Tune wants this one to go on from, if it does."""
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as folder:
        yield Path(folder)


def surroundings(
    task: Task, config: StudyConfig, shared: bool, inherited: Path | None
) -> tuple[Surroundings, TuneReports]:
    """What a trial's process tells, and whose stamps it uses; one with workers of its own tells at its end."""
    training = validate(TrainingConfig, task.config, task.trial)
    every = config.scheduler.perturb_epochs if config.scheduler.name == "pbt" else 0
    reporter = TuneReports(RunFolder(task.run), config.search.monitor, training.epochs, every, inherited)
    if training.execution.runtime == "ray":
        return Surroundings(), reporter
    listeners = [reporter, Patient(RayGauges(task.trial, 0))]
    node = ray.get_runtime_context().get_node_id()
    lender = ActorLender(holder_name(task.study, node), task.trial) if shared else None
    return Surroundings(listeners, lender, inherited), reporter


def cpus_per_trial(config: StudyConfig) -> float:
    """Cores that a trial reserves: what it was given, or its share of this machine, one on a cluster."""
    if config.execution.cpus_per_trial:
        return config.execution.cpus_per_trial
    if os.environ.get("RAY_ADDRESS"):
        return 1
    return max(1, (os.cpu_count() or 1) // config.execution.concurrent)


def require_here(config: StudyConfig) -> None:
    """Refuse what this machine does not have, before a Ray of this process is started.

    Raises
    ------
    InputError
        More cores or GPUs than there are.
    """
    wanted, cores = config.execution.cpus_per_trial, os.cpu_count() or 1
    if os.environ.get("RAY_ADDRESS"):
        return
    if wanted > cores:
        raise InputError(f"execution.cpus_per_trial is {wanted:g}; this machine has {cores} cores.")
    if config.execution.gpus_per_trial > torch.cuda.device_count():
        raise InputError(
            f"execution.gpus_per_trial is {config.execution.gpus_per_trial:g}; this machine has {torch.cuda.device_count()} GPUs."
        )


def _require_resources(config: StudyConfig) -> None:
    """Refuse what the cluster does not have: Ray would wait for ever."""
    have = ray.cluster_resources()
    sharing = GPU_SHARE if config.execution.share_stamps and config.execution.concurrent > 1 else 0
    gpus = config.execution.gpus_per_trial
    for name, wanted in (("GPU", gpus), ("CPU", cpus_per_trial(config))):
        if wanted > have.get(name, 0):
            raise InputError(
                f"execution.{name.lower()}s_per_trial is {wanted:g}; Ray has {have.get(name, 0):g} {name}s."
            )
    if gpus and sharing and gpus * config.execution.concurrent + sharing > have["GPU"]:
        log.warning(
            "trials_at_once=fewer reason='%d trials of %g GPUs and %g for shared stamps are more than %g'",
            config.execution.concurrent, gpus, sharing, have["GPU"],
        )  # fmt: skip


def _mode(config: StudyConfig) -> str:
    return "max" if config.search.monitor == "val_auc" else "min"
