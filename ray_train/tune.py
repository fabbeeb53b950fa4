"""A study: the cells of some axes trained with several seeds, compared, and decided on (R-A1 to R-A4).

    python -m ray_train.tune --config configs/tuning/masking_laptop.yaml --output runs/masking \
        inputs.manifests.unpaired=inject/unpaired inputs.manifests.paired=inject/paired

Every trial is the run that `python -m ray_train.train` makes. A study that was interrupted goes on when the same line is given
again; finished trials are not repeated.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lensdata import jobs, steps, storage
from lensdata.audit.decision import Decision, decide
from lensdata.audit.studies import TrialResult, arm_figures
from lensdata.config.base import load_config
from lensdata.config.training import TrainingConfig
from lensdata.config.tuning import DecisionConfig, RangeConfig, StudyConfig
from lensdata.errors import InputError
from lensdata.hashing import text_hash
from lensdata.report.study import write_study
from lensdata.steps import JobFailed, JobRun, Outcome
from ray_train import ray_environment
from ray_train.study import SEED_INDEX, Cell, Trial, cell_of, draw, grid, reference_cell, trial_of, trials_of
from ray_train.study_results import collect, measure_winner, study_of, winner_task
from ray_train.study_watch import watched
from ray_train.training import Plan, check_plan
from ray_train.trial import FAILED, PREPARED, STOPPED, Task

log = logging.getLogger(__name__)

JOB = jobs.find("tune")
ORPHANS_END_S = 120
SMALLEST_POPULATION = 4  # of which one, the lowest quarter, is exchanged
MUTABLE = ("optimizer.lr", "optimizer.weight_decay", "optimizer.momentum", "loss.label_smoothing", "loss.clip_norm")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; returns its exit code. With ``--plan-only`` the trials are listed and nothing is trained."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--plan-only" in arguments:
        return steps.exit_code(JOB.name, lambda: plan_only(arguments))
    return steps.run_job(JOB, tune, arguments)


@dataclass(frozen=True)
class Workshop:
    """Makes tasks of trials: which manifest, which folder, how executed."""

    config: StudyConfig
    manifests: dict[str, str]
    study: str
    test_limit: int | None
    threads: int

    def task(self, trial: Trial) -> Task:
        """What the process of a trial is told: to train by itself, or by Ray Train's workers if it has several.

        Raises
        ------
        InputError
            Its manifest was not given.
        """
        execution = trial.config.execution
        cache = execution.cache or (None if storage.is_s3(self.study) else storage.join(self.study, PREPARED))
        runtime = "ray" if execution.num_workers > 1 else "local"
        changes = {"runtime": runtime, "threads": execution.threads or self.threads, "cache": cache}
        study = self.config.execution
        on_cpu = study.share_stamps and study.concurrent > 1 and not study.gpus_per_trial
        if on_cpu and execution.residency in ("auto", "device"):
            changes["residency"] = "host"  # one file that all processes map: on a CPU that is the shared copy
        execution = execution.model_copy(update=changes)
        return Task(
            study=self.study, trial=trial.name, cell=trial.cell.name, variants=trial.cell.variants, seed=trial.seed,
            overrides=trial.cell.overrides, manifest=self.manifest(trial), test_limit=self.test_limit,
            config=trial.config.model_copy(update={"execution": execution}).model_dump(mode="json"),
            gate_samples=self.config.gate_samples,
            gpus=execution.num_workers if runtime == "ray" else study.gpus_per_trial,
        )  # fmt: skip

    def winner(self, cell: Cell) -> Task:
        """The training of a cell on all data, should it win.

        Raises
        ------
        InputError
            The study does not say which data those are.
        """
        if self.config.winner is None:
            raise ValueError("a study that trains no winner")
        trial = trial_of(self.config, cell, self.config.winner.seed)
        full = self.config.winner.manifests.get(trial.manifest or "")
        if full is None:
            raise InputError(
                f"winner.manifests has no entry for {trial.manifest}, the manifest of cell {cell.name}; name the full one."
            )
        return winner_task(self.task(replace(trial, manifest=full)))

    def manifest(self, trial: Trial) -> str:
        """The URI of a trial's manifest."""
        name = trial.manifest
        key = "manifest" if name is None else f"manifests.{name}"
        if key not in self.manifests:
            given = ", ".join(f"inputs.{one}" for one in self.manifests) or "none"
            raise InputError(f"Cell {trial.cell.name} needs inputs.{key}=URI; given are {given}.")
        return self.manifests[key]

    def at(self, point: dict[str, Any]) -> Task:
        """The task of a point that a search chose."""
        cell = cell_of(self.config.axes, {name: point[name] for name in self.config.axes})
        return self.task(trial_of(self.config, cell, self.config.seeds[int(point[SEED_INDEX])]))


def tune(run: JobRun) -> Outcome:
    """Train what is missing, decide, train what the decision asks for and its winner, write the results."""
    config: StudyConfig = run.config
    workshop = workshop_of(config, run.inputs, run.output, run.test_limit)
    cells = check(workshop)
    ray_environment.prepare()
    from ray_train.tune_backend import require_here  # after the line above

    require_here(config)
    if run.retry:
        reopen(run.output)
    if config.search.name == "optuna":
        search(workshop)
    elif config.decision is None or config.decision.run_all:
        train_cells(workshop, cells)
    else:
        arms = (config.decision.paired, config.decision.baseline)
        train_cells(workshop, arms_of(cells, config.decision, arms))
        # Asked of these two alone: what an interrupted study has of the others must not count as done.
        needs = require_decision(run.output, config, arms).needs
        train_cells(workshop, arms_of(cells, config.decision, needs))
    results = collect(run.output, [trial.name for trial in trials_of(config, cells)])
    require_some(results)
    decision = None if config.decision is None else require_decision(run.output, config)
    searched = config.search.name == "optuna"
    reference = best_cell(results) if searched else reference_cell(config, cells)
    write_study(run.output, study_of(run, results, reference, decision, None))  # a winner that fails must not cost it
    winner = train_winner(workshop, cells, decision)
    storage.remove(run.path(PREPARED))
    if winner is not None:
        write_study(run.output, study_of(run, results, reference, decision, winner))
    log.info("results=%s report=%s", run.path("EXPERIMENT_RESULTS.md"), run.path("report.html"))
    if decision is not None:
        log.info("decision=%s winner=%s reason=%r", decision.branch, decision.winner or "none", decision.sentence)
    known = sorted(one.model_dump_json(exclude={"cost"}) for one in results)
    counts = {status: sum(one.status == status for one in results) for status in ("done", "stopped", "failed")}
    report = {"trials": counts, "decision": None if decision is None else decision.branch}
    return Outcome(rows=len(results), content=text_hash("".join(known)), report=report)


def workshop_of(config: StudyConfig, inputs: dict[str, str], study: str, test_limit: int | None) -> Workshop:
    """What makes the tasks of a study."""
    cores = config.execution.cpus_per_trial or (os.cpu_count() or 1) / config.execution.concurrent
    return Workshop(config, inputs, study, test_limit, threads=max(1, int(cores)))


def check(workshop: Workshop) -> list[Cell]:
    """Refuse what a trial would refuse, before any is trained; returns the cells, of a search a first few.

    Raises
    ------
    InputError
        Names the cell, and what does not fit.
    """
    config = workshop.config
    cells = cells_of(config)
    if config.search.name != "optuna":
        reference_cell(config, cells)
    elif config.reference:
        raise InputError("A search by Optuna compares with the best cell that it finds; leave out reference.")
    for cell in cells:
        check_trial(workshop.task(trial_of(config, cell, config.seeds[0])))
    check_mutations(config, cells)
    if config.winner is not None:
        for cell in cells:
            check_trial(workshop.winner(cell))
    return cells


def check_mutations(config: StudyConfig, cells: Sequence[Cell]) -> None:
    """Refuse settings that a network cannot change while it is trained, and populations that are none.

    Raises
    ------
    InputError
        Names the key.
    """
    if config.scheduler.name != "pbt":
        return
    if len(cells) > 1 or len(config.seeds) < SMALLEST_POPULATION:
        raise InputError(
            f"scheduler.name pbt needs one cell, whose seeds are the population, and {SMALLEST_POPULATION} seeds or more; "
            f"found {len(cells)} cells and {len(config.seeds)} seeds."
        )
    for key, values in config.scheduler.mutations.items():
        if key not in MUTABLE or key in cells[0].overrides:
            raise InputError(f"scheduler.mutations.{key}: only {', '.join(MUTABLE)} can change, and no key of an axis.")
        if values == []:
            raise InputError(f"scheduler.mutations.{key} is empty; give it values or low and high.")
        for value in [values.low, values.high] if isinstance(values, RangeConfig) else values:
            load_config(TrainingConfig, None, {**config.training.model_dump(mode="json"), key: value})


def check_trial(task: Task) -> None:
    """Refuse what the training would refuse; the sentence names the cell."""
    try:
        check_plan(Plan(task.config, task.manifest, task.run, None, task.test_limit))
    except InputError as error:
        raise InputError(f"Cell {task.cell}: {error}") from error


def cells_of(config: StudyConfig) -> list[Cell]:
    """All cells of a grid or a random search; those of a search by Optuna are known when they are drawn."""
    if config.search.name == "grid":
        return grid(config.axes)
    return draw(config.axes, config.search.num_cells if config.search.name == "random" else 1, config.search.seed)


def train_cells(workshop: Workshop, cells: Sequence[Cell]) -> None:
    """Run the trials of these cells that have no result yet.

    A scheduler compares trials with each other, so it is told of the finished ones again.
    """
    tasks = [workshop.task(trial) for trial in trials_of(workshop.config, cells)]
    todo = [task for task in tasks if not ended(task)]
    log.info("trials=%d finished_before=%d", len(tasks), len(tasks) - len(todo))
    if not todo:
        return
    wait_for_orphans(todo)
    from ray_train.tune_backend import run_known  # after ray_environment.prepare

    with watched(workshop.study, tasks, workshop.config.name):
        run_known(todo if workshop.config.scheduler.name == "none" else tasks, workshop.config)
    if lost := [task.trial for task in tasks if not ended(task)]:
        raise JobFailed(f"{len(lost)} trials have no result, the first {lost[0]}; give the same command again.")


def wait_for_orphans(tasks: Sequence[Task]) -> None:
    """Let processes of a study that was killed end: Ray's workers outlive their driver by some seconds.

    Raises
    ------
    InputError
        One does not end.
    """
    deadline = time.monotonic() + ORPHANS_END_S
    for task in tasks:
        while (process := steps.process_in(task.run)) is not None:
            if time.monotonic() > deadline:
                raise InputError(f"Trial {task.trial} is being trained by process {process}; wait for it or stop it.")
            time.sleep(1)


def search(workshop: Workshop) -> None:
    """Let Optuna choose the cells. A resumed search draws from its seed again and finds the results of what it drew before."""
    from ray_train.tune_backend import run_searched  # after ray_environment.prepare

    with watched(workshop.study, [], workshop.config.name):
        run_searched(workshop.config, workshop.study, workshop.at)


def train_winner(workshop: Workshop, cells: Sequence[Cell], decision: Decision | None) -> TrialResult | None:
    """Train the winning cell on all data and judge it on test, where the study says which data those are."""
    config = workshop.config
    if decision is None or decision.winner is None or config.decision is None or config.winner is None:
        return None
    (cell,) = arms_of(cells, config.decision, [decision.winner])
    task = workshop.winner(cell)
    if not ended(task):
        from ray_train.tune_backend import run_known  # after ray_environment.prepare

        wait_for_orphans([task])
        with watched(workshop.study, [task], f"{config.name}: the winner"):
            run_known([task], config)
    return measure_winner(task)


def ended(task: Task) -> bool:
    """Whether a trial has a row in the table."""
    return any(storage.exists(uri) for uri in (task.metrics, task.other(FAILED), task.other(STOPPED)))


def reopen(study: str) -> None:
    """Forget failures, so that these trials are trained again, and that the study was finished."""
    for name in (FAILED, "_SUCCESS", "_table.json"):
        storage.remove(storage.join(study, name))


def best_cell(results: Sequence[TrialResult]) -> str:
    """The cell of the best finished trial: what the others of a search are compared with."""
    return max((one for one in results if one.status == "done"), key=lambda one: one.best_val_auroc or 0.0).cell


def require_some(results: Sequence[TrialResult]) -> None:
    """Refuse a study of which nothing came."""
    if not any(result.status == "done" for result in results):
        reason = next((one.reason for one in results if one.reason), "no trial was trained")
        raise JobFailed(f"none of {len(results)} trials finished; the first says: {reason}")


def require_decision(study: str, config: StudyConfig, arms: Sequence[str] | None = None) -> Decision:
    """What the tree says of the trials so far, or of those of some arms."""
    if config.decision is None:
        raise ValueError("a study without a decision")
    known = arm_figures(collect(study), config.decision.axis)
    return decide({arm: figures for arm, figures in known.items() if arms is None or arm in arms}, config.decision)


def arms_of(cells: Sequence[Cell], decision: DecisionConfig, arms: Sequence[str]) -> list[Cell]:
    """The cells of some arms."""
    return [cell for cell in cells if cell.variants[decision.axis] in arms]


def plan_only(argv: Sequence[str]) -> int:
    """List the trials."""
    request = steps.parse(JOB, argv)
    config: StudyConfig = request.config
    cells = check(workshop_of(config, request.inputs, request.output, request.test_limit))
    for cell in cells if config.search.name != "optuna" else []:
        keys = ", ".join(f"{key}={value}" for key, value in cell.overrides.items())
        sys.stdout.write(f"{cell.name}: {keys}\n")
    number = config.search.num_cells if config.search.name == "optuna" else len(cells)
    sys.stdout.write(
        f"{number} cells x {len(config.seeds)} seeds = {number * len(config.seeds)} trials of up to {config.training.epochs} "
        f"epochs, {config.execution.concurrent} at once\n"
    )
    return steps.EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
