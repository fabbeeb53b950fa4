"""Texture of a stamp's noise and roughness of its light: what resampling, painting and denoising change (R-E4)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lensdata.audit.regions import (
    CORE_RADIUS,
    PIXSCALE_ARCSEC,
    Floats,
    Mask,
    annulus_mask,
    known,
    pixels,
    radii,
    sigma,
    sky_mask,
    thinned,
)

TEXTURE_PIXELS = 3000  # as many tell the noise to 2%
FILTER_REACH = 2.0  # pixels, within which six sevenths of the power of the difference of Gaussians lie


def high_frequencies(stamps: Floats, pixscale: float = PIXSCALE_ARCSEC) -> Floats:
    """Texture of the sky's noise in each plane of stamps (n, H, W, C), as features (n, 4 * C).

    Per plane: logarithm of the scale of the Laplacian and of a difference of Gaussians (1 and 1.41 pixels) against that of the
    pixels, and the correlation of neighbours along rows and columns. All are 0 or constant for white noise of any depth; a
    service that resamples correlates neighbours.
    """
    sky = thinned(sky_mask(stamps.shape[1:3], pixscale), TEXTURE_PIXELS)
    level = np.median(pixels(stamps, sky), axis=-1)
    centred = np.asarray(stamps - level[:, None, None, :], np.float32)
    noise = known(sigma(pixels(centred, sky)))
    parts = [np.log(known(sigma(pixels(image, sky))) / noise) for image in (laplacian(centred), dog(centred))]
    parts += [_neighbours(centred, sky, axis) for axis in (1, 2)]
    return np.concatenate(parts, axis=1)


def fine_structure(stamps: Floats, pixscale: float = PIXSCALE_ARCSEC) -> Floats:
    """Scale of the Laplacian and of the difference of Gaussians in the arc annulus against the sky's (n, 2 * C), logarithms.

    Noise-free light added to a stamp leaves them; a painted annulus, or one smoother than the sky, does not. The annulus is taken
    where the filters do not reach into the core, which has its own gate.
    """
    shape = stamps.shape[1:3]
    inside = annulus_mask(shape, pixscale) & (radii(shape) >= CORE_RADIUS + FILTER_REACH)
    sky, parts = thinned(sky_mask(shape, pixscale), TEXTURE_PIXELS), []
    for image in (laplacian(stamps), dog(stamps)):
        within, without = sigma(pixels(image, inside)), sigma(pixels(image, sky))
        parts.append(np.log(known(within) / known(without)))
    return np.concatenate(parts, axis=1)


def laplacian(images: Floats) -> npt.NDArray[np.float32]:
    """Sum of the four neighbours less four times the pixel, planes of (n, H, W, C); edges mirrored."""
    padded = np.pad(np.asarray(images, np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    centre = padded[:, 1:-1, 1:-1]
    around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    return np.asarray(around - np.float32(4) * centre)


def dog(images: Floats) -> npt.NDArray[np.float32]:
    """Images smoothed to 1 pixel less those smoothed to 1.41 pixels, planes of (n, H, W, C); edges mirrored."""
    once = _smooth(np.asarray(images, np.float32))
    return np.asarray(once - _smooth(once))


def _neighbours(centred: Floats, sky: Mask, axis: int) -> Floats:
    """Robust correlation of pixels and their neighbours along axis 1 or 2, (n, C).

    From the scales of sum and difference (Gnanadesikan & Kettenring 1972): (s+^2 - s-^2) / (s+^2 + s-^2).
    """
    first, second = [slice(None)] * 4, [slice(None)] * 4
    first[axis], second[axis] = slice(None, -1), slice(1, None)
    inside = sky[tuple(first[1:3])]
    one, two = (pixels(centred[tuple(part)], inside) for part in (first, second))
    plus, minus = sigma(one + two) ** 2, sigma(one - two) ** 2
    return np.asarray((plus - minus) / known(plus + minus))


def _smooth(images: Floats) -> npt.NDArray[np.float32]:
    """Binomial smoothing 1 4 6 4 1 along both axes of planes (n, H, W, C): a Gaussian of 1 pixel."""
    for axis in (1, 2):
        widths = [(0, 0)] * 4
        widths[axis] = (2, 2)
        padded, size = np.pad(images, widths, mode="reflect"), images.shape[axis]
        smooth = np.zeros(images.shape, np.float32)
        for place, weight in enumerate((1, 4, 6, 4, 1)):
            smooth += np.float32(weight / 16) * padded[(slice(None),) * axis + (slice(place, place + size),)]
        images = smooth
    return np.asarray(images, np.float32)
