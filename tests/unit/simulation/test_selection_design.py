"""Which galaxies carry which arcs in an injection experiment, and how bright these are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from astropy import constants, units
from astropy.cosmology import Planck18

from lensdata.config.base import load_config
from lensdata.config.selection import SelectionConfig, SelectionGrid
from lensdata.errors import InputError
from lensdata.shards.manifests import Manifest
from lensdata.simulation.selection_arcs import added, draw, make_arcs
from lensdata.simulation.selection_design import (
    choose_hosts,
    einstein_radius,
    host_frame,
    hosts_without_cells,
    nearest_node,
    plan,
)

HOSTS = 60
PIXSCALE = 0.262


def config(**values: object) -> SelectionConfig:
    grid = {"theta_e_arcsec": (1.0, 2.0), "arc_snr": (10.0, 40.0), "per_cell": 20, "per_host": 3} | values.pop(
        "grid", {}
    )  # type: ignore[operator]
    return SelectionConfig.model_validate({"grid": grid} | values)


def galaxies(count: int = HOSTS, seed: int = 1) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    r = random.uniform(17.5, 20.5, count)
    rows = pd.DataFrame({
        "cutout_id": np.arange(count) + 5000, "source_id": np.arange(count) + 5000, "kind": "plain", "label": 0, "split": "test",
        "type": "DEV", "brickname": "0001m002", "psf_bin": random.integers(1, 3, count), "depth_bin": 2,
        "shape_r": 1.0, "axis_ratio": random.uniform(0.5, 1, count), "mag_g": r + 1.2, "mag_r": r, "mag_z": r - 0.7,
        "nobs_z_bin": "3-5", "healpix_128": random.integers(0, 9, count),
    })  # fmt: skip
    for band in "grz":
        rows[f"psfsize_{band}"], rows[f"psfdepth_{band}"] = (
            random.uniform(1.0, 1.4, count),
            random.uniform(800, 2000, count),
        )
    return rows


def manifest(rows: pd.DataFrame) -> Manifest:
    return Manifest("here", pa.Table.from_pandas(rows, preserve_index=False))


def test_no_host_carries_more_arcs_than_allowed_and_none_twice_before_all_have_one() -> None:
    found, _ = choose_hosts(manifest(galaxies()), config())
    cells = plan(found, config())
    carried = np.bincount(np.concatenate([cell.hosts for cell in cells]), minlength=len(found))
    assert carried.max() <= 3
    assert carried.min() >= 1
    for cell in cells:
        assert np.ptp(np.bincount(cell.hosts)[np.unique(cell.hosts)]) <= 1
        own = found.table.take(pa.array(cell.hosts))
        assert set(own["psf_bin"].to_pylist()) == {cell.psf_bin}
    keys = np.concatenate([cell.keys for cell in cells])
    assert len(np.unique(keys)) == len(keys)
    assert (keys < 0).all()


def test_the_plan_does_not_depend_on_the_order_of_the_manifest() -> None:
    rows = galaxies()
    there, back = (
        {int(k) for cell in plan(choose_hosts(manifest(each), config())[0], config()) for k in cell.keys}
        for each in (rows, rows[::-1])
    )
    assert there == back


def test_hosts_are_of_splits_that_taught_nothing_and_able_to_lens() -> None:
    rows = galaxies()
    rows.loc[0, "split"], rows.loc[1, "label"], rows.loc[2, "mag_g"], rows.loc[3, "type"] = (
        "train",
        1,
        rows.loc[2, "mag_r"],
        "REX",
    )
    rows.loc[4, "psf_bin"], rows.loc[5, "kind"], rows.loc[6, "psfdepth_r"] = -1, "control", 0.0
    found, dropped = choose_hosts(manifest(rows), config())
    assert len(found) == HOSTS - 7
    assert dropped == {
        "split": 1, "label 1": 1, "colour": 1, "type": 1, "no bin of seeing or depth": 1, "kind": 1, "no psfdepth": 1,
    }  # fmt: skip
    assert set(found.column("split")) == {"test"}


def test_the_cap_of_a_bin_takes_the_same_hosts_again() -> None:
    few = config(hosts={"max_per_bin": 10})
    found, dropped = choose_hosts(manifest(galaxies()), few)
    assert len(found) == 20
    assert dropped == {"beyond hosts.max_per_bin": HOSTS - 20}


def test_too_few_hosts_are_refused_with_the_remedy() -> None:
    with pytest.raises(InputError, match=r"too few for one injection per cell of 4 at grid.per_host=3"):
        plan(choose_hosts(manifest(galaxies(2).assign(psf_bin=[1, 2])), config())[0], config(grid={"per_host": 3}))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("grid.theta_e_arcsec=[2,1]", "nodes that rise"),
        ("grid.theta_e_arcsec=[1,9]", "between 0.1 and 4"),
        ("sources.radius_arcsec=[0.5,0.1]", "smallest, largest"),
        ("fpr_levels=[0.001,0.01]", "fall from the highest"),
        ("electrons_per_nanomaggy=[0,1,1]", "above 0"),
        ("hosts.splits=[train]", "hosts.splits"),
    ],
)
def test_an_impossible_plan_is_refused_by_its_key(key: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(SelectionConfig, None, [key])


def test_hosts_of_a_bin_too_small_for_the_plan_are_counted() -> None:
    rows = galaxies()
    rows.loc[0, "psf_bin"] = 3
    found, _ = choose_hosts(manifest(rows), config())
    cells = plan(found, config())
    assert {cell.psf_bin for cell in cells} == {1, 2}
    assert hosts_without_cells(found, cells) == 1


def test_an_einstein_radius_follows_from_the_velocity_dispersion() -> None:
    sigma, z_lens, z_source = np.array([250.0, 300.0]), np.array([0.3, 0.5]), np.array([2.0, 1.2])
    ratio = Planck18.angular_diameter_distance_z1z2(z_lens, z_source) / Planck18.angular_diameter_distance(z_source)
    expected = 4 * np.pi * ((sigma * units.km / units.s) / constants.c) ** 2 * ratio * units.rad
    np.testing.assert_allclose(einstein_radius(sigma, z_lens, z_source), expected.to_value(units.arcsec), rtol=1e-6)
    assert einstein_radius(np.array([250.0]), np.array([1.0]), np.array([0.5])) == 0


def test_a_radius_is_counted_at_the_nearest_node() -> None:
    grid = SelectionGrid(theta_e_arcsec=(0.5, 1.0, 2.0))
    np.testing.assert_array_equal(
        nearest_node(np.array([0.2, 0.3, 0.74, 0.76, 1.4, 1.6, 2.4, 2.6]), grid),
        [np.nan, 0.5, 0.5, 1.0, 1.0, 2.0, 2.0, np.nan],
    )


def test_a_source_in_front_of_its_lens_is_counted_at_no_node_however_far_apart_these_are() -> None:
    settings = config(
        grid={"theta_e_from": "velocity_dispersion", "theta_e_arcsec": (0.5, 2.0)}, sources={"redshift": (0.2, 0.4)}
    )
    found, _ = choose_hosts(manifest(galaxies().assign(sigma_v=250.0, z_lens=0.9)), settings)
    cell = plan(found, settings)[0]
    rows = host_frame(found).iloc[cell.hosts].reset_index(drop=True)
    drawn = draw(cell, rows, np.zeros(len(rows)), settings)
    assert np.isnan(drawn["theta_e_node"]).all()


@pytest.mark.parametrize("brightness", ["arc_snr", "arc_mag"])
def test_arcs_are_as_bright_as_their_cell_and_brightening_is_not_undone(brightness: str) -> None:
    settings = config(grid={"brightness": brightness, "arc_mag": (20.0, 22.0)}, ray_precision="float64")
    hosts, _ = choose_hosts(manifest(galaxies()), settings)
    cell = plan(hosts, settings)[1]
    rows = host_frame(hosts).iloc[cell.hosts].reset_index(drop=True)
    stamps = np.random.default_rng(2).normal(0.01, 0.02, (len(rows), 101, 101, 3)).astype(np.float32)
    made = make_arcs(cell, stamps, rows, settings, PIXSCALE, torch.device("cpu"))
    assert (made.record["theta_e"] == cell.theta_e).all()
    np.testing.assert_allclose(made.record[brightness], cell.brightness, rtol=2e-3)
    light = made.images[:, 1].sum(dim=(1, 2)).numpy()
    source = 10 ** (0.4 * (22.5 - made.record["source_mag_r"]))
    np.testing.assert_allclose(light / source, made.record["magnification"], rtol=0.01)
    assert (made.record["magnification"] > 1).all()


def test_an_arc_does_not_depend_on_the_injections_beside_it() -> None:
    settings = config(electrons_per_nanomaggy=(100.0, 100.0, 100.0))
    hosts, _ = choose_hosts(manifest(galaxies()), settings)
    cell = plan(hosts, settings)[0]
    rows = host_frame(hosts).iloc[cell.hosts].reset_index(drop=True)
    stamps = np.random.default_rng(2).normal(0.01, 0.02, (len(rows), 101, 101, 3)).astype(np.float32)
    whole = make_arcs(cell, stamps, rows, settings, PIXSCALE, torch.device("cpu"))
    alone = type(cell)(
        cell.index, cell.theta_e, cell.brightness, cell.psf_bin, cell.depth_bin, cell.hosts[3:4], cell.keys[3:4]
    )
    one = make_arcs(alone, stamps[3:4], rows.iloc[3:4].reset_index(drop=True), settings, PIXSCALE, torch.device("cpu"))
    np.testing.assert_allclose(one.images[0], whole.images[3], atol=1e-6)


def test_missing_pixels_stay_missing(tmp_path: Path) -> None:
    stamps = torch.ones(1, 5, 5, 3)
    stamps[0, 0, 0, 0], stamps[0, 1, 1, 1] = 0.0, float("nan")
    out = added(stamps, torch.full((1, 3, 5, 5), 2.0))
    assert out[0, 0, 0, 0] == 0
    assert torch.isnan(out[0, 1, 1, 1])
    assert out[0, 2, 2, 2] == 3
