"""Galaxies and stars as catalogue rows: types, magnitudes, colours, sizes and shapes.

Hosts of lenses and plain galaxies come from the same functions, so no column tells one from the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lensdata.config.simulation import GalaxiesConfig
from lensdata.simulation.facts import distributions

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Columns = dict[str, npt.NDArray[Any]]
"""Columns of one length by lower-case name."""

ZEROPOINT = 22.5
"""AB magnitude of one nanomaggy."""
FIXED_SERSIC = {"DEV": 4.0, "EXP": 1.0, "REX": 1.0, "PSF": 0.0}
"""SERSIC that Tractor writes for the types that do not fit it (legacysurvey.org/dr10/catalogs)."""


def flux_of(mag: npt.ArrayLike) -> FloatArray:
    """Flux in nanomaggies of an AB magnitude."""
    return np.asarray(10 ** (0.4 * (ZEROPOINT - np.asarray(mag, float))))


def mag_of(flux: npt.ArrayLike) -> FloatArray:
    """AB magnitude of a flux in nanomaggies; NaN where the flux is not positive."""
    values = np.asarray(flux, float)
    return np.asarray(ZEROPOINT - 2.5 * np.log10(np.where(values > 0, values, np.nan)))


def draw(
    random: np.random.Generator, types: npt.NDArray[np.str_], config: GalaxiesConfig, z_mag: FloatArray | None = None
) -> Columns:
    """Draw one row per type: fluxes, sizes, shapes.

    Parameters
    ----------
    random
        Source of all numbers.
    types
        Tractor TYPE per row.
    config
        Shares of blue and large galaxies.
    z_mag
        z magnitudes to use in place of the fitted ones.

    Returns
    -------
    dict
        ``type, flux_g, flux_r, flux_i, flux_z, flux_w1, shape_r, shape_e1, shape_e2, sersic``.
    """
    z = _z_magnitudes(random, types) if z_mag is None else z_mag
    colours, blue = _colours(random, types, z, config.blue_fraction)
    shape_r, large = _radii(random, types, z, config.large_fraction)
    rows = fluxes(np.where(large & (types != "PSF"), np.minimum(z, random.uniform(17.6, 19.6, len(z))), z), colours)
    rows["type"] = types
    rows["shape_r"] = shape_r
    rows["shape_e1"], rows["shape_e2"], disk = _ellipticities(random, types)
    rows["sersic"] = _sersic(random, types, blue | disk)
    return rows


def fluxes(z: FloatArray, colours: FloatArray) -> Columns:
    """Fluxes (nanomaggies) from z magnitudes and colours g-r, r-z, z-W1 of shape (rows, 3); i lies between r and z."""
    gr, rz, zw = colours.T
    mags = {"g": z + rz + gr, "r": z + rz, "i": z + 0.55 * rz, "z": z, "w1": z - zw}
    return {f"flux_{band}": flux_of(mag) for band, mag in mags.items()}


def _z_magnitudes(random: np.random.Generator, types: npt.NDArray[np.str_]) -> FloatArray:
    facts = distributions()["photometry"]
    uniform = random.random(len(types))
    out = np.empty(len(types))
    for kind in np.unique(types):
        rows = types == kind
        out[rows] = np.interp(uniform[rows], facts["z_levels"], facts[str(kind)]["z"])
    return out


def _colours(
    random: np.random.Generator, types: npt.NDArray[np.str_], z: FloatArray, blue_share: float
) -> tuple[FloatArray, BoolArray]:
    facts, cloud = distributions()["photometry"], distributions()["blue_cloud"]
    normal = np.clip(random.standard_normal((len(types), 3)), -2.5, 2.5)
    chance = random.random(len(types))
    out, blue = np.empty((len(types), 3)), np.zeros(len(types), bool)
    for kind in np.unique(types):
        rows, law = types == kind, facts[str(kind)]
        line = np.stack([law[c][0] + law[c][1] * (z[rows] - 19.5) for c in ("gr", "rz", "zw")], 1)
        out[rows] = line + (normal[rows] @ np.linalg.cholesky(_correlation(law["correlation"])).T) * law["scatter"]
        blue[rows] = chance[rows] < blue_share * cloud["relative_share"][str(kind)]
    centre, width = np.array([cloud["gr"], cloud["rz"], cloud["zw"]]).T
    out[blue] = centre + width * normal[blue]
    return out, blue


def _correlation(values: list[float]) -> FloatArray:
    gr_rz, gr_zw, rz_zw = values
    return np.array([[1, gr_rz, gr_zw], [gr_rz, 1, rz_zw], [gr_zw, rz_zw, 1.0]])


def _radii(
    random: np.random.Generator, types: npt.NDArray[np.str_], z: FloatArray, large_share: float
) -> tuple[FloatArray, BoolArray]:
    facts = distributions()["shapes"]
    typical = np.array([facts["log10_radius_arcsec"].get(str(kind), 0.0) for kind in types])
    log_radius = (
        typical
        + facts["log10_radius_per_mag"] * (z - 19.5)
        + facts["log10_radius_scatter"] * random.standard_normal(len(types))
    )
    large = random.random(len(types)) < large_share
    wide = np.where(types == "REX", random.uniform(2.05, 2.6, len(types)), random.uniform(2.05, 4.2, len(types)))
    radius = np.where(large, wide, np.clip(10**log_radius, 0.12, 3.5))
    return np.where(types == "PSF", 0.0, radius), large


def _ellipticities(
    random: np.random.Generator, types: npt.NDArray[np.str_]
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """e1, e2, and which rows are inclined disks."""
    facts = distributions()["shapes"]
    share = np.array([facts["disk_share"].get(str(kind), 0.0) for kind in types])
    disk = random.random(len(types)) < share
    round_ = facts["axis_ratio_mean"] + facts["axis_ratio_scatter"] * random.standard_normal(len(types))
    ratio = np.clip(np.where(disk, random.uniform(0.15, 0.75, len(types)), round_), 0.12, 0.99)
    size = np.where(np.isin(types, ("REX", "PSF")), 0.0, (1 - ratio) / (1 + ratio))
    angle = random.uniform(0, np.pi, len(types))
    return size * np.cos(2 * angle), size * np.sin(2 * angle), disk


def _sersic(random: np.random.Generator, types: npt.NDArray[np.str_], flat: BoolArray) -> FloatArray:
    facts = distributions()["shapes"]
    centre = np.where(flat, facts["sersic_blue"], facts["sersic_red"])
    index = np.clip(centre * np.exp(facts["ln_sersic_scatter"] * random.standard_normal(len(types))), 0.5, 6.0)
    for kind, value in FIXED_SERSIC.items():
        index[types == kind] = value
    return np.asarray(index)


def is_ring_proxy(rows: Columns) -> BoolArray:
    """FLUX_R > 5 nMgy and (DEV, or SER with SERSIC > 4): R-S4's stand-in for rings."""
    early = (rows["type"] == "DEV") | ((rows["type"] == "SER") & (rows["sersic"] > 4.0))
    return np.asarray((rows["flux_r"] > 5.0) & early)


def is_edge_on(rows: Columns) -> BoolArray:
    """1 - b/a > 0.5 (R-S4)."""
    size = np.hypot(rows["shape_e1"], rows["shape_e2"])
    return np.asarray(1 - (1 - size) / (1 + size) > 0.5)


def is_blue(rows: Columns) -> BoolArray:
    """g - r < 0.4 and r < 20.5 (R-S4)."""
    r = mag_of(rows["flux_r"])
    return np.asarray((mag_of(rows["flux_g"]) - r < 0.4) & (r < 20.5))


def is_large(rows: Columns) -> BoolArray:
    """SHAPE_R > 2 arcsec and FLUX_R > 3 nMgy (R-S4)."""
    return np.asarray((rows["shape_r"] > 2.0) & (rows["flux_r"] > 3.0))


def structures(random: np.random.Generator, rows: Columns, config: GalaxiesConfig) -> npt.NDArray[np.str_]:
    """What to draw on each galaxy so that it looks like its row: ring, clumps, spiral arms or nothing."""
    chance = random.random(len(rows["type"]))
    colour = mag_of(rows["flux_g"]) - mag_of(rows["flux_r"])
    disk = (rows["sersic"] < 2.5) & (rows["shape_r"] > 0.9) & (colour < 1.1) & ~is_edge_on(rows)
    kind = np.full(len(chance), "none", dtype="U6")
    kind[disk & (chance < config.spiral_drawn_fraction)] = "spiral"
    kind[is_ring_proxy(rows) & (chance < config.ring_drawn_fraction)] = "ring"
    kind[is_blue(rows) & (chance < 0.85)] = "clumps"
    kind[rows["type"] == "PSF"] = "none"
    return kind
