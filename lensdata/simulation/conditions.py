"""How each brick was observed: seeing, exposures, depth, reddening, what is missing and what is masked.

All are functions of (seed, brick number), so any process knows them without asking another. They are constant over
a brick; the catalogue rows of a brick carry exactly these numbers, for lenses and for all else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lensdata.config.simulation import SkyConfig
from lensdata.simulation.facts import distributions
from lensdata.simulation.galaxies import noise_equivalent_area, psf_mixture
from lensdata.simulation.randomness import generator, hashed_normal, hashed_uniform
from lensdata.simulation.sky import BANDS, BRICK_PIXELS, BRICK_SIZE_DEG, PIXEL_SCALE, Bricks, bricks_by_id

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MASK_BITS = {
    "BRIGHT": (1, 55.0, 0.16), "SATUR_R": (3, 10.0, 0.06), "ALLMASK_G": (5, 18.0, 0.07), "ALLMASK_R": (6, 18.0, 0.07),
    "ALLMASK_Z": (7, 18.0, 0.07), "WISEM1": (8, 40.0, 0.06), "BAILOUT": (10, 20.0, 0.04), "MEDIUM": (11, 28.0, 0.26),
    "GALAXY": (12, 40.0, 0.10), "CLUSTER": (13, 90.0, 0.03), "ALLMASK_I": (15, 18.0, 0.04), "SUB_BLOB": (16, 20.0, 0.04),
}  # fmt: skip
"""MASKBITS of DR10 (legacysurvey.org/dr10/bitmasks): bit; typical radius (arcsec) and share of circles are chosen."""


@dataclass(frozen=True)
class Conditions:
    """Observing conditions of bricks; arrays of shape (bricks,) or (bricks, 4) in the order g r i z.

    ``psfsize``: FWHM, arcsec. ``psfdepth``: inverse variance of a point source's flux, 1 / nanomaggy^2, 0 without
    exposures. ``nobs``: exposures. ``ebv``: mag.
    """

    psfsize: FloatArray
    psfdepth: FloatArray
    nobs: IntArray
    ebv: FloatArray


@dataclass(frozen=True)
class Hole:
    """A rectangle of missing pixels in one band of a brick image: rows y0 to y1, columns x0 to x1."""

    band: str
    y0: int
    y1: int
    x0: int
    x1: int


@dataclass(frozen=True)
class MaskCircle:
    """A circle of the sky whose sources carry a MASKBITS bit; ``star_r_mag`` is NaN where no star causes it."""

    ra: float
    dec: float
    radius_arcsec: float
    bit: int
    star_r_mag: float


def observe(seed: int, config: SkyConfig, brickid: IntArray) -> Conditions:
    """Conditions of bricks, by number."""
    facts = distributions()
    nobs = _exposures(seed, config, brickid)
    psf_facts, ratios = facts["conditions"]["ln_psf_r"], facts["bands"]["psf_over_r"]
    psf_r = np.exp(psf_facts["mean"] + psf_facts["std"] * hashed_normal(seed, "psf", brickid))
    scatter = (
        np.stack([hashed_normal(seed, f"psf-{band}", brickid) for band in BANDS], 1) * facts["bands"]["psf_scatter"]
    )
    psfsize = psf_r[:, None] * np.array([ratios[band] for band in BANDS]) * np.exp(scatter)
    psfsize = np.clip(psfsize, psf_facts["lowest_arcsec"], psf_facts["highest_arcsec"])
    ebv_facts = facts["conditions"]["ln_ebv"]
    ebv = np.exp(ebv_facts["mean"] + ebv_facts["std"] * hashed_normal(seed, "ebv", brickid))
    depth_mag = _depth_mag(seed, brickid, psfsize, nobs)
    psfdepth = np.where(nobs > 0, (5 / 10 ** (0.4 * (22.5 - depth_mag))) ** 2, 0.0)
    return Conditions(psfsize, psfdepth, nobs, np.clip(ebv, ebv_facts["lowest"], ebv_facts["highest"]))


def _exposures(seed: int, config: SkyConfig, brickid: IntArray) -> IntArray:
    """Exposures per band: at least 3, except in bricks chosen to have 1-2, or none, in one band."""
    facts = distributions()["conditions"]
    mean = np.array([facts["ln_nobs_mean"][band] for band in BANDS])
    rho = facts["nobs_correlation_with_z"]
    common = hashed_normal(seed, "nobs", brickid)[:, None]
    own = np.stack([hashed_normal(seed, f"nobs-{band}", brickid) for band in BANDS], 1)
    own[:, BANDS.index("z")] = common[:, 0] * np.sqrt((1 - rho) / (1 + rho))
    spread = rho * common + np.sqrt(1 - rho**2) * own
    nobs: IntArray = np.clip(np.rint(np.exp(mean + config.nobs_z_scatter * spread)), 3, 30).astype(np.int64)
    chance = hashed_uniform(seed, "low-exposure", brickid)
    band = (hashed_uniform(seed, "low-exposure-band", brickid) * 3).astype(int)
    column = np.array([BANDS.index(name) for name in "grz"])[band]
    low = np.flatnonzero(chance < config.low_exposure_fraction)
    nobs[low, column[low]] = 1 + (chance[low] * 1e6).astype(int) % 2
    none = np.flatnonzero(hashed_uniform(seed, "missing-band", brickid) < config.missing_band_fraction)
    nobs[none, column[none]] = 0
    return nobs


def _depth_mag(seed: int, brickid: IntArray, psfsize: FloatArray, nobs: IntArray) -> FloatArray:
    """5-sigma point-source depth per band, mag: deeper with exposures, shallower with bad seeing."""
    facts = distributions()
    law, offsets = facts["conditions"]["depth_r"], facts["bands"]["depth_minus_r"]
    depth = law["at_psf_1.3_arcsec"] + np.array([offsets[band] for band in BANDS])
    depth = depth + law["per_log10_psf"] * np.log10(psfsize / 1.3)
    depth = depth + law["per_log10_nobs"] * np.log10(np.maximum(nobs, 1) / law["nobs_reference"])
    return np.asarray(depth + law["scatter"] * hashed_normal(seed, "depth", brickid)[:, None])


def pixel_sigma(psfsize_arcsec: float, psfdepth: float) -> float:
    """Noise of a pixel, nanomaggies, from the point-source depth and the PSF's noise-equivalent area.

    The inverse variance of an optimally weighted point-source flux is sum(p^2) / sigma^2.
    """
    return float(1 / np.sqrt(psfdepth * noise_equivalent_area(psf_mixture(psfsize_arcsec))))


def holes(seed: int, config: SkyConfig, brickid: int) -> list[Hole]:
    """The rectangle of a brick where one band's coadd has no pixels, if it has one."""
    random = generator(seed, "hole", brickid)
    if random.random() >= config.hole_fraction:
        return []
    height, width = (random.uniform(*config.hole_size_arcsec, size=2) / PIXEL_SCALE).astype(int)
    y0, x0 = int(random.uniform(0, BRICK_PIXELS - height)), int(random.uniform(0, BRICK_PIXELS - width))
    return [Hole(str(random.choice(list("grz"))), y0, y0 + int(height), x0, x0 + int(width))]


def mask_circles(seed: int, per_brick: float, brickid: int) -> list[MaskCircle]:
    """The masked circles whose centres lie in a brick, most of them around stars of r = 12 to 16."""
    random = generator(seed, "mask", brickid)
    brick: Bricks = bricks_by_id([brickid])
    names, share = list(MASK_BITS), np.array([entry[2] for entry in MASK_BITS.values()])
    circles = []
    for _ in range(random.poisson(per_brick)):
        bit, radius, _ = MASK_BITS[str(random.choice(names, p=share / share.sum()))]
        ra = random.uniform(brick.ra1[0], brick.ra2[0])
        dec = brick.dec[0] + random.uniform(-0.5, 0.5) * BRICK_SIZE_DEG
        star = {1: random.uniform(12.0, 13.0), 11: random.uniform(13.0, 16.0)}.get(bit, np.nan)
        circles.append(MaskCircle(float(ra), float(dec), radius * random.uniform(0.7, 1.4), bit, float(star)))
    return circles
