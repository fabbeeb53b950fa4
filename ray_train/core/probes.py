"""What is done to stamps before a network sees them again, to learn what it looks at (R-E5).

Every change is a pure function of the stamps and of their keys: the same noise is used at every level of a probe, and in every
batch, so that two logits of one stamp differ by what was changed alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

import numpy as np
import torch
from torch import fft
from torch.nn import functional

from lensdata.audit.regions import ANNULUS_ARCSEC as ARC_ARCSEC
from lensdata.audit.regions import SKY_ARCSEC as BACKGROUND_ARCSEC
from ray_train.core.augment import d4, mix, sample_key, uniform
from ray_train.core.images import MAD_TO_SIGMA, ImageRecipe, annulus, azimuthal_median, median

CORE_RADII = (3.0, 5.0, 7.0, 10.0, 15.0)  # pixels; R-E5, with 0 the untouched stamp
RING_ARCSEC = 0.75  # width of the rings that are hidden in turn
SEEING_FACTORS, NOISE_FACTORS = (1.2, 1.4), (1.5, 2.0)
SHIFT_PIXELS = 3
DEFAULT_FWHM_ARCSEC = 1.3  # of the survey, for stamps whose seeing is not known
FWHM_TO_SIGMA = 1 / (2 * math.sqrt(2 * math.log(2)))
OUTSKIRTS = 0.8  # of half the side: the pixels beyond show the sky
_NOISE, _TURN = 101, 102  # numbers of draws that no view of training uses


@dataclass(frozen=True)
class Stamps:
    """Stamps as they are stored and as the network sees them.

    Attributes
    ----------
    stored_NHWC
        As in the shards.
    cutout_ids
        (N,) int64.
    fwhm
        (N, C) seeing in pixels.
    recipe
        From stored stamp to network input.
    """

    stored_NHWC: torch.Tensor
    cutout_ids: torch.Tensor
    fwhm: torch.Tensor
    recipe: ImageRecipe

    @cached_property
    def keys(self) -> torch.Tensor:
        """64 random bits per stamp."""
        return sample_key(self.cutout_ids, seed=0, epoch=0)

    @cached_property
    def input(self) -> torch.Tensor:
        """(N, C, h, w) float32, what the network sees."""
        return self.recipe.prepare(self.stored_NHWC).float()

    @cached_property
    def stored(self) -> torch.Tensor:
        """(N, C, H, W) float32 as stored; NaN is 0."""
        return torch.nan_to_num(self.stored_NHWC.permute(0, 3, 1, 2).float(), nan=0.0)

    @cached_property
    def input_noise(self) -> torch.Tensor:
        """The sky of each stamp made anew: its level and noise per band beyond the outskirts' radius."""
        level, sigma = sky(self.input)
        return level + sigma * normal(self.keys, self.input.shape[1:])

    @cached_property
    def stored_noise(self) -> torch.Tensor:
        """Noise of one sigma of the stored stamp's own sky."""
        return sky(self.stored)[1] * normal(self.keys, self.stored.shape[1:])

    @cached_property
    def profile(self) -> torch.Tensor:
        """The azimuthal median of what the network sees."""
        return azimuthal_median(self.input)

    def seen(self, stored: torch.Tensor) -> torch.Tensor:
        """What the network sees of changed stored stamps (N, C, H, W)."""
        return self.recipe.prepare(stored.permute(0, 2, 3, 1)).float()


@dataclass(frozen=True)
class Probe:
    """One change: its name, how far it goes, and the network input (N, C, h, w) that it makes."""

    name: str
    level: float
    change: Callable[[Stamps], torch.Tensor]


def probes(
    size: int, planes: int, pixscale_arcsec: float, pairs: Sequence[tuple[int, int]] = (), *, flux: bool = True
) -> list[Probe]:
    """All probes of R-E5 that stamps of this size can show; "none" comes first.

    Parameters
    ----------
    size
        Side of the network's input in pixels.
    planes
        Its planes.
    pairs
        Planes that are a stamp and its control, whose bands are changed apart.
    flux
        Whether pixels are a flux. A picture is clipped and stretched: it has no noise of a sky, so that neither wider seeing at
        the same depth nor more noise can be made of it.
    """
    radius = size // 2
    out = [Probe("none", 0.0, lambda stamps: stamps.input)]
    for hidden in (r for r in CORE_RADII if r < radius):
        out += [Probe(f"core_{name}", hidden, partial(_filled, 0.0, hidden, fill)) for name, fill in FILLS.items()]
    for inner in np.arange(0.0, radius * pixscale_arcsec - RING_ARCSEC, RING_ARCSEC):
        edges = (inner / pixscale_arcsec, (inner + RING_ARCSEC) / pixscale_arcsec)
        out.append(Probe("ring_azimuthal", float(inner), partial(_filled, *edges, FILLS["azimuthal"])))
    arc = tuple(edge / pixscale_arcsec for edge in ARC_ARCSEC)
    if arc[1] < radius:
        out.append(Probe("arc_azimuthal", 0.0, partial(_filled, *arc, FILLS["azimuthal"])))
    background = BACKGROUND_ARCSEC / pixscale_arcsec
    if background < radius * math.sqrt(2) - 1:  # the corners reach farther than the sides
        out.append(Probe("background_only", BACKGROUND_ARCSEC, partial(_filled, 0.0, background, FILLS["noise"])))
    out.append(Probe("scramble", 0.0, lambda stamps: scramble(stamps.input, stamps.keys)))
    groups = _band_groups(planes, pairs)
    if len(groups[0]) > 1:
        out.append(Probe("grey", 0.0, lambda stamps: grey(stamps.input, groups)))
        out += [Probe("permuted", float(turn), partial(_permuted, groups, turn)) for turn in range(1, len(groups[0]))]
    if flux:
        out += [Probe("seeing", factor, partial(_worse_seeing, factor)) for factor in SEEING_FACTORS]
        out += [Probe("depth", factor, partial(_noisier, factor)) for factor in NOISE_FACTORS]
    out += [Probe("d4", float(view), partial(_turned, view)) for view in range(1, 8)]
    out += [
        Probe("shift", float(number), partial(_shifted, *step))
        for number, step in enumerate(((0, 1), (0, -1), (1, 0), (-1, 0)))
    ]
    return out


# --- changes of what the network sees ----------------------------------------------------------------------------------

FILLS: dict[str, Callable[[Stamps], torch.Tensor]] = {
    "zero": lambda stamps: torch.zeros_like(stamps.input),
    "noise": lambda stamps: stamps.input_noise,
    "azimuthal": lambda stamps: stamps.profile,  # hides arcs, keeps profile and colour
}


def _filled(inner: float, outer: float, fill: Callable[[Stamps], torch.Tensor], stamps: Stamps) -> torch.Tensor:
    """Pixels with inner <= r < outer about the centre pixel replaced."""
    x = stamps.input
    return torch.where(annulus(*x.shape[2:], inner, outer, x.device), fill(stamps), x)


def scramble(x_NCHW: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Every ring of one pixel turned by an angle of its own, the same in all planes.

    The pixels of a ring, in the order of their angles, move on by a random number of places: every value stays, and so do
    radial profile, colours and noise; what is coherent between rings, as an arc is, is not.
    """
    members, counts = _rings_by_angle(x_NCHW.shape[2], x_NCHW.shape[3], x_NCHW.device)
    num_rings, longest = members.shape
    turns = torch.stack([uniform(keys, _TURN + ring) for ring in range(num_rings)], dim=1)  # (N, rings)
    places = torch.arange(longest, device=x_NCHW.device)
    moved = (places + (turns * counts).long()[..., None]) % counts[:, None]  # (N, rings, longest)
    source = members[torch.arange(num_rings, device=x_NCHW.device)[:, None], moved]
    inside = places < counts[:, None]
    order = torch.empty((len(x_NCHW), x_NCHW[0, 0].numel()), dtype=torch.int64, device=x_NCHW.device)
    order[:, members[inside]] = source[:, inside]
    flat = x_NCHW.flatten(2)
    return flat.gather(2, order[:, None].expand_as(flat)).unflatten(2, x_NCHW.shape[2:])


@lru_cache(maxsize=8)
def _rings_by_angle(height: int, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of each ring in the order of their angle (rings, longest ring), padded with 0; pixels per ring (rings,)."""
    y, x = np.meshgrid(np.arange(height) - height // 2, np.arange(width) - width // 2, indexing="ij")
    ring = np.floor(np.hypot(y, x) + 0.5).astype(np.int64).ravel()
    angle = np.arctan2(y, x).ravel()
    counts = np.bincount(ring)
    members = np.zeros((len(counts), counts.max()), np.int64)
    for number, count in enumerate(counts):
        pixels = np.flatnonzero(ring == number)
        members[number, :count] = pixels[np.argsort(angle[pixels], kind="stable")]
    return torch.from_numpy(members).to(device), torch.from_numpy(counts).to(device)


def grey(x_NCHW: torch.Tensor, groups: Sequence[Sequence[int]]) -> torch.Tensor:
    """Every plane of a group replaced by the group's mean."""
    out = x_NCHW.clone()
    for group in groups:
        out[:, list(group)] = x_NCHW[:, list(group)].mean(dim=1, keepdim=True)
    return out


def _permuted(groups: Sequence[Sequence[int]], turn: int, stamps: Stamps) -> torch.Tensor:
    """The planes of each group in another cyclic order."""
    order = list(range(stamps.input.shape[1]))
    for group in groups:
        for place, plane in enumerate(group):
            order[plane] = group[(place + turn) % len(group)]
    return stamps.input[:, order]


def _band_groups(planes: int, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Planes of one picture: all, or those of the stamps and those of their controls."""
    if not pairs:
        return [list(range(planes))]
    return [[one for one, _ in pairs], [two for _, two in pairs]]


def _turned(view: int, stamps: Stamps) -> torch.Tensor:
    """One of the eight views: the bits of `augment.d4`'s key that give each once."""
    bits = (view & 1) | (view >> 1) << 2
    return d4(stamps.input, torch.full_like(stamps.cutout_ids, bits))


def _shifted(down: int, right: int, stamps: Stamps) -> torch.Tensor:
    """The stored stamp moved by some pixels; at the edge the last pixel is repeated."""
    side = SHIFT_PIXELS
    padded = functional.pad(stamps.stored, (side,) * 4, mode="replicate")
    height, width = stamps.stored.shape[2:]
    top, left = side - down * side, side - right * side
    return stamps.seen(padded[:, :, top : top + height, left : left + width])


# --- changes of the observation ----------------------------------------------------------------------------------------


def _worse_seeing(factor: float, stamps: Stamps) -> torch.Tensor:
    """As if the seeing had been wider by this factor, at the same depth."""
    sigma = stamps.fwhm * FWHM_TO_SIGMA * math.sqrt(factor**2 - 1)
    blurred = blur(stamps.stored, sigma)
    before, after = sky(stamps.stored)[1], sky(blurred)[1]
    lost = (before**2 - after**2).clamp_min(0).sqrt()  # white noise in place of what the blur took out
    return stamps.seen(blurred + lost * normal(stamps.keys, stamps.stored.shape[1:]))


def _noisier(factor: float, stamps: Stamps) -> torch.Tensor:
    """As if the exposure had been shorter: noise of the sky wider by this factor."""
    return stamps.seen(stamps.stored + math.sqrt(factor**2 - 1) * stamps.stored_noise)


def blur(x_NCHW: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Each plane convolved with a Gaussian of its own sigma (N, C) in pixels; the edge is continued, flux is kept inside."""
    height, width = x_NCHW.shape[2:]
    side = min(16, min(height, width) - 1)
    padded = functional.pad(x_NCHW, (side,) * 4, mode="reflect")
    fy = fft.fftfreq(padded.shape[2], device=x_NCHW.device)
    fx = fft.rfftfreq(padded.shape[3], device=x_NCHW.device)
    square = fy[:, None] ** 2 + fx[None, :] ** 2
    transfer = torch.exp(-2 * math.pi**2 * sigma[..., None, None] ** 2 * square)
    smooth = fft.irfft2(fft.rfft2(padded) * transfer, s=padded.shape[2:])
    return smooth[:, :, side : side + height, side : side + width]


def sky(x_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Median and 1.4826 MAD per plane (N, C, 1, 1) of the pixels beyond `OUTSKIRTS` of half the side."""
    half = min(x_NCHW.shape[2:]) // 2
    outside = annulus(*x_NCHW.shape[2:], OUTSKIRTS * half, math.inf, x_NCHW.device)
    values = x_NCHW[:, :, outside]
    level = median(values)
    return level[..., None], MAD_TO_SIGMA * median((values - level).abs())[..., None]


def normal(keys: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """(N, *shape) float32 standard normal numbers, a pure function of the keys (Box & Muller 1958)."""
    pixels = torch.arange(math.prod(shape), device=keys.device)
    own = mix(keys ^ _NOISE)[:, None]
    bits = mix(own ^ pixels)
    # two numbers of 24 bits from one of 64, the first never 0
    one = (((bits >> 40) & 0xFFFFFF) + 1).float() * 2.0**-24
    two = ((bits >> 8) & 0xFFFFFF).float() * 2.0**-24
    return (torch.sqrt(-2 * torch.log(one)) * torch.cos(2 * math.pi * two)).unflatten(1, tuple(shape))
