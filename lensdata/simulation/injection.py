"""Arcs on many stamps at once: an isothermal ellipsoid in shear, Sersic sources and each stamp's own seeing, in torch.

The physics and the conventions are those of `lensing` and `structure`, which draw one arc at a time in numpy: angles in
arcsec and radians, x along columns, y along rows, position angles from x towards y. Everything is a pure function of
tensors of n lenses, on any device, in float64 or float32.

Shapes: n lenses, b bands, patches of ``side`` pixels around the centre, each with k x k points per pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.fft import next_fast_len
from scipy.special import gamma, gammaincinv
from torch import Tensor

from lensdata.simulation.galaxies import noise_equivalent_area, psf_mixture
from lensdata.simulation.lenses import PARAMETERS
from lensdata.simulation.populations import Columns
from lensdata.simulation.randomness import hashed_bits
from lensdata.simulation.sky import PIXEL_SCALE
from lensdata.simulation.structure import HALF

FloatArray = npt.NDArray[np.float64]

MARGIN = 35
"""Pixels of padding around a patch in the Fourier plane, over which the wings of the PSF fade."""
_TEMPORARIES = 14  # arrays of a patch's fine points alive at a time, counted generously


@dataclass(frozen=True)
class Grid:
    """Where arcs are drawn: a square of 2 ``half`` + 1 pixels, ``oversampling`` points per pixel and axis."""

    half: int = HALF
    oversampling: int = 4
    pixscale_arcsec: float = PIXEL_SCALE

    @property
    def side(self) -> int:
        """Pixels along an axis."""
        return 2 * self.half + 1

    @property
    def fft_size(self) -> int:
        """Pixels along an axis of the padded patch that the PSF is applied to."""
        return int(next_fast_len(self.side + MARGIN, real=True))


def as_tensors(columns: Columns, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """The columns `lenses.PARAMETERS`, (n,) each, and ``source_b, source_exponent, source_norm`` of the Sersic profiles.

    Sources: b_n puts half the light inside the half-light radius; norm is the integral of exp(-b_n r^(1/n)) (Graham &
    Driver 2005, PASA 22, 118, equation 2).
    """
    index = np.asarray(columns["source_index"], np.float64)
    b = gammaincinv(2 * index, 0.5)
    values = {name: columns[name] for name in PARAMETERS}
    values |= {
        "source_b": b,
        "source_exponent": 1 / index,
        "source_norm": 2 * np.pi * index * b ** (-2 * index) * gamma(2 * index),
    }
    return {name: torch.as_tensor(np.asarray(v, np.float64)).to(device, dtype) for name, v in values.items()}


def deflection(lens: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection angle at image positions, arcsec; see `lensing.deflection`.

    Parameters
    ----------
    lens
        ``theta_e, lens_q, lens_angle, shear_1, shear_2``, each of a shape that broadcasts with x and y.
    """
    q = lens["lens_q"].clamp(max=1 - 1e-6)  # the closed form has a removable singularity at q = 1
    cos, sin = lens["lens_angle"].cos(), lens["lens_angle"].sin()
    along, across = x * cos + y * sin, -x * sin + y * cos
    ellipse = (q * q * along**2 + across**2).sqrt() + 1e-12
    flattening = (1 - q * q).sqrt()
    scale = lens["theta_e"] * q.sqrt() / flattening
    a_along = scale * (flattening * along / ellipse).atan()
    a_across = scale * (flattening * across / ellipse).atanh()
    a_x = a_along * cos - a_across * sin + lens["shear_1"] * x + lens["shear_2"] * y
    a_y = a_along * sin + a_across * cos + lens["shear_2"] * x - lens["shear_1"] * y
    return a_x, a_y


def source_brightness(source: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Surface brightness at source-plane positions, per arcsec squared, of sources of flux 1.

    Parameters
    ----------
    source
        ``source_x, source_y, source_radius, source_q, source_angle, source_b, source_exponent, source_norm``.
    """
    cos, sin = source["source_angle"].cos(), source["source_angle"].sin()
    dx, dy = x - source["source_x"], y - source["source_y"]
    along, across = dx * cos + dy * sin, -dx * sin + dy * cos
    q = source["source_q"]
    radius = (q * along**2 + across**2 / q).sqrt() / source["source_radius"]
    profile = torch.exp(-source["source_b"] * radius ** source["source_exponent"])
    return profile / (source["source_norm"] * source["source_radius"] ** 2)


def lensed_light(models: dict[str, Tensor], grid: Grid, offset_x: Tensor, offset_y: Tensor) -> Tensor:
    """Light per pixel (n, side, side) of lensed sources of flux 1, without a PSF; its sum is the magnification.

    Lensing conserves surface brightness: a point has the brightness of the place where its ray ends.

    Parameters
    ----------
    models
        `as_tensors`.
    offset_x, offset_y
        (n,), the lens from the middle of the central pixel, pixels.
    """
    k, side = grid.oversampling, grid.side
    fine = (torch.arange(side * k, device=offset_x.device, dtype=offset_x.dtype) + 0.5) / k - 0.5 - grid.half
    x = (fine[None, None, :] - offset_x[:, None, None]) * grid.pixscale_arcsec
    y = (fine[None, :, None] - offset_y[:, None, None]) * grid.pixscale_arcsec
    wide = {name: values[:, None, None] for name, values in models.items()}
    a_x, a_y = deflection(wide, x, y)
    light = source_brightness(wide, x - a_x, y - a_y)
    return light.reshape(-1, side, k, side, k).mean(dim=(2, 4)) * grid.pixscale_arcsec**2


def psf_transfer(fwhm_arcsec: Tensor, grid: Grid) -> Tensor:
    """Fourier transform (n, b, fft_size, fft_size // 2 + 1) of PSFs of the shape that the simulated sky has.

    That shape is three Gaussians close to a Moffat profile of beta 3.5. The PSF holds the pixel; the average over the points
    of a pixel has blurred once, and its variance, (1 - 1/k^2) / 12, is taken off.

    Parameters
    ----------
    fwhm_arcsec
        (n, b).
    """
    unit = psf_mixture(1.0)
    once = (1 - 1 / grid.oversampling**2) / 12
    size, kind = grid.fft_size, {"device": fwhm_arcsec.device, "dtype": fwhm_arcsec.dtype}
    k_y, k_x = torch.fft.fftfreq(size, **kind), torch.fft.rfftfreq(size, **kind)
    k2 = -2 * math.pi**2 * (k_y[:, None] ** 2 + k_x[None, :] ** 2)
    pixels2 = (fwhm_arcsec * (PIXEL_SCALE / grid.pixscale_arcsec)) ** 2
    total = torch.zeros((*fwhm_arcsec.shape, *k2.shape), **kind)
    for weight, variance in zip(unit.weight, unit.variance, strict=True):
        total += float(weight) * torch.exp((float(variance) * pixels2 - once)[..., None, None] * k2)
    return total


def blur(light: Tensor, transfer: Tensor, grid: Grid) -> Tensor:
    """Patches (n, side, side) seen through the PSF of each band; (n, b, side, side)."""
    size = (grid.fft_size, grid.fft_size)
    spectrum = torch.fft.rfft2(light, s=size)
    seen = torch.fft.irfft2(spectrum[:, None] * transfer, s=size)
    return seen[..., : grid.side, : grid.side]


def batch_size(grid: Grid, bands: int, dtype: torch.dtype, memory_bytes: int) -> int:
    """Lenses that are traced at a time within that memory; one at least."""
    item = torch.empty((), dtype=dtype).element_size()
    traced = _TEMPORARIES * (grid.side * grid.oversampling) ** 2
    convolved = 6 * bands * grid.fft_size**2
    return max(1, int(memory_bytes // (item * (traced + convolved))))


def unit_arcs(
    columns: Columns,
    fwhm_arcsec: FloatArray,
    grid: Grid,
    *,
    offsets: FloatArray | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
    memory_bytes: int = 32 << 20,
) -> tuple[Tensor, Tensor]:
    """Images of lensed sources of flux 1, traced in batches that fit the memory.

    Parameters
    ----------
    columns
        `lenses.PARAMETERS`, (n,) each.
    fwhm_arcsec
        (n, b), seeing per stamp and band.
    offsets
        (n, 2), x and y of each lens from the middle of the central pixel, pixels; none by default.

    Returns
    -------
    tuple
        Images (n, b, side, side), per pixel; and magnifications (n,). Times the flux of a source in nanomaggies, an image is in
        nanomaggies per pixel; nothing is renormalised.
    """
    where, count, bands = torch.device(device), len(fwhm_arcsec), fwhm_arcsec.shape[1]
    models = as_tensors(columns, where, dtype)
    fwhm = torch.as_tensor(np.asarray(fwhm_arcsec, np.float64)).to(where, dtype)
    shifts = torch.as_tensor(np.zeros((count, 2)) if offsets is None else np.asarray(offsets, np.float64)).to(
        where, dtype
    )
    images = torch.empty((count, bands, grid.side, grid.side), device=where, dtype=dtype)
    magnification = torch.empty(count, device=where, dtype=dtype)
    step = batch_size(grid, bands, dtype, memory_bytes)
    for start in range(0, count, step):
        part = slice(start, start + step)
        light = lensed_light({k: v[part] for k, v in models.items()}, grid, shifts[part, 0], shifts[part, 1])
        magnification[part] = light.sum(dim=(1, 2))
        images[part] = blur(light, psf_transfer(fwhm[part], grid), grid)
    return images, magnification


def on_stamps(patches: Tensor, height: int, width: int) -> Tensor:
    """Patches (n, b, side, side) on stamps (n, b, height, width), central pixel on the pixel at index n // 2; cut or padded."""
    out = patches.new_zeros((*patches.shape[:2], height, width))
    half, y, x = patches.shape[-1] // 2, height // 2, width // 2
    top, left = min(half, y), min(half, x)
    bottom, right = min(half + 1, height - y), min(half + 1, width - x)
    out[..., y - top : y + bottom, x - left : x + right] = patches[
        ..., half - top : half + bottom, half - left : half + right
    ]
    return out


def pixel_sigma(fwhm_arcsec: FloatArray, psfdepth: FloatArray, pixscale_arcsec: float) -> FloatArray:
    """Noise of a pixel, nanomaggies, from FWHM and point-source depth (1 / nanomaggy^2); see `conditions.pixel_sigma`."""
    area = noise_equivalent_area(psf_mixture(1.0)) * (np.asarray(fwhm_arcsec) * PIXEL_SCALE / pixscale_arcsec) ** 2
    return np.asarray(1 / np.sqrt(np.asarray(psfdepth) * area))


def photon_noise(
    arcs: npt.NDArray[Any], electrons_per_nanomaggy: tuple[float, ...], identity: npt.NDArray[np.int64], seed: int
) -> FloatArray:
    """Poisson noise of the arcs' own light, nanomaggies, zero where there is none.

    Parameters
    ----------
    arcs
        (n, b, h, w), nanomaggies per pixel.
    electrons_per_nanomaggy
        (b,), the gain of each band's coadd.
    identity
        (n,), keys of the injections: the noise of each follows from its own key and the seed.
    """
    gain = np.asarray(electrons_per_nanomaggy, np.float64)[:, None, None]
    noise = np.empty(arcs.shape)
    for row, key in enumerate(hashed_bits(seed, "arc-photons", identity)):
        expected = (
            np.maximum(np.asarray(arcs[row], np.float64), 0) * gain
        )  # what a Fourier transform leaves is below 0 too
        noise[row] = (np.random.Generator(np.random.Philox(key=int(key))).poisson(expected) - expected) / gain
    return noise
