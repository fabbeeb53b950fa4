"""Stamps with injected arcs: what is drawn on each host, and how bright (R-S10)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from lensdata import tables
from lensdata.config.injection import InjectConfig
from lensdata.config.simulation import LensesConfig
from lensdata.errors import InputError
from lensdata.hashing import cutout_id
from lensdata.shards.layout import ImageLayout, Stamps
from lensdata.simulation import lenses
from lensdata.simulation.injection import Grid, on_stamps, photon_noise, pixel_sigma, unit_arcs
from lensdata.simulation.populations import Columns, flux_of, mag_of
from lensdata.simulation.randomness import KeyedDraws, hashed_bits
from lensdata.simulation.sky import BANDS
from lensdata.simulation.source_images import COLUMN, SourceImages

FloatArray = npt.NDArray[np.float64]

GRZ = [BANDS.index(band) for band in tables.BANDS]
R = tables.BANDS.index("r")
WINDOW_ARCSEC = 1.5
"""Sigma of the weight under which the direction of a host's light is measured: chosen, the inner part of a galaxy."""


def check_layout(layout: ImageLayout, uri: str) -> None:
    """Refuse stamps that arcs in nanomaggies cannot be added to.

    Raises
    ------
    InputError
        Names what is different.
    """
    found = {"bands": layout.bands, "unit": layout.unit, "type": layout.dtype}
    wanted = {"bands": tables.BANDS, "unit": "nanomaggy", "type": "float32"}
    for name, value in wanted.items():
        if found[name] != value:
            raise InputError(f"Manifest {uri} has stamps with {name} {found[name]}; arcs are added to {name} {value}.")
    if layout.pixscale_arcsec is None:
        raise InputError(f"Manifest {uri} has stamps without a pixel scale; arcs need one in arcsec (pixscale_arcsec).")


def light_angle(stamps_r: npt.NDArray[Any], pixscale_arcsec: float) -> FloatArray:
    """Direction of the major axis of the light around the central pixel, radians from x towards y.

    From second moments under a round Gaussian weight: the catalogue of a manifest knows how round a galaxy is, not its angle.

    Parameters
    ----------
    stamps_r
        (n, H, W); missing pixels are 0 or NaN.
    """
    height, width = stamps_r.shape[1:]
    y = (np.arange(height) - height // 2)[:, None] * pixscale_arcsec
    x = (np.arange(width) - width // 2)[None, :] * pixscale_arcsec
    weighted = np.nan_to_num(stamps_r) * np.exp(-0.5 * (x**2 + y**2) / WINDOW_ARCSEC**2)
    return np.asarray(0.5 * np.arctan2(2 * (weighted * x * y).sum((1, 2)), (weighted * (x**2 - y**2)).sum((1, 2))))


def draw_injections(hosts: pd.DataFrame, angle: FloatArray, config: InjectConfig) -> tuple[Columns, FloatArray]:
    """Mass models, sources and wanted S/N, keyed by galaxy; drawn as for the simulated sky.

    Returns
    -------
    tuple
        `lenses.PARAMETERS` and ``arc_snr``; and the flux of each source in g, r, z relative to r.
    """
    arcs, count = config.arcs, len(hosts)
    draws = KeyedDraws(config.seed, "inject", hosts["source_id"].to_numpy(np.int64))
    q = hosts["axis_ratio"].fillna(1.0).to_numpy(np.float64)
    size, direction = (1 - q) / (1 + q), 2 * angle - np.pi  # the convention of `galaxies.shape_matrix`
    columns: Columns = {f"flux_{band}": flux_of(hosts[f"mag_{band}"].to_numpy(np.float64)) for band in tables.BANDS}
    columns |= {
        "type": hosts["type"].to_numpy(str),
        "shape_e1": size * np.cos(direction),
        "shape_e2": size * np.sin(direction),
    }
    drawn_as = LensesConfig(
        theta_e_arcsec=arcs.theta_e_arcsec, arc_snr=arcs.arc_snr, source_offset=arcs.source_offset,
        source_radius_arcsec=arcs.source_radius_arcsec, red_source_fraction=arcs.red_source_fraction,
        shear_scatter=arcs.shear_scatter,
    )  # fmt: skip
    drawn = lenses.draw_lenses(draws, columns, drawn_as)
    relative = lenses.source_colours(draws, columns, drawn_as)[:, GRZ]
    snr = lenses.log_uniform(draws, arcs.arc_snr, count)
    drawn["arc_snr"] = np.where(draws.random(count) < arcs.arcless_fraction, 0.0, snr)
    return drawn, relative


def inject(
    stamps: Stamps,
    hosts: pd.DataFrame,
    config: InjectConfig,
    pixscale_arcsec: float,
    pictures: SourceImages | None = None,
) -> tuple[Stamps, pd.DataFrame]:
    """Add an arc to every stamp.

    The source is as bright as the wanted S/N of its arc in r asks for, given the stamp's own depth and seeing: S/N =
    sqrt(sum of squared pixels) / noise of a pixel, as the simulated sky defines ``arc_snr``. Pixels that are missing (NaN or
    exactly 0) stay so.

    Parameters
    ----------
    stamps
        (n, H, W, 3), nanomaggies in g, r, z.
    hosts
        Their n rows of the manifest.
    pictures
        Sources in place of Sersic profiles: one per host, by keyed hash; the index and the axis ratio of the record are then null.

    Returns
    -------
    tuple
        The stamps with arcs, float32; and rows of `tables.INJECTIONS`.
    """
    height, width = stamps.shape[1:3]
    drawn, relative = draw_injections(hosts, light_angle(stamps[..., R], pixscale_arcsec), config)
    psfsize = hosts[[f"psfsize_{band}" for band in tables.BANDS]].to_numpy(np.float64)
    grid = Grid(oversampling=config.oversampling, pixscale_arcsec=pixscale_arcsec)
    if pictures is not None:
        which = hashed_bits(config.seed, "source-image", hosts["source_id"].to_numpy(np.int64)) % len(pictures.names)
        drawn |= {COLUMN: which.astype(np.int64)}
    memory = config.execution.memory_mb
    images, magnification = unit_arcs(
        drawn, psfsize, grid, sources=pictures, device=config.execution.device, dtype=getattr(torch, config.precision),
        memory_bytes=None if memory is None else memory << 20,
    )  # fmt: skip
    unit = on_stamps(images, height, width).cpu().numpy().astype(np.float64)
    sigma = pixel_sigma(psfsize[:, R], hosts["psfdepth_r"].to_numpy(np.float64), pixscale_arcsec)
    flux = (drawn["arc_snr"] * sigma / np.sqrt((unit[:, R] ** 2).sum((1, 2))))[:, None] * relative
    arcs = unit * flux[:, :, None, None]
    lensed = arcs.sum((2, 3))
    keys = cutout_id(hosts["source_id"].to_numpy(np.int64), "injection")
    if config.electrons_per_nanomaggy is not None:
        arcs += photon_noise(arcs, config.electrons_per_nanomaggy, keys, config.seed)
    there = np.isfinite(stamps) & (stamps != 0)
    out = np.where(there, stamps + np.moveaxis(arcs, 1, -1), stamps).astype(np.float32)
    record = pd.DataFrame({name: np.asarray(values) for name, values in drawn.items()})
    if pictures is not None:
        record = record.assign(source_index=np.nan, source_q=np.nan)
    record = record.assign(
        cutout_id=keys, source_id=hosts["source_id"].to_numpy(), split=hosts["split"].to_numpy(), seed=config.seed,
        magnification=magnification.cpu().numpy().astype(np.float64), pixel_sigma_r=sigma, source_mag_r=mag_of(flux[:, R]),
    )  # fmt: skip
    for place, band in enumerate(tables.BANDS):
        record[f"source_flux_{band}"], record[f"lensed_flux_{band}"] = flux[:, place], lensed[:, place]
    return out, record
