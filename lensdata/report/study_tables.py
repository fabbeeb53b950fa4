"""Tables of a study, for a page, for a terminal and as CSV (R-A3): what stands in them is decided once, here."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isinf
from typing import Any

from lensdata.audit.decision import TITLES, Decision, told_beside
from lensdata.audit.differences import Difference
from lensdata.audit.seeds import Spread
from lensdata.audit.studies import FIGURES, Cell, CostSum, TrialResult

TEST_AUC = 0.88  # what a masking study asks of its winner on test; R-E10
VERDICT = {True: "PASS", False: "FAIL", None: "NOT MEASURED"}
HOLDS = {True: "yes", False: "no", None: "NOT MEASURED"}
FLAT = (
    "epochs", "best_epoch", "best_val_auroc", "final_core_lr_auc", "final_core_lr_auc_low", "final_core_lr_auc_high",
    "final_radial_lr_auc", "final_radial_lr_auc_low", "final_radial_lr_auc_high", "gate_n_samples", "core_reliance",
    "theta_e_spread", "worst_theta_e_auc", "test_auroc",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Headings and rows of text.

    Attributes
    ----------
    numeric
        First column that holds numbers; they are set to the right from there on.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: int = 1

    def markdown(self) -> str:
        """As GitHub and a terminal show it: columns as wide as what they hold."""
        rows = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (self.headings, *self.rows)]
        widths = [max(3, *(len(row[place]) for row in rows)) for place in range(len(self.headings))]
        rule = ["-" * width if place < self.numeric else "-" * (width - 1) + ":" for place, width in enumerate(widths)]
        padded = [
            [cell.ljust(width) if place < self.numeric else cell.rjust(width)
             for place, (cell, width) in enumerate(zip(row, widths, strict=True))] for row in rows
        ]  # fmt: skip
        return "\n".join(f"| {' | '.join(row)} |" for row in (padded[0], rule, *padded[1:]))


def number(value: float | None, digits: int = 4, sign: str = "") -> str:
    """A number for a table; a dash where it is not known."""
    return "–" if value is None else f"{value:{sign}.{digits}f}"


def beside(value: float | None, limit: float) -> str:
    """A number with as many digits as tell it from its limit; a dash where it is not known."""
    return "–" if value is None else told_beside(value, limit)


def broken(name: str, width: int) -> str:
    """A name of a cell or trial on lines of ``width`` characters at most, broken where one axis ends and the next begins.

    >>> broken("resnet18_lr0.001_fakes-s1", 16)
    'resnet18_\\nlr0.001_fakes-s1'
    """
    lines = [""]
    for part in re.findall("[^_]*_|[^_]+", name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def spread(found: Spread, digits: int = 3, *, interval: bool = False) -> str:
    """Mean ± standard deviation over seeds, with the interval of the mean where asked for."""
    if found.mean is None or found.sd is None:
        return number(found.mean, digits)
    limits = f" ({number(found.low, 3)} to {number(found.high, 3)})" if interval else ""
    return f"{number(found.mean, digits)} ± {number(found.sd, digits)}{limits}"


def seeds(cell: Cell) -> str:
    """How many seeds a cell has, and how many of them were stopped or failed."""
    total = len(cell.done) + len(cell.stopped) + len(cell.failed)
    ends = [f"{len(own)} {name}" for name, own in (("stopped", cell.stopped), ("failed", cell.failed)) if own]
    return f"{len(cell.done)} of {total}, {', '.join(ends)}" if ends else str(total)


def of_cells(cells: Mapping[str, Cell]) -> Table:
    """Every cell over its seeds."""
    first, *rest = FIGURES
    rows = tuple(
        (name, seeds(cell), spread(cell.figures[first], 4, interval=True), *(spread(cell.figures[key]) for key in rest))
        for name, cell in cells.items()
    )
    titles = [f"{FIGURES[first][0]} (95% interval)", *(FIGURES[key][0] for key in rest)]
    return Table(("cell", "seeds", *titles), rows)


def of_differences(found: Mapping[str, Difference]) -> Table:
    """Differences from the reference cell."""
    headings = (
        "cell",
        "remark",
        "seeds",
        "difference",
        "95% interval",
        "p",
        "p (Holm)",
        "error common to all seeds (objects)",
        "error per seed (objects and seed)",
        "objects shared",
    )
    return Table(headings, tuple(_difference(one) for one in found.values()), numeric=2)


def _difference(one: Difference) -> tuple[str, ...]:
    if one.value is None:
        return (one.cell, one.note, "0", *("–",) * 7)
    return (
        one.cell, one.note or _meaning(one), str(len(one.seeds)), number(one.value, sign="+"),
        f"{number(one.low, sign='+')} to {number(one.high, sign='+')}", p_value(one.p_value), p_value(one.p_holm),
        number(one.error_common), number(one.error_per_seed), f"{one.shared_positive} : {one.shared_negative}",
    )  # fmt: skip


def _meaning(one: Difference) -> str:
    if one.p_holm is None or one.p_holm >= 0.05:
        return "not distinguishable after correction"
    return "better" if (one.value or 0) > 0 else "worse"


def p_value(value: float | None) -> str:
    """A p-value with two digits.

    >>> p_value(0.0312), p_value(1e-9)
    ('0.031', '< 0.0001')
    """
    return "–" if value is None else "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def of_steps(decision: Decision) -> Table:
    """The conditions that were checked."""
    rows = tuple(
        (step.arm, TITLES[step.figure], HOLDS[step.outcome],
         beside(step.value, step.limit), f"{step.comparison} {step.limit:g}") for step in decision.steps
    )  # fmt: skip
    return Table(("arm", "figure", "holds", "mean over seeds", "asked for"), rows, numeric=3)


def of_trials(trials: Sequence[TrialResult]) -> Table:
    """One row per training."""
    keys = (
        "best_val_auroc",
        "final_core_lr_auc",
        "final_radial_lr_auc",
        "core_reliance",
        "theta_e_spread",
        "worst_theta_e_auc",
    )
    rows = tuple(
        (t.trial, t.status, _epochs(t), *(number(getattr(t, key)) for key in keys),
         number(t.cost.seconds, 1)) for t in trials
    )  # fmt: skip
    return Table(
        ("trial", "status", "best epoch (from 0)", *(FIGURES[key][0] for key in keys), "seconds"), rows, numeric=2
    )


def of_failures(trials: Sequence[TrialResult]) -> Table:
    """Trainings that did not end as planned, with why."""
    rows = tuple((t.trial, t.status, t.reason or "no reason given") for t in trials if t.status != "done")
    return Table(("trial", "status", "reason"), rows, numeric=3)


def of_costs(cells: Mapping[str, Cell], total: CostSum) -> Table:
    """What every cell took, and all together."""
    lines = [(name, cell.cost) for name, cell in cells.items()] + [("all", total)]
    rows = tuple(
        (name, number(cost.seconds, 1), number(cost.gpu_hours, 3), number(cost.cpu_hours, 3),
         number(None if cost.peak_memory_bytes is None else cost.peak_memory_bytes / 1e9, 2), str(cost.unknown))
        for name, cost in lines
    )  # fmt: skip
    return Table(("cell", "seconds", "GPU hours", "CPU hours", "peak memory, GB", "trials without a cost"), rows)


def of_winner(winner: TrialResult | None, decision: Decision | None) -> Table:
    """Figures of the winner, trained on the full data and judged once on test; held to the targets in a masking study (R-E10).

    Without such a training the validation AUC is the mean over the arm's seeds, and nothing is known of the test split.
    """
    asked = {"validation AUC": decision.rule.val_auc, "test AUC": TEST_AUC} if decision else {}
    lines: list[tuple[str, float | None]] = []
    if winner is not None:
        lines += [("validation AUC", winner.best_val_auroc), ("test AUC", winner.test_auroc)]
        bins, masked = winner.test_auroc_by_thetae or (), winner.test_core_sensitivity or ()
        lines += [(f"test AUC, theta_E {b.low:g} to {b.high:g} arcsec, {b.n} lenses", b.auc) for b in bins]
        lines += [(f"test AUC, central {point.radius:g} pixels masked", point.auc) for point in masked]
    elif decision is not None and decision.winner is not None:
        lines += [("validation AUC", decision.figures[decision.winner].val_auc), ("test AUC", None)]
    rows = tuple(
        (name, VERDICT[None if value is None else value > asked[name]] if name in asked else "",
         beside(value, asked[name]) if name in asked else number(value), f"> {asked[name]:g}" if name in asked else "")
        for name, value in lines
    )  # fmt: skip
    return Table(("figure", "verdict", "value", "target"), rows, numeric=2)


def trials_csv(trials: Sequence[TrialResult], axes: Iterable[str]) -> str:
    """``experiment_metrics.csv``: a row per trial, one column per figure."""
    return _csv([_flat(trial, axes := tuple(axes)) for trial in trials])


def _flat(trial: TrialResult, axes: Iterable[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"trial": trial.trial, "cell": trial.cell}
    row |= {f"variant.{axis}": trial.variants.get(axis) for axis in axes}
    row |= {"seed": trial.seed, "status": trial.status, "reason": trial.reason}
    row |= {name: getattr(trial, name) for name in FLAT}
    for prefix in ("", "test_"):
        masked, binned = getattr(trial, f"{prefix}core_sensitivity"), getattr(trial, f"{prefix}auroc_by_thetae")
        row |= {f"{prefix}auc_core_masked_{point.radius:g}": point.auc for point in masked or ()}
        for entry in binned or ():
            name = f"{prefix}auc_theta_e_{entry.low:g}_{entry.high:g}"
            row |= {name: entry.auc, f"{name}_n": entry.n}
    row |= {f"cost_{name}": value for name, value in trial.cost.model_dump().items()}
    return row | {"overrides": json.dumps(trial.overrides, sort_keys=True)}


def cells_csv(cells: Mapping[str, Cell], found: Mapping[str, Difference], axes: Iterable[str]) -> str:
    """``experiment_cells.csv``: a row per cell; figures over seeds, the difference from the reference, costs."""
    names, rows = tuple(axes), []
    for name, cell in cells.items():
        row: dict[str, Any] = {"cell": name} | {f"variant.{axis}": cell.variants.get(axis) for axis in names}
        row |= {f"seeds_{end}": len(getattr(cell, end)) for end in ("done", "stopped", "failed")}
        for figure, over in cell.figures.items():
            row |= {f"{figure}_{part}": value for part, value in asdict(over).items()}
        different = asdict(found[name]) if name in found else dict.fromkeys(Difference.__dataclass_fields__)
        different["seeds"] = len(found[name].seeds) if name in found else None
        row |= {f"difference_{part}": value for part, value in different.items() if part not in ("cell", "reference")}
        rows.append(row | {f"cost_{part}": value for part, value in asdict(cell.cost).items()})
    return _csv(rows)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Columns in the order in which rows bring them; unknown values empty."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, _merged([list(row) for row in rows]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _text(value) for name, value in row.items()} for row in rows)
    return sink.getvalue()


def _merged(orders: Sequence[Sequence[str]]) -> list[str]:
    """All names; one that an earlier row lacks comes after the name that it follows in its own row."""
    out: list[str] = []
    for order in orders:
        place = 0
        for name in order:
            if name in out:
                place = out.index(name) + 1
            else:
                out.insert(place, name)
                place += 1
    return out


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "inf" if isinf(value) else f"{value:.10g}"
    return "" if value is None else str(value)


def _epochs(trial: TrialResult) -> str:
    return "–" if trial.epochs is None else f"{'–' if trial.best_epoch is None else trial.best_epoch} of {trial.epochs}"
