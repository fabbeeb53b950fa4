"""The plan of an injection experiment: which galaxies carry which arcs (R-E7).

A cell is a node of Einstein radius and brightness in one bin of seeing and depth. Everything follows from keys: the plan is the
same whatever the order of the manifest, and every injection has a key of its own, from which its draws follow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from lensdata.config.selection import SelectionConfig, SelectionGrid
from lensdata.errors import InputError
from lensdata.hashing import cutout_id, second_key
from lensdata.shards.manifests import Manifest
from lensdata.simulation.injected_hosts import NEEDED, drop_reasons

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

DISPERSION = ("sigma_v", "z_lens")
"""Columns from which an Einstein radius follows: km/s and redshift."""
SPEED_OF_LIGHT = 299_792.458  # km/s
ARCSEC = np.degrees(1) * 3600  # of a radian


@dataclass(frozen=True)
class Cell:
    """Injections that are made and scored together.

    Attributes
    ----------
    index
        Its number, which names its file.
    theta_e
        Its node, arcsec; where the Einstein radius follows from the host, which of as many equal parts this is.
    brightness
        S/N or magnitude of its arcs in r.
    psf_bin, depth_bin
        Of its hosts.
    hosts
        (n,) positions of the hosts in the manifest of hosts, one per injection.
    keys
        (n,) key of each injection.
    """

    index: int
    theta_e: float
    brightness: float
    psf_bin: int
    depth_bin: int
    hosts: Ints
    keys: Ints


def choose_hosts(manifest: Manifest, config: SelectionConfig) -> tuple[Manifest, dict[str, int]]:
    """The galaxies that carry arcs, and how many rows were dropped for which reason.

    Parameters
    ----------
    manifest
        With the splits that the run used (`ray_train.scoring.as_trained`).

    Raises
    ------
    InputError
        A column is missing, or no host is left.
    """
    wanted = [*NEEDED, *(DISPERSION if config.grid.theta_e_from == "velocity_dispersion" else ())]
    for name in wanted:
        if name not in manifest.table.column_names:
            raise InputError(f"Manifest {manifest.uri} has no column {name!r}, which injection needs of its hosts.")
    frame = manifest.table.select([*wanted, "label", "split"]).to_pandas()
    reason = drop_reasons(frame, config.hosts).astype(object)
    unknown = frame["psf_bin"].isna() | frame["depth_bin"].isna() | (frame["psf_bin"] < 0) | (frame["depth_bin"] < 0)
    reason[(reason == "") & unknown.to_numpy()] = "no bin of seeing or depth"
    if config.grid.theta_e_from == "velocity_dispersion":
        known = np.isfinite(frame["sigma_v"]) & (frame["sigma_v"] > 0) & (frame["z_lens"] > 0)
        reason[(reason == "") & ~known.to_numpy(bool)] = "no velocity dispersion or redshift"
    reason[(reason == "") & ~frame["split"].isin(config.hosts.splits).to_numpy()] = "split"
    hosts = manifest.where(np.asarray(reason == "", bool))
    dropped = Counter(reason[reason != ""].tolist())
    if not len(hosts):
        raise InputError(f"Manifest {manifest.uri} has no host that passes the cuts; dropped: {dict(dropped)}.")
    sources = hosts.column("source_id")
    if len(np.unique(sources)) < len(sources):
        raise InputError(f"Manifest {manifest.uri} lists a host twice; a host has one plain stamp.")
    kept = _fewer_per_bin(hosts, config)
    dropped["beyond hosts.max_per_bin"] = len(hosts) - int(kept.sum())
    return hosts.where(kept), {name: count for name, count in sorted(dropped.items()) if count}


def _fewer_per_bin(hosts: Manifest, config: SelectionConfig) -> npt.NDArray[np.bool_]:
    frame = hosts.table.select(["psf_bin", "depth_bin"]).to_pandas()
    frame["order"] = second_key(hosts.column("source_id").astype(np.int64), config.seed, "selection-hosts")
    rank = frame.groupby(["psf_bin", "depth_bin"])["order"].rank(method="first")
    return np.asarray(rank <= config.hosts.max_per_bin, bool)


def plan(hosts: Manifest, config: SelectionConfig) -> list[Cell]:
    """All cells, those of one bin of seeing and depth together.

    The hosts of a bin take turns, in a random order, over all cells of the bin: within a cell none comes twice before every
    other has come once, and none carries more arcs than ``grid.per_host`` altogether.
    """
    grid = config.grid
    cells: list[Cell] = []
    frame = hosts.table.select(["psf_bin", "depth_bin"]).to_pandas().astype(int)
    sources = hosts.column("source_id").astype(np.int64)
    order = second_key(sources, config.seed, "selection-turns")
    nodes = [(theta_e, level) for theta_e in grid.theta_e_arcsec for level in grid.levels]
    for (psf_bin, depth_bin), members in sorted(frame.groupby(["psf_bin", "depth_bin"]).indices.items()):
        turns = members[np.argsort(order[members])]
        size = min(grid.per_cell, len(turns) * grid.per_host // len(nodes))
        for number, (theta_e, level) in enumerate(nodes if size else ()):
            turn = np.arange(size)
            chosen = turns[(number * size + turn) % len(turns)]
            # a galaxy has the same arc at a node whatever other nodes the grid has
            ordinal = node_number(theta_e, level) + turn // len(turns)
            keys = cutout_id(sources[chosen], "injection", ordinal)
            cells.append(Cell(len(cells), theta_e, level, int(psf_bin), int(depth_bin), chosen, keys))
    if not cells:
        raise InputError(
            f"Manifest {hosts.uri} has {len(hosts)} hosts, too few for one injection per cell of {len(nodes)} at "
            f"grid.per_host={grid.per_host} each in any bin of seeing and depth; raise it, or take fewer nodes."
        )
    return cells


def hosts_without_cells(hosts: Manifest, cells: Sequence[Cell]) -> int:
    """How many hosts lie in bins of seeing and depth that have too few for one injection per cell, and so have no cells."""
    planned = {(cell.psf_bin, cell.depth_bin) for cell in cells}
    bins = zip(hosts.column("psf_bin").tolist(), hosts.column("depth_bin").tolist(), strict=True)
    return sum(pair not in planned for pair in bins)


def node_number(theta_e: float, level: float) -> int:
    """A number for a node, from its values; a thousand follow it that no other node has."""
    return round(theta_e * 1e4) * 10**11 + round(level * 1e3) * 10**3


def nearest_node(values: Floats, grid: SelectionGrid) -> Floats:
    """The node of Einstein radius that each value is counted at; NaN beyond half a step outside the grid.

    >>> nearest_node(np.array([0.6, 0.7, 9.0]), SelectionGrid())
    array([0.5 , 0.75,  nan])
    """
    nodes = np.asarray(grid.theta_e_arcsec)
    edges = np.concatenate(
        [[1.5 * nodes[0] - 0.5 * nodes[1]], (nodes[1:] + nodes[:-1]) / 2, [1.5 * nodes[-1] - 0.5 * nodes[-2]]]
    )
    place = np.searchsorted(edges, values, side="right") - 1
    inside = (place >= 0) & (place < len(nodes))
    return np.where(inside, nodes[np.clip(place, 0, len(nodes) - 1)], np.nan)


def einstein_radius(sigma_v: Floats, z_lens: Floats, z_source: Floats) -> Floats:
    """Einstein radius of an isothermal sphere, arcsec; 0 where the source is in front.

    theta_E = 4 pi (sigma_v / c)^2 D_ls / D_s, distances of Planck 2018 (astropy).

    Parameters
    ----------
    sigma_v
        Velocity dispersion, km/s.
    """
    from astropy.cosmology import Planck18

    # in flat space, comoving distances subtract
    to_lens, to_source = (np.asarray(Planck18.comoving_distance(z).value) for z in (z_lens, z_source))
    share = np.maximum(to_source - to_lens, 0.0) / to_source
    return np.asarray(4 * np.pi * (np.asarray(sigma_v) / SPEED_OF_LIGHT) ** 2 * share * ARCSEC)


def host_frame(hosts: Manifest) -> pd.DataFrame:
    """What injection and statistics need to know of each host."""
    names = [
        *NEEDED,
        "split",
        *(name for name in ("nobs_z_bin", "healpix_128", *DISPERSION) if name in hosts.table.column_names),
    ]
    return hosts.table.select(names).to_pandas()
