"""What of a stamp is simpler than an arc: figures of its core, profile, annulus, sky and noise (R-E4).

Shape letters: n stamps, H and W pixels, C planes; radii are about the centre pixel n // 2.

Each gate sees one cause alone, so that a shortcut is found where it is:

- Light (core, profile, annulus, blueness, fine structure) is measured above the stamp's own sky level. A constant added to a
  stamp is then a matter of the background only.
- The background, the pixel statistics and the noise texture are taken beyond `SKY_ARCSEC`, where neither host nor arcs reach.
  Missing and saturated pixels, and seams, are counted in the whole stamp.
- The level of the noise is a feature of the background only. Texture and fine structure are ratios of one stamp's own scales,
  the same whatever the depth; scales are robust, so that a neighbour does not count as noise.

A figure that a stamp does not have is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from lensdata.audit.regions import (
    ANNULUS_ARCSEC,
    CORE_RADIUS,
    PIXSCALE_ARCSEC,
    SKY_ARCSEC,
    Floats,
    annulus_mask,
    known,
    pixels,
    radii,
    sigma,
    sky_mask,
)
from lensdata.audit.texture import fine_structure, high_frequencies
from lensdata.config.cutouts import Quality
from lensdata.cutouts.quality import edge_score

ANNULUS_RINGS, SECTORS = 4, 8
MIN_SKY_PIXELS = 200  # fewer tell the noise of a band to worse than 8%
LIGHT_EDGES = (5.0, 6.0, 8.0, 11.0, 15.0)  # pixels; farther out the light of a host is below the scatter of the sky
QUANTILES = (0.01, 0.05, 0.25, 0.75, 0.95, 0.99)
SMALLEST_SCATTER = 1e-6  # of the difference of prepared stamps: equal planes have none
LARGEST_SIGMA = 5.0  # moments of the sky are of values cut off here, so that one star does not make them


def above_sky(stamps: Floats, pixscale: float = PIXSCALE_ARCSEC) -> Floats:
    """Stamps (n, H, W, C) less the median of each plane beyond `SKY_ARCSEC`, or of the outer quarter of a small stamp."""
    radius = radii(stamps.shape[1:3])
    outside = radius >= min(SKY_ARCSEC / pixscale, float(np.quantile(radius, 0.75)))
    return np.asarray(stamps - np.median(pixels(stamps, outside), axis=-1)[:, None, None, :])


def fill_missing(stamps: Floats) -> npt.NDArray[np.float32]:
    """Stamps (n, H, W, C) with missing pixels (not finite, or exactly zero) at the median of those that are known.

    How many are missing is a pixel statistic; here they must not pass for a level or a noise.
    """
    filled = np.array(stamps, np.float32)
    absent = ~np.isfinite(filled) | (filled == 0)
    for index, plane in np.argwhere(absent.any(axis=(1, 2))):
        there = filled[index, :, :, plane][~absent[index, :, :, plane]]
        filled[index, :, :, plane][absent[index, :, :, plane]] = np.median(there) if there.size else 0.0
    return filled


def core_pixels(stamps: Floats, radius: float = CORE_RADIUS) -> Floats:
    """Pixels with r < radius about the centre pixel n // 2 of prepared stamps (n, H, W, C), as features (n, k)."""
    return np.asarray(stamps[:, radii(stamps.shape[1:3]) < radius].reshape(len(stamps), -1), np.float64)


def radial_profile(stamps: Floats, smallest: float = 0.0, largest: float = np.inf) -> Floats:
    """Mean of each one-pixel ring and plane of prepared stamps (n, H, W, C), as features (n, rings * C).

    ``smallest``, ``largest``: radii of the first and the last ring in pixels; all rings by default.
    """
    ring = np.floor(radii(stamps.shape[1:3]) + 0.5).astype(np.int64).ravel()
    numbers = [number for number in range(ring.max() + 1) if smallest <= number <= largest]
    flat = stamps.reshape(len(stamps), ring.size, -1)
    means = [flat[:, ring == number].mean(axis=1, dtype=np.float64) for number in numbers]
    return np.stack(means, axis=1).reshape(len(stamps), -1)


def pair_differences(stamps: Floats, pairs: Sequence[tuple[int, int]]) -> Floats:
    """Of each pair of planes of prepared stamps (n, H, W, C): variances, mean and log scatter of their difference (n, 4 * pairs).

    The scatter is the median absolute deviation: of a stamp and its own host it is that of nothing, for they share their noise,
    which no weighted sum of the two variances says.
    """
    features = []
    for one, two in pairs:
        stamp, control = (stamps[..., plane].reshape(len(stamps), -1).astype(np.float64) for plane in (one, two))
        apart = stamp - control
        scatter = np.median(np.abs(apart - np.median(apart, axis=1, keepdims=True)), axis=1)
        features += [stamp.var(axis=1), control.var(axis=1), apart.mean(axis=1), np.log(scatter + SMALLEST_SCATTER)]
    return np.stack(features, axis=1)


def ring_means(stamps: Floats, edges: Sequence[float]) -> Floats:
    """Mean of each plane of stamps (n, H, W, C) between successive radii in pixels, as features (n, (edges - 1) * C).

    Trees are given these and not pixels or narrow rings: they would see the scatter of each value, and with it the depth.
    """
    radius = radii(stamps.shape[1:3])
    rings = [(radius >= low) & (radius < high) for low, high in pairwise(edges)]
    means = [pixels(stamps, ring).mean(axis=-1, dtype=np.float64) for ring in rings if ring.any()]
    return np.concatenate(means, axis=1)


def annulus_cells(stamps: Floats, pixscale: float = PIXSCALE_ARCSEC) -> Floats:
    """Mean of each cell of the arc annulus and plane of stamps (n, H, W, C), as features (n, cells * C).

    The cells are `ANNULUS_RINGS` rings of equal width in `SECTORS` sectors: what a linear model of the pixels could use, with
    less noise and a tenth of the columns.
    """
    height, width = stamps.shape[1:3]
    inside = annulus_mask((height, width), pixscale)
    low, high = ANNULUS_ARCSEC
    ring = ((radii((height, width))[inside] * pixscale - low) / (high - low) * ANNULUS_RINGS).astype(np.int64)
    angle = np.arctan2(*(np.indices((height, width)) - np.array([height // 2, width // 2])[:, None, None]))[inside]
    cell = ring * SECTORS + np.floor((angle / (2 * np.pi) % 1.0) * SECTORS).astype(np.int64)
    members = np.eye(ANNULUS_RINGS * SECTORS)[cell]
    members = members[:, members.any(axis=0)]  # in a small annulus a cell may hold no pixel
    means = np.einsum("ncp,pk->nck", pixels(stamps, inside), members / members.sum(axis=0), optimize=True)
    return np.asarray(means.reshape(len(stamps), -1), np.float64)


def background(stamps: Floats, pixscale: float = PIXSCALE_ARCSEC) -> Floats:
    """The sky beyond `SKY_ARCSEC` of each plane of stamps (n, H, W, C), as features (n, 12 * C).

    Per plane: median in the unit of the stamps; logarithm of the noise (1.4826 MAD); then in units of the noise, above the median,
    `QUANTILES` and the first four moments. A dozen ordered figures, of which a linear model can use each.
    """
    sky = pixels(stamps, sky_mask(stamps.shape[1:3], pixscale)).astype(np.float32)
    ordered = np.sort(sky, axis=-1)
    level = np.median(ordered, axis=-1)
    noise = known(sigma(sky - level[..., None]))
    places = np.rint(np.asarray(QUANTILES) * (sky.shape[-1] - 1)).astype(np.int64)
    quantiles = (ordered[..., places] - level[..., None]) / noise[..., None]
    scaled = ((sky - level[..., None]) / noise[..., None]).clip(-LARGEST_SIGMA, LARGEST_SIGMA)
    square = scaled * scaled
    moments = [values.mean(axis=-1, dtype=np.float64) for values in (scaled, square, square * scaled, square * square)]
    parts = [level[..., None], np.log(noise)[..., None], quantiles, np.stack(moments, axis=-1)]
    return np.asarray(np.concatenate(parts, axis=-1).reshape(len(stamps), -1))


def pixel_statistics(
    stamps: Floats, pixscale: float = PIXSCALE_ARCSEC, saturated_above: float | None = None
) -> npt.NDArray[np.float64]:
    """Shares of odd pixels, and seams, of stamps (n, H, W, C), as features (n, 4 * C + 3).

    Per plane: share of pixels that are NaN or exactly zero; beyond `SKY_ARCSEC` the shares that repeat another's value (a picture
    of few levels, pixels filled in) and that share the largest and the smallest one (clipped, saturated). Per stamp: share of
    pixels that are not finite, share above ``saturated_above`` in any plane (0 without a limit), strength of the strongest
    straight seam (`lensdata.cutouts.quality.edge_score`).
    """
    finite = np.isfinite(stamps)
    missing = (np.isnan(stamps) | (stamps == 0)).mean(axis=(1, 2))
    whole = np.where(finite, stamps, np.float32(0))
    extreme = np.zeros(len(stamps))
    if saturated_above is not None:
        extreme = (np.abs(whole) > saturated_above).any(axis=3).mean(axis=(1, 2))
    ordered = np.sort(pixels(whole, sky_mask(stamps.shape[1:3], pixscale)), axis=-1)
    shared = [
        (np.diff(ordered, axis=-1) == 0).mean(axis=-1),
        (ordered[..., :-1] == ordered[..., -1:]).mean(axis=-1),
        (ordered[..., 1:] == ordered[..., :1]).mean(axis=-1),
    ]
    seams = np.array([edge_score(stamp) for stamp in whole])
    lone = np.stack([1 - finite.mean(axis=(1, 2, 3)), extreme, seams], axis=1)
    return np.concatenate([missing, *shared, lone], axis=1)


def blueness(stamps: Floats, bands: Sequence[str], pixscale: float = PIXSCALE_ARCSEC) -> Floats:
    """How much bluer the arc annulus is than the core, in g - r and r - z where there, as features (n, 1 or 2).

    A colour is a difference of asinh(flux / noise), for bright light ln of the flux ratio. Taken twice and subtracted, the scale
    that a normalisation gave to a plane falls out.

    Parameters
    ----------
    stamps
        (n, H, W, C), above the sky.
    bands
        Names of the C planes.
    """
    shape = stamps.shape[1:3]
    noise = known(sigma(pixels(stamps, sky_mask(shape, pixscale))))
    softened = []
    for region in (annulus_mask(shape, pixscale), radii(shape) < ANNULUS_ARCSEC[0] / pixscale):
        flux = pixels(stamps, region).sum(axis=-1, dtype=np.float64)
        softened.append(np.arcsinh(flux / (noise * np.sqrt(np.count_nonzero(region)))))
    excess = softened[0] - softened[1]
    pairs = [(bands.index(one), bands.index(two)) for one, two in ("gr", "rz") if one in bands and two in bands]
    return np.stack([excess[:, one] - excess[:, two] for one, two in pairs], axis=1)


def of_stored(
    stamps: Floats, pixscale: float = PIXSCALE_ARCSEC, unit: str = "nanomaggy"
) -> dict[str, npt.NDArray[np.floating]]:
    """Features of stamps (n, H, W, C) as they are stored, by gate: what a normalisation may hide."""
    if np.count_nonzero(sky_mask(stamps.shape[1:3], pixscale)) < MIN_SKY_PIXELS:
        return {}
    filled = fill_missing(stamps)
    limit = Quality().saturated_above_nmgy if unit == "nanomaggy" else None
    return {
        "background": background(filled, pixscale),
        "pixel_statistics": pixel_statistics(np.asarray(stamps, np.float32), pixscale, limit),
        "high_frequencies": high_frequencies(filled, pixscale),
    }


def of_prepared(
    stamps: Floats, bands: Sequence[str], pixscale: float = PIXSCALE_ARCSEC
) -> dict[str, npt.NDArray[np.floating]]:
    """Features of the tensors that a network sees (n, h, w, C), channels last, by gate: what a normalisation leaves or creates."""
    light = above_sky(stamps, pixscale)
    found = {
        "core": core_pixels(light),
        "profile": radial_profile(light, CORE_RADIUS, SKY_ARCSEC / pixscale),
        "annulus": annulus_cells(light, pixscale),
    }
    pairs = [(place, bands.index(f"{band}_ctrl")) for place, band in enumerate(bands) if f"{band}_ctrl" in bands]
    if pairs:
        found["pair"] = pair_differences(stamps, pairs)
    if np.count_nonzero(sky_mask(stamps.shape[1:3], pixscale)) < MIN_SKY_PIXELS:
        return found
    if "r" in bands and ("g" in bands or "z" in bands):
        found["blueness"] = blueness(light, bands, pixscale)
    return found | {
        "fine_structure": fine_structure(light, pixscale),
        "background": background(stamps, pixscale),
        "pixel_statistics": pixel_statistics(stamps, pixscale),
        "high_frequencies": high_frequencies(stamps, pixscale),
    }


def of_light(stamps: Floats, pixscale: float = PIXSCALE_ARCSEC) -> dict[str, Floats]:
    """What trees are given of the light in the tensors that a network sees (n, h, w, C), by gate: see `ring_means`."""
    light = above_sky(stamps, pixscale)
    low, high = (radius / pixscale for radius in ANNULUS_ARCSEC)
    return {
        "core": ring_means(light, np.arange(CORE_RADIUS + 1).tolist()),
        "profile": ring_means(light, LIGHT_EDGES),
        "annulus": ring_means(light, np.linspace(low, high, ANNULUS_RINGS + 1).tolist()),
    }
