"""Random views and masks that depend on (seed, epoch, stamp) and on nothing else (R-P5, R-P7).

Randomness is a counter-based hash, so a stamp gets the same view whatever its batch, rank, device or loader.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

# splitmix64's constants as signed 64-bit integers: torch has no unsigned arithmetic.
_GOLDEN, _MIX_1, _MIX_2 = -7046029254386353131, -4658895280553007687, -7723592293110705685
_ORIGINAL_FACTOR, _ORIGINAL_MASK = 1000003, 0x7FFFFFFF
VIEWS = ("d4", "original", "affine", "none")
# Numbers of a stamp's random draws besides the bits of its flips: each draw is used for one thing only.
_MASK, _ANGLE, _ZOOM, _SHIFT_X, _SHIFT_Y = range(5)


@dataclass(frozen=True, kw_only=True)
class Affine:
    """Ranges of a continuous view: turned by up to `rotate_degrees`, magnified by `zoom`, moved by up to `shift_pixels`."""

    rotate_degrees: float = 180.0
    zoom: tuple[float, float] = (1.0, 1.0)
    shift_pixels: float = 0.0


@dataclass(frozen=True, kw_only=True)
class MaskStage:
    """From an epoch on, a disc of `radius` pixels is hidden in a fraction `probability` of the stamps (R-P5)."""

    from_epoch: int
    radius: float
    probability: float


@dataclass(frozen=True, kw_only=True)
class Views:
    """What training shows of a stamp.

    Parameters
    ----------
    view
        "d4": keyed by (seed, epoch, cutout_id); "original": by `(seed * 1000003 + index) & 0x7fffffff`, the same
        in every epoch; "affine": flips as in d4, then a rotation, zoom and shift; "none".
    affine
        Ranges of "affine".
    masking
        Stages, the first of epoch 0; empty hides nothing.
    """

    view: str
    affine: Affine = Affine()
    masking: tuple[MaskStage, ...] = ()


def augment(
    x_NCHW: torch.Tensor, views: Views, *, seed: int, epoch: int, cutout_ids: torch.Tensor, indices: torch.Tensor
) -> torch.Tensor:
    """One random view per stamp, masked after it was turned.

    Parameters
    ----------
    x_NCHW
        Square stamps, normalised; all planes get the same view.
    cutout_ids, indices
        (N,) int64: the key of each stamp and its place in the training split.
    """
    own = sample_key(cutout_ids, seed=seed, epoch=epoch)
    if views.view == "original":
        x_NCHW = d4(x_NCHW, mix((seed * _ORIGINAL_FACTOR + indices) & _ORIGINAL_MASK))
    elif views.view == "d4":
        x_NCHW = d4(x_NCHW, own)
    elif views.view == "affine":
        x_NCHW = affine(d4(x_NCHW, own), own, views.affine)
    elif views.view != "none":
        raise ValueError(f"unknown view {views.view!r}; known are {', '.join(VIEWS)}")
    stage = mask_stage(views.masking, epoch)
    if stage is None:
        return x_NCHW
    return mask_core(x_NCHW, stage.radius, uniform(own, _MASK) < stage.probability)


def mask_stage(stages: Sequence[MaskStage], epoch: int) -> MaskStage | None:
    """The stage of an epoch: the latest that has begun."""
    begun = [stage for stage in stages if stage.from_epoch <= epoch]
    return max(begun, key=lambda stage: stage.from_epoch) if begun else None


def mask_core(
    x_NCHW: torch.Tensor, radius: float, chosen: torch.Tensor, fill: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """Fill the pixels with r < radius about the centre pixel n // 2 of the chosen stamps.

    Parameters
    ----------
    chosen
        (N,) bool.
    fill
        What is put there, a number (0 is the sky after normalisation) or a tensor of the stamps' shape.
    """
    rows, columns = (torch.arange(n, device=x_NCHW.device) - n // 2 for n in x_NCHW.shape[2:])
    core = rows[:, None] ** 2 + columns[None, :] ** 2 < radius**2
    return torch.where(_broad(chosen) & core, fill, x_NCHW)


def affine(x_NCHW: torch.Tensor, key: torch.Tensor, ranges: Affine) -> torch.Tensor:
    """Turn, magnify and move each stamp about its centre pixel n // 2 (bilinear); what comes from outside is 0.

    Interpolation lowers the noise between pixels, by the same law for all classes.
    """
    height, width = x_NCHW.shape[2:]
    angle = math.radians(ranges.rotate_degrees) * (2 * uniform(key, _ANGLE) - 1)
    zoom = ranges.zoom[0] + (ranges.zoom[1] - ranges.zoom[0]) * uniform(key, _ZOOM)
    shift_x, shift_y = (ranges.shift_pixels * (2 * uniform(key, draw) - 1) for draw in (_SHIFT_X, _SHIFT_Y))
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    # output pixel -> input pixel, both counted from the centre pixel; float64 angles would not change a stamp
    y, x = torch.meshgrid(
        torch.arange(height, device=x_NCHW.device) - float(height // 2),
        torch.arange(width, device=x_NCHW.device) - float(width // 2),
        indexing="ij",
    )
    moved_x, moved_y = x - shift_x[:, None, None], y - shift_y[:, None, None]
    source_x = cos[:, None, None] * moved_x + sin[:, None, None] * moved_y + width // 2
    source_y = cos[:, None, None] * moved_y - sin[:, None, None] * moved_x + height // 2
    # grid_sample counts from -1 to 1 between the outer corners of the outer pixels
    grid = torch.stack([(2 * source_x + 1) / width - 1, (2 * source_y + 1) / height - 1], dim=-1)
    x_NCHW = x_NCHW.float()  # half precision is too coarse for a grid of pixels
    return functional.grid_sample(
        x_NCHW, grid.to(x_NCHW.dtype), mode="bilinear", padding_mode="zeros", align_corners=False
    )


def uniform(key: torch.Tensor, draw: int) -> torch.Tensor:
    """(N,) float32 in [0, 1): the draw of this number of each stamp."""
    bits = mix(key ^ mix(_constant(draw, key.device)))
    return _shift(bits, 40).float() * 2.0**-24  # 24 bits are what float32 holds exactly


def sample_key(cutout_ids: torch.Tensor, *, seed: int, epoch: int) -> torch.Tensor:
    """64 random bits per stamp, a pure function of its arguments."""
    return mix(mix(mix(_constant(seed, cutout_ids.device)) ^ epoch) ^ cutout_ids)


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


def _constant(value: int, device: torch.device) -> torch.Tensor:
    """A number made on the device: copied there it would make the host wait."""
    return torch.full((), value, dtype=torch.int64, device=device)


def _broad(mask: torch.Tensor) -> torch.Tensor:
    return mask[:, None, None, None]


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # logical, where >> of a signed integer is arithmetic
