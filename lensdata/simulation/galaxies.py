"""Light as sums of Gaussians: point-spread functions, Sersic profiles and their images.

A Sersic profile and the PSF are each a sum of concentric Gaussians (Hogg & Lang 2013, PASP 125, 719); their
convolution is then exact, conserves flux at any sampling and needs no oversampling. The narrowest Gaussian that
reaches a pixel grid is the PSF's, whose sigma is above 1.4 pixels for a FWHM of 0.9 arcsec. The PSF here is the
one a pixel sees: the pixel's own area is part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, nnls
from scipy.special import gammainc, gammaincinv

from lensdata.simulation.sky import PIXEL_SCALE

FloatArray = npt.NDArray[np.float64]

TRUNCATION = (5.0, 8.0)
"""A profile fades between these radii, in half-light radii: no light at infinity, as in Tractor."""
_SIGMAS = np.geomspace(0.015, 4.0, 13)
_CUT_SIGMA = 4.5
_MOFFAT_BETA = 3.5


@dataclass(frozen=True)
class Mixture:
    """Concentric round Gaussians: weights that add up to the flux, variances in pixels squared."""

    weight: FloatArray
    variance: FloatArray


@lru_cache(maxsize=1)
def _psf_shape() -> Mixture:
    """Three Gaussians like a Moffat profile (beta 3.5), scaled to FWHM = 1."""
    radius = np.linspace(0, 4, 400)
    alpha = 0.5 / np.sqrt(2 ** (1 / _MOFFAT_BETA) - 1)
    profile = (1 + (radius / alpha) ** 2) ** -_MOFFAT_BETA
    sigmas = np.array([0.37, 0.62, 1.25])
    basis = np.exp(-0.5 * (radius[:, None] / sigmas) ** 2) / (2 * np.pi * sigmas**2)
    importance = np.sqrt(radius + 0.05)[:, None]
    weight, _ = nnls(basis * importance, profile * importance[:, 0])
    weight /= weight.sum()
    peak = float((weight / sigmas**2).sum())

    def above_half(r: float) -> float:
        return float((weight / sigmas**2 * np.exp(-0.5 * (r / sigmas) ** 2)).sum()) - peak / 2

    fwhm = 2 * brentq(above_half, 0.1, 2.0)
    return Mixture(weight, (sigmas / fwhm) ** 2)


def psf_mixture(fwhm_arcsec: float) -> Mixture:
    """The PSF of that FWHM, flux 1."""
    shape = _psf_shape()
    return Mixture(shape.weight, shape.variance * (fwhm_arcsec / PIXEL_SCALE) ** 2)


def noise_equivalent_area(*mixtures: Mixture) -> float:
    """1 / sum(p^2) of the convolved mixtures, in pixels: variance of an optimal flux over that of a pixel."""
    total = convolve(*mixtures)
    pair = total.variance[:, None] + total.variance[None, :]
    return float(1 / ((total.weight[:, None] * total.weight[None, :]) / (2 * np.pi * pair)).sum())


def scaled(mixture: Mixture, factor: float) -> Mixture:
    """A mixture with all lengths times ``factor``."""
    return Mixture(mixture.weight, mixture.variance * factor**2)


def convolve(*mixtures: Mixture) -> Mixture:
    """The convolution of concentric mixtures."""
    weight: FloatArray = np.ones(1)
    variance: FloatArray = np.zeros(1)
    for mixture in mixtures:
        weight = np.asarray(np.outer(weight, mixture.weight).ravel(), np.float64)
        variance = np.add.outer(variance, mixture.variance).ravel()
    return Mixture(weight, variance)


def sersic_b(n: float) -> float:
    """The constant b_n that puts half the light of an untruncated Sersic profile inside the half-light radius."""
    return float(gammaincinv(2 * n, 0.5))


@lru_cache(maxsize=128)
def _sersic_shape(n: float) -> Mixture:
    """Gaussians like a truncated Sersic profile of half-light radius 1, flux 1.

    Fitted to the light between rings, so the enclosed flux is right; the scale is then set so that half of the
    light lies inside 1.
    """
    edges = np.concatenate([[0], np.geomspace(0.01, TRUNCATION[1], 160)])
    enclosed = gammainc(2 * n, sersic_b(n) * edges ** (1 / n))
    middle = 0.5 * (edges[1:] + edges[:-1])
    fade = np.clip((TRUNCATION[1] - middle) / (TRUNCATION[1] - TRUNCATION[0]), 0, 1)
    light = np.diff(enclosed) * fade**2 * (3 - 2 * fade)
    gauss = 1 - np.exp(-0.5 * (edges[:, None] / _SIGMAS) ** 2)
    importance = 1 / np.sqrt(light + 1e-4)
    weight, _ = nnls(np.diff(gauss, axis=0) * importance[:, None], light * importance)
    keep = weight > 1e-4 * weight.sum()
    weight, sigma = weight[keep] / weight[keep].sum(), _SIGMAS[keep]

    def half(r: float) -> float:
        return float((weight * (1 - np.exp(-0.5 * (r / sigma) ** 2))).sum()) - 0.5

    return Mixture(weight, (sigma / brentq(half, 0.05, 5.0)) ** 2)


def sersic_mixture(n: float, radius_arcsec: float) -> Mixture:
    """A round Sersic profile of flux 1; ``radius_arcsec`` is the half-light radius.

    The index is rounded to 0.1 (0.5 to 6), so that few fits serve all galaxies. Gaussians far narrower than a
    pixel are put together: no PSF can tell them apart.
    """
    shape = _sersic_shape(round(min(max(n, 0.5), 6.0), 1))
    variance = shape.variance * (radius_arcsec / PIXEL_SCALE) ** 2
    narrow = variance < 0.2
    if narrow.sum() < 2:
        return Mixture(shape.weight, variance)
    together = float(shape.weight[narrow].sum())
    mean = float((shape.weight * variance)[narrow].sum() / together)
    return Mixture(np.append(shape.weight[~narrow], together), np.append(variance[~narrow], mean))


def axis_ratio(e1: float, e2: float) -> float:
    """b/a of a Tractor ellipticity: (1 - |e|) / (1 + |e|)."""
    size = min(float(np.hypot(e1, e2)), 0.95)
    return (1 - size) / (1 + size)


def shape_matrix(e1: float, e2: float) -> FloatArray:
    """2 x 2 matrix that turns a round variance into the variance of an ellipse of the same half-light major axis.

    ``SHAPE_R`` is the half-light radius along the major axis; the position angle 0.5 atan2(e2, e1) runs from north
    to east (legacysurvey.org/dr10/catalogs), and x runs to the west.
    """
    angle = 0.5 * np.arctan2(e2, e1)
    major = np.array([-np.sin(angle), np.cos(angle)])
    minor = np.array([major[1], -major[0]])
    return np.asarray(np.outer(major, major) + axis_ratio(e1, e2) ** 2 * np.outer(minor, minor))


@dataclass(frozen=True)
class Patch:
    """Images of one thing on whole pixels: ``image`` is (bands, height, width) with its corner at (y0, x0)."""

    y0: int
    x0: int
    image: FloatArray


def galaxy_patches(
    x: float, y: float, flux: FloatArray, profile: Mixture, shape: FloatArray, psfs: tuple[Mixture, ...]
) -> list[Patch]:
    """Images of a galaxy in every band, convolved with each band's PSF.

    Wide Gaussians get a wide patch and narrow ones a small one; the sum of the patches is the galaxy.

    Parameters
    ----------
    x, y
        Centre, pixels.
    flux
        Flux per band, shape (bands,), nanomaggies.
    profile, shape
        Round profile, and what makes it an ellipse (`shape_matrix`).
    psfs
        PSF per band.
    """
    patches = []
    psf_weight = np.stack([psf.weight for psf in psfs])
    psf_variance = np.stack([psf.variance for psf in psfs])
    mean_variance = (psf_weight * psf_variance).sum(1, keepdims=True)
    for weight, variance in _size_groups(profile, float(mean_variance.max())):
        wide = bool(variance.min() > 20 * mean_variance.max())
        w, v = (np.ones_like(mean_variance), mean_variance) if wide else (psf_weight, psf_variance)
        amplitude = flux[:, None, None] * weight[:, None] * w[:, None, :]
        covariance = variance[None, :, None, None, None] * shape + v[:, None, :, None, None] * np.eye(2)
        patches.append(_gaussians(x, y, amplitude.reshape(len(flux), -1), covariance.reshape(len(flux), -1, 2, 2)))
    return patches


def _size_groups(profile: Mixture, psf_variance: float) -> list[tuple[FloatArray, FloatArray]]:
    """The Gaussians of a profile by size, so that each group fits a patch of its own."""
    edges = psf_variance * np.array([-1.0, 1.0, 8.0, 20.0, 64.0, 256.0, np.inf])
    group = np.digitize(profile.variance, edges)
    return [(profile.weight[group == k], profile.variance[group == k]) for k in np.unique(group)]


def _gaussians(x: float, y: float, amplitude: FloatArray, covariance: FloatArray) -> Patch:
    """Sum of Gaussians (bands, k) at one centre on the smallest square patch that holds them."""
    half = int(np.ceil(_CUT_SIGMA * np.sqrt(max(covariance[..., 0, 0].max(), covariance[..., 1, 1].max()))))
    x0, y0 = round(x) - half, round(y) - half
    dx, dy = np.arange(x0, x0 + 2 * half + 1) - x, np.arange(y0, y0 + 2 * half + 1) - y
    a, b, d = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    det = a * d - b * b
    xx, xy, yy = (-0.5 * d / det)[..., None, None], (b / det)[..., None, None], (-0.5 * a / det)[..., None, None]
    exponent = xx * (dx * dx) + yy * (dy * dy)[:, None] + xy * (dx * dy[:, None])
    np.exp(exponent, out=exponent)
    image = np.einsum("bk,bkyx->byx", amplitude / (2 * np.pi * np.sqrt(det)), exponent)
    return Patch(y0, x0, image)
