"""From stored stamps to network input, in batches on the device (R-P1, R-P2, R-P4).

Shape letters: N stamps, H and W pixels, C planes. Everything here is a function of one stamp alone, so results do
not depend on how stamps are batched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

ANNULUS_PIXELS = (20.0, 32.0)  # R-P1: 20 <= r < 32 about the centre pixel
RAW_ROBUST_EPSILON = 1e-8
RAW_ROBUST_CLIP = (-10.0, 10.0)
PER_SAMPLE_CLIP = (-5.0, 20.0)
MAD_TO_SIGMA = 1.4826  # R-P2; raw_robust has no such factor


@dataclass(frozen=True, kw_only=True)
class ImageRecipe:
    """How stamps become network input.

    Parameters
    ----------
    normalisation
        One of `NORMALISATIONS`.
    crop
        Side of the centre crop in pixels; None keeps all.
    """

    normalisation: str
    crop: int | None

    def prepare(self, stamps_NHWC: torch.Tensor) -> torch.Tensor:
        """Normalise and crop.

        Parameters
        ----------
        stamps_NHWC
            Stored stamps, any number type.

        Returns
        -------
        Tensor
            (N, C, h, w) float32 in channels_last memory, no NaN.
        """
        x = stamps_NHWC.permute(0, 3, 1, 2).float()  # NHWC permuted to NCHW is channels_last: no copy
        normalise, on_full_stamp = NORMALISATIONS[self.normalisation]
        x = crop_centre(normalise(x), self.crop) if on_full_stamp else normalise(crop_centre(x, self.crop))
        return x.contiguous(memory_format=torch.channels_last)

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


def raw_robust(x_NCHW: torch.Tensor) -> torch.Tensor:
    """(x - median) / (MAD + 1e-8) per band, both of the annulus 20 <= r < 32; clipped to +-10 (R-P1).

    NaN becomes 0 before and after; MAD is the plain median of absolute deviations.
    """
    x = torch.nan_to_num(x_NCHW, nan=0.0, posinf=None, neginf=None)
    inside = annulus(x.shape[2], x.shape[3], *ANNULUS_PIXELS, device=x.device)
    ring = x.flatten(2)[:, :, inside.flatten()]
    centre = median(ring)
    spread = median((ring - centre).abs())
    out = (x - centre[..., None]) / (spread[..., None] + RAW_ROBUST_EPSILON)
    return torch.nan_to_num(out.clamp(*RAW_ROBUST_CLIP), nan=0.0)


def per_sample_robust(x_NCHW: torch.Tensor) -> torch.Tensor:
    """(x - median) / (1.4826 MAD) per band over the stamp it is given; clipped to [-5, 20] (R-P2)."""
    x = torch.nan_to_num(x_NCHW, nan=0.0)
    flat = x.flatten(2)
    centre = median(flat)
    spread = MAD_TO_SIGMA * median((flat - centre).abs())
    # A band without data has MAD 0: its pixels are all at the median and become 0.
    out = (x - centre[..., None]) / spread.clamp_min(torch.finfo(torch.float32).tiny)[..., None]
    return torch.nan_to_num(out, nan=0.0).clamp(*PER_SAMPLE_CLIP)


def rgb8(x_NCHW: torch.Tensor) -> torch.Tensor:
    """8-bit pictures, 0..255, to -1..1."""
    return x_NCHW / 127.5 - 1.0


def identity(x_NCHW: torch.Tensor) -> torch.Tensor:
    """Pixels as they are; NaN becomes 0."""
    return torch.nan_to_num(x_NCHW, nan=0.0)


NORMALISATIONS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], bool]] = {
    # name: (function, whether it wants the full stamp before the crop, R-P4)
    "raw_robust": (raw_robust, True),
    "per_sample_robust": (per_sample_robust, False),
    "rgb8": (rgb8, True),
    "identity": (identity, True),
}


def crop_centre(x_NCHW: torch.Tensor, size: int | None) -> torch.Tensor:
    """The centre `size` x `size` pixels; the stamp's centre pixel n // 2 lands on index size // 2.

    An even crop has its centre half a pixel off, as the even stamp has (R-P4).
    """
    if size is None:
        return x_NCHW
    top, left = (length // 2 - size // 2 for length in x_NCHW.shape[2:])
    return x_NCHW[:, :, top : top + size, left : left + size]


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
    ordered = x.sort(dim=-1).values
    return (ordered[..., (count - 1) // 2 : (count - 1) // 2 + 1] + ordered[..., count // 2 : count // 2 + 1]) / 2
