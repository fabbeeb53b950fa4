"""A running mean of the weights, which is often better than the latest ones (Polyak averaging)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """Exponential mean over the optimizer's steps, BatchNorm's statistics included.

    The decay rises to its value as (1 + step) / (10 + step), so that the random weights of the start are soon
    forgotten. (`torch.optim.swa_utils.AveragedModel` counts on the device and would wait for it in every step.)

    Parameters
    ----------
    decay
        Share of the mean that stays in a step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._decay, self._steps = decay, 0

    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        share = 1 - min(self._decay, (1 + self._steps) / (10 + self._steps))
        self._steps += 1
        own, latest = ([*part.parameters(), *part.buffers()] for part in (self.model, model))
        pairs = list(zip(own, latest, strict=True))
        with torch.no_grad():
            real = [(mean, now.detach()) for mean, now in pairs if mean.is_floating_point()]
            torch._foreach_lerp_([mean for mean, _ in real], [now for _, now in real], share)
            for mean, now in pairs:
                if not mean.is_floating_point():  # BatchNorm's count of batches
                    mean.copy_(now)

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"weights": self.model.state_dict(), "steps": self._steps}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.model.load_state_dict(state["weights"])
        self._steps = int(state["steps"])
