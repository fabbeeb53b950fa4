"""A checkpoint: everything that an interrupted run needs to end with the same numbers (R-T5).

Order, augmentation and schedule are functions of the epoch, and every epoch starts its random generators from
(seed, epoch, worker). So the position in all of them is one number, the epoch.
"""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import nn

FORMAT_VERSION = 1


class CheckpointError(Exception):
    """A checkpoint that cannot be used."""


def dump(
    *,
    epoch: int,
    seed: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    recipe: dict[str, Any],
    network: dict[str, Any],
) -> bytes:
    """The state after `epoch`, as one file.

    Parameters
    ----------
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


def seed_generators(seed: int, epoch: int, rank: int) -> None:
    """Start torch's generators (dropout) for one epoch on one worker."""
    torch.manual_seed((seed * 1_000_003 + epoch) * 1_009 + rank)
