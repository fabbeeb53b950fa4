"""The arcs of an injection experiment: drawn from keys, traced, as bright as their cell asks for (R-E7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from lensdata import tables
from lensdata.config.selection import SelectionConfig
from lensdata.config.simulation import LensesConfig
from lensdata.shards.layout import Stamps
from lensdata.simulation import lenses
from lensdata.simulation.caustics import positions_within
from lensdata.simulation.injected_stamps import light_angle
from lensdata.simulation.injection import Grid, on_stamps, photon_noise, pixel_sigma, unit_arcs
from lensdata.simulation.populations import Columns, flux_of, mag_of
from lensdata.simulation.randomness import KeyedDraws
from lensdata.simulation.selection_design import Cell, einstein_radius, nearest_node
from lensdata.simulation.sky import BANDS

Floats = npt.NDArray[np.float64]

R = tables.BANDS.index("r")
_GRZ = [BANDS.index(band) for band in tables.BANDS]
_SMALLEST_THETA_E = 0.1  # arcsec; below, nothing is lensed that a survey could see


@dataclass(frozen=True)
class Arcs:
    """Arcs of some injections.

    Attributes
    ----------
    images
        (n, 3, H, W) nanomaggies in g, r, z on their stamps, with their own noise where it was asked for.
    record
        n rows: every draw, brightness with and without lensing.
    """

    images: torch.Tensor
    record: pd.DataFrame


def draw(cell: Cell, hosts: pd.DataFrame, angle: Floats, config: SelectionConfig) -> Columns:
    """Mass models and sources of a cell's injections: `lenses.PARAMETERS` and ``theta_e_node, z_source``.

    Parameters
    ----------
    hosts
        (n,) rows of `selection_design.host_frame`, one per injection.
    angle
        (n,) direction of the hosts' light, radians (`injected_stamps.light_angle`).
    """
    count, sources = len(hosts), config.sources
    draws = KeyedDraws(config.seed, "selection", cell.keys)
    q = hosts["axis_ratio"].fillna(1.0).to_numpy(np.float64)
    size, direction = (1 - q) / (1 + q), 2 * angle - np.pi  # the convention of `galaxies.shape_matrix`
    shapes: Columns = {
        "type": hosts["type"].to_numpy(str), "shape_e1": size * np.cos(direction), "shape_e2": size * np.sin(direction),
    }  # fmt: skip
    as_the_sky = LensesConfig(source_radius_arcsec=sources.radius_arcsec, shear_scatter=sources.shear_scatter)
    drawn = lenses.draw_lenses(draws, shapes, as_the_sky)
    z_source = draws.uniform(*sources.redshift, count)
    if config.grid.theta_e_from == "velocity_dispersion":
        theta_e = einstein_radius(hosts["sigma_v"].to_numpy(np.float64), hosts["z_lens"].to_numpy(np.float64), z_source)
        drawn["theta_e"], drawn["theta_e_node"] = (
            np.maximum(theta_e, _SMALLEST_THETA_E),
            # a source in front is not lensed: it is no arc of the smallest node, however far that reaches
            nearest_node(np.where(theta_e < _SMALLEST_THETA_E, np.nan, theta_e), config.grid),
        )
    else:
        drawn["theta_e"] = drawn["theta_e_node"] = np.full(count, cell.theta_e)
    within = positions_within(drawn, sources.caustic_multiple, draws.random(count), draws.random(count))
    drawn["source_x"], drawn["source_y"] = within
    return drawn | {"z_source": z_source}


def colours(cell: Cell, hosts: pd.DataFrame, config: SelectionConfig) -> Floats:
    """Flux of each source in g, r, z relative to r, (n, 3), as observed; a share is as red as its host."""
    fluxes: Columns = {f"flux_{band}": flux_of(hosts[f"mag_{band}"].to_numpy(np.float64)) for band in tables.BANDS}
    draws = KeyedDraws(config.seed, "selection-colours", cell.keys)
    as_the_sky = LensesConfig(red_source_fraction=config.sources.red_fraction)
    return lenses.source_colours(draws, fluxes | {"type": hosts["type"].to_numpy(str)}, as_the_sky)[:, _GRZ]


def make_arcs(
    cell: Cell,
    stamps: Stamps,
    hosts: pd.DataFrame,
    config: SelectionConfig,
    pixscale_arcsec: float,
    device: torch.device,
) -> Arcs:
    """The arcs of a cell's injections on the stamps of their hosts.

    Nothing is normalised away: a source gets the flux at which its arc has the wanted S/N (sqrt of the sum of squared pixels in r
    over the noise of a pixel, from the host's own depth and seeing) or the wanted magnitude, and is lensed with it.

    Parameters
    ----------
    stamps
        (n, H, W, 3) nanomaggies in g, r, z.
    """
    height, width = stamps.shape[1:3]
    drawn = draw(cell, hosts, light_angle(stamps[..., R], pixscale_arcsec), config)
    psfsize = hosts[[f"psfsize_{band}" for band in tables.BANDS]].to_numpy(np.float64)
    unit, magnification = unit_arcs(
        drawn, psfsize, Grid(oversampling=config.oversampling, pixscale_arcsec=pixscale_arcsec), device=device,
        dtype=getattr(torch, config.ray_precision),
    )  # fmt: skip
    unit = on_stamps(unit, height, width)
    sigma = pixel_sigma(psfsize[:, R], hosts["psfdepth_r"].to_numpy(np.float64), pixscale_arcsec)
    signal = unit[:, R].double().square().sum(dim=(1, 2)).sqrt().cpu().numpy()
    light = unit[:, R].double().sum(dim=(1, 2)).cpu().numpy()
    by_snr = config.grid.brightness == "arc_snr"
    flux_r = cell.brightness * sigma / signal if by_snr else float(flux_of(cell.brightness)) / light
    flux = flux_r[:, None] * colours(cell, hosts, config)
    images = unit * torch.as_tensor(flux).to(unit.device, unit.dtype)[:, :, None, None]
    lensed = images.double().sum(dim=(2, 3)).cpu().numpy()
    if config.electrons_per_nanomaggy is not None:
        noise = photon_noise(images.cpu().numpy(), config.electrons_per_nanomaggy, cell.keys, config.seed)
        images = images + torch.as_tensor(noise).to(images.device, images.dtype)
    record = pd.DataFrame({name: np.asarray(values) for name, values in drawn.items()}).assign(
        injection_id=cell.keys, source_id=hosts["source_id"].to_numpy(np.int64), cell=cell.index,
        arc_snr=flux_r * signal / sigma, arc_mag=mag_of(lensed[:, R]),
        magnification=magnification.double().cpu().numpy(), source_mag_r=mag_of(flux_r), pixel_sigma_r=sigma,
    )  # fmt: skip
    for place, band in enumerate(tables.BANDS):
        record[f"lensed_flux_{band}"] = lensed[:, place]
    return Arcs(images, record)


def added(stamps: torch.Tensor, arcs: torch.Tensor) -> torch.Tensor:
    """Stamps (n, H, W, 3) with arcs (n, 3, H, W); pixels that are missing (NaN or exactly 0) stay so."""
    there = torch.isfinite(stamps) & (stamps != 0)
    return torch.where(there, stamps + arcs.permute(0, 2, 3, 1).to(stamps.dtype), stamps)
