"""What an epoch leaves behind: its record, and the checks that it went as it should (R-T6, R-T8)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed

from ray_train.core.data import DataError, StampTable
from ray_train.core.order import EpochOrder, num_steps
from ray_train.core.recipe import Recipe
from ray_train.core.window import StepResult

log = logging.getLogger(__name__)

T = TypeVar("T")
Record = dict[str, Any]
FINITE_CHECK_STEPS = {"cpu": 1, "cuda": 32}  # steps between looks at the device: each look waits for it
NAMED_STAMPS = 8
TELL_SECONDS = 30.0  # between lines on the progress of a long epoch


class TrainingError(Exception):
    """The run cannot go on: the loss or the gradient is not a number, or a fatal health check failed."""


class EpochLog:
    """Collects the steps of one epoch; figures stay on the device until somebody has to look.

    Parameters
    ----------
    world, device
        Number of workers, and this one's device.
    """

    def __init__(
        self, recipe: Recipe, table: StampTable, order: EpochOrder, epoch: int, world: int, device: torch.device
    ) -> None:
        self._recipe, self._table, self._order, self._epoch = recipe, table, order, epoch
        self._world, self._device = world, device
        self._results: list[StepResult] = []
        self._window_weights: list[float] = []
        self._rows = self._checked = 0
        self._waited = self._seconds_before = 0.0
        self._started = self._told = time.perf_counter()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; the time until each comes counts as waiting for data."""
        source = iter(items)
        while True:
            asked = time.perf_counter()
            item = next(source, None)
            self._waited += time.perf_counter() - asked
            if item is None:
                return
            yield item

    def progress(self) -> dict[str, Any]:
        """How far the epoch is, for a checkpoint inside it; all workers call it."""
        self._require_finite()
        rows = int(self._over_workers(torch.tensor(self._rows, device=self._device)))
        return {
            "step": len(self._results),
            "rows": rows,
            "window_weights": list(self._window_weights),
            "figures": self._figures().cpu(),
            "waited": self._waited,
            "seconds": self._seconds(),
        }

    def resume(self, progress: dict[str, Any], rank: int) -> None:
        """Go on from there; the figures of all workers so far are worker 0's share."""
        share = 1.0 if rank == 0 else 0.0
        for loss, grad_norm, stem_norm in progress["figures"].to(self._device):
            self._results.append(StepResult(loss=share * loss, grad_norm=grad_norm, stem_norm=stem_norm, logits=[]))
        self._window_weights = list(progress["window_weights"])
        self._rows = progress["rows"] if rank == 0 else 0
        self._checked = len(self._results)
        self._waited, self._seconds_before = progress["waited"], progress["seconds"]

    def add(self, result: StepResult, window_weight: float, rows: int) -> None:
        """Note a step: what it gave, the weight of its window on all workers, this worker's rows in it.

        Raises
        ------
        TrainingError
            A loss or gradient of the latest steps is not a number.
        """
        self._results.append(result)
        self._window_weights.append(window_weight)
        self._rows += rows
        if len(self._results) % FINITE_CHECK_STEPS.get(self._device.type, 1) == 0:
            self._require_finite()
            self._tell()

    def record(self, lr: float) -> Record:
        """The training part of the epoch's record.

        Raises
        ------
        DataError
            Not every row that the manifest gives was trained on.
        """
        self._require_finite()
        rows = int(self._over_workers(torch.tensor(self._rows, device=self._device)))
        self._require_rows(rows)
        losses, norms, stem = self._figures().double().cpu().numpy().T
        seconds = self._seconds()
        weights = np.maximum(self._window_weights, 1e-30)  # an average needs some weight
        stepped = np.isfinite(norms)  # with fp16 an infinite gradient is left out, and only lowers the scale
        norms, stem = (values[stepped] if stepped.any() else np.zeros(1) for values in (norms, stem))
        return {
            "epoch": self._epoch,
            "lr": lr,
            "train_loss": float(np.average(losses, weights=weights)),
            "grad_norm_mean": float(norms.mean()),
            "grad_norm_max": float(norms.max()),
            "stem_grad_norm_mean": float(stem.mean()),
            "steps": len(self._results),
            "steps_skipped": int(np.sum(~stepped)),
            "train_rows": rows,
            "seconds": seconds,
            "images_per_second": rows / seconds,
            "data_wait_seconds": self._waited,
            **self._memory(),
        }

    def _figures(self) -> torch.Tensor:
        """(steps, 3): loss over all workers, gradient norm, stem's."""
        losses = self._over_workers(torch.stack([result.loss for result in self._results]))
        norms = torch.stack([torch.stack([result.grad_norm, result.stem_norm]) for result in self._results])
        return torch.cat([losses[:, None], norms.to(losses.dtype)], dim=1)

    def _memory(self) -> Record:
        if self._device.type != "cuda":
            return {}
        return {"gpu_memory_bytes": torch.cuda.max_memory_allocated(self._device)}

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._started

    def _tell(self) -> None:
        """A line on the progress of an epoch that takes long."""
        now = time.perf_counter()
        if now - self._told < TELL_SECONDS:
            return
        self._told, done = now, len(self._results)
        steps = num_steps(len(self._table), self._recipe.window_rows, drop_last=self._recipe.drop_last)
        rate = done * self._recipe.window_rows / self._seconds()
        left = self._seconds() / done * (steps - done)
        log.info("epoch=%d step=%d/%d images_per_second=%.0f left=%.0fs", self._epoch, done, steps, rate, left)

    def _require_finite(self) -> None:
        first, latest = self._checked, self._results[self._checked :]
        if not latest:
            return
        self._checked = len(self._results)
        # With fp16 an infinite gradient only lowers the scale: there the loss alone decides.
        scaled = self._recipe.precision == "fp16"
        figures = torch.stack([step.loss if scaled else step.loss + step.grad_norm for step in latest])
        bad = torch.isfinite(self._over_workers(figures)).logical_not().nonzero()
        if len(bad):
            raise TrainingError(self._describe(first + int(bad[0])))
        for step in latest:
            step.logits.clear()

    def _describe(self, step: int) -> str:
        size = self._recipe.window_rows
        ids = self._table.cutout_ids[self._order.rows[step * size : (step + 1) * size]]
        if self._world == 1:
            wrong = ~torch.isfinite(torch.cat(self._results[step].logits)).cpu().numpy()
            ids = ids[wrong] if wrong.any() else ids
        shown = ", ".join(str(key) for key in ids[:NAMED_STAMPS])
        more = " and others" if len(ids) > NAMED_STAMPS else ""
        return (
            f"the loss or its gradient is not a number in epoch {self._epoch}, step {step}; cutout_id {shown}{more}: "
            "lower the learning rate, clip the gradient, or look at these stamps"
        )

    def _require_rows(self, rows: int) -> None:
        listed, window = len(self._table), self._recipe.window_rows
        expected = listed - listed % window if self._recipe.drop_last else listed
        if rows != expected:
            raise DataError(f"{rows} stamps were trained on in epoch {self._epoch}, but the manifest gives {expected}")

    def _over_workers(self, values: torch.Tensor) -> torch.Tensor:
        if self._world > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values
