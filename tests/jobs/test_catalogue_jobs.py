"""The catalogue jobs on crafted sweeps, against plain computations over the same rows."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from lensdata import hashing, tables
from lensdata.catalogue.confusers import close_pairs, flags_without_merger, primary
from lensdata.config.catalogue import Confusers
from lensdata.sky import splits
from lensdata.sky.healpix import ang2pix
from spark_jobs import assign_splits, extract_pool, match_positives, sample_negatives, validate_catalogue
from tests.jobs.conftest import LENSES, ROWS
from tests.sweeps import galaxies, write_sweep


def report(folder):
    return json.loads((folder / "_report.json").read_text())


def read(folder, spec):
    return tables.read_table(str(folder), spec).to_pandas()


def test_every_row_of_the_sweeps_is_accounted_for(chain):
    found = report(chain / "pool")
    assert sum(found["rows_per_reason"].values()) == found["rows_read"] == ROWS + 25
    excluded = read(chain / "pool" / "rejected", tables.REJECTED)["source_id"]
    objid = hashing.unpack_source_id(excluded)[2]
    assert found["duplicate_rows"] == 25 - ((objid >= 3975) & (objid < 4000)).sum()
    assert found["pool"] == found["rows_per_reason"]["kept"] - found["duplicate_rows"]


def test_the_pool_holds_each_source_once_and_none_near_a_lens(chain, sky):
    pool = read(chain / "pool", tables.POOL)
    rejected = read(chain / "pool" / "rejected", tables.REJECTED)
    assert len(pool) + len(rejected) == ROWS  # every crafted row passes the cuts
    assert not pool["source_id"].duplicated().any()
    assert (rejected["separation_arcsec"] <= 11).all()
    assert set(rejected["lens_name"]) <= set(sky.lenses["name"])
    hit = hashing.pack_source_id(sky.table["RELEASE"][sky.at], sky.table["BRICKID"][sky.at], sky.table["OBJID"][sky.at])
    assert set(hit.tolist()) <= set(rejected["source_id"])


def test_positives_are_the_lenses_at_their_sources(chain, sky):
    positives = read(chain / "positives", tables.POSITIVES)
    unmatched = read(chain / "positives" / "unmatched", tables.UNMATCHED)
    assert len(positives) == LENSES
    assert unmatched["lens_name"].tolist() == ["DESI-nowhere"]
    assert unmatched["reason"].tolist() == ["no_source_in_radius"]
    assert Counter(positives["tier"]) == {"A": 10, "B": 50}
    expected = dict(zip(sky.lenses["name"][:LENSES], sky.table["OBJID"][sky.at].tolist(), strict=True))
    assert dict(zip(positives["lens_name"], positives["objid"], strict=True)) == expected


@pytest.fixture
def extracted(sky, spark, tmp_path):
    """The near_lenses of a pool with another exclusion radius, around lenses 2 and 13 arcsec away from their galaxies."""
    lenses = pd.DataFrame({"name": ["DESI-2", "DESI-13"], "ra": sky.table["RA"][:2], "grading": "confident"})
    lenses["dec"] = sky.table["DEC"][:2] + np.array([2, 13]) / 3600
    lenses.to_csv(tmp_path / "lenses.csv", index=False)

    def extract(radius):
        argv = [f"inputs.sweeps={sky.sweeps}", f"inputs.lenses={tmp_path}/lenses.csv", "--output", f"{tmp_path}/pool"]
        assert extract_pool.main([*argv, f"exclusion_radius_arcsec={radius}"]) == 0
        return [f"inputs.near_lenses={tmp_path}/pool/near_lenses", "--output", f"{tmp_path}/out"]

    return extract


@pytest.mark.slow
def test_a_radius_beyond_that_of_the_extraction_is_refused(extracted, tmp_path, capsys):
    argv = [*extracted(1), f"inputs.lenses={tmp_path}/lenses.csv"]
    assert match_positives.main([*argv, "radius_arcsec=3"]) == 2
    error = capsys.readouterr().err
    assert "radius_arcsec=3 is more than the 1 arcsec" in error
    assert "exclusion_radius_arcsec" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_wide_extraction_serves_a_wide_match(extracted, tmp_path):
    argv = [*extracted(20), f"inputs.lenses={tmp_path}/lenses.csv"]
    assert match_positives.main([*argv, "radius_arcsec=15"]) == 0
    assert len(read(tmp_path / "out", tables.POSITIVES)) == 2
    assert match_positives.main([*argv, "radius_arcsec=3", "--force"]) == 0
    found = report(tmp_path / "out")
    assert (found["positives"], found["search_radius_arcsec"], found["lenses_with_source_in_search_radius"]) == (
        1,
        20,
        2,
    )


def test_another_lens_list_than_that_of_the_extraction_is_refused(chain, sky, spark, tmp_path, capsys):
    other = sky.lenses.assign(ra=sky.lenses["ra"] + 0.5)
    other.to_csv(tmp_path / "other.csv", index=False)
    argv = [f"inputs.near_lenses={chain}/pool/near_lenses", "--output", str(tmp_path / "out")]
    assert match_positives.main([*argv, f"inputs.lenses={tmp_path}/other.csv"]) == 2
    error = capsys.readouterr().err
    assert f"was extracted around the lenses of {sky.lens_csv}, not those of {tmp_path}/other.csv" in error
    copy = tmp_path / "copy.csv"
    copy.write_bytes(sky.lens_csv.read_bytes())  # the same lenses in another place
    assert match_positives.main([*argv, f"inputs.lenses={copy}"]) == 0


def oracle_sample(pool, positives, ratio):
    """N1 and N2 by sorting in pandas, from the definitions alone."""
    pool = pool.assign(key=hashing.sampling_key(pool["source_id"], 42)).sort_values("key")
    chosen = {}
    for stratum, count in positives["stratum"].value_counts().items():
        rows = pool[pool["stratum"] == stratum]
        n1 = 85 * ratio * count // 100
        n2 = ratio * count - n1
        chosen |= dict.fromkeys(rows["source_id"][:n1], "N1")
        rest = rows.iloc[n1:]
        rest = rest[rest["confuser"].notna()]
        share = n2 // max(1, rest["confuser"].nunique())
        first = rest.groupby("confuser").head(share)
        more = rest.drop(first.index).head(n2 - len(first))
        chosen |= dict.fromkeys([*first["source_id"], *more["source_id"]], "N2")
    return chosen


def test_the_sample_is_the_one_a_plain_sort_gives(chain):
    pool = read(chain / "pool", tables.POOL)
    positives = read(chain / "positives", tables.POSITIVES)
    negatives = read(chain / "negatives", tables.NEGATIVES)
    flags = flags_without_merger(
        {name: pool[name].to_numpy() for name in ("type", "flux_r", "sersic", "ellipticity", "gr", "mag_r", "shape_r")},
        Confusers(),
    )
    flags |= close_pairs(*(pool[name].to_numpy() for name in ("ra", "dec", "mag_r")), 5.0, 1.0).astype(np.int32)
    expected = oracle_sample(pool.assign(confuser=primary(flags)), positives, 10)
    assert dict(zip(negatives["source_id"], negatives["pool"], strict=True)) == expected


def test_quotas_say_what_was_wanted_and_taken(chain):
    quotas = read(chain / "negatives" / "quotas", tables.QUOTAS)
    totals = quotas[quotas["confuser"].isna()].groupby("stratum")[["wanted", "taken"]].sum()
    positives = read(chain / "positives", tables.POSITIVES)["stratum"].value_counts()
    assert (totals["wanted"] == 10 * positives[totals.index]).all()
    assert (totals["taken"] <= totals["wanted"]).all()


def test_splits_are_those_of_an_independent_computation(chain):
    sample = read(chain / "sample", tables.SAMPLE)
    assert (sample["split"] == splits.assign_splits(ang2pix(sample["ra"], sample["dec"]))).all()
    assert sample.groupby("healpix_128")["split"].nunique().max() == 1
    assert (sample["label"] == sample["tier"].notna()).all()
    assert len(sample) == len(read(chain / "negatives", tables.NEGATIVES)) + LENSES


def test_a_larger_ratio_contains_the_smaller_sample(chain, spark, tmp_path):
    argv = [f"inputs.pool={chain}/pool", f"inputs.positives={chain}/positives", "--output", str(tmp_path / "n")]
    assert sample_negatives.main([*argv, "ratio=4", "n1_percent=100"]) == 0
    assert sample_negatives.main([*argv[:2], "--output", str(tmp_path / "m"), "ratio=8", "n1_percent=100"]) == 0
    small, large = (set(read(tmp_path / name, tables.NEGATIVES)["source_id"]) for name in "nm")
    assert small < large


def test_a_null_string_survives_the_way_into_spark_and_back(spark):
    frame = spark.createDataFrame(pd.DataFrame({"t": ["a", None]}))
    assert [row.t for row in frame.collect()] == ["a", None]
    assert frame.toPandas()["t"].tolist() == ["a", None]


@pytest.mark.slow
def test_validation_passes_on_the_sample_and_fails_on_a_moved_object(chain, spark, tmp_path, capsys):
    argv = [f"inputs.sample={chain}/sample", f"inputs.quotas={chain}/negatives/quotas", "--output", str(tmp_path / "v")]
    assert validate_catalogue.main(argv) == 0
    assert "PASS" in (tmp_path / "v" / "validation.html").read_text()
    sample = tables.read_table(str(chain / "sample"), tables.SAMPLE)
    moved = sample.to_pandas()
    moved.loc[0, "split"] = "val" if moved.loc[0, "split"] == "train" else "train"
    from spark_jobs.match_positives import _arrow

    tables.write_table(_arrow(moved, tables.SAMPLE), str(tmp_path / "moved"), tables.SAMPLE)
    assert validate_catalogue.main([f"inputs.sample={tmp_path}/moved", "--output", str(tmp_path / "w")]) == 1
    assert "splits are the hash of the pixel (1 differ)" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("job", "arguments", "sentence"),
    [
        (extract_pool, ["inputs.sweeps=nowhere", "inputs.lenses=lenscat"], "nowhere does not exist"),
        (extract_pool, ["inputs.sweeps={old}"], "no lens list"),
        (extract_pool, ["inputs.sweeps={old}", "inputs.lenses=lenscat"], "column MASKBITS is missing"),
        (sample_negatives, ["inputs.pool={chain}/pool", "inputs.positives={chain}/positives", "ratio=-1"], "ratio"),
        (sample_negatives, ["inputs.pool={chain}/pool", "inputs.positives={chain}/none"], "does not exist"),
        (
            assign_splits,
            [
                "inputs.positives={chain}/positives",
                "inputs.negatives={chain}/negatives",
                "train_fraction=0.9",
                "val_fraction=0.2",
            ],
            "leave room for test",
        ),
        (
            match_positives,
            ["inputs.near_lenses={chain}/pool/near_lenses", "inputs.lenses=lenscat", "name_contains=XYZZY"],
            "contains 'XYZZY'",
        ),
    ],
)
def test_wrong_inputs_get_one_sentence_and_exit_2(job, arguments, sentence, chain, tmp_path, capsys):
    old = write_sweep(tmp_path / "old" / "dr7.fits", galaxies(5), drop=("MASKBITS",)).parent
    argv = [argument.format(chain=chain, old=old) for argument in arguments]
    assert job.main([*argv, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert sentence in error
    assert not (tmp_path / "out").exists()


def test_an_empty_pool_is_a_success(sky, spark, tmp_path):
    write_sweep(tmp_path / "quasars" / "q.fits", galaxies(50, TYPE="PSF"))
    argv = [f"inputs.sweeps={tmp_path}/quasars", f"inputs.lenses={sky.lens_csv}", "--output", str(tmp_path / "pool")]
    assert extract_pool.main(argv) == 0
    found = report(tmp_path / "pool")
    assert found["rows_per_reason"]["type"] == 50
    assert found["pool"] == 0
    assert read(tmp_path / "pool", tables.POOL).empty


def test_a_table_of_another_kind_is_refused_by_its_name(chain, spark, tmp_path, capsys):
    argv = [f"inputs.positives={chain}/positives", f"inputs.negatives={chain}/pool", "--output", str(tmp_path / "s")]
    assert assign_splits.main(argv) == 2
    assert "is a table of pool, expected negatives" in capsys.readouterr().err
