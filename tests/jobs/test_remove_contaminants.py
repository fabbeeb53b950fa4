"""Contaminants out of a pool: what goes, what stays, what is said about it."""

from __future__ import annotations

import json

import healpy
import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table

from lensdata import tables
from spark_jobs import remove_contaminants, sample_negatives
from tests.pools import write_pool, write_positives

pytestmark = pytest.mark.slow


def run(pool, contaminants, out, *more):
    return remove_contaminants.main(
        [f"inputs.pool={pool}", f"inputs.contaminants={contaminants}", "--output", str(out), *more]
    )


def report(folder):
    return json.loads((folder / "_report.json").read_text())


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    rng = np.random.default_rng(4)
    ra, dec = rng.uniform(-0.3, 0.3, 4000) % 360, rng.uniform(-0.3, 0.3, 4000)
    return write_pool(tmp_path_factory.mktemp("pool") / "pool", ra, dec)


@pytest.fixture(scope="module")
def contaminants():
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"name": [f"star {i}" for i in range(300)], "ra": rng.uniform(-0.4, 0.4, 300) % 360})
    frame = frame.assign(dec=rng.uniform(-0.4, 0.4, 300), category=np.where(np.arange(300) % 3 == 0, "ghost", "spike"))
    frame.loc[300] = ["far away", 120.0, 40.0, "ghost"]
    return frame


def expected(pool, contaminants, radius):
    rows = tables.read_table(str(pool), tables.POOL).to_pandas()
    sky = SkyCoord(contaminants["ra"].to_numpy(), contaminants["dec"].to_numpy(), unit="deg")
    nearest, separation, _ = SkyCoord(rows["ra"].to_numpy(), rows["dec"].to_numpy(), unit="deg").match_to_catalog_sky(
        sky
    )
    inside = separation <= radius * u.arcsec
    return rows["source_id"][inside], contaminants["name"].to_numpy()[nearest[inside]], len(rows)


@pytest.mark.parametrize(
    ("ending", "way"),
    [
        (".csv", "broadcast"),
        (".parquet", "partitioned"),
        *(
            pytest.param(ending, "broadcast", marks=pytest.mark.slow)
            for ending in (".parquet", ".fits", ".tsv", ".cat")
        ),
    ],
)
def test_exactly_the_rows_within_the_radius_of_a_contaminant_go(pool, contaminants, spark, tmp_path, ending, way):
    path = tmp_path / f"list{ending}"
    if ending == ".parquet":
        contaminants.to_parquet(path)
    elif ending == ".fits":
        Table.from_pandas(contaminants).write(path)
    else:
        contaminants.assign(name=contaminants["name"].str.replace(" ", "_")).to_csv(
            path, sep={".csv": ",", ".tsv": "\t", ".cat": " "}[ending], index=False
        )
    assert run(pool, path, tmp_path / "clean", f"execution.crossmatch={way}") == 0
    ids, names, rows_in = expected(pool, contaminants, 11.0)
    removed = tables.read_table(str(tmp_path / "clean" / "removed"), tables.REMOVED).to_pandas()
    assert len(ids) > 40
    found = dict(zip(removed["source_id"], removed["contaminant"].str.replace("_", " "), strict=True))
    assert found == dict(zip(ids, names, strict=True))
    kept = tables.read_table(str(tmp_path / "clean"), tables.POOL)["source_id"].to_pylist()
    assert len(kept) + len(ids) == rows_in
    assert not set(kept) & set(ids)
    found = report(tmp_path / "clean")
    assert (found["pool_in"], found["removed"], found["pool"]) == (rows_in, len(ids), len(kept))
    per_category = {line["category"]: line for line in found["lists"]}
    assert {name: line["rows"] for name, line in per_category.items()} == {"ghost": 101, "spike": 200}
    gone = {name: line["pool_rows_removed"] for name, line in per_category.items()}
    assert gone == removed["reason"].value_counts().to_dict()
    pixels = healpy.ang2pix(128, contaminants["ra"], contaminants["dec"], nest=True, lonlat=True)
    inside = contaminants["category"][
        np.isin(pixels, tables.read_table(str(pool), columns=["healpix_128"])["healpix_128"])
    ]
    assert {name: line["in_pool_sky"] for name, line in per_category.items()} == inside.value_counts().to_dict()
    assert per_category["spike"]["median_separation_arcsec"] == pytest.approx(
        removed.loc[removed["reason"] == "spike", "separation_arcsec"].median()
    )


def test_a_folder_of_lists_is_all_of_them_each_reported_by_name(pool, contaminants, spark, tmp_path):
    folder = tmp_path / "lists"
    folder.mkdir()
    contaminants[:100].drop(columns=["category"]).to_csv(folder / "a.csv", index=False)
    contaminants[100:].to_parquet(folder / "b.parquet")
    (folder / "README.md").write_text("not a list")
    assert run(pool, folder, tmp_path / "clean") == 0
    found = report(tmp_path / "clean")
    assert {(line["list"], line["category"]): line["rows"] for line in found["lists"]} == {
        ("a.csv", "a.csv"): 100, ("b.parquet", "ghost"): 67, ("b.parquet", "spike"): 134,
    }  # fmt: skip
    assert found["removed"] == len(expected(pool, contaminants, 11.0)[0])
    assert found["removed"] == sum(line["pool_rows_removed"] for line in found["lists"])


def test_the_cleaned_pool_is_a_pool_to_sample_from(pool, contaminants, spark, tmp_path):
    contaminants.to_csv(tmp_path / "list.csv", index=False)
    assert run(pool, tmp_path / "list.csv", tmp_path / "clean") == 0
    write_positives(tmp_path / "positives", ["SER/3-5"] * 3)
    argv = [f"inputs.pool={tmp_path}/clean", f"inputs.positives={tmp_path}/positives", "--output", str(tmp_path / "n")]
    assert sample_negatives.main([*argv, "n1_percent=100"]) == 0
    assert tables.read_table(str(tmp_path / "n"), tables.NEGATIVES).num_rows == 300


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name,right,dec\na,1,2\n", "column 'ra' is missing (columns.ra); found name, right, dec"),
        ("name,ra,dec\na,1,2\nb,east,2\n", "row 2 of the data: ra = east is not a number in -360..360 degrees"),
        ("name,ra,dec\na,1,2\nb,3,91\n", "row 2 of the data: dec = 91 is not a number in -90..90 degrees"),
        ("name,ra,dec\na,,2\n", "row 1 of the data: ra = "),
        ("name,ra,dec\n", "has no rows"),
    ],
)
def test_a_wrong_list_is_refused_in_one_sentence(pool, spark, tmp_path, capsys, text, sentence):
    (tmp_path / "list.csv").write_text(text)
    assert run(pool, tmp_path / "list.csv", tmp_path / "clean") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert sentence in error
    assert not (tmp_path / "clean").exists()


def test_a_wrong_parquet_list_and_an_empty_folder_are_refused(pool, spark, tmp_path, capsys):
    pd.DataFrame({"ra": [10.0, 700.0], "dec": [0.0, 0.0]}).to_parquet(tmp_path / "list.parquet")
    assert run(pool, tmp_path / "list.parquet", tmp_path / "clean") == 2
    assert "ra = 700.0 is not a number in -360..360 degrees" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert run(pool, tmp_path / "none", tmp_path / "clean") == 2
    assert "holds no list of contaminants" in capsys.readouterr().err
