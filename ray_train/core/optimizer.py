"""Optimizers by name (R-T2, R-T3)."""

from __future__ import annotations

import torch
from torch import nn


def build_optimizer(
    model: nn.Module, name: str, *, lr: float, weight_decay: float, momentum: float
) -> torch.optim.Optimizer:
    """AdamW (betas 0.9, 0.999) or SGD with momentum, in the fused form; decay on all parameters, as Paper IV's."""
    if name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), lr=lr, weight_decay=weight_decay, momentum=momentum, fused=True)
    raise ValueError(f"unknown optimizer {name!r}; known are adamw, sgd")


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use this learning rate from now on."""
    for group in optimizer.param_groups:
        group["lr"] = lr
