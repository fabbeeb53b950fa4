"""Validation with stamps, groups kept together, and a subsample, over the chain of jobs."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from lensdata import storage, tables
from lensdata.cutouts.duplicates import noise_hash
from lensdata.cutouts.stored import read_stored
from lensdata.hashing import pixel_hash
from lensdata.report import validation
from lensdata.shards import subsample
from lensdata.shards.manifests import read_manifest
from lensdata.sky import splits
from spark_jobs import assign_splits, validate_catalogue


@pytest.fixture(autouse=True)
def few_figures(monkeypatch):
    """Fifty figures take their time; one covariate per stratum shows what six do."""
    monkeypatch.setattr(validation, "PER_STRATUM", ("mag_r",))


def ledger_of(folder):
    ledger = tables.read_table(str(folder / "ledger"), tables.LEDGER).to_pandas()
    return ledger[ledger["outcome"] == "stored"].reset_index(drop=True)


def validate(tiny, cutouts, out, *more):
    argv = [f"inputs.sample={tiny.folder}/sample", f"inputs.cutouts={cutouts}", "--output", str(out), *more]
    return validate_catalogue.main([*argv, "gate.resamples=100"])


def numbers(out):
    return json.loads((out / "validation.json").read_text())


@pytest.fixture
def forged(tiny, fetched, tmp_path):
    """The fetched stamps once more, where two objects of different splits say that they are in one place of one part."""
    sample = tables.read_table(str(tiny.folder / "sample"), tables.SAMPLE).to_pandas().set_index("source_id")
    ledger = ledger_of(fetched)
    split = sample["split"].loc[ledger["source_id"]].to_numpy()
    one, two = (int(ledger.index[split == name][0]) for name in ("train", "test"))

    def forge(change):
        folder = tmp_path / "forged"
        shutil.copytree(fetched, folder, copy_function=os.link)
        for place in (one, two):
            _replace(folder, ledger, place, change if place == two else lambda stamp: stamp, source=one)
        return folder, {int(ledger.loc[place, "source_id"]) for place in (one, two)}

    return forge


def _replace(folder, ledger, place, change, source):
    """Write the stamp of ``source``, changed, at ``place``: in the part, and its hash in the ledger."""
    import pyarrow.parquet as pq

    from lensdata.shards.layout import IMAGE_COLUMN, layout_of, to_arrow, to_numpy

    stamp = change(read_stored(str(folder), ledger.loc[[source]])[0]).astype(np.float32)
    row = ledger.loc[place]
    path = folder / "parts" / "dataset" / row["part"]
    table = pq.read_table(path)
    layout = layout_of(table.schema, str(path))
    stamps = to_numpy(table[IMAGE_COLUMN], layout).copy()
    stamps[int(row["row"])] = stamp
    index = table.schema.get_field_index(IMAGE_COLUMN)
    path.unlink()
    pq.write_table(table.set_column(index, table.schema.field(index), to_arrow(stamps, layout)), path)
    for name in (folder / "ledger" / "dataset").glob("*.parquet"):
        lines = pq.read_table(name)
        hashes = lines["pixel_hash"].to_pylist()
        keys = lines["cutout_id"].to_pylist()
        if row["cutout_id"] in keys:
            hashes[keys.index(row["cutout_id"])] = pixel_hash(stamp)
            at = lines.schema.get_field_index("pixel_hash")
            name.unlink()
            pq.write_table(lines.set_column(at, lines.schema.field(at), pa.array(hashes)), name)


def test_stamps_of_the_simulated_sky_are_told_apart_by_their_noise_and_known_again(fetched):
    """Where the threshold comes from: 11 of 192 bits lie far from both sides."""
    stamps = read_stored(str(fetched), ledger_of(fetched))
    wide = np.unpackbits(noise_hash(stamps), axis=1).astype(int)
    others = (wide[:, None] != wide[None]).sum(axis=2)[np.triu_indices(len(wide), 1)]
    assert others.min() > 45
    assert others.std() == pytest.approx(np.sqrt(192) / 2, abs=0.6)  # as 192 independent coins
    for change in (lambda x: x * 1.3, lambda x: x + 0.01, lambda x: x.astype(np.float16).astype(np.float32)):
        changed = np.unpackbits(noise_hash(change(stamps)), axis=1).astype(int)
        assert (changed != wide).sum(axis=1).max() <= 4


def test_stored_stamps_are_those_of_their_ledger_rows_in_any_order(fetched):
    ledger = ledger_of(fetched).sample(frac=1, random_state=3).head(40)
    assert [pixel_hash(stamp) for stamp in read_stored(str(fetched), ledger)] == ledger["pixel_hash"].tolist()


def test_the_page_shows_every_kind_of_object_and_counts_no_duplicates(tiny, fetched, tmp_path):
    assert validate(tiny, fetched, tmp_path / "v") == 0
    found = numbers(tmp_path / "v")
    stored = ledger_of(fetched)
    assert found["duplicates"]["exact"]["stamps"] == found["duplicates"]["near"]["stamps"] == len(stored)
    assert found["duplicates"]["exact"]["stamps_with_shared_pixels"] == found["duplicates"]["near"]["pairs"] == 0
    assert {"counts", "gate", "covariates", "verdict"} <= set(found)
    page = (tmp_path / "v" / "validation.html").read_text()
    assert page.count("data:image/png;base64") > 16
    assert "positives</h3>" in page
    assert "N1</h3>" in page


def test_the_same_pixels_in_two_splits_fail_the_step_and_are_named(tiny, forged, tmp_path, capsys):
    folder, both = forged(lambda stamp: stamp)
    assert validate(tiny, folder, tmp_path / "v") == 1
    assert "no stamp's pixels in two splits (2 stamps" in capsys.readouterr().err
    found = numbers(tmp_path / "v-failed")["duplicates"]["exact"]
    assert {row["source_id"] for row in found["across_splits"]} == both
    assert not (tmp_path / "v").exists()


@pytest.mark.slow
def test_the_same_sky_in_two_splits_is_a_warning_that_names_the_pair(tiny, forged, tmp_path):
    folder, both = forged(lambda stamp: 1.2 * stamp + 0.003)
    assert validate(tiny, folder, tmp_path / "v") == 0
    found = numbers(tmp_path / "v")
    (pair,) = found["duplicates"]["near"]["across_splits"]
    assert {pair["source_id_1"], pair["source_id_2"]} == both
    result = {check["name"]: check["result"] for check in found["checks"]}
    assert result["no nearly equal stamps in two splits"] == "WARN"
    assert result["no stamp's pixels in two splits"] == "PASS"


@pytest.mark.slow
def test_groups_kept_together_pass_their_own_check_and_fail_the_other(chain, spark, tmp_path, capsys):
    argv = [f"inputs.positives={chain}/positives", f"inputs.negatives={chain}/negatives", "groups=keep_together"]
    # the crafted sky is sparse: a wide radius makes groups that cross pixels
    assert assign_splits.main([*argv, "group_radius_arcsec=300", "--output", str(tmp_path / "s")]) == 0
    report = storage.read_json(str(tmp_path / "s" / "_report.json"))
    sample = tables.read_table(str(tmp_path / "s"), tables.SAMPLE).to_pandas()
    own = splits.assign_splits(sample["healpix_128"])
    moved = sample[sample["split"] != own]["label"].map({1: "positive", 0: "negative"}).value_counts().to_dict()
    assert report["moved_to_the_split_of_their_group"] == {"positive": 0, "negative": 0} | moved
    assert sum(moved.values()) > 10
    assert report["groups_in_two_splits"] == report["lenses_in_those_groups"] == 0
    assert report["groups_of_several"] > 50
    assert (sample.groupby("group_id")[["split", "fold"]].nunique() == 1).all(axis=None)
    argv = [f"inputs.sample={tmp_path}/s", "--output", str(tmp_path / "v")]
    assert validate_catalogue.main([*argv, "group_radius_arcsec=300"]) == 1
    assert "no pixel in two splits" in capsys.readouterr().err
    assert validate_catalogue.main([*argv, "groups=keep_together"]) == 1  # groups of another radius are other groups
    assert "group_id is that of the positions" in capsys.readouterr().err
    assert validate_catalogue.main([*argv, "groups=keep_together", "group_radius_arcsec=300"]) == 0


def test_by_default_groups_are_counted_and_nobody_moves(chain):
    report = storage.read_json(str(chain / "sample" / "_report.json"))
    sample = tables.read_table(str(chain / "sample"), tables.SAMPLE).to_pandas()
    spanning = sample.groupby("group_id")["split"].nunique() > 1
    assert report["groups_in_two_splits"] == spanning.sum()
    assert report["stamps_in_those_groups"] == sample["group_id"].map(spanning).sum()
    assert report["largest_group"] == sample["group_id"].value_counts().max()
    assert report["moved_to_the_split_of_their_group"] == {"positive": 0, "negative": 0}


def test_a_subsample_of_a_built_manifest_points_at_its_pixels(built, tmp_path):
    argv = [f"inputs.manifest={built}/audit_70_15_15", "--output", str(tmp_path / "tenth")]
    assert subsample.main(argv) == 0
    whole, part = (read_manifest(str(uri)) for uri in (built / "audit_70_15_15", tmp_path / "tenth"))
    assert np.array_equal(part.stamps(), whole.take_ids(part.column("cutout_id").tolist()).stamps())
    report = storage.read_json(str(tmp_path / "tenth" / "_report.json"))
    assert report["rows_of_the_manifest"] == len(whole)
    for cell, count in report["rows_per_split"].items():
        split, label = cell.split()
        size = int(((whole.column("split") == split) & (whole.column("label") == (label == "positive"))).sum())
        assert count == subsample.wanted(size, 0.10)


def test_a_folder_without_a_ledger_is_refused_as_cutouts(chain, spark, tmp_path, capsys):
    argv = [f"inputs.sample={chain}/sample", f"inputs.cutouts={chain}/pool", "--output", str(tmp_path / "v")]
    assert validate_catalogue.main(argv) == 2
    assert f"{chain}/pool/ledger does not exist" in capsys.readouterr().err
    assert not (tmp_path / "v").exists()


def test_cutouts_of_another_sample_are_refused(tiny, chain, fetched, tmp_path, capsys):
    argv = [f"inputs.sample={chain}/sample", f"inputs.cutouts={fetched}", "--output", str(tmp_path / "v")]
    assert validate_catalogue.main(argv) == 2
    assert f"No stored stamp of {fetched} belongs to {chain}/sample" in capsys.readouterr().err


def test_stamps_without_their_part_are_counted_and_refused(tiny, fetched, tmp_path, capsys):
    shutil.copytree(fetched, tmp_path / "cutouts", copy_function=os.link)
    part = sorted((tmp_path / "cutouts" / "parts" / "dataset").glob("*.parquet"))[0]
    lost = (ledger_of(fetched)["part"] == part.name).sum()
    part.unlink()
    assert validate(tiny, tmp_path / "cutouts", tmp_path / "v") == 2
    assert f"{lost} stamps of the ledger of {tmp_path}/cutouts are not in its parts" in capsys.readouterr().err


def test_a_repeated_source_is_found_by_the_check_and_the_page_is_written(tiny, fetched, tmp_path, capsys):
    sample = tables.read_table(str(tiny.folder / "sample"), tables.SAMPLE)
    twice = pa.concat_tables([sample, sample.slice(0, 2)])
    tables.write_table(twice, str(tmp_path / "s"), replace(tables.SAMPLE, key=None))
    argv = [f"inputs.sample={tmp_path}/s", f"inputs.cutouts={fetched}", "--output", str(tmp_path / "v")]
    assert validate_catalogue.main([*argv, "gate.resamples=100"]) == 1
    assert "every source_id once (2 repeated)" in capsys.readouterr().err
    assert "2 repeated" in (tmp_path / "v-failed" / "validation.html").read_text()


def test_manifests_are_those_of_a_build_or_one_of_them(tiny, built, tmp_path, capsys):
    argv = [f"inputs.sample={tiny.folder}/sample", "gate.resamples=100"]
    for uri, names in ((built, 2), (built / "parity_70_30", 1)):
        out = tmp_path / uri.name
        assert validate_catalogue.main([*argv, f"inputs.manifests={uri}", "--output", str(out)]) == 0
        checked = [check["name"] for check in numbers(out)["checks"] if check["name"].endswith("of the sample")]
        assert len(checked) == names
        assert "parity_70_30: split and label of the sample" in checked
    wrong = [*argv, f"inputs.manifests={tiny.folder}/pool", "--output", str(tmp_path / "wrong")]
    assert validate_catalogue.main(wrong) == 2
    assert f"inputs.manifests={tiny.folder}/pool is not a manifest and has none inside" in capsys.readouterr().err


def test_a_folder_of_somebody_else_is_not_taken_for_the_pages_of_a_failure(chain, spark, tmp_path, capsys):
    mine = tmp_path / "v-failed" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert validate_catalogue.main([f"inputs.sample={chain}/sample", "--output", str(tmp_path / "v")]) == 2
    assert f"{tmp_path}/v-failed" in capsys.readouterr().err
    assert mine.read_text() == "mine"
