"""What the loop is told: plain frozen values, checked and documented where users write them (TrainingConfig)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ray_train.core.augment import Views
from ray_train.core.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run. Names, units and meanings are those of `lensdata.config.training.TrainingConfig`."""

    seed: int
    epochs: int
    views: Views
    shuffle_rows: int
    micro_batch: int
    accumulation: int
    drop_last: bool
    evaluation_batch: int
    optimizer: str
    lr: float
    weight_decay: float
    momentum: float
    schedule: Schedule
    weighted: bool
    label_smoothing: float
    clip_norm: float
    precision: str
    frozen_stem_epochs: int
    patience: int
    min_delta: float
    stop_monitor: str
    best_monitor: str
    keep_every: int
    averaging: float = 0.0
    every_steps: int = 0
    compile: str = "none"

    @property
    def window_rows(self) -> int:
        """Stamps of one optimizer step, over all workers."""
        return self.micro_batch * self.accumulation

    def values(self) -> dict[str, Any]:
        """As plain values, for the checkpoint."""
        return asdict(self)


def is_better(monitor: str, value: float, best: float | None, min_delta: float = 0.0) -> bool:
    """Whether a monitored figure improved: a loss falls, an AUC rises."""
    if best is None:
        return True
    return value < best - min_delta if monitor.endswith("loss") else value > best + min_delta


def best_epoch(records: list[dict[str, Any]], monitor: str) -> int:
    """The epoch whose figure is best; the earliest of equals."""
    best: dict[str, Any] | None = None
    for record in records:
        if is_better(monitor, record[monitor], None if best is None else best[monitor]):
            best = record
    if best is None:
        raise ValueError("no epoch was recorded")
    return int(best["epoch"])


def should_stop(records: list[dict[str, Any]], *, patience: int, min_delta: float, monitor: str) -> bool:
    """Early stopping, from the records alone: so it needs no state of its own when a run resumes."""
    if not patience:
        return False
    best: float | None = None
    since = 0
    for record in records:
        if is_better(monitor, record[monitor], best, min_delta):
            best, since = record[monitor], 0
        else:
            since += 1
    return since >= patience
