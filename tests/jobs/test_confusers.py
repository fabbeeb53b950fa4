"""Every rule of the N2 categories moves the counts of a crafted pool; mergers by pairs and by an external table."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord, search_around_sky
from pyspark.errors import PythonException

from lensdata import tables
from lensdata.catalogue import hats
from lensdata.config.catalogue import Confusers, MergerRule
from spark_jobs import datasets, sample_negatives
from spark_jobs.datasets import spark_schema
from spark_jobs.transforms.confusers import flag_confusers
from tests.pools import rows_of, write_pool, write_positives

pytestmark = pytest.mark.slow

# One galaxy of each category, and three plain ones; a merger is a pair.
CRAFTED = {
    "ra": [10.0, 11.0, 12.0, 13.0, 14.0, 14.001, 15.0, 16.0, 17.0],
    "flux_r": [6.0, 3.0, 8.0, 4.0, 3.0, 3.0, 3.0, 3.0, 3.0],
    "type": ["DEV", "SER", "SER", "SER", "SER", "SER", "SER", "SER", "SER"],
    "shape_e1": [0, 0.4, 0, 0, 0, 0, 0, 0, 0],  # b/a = 3/7
    "flux_g": [2.0, 1.0, 7.0, 1.5, 1.0, 1.0, 1.0, 1.0, 1.0],
    "shape_r": [1.0, 1.0, 1.0, 2.5, 1.0, 1.0, 1.0, 1.0, 1.0],
}
NO_RULE = {
    "ring": "confusers.ring.flux_r_min=1e9",
    "edge_on": "confusers.edge_on.ellipticity_min=1",
    "blue": "confusers.blue.mag_r_max=0",
    "large": "confusers.large.flux_r_min=1e9",
    "merger": "confusers.merger.mag_r_difference_max=0",
}


@pytest.fixture(scope="module")
def crafted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crafted")
    columns = {name: np.array(values) for name, values in CRAFTED.items()}
    columns["flux_r"][5] = 3.3  # the members of the pair differ by a tenth of a magnitude
    write_pool(folder / "pool", columns.pop("ra"), np.zeros(9), **columns)
    write_positives(folder / "positives", ["SER/3-5", "DEV/3-5"])
    return folder


def sampled(crafted, out, *more):
    argv = [f"inputs.pool={crafted}/pool", f"inputs.positives={crafted}/positives", "--output", str(out)]
    assert sample_negatives.main([*argv, "n1_percent=0", *more]) == 0
    return json.loads((out / "_report.json").read_text())


def test_each_rule_finds_its_galaxy_and_finds_none_when_it_cannot_hold(crafted, spark, tmp_path):
    everything = {"ring": 1, "edge_on": 1, "blue": 1, "large": 1, "merger": 2}
    assert sampled(crafted, tmp_path / "all")["n2_per_category"] == everything
    for category, override in NO_RULE.items():
        found = sampled(crafted, tmp_path / category, override)["n2_per_category"]
        assert found == {name: count for name, count in everything.items() if name != category}


def test_an_external_table_adds_mergers_and_is_counted(crafted, spark, tmp_path):
    # marked 1.4 arcsec beside a plain galaxy, marked 1.6 arcsec beside another, unmarked at the third, and one nowhere
    table = pd.DataFrame(
        {"RA": [15.0 + 1.4 / 3600, 16.0 + 1.6 / 3600, 17.0, 100.0], "Dec": 0.0, "merger": [0.6, 0.9, 0.4, 1.0]}
    )
    table.to_csv(tmp_path / "zoo.csv", index=False)
    found = sampled(crafted, tmp_path / "n", f"inputs.morphology={tmp_path}/zoo.csv")
    assert found["morphology"] == {"rows": 4, "matched": 2, "flagged": 1}
    assert found["n2_per_category"]["merger"] == 3
    negatives = tables.read_table(str(tmp_path / "n"), tables.NEGATIVES).to_pandas().set_index("ra")
    assert negatives.loc[15.0, "confuser"] == "merger"
    assert negatives.loc[15.0, "confuser_flags"] == 1
    found = sampled(crafted, tmp_path / "m", f"inputs.morphology={tmp_path}/zoo.csv", "morphology.threshold=0.3",
                    "morphology.radius_arcsec=1.7")  # fmt: skip
    assert found["morphology"] == {"rows": 4, "matched": 3, "flagged": 3}
    assert found["n2_per_category"]["merger"] == 5


@pytest.mark.parametrize("way", ["auto", pytest.param("partitioned", marks=pytest.mark.slow)])
def test_a_parquet_table_is_matched_by_source_id_or_position(crafted, spark, tmp_path, way):
    pool = tables.read_table(str(crafted / "pool"), tables.POOL).to_pandas()
    pool.assign(tidal=pool["ra"] > 15.5)[["source_id", "ra", "dec", "tidal"]].to_parquet(tmp_path / "zoo.parquet")
    argv = [f"inputs.morphology={tmp_path}/zoo.parquet", "morphology.column=tidal", f"execution.crossmatch={way}"]
    for match_by in ("source_id", "position"):
        found = sampled(crafted, tmp_path / match_by, *argv, f"morphology.match_by={match_by}")
        assert found["morphology"] == {"rows": 9, "matched": 9, "flagged": 2}
        assert found["n2_per_category"]["merger"] == 4


def test_wrong_columns_of_a_morphology_table_are_refused_in_one_sentence(crafted, spark, tmp_path, capsys):
    pd.DataFrame({"ra": [1.0], "dec": [1.0], "class": ["merger"]}).to_csv(tmp_path / "zoo.csv", index=False)
    argv = [
        f"inputs.pool={crafted}/pool",
        f"inputs.positives={crafted}/positives",
        f"inputs.morphology={tmp_path}/zoo.csv",
    ]
    assert sample_negatives.main([*argv, "--output", str(tmp_path / "n")]) == 2
    assert "column 'merger' is missing (morphology.column); found ra, dec, class." in capsys.readouterr().err
    assert sample_negatives.main([*argv, "--output", str(tmp_path / "n"), "morphology.column=class"]) == 2
    assert "row 1 of the data: class = merger is not a number." in capsys.readouterr().err


@pytest.mark.parametrize("rows_per_file", [100_000, 40])
def test_close_pairs_are_found_across_files_whatever_their_size(spark, monkeypatch, tmp_path, rows_per_file):
    leaves = hats.leaves
    monkeypatch.setattr(hats, "leaves", lambda counts: leaves(counts, rows_per_file))
    rng = np.random.default_rng(5)
    ra = np.concatenate([rng.uniform(0, 0.3, 3000), rng.uniform(359.7, 360, 3000), rng.uniform(0, 360, 3000)])
    dec = np.concatenate([rng.uniform(-0.2, 0.2, 6000), rng.uniform(89.8, 90, 3000)])
    # pairs on both sides of the pixels' borders at ra 45 and ra 0, dec 0, and at a corner of order 6
    ra = np.concatenate([ra, 45 + np.tile([-1e-4, 1e-4], 50), np.tile([0.3515625, 0.3515625], 2)])
    dec = np.concatenate([dec, np.repeat(np.linspace(-40, 40, 50), 2), [0.2, 0.2004, -0.2, -0.2004]])
    table = rows_of(ra, dec, flux_r=rng.lognormal(1.0, 0.8, len(ra)).astype(np.float32))
    datasets.write(
        spark.createDataFrame(table.to_pandas(), spark_schema(table.schema)), str(tmp_path / "p"), tables.POOL
    )
    assert len(tables.dataset_files(str(tmp_path / "p"))) > (8 if rows_per_file == 40 else 3)
    rule = Confusers(merger=MergerRule(radius_arcsec=5.0, mag_r_difference_max=1.0))
    flagged = flag_confusers(spark, str(tmp_path / "p"), rule, 42).collect()
    assert len(flagged) == len(ra)
    found = {row.source_id for row in flagged if row.confuser_flags & 1}
    sky = SkyCoord(ra, dec, unit="deg")
    one, two, _, _ = search_around_sky(sky, sky, 5 * u.arcsec)
    mag = table["mag_r"].to_numpy().astype(float)
    pair = (one != two) & (np.abs(mag[one] - mag[two]) <= 1.0)
    assert found == set(table["source_id"].to_numpy()[one[pair]].tolist())
    assert len(found) > 50


def test_rows_outside_the_pixel_that_their_file_names_are_refused(crafted, spark, tmp_path):
    name = tmp_path / "pool" / "dataset" / "Norder=1" / "Dir=0" / "Npix=47.parquet"
    tables.write_part(str(name), tables.POOL, rows_of(np.array([10.0]), np.array([0.0])).to_batches())
    tables.finish_table(str(tmp_path / "pool"), tables.POOL)
    with pytest.raises(PythonException, match="holds rows outside its HEALPix pixel 47 of order 1"):
        flag_confusers(spark, str(tmp_path / "pool"), Confusers(), 42)


def test_of_an_empty_pool_nothing_is_drawn_and_all_is_missing(crafted, spark, tmp_path):
    write_pool(tmp_path / "pool", [], [])
    argv = [f"inputs.pool={tmp_path}/pool", f"inputs.positives={crafted}/positives", "--output", str(tmp_path / "n")]
    assert sample_negatives.main(argv) == 0
    found = json.loads((tmp_path / "n" / "_report.json").read_text())
    assert found["taken"] == 0
    assert found["shortfall"] == {
        f"{kind}/3-5 {pool}": n for kind in ("DEV", "SER") for pool, n in (("N1", 85), ("N2", 15))
    }
    assert tables.read_table(str(tmp_path / "n"), tables.NEGATIVES).num_rows == 0


def test_a_shortfall_is_filled_from_the_neighbours_only_when_asked_for(crafted, spark, tmp_path):
    pool = tables.read_table(str(crafted / "pool"), tables.POOL).num_rows
    write_positives(tmp_path / "positives", ["SER/6-10"])  # every pool row has four exposures
    argv = [f"inputs.pool={crafted}/pool", f"inputs.positives={tmp_path}/positives", "n1_percent=100", "--output"]
    assert sample_negatives.main([*argv, str(tmp_path / "none")]) == 0
    assert tables.read_table(str(tmp_path / "none"), tables.NEGATIVES).num_rows == 0
    assert sample_negatives.main([*argv, str(tmp_path / "filled"), "fill=neighbours"]) == 0
    filled = tables.read_table(str(tmp_path / "filled"), tables.NEGATIVES).to_pandas()
    assert set(filled["stratum"]) == {"SER/3-5"}, "a row keeps the stratum that it has"
    lines = tables.read_table(str(tmp_path / "filled" / "quotas"), tables.QUOTAS).to_pandas()
    line = lines[lines["filled_from"] == "SER/3-5"].iloc[0]
    assert (line["stratum"], line["wanted"], line["taken"], line["shortfall"]) == (
        "SER/6-10",
        100,
        pool - 1,
        101 - pool,
    )
    found = json.loads((tmp_path / "filled" / "_report.json").read_text())
    assert found["filled"] == {"SER/6-10 N1 from SER/3-5": pool - 1}
