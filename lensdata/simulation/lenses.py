"""The lenses of the sky: mass models, sources and arcs bright enough to be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lensdata.config.simulation import LensesConfig
from lensdata.simulation.galaxies import Mixture, Patch
from lensdata.simulation.populations import Columns, flux_of, mag_of
from lensdata.simulation.randomness import KeyedDraws
from lensdata.simulation.sky import BANDS, PIXEL_SCALE
from lensdata.simulation.structure import HALF

if TYPE_CHECKING:
    from lensdata.simulation.injection import Grid

FloatArray = npt.NDArray[np.float64]

PARAMETERS = (
    "theta_e", "lens_q", "lens_angle", "shear_1", "shear_2", "source_x", "source_y", "source_radius", "source_index", "source_q",
    "source_angle",
)  # fmt: skip
"""Columns of a lens: arcsec, radians; positions relative to the host, x to the west, y to the north."""


def draw_lenses(random: np.random.Generator | KeyedDraws, hosts: Columns, config: LensesConfig) -> Columns:
    """Mass models and sources for host rows; the mass follows the light within some scatter."""
    n = len(hosts["type"])
    low, high = config.theta_e_arcsec
    theta_e = low + (high - low) * random.beta(1.5, 1.5, n)
    e = np.clip(np.hypot(hosts["shape_e1"], hosts["shape_e2"]), 0, 0.6)
    light_q = (1 - e) / (1 + e)
    light_angle = np.pi / 2 + 0.5 * np.arctan2(hosts["shape_e2"], hosts["shape_e1"])
    offset = theta_e * np.sqrt(random.uniform(config.source_offset[0] ** 2, config.source_offset[1] ** 2, n))
    direction = random.uniform(0, 2 * np.pi, n)
    return {
        "theta_e": theta_e,
        "lens_q": np.clip(1 - 0.7 * (1 - light_q) + 0.05 * random.standard_normal(n), 0.5, 0.97),
        "lens_angle": light_angle + np.radians(10) * random.standard_normal(n),
        "shear_1": config.shear_scatter * random.standard_normal(n),
        "shear_2": config.shear_scatter * random.standard_normal(n),
        "source_x": offset * np.cos(direction),
        "source_y": offset * np.sin(direction),
        "source_radius": log_uniform(random, config.source_radius_arcsec, n),
        "source_index": random.uniform(0.7, 1.6, n),
        "source_q": random.uniform(0.45, 1.0, n),
        "source_angle": random.uniform(0, np.pi, n),
    }


def log_uniform(random: np.random.Generator | KeyedDraws, limits: tuple[float, float], n: int) -> FloatArray:
    """Numbers between two limits, uniform in their logarithm."""
    low, high = np.log(limits)
    return np.asarray(np.exp(random.uniform(float(low), float(high), n)))


def source_colours(random: np.random.Generator | KeyedDraws, hosts: Columns, config: LensesConfig) -> FloatArray:
    """Flux of each source in g r i z relative to r, shape (lenses, 4): blue, but for a few as red as their host."""
    n = len(hosts["type"])
    gr, rz = 0.55 + 0.25 * random.standard_normal(n), 0.35 + 0.2 * random.standard_normal(n)
    red = random.random(n) < config.red_source_fraction
    r = mag_of(hosts["flux_r"])
    gr = np.where(red, mag_of(hosts["flux_g"]) - r, gr)
    rz = np.where(red, r - np.nan_to_num(mag_of(hosts["flux_z"]), nan=20.0), rz)
    mags = np.stack([gr, np.zeros(n), -0.45 * rz, -rz], 1)
    return flux_of(mags) / flux_of(0.0)


def sky_grid(oversampling: int) -> Grid:
    """Where the simulated sky draws arcs: right to a percent of their peak or so, for a server that draws each when asked."""
    from lensdata.simulation.injection import Grid

    return Grid(oversampling=oversampling, points_per_radius=1.0, resolve=False)


def arc_patch(
    row: dict[str, float], x: float, y: float, flux: FloatArray, psfs: tuple[Mixture, ...], oversampling: int
) -> Patch:
    """Image of the lensed source of one lens at pixel (x, y), by the engine of injected arcs (`injection`).

    Parameters
    ----------
    row
        Values of `PARAMETERS`.
    flux
        Flux of the unlensed source per band, nanomaggies.
    oversampling
        Points per pixel and axis, at least.
    """
    from lensdata.simulation.injection import unit_arcs  # torch: only where an arc is drawn
    from lensdata.simulation.psfs import GaussianPsf

    seen_by = GaussianPsf(
        np.stack([psf.weight for psf in psfs])[None], np.stack([psf.variance for psf in psfs])[None] * PIXEL_SCALE**2
    )
    columns = {name: np.array([row[name]]) for name in PARAMETERS}
    offset = np.array([[x - round(x), y - round(y)]])
    images, _ = unit_arcs(columns, seen_by, sky_grid(oversampling), offsets=offset)
    return Patch(round(y) - HALF, round(x) - HALF, flux[:, None, None] * images[0].numpy())


def arc_signals(columns: Columns, fwhm_arcsec: FloatArray, oversampling: int) -> tuple[FloatArray, FloatArray]:
    """Magnifications, and sqrt(sum of squared pixels) of the arcs of sources of flux 1, in one band of FWHM (n,)."""
    from lensdata.simulation.injection import unit_arcs

    images, magnification = unit_arcs(
        {name: columns[name] for name in PARAMETERS}, fwhm_arcsec[:, None], sky_grid(oversampling)
    )
    return magnification.numpy(), images.square().sum(dim=(1, 2, 3)).sqrt().numpy()


def band_fluxes(source_flux_r: FloatArray, relative: FloatArray) -> Columns:
    """Columns ``source_flux_{band}`` (nanomaggies, unlensed)."""
    return {f"source_flux_{band}": source_flux_r * relative[:, k] for k, band in enumerate(BANDS)}
