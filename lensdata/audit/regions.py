"""Parts of a stamp, and robust scales of their pixels, for the figures of the gates (R-E4).

Shape letters: n stamps, H and W pixels, C planes; radii are about the centre pixel n // 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]

CORE_RADIUS = 5.0  # pixels; R-E4
ANNULUS_ARCSEC = (0.8, 3.0)  # where arcs of galaxies lie (R-E4 names the annulus, its edges are this project's own)
SKY_ARCSEC = 8.0  # neither host nor arcs of a galaxy reach farther; this project's own
PIXSCALE_ARCSEC = 0.262  # R-C1; taken where a set does not say
MAD_TO_SIGMA = 1.4826


def radii(shape: Sequence[int]) -> npt.NDArray[np.float64]:
    """Distance of each pixel from the centre pixel (H // 2, W // 2), in pixels, (H, W)."""
    height, width = shape
    rows, columns = np.arange(height) - height // 2, np.arange(width) - width // 2
    return np.asarray(np.hypot(rows[:, None], columns[None, :]))


def sky_mask(shape: Sequence[int], pixscale: float = PIXSCALE_ARCSEC) -> Mask:
    """Pixels beyond `SKY_ARCSEC`, (H, W); few or none in a small stamp."""
    return radii(shape) * pixscale >= SKY_ARCSEC


def annulus_mask(shape: Sequence[int], pixscale: float = PIXSCALE_ARCSEC) -> Mask:
    """Pixels of the arc annulus, (H, W)."""
    arcsec = radii(shape) * pixscale
    return (arcsec >= ANNULUS_ARCSEC[0]) & (arcsec < ANNULUS_ARCSEC[1])


def pixels(stamps: Floats, mask: Mask) -> Floats:
    """Pixels of a mask (H, W), as (n, C, pixels): a plane's pixels lie together, which sorting likes."""
    return np.ascontiguousarray(np.moveaxis(stamps[:, mask], 2, 1))


def sigma(values: Floats) -> Floats:
    """Scale of values about zero along the last axis: 1.4826 times the median of their sizes."""
    return np.asarray(MAD_TO_SIGMA * np.median(np.abs(values), axis=-1))


def known(scale: Floats) -> Floats:
    """NaN where a scale is zero, which no plane with noise has."""
    return np.where(scale > 0, scale, np.nan)


def thinned(mask: Mask, about: int) -> Mask:
    """Every so manyth pixel of a mask, so that about (at most twice) as many are left as asked for."""
    places = np.flatnonzero(mask)
    thin = np.zeros(mask.size, bool)
    thin[places[:: max(1, len(places) // about)]] = True
    return thin.reshape(mask.shape)
