"""From stored stamps to network input, in batches on the device (R-P1 to R-P5).

Shape letters: N stamps, H and W pixels, C planes. Everything here is a function of one stamp (and, for two
normalisations, of figures of the training split), so results do not depend on how stamps are batched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

ANNULUS_PIXELS = (20.0, 32.0)  # R-P1: 20 <= r < 32 about the centre pixel
RAW_ROBUST_EPSILON = 1e-8
RAW_ROBUST_CLIP = (-10.0, 10.0)
PER_SAMPLE_CLIP = (-5.0, 20.0)
LANUSSE_CLIP = (-250.0, 250.0)  # sigma; Metcalf et al. 2019 (arXiv:1802.03609), on CMU DeepLens
MAD_TO_SIGMA = 1.4826  # R-P2; raw_robust has no such factor
PREPARED_VERSION = 1  # raised whenever a prepared pixel changes: files of prepared stamps outlive a run
DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class Statistics:
    """What `lanusse` and `asinh` need to know of the training split, after the crop.

    Attributes
    ----------
    mean
        (C, h, w) mean image, in the unit of the stamps; missing pixels do not count.
    sigma
        (C,) noise per band: the median over stamps of 1.4826 MAD.
    """

    mean: torch.Tensor
    sigma: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class ImageRecipe:
    """How stamps become network input.

    Parameters
    ----------
    normalisation
        One of `NORMALISATIONS`.
    crop
        Side of the centre crop in pixels; None keeps all.
    dtype
        One of `DTYPES`, in which prepared stamps wait: float16 takes half the memory and rounds to 2^-11 of a value.
    planes
        Which planes of the stored stamps are used, in this order; None uses all.
    statistics
        For normalisations that need figures of the training split.
    """

    normalisation: str
    crop: int | None
    dtype: str = "float32"
    planes: tuple[int, ...] | None = None
    statistics: Statistics | None = field(default=None, compare=False, repr=False)

    def prepare(self, stamps_NHWC: torch.Tensor) -> torch.Tensor:
        """Normalise and crop.

        Parameters
        ----------
        stamps_NHWC
            Stored stamps, any number type.

        Returns
        -------
        Tensor
            (N, C, h, w) of `dtype` in channels_last memory, all finite.
        """
        x = stamps_NHWC.permute(0, 3, 1, 2)  # NHWC permuted to NCHW is channels_last: no copy
        x = (x if self.planes is None else x[:, list(self.planes)]).float()
        if self.normalisation == "raw_robust":  # its annulus may lie outside of the crop (R-P4)
            x = raw_robust(x, crop=self.crop)
        else:
            x = NORMALISATIONS[self.normalisation].apply(crop_centre(x, self.crop), self.statistics)
        dtype = DTYPES[self.dtype]
        largest = torch.finfo(dtype).max
        # Whatever the stamp held, the network sees numbers. In place: every normalisation makes a tensor of its own.
        torch.nan_to_num_(x, nan=0.0, posinf=largest, neginf=-largest)
        if dtype != x.dtype:
            x.clamp_(-largest, largest)
        return x.to(dtype).contiguous(memory_format=torch.channels_last)

    @property
    def needs_statistics(self) -> bool:
        """Whether this normalisation needs figures of the training split, and has none yet."""
        return NORMALISATIONS[self.normalisation].measured and self.statistics is None

    def prepared_shape(self, stamp_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(h, w, C) of a prepared stamp that is stored as (H, W, C)."""
        height, width = (self.crop, self.crop) if self.crop else stamp_shape[:2]
        return height, width, len(self.planes) if self.planes is not None else stamp_shape[2]

    def check(self, shape: tuple[int, ...], unit: str) -> None:
        """Refuse stamps that this recipe cannot take.

        Raises
        ------
        ValueError
            The crop or the annulus does not fit the stamp, or the unit is not the one that the normalisation means.
        """
        height, width = shape[0], shape[1]
        if self.normalisation not in NORMALISATIONS:
            raise ValueError(f"unknown normalisation {self.normalisation!r}; known are {', '.join(NORMALISATIONS)}")
        if self.crop is not None and self.crop > min(height, width):
            raise ValueError(f"a crop of {self.crop} pixels does not fit stamps of {height} x {width}")
        smallest = 2 * int(ANNULUS_PIXELS[1]) - 1
        if self.normalisation == "raw_robust" and min(height, width) < smallest:
            raise ValueError(f"raw_robust needs stamps of at least {smallest} pixels, found {height} x {width}")
        if self.normalisation == "rgb8" and unit != "rgb8":
            raise ValueError(f"normalisation rgb8 is for 8-bit pictures, but the stamps are in {unit}")


def raw_robust(x_NCHW: torch.Tensor, statistics: Statistics | None = None, crop: int | None = None) -> torch.Tensor:
    """(x - median) / (MAD + 1e-8) per band, both of the annulus 20 <= r < 32; clipped to +-10 (R-P1).

    NaN becomes 0 before and after; MAD is the plain median of absolute deviations. The annulus is that of the full stamp; with
    ``crop`` its centre alone is scaled, which gives the same pixels.
    """
    ring = x_NCHW.flatten(2)[:, :, _annulus_pixels(x_NCHW.shape[2], x_NCHW.shape[3], x_NCHW.device)]
    ring = torch.nan_to_num(ring, nan=0.0)
    centre = median(ring)
    spread = median((ring - centre).abs())
    x = torch.nan_to_num(crop_centre(x_NCHW, crop), nan=0.0)
    out = (x - centre[..., None]) / (spread[..., None] + RAW_ROBUST_EPSILON)
    return torch.nan_to_num(out.clamp(*RAW_ROBUST_CLIP), nan=0.0)


def per_sample_robust(x_NCHW: torch.Tensor, statistics: Statistics | None = None) -> torch.Tensor:
    """(x - median) / (1.4826 MAD) per band over the stamp it is given; clipped to [-5, 20] (R-P2)."""
    x = torch.nan_to_num(x_NCHW, nan=0.0)
    flat = x.flatten(2)
    centre = median(flat)
    spread = MAD_TO_SIGMA * median((flat - centre).abs())
    # A band without data has MAD 0: its pixels are all at the median and become 0.
    out = (x - centre[..., None]) / spread.clamp_min(torch.finfo(torch.float32).tiny)[..., None]
    return torch.nan_to_num(out, nan=0.0).clamp(*PER_SAMPLE_CLIP)


def rgb8(x_NCHW: torch.Tensor, statistics: Statistics | None = None) -> torch.Tensor:
    """8-bit pictures, 0..255, to -1..1."""
    return x_NCHW / 127.5 - 1.0


def identity(x_NCHW: torch.Tensor, statistics: Statistics | None = None) -> torch.Tensor:
    """Pixels as they are; NaN becomes 0."""
    return torch.nan_to_num(x_NCHW, nan=0.0)


def residual(x_NCHW: torch.Tensor, statistics: Statistics | None = None) -> torch.Tensor:
    """What is not round: the azimuthal median profile per band is subtracted, then `per_sample_robust` (R-P3)."""
    x = torch.nan_to_num(x_NCHW, nan=0.0)
    return per_sample_robust(x - azimuthal_median(x))


def lanusse(x_NCHW: torch.Tensor, statistics: Statistics | None) -> torch.Tensor:
    """(x - mean image) / noise of the training split, clipped to +-250; missing pixels become 0.

    Lanusse et al. 2018 (arXiv:1703.02642), as Metcalf et al. 2019 describe it. Missing is NaN or exactly zero.
    """
    known = _required(statistics, x_NCHW.device)
    out = (x_NCHW - known.mean) / known.sigma[:, None, None]
    return torch.where(missing(x_NCHW), 0.0, out.clamp(*LANUSSE_CLIP))


def asinh(x_NCHW: torch.Tensor, statistics: Statistics | None) -> torch.Tensor:
    """asinh(x / noise of the training split) per band; missing pixels become 0."""
    known = _required(statistics, x_NCHW.device)
    return torch.asinh(torch.nan_to_num(x_NCHW, nan=0.0) / known.sigma[:, None, None])


class Normalisation(NamedTuple):
    """A normalisation.

    Attributes
    ----------
    apply
        Maps (N, C, H, W) float32 and the figures of the training split to the same shape.
    measured
        It needs the figures.
    """

    apply: Callable[[torch.Tensor, Statistics | None], torch.Tensor]
    measured: bool = False


NORMALISATIONS = {
    "raw_robust": Normalisation(raw_robust),
    "per_sample_robust": Normalisation(per_sample_robust),
    "residual": Normalisation(residual),
    "lanusse": Normalisation(lanusse, measured=True),
    "asinh": Normalisation(asinh, measured=True),
    "rgb8": Normalisation(rgb8),
    "identity": Normalisation(identity),
}


def measure_statistics(recipe: ImageRecipe, groups: Iterable[npt.NDArray[Any]]) -> Statistics:
    """Figures of the training split, in one pass.

    Parameters
    ----------
    recipe
        Says which planes and which crop.
    groups
        Stamps (n, H, W, C); the same groups in the same order give the same bits on the CPU.

    Raises
    ------
    ValueError
        No stamps, or a band without any noise.
    """
    total: npt.NDArray[np.float64] | None = None
    count: npt.NDArray[np.int64] | None = None
    sigmas: list[npt.NDArray[np.float32]] = []
    for stamps in groups:
        x = torch.from_numpy(stamps).permute(0, 3, 1, 2)
        x = crop_centre((x if recipe.planes is None else x[:, list(recipe.planes)]).float(), recipe.crop)
        absent = missing(x)
        x = torch.where(absent, 0.0, x)
        flat = x.flatten(2)
        sigmas.append((MAD_TO_SIGMA * median((flat - median(flat)).abs()))[..., 0].numpy())
        if total is None or count is None:
            total, count = np.zeros(x.shape[1:]), np.zeros(x.shape[1:], np.int64)
        total += x.double().sum(dim=0).numpy()
        count += (~absent).sum(dim=0).numpy()
    if total is None or count is None:
        raise ValueError("there are no stamps to measure")
    sigma = np.median(np.concatenate(sigmas), axis=0)
    if not (sigma > 0).all():
        raise ValueError(f"plane {int(np.argmin(sigma))} has no noise to divide by: most of its pixels are alike")
    mean = total / np.maximum(count, 1)
    return Statistics(torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(sigma.astype(np.float32)))


def missing(x: torch.Tensor) -> torch.Tensor:
    """Where there are no data: NaN, or exactly zero, which is what the survey writes."""
    return torch.isnan(x) | (x == 0)


def azimuthal_median(x_NCHW: torch.Tensor) -> torch.Tensor:
    """Every pixel replaced by the median of its ring about the pixel (H // 2, W // 2); rings are one pixel wide.

    The centre is its own ring.
    """
    members, counts, ring = _rings(x_NCHW.shape[2], x_NCHW.shape[3], x_NCHW.device)
    flat = x_NCHW.flatten(2)
    padded = torch.cat([flat, flat.new_full((*flat.shape[:2], 1), torch.inf)], dim=2)
    ordered = padded[:, :, members].sort(dim=-1).values  # (N, C, rings, longest ring); the padding comes last
    lower, upper = (
        ordered.gather(3, place.expand(*ordered.shape[:2], -1)[..., None])[..., 0]
        for place in ((counts - 1) // 2, counts // 2)
    )
    return ((lower + upper) / 2)[:, :, ring].unflatten(2, x_NCHW.shape[2:])


@lru_cache(maxsize=8)
def _rings(height: int, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels of each ring (rings, longest ring), padded with H * W; pixels per ring; ring of each pixel (H * W)."""
    rows, columns = np.arange(height) - height // 2, np.arange(width) - width // 2
    ring = np.floor(np.hypot(rows[:, None], columns[None, :]) + 0.5).astype(np.int64).ravel()
    counts = np.bincount(ring)
    members = np.full((len(counts), counts.max()), height * width)
    for number, count in enumerate(counts):
        members[number, :count] = np.flatnonzero(ring == number)
    return tuple(torch.from_numpy(values).to(device) for values in (members, counts, ring))  # type: ignore[return-value]


@lru_cache(maxsize=8)
def _on_device(statistics: Statistics, device: torch.device) -> Statistics:
    return Statistics(statistics.mean.to(device), statistics.sigma.to(device))


def _required(statistics: Statistics | None, device: torch.device) -> Statistics:
    if statistics is None:
        raise ValueError("this normalisation needs figures of the training split")
    return _on_device(statistics, device)


def crop_centre(x_NCHW: torch.Tensor, size: int | None) -> torch.Tensor:
    """The centre `size` x `size` pixels; the stamp's centre pixel n // 2 lands on index size // 2.

    An even crop has its centre half a pixel off, as the even stamp has (R-P4).
    """
    if size is None:
        return x_NCHW
    top, left = (length // 2 - size // 2 for length in x_NCHW.shape[2:])
    return x_NCHW[:, :, top : top + size, left : left + size]


@lru_cache(maxsize=8)
def _annulus_pixels(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Numbers of the annulus's pixels: a mask would make the host wait for its count in every batch."""
    return annulus(height, width, *ANNULUS_PIXELS).flatten().nonzero()[:, 0].to(device)


def annulus(height: int, width: int, inner: float, outer: float, device: torch.device | None = None) -> torch.Tensor:
    """(H, W) mask of inner <= r < outer pixels about the pixel (H // 2, W // 2)."""
    rows = torch.arange(height, device=device) - height // 2
    columns = torch.arange(width, device=device) - width // 2
    square = rows[:, None] ** 2 + columns[None, :] ** 2
    return (square >= inner**2) & (square < outer**2)


def median(x: torch.Tensor) -> torch.Tensor:
    """Median over the last axis, kept as length 1; the mean of the middle two where their number is even.

    `torch.median` takes the lower of the two, which is not what the protocol's numpy code does.
    """
    count = x.shape[-1]
    if x.device.type == "cpu" and not torch.compiler.is_exporting():  # selecting is quicker; ONNX can only sort
        upper = x.kthvalue(count // 2 + 1, dim=-1, keepdim=True).values
        return upper if count % 2 else (x.kthvalue(count // 2, dim=-1, keepdim=True).values + upper) / 2
    ordered = x.sort(dim=-1).values
    return (ordered[..., (count - 1) // 2 : (count - 1) // 2 + 1] + ordered[..., count // 2 : count // 2 + 1]) / 2
