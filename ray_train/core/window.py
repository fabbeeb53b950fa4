"""One optimizer step over a window of micro-batches, exact for any division into micro-batches and workers (R-T4).

The loss of every stamp is divided by the weight of the whole window on all workers, not averaged per micro-batch:
a short last micro-batch or unequal workers then change nothing. Gradients meet once, at the last micro-batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass needs, on the device: stamps (n, C, H, W), targets and weights (n,)."""

    images: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a window left behind, still on the device: loss (this worker's share), norms, logits per micro-batch."""

    loss: torch.Tensor
    grad_norm: torch.Tensor
    stem_norm: torch.Tensor
    logits: list[torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Stepper:
    """The parts of a training step that stay the same over the run.

    Parameters
    ----------
    model
        The network, wrapped for several workers where there are any.
    stem
        The first convolution, whose gradient norm is reported.
    precision
        "fp32", "bf16" or "fp16"; the scaler is active for fp16 only.
    clip_norm
        Largest gradient norm; 0 does not clip.
    blank
        One empty stamp (1, C, H, W), for a worker that has no micro-batch in a window.
    """

    model: nn.Module
    stem: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    world: int
    precision: str
    clip_norm: float
    blank: torch.Tensor

    def step(
        self, micro: Iterator[MicroBatch], num_micro: int, window_weight: float, *, freeze_stem: bool
    ) -> StepResult:
        """Accumulate a window's gradient and update the weights.

        Parameters
        ----------
        micro
            This worker's micro-batches, `num_micro` of them; a worker without any still joins the exchange.
        window_weight
            Sum of the weights of all stamps of the window on all workers.
        """
        _clear_gradients(self.model)
        loss, logits = accumulate(
            self.model,
            micro,
            num_micro,
            window_weight,
            world=self.world,
            blank=self.blank,
            precision=self.precision,
            scaler=self.scaler,
        )
        self.scaler.unscale_(self.optimizer)
        stem_norm = _norm(self.stem)
        if freeze_stem:  # without gradient the optimizer leaves it as it is; the graph of all workers stays the same
            for parameter in self.stem.parameters():
                parameter.grad = None
        grad_norm = _norm(self.model)
        if self.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.clip_norm, grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return StepResult(loss=loss, grad_norm=grad_norm, stem_norm=stem_norm, logits=logits)


def accumulate(
    model: nn.Module,
    micro: Iterator[MicroBatch],
    num_micro: int,
    window_weight: float,
    *,
    world: int,
    blank: torch.Tensor,
    precision: str = "fp32",
    scaler: torch.amp.GradScaler | None = None,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Forward and backward over a window; leaves the gradient of the weighted mean loss in `.grad`.

    Returns
    -------
    tuple
        This worker's share of the mean loss, and the logits of its micro-batches, without graph.
    """
    total = torch.zeros((), dtype=blank.dtype, device=blank.device)
    logits: list[torch.Tensor] = []
    scale = 1.0 / (window_weight or 1.0)  # a window of zero weight has zero gradient
    for index, batch in enumerate(micro):
        with _last_one_synchronises(model, index == num_micro - 1):
            output, loss = _loss(model, batch, precision)
            loss = loss * scale
            # DDP averages over workers; the share of each is a sum.
            backward = loss * world
            (scaler.scale(backward) if scaler is not None else backward).backward()
        total += loss.detach()
        logits.append(output.detach().clone())  # a captured graph writes its next output to the same place
    if num_micro == 0:
        _join_exchange(model, blank)
    return total, logits


def _loss(model: nn.Module, batch: MicroBatch, precision: str) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = AUTOCAST[precision]
    with torch.autocast(batch.images.device.type, dtype=dtype, enabled=dtype is not None):
        output = model(batch.images).squeeze(1)
    output = output.float() if dtype is not None else output
    loss = functional.binary_cross_entropy_with_logits(output, batch.targets, batch.weights, reduction="sum")
    return output, loss


def _clear_gradients(model: nn.Module) -> None:
    """Zero gradients in tensors of their own.

    Without them the first backward pass of a window would hand over its result as the gradient, and a captured graph writes
    that of the next micro-batch to the same place.
    """
    held = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if held:
        torch._foreach_zero_(held)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _last_one_synchronises(model: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return contextlib.nullcontext()


def _join_exchange(model: nn.Module, blank: torch.Tensor) -> None:
    """Take part in the gradient exchange of a window without any micro-batch: a zero that reaches every weight."""
    if not isinstance(model, DistributedDataParallel):
        return
    model.eval()  # statistics of BatchNorm must not see this
    (model(blank) * 0.0).sum().backward()
    model.train()


def _norm(module: nn.Module) -> torch.Tensor:
    grads = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(grads)
