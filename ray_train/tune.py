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
from dataclasses import dataclass
from typing import Any

from lensdata import jobs, steps, storage
from lensdata.audit.decision import Decision, decide
from lensdata.audit.studies import TrialResult, arm_figures
from lensdata.config.tuning import StudyConfig
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
        )  # fmt: skip

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
    if run.retry:
        reopen(run.output)
    if config.search.name == "optuna":
        search(workshop)
    elif config.decision is None or config.decision.run_all:
        train_cells(workshop, cells)
    else:
        arms = (config.decision.paired, config.decision.baseline)
        train_cells(workshop, [cell for cell in cells if cell.variants[config.decision.axis] in arms])
        needs = require_decision(run.output, config).needs
        train_cells(workshop, [cell for cell in cells if cell.variants[config.decision.axis] in needs])
    results = collect(run.output, [trial.name for trial in trials_of(config, cells)])
    require_some(results)
    decision = None if config.decision is None else require_decision(run.output, config)
    winner = train_winner(workshop, cells, decision)
    storage.remove(run.path(PREPARED))
    reference = reference_cell(config, cells) if config.search.name != "optuna" else results[0].cell
    write_study(run.output, study_of(run, results, reference, decision, winner))
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
    reference_cell(config, cells)
    for cell in cells:
        task = workshop.task(trial_of(config, cell, config.seeds[0]))
        try:
            check_plan(Plan(task.config, task.manifest, task.run, None, task.test_limit))
        except InputError as error:
            raise InputError(f"Cell {cell.name}: {error}") from error
    for name in config.winner.manifests.values() if config.winner else ():
        if f"manifests.{name}" not in workshop.manifests:
            raise InputError(f"winner.manifests names {name}; give inputs.manifests.{name}=URI, or leave it out.")
    return cells


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
    cell = next(cell for cell in cells if cell.variants[config.decision.axis] == decision.winner)
    trial = trial_of(config, cell, config.winner.seed)
    full = config.winner.manifests.get(trial.manifest or "")
    if full is None:
        raise InputError(
            f"winner.manifests has no entry for {trial.manifest}, the manifest of the winning cell {cell.name}."
        )
    task = winner_task(workshop.task(trial), workshop.manifests[f"manifests.{full}"], config.winner.seed)
    if not ended(task):
        from ray_train.tune_backend import run_known  # after ray_environment.prepare

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


def require_some(results: Sequence[TrialResult]) -> None:
    """Refuse a study of which nothing came."""
    if not any(result.status == "done" for result in results):
        reason = next((one.reason for one in results if one.reason), "no trial was trained")
        raise JobFailed(f"none of {len(results)} trials finished; the first says: {reason}")


def require_decision(study: str, config: StudyConfig) -> Decision:
    """What the tree says of the trials so far."""
    if config.decision is None:
        raise ValueError("a study without a decision")
    return decide(arm_figures(collect(study), config.decision.axis), config.decision)


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
