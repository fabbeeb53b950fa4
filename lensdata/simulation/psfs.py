"""Point-spread functions as Fourier transforms: sums of Gaussians, Moffat profiles and images, one per stamp and band.

A PSF here is the one that pixels see: the average over the pixel's own area is part of it, as it is of the FWHM of a
survey. Light is then a function whose values at the middles of pixels, times their area, are the image, and the
transform of the PSF is all that lies between the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import gamma, kv
from torch import Tensor

from lensdata.errors import InputError
from lensdata.simulation.galaxies import psf_mixture
from lensdata.simulation.sky import PIXEL_SCALE

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_TABLE_POINTS, _TABLE_END = 1 << 14, 40.0


class Psf(Protocol):
    """What `injection.unit_arcs` asks of a PSF: how many stamps (1: the same for all) and bands, and its transform."""

    @property
    def shape(self) -> tuple[int, int]:
        """Stamps and bands."""

    def transfer(self, rows: IntArray, size: int, pixscale_arcsec: float, like: Tensor) -> Tensor:
        """Transform (rows, b, size, size // 2 + 1), real or complex, in the order of `torch.fft.rfft2`, 1 at frequency 0.

        Parameters
        ----------
        rows
            Which stamps.
        size
            Pixels along an axis.
        like
            Gives type and device.
        """


def frequencies(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Along y (size, 1) and x (size // 2 + 1), cycles per pixel."""
    kind: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
    return torch.fft.fftfreq(size, **kind)[:, None], torch.fft.rfftfreq(size, **kind)


@dataclass(frozen=True)
class GaussianPsf:
    """Sums of g concentric round Gaussians.

    ``weight`` and ``variance_arcsec2`` have shape (n, b, g) or (1, b, g); weights of a PSF add up to 1.
    """

    weight: FloatArray
    variance_arcsec2: FloatArray

    @classmethod
    def of_the_sky(cls, fwhm_arcsec: FloatArray) -> GaussianPsf:
        """The shape that the simulated sky has, close to a Moffat profile of beta 3.5, for FWHM (n, b)."""
        unit = psf_mixture(1.0)
        squared = np.asarray(fwhm_arcsec, np.float64)[..., None] ** 2
        variance = unit.variance * PIXEL_SCALE**2 * squared
        return cls(np.broadcast_to(unit.weight, variance.shape), variance)

    @property
    def shape(self) -> tuple[int, int]:
        """Stamps and bands."""
        return self.weight.shape[0], self.weight.shape[1]

    def transfer(self, rows: IntArray, size: int, pixscale_arcsec: float, like: Tensor) -> Tensor:
        """See `Psf.transfer`."""
        k_y, k_x = frequencies(size, like)
        weight, variance = (
            like.new_tensor(values[rows]) for values in (self.weight, self.variance_arcsec2 / pixscale_arcsec**2)
        )
        factor = -2 * math.pi**2 * variance[..., None]
        along_y, along_x = weight[..., None] * (factor * k_y[:, 0].square()).exp(), (factor * k_x.square()).exp()
        total = along_y[:, :, 0, :, None] * along_x[:, :, 0, None, :]
        for g in range(1, weight.shape[2]):
            total.addcmul_(along_y[:, :, g, :, None], along_x[:, :, g, None, :])
        return total


@dataclass(frozen=True)
class MoffatPsf:
    """Moffat profiles (1 + r^2 / alpha^2)^-beta of FWHM (n, b) or (1, b) arcsec and one beta above 1."""

    fwhm_arcsec: FloatArray
    beta: float = 3.5

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises
        ------
        InputError
            A FWHM that is not above 0, or a beta that is not above 1.
        """
        if not (np.asarray(self.fwhm_arcsec) > 0).all() or not self.beta > 1:
            raise InputError(
                f"A Moffat PSF needs a FWHM above 0 and beta above 1; found FWHM from {np.min(self.fwhm_arcsec):g} arcsec and "
                f"beta {self.beta:g}."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Stamps and bands."""
        count, bands = np.shape(self.fwhm_arcsec)
        return int(count), int(bands)

    def transfer(self, rows: IntArray, size: int, pixscale_arcsec: float, like: Tensor) -> Tensor:
        """See `Psf.transfer`.

        The transform is 2 (s / 2)^nu K_nu(s) / Gamma(nu), nu = beta - 1, s = 2 pi alpha |f| (Trujillo et al. 2001, MNRAS
        328, 977, section 2): read from a table of s.
        """
        k_y, k_x = frequencies(size, like)
        alpha = np.asarray(self.fwhm_arcsec)[rows] / (2 * np.sqrt(2 ** (1 / self.beta) - 1)) / pixscale_arcsec
        scale = 2 * math.pi * like.new_tensor(alpha)[..., None, None]
        place = (scale * (k_y.square() + k_x.square()).sqrt()).mul_(_TABLE_POINTS / _TABLE_END)
        place = place.clamp_(max=_TABLE_POINTS - 1e-3)
        below = place.long()
        table = like.new_tensor(_moffat_table(self.beta))
        first = table[below]
        return torch.lerp(first, table[below + 1], place - below)


@lru_cache(maxsize=8)
def _moffat_table(beta: float) -> FloatArray:
    s = np.linspace(0, _TABLE_END, _TABLE_POINTS + 1)
    nu = beta - 1
    with np.errstate(invalid="ignore", over="ignore"):
        values = 2 * (s / 2) ** nu * kv(nu, s) / gamma(nu)
    values[0], values[-1] = 1.0, 0.0
    return np.asarray(values)


@dataclass(frozen=True)
class PsfImages:
    """PSFs given as images (n, b, s, s) or (1, b, s, s), centre on the central pixel; brought to a sum of 1.

    ``oversampling``: samples of the images per pixel of the stamp. The images are what a star looks like at these points:
    an oversampled one holds the average over a whole pixel of the stamp too.
    """

    images: npt.NDArray[Any]
    oversampling: int = 1

    def __post_init__(self) -> None:
        """Check and normalise.

        Raises
        ------
        InputError
            Says what is wrong with the images.
        """
        images = np.asarray(self.images, np.float64)
        if images.ndim != 4 or images.shape[2] != images.shape[3] or images.shape[3] % 2 == 0:
            raise InputError(
                f"PSF images have shape {images.shape}; expected (stamps or 1, bands, side, side) with an odd side, so that one "
                "pixel is central."
            )
        if not np.isfinite(images).all():
            raise InputError("PSF images hold NaN or infinity; fill or leave out these stamps.")
        sums = images.sum((2, 3))
        if not (sums > 0).all():
            raise InputError(
                f"A PSF image adds up to {sums.min():g}; expected a sum above 0, to which it is normalised."
            )
        object.__setattr__(self, "images", images / sums[..., None, None])

    @property
    def shape(self) -> tuple[int, int]:
        """Stamps and bands."""
        return self.images.shape[0], self.images.shape[1]

    def transfer(self, rows: IntArray, size: int, pixscale_arcsec: float, like: Tensor) -> Tensor:
        """See `Psf.transfer`."""
        side = self.images.shape[3]
        where = (torch.arange(side, device=like.device, dtype=like.dtype) - side // 2) / self.oversampling
        k_y, k_x = frequencies(size, like)
        along_y, along_x = (
            torch.polar(torch.ones_like(p), p)
            for p in (-2 * math.pi * k_y * where, -2 * math.pi * k_x[:, None] * where)
        )
        images = like.new_tensor(self.images[rows])
        return along_y @ (images.to(along_x.dtype) @ along_x.T)


def as_psf(psf: FloatArray | Psf) -> Psf:
    """A PSF; an array (n, b) is the FWHM, arcsec, of the simulated sky's."""
    return GaussianPsf.of_the_sky(psf) if isinstance(psf, np.ndarray) else psf
