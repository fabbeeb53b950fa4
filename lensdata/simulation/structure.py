"""What is drawn on a fine grid because no sum of concentric Gaussians describes it: arcs, rings, clumps, arms, tails.

A layer is a surface brightness on a patch of whole pixels, evaluated at several points per pixel, averaged over the
pixel and convolved with each band's PSF. Rings, clumps, arms and tails replace a part of their galaxy's flux, so
that the catalogue flux stays the total; arcs are added light.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import fft

from lensdata.simulation.galaxies import Mixture, Patch
from lensdata.simulation.sky import PIXEL_SCALE

FloatArray = npt.NDArray[np.float64]

KINDS = ("none", "ring", "clumps", "spiral", "tail")
HALF = 36
"""Half side of a layer's patch, pixels: 9.4 arcsec, enough for theta_E = 3 arcsec and the PSF's wings."""
_FFT_SIZE = 108
FRACTION = {
    "ring": (0.55, 0.40, 0.34, 0.28),
    "clumps": (0.5, 0.36, 0.3, 0.25),
    "spiral": (0.5, 0.4, 0.35, 0.3),
    "tail": (0.22, 0.17, 0.15, 0.13),
}
"""Share of a galaxy's flux in g, r, i, z that its structure carries: chosen, bluer than the rest."""


def grid(x: float, y: float, oversampling: int) -> tuple[int, int, FloatArray, FloatArray]:
    """Corner (y0, x0) of the patch around (x, y) and the offsets of its fine points from (x, y), arcsec."""
    x0, y0 = round(x) - HALF, round(y) - HALF
    side = (2 * HALF + 1) * oversampling
    fine = (np.arange(side) + 0.5) / oversampling - 0.5
    return y0, x0, (fine[None, :] + x0 - x) * PIXEL_SCALE, (fine[:, None] + y0 - y) * PIXEL_SCALE


def bin_pixels(fine: FloatArray, oversampling: int) -> FloatArray:
    """Flux per pixel of a surface brightness per arcsec squared on the fine grid."""
    side = fine.shape[0] // oversampling
    blocks = fine.reshape(side, oversampling, side, oversampling)
    return np.asarray(blocks.mean(axis=(1, 3)) * PIXEL_SCALE**2)


@lru_cache(maxsize=1)
def _frequencies() -> FloatArray:
    k_y, k_x = fft.fftfreq(_FFT_SIZE), fft.rfftfreq(_FFT_SIZE)
    return np.asarray(k_y[:, None] ** 2 + k_x[None, :] ** 2)


def blur(light: FloatArray, psfs: tuple[Mixture, ...], oversampling: int) -> FloatArray:
    """Convolve a binned layer with the PSF of each band; shape (bands, side, side).

    The PSF already holds the pixel, and averaging over it has blurred once: the variance of that average,
    (1 - 1/k^2) / 12, is taken off.
    """
    once = (1 - 1 / oversampling**2) / 12
    transfer = np.stack(
        [
            (
                psf.weight[:, None, None]
                * np.exp(-2 * np.pi**2 * (psf.variance - once)[:, None, None] * _frequencies())
            ).sum(0)
            for psf in psfs
        ]
    )
    side = light.shape[0]
    spectrum = fft.rfft2(light, s=(_FFT_SIZE, _FFT_SIZE))
    return np.asarray(fft.irfft2(spectrum * transfer, s=(_FFT_SIZE, _FFT_SIZE))[:, :side, :side])


def structure_patch(
    kind: str,
    random: np.random.Generator,
    x: float,
    y: float,
    flux: FloatArray,
    radius_arcsec: float,
    shape: FloatArray,
    psfs: tuple[Mixture, ...],
    oversampling: int,
) -> Patch:
    """A ring, clumps, spiral arms or a tidal tail of total ``flux`` (per band) at a galaxy.

    Parameters
    ----------
    kind
        One of `KINDS` but "none".
    random
        Generator of this galaxy; gives sizes and angles.
    radius_arcsec, shape
        Half-light radius and ellipse of the galaxy (`galaxies.shape_matrix`).
    """
    y0, x0, dx, dy = grid(x, y, oversampling)
    fine = _DRAW[kind](random, dx, dy, radius_arcsec, shape)
    light = bin_pixels(fine, oversampling)
    image = blur(light / light.sum(), psfs, oversampling)
    return Patch(y0, x0, flux[:, None, None] * image)


def _elliptical(dx: FloatArray, dy: FloatArray, shape: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Elliptical radius (arcsec, along the major axis) and angle in the disk's plane."""
    values, vectors = np.linalg.eigh(shape)
    minor, major = vectors[:, 0], vectors[:, 1]
    ratio = max(float(np.sqrt(values[0] / values[1])), 0.25)
    along, across = dx * major[0] + dy * major[1], (dx * minor[0] + dy * minor[1]) / ratio
    return np.hypot(along, across), np.arctan2(across, along)


def _ring(random: np.random.Generator, dx: FloatArray, dy: FloatArray, radius: float, shape: FloatArray) -> FloatArray:
    rho, phi = _elliptical(dx, dy, shape)
    size = float(np.clip(random.uniform(1.5, 2.4) * radius, 2.3, 4.8))
    width = random.uniform(0.10, 0.18) * size
    bright = 1 + random.uniform(0, 0.5) * np.cos(phi - random.uniform(0, 2 * np.pi))
    return np.asarray(bright * np.exp(-0.5 * ((rho - size) / width) ** 2))


def _clumps(
    random: np.random.Generator, dx: FloatArray, dy: FloatArray, radius: float, shape: FloatArray
) -> FloatArray:
    rho, phi = _elliptical(dx, dy, shape)
    disk_x, disk_y = rho * np.cos(phi), rho * np.sin(phi)
    out = np.zeros_like(rho)
    for _ in range(random.integers(3, 8)):
        distance, angle = radius * (0.4 + 1.6 * np.sqrt(random.random())), random.uniform(0, 2 * np.pi)
        size = random.uniform(0.1, 0.3)
        near = (disk_x - distance * np.cos(angle)) ** 2 + (disk_y - distance * np.sin(angle)) ** 2
        out += random.uniform(0.4, 1.0) * np.exp(-0.5 * near / size**2)
    return out


def _spiral(
    random: np.random.Generator, dx: FloatArray, dy: FloatArray, radius: float, shape: FloatArray
) -> FloatArray:
    rho, phi = _elliptical(dx, dy, shape)
    twist = random.choice([-1, 1]) * random.uniform(2.2, 4.0)
    phase = 2 * phi - twist * np.log(rho / radius + 0.15) + random.uniform(0, 2 * np.pi)
    arms = np.exp(3.0 * (np.cos(phase) - 1))
    return np.asarray(arms * rho / radius * np.exp(-1.5 * rho / radius))


def _tail(random: np.random.Generator, dx: FloatArray, dy: FloatArray, radius: float, shape: FloatArray) -> FloatArray:
    rho, phi = np.hypot(dx, dy), np.arctan2(dy, dx)
    start, sense = random.uniform(0, 2 * np.pi), random.choice([-1, 1])
    reach = float(np.clip(random.uniform(2.2, 3.6) * radius, 2.5, 6.5))
    along = (sense * (phi - start)) % (2 * np.pi)
    centre = reach * (0.45 + 0.35 * along)
    thick = 0.12 * reach
    return np.asarray(np.exp(-0.5 * ((rho - centre) / thick) ** 2) * np.exp(-1.1 * along) * (along > 0.02))


_DRAW = {"ring": _ring, "clumps": _clumps, "spiral": _spiral, "tail": _tail}
