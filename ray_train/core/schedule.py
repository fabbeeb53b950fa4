"""The learning rate of an epoch, as a pure function (R-T2, R-T3). Epochs count from 0."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Form of the learning-rate curve; see `rate`.

    Parameters
    ----------
    name
        "step", "cosine", "warm_restarts" or "constant".
    lr_step_epoch, lr_step_factor
        step: that many full epochs at the first rate, then the factor, once.
    t_0, t_mult, eta_min
        warm_restarts: epochs of the first cycle, its growth; lowest rate (cosine too).
    warmup_epochs
        Epochs of linear rise before the form starts.
    """

    name: str
    lr_step_epoch: int
    lr_step_factor: float
    t_0: int
    t_mult: int
    eta_min: float
    warmup_epochs: int

    def rate(self, epoch: int, first: float, epochs: int) -> float:
        """Learning rate during `epoch` of `epochs`, starting from `first`."""
        if epoch < self.warmup_epochs:
            return first * (epoch + 1) / (self.warmup_epochs + 1)
        epoch, epochs = epoch - self.warmup_epochs, max(1, epochs - self.warmup_epochs)
        if self.name == "step":
            return first * self.lr_step_factor if epoch >= self.lr_step_epoch else first
        if self.name == "cosine":
            return self._cosine(first, epoch / epochs)
        if self.name == "warm_restarts":
            length = self.t_0
            while epoch >= length:
                epoch, length = epoch - length, length * self.t_mult
            return self._cosine(first, epoch / length)
        if self.name == "constant":
            return first
        raise ValueError(f"unknown schedule {self.name!r}")

    def _cosine(self, first: float, part: float) -> float:
        return self.eta_min + (first - self.eta_min) * (1 + math.cos(math.pi * part)) / 2
