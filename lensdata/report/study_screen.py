"""Trials of a study as a table for the terminal, while it runs and when it is over (R-A3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from lensdata.audit.studies import TrialResult
from lensdata.report.study_tables import broken, number

STYLES = {"done": "green", "running": "cyan", "stopped": "yellow", "failed": "bold red", "waiting": "dim"}
IMPORTANCE = ("running", "failed", "done", "stopped", "waiting")  # what is kept where not all rows fit
LONG_NAME = 24  # characters; longer names do not fit in one line of 80 columns
COLUMNS = ("status", "epoch", "AUC", "gate", "reliance", "sec")


@dataclass(frozen=True)
class TrialLine:
    """What is known of a trial at the moment; figures that are not are None.

    Attributes
    ----------
    status
        ``waiting, running, done, stopped, failed``.
    epoch
        Epochs trained so far; of a trial that has ended its best epoch, from 0.
    val_auc
        Best so far.
    """

    name: str
    status: str = "waiting"
    epoch: int | None = None
    val_auc: float | None = None
    core_gate_auc: float | None = None
    core_reliance: float | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, trial: TrialResult) -> TrialLine:
        """Of a finished trial."""
        return cls(trial.trial, trial.status, trial.best_epoch, trial.best_val_auroc, trial.final_core_lr_auc,
                   trial.core_reliance, trial.cost.seconds)  # fmt: skip

    @property
    def epoch_told(self) -> str:
        """The epoch and what it is.

        >>> TrialLine("B1-s1", "running", 4).epoch_told, TrialLine("B1-s1", "done", 3).epoch_told
        ('4 done', 'best 3')
        """
        if self.epoch is None:
            return "–"
        return f"{self.epoch} done" if self.status == "running" else f"best {self.epoch}"


def study_table(trials: Iterable[TrialResult | TrialLine], title: str = "", rows_max: int | None = None) -> Table:
    """All trials, one per row, in 80 columns or more; the best finished one is marked.

    Parameters
    ----------
    rows_max
        Where there are more, those that run or failed are kept first, then the best; the caption counts the others.
    """
    lines = [TrialLine.of(trial) if isinstance(trial, TrialResult) else trial for trial in trials]
    best = max((line.val_auc for line in lines if line.status == "done" and line.val_auc is not None), default=None)
    shown = lines if rows_max is None or len(lines) <= rows_max else _most_important(lines, rows_max)
    table = Table(
        title=title or None,
        caption=_caption(lines, shown),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("trial", overflow="fold", ratio=1, min_width=16)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "status" else "right", no_wrap=True)
    for line in shown:
        is_best = best is not None and line.status == "done" and line.val_auc == best
        table.add_row(
            Text(broken(line.name, LONG_NAME), "bold" if is_best else ""), Text(line.status, STYLES.get(line.status, "")),
            line.epoch_told, Text(number(line.val_auc), "bold" if is_best else ""),
            number(line.core_gate_auc, 3), number(line.core_reliance, 3), number(line.seconds, 0),
        )  # fmt: skip
    return table


def _most_important(lines: list[TrialLine], rows_max: int) -> list[TrialLine]:
    def order(line: TrialLine) -> tuple[int, float]:
        place = IMPORTANCE.index(line.status) if line.status in IMPORTANCE else len(IMPORTANCE)
        return place, -(line.val_auc or 0.0)

    kept = {id(line) for line in sorted(lines, key=order)[:rows_max]}
    return [line for line in lines if id(line) in kept]


def _caption(lines: list[TrialLine], shown: list[TrialLine]) -> str:
    """How many of each status, and what the columns are."""
    counts = Counter(line.status for line in lines)
    told = ", ".join(f"{counts[status]} {status}" for status in STYLES if counts[status]) or "no trials"
    hidden = f"; {len(lines) - len(shown)} not shown" if len(shown) < len(lines) else ""
    columns = "epoch: how many done, or the best (from 0); AUC: best of validation; gate: AUC of the core pixels alone"
    return f"{told}{hidden}. {columns}; reliance: AUC lost without the core"
