"""A checkpoint: everything that an interrupted run needs to end with the same numbers (R-T5).

Order, augmentation and schedule are functions of epoch and step, and every step starts its random generators from
(seed, epoch, step, worker). So the position in all of them is two numbers.
"""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import nn

FORMAT_VERSION = 2
_SEED_MASK = (1 << 63) - 1


class CheckpointError(Exception):
    """A checkpoint that cannot be used."""


def dump(
    *,
    epoch: int,
    seed: int,
    model: nn.Module,
    averaged: dict[str, Any] | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    recipe: dict[str, Any],
    network: dict[str, Any],
    progress: dict[str, Any] | None = None,
) -> bytes:
    """The state after `epoch`, as one file.

    Parameters
    ----------
    averaged
        State of the `WeightAverage`, if there is one.
    progress
        Inside `epoch`: how far it is, and its figures so far (`EpochLog.progress`).
    recipe, network
        Plain values that say how it was trained and which network it is, for whoever finds the file alone.
    """
    buffer = io.BytesIO()
    torch.save(
        {
            "format_version": FORMAT_VERSION,
            "epoch": epoch,
            "random": {"seed": seed, "epoch": epoch},
            "model": model.state_dict(),
            "averaged": averaged,
            "progress": progress,
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
            "recipe": recipe,
            "network": network,
        },
        buffer,
    )
    return buffer.getvalue()


def load(data: bytes, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; nothing in it can run code.

    Raises
    ------
    CheckpointError
        Broken file or another format version.
    """
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a broken file
        raise CheckpointError(f"the checkpoint cannot be read ({type(error).__name__}: {error})") from error
    if state.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"the checkpoint has format {state.get('format_version')}, this version reads {FORMAT_VERSION}"
        )
    return state


def weights(saved: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights that a checkpoint is judged by: the average where the run kept one, else the network's own."""
    chosen: dict[str, torch.Tensor] = saved["averaged"]["weights"] if saved["averaged"] else saved["model"]
    return chosen


def seed_generators(seed: int, epoch: int, step: int, rank: int) -> None:
    """Start torch's generators (dropout) for one step on one worker."""
    torch.manual_seed(((seed * 1_000_003 + epoch) * 1_000_003 + step) * 1_009 + rank & _SEED_MASK)
