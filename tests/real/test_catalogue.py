"""The catalogue jobs on real sweep rows, the real lens catalogue and real DR10 sources."""

from __future__ import annotations

import hashlib
import json

import healpy
import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord

from lensdata import tables
from lensdata.catalogue.lenses import read_lenscat
from spark_jobs import assign_splits, extract_pool, match_positives

ORIGINAL = "configs/catalogue/original.yaml"


def report(folder):
    return json.loads((folder / "_report.json").read_text())


def test_the_installed_lenscat_is_the_public_table(real_data):
    ours = read_lenscat()
    public = pd.read_csv(real_data / "lens_catalogues" / "lenscat_catalog.csv")
    assert len(ours) == len(public) == 32_838
    assert np.array_equal(ours["ra"], public["RA [deg]"])


def test_quasars_leave_an_empty_pool_with_every_row_accounted_for(real_data, spark, tmp_path):
    sweep = real_data / "tractor" / "dr9_sweep_quasars_172.fits"
    assert (
        extract_pool.main([f"inputs.sweeps={sweep}", "inputs.lenses=lenscat", "--output", str(tmp_path / "pool")]) == 0
    )
    found = report(tmp_path / "pool")
    assert found["rows_read"] == 172
    assert found["rows_per_reason"]["type"] == 172
    assert found["pool"] == 0
    assert tables.read_table(str(tmp_path / "pool"), tables.POOL).num_rows == 0


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("dr8_sweep-320m005-330p000.fits", "PSFSIZE_G"),
        ("dr8_tractor-3301m002.fits", "PSFSIZE_G"),
        ("dr7_sweep-190m005-200p000.fits", "MASKBITS"),
        ("dr3_sweep-190m005-200p000.fits", "MASKBITS"),
    ],
)
def test_older_releases_are_refused_by_the_name_of_the_missing_column(real_data, tmp_path, capsys, name, column):
    argv = [f"inputs.sweeps={real_data}/tractor/{name}", "inputs.lenses=lenscat", "--output", str(tmp_path / "pool")]
    assert extract_pool.main(argv) == 2
    error = capsys.readouterr().err
    assert f"column {column} is missing" in error
    assert name in error


def test_three_of_the_5104_lenses_lie_near_a_source_of_the_43_real_bricks(real_data, spark, tmp_path):
    sources = real_data / "tractor" / "dr10_lrg_area_weighted.csv"
    argv = [f"inputs.near_lenses={sources}", "inputs.lenses=lenscat", "--config", ORIGINAL, "radius_arcsec=11"]
    assert match_positives.main([*argv, "--output", str(tmp_path / "m")]) == 0
    found = report(tmp_path / "m")
    assert found["lenses"] == 5104
    assert found["lenses_per_tier"] == {"A": 435, "B": 4669}
    assert found["positives"] == 3
    frame, lenses = pd.read_csv(sources), read_lenscat().query("name.str.contains('DESI-')")
    _, nearest, _ = SkyCoord(lenses["ra"], lenses["dec"], unit="deg").match_to_catalog_sky(
        SkyCoord(frame["RA"], frame["DEC"], unit="deg")
    )
    positives = tables.read_table(str(tmp_path / "m"), tables.POSITIVES).to_pandas()
    expected = np.sort(nearest.to_value(u.arcsec)[nearest < 11 * u.arcsec])
    assert np.allclose(np.sort(positives["separation_arcsec"]), expected, atol=1e-6)


def test_by_default_lenses_outside_the_negatives_footprint_are_counted_and_dropped(spark, tmp_path):
    argv = ["inputs.near_lenses=lenscat", "inputs.lenses=lenscat", "--output", str(tmp_path / "all")]
    assert match_positives.main(argv) == 0
    found = report(tmp_path / "all")
    assert found["lenses_outside_footprint"] == 2257 + 350  # dec <= -18, dec >= 32
    assert found["positives"] == 2497
    assert found["without_positive"] == {"outside_footprint": 2607}


def test_every_lens_has_the_split_of_an_independent_computation(spark, tmp_path):
    argv = ["inputs.near_lenses=lenscat", "inputs.lenses=lenscat", "--config", ORIGINAL]
    assert match_positives.main([*argv, "--output", str(tmp_path / "all")]) == 0
    assert assign_splits.main([f"inputs.positives={tmp_path}/all", "--output", str(tmp_path / "splits")]) == 0
    sample = tables.read_table(str(tmp_path / "splits"), tables.SAMPLE).to_pandas()
    assert len(sample) == 5104
    assert sample["split"].value_counts().to_dict() == {"train": 3635, "val": 702, "test": 767}
    theta, phi = np.radians(90 - sample["dec"]), np.radians(sample["ra"])
    for pixel, split in zip(healpy.ang2pix(128, theta, phi, nest=True), sample["split"], strict=True):
        value = int(hashlib.sha256(f"{pixel}_42".encode()).hexdigest()[:8], 16) / 2**32
        assert split == ("train" if value < 0.7 else "val" if value < 0.85 else "test")
