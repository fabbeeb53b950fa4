"""Random views that depend on (seed, epoch, stamp) and on nothing else (R-P7).

Randomness is a counter-based hash, so a stamp gets the same view whatever its batch, rank, device or loader.
"""

from __future__ import annotations

import torch

# splitmix64's constants as signed 64-bit integers: torch has no unsigned arithmetic.
_GOLDEN, _MIX_1, _MIX_2 = -7046029254386353131, -4658895280553007687, -7723592293110705685
_ORIGINAL_FACTOR, _ORIGINAL_MASK = 1000003, 0x7FFFFFFF
VIEWS = ("d4", "original", "none")


def augment(
    x_NCHW: torch.Tensor, view: str, *, seed: int, epoch: int, cutout_ids: torch.Tensor, indices: torch.Tensor
) -> torch.Tensor:
    """One random view per stamp.

    Parameters
    ----------
    x_NCHW
        Square stamps.
    view
        "d4": keyed by (seed, epoch, cutout_id); "original": by `(seed * 1000003 + index) & 0x7fffffff`, the same
        in every epoch; "none".
    cutout_ids, indices
        (N,) int64: the key of each stamp and its place in the training split.
    """
    if view == "none":
        return x_NCHW
    if view == "original":
        key = mix((seed * _ORIGINAL_FACTOR + indices) & _ORIGINAL_MASK)
    else:
        key = sample_key(cutout_ids, seed=seed, epoch=epoch)
    return d4(x_NCHW, key)


def sample_key(cutout_ids: torch.Tensor, *, seed: int, epoch: int) -> torch.Tensor:
    """64 random bits per stamp, a pure function of its arguments."""
    start = torch.tensor(seed, dtype=torch.int64, device=cutout_ids.device)
    return mix(mix(mix(start) ^ epoch) ^ cutout_ids)


def mix(x: torch.Tensor) -> torch.Tensor:
    """splitmix64 of int64 values (the bits of the unsigned function)."""
    x = x + _GOLDEN
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def d4(x_NCHW: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Horizontal flip, then vertical flip, then k quarter turns, each uniform; bits 0, 1 and 2-3 of the key.

    Flips, turns and their products are eight maps, each a transposition or not between flips: three masked copies
    do it for the whole batch without waiting for the device.
    """
    horizontal, vertical, turns = (key & 1).bool(), (key >> 1 & 1).bool(), key >> 2 & 3
    flip_w = horizontal ^ ((turns == 1) | (turns == 2))
    flip_h = vertical ^ ((turns == 2) | (turns == 3))
    x = torch.where(_broad(flip_w), x_NCHW.flip(3), x_NCHW)
    x = torch.where(_broad(flip_h), x.flip(2), x)
    return torch.where(_broad(turns % 2 == 1), x.transpose(2, 3), x)


def _broad(mask: torch.Tensor) -> torch.Tensor:
    return mask[:, None, None, None]


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # logical, where >> of a signed integer is arithmetic
