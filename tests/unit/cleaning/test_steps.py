"""Ranking, grading, cleaning and mining through their commands (R-N1, R-N2)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lensdata import storage, tables
from lensdata.cleaning import mine_negatives, rank_negatives
from lensdata.shards.manifests import read_manifest
from ray_train import clean_negatives
from tests.unit.cleaning.conftest import write

Scores = Callable[..., str]


def folds(scores: Scores) -> list[str]:
    return [f"inputs.scores.fold{fold}={scores(f'fold{fold}', fold, seed=fold)}" for fold in range(3)]


def rank(output: Path, manifest: str, *words: str) -> int:
    return rank_negatives.main(["--output", str(output), f"inputs.manifest={manifest}", *words])


def clean(output: Path, manifest: str, *words: str) -> int:
    return clean_negatives.main(["--output", str(output), f"inputs.manifest={manifest}", "resamples=100", *words])


def grades(folder: Path, verdicts: dict[int, str]) -> str:
    frame = pd.DataFrame({"cutout_id": list(verdicts), "verdict": list(verdicts.values())})
    for name in ("n_graders", "n_lens", "n_maybe", "n_not", "n_artefact"):
        frame[name] = 1
    frame = frame.assign(kind=None, control=None, graders="ann")
    tables.write_table(
        pa.Table.from_pandas(frame, schema=tables.GRADES.schema, preserve_index=False), str(folder), tables.GRADES
    )
    return str(folder)


def test_lenses_that_a_network_learnt_by_heart_are_first_in_the_out_of_fold_ranking(
    tmp_path: Path, manifest: str, rows: pd.DataFrame, scores: Scores
) -> None:
    assert rank(tmp_path / "out", manifest, *folds(scores)) == 0
    found = tables.read_table(str(tmp_path / "out"), tables.RANKING).to_pandas()
    hidden = set(rows.loc[rows["truth"] != rows["label"], "cutout_id"])
    assert set(found["cutout_id"].head(6)) == hidden
    assert found["flagged"].sum() == 6
    assert (found["label"] == 0).all()
    assert set(found["split"]) == {"train", "val"}
    assert rank(tmp_path / "in", manifest, f"inputs.scores.run={scores('run')}", "scores=in_sample") == 0
    learnt = tables.read_table(str(tmp_path / "in"), tables.RANKING).to_pandas()
    assert not learnt["flagged"].any()


def test_graded_lenses_leave_the_training_split_and_the_page_says_what_happened(
    tmp_path: Path, manifest: str, rows: pd.DataFrame, scores: Scores
) -> None:
    assert rank(tmp_path / "ranking", manifest, *folds(scores)) == 0
    others = rows[rows["label"] == 0]
    in_train = others.loc[others["split"] == "train", "cutout_id"].tolist()
    in_test = others.loc[others["split"] == "test", "cutout_id"].tolist()
    verdicts = {
        in_train[0]: "lens",
        in_train[1]: "maybe",
        in_train[2]: "not",
        in_train[3]: "ungraded",
        in_test[0]: "lens",
    }
    words = (f"inputs.ranking={tmp_path / 'ranking'}", f"inputs.grades={grades(tmp_path / 'grades', verdicts)}",
             f"inputs.scores={scores('run')}")  # fmt: skip
    assert clean(tmp_path / "cleaned", manifest, *words) == 0
    before, after = read_manifest(manifest), read_manifest(str(tmp_path / "cleaned"))
    gone = set(before.table["cutout_id"].to_pylist()) - set(after.table["cutout_id"].to_pylist())
    assert gone == set(in_train[:2])
    np.testing.assert_array_equal(after.stamps(in_train[2:4]), before.stamps(in_train[2:4]))
    removed = tables.read_table(str(tmp_path / "cleaned" / "removed"), tables.CLEANED).to_pandas()
    assert dict(zip(removed["cutout_id"], removed["reason"], strict=True)) == {
        in_train[0]: "graded lens", in_train[1]: "graded maybe",
    }  # fmt: skip
    found = storage.read_json(str(tmp_path / "cleaned" / "audit.json"))
    assert (found["inspected"], found["dropped"]) == (4, 2)
    # test stays whole, and what was seen there is in a column of its own
    test = found["metrics"]["test"]
    assert test["taken_out"] == 1
    assert test["raw"]["auc"]["n_negative"] == test["vetted"]["auc"]["n_negative"] + 1
    assert found["metrics"]["val"]["taken_out"] == 0
    assert found["metrics"]["val"]["raw"]["auc"]["value"] == found["metrics"]["val"]["vetted"]["auc"]["value"]
    page = (tmp_path / "cleaned" / "audit.html").read_text()
    assert "Taken out or relabelled" in page
    assert "test: 1 negatives looked at, 1 taken out" in page


def test_a_relabelled_negative_is_a_lens_of_tier_b_with_its_weight(
    tmp_path: Path, manifest: str, rows: pd.DataFrame
) -> None:
    one = int(rows.loc[(rows["label"] == 0) & (rows["split"] == "train"), "cutout_id"].iloc[0])
    words = (f"inputs.grades={grades(tmp_path / 'grades', {one: 'lens'})}", "outcomes.lens=relabel", "gallery_stamps=0")
    assert clean(tmp_path / "cleaned", manifest, *words) == 0
    table = read_manifest(str(tmp_path / "cleaned")).table.to_pandas().set_index("cutout_id")
    assert len(table) == len(rows)
    assert (table.loc[one, "label"], table.loc[one, "tier"], table.loc[one, "sample_weight"]) == (1, "B", 0.5)
    assert table.loc[one, "pool"] is None


def test_removal_above_the_threshold_spares_confusers_and_says_how_many(
    tmp_path: Path, manifest: str, rows: pd.DataFrame, scores: Scores
) -> None:
    ring = rows.index[(rows["confuser"] == "ring") & (rows["split"] == "train")][0]
    rows.loc[ring, "truth"] = 1  # it looks like a lens to every fold model
    assert rank(tmp_path / "ranking", manifest, *folds(scores)) == 0
    line = ("remove=above_threshold", f"inputs.ranking={tmp_path / 'ranking'}", "gallery_stamps=3")
    assert clean(tmp_path / "spared", manifest, *line) == 0
    found = storage.read_json(str(tmp_path / "spared" / "audit.json"))
    assert (found["dropped"], found["confusers_that_stay"]) == (6, 1)
    assert clean(tmp_path / "all", manifest, *line, "keep_confusers=false") == 0
    assert storage.read_json(str(tmp_path / "all" / "audit.json"))["dropped"] == 7


def test_both_arms_of_mining_add_as_many_fresh_negatives_to_train_alone(
    tmp_path: Path, manifest: str, rows: pd.DataFrame, scores: Scores
) -> None:
    pool = rows.assign(cutout_id=rows["cutout_id"] + 10_000, label=np.int8(0))
    pool.loc[:4, "cutout_id"] -= 10_000  # five that the manifest has already
    fresh = write(pool.drop(columns=["truth", "stratum"]), tmp_path / "pool")
    words = [f"inputs.manifest={manifest}", f"inputs.pool={fresh}", f"inputs.scores={scores('pool_scores', of=pool)}"]
    assert mine_negatives.main(["--output", str(tmp_path / "m"), *words, "mined=20", "skim=5"]) == 0
    report = storage.read_json(str(tmp_path / "m" / "_report.json"))
    assert (report["already_in_the_manifest"], report["in_other_splits"], report["mined"]) == (5, 40, 20)
    base = read_manifest(manifest)
    for arm in ("mined", "random"):
        found = read_manifest(str(tmp_path / "m" / arm))
        added = found.where(~np.isin(found.column("cutout_id"), base.column("cutout_id")))
        assert len(added) == 20
        assert set(added.column("split")) == {"train"}
        assert not added.column("label").any()
        source = read_manifest(fresh)
        keys = added.table["cutout_id"].to_pylist()
        np.testing.assert_array_equal(added.stamps(), source.stamps(keys))
    skimmed = tables.read_table(str(tmp_path / "m" / "skimmed"), tables.RANKING).to_pandas()
    mined = read_manifest(str(tmp_path / "m" / "mined"))
    assert len(skimmed) == 5
    assert not np.isin(skimmed["cutout_id"], mined.column("cutout_id")).any()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "needs inputs.scores.NAME=URI"),
        (("inputs.scores.run={run}",), "needs runs with data.held_out_fold"),
        (("inputs.scores.f={fold0}",), "of 75 rows of label 0 in split train, val"),
        (("inputs.scores.f={fold0}", "scores=in_sample"), "needs a run without data.held_out_fold"),
        (("inputs.scores.f={nan}", "scores=in_sample"), "hold 120 logits that are no number"),
    ],
)
def test_scores_that_do_not_fit_are_one_sentence(
    tmp_path: Path,
    manifest: str,
    scores: Scores,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    sentence: str,
) -> None:
    places = {"run": scores("run"), "fold0": scores("fold0", 0), "nan": scores("nan", logit=np.float32(np.nan))}
    assert rank(tmp_path / "r", manifest, *(word.format(**places) for word in words)) == 2
    assert sentence in capsys.readouterr().err


def test_grades_of_another_manifest_are_refused(
    tmp_path: Path, manifest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert clean(tmp_path / "c", manifest, f"inputs.grades={grades(tmp_path / 'g', {5: 'lens'})}") == 2
    assert "are not in manifest" in capsys.readouterr().err
    assert clean(tmp_path / "c", manifest) == 2
    assert "remove graded needs inputs.grades=URI" in capsys.readouterr().err


def test_a_run_that_learnt_from_the_test_split_ranks_nothing_in_sample_either(
    tmp_path: Path, manifest: str, scores: Scores, capsys: pytest.CaptureFixture[str]
) -> None:
    learnt = scores("parity", split="train")
    assert rank(tmp_path / "r", manifest, f"inputs.scores.run={learnt}", "scores=in_sample") == 2
    assert "has learnt from 20 rows of the test split" in capsys.readouterr().err


def test_the_report_counts_the_networks_of_what_is_ranked_alone(tmp_path: Path, manifest: str, scores: Scores) -> None:
    assert rank(tmp_path / "r", manifest, *folds(scores)) == 0  # test rows, which are not, have the scores of all three
    assert storage.read_json(str(tmp_path / "r" / "_report.json"))["models_per_stamp"] == [1]


def test_a_ranking_by_networks_of_other_splits_or_of_lenses_is_refused(
    tmp_path: Path, manifest: str, rows: pd.DataFrame, scores: Scores, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank(tmp_path / "ranking", manifest, *folds(scores)) == 0
    assert rank(tmp_path / "lenses", manifest, *folds(scores), "label=1") == 0
    rows["split"] = rows["split"].replace({"val": "test", "test": "val"})
    other = write(rows.drop(columns="truth"), tmp_path / "other")
    words = ("remove=above_threshold", f"inputs.ranking={tmp_path / 'ranking'}")
    assert clean(tmp_path / "c", other, *words) == 2
    assert "has 15 of 75 stamps in another split than manifest" in capsys.readouterr().err
    assert clean(tmp_path / "c", manifest, words[0], f"inputs.ranking={tmp_path / 'lenses'}") == 2
    assert "ranks lenses (label=1)" in capsys.readouterr().err


def test_metrics_side_by_side_are_of_one_network_that_judges_a_split_of_the_manifest(
    tmp_path: Path, manifest: str, rows: pd.DataFrame, scores: Scores, capsys: pytest.CaptureFixture[str]
) -> None:
    given = f"inputs.grades={grades(tmp_path / 'grades', {int(rows['cutout_id'].iloc[1]): 'lens'})}"
    assert clean(tmp_path / "c", manifest, given, f"inputs.scores={scores('fold0', 0)}") == 2
    assert "judges no split of the manifest" in capsys.readouterr().err
    study = tmp_path / "study"
    for name in ("a", "b"):
        shutil.copytree(scores(name), study / "trials" / name / "scores")
    (study / "_SUCCESS").touch()
    assert clean(tmp_path / "c", manifest, given, f"inputs.scores={study}") == 2
    assert "is a study of 2 networks" in capsys.readouterr().err


def test_what_nobody_ranked_has_no_probability_on_the_page(tmp_path: Path, manifest: str, rows: pd.DataFrame) -> None:
    one = int(rows.loc[(rows["label"] == 0) & (rows["split"] == "train"), "cutout_id"].iloc[0])
    assert clean(tmp_path / "c", manifest, f"inputs.grades={grades(tmp_path / 'grades', {one: 'lens'})}") == 0
    page = (tmp_path / "c" / "audit.html").read_text()
    assert f"unranked · {one}" in page
    assert "0.000" not in page


def test_mining_adds_no_sky_that_the_manifest_validates_or_tests_on_and_counts_each_stamp_once(
    tmp_path: Path, manifest: str, rows: pd.DataFrame, scores: Scores
) -> None:
    pool = rows.assign(cutout_id=rows["cutout_id"] + 10_000, label=np.int8(0), split="train")  # split by another seed
    pool.loc[:4, "cutout_id"] -= 10_000
    pool.loc[3:6, "label"] = np.int8(1)
    pool["dec"] += 30 / 3600
    fresh = write(pool.drop(columns=["truth", "stratum"]), tmp_path / "pool")
    words = [f"inputs.manifest={manifest}", f"inputs.pool={fresh}", f"inputs.scores={scores('pool_scores', of=pool)}"]
    assert mine_negatives.main(["--output", str(tmp_path / "m"), *words, "mined=20", "skim=5"]) == 0
    report = storage.read_json(str(tmp_path / "m" / "_report.json"))
    assert (report["pool"], report["labelled_lenses"], report["already_in_the_manifest"]) == (120, 4, 3)
    assert (report["in_other_splits"], report["near_val_or_test"]) == (0, 40)
    added = read_manifest(str(tmp_path / "m" / "mined")).table.to_pandas().query("cutout_id >= 11000")
    assert set(added["cutout_id"] - 10_000) <= set(rows.loc[rows["split"] == "train", "cutout_id"])
    assert mine_negatives.main(["--output", str(tmp_path / "n"), *words, "mined=20", "skim=5", "apart_arcsec=20"]) == 0
    assert storage.read_json(str(tmp_path / "n" / "_report.json"))["near_val_or_test"] == 0


def test_graded_stamps_of_the_skimmed_list_join_the_mined_arm_unless_they_may_be_lenses(
    tmp_path: Path, manifest: str, rows: pd.DataFrame, scores: Scores, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = rows.assign(cutout_id=rows["cutout_id"] + 10_000, label=np.int8(0), ra=rows["ra"] + 90)
    fresh = write(pool.drop(columns=["truth", "stratum"]), tmp_path / "pool")
    line = [f"inputs.manifest={manifest}", f"inputs.pool={fresh}", f"inputs.scores={scores('pool_scores', of=pool)}",
            "mined=20", "skim=4"]  # fmt: skip
    assert mine_negatives.main(["--output", str(tmp_path / "first"), *line]) == 0
    skimmed = tables.read_table(str(tmp_path / "first" / "skimmed"), tables.RANKING)["cutout_id"].to_pylist()
    verdicts = dict(zip(skimmed, ("lens", "not", "disagree", "ungraded"), strict=True))
    verdicts[int(rows["cutout_id"].iloc[0])] = "lens"  # a control, which is of the manifest: the pool has no known lens
    given = f"inputs.grades={grades(tmp_path / 'grades', verdicts)}"
    assert mine_negatives.main(["--output", str(tmp_path / "second"), *line, given]) == 0
    mined = set(read_manifest(str(tmp_path / "second" / "mined")).table["cutout_id"].to_pylist())
    assert mined & set(skimmed) == {skimmed[1]}
    again = tables.read_table(str(tmp_path / "second" / "skimmed"), tables.RANKING)["cutout_id"].to_pylist()
    assert again == [skimmed[3]]
    strange = f"inputs.grades={grades(tmp_path / 'strange', {5: 'lens'})}"
    assert mine_negatives.main(["--output", str(tmp_path / "third"), *line, strange]) == 2
    assert "1 of 1 grades of" in capsys.readouterr().err


def test_grades_of_nothing_clean_nothing(tmp_path: Path, manifest: str, rows: pd.DataFrame) -> None:
    tables.write_table(tables.GRADES.schema.empty_table(), str(tmp_path / "grades"), tables.GRADES)
    tables.write_table(tables.RANKING.schema.empty_table(), str(tmp_path / "ranking"), tables.RANKING)
    given = (f"inputs.grades={tmp_path / 'grades'}", f"inputs.ranking={tmp_path / 'ranking'}")
    assert clean(tmp_path / "c", manifest, *given) == 0
    assert len(read_manifest(str(tmp_path / "c"))) == len(rows)
    assert tables.read_table(str(tmp_path / "c" / "removed"), tables.CLEANED).num_rows == 0
    found = storage.read_json(str(tmp_path / "c" / "audit.json"))
    assert (found["inspected"], found["dropped"], found["plausible"]["value"]) == (0, 0, None)
