"""From a survey's highest scores to a list with places, probabilities, known lenses and a selection (R-E9)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.special import logit as logit_of
from scipy.stats import false_discovery_control

from lensdata import storage, tables
from lensdata.config.scoring import CandidatesConfig
from lensdata.shards import ImageLayout, ShardWriter
from lensdata.shards.manifests import read_manifest
from ray_train import candidates

COUNT, KEPT = 2000, 60


@pytest.fixture
def survey(tmp_path: Path) -> tuple[str, str]:
    """The 60 highest scores of 2,000 stamps on real shards, and the table of all positions."""
    rng = np.random.default_rng(4)
    ids = np.arange(COUNT, dtype=np.int64) + 5000
    score = np.sort(rng.normal(-4, 1, COUNT))[::-1]
    score[:20] = np.linspace(6, 3, 20)
    layout = ImageLayout(shape=(9, 9, 3), dtype="float32", bands=("g", "r", "z"), unit="nanomaggy")
    with ShardWriter(str(tmp_path / "shards"), layout, group_rows=16) as writer:
        stamps = np.arange(KEPT, dtype=np.float32)[:, None, None, None] * np.ones((1, 9, 9, 3), np.float32)
        writer.add(pa.table({"cutout_id": ids[:KEPT]}), stamps)
        writer.close()
        rows = writer.locations.to_pandas()
    rows = rows.assign(run_id="run", model="made up", logit=score[:KEPT], pooled_logit=np.nan)
    rows.loc[:4, "pooled_logit"] = [1.0, 5.0, 4.0, 3.0, 2.0]
    rows["shard"] = "../shards/" + rows["shard"]
    rows = rows.sample(frac=1, random_state=0)
    table = pa.Table.from_pandas(rows, schema=tables.SURVEY_SCORES.schema, preserve_index=False)
    tables.write_table(table, str(tmp_path / "scores"), tables.SURVEY_SCORES)
    storage.write_json(str(tmp_path / "scores" / "_report.json"), {"stamps": COUNT, "thresholds": []})
    place = pd.DataFrame(
        {"source_id": ids, "ra": np.linspace(0, 40, COUNT), "dec": np.where(np.arange(COUNT) % 2, -25.0, 5.0)}
    )
    place["psf_bin"] = (np.arange(COUNT) % 3).astype(np.int8)
    positions = tmp_path / "positions"
    (positions / "dataset").mkdir(parents=True)
    place.to_parquet(positions / "dataset" / "part-0.parquet", index=False)
    tables.finish_table(str(positions))
    return str(tmp_path / "scores"), str(positions)


@pytest.fixture
def validation(tmp_path: Path) -> Callable[..., str]:
    """Writes a table of validation scores of many negatives and a few lenses."""

    def make(classes: tuple[int, ...] = (0, 1)) -> str:
        rng = np.random.default_rng(2)
        label = rng.choice(np.repeat(classes, (950, 50)[: len(classes)]), 1000)
        frame = pd.DataFrame({"cutout_id": np.arange(1000) + 90_000, "label": label, "split": "val"})
        frame["logit"] = np.where(label == 1, 3.0, -4.0) + rng.normal(size=1000)
        frame = frame.assign(run_id="run", model="made up", fold=None, score=0.5, tier=None, sample_weight=1.0)
        table = pa.Table.from_pandas(frame, schema=tables.SCORES.schema, preserve_index=False)
        tables.write_table(table, str(tmp_path / "validation"), tables.SCORES)
        return str(tmp_path / "validation")

    return make


def run(output: Path, survey: tuple[str, str], validation: str, *words: str) -> int:
    scores, positions = survey
    return candidates.main(["--output", str(output), f"inputs.scores={scores}", f"inputs.positions={positions}",
                            f"inputs.validation={validation}", *words])  # fmt: skip


def test_candidates_are_placed_calibrated_selected_and_matched(
    tmp_path: Path, survey: tuple[str, str], validation: Callable[..., str]
) -> None:
    lenses = tmp_path / "lenses.csv"
    third = 40 / (COUNT - 1) * 2
    lenses.write_text(f"name,ra,dec\nDESI-near,{third},{5 + 5 / 3600}\nDESI-far,{third},{5 + 60 / 3600}\n")
    assert run(tmp_path / "out", survey, validation(), "top=40", f"inputs.lenses={lenses}", "gallery_stamps=4") == 0
    found = tables.read_table(str(tmp_path / "out"), tables.CANDIDATES).to_pandas()
    assert found["rank"].tolist() == list(range(1, 41))
    # those with a second look come first, by it; the others by the logit of the stamp as it lies
    assert found["cutout_id"].head(6).tolist() == [5001, 5002, 5003, 5004, 5000, 5005]
    assert np.all(np.diff(found["logit"][5:]) <= 0)
    np.testing.assert_allclose(found["ra"], (found["cutout_id"] - 5000) * 40 / (COUNT - 1))
    below = found[found["probability"] < 0.999]
    shift = logit_of(below["survey_probability"]) - logit_of(below["probability"])
    np.testing.assert_allclose(shift, shift.iloc[0], rtol=1e-6)
    named = found.loc[found["known_lens"].notna(), ["cutout_id", "known_lens"]]
    assert named.to_numpy().tolist() == [[5002, "DESI-near"]]
    assert found["separation_arcsec"].min() == pytest.approx(5, abs=0.01)
    stamps = read_manifest(str(tmp_path / "out" / "manifest"))
    assert stamps.stamps([5003])[0, 0, 0, 0] == 3
    page = (tmp_path / "out" / "candidates.html").read_text()
    assert page.count("<figure>") == 4
    assert "DESI-near" in page


def test_the_selection_is_benjamini_hochberg_over_all_that_was_scored(
    tmp_path: Path, survey: tuple[str, str], validation: Callable[..., str]
) -> None:
    place = validation()
    assert run(tmp_path / "out", survey, place, "top=60", "false_discovery_rate=0.2") == 0
    found = tables.read_table(str(tmp_path / "out"), tables.CANDIDATES).to_pandas()
    negatives = tables.read_table(place, tables.SCORES).to_pandas().query("label == 0")["logit"].to_numpy()
    p = (1 + (negatives[None] >= (6 - np.arange(20) * 3 / 19)[:, None]).sum(1)) / (len(negatives) + 1)
    highest = found[found["cutout_id"] < 5020].sort_values("cutout_id")
    np.testing.assert_allclose(highest["p_value"], p, rtol=1e-6)
    # 2,000 tests against 950 negatives: the smallest p of the first twenty is 1/951, so q = 2000 / 951 / 20
    assert highest["q_value"].iloc[0] == pytest.approx(2000 * p.min() / 20, rel=0.01)
    assert found["selected"].sum() == (20 if 2000 * p.max() / 20 <= 0.2 else 0)


def test_groups_are_selected_by_themselves_and_need_the_validation_manifest(
    tmp_path: Path, survey: tuple[str, str], validation: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "out", survey, validation(), "group_by=[footprint,psf_bin]") == 2
    assert "inputs.validation_manifest" in capsys.readouterr().err


def test_a_run_without_lenses_and_positions_that_lack_a_stamp_are_one_sentence(
    tmp_path: Path, survey: tuple[str, str], validation: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "out", survey, validation((0,))) == 2
    assert "has no validation scores of both classes" in capsys.readouterr().err
    few = Path(survey[1])
    frame = pd.read_parquet(few / "dataset" / "part-0.parquet")
    frame[frame["source_id"] != 5007].to_parquet(few / "dataset" / "part-0.parquet", index=False)
    tables.finish_table(str(few))
    assert run(tmp_path / "out", survey, validation()) == 2
    assert "no position for 1 of 60 kept stamps" in capsys.readouterr().err


def describe(folder: str, run: str, checkpoint: str = "best") -> None:
    """Say which run and checkpoint scores are of, as `ray_train.score` does."""
    for name, more in (
        ("_table.json", {"identity": {"inputs": {"run": run}}}),
        ("_report.json", {"checkpoint": checkpoint}),
    ):
        path = str(Path(folder) / name)
        storage.write_json(path, storage.read_json(path) | more)


def test_validation_scores_of_another_run_or_checkpoint_are_refused(
    tmp_path: Path, survey: tuple[str, str], validation: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    place = validation()
    describe(survey[0], "aaaa")
    describe(place, "bbbb")
    assert run(tmp_path / "out", survey, place) == 2
    assert "was scored by another run (run)" in capsys.readouterr().err
    describe(survey[0], "bbbb", "last")
    assert run(tmp_path / "out", survey, place) == 2
    assert "was scored with checkpoint last, but the scores of" in capsys.readouterr().err
    describe(survey[0], "bbbb")
    assert run(tmp_path / "out", survey, place) == 0


def test_a_run_is_known_by_its_content_and_by_every_name_of_its_best_checkpoint(
    tmp_path: Path, survey: tuple[str, str], validation: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "trained"
    shutil.copytree(validation(), folder / "scores")
    for name, value in (("run_info.json", {}), ("_table.json", {"content": "cccc"}), ("_SUCCESS", ""),
                        ("best.json", {"checkpoint": "epoch_008"}), ("last.json", {"checkpoint": "epoch_009"})):  # fmt: skip
        storage.write_json(str(folder / name), value)
    for place, (content, checkpoint, code) in enumerate(
        [("dddd", "best", 2), ("cccc", "last", 2), ("cccc", "best", 0), ("cccc", "epoch_008", 0)]
    ):
        describe(survey[0], content, checkpoint)
        assert run(tmp_path / f"out{place}", survey, str(folder)) == code
    shutil.copytree(folder, tmp_path / "study" / "trials" / "a")
    shutil.copytree(folder, tmp_path / "study" / "trials" / "b")
    (tmp_path / "study" / "_SUCCESS").touch()
    assert run(tmp_path / "out", survey, str(tmp_path / "study")) == 2
    assert "is a study of 2 networks" in capsys.readouterr().err


def test_what_is_selected_beyond_the_end_of_the_list_is_counted(
    tmp_path: Path, survey: tuple[str, str], validation: Callable[..., str]
) -> None:
    place = validation()
    for name, top in (("long", 60), ("short", 7)):
        assert run(tmp_path / name, survey, place, f"top={top}", "false_discovery_rate=0.5", "gallery_stamps=0") == 0
    long, short = (storage.read_json(str(tmp_path / name / "_report.json")) for name in ("long", "short"))
    assert (short["listed"], short["selected_on_the_list"]) == (7, 7)
    assert short["selected"] == long["selected"] == long["selected_on_the_list"] > 7
    assert "only 7 of them are on the list" in (tmp_path / "short" / "candidates.html").read_text()
    assert "of them are on the list" not in (tmp_path / "long" / "candidates.html").read_text()


def test_a_list_is_the_same_wherever_it_is_written(
    tmp_path: Path, survey: tuple[str, str], validation: Callable[..., str]
) -> None:
    place, contents = validation(), []
    for output in (tmp_path / "out", tmp_path / "deeper" / "down" / "out"):
        output.parent.mkdir(parents=True, exist_ok=True)
        assert run(output, survey, place, "top=9", "gallery_stamps=0") == 0
        contents.append(storage.read_json(str(output / "_table.json"))["content"])
    assert contents[0] == contents[1]


def test_validation_stamps_that_the_manifest_lacks_are_not_left_out_in_silence(
    tmp_path: Path, survey: tuple[str, str], validation: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    place = validation()
    assert run(tmp_path / "out", survey, place, "gallery_stamps=0") == 0
    other = f"inputs.validation_manifest={tmp_path / 'out' / 'manifest'}"
    assert run(tmp_path / "grouped", survey, place, "group_by=[footprint]", other) == 2
    assert "lacks 1000 of the 1000 validation stamps" in capsys.readouterr().err
    assert run(tmp_path / "grouped", survey, place, "group_by=[psf_bin]", other) == 2
    assert "has no column psf_bin to group by" in capsys.readouterr().err


def test_a_group_is_judged_by_its_own_negatives_and_its_own_size_and_one_without_negatives_selects_nothing() -> None:
    rng = np.random.default_rng(6)
    rows = pd.DataFrame({"plain_logit": rng.normal(3, 1, 90), "group": np.repeat(["a", "b", "empty"], 30)})
    negatives = pd.DataFrame({"logit": rng.normal(size=700), "group": np.repeat(["a", "b"], [500, 200])})
    sizes = {"a": 40, "b": 3000, "empty": 50}
    found = candidates.selected(rows, negatives, sizes, CandidatesConfig(false_discovery_rate=0.2))
    for name in ("a", "b"):
        part, known = found[found["group"] == name], negatives.loc[negatives["group"] == name, "logit"].to_numpy()
        p = (1 + (known[None] >= part["plain_logit"].to_numpy()[:, None]).sum(1)) / (len(known) + 1)
        all_tests = np.concatenate([p, np.ones(sizes[name] - len(p))])
        np.testing.assert_allclose(part["q_value"], false_discovery_control(all_tests)[: len(p)])
        np.testing.assert_array_equal(part["selected"], part["q_value"] <= 0.2)
    assert found.loc[found["group"] == "a", "selected"].any()
    assert (found.loc[found["group"] == "empty", ["p_value", "q_value"]] == 1).all(axis=None)


def test_positions_whose_keys_are_text_are_one_sentence(
    tmp_path: Path, survey: tuple[str, str], validation: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(survey[1]) / "dataset" / "part-0.parquet"
    frame = pd.read_parquet(file)
    frame.assign(source_id=frame["source_id"].astype(str)).to_parquet(file, index=False)
    tables.finish_table(survey[1])
    assert run(tmp_path / "out", survey, validation()) == 2
    assert "source_id of type string; keys of stamps are integers" in capsys.readouterr().err
