"""The faint sky that no catalogue row describes: galaxies and stars from r = 20.5 to below the noise.

The rows are thinned to what a sample needs; the pictures are not. A stamp of 26 arcsec holds about four of these.
They are a function of (seed, brick), drawn inside the brick's unique area, so that bricks that overlap show the
same sky.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lensdata.simulation.facts import distributions
from lensdata.simulation.galaxies import Mixture, Patch, sersic_mixture
from lensdata.simulation.populations import Columns, flux_of
from lensdata.simulation.randomness import generator, hashed_uniform
from lensdata.simulation.sky import BANDS, BRICK_SIZE_DEG, bricks_by_id

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
_CUT_SIGMA = 4.5


@dataclass(frozen=True)
class Background:
    """Faint objects: degrees, nanomaggies in g r i z (shape (n, 4)), half-light radii along x and y in arcsec."""

    ra: FloatArray
    dec: FloatArray
    flux: FloatArray
    radius: FloatArray


def background(seed: int, per_arcmin2: float, brickid: int) -> Background:
    """The faint objects of a brick's unique area."""
    law, random = distributions()["background"], generator(seed, "background", brickid)
    brick = bricks_by_id([brickid])
    width = float(brick.ra2[0] - brick.ra1[0])
    area = width * np.cos(np.radians(brick.dec[0])) * BRICK_SIZE_DEG * 3600
    n = random.poisson(per_arcmin2 * float(area))
    ra = brick.ra1[0] + width * random.random(n)
    dec = brick.dec1[0] + BRICK_SIZE_DEG * random.random(n)
    bright, faint = law["r"]
    growth = 10 ** (law["slope"] * (faint - bright)) - 1
    r = bright + np.log10(1 + growth * random.random(n)) / law["slope"]
    gr, rz = _normal(random, law["gr"], n), _normal(random, law["rz"], n)
    flux = flux_of(np.stack([r + gr, r, r - 0.45 * rz, r - rz], 1))
    radius = 10 ** _normal(random, law["log10_radius_arcsec"], n)[:, None] * np.stack(
        [np.ones(n), random.uniform(0.4, 1, n)], 1
    )
    swap = random.random(n) < 0.5
    radius[swap] = radius[swap, ::-1]
    radius[random.random(n) < law["star_share"]] = 0.0
    return Background(ra, dec, flux, radius)


@dataclass(frozen=True)
class Outskirts:
    """A disk around galaxies that carries a ``share`` (rows, 4) of their flux in g r i z; ``radius`` in arcsec."""

    share: FloatArray
    radius: FloatArray


def outskirts(seed: int, sources: Columns) -> Outskirts:
    """The bluer disks around many galaxies, hosts and others alike; they leave the total flux as it is."""
    law, ids = distributions()["outskirts"], sources["source_id"]
    has = (hashed_uniform(seed, "outskirts", ids) < law["galaxies"]) & (sources["type"] != "PSF")
    low, high = law["share_g"]
    share = np.where(has, low + (high - low) * hashed_uniform(seed, "outskirts-share", ids), 0.0)
    low, high = law["radius_over_half_light"]
    radius = sources["shape_r"] * (low + (high - low) * hashed_uniform(seed, "outskirts-radius", ids))
    return Outskirts(
        share[:, None] * np.array([law["share_over_g"][band] for band in BANDS]),
        np.where(has, np.clip(radius, *law["radius_arcsec"]), 0.0),
    )


def satellites(
    seed: int, fraction: float, source_id: IntArray, ra: FloatArray, dec: FloatArray, flux_r: FloatArray
) -> Background:
    """Small galaxies beside some of the given ones, the same for every row that shows them.

    They are drawn at hosts of lenses and at all other galaxies alike.
    """
    law = distributions()["satellites"]
    has = (hashed_uniform(seed, "satellites", source_id) < fraction) & (flux_r > 0)
    parts = []
    for row in np.flatnonzero(has):
        random = generator(seed, "satellite", int(source_id[row]))
        n = 1 + random.poisson(law["more_than_one"])
        distance, angle = _uniform(random, law["distance_arcsec"], n) / 3600, random.uniform(0, 2 * np.pi, n)
        r = 22.5 - 2.5 * np.log10(flux_r[row]) + _uniform(random, law["r_below_host"], n)
        gr, rz = _normal(random, law["gr"], n), _normal(random, law["rz"], n)
        flux = flux_of(np.stack([r + gr, r, r - 0.45 * rz, r - rz], 1))
        east = distance * np.cos(angle) / np.cos(np.radians(dec[row]))
        parts.append(
            Background(ra[row] + east, dec[row] + distance * np.sin(angle), flux, random.uniform(0.1, 0.5, (n, 2)))
        )
    return merge(parts)


def _normal(random: np.random.Generator, mean_and_scatter: list[float], n: int) -> FloatArray:
    mean, scatter = mean_and_scatter
    return mean + scatter * random.standard_normal(n)


def _uniform(random: np.random.Generator, limits: list[float], n: int) -> FloatArray:
    low, high = limits
    return low + (high - low) * random.random(n)


def merge(parts: list[Background]) -> Background:
    """Several lists of faint objects as one."""
    none = Background(np.empty(0), np.empty(0), np.empty((0, len(BANDS))), np.empty((0, 2)))
    return Background(
        *(np.concatenate([getattr(part, name) for part in [none, *parts]]) for name in ("ra", "dec", "flux", "radius"))
    )


def reach_pixels(radius_arcsec: FloatArray, psf_variance: float) -> FloatArray:
    """Half side of the patch of each object, pixels."""
    widest = float(unit_disk().variance.max())
    return np.asarray(np.ceil(_CUT_SIGMA * np.sqrt(widest * radius_arcsec.max(axis=1) ** 2 + psf_variance)) + 1)


def faint_patch(x: float, y: float, flux: FloatArray, radius: FloatArray, psfs: tuple[Mixture, ...]) -> Patch:
    """Image of a faint exponential disk whose axes lie along x and y: each Gaussian is a product of two profiles."""
    disk = unit_disk() if radius.any() else Mixture(np.ones(1), np.zeros(1))
    weight = np.stack([np.outer(disk.weight, psf.weight).ravel() for psf in psfs])
    psf_variance = np.stack([np.tile(psf.variance, len(disk.weight)) for psf in psfs])
    variances = np.stack([np.repeat(disk.variance * r * r, len(psfs[0].weight)) + psf_variance for r in radius])
    half = int(np.ceil(_CUT_SIGMA * np.sqrt(variances.max())))
    x0, y0 = round(x) - half, round(y) - half
    d_x, d_y = np.arange(x0, x0 + 2 * half + 1) - x, np.arange(y0, y0 + 2 * half + 1) - y
    profile_x = np.exp(-0.5 * d_x * d_x / variances[0][..., None])
    profile_y = np.exp(-0.5 * d_y * d_y / variances[1][..., None])
    amplitude = flux[:, None] * weight / (2 * np.pi * np.sqrt(variances[0] * variances[1]))
    image = np.swapaxes(amplitude[..., None] * profile_y, 1, 2) @ profile_x
    return Patch(y0, x0, image)


@lru_cache(maxsize=1)
def unit_disk() -> Mixture:
    """An exponential disk of half-light radius 1 arcsec in three Gaussians, variances in pixels squared."""
    fine = sersic_mixture(1.0, 1.0)
    groups = np.array_split(np.argsort(fine.variance), [len(fine.variance) - 4, len(fine.variance) - 2])
    weight = np.array([fine.weight[g].sum() for g in groups])
    variance = np.array([(fine.weight * fine.variance)[g].sum() for g in groups]) / weight
    return Mixture(weight, variance)
