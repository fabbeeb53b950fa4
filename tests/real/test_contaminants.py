"""Removal of real lenses and artefacts, and real tables as lens lists; counts by astropy, an independent crossmatch."""

from __future__ import annotations

import json

import healpy
import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import ascii as astropy_ascii

from lensdata import tables
from lensdata.catalogue.lenses import read_lenscat, read_lenses
from spark_jobs import remove_contaminants, sample_negatives
from tests.pools import write_pool, write_positives


def run(pool, contaminants, out, *more):
    argv = [f"inputs.pool={pool}", f"inputs.contaminants={contaminants}", "--output", str(out)]
    assert remove_contaminants.main([*argv, *more]) == 0
    return json.loads((out / "_report.json").read_text())


def within(left: SkyCoord, right: SkyCoord, radius: float) -> int:
    """Rows of ``left`` within the radius of a row of ``right``, by astropy."""
    return int((left.match_to_catalog_sky(right)[1] <= radius * u.arcsec).sum())


@pytest.fixture(scope="module")
def stein(real_data) -> SkyCoord:
    frame = pd.read_csv(real_data / "lens_catalogues" / "stein2021_training_lenses.tsv", sep="\t")
    assert len(frame) == 1615
    return SkyCoord(frame["ra"].to_numpy(), frame["dec"].to_numpy(), unit="deg")


@pytest.fixture(scope="module")
def slacs(real_data) -> SkyCoord:
    rows = astropy_ascii.read(real_data / "lens_catalogues" / "slacs_table.cat", format="commented_header")
    return SkyCoord(np.asarray(rows["RA"]), np.asarray(rows["dec"]), unit="deg")


def test_slacs_is_read_as_the_blank_separated_text_it_is(real_data, slacs):
    ours = read_lenses(str(real_data / "lens_catalogues" / "slacs_table.cat"))
    assert len(ours) == 59
    assert ours["name"].iloc[0] == "SDSSJ0029-0055"
    assert np.array_equal(ours["ra"], slacs.ra.deg)


@pytest.mark.parametrize(("radius", "count"), [(11.0, 1615), (1.0, 1529)])
@pytest.mark.slow
def test_the_stein_lenses_near_a_lenscat_row_are_removed(stein, spark, tmp_path, radius, count):
    lenscat = read_lenscat()
    assert within(stein, SkyCoord(lenscat["ra"], lenscat["dec"], unit="deg"), radius) == count
    pool = write_pool(tmp_path / "pool", stein.ra.deg, stein.dec.deg)
    found = run(pool, "lenscat", tmp_path / "clean", f"radius_arcsec={radius}")
    assert (found["pool_in"], found["removed"], found["pool"]) == (1615, count, 1615 - count)
    assert sum(line["rows"] for line in found["lists"]) == 32_838


@pytest.mark.slow
def test_every_source_planted_inside_the_radius_of_a_real_artefact_goes_and_the_others_stay(real_data, spark, tmp_path):
    path = real_data / "contaminants" / "artifact_contaminants.csv"
    artefacts = pd.read_csv(path)
    sky = SkyCoord(artefacts["ra"], artefacts["dec"], unit="deg")
    assert len(sky) == 77
    angles = np.linspace(0, 360, 77, endpoint=False) * u.deg
    planted = [sky.directional_offset_by(angles, separation * u.arcsec) for separation in (0.5, 10.99, 11.01, 60.0)]
    rows = SkyCoord(
        np.concatenate([each.ra.deg for each in planted]),
        np.concatenate([each.dec.deg for each in planted]),
        unit="deg",
    )
    found = run(write_pool(tmp_path / "pool", rows.ra.deg, rows.dec.deg), path, tmp_path / "clean")
    assert found["removed"] == within(rows, sky, 11.0)
    assert found["pool"] == 4 * 77 - found["removed"]
    per_category = {line["category"]: line["rows"] for line in found["lists"]}
    assert per_category == artefacts["category"].value_counts().to_dict()
    covered = np.isin(*(healpy.ang2pix(128, each.ra.deg, each.dec.deg, nest=True, lonlat=True) for each in (sky, rows)))
    assert sum(line["in_pool_sky"] for line in found["lists"]) == covered.sum() == 76  # one sits on a border of pixels
    removed = tables.read_table(str(tmp_path / "clean" / "removed"), tables.REMOVED).to_pandas()
    nearest = artefacts["name"].to_numpy()[rows.match_to_catalog_sky(sky)[0]]
    positions = artefacts.set_index("name")  # four artefacts share their position with another one
    for name, ra, dec in zip(nearest, rows.ra.deg, rows.dec.deg, strict=True):
        here = removed[np.isclose(removed["ra"], ra) & np.isclose(removed["dec"], dec)]
        assert here["contaminant_ra"].isin([positions.loc[name, "ra"]]).all()


@pytest.mark.slow
def test_real_dr10_sources_lose_those_near_a_lens_and_can_then_be_sampled(real_data, stein, slacs, spark, tmp_path):
    sources = pd.read_csv(real_data / "tractor" / "dr10_lrg_area_weighted.csv")
    sky = SkyCoord(sources["RA"], sources["DEC"], unit="deg")
    assert len(sky) == 6747
    lenscat = read_lenscat()
    lenses = SkyCoord(lenscat["ra"], lenscat["dec"], unit="deg")
    flux = {f"flux_{band}": sources[f"FLUX_{band.upper()}"].to_numpy() for band in "grz"}
    pool = write_pool(tmp_path / "pool", sky.ra.deg, sky.dec.deg, type=sources["TYPE"].to_numpy(str), **flux)
    found = run(pool, "lenscat", tmp_path / "clean")
    assert within(sky, lenses, 11.0) == 6
    assert (found["removed"], found["pool"]) == (6, 6741)
    folder = real_data / "lens_catalogues"
    for name, other in (("stein2021_training_lenses.tsv", stein), ("slacs_table.cat", slacs)):
        assert run(pool, folder / name, tmp_path / name)["removed"] == within(sky, other, 11.0)
    everything = run(pool, folder, tmp_path / "all")
    assert {line["list"] for line in everything["lists"]} == {path.name for path in folder.iterdir()}
    ra, dec = (np.concatenate([getattr(c, name).deg for c in (lenses, stein, slacs)]) for name in ("ra", "dec"))
    assert everything["removed"] == within(sky, SkyCoord(ra, dec, unit="deg"), 11.0)
    write_positives(tmp_path / "positives", ["SER/3-5"] * 5)
    argv = [f"inputs.pool={tmp_path}/clean", f"inputs.positives={tmp_path}/positives", "--output", str(tmp_path / "n")]
    assert sample_negatives.main(argv) == 0
