"""The lenses of the sky: mass models, sources and arcs bright enough to be seen."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lensdata.config.simulation import LensesConfig
from lensdata.simulation.galaxies import Mixture, Patch
from lensdata.simulation.lensing import Lens, SersicSource, lensed_brightness
from lensdata.simulation.populations import Columns, flux_of, mag_of
from lensdata.simulation.randomness import KeyedDraws
from lensdata.simulation.sky import BANDS
from lensdata.simulation.structure import bin_pixels, blur, grid

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


def lens_and_source(row: dict[str, float]) -> tuple[Lens, SersicSource]:
    """The models behind one row of `PARAMETERS`."""
    lens = Lens(row["theta_e"], row["lens_q"], row["lens_angle"], row["shear_1"], row["shear_2"])
    source = SersicSource(
        row["source_x"],
        row["source_y"],
        row["source_radius"],
        row["source_index"],
        row["source_q"],
        row["source_angle"],
    )
    return lens, source


def arc_patch(
    row: dict[str, float], x: float, y: float, flux: FloatArray, psfs: tuple[Mixture, ...], oversampling: int
) -> Patch:
    """Image of the lensed source of one lens at pixel (x, y).

    Parameters
    ----------
    row
        Values of `PARAMETERS`.
    flux
        Flux of the unlensed source per band, nanomaggies.
    """
    y0, x0, dx, dy = grid(x, y, oversampling)
    light = bin_pixels(lensed_brightness(*lens_and_source(row), dx, dy), oversampling)
    return Patch(y0, x0, flux[:, None, None] * blur(light, psfs, oversampling))


def arc_signal(row: dict[str, float], psf: Mixture, oversampling: int) -> tuple[float, float]:
    """Magnification, and sqrt(sum of squared pixels) of the arcs of a source of flux 1 in one band."""
    patch = arc_patch(row, 0.0, 0.0, np.ones(1), (psf,), oversampling)
    return float(patch.image.sum()), float(np.sqrt((patch.image**2).sum()))


def band_fluxes(source_flux_r: FloatArray, relative: FloatArray) -> Columns:
    """Columns ``source_flux_{band}`` (nanomaggies, unlensed)."""
    return {f"source_flux_{band}": source_flux_r * relative[:, k] for k, band in enumerate(BANDS)}
