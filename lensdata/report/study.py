"""What comes out of a study: tables to read, numbers to compute with, a page with pictures (R-A2 to R-A4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

from lensdata import storage
from lensdata.audit.decision import Decision
from lensdata.audit.differences import Difference, Scores, compare
from lensdata.audit.studies import Cell, TrialResult, cells, cost_of
from lensdata.errors import InputError
from lensdata.report import figures, page, study_figures, study_tables
from lensdata.report.study_tables import Table

CELLS_DRAWN = 40  # with more cells than these, one row per cell is no picture any more
CURVES_DRAWN = 8  # cells whose curves can be told apart
INTERVALS = (
    "Mean ± standard deviation over the seeds of a cell; the 95% t-interval of the mean holds the chance of seeds alone. "
    "Trainings that were stopped or failed are not in it."
)
DIFFERENCES = (
    "Means over common seeds; intervals hold the chance of seeds and of objects (Obuchowski & Rockette 1995, with DeLong's "
    "covariance over the objects that two trainings share). Error: the standard error in its two parts. p-values are corrected "
    "for all cells together (Holm); cells that share no lens or no negative with the reference are not tested: their AUC is of "
    "another task."
)


@dataclass(frozen=True)
class Study:
    """A study that ran, with everything its results are made of.

    Attributes
    ----------
    axes
        Variant labels by axis, in order; none for a range, whose cells carry numbers.
    reference
        Cell that all others are compared with.
    scores
        Validation scores by trial: cutout_id, label (1 positive) and logit, shapes (n,).
    winner
        The winner of the decision or of the study, trained on the full data and judged once on test (R-T10).
    notes
        Sentences for the summary: what a reader must know of these trials that no table says.
    provenance
        What to tell about where the results come from: commit, configuration, manifests.
    """

    name: str
    axes: Mapping[str, Sequence[str]]
    seeds: Sequence[int]
    reference: str
    trials: Sequence[TrialResult]
    scores: Mapping[str, Scores] = field(default_factory=dict)
    decision: Decision | None = None
    winner: TrialResult | None = None
    notes: Sequence[str] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """A study's trials in their order, their statistics, and what stands in the tables."""

    study: Study
    axes: Mapping[str, Sequence[str]]
    trials: Sequence[TrialResult]
    cells: Mapping[str, Cell]
    differences: Mapping[str, Difference]


def write_study(folder: str, study: Study) -> None:
    """Write all that comes out of a study.

    ``EXPERIMENT_RESULTS.md``, ``experiment_metrics.csv``, ``experiment_cells.csv``, ``report.html``, ``figures/*.pdf`` and, with a
    decision, ``decision.json``. The same study gives the same bytes.

    Raises
    ------
    InputError
        A trial lacks one of the axes, two have one name, or scores allow no AUC.
    """
    found = results(study)
    drawn = draw(found)
    files = {
        "EXPERIMENT_RESULTS.md": markdown(found),
        "experiment_metrics.csv": study_tables.trials_csv(found.trials, found.axes),
        "experiment_cells.csv": study_tables.cells_csv(found.cells, found.differences, found.axes),
        "report.html": render(found, drawn),
    }
    if study.decision is not None:
        storage.write_json(
            storage.join(folder, "decision.json"), study.decision.as_json() | {"notes": list(study.notes)}
        )
    for name, text in files.items():
        storage.write_bytes(storage.join(folder, name), text.encode())
    for name, figure in drawn.items():
        storage.write_bytes(storage.join(folder, "figures", f"{name}.pdf"), figures.pdf(figure))


def results(study: Study) -> Results:
    """Order the trials by axes and seed, whatever order they ended in, and compute what the tables hold."""
    names = [trial.trial for trial in study.trials]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"Study {study.name} has two trials called {twice}; remove the folder of one.")
    for trial in study.trials:
        lacking = [axis for axis in study.axes if axis not in trial.variants]
        if lacking:
            raise InputError(f"Trial {trial.trial} has no variant of {lacking[0]}, an axis of study {study.name}.")
    axes = {axis: _labels(axis, labels, study.trials) for axis, labels in study.axes.items()}
    trials = sorted(
        study.trials, key=lambda trial: (*(_place(trial, axis, axes[axis]) for axis in axes), trial.cell, trial.seed)
    )
    return Results(study, axes, trials, cells(trials), compare(trials, study.scores, study.reference))


def _labels(axis: str, labels: Sequence[str], trials: Sequence[TrialResult]) -> tuple[str, ...]:
    """The declared labels and after them any others that trials have; none for a range."""
    return tuple(dict.fromkeys([*labels, *(str(trial.variants[axis]) for trial in trials)])) if labels else ()


def _place(trial: TrialResult, axis: str, labels: Sequence[str]) -> float:
    return labels.index(str(trial.variants[axis])) if labels else float(trial.variants[axis])


def summary(found: Results) -> list[str]:
    """What a reader should know first, in sentences."""
    trials, study = found.trials, found.study
    ends = {end: sum(trial.status == end for trial in trials) for end in ("done", "stopped", "failed")}
    rest = "".join(f", {count} {end}" for end, count in ends.items() if count and end != "done")
    counted = f"{_counted(len(found.cells), 'cell')}, {_counted(len(study.seeds), 'seed')}"
    out = [f"{ends['done']} of {_counted(len(trials), 'trial')} done{rest}; {counted}."]
    best = max((cell for cell in found.cells.values() if cell.figures["best_val_auroc"].n), default=None,
               key=lambda cell: cell.figures["best_val_auroc"].mean or 0.0)  # fmt: skip
    if best is None:
        return [*out, "No trial finished: there is nothing to compare. The reasons are listed below."]
    out.append(f"Highest mean validation AUC: {best.name}, {study_tables.spread(best.figures['best_val_auroc'], 4)}.")
    comparable = [one for one in found.differences.values() if one.same_task]
    if comparable:
        told = [one.cell for one in comparable if one.p_holm is not None and one.p_holm < 0.05]
        how = (
            f"differ from {study.reference} after correction for all comparisons{': ' if told else ''}{', '.join(told)}"
        )
        out.append(f"{len(told)} of {len(comparable)} other cells {how}.")
    unlike = [one.cell for one in found.differences.values() if not one.same_task]
    if unlike:
        out.append(f"Judged on another task than {study.reference} and not compared with it: {', '.join(unlike)}.")
    if all(cell.figures["best_val_auroc"].n < 2 for cell in found.cells.values()):
        out.append("No cell has two finished seeds: how figures change with the seed is not measured.")
    return [*out, *study.notes]


def _counted(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"


def sections(found: Results) -> list[tuple[str, str, str, Table]]:
    """(anchor, title, note, table) of everything that is told as a table, the decision aside."""
    study = found.study
    out = [("cells", "Cells", INTERVALS, study_tables.of_cells(found.cells))]
    if found.differences:
        table = study_tables.of_differences(found.differences)
        out.append(("differences", f"Differences from {study.reference}", DIFFERENCES, table))
    judged = study_tables.of_winner(study.winner, study.decision)
    if judged.rows:
        out.append(("winner", "Winner", _of_winner(study), judged))
    table = study_tables.of_trials(found.trials)
    out.append(("trials", "Trials", "Figures of the best epoch by validation AUC.", table))
    failures = study_tables.of_failures(found.trials)
    if failures.rows:
        out.append(("failures", "Stopped and failed trials", "", failures))
    out.append(("costs", "Costs", "Failed trials included.", study_tables.of_costs(found.cells, cost_of(found.trials))))
    return out


def _of_winner(study: Study) -> str:
    if study.winner is not None:
        trained = f"{study.winner.cell}, trained on the full data with seed {study.winner.seed}"
        return f"{trained}; the test split was read for it once and for no other trial."
    return (
        f"{study.decision.winner if study.decision else ''}, not trained on the full data; the test split was not read."
    )


def markdown(found: Results) -> str:
    """``EXPERIMENT_RESULTS.md``."""
    study, parts = found.study, [f"# Results of {found.study.name}", "\n".join(f"- {line}" for line in summary(found))]
    if study.decision is not None:
        told = study.decision
        parts += ["## Decision", f"**{told.branch}** {told.sentence}", told.stability.sentence]
        parts += [study_tables.of_steps(told).markdown()] if told.steps else []
    for _, title, note, table in sections(found):
        parts += [part for part in (f"## {title}", note, table.markdown()) if part]
    if study.provenance:
        parts += [
            "## Where this comes from",
            "\n".join(f"- {name}: {value}" for name, value in provenance(study).items()),
        ]
    return "\n\n".join(parts) + "\n"


def provenance(study: Study) -> dict[str, str]:
    """Where the results come from; what has parts itself on one line."""

    def told(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{name} {told(part)}" for name, part in value.items())
        return "unknown" if value is None else str(value)

    return {name: told(value) for name, value in study.provenance.items()}


def draw(found: Results) -> dict[str, Figure]:
    """The pictures that the study allows, by name."""
    done: dict[str, list[TrialResult]] = {name: [] for name in found.cells}
    for trial in found.trials:
        if trial.status == "done":
            done[trial.cell].append(trial)
    varied = {axis: labels for axis, labels in found.axes.items() if len(labels) != 1}
    ranges = any(not labels for labels in varied.values())
    drawn: dict[str, Figure | None] = {}
    if found.study.decision is not None:
        drawn["decision"] = study_figures.decision_plane(found.study.decision, done_by_arm(found))
    if len(varied) == 2 and not ranges:
        drawn["map"] = study_figures.heat_map(found.cells, varied)
    if len(varied) > 2 or ranges:
        drawn["parallel"] = study_figures.parallel(found.trials, varied)
    if len(found.cells) <= CELLS_DRAWN:
        drawn["seeds"] = study_figures.seed_dots(found.cells, found.trials)
        drawn["differences"] = study_figures.differences(found.differences, found.study.reference)
    if len(found.cells) <= CURVES_DRAWN:
        drawn["core_sensitivity"] = study_figures.core_sensitivity(done)
        drawn["theta_e"] = study_figures.by_theta_e(done)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def done_by_arm(found: Results) -> dict[str, list[TrialResult]]:
    """Finished trials by arm of the decision, in the order in which arms are reported."""
    if found.study.decision is None:
        return {}
    rule = found.study.decision.rule
    return {
        arm: [t for t in found.trials if t.status == "done" and str(t.variants.get(rule.axis)) == arm]
        for arm in rule.arms
    }


def render(found: Results, drawn: Mapping[str, Figure]) -> str:
    """The page."""
    decision = found.study.decision
    colours = {
        "SUCCESS": "pass",
        "ACCEPTABLE": "warn",
        "MASKED_ARM": "pass",
        "STOP_REDESIGN": "fail",
        "STOP_SHORTCUT": "fail",
    }
    return page.render(
        "study.html", title=found.study.name, study=found.study, summary=summary(found), decision=decision,
        colour=colours.get(decision.branch, "") if decision else "", sections=sections(found), provenance=provenance(found.study),
        steps=study_tables.of_steps(decision) if decision else None,
        figures={name: figures.svg(figure) for name, figure in drawn.items()},
    )  # fmt: skip
