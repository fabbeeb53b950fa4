"""Scoring a manifest or a survey's shards, in parts (R-N1, R-E9)."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from lensdata import storage, tables
from lensdata.shards import ShardWriter, importing
from lensdata.shards.manifests import Manifest, read_manifest
from ray_train import score, train
from ray_train.core.predict import full_precision_head
from ray_train.scoring import as_trained, load_scorer
from ray_train.training import deal_out
from tests.unit.ray_train.conftest import make_arcs

ONE = "execution.threads=1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A manifest of 400 stamps in several row groups, and a run."""
    place = tmp_path_factory.mktemp("trained")
    images, labels = make_arcs(400, seed=1)
    np.savez(place / "arcs.npz", images=images, label=labels)
    stored = ["--output", str(place / "arcs"), f"inputs.stamps={place / 'arcs.npz'}", "unit=other"]
    assert importing.main(stored) == 0
    manifest, folder = str(place / "arcs" / "manifest"), str(place / "run")
    line = ["--output", folder, f"inputs.manifest={manifest}", "epochs=1", "batch.micro_batch=64", "batch.accumulation=1", ONE,
            "execution.runtime=local", "execution.device=cpu", "images.crop=null", "images.normalisation=identity"]  # fmt: skip
    assert train.main(line) == 0
    return manifest, folder


def run(output: Path, *words: str) -> int:
    return score.main(["--output", str(output), ONE, "execution.device=cpu", *words])


def shard_folder(manifest: str) -> str:
    return str(Path(read_manifest(manifest).shard_uris()[0]).parent)


def logits_of(folder: Path) -> dict[int, float]:
    rows = tables.read_table(str(folder))
    return dict(zip(rows["cutout_id"].to_pylist(), rows["logit"].to_pylist(), strict=True))


def test_a_survey_keeps_the_highest_scores_of_all_and_counts_the_rest(tmp_path: Path, trained: tuple[str, str]) -> None:
    manifest, folder = trained
    assert run(tmp_path / "all", f"inputs.manifest={manifest}", f"inputs.run={folder}") == 0
    assert run(tmp_path / "top", f"inputs.shards={shard_folder(manifest)}", f"inputs.run={folder}", "keep=top", "top_k=50",
               "fpr_levels=[0.5,0.1,0.01,0.001]") == 0  # fmt: skip
    every, top = logits_of(tmp_path / "all"), logits_of(tmp_path / "top")
    wanted = sorted(every, key=lambda key: (-every[key], key))[:50]
    assert list(top) == wanted
    np.testing.assert_allclose([top[key] for key in wanted], [every[key] for key in wanted], rtol=1e-5, atol=1e-6)
    report = storage.read_json(str(tmp_path / "top" / "_report.json"))
    assert (report["stamps"], report["kept"]) == (400, 50)
    half, tenth, hundredth, none = report["thresholds"]
    values = np.array(list(every.values()))
    assert tenth["exact"]
    assert hundredth["exact"]
    assert not half["exact"]
    assert none["above"] is None
    assert int((values > tenth["above"]).sum()) == 40
    assert int((values > hundredth["above"]).sum()) == 4
    assert half["low"] <= np.sort(values)[::-1][200] <= half["high"]


def test_parts_that_are_missing_are_made_again_and_the_table_is_the_same(
    tmp_path: Path, trained: tuple[str, str]
) -> None:
    rng = np.random.default_rng(5)
    manifest, folder = trained
    line = (f"inputs.manifest={manifest}", f"inputs.run={folder}", "keep=top", "top_k=30", "part_rows=1")
    assert run(tmp_path / "whole", *line) == 0
    output = tmp_path / "killed"
    assert run(output, *line) == 0
    for name in ("_SUCCESS", "_table.json", "_report.json", "histogram.parquet"):
        (output / name).unlink()
    stored = sorted((output / "parts").iterdir())
    assert len(stored) > 4
    for path in rng.choice(np.array(stored, dtype=object), 3, replace=False):
        path.unlink()
    assert run(output, *line) == 0
    for name in ("dataset/part-00000.parquet", "histogram.parquet"):
        assert pq.read_table(output / name).equals(pq.read_table(tmp_path / "whole" / name))
    described = [json.loads((place / "_table.json").read_text()) for place in (tmp_path / "whole", output)]
    assert described[0]["content"] == described[1]["content"]


def test_the_second_pass_takes_the_mean_over_the_eight_views(tmp_path: Path, trained: tuple[str, str]) -> None:
    manifest, folder = trained
    assert run(tmp_path / "s", f"inputs.shards={shard_folder(manifest)}", f"inputs.run={folder}", "keep=top", "top_k=20",
               "views=d4", "pool_top=7") == 0  # fmt: skip
    rows = tables.read_table(str(tmp_path / "s"), tables.SURVEY_SCORES)
    assert rows["pooled_logit"].null_count == 13
    scorer = load_scorer(folder, "best", torch.device("cpu"))
    part = read_manifest(manifest)
    stamps = torch.from_numpy(np.array(part.stamps(rows["cutout_id"].to_pylist()[:7])))
    plain = scorer.images(part.layout()).prepare(stamps)
    views = [
        turned.flip(3) if flip else turned
        for flip in (0, 1)
        for turned in (torch.rot90(plain, k, (2, 3)) for k in range(4))
    ]
    with torch.inference_mode():
        mean = torch.stack([scorer.model(view).squeeze(1) for view in views]).mean(0)
    np.testing.assert_allclose(rows["pooled_logit"].to_numpy()[:7], mean.numpy(), rtol=1e-4, atol=1e-5)


def test_sixteen_bits_do_not_tie_the_logits_and_their_error_is_reported(
    tmp_path: Path, trained: tuple[str, str]
) -> None:
    manifest, folder = trained
    line = (f"inputs.manifest={manifest}", f"inputs.run={folder}")
    assert run(tmp_path / "full", *line) == 0
    assert run(tmp_path / "half", *line, "precision=bf16") == 0
    full, half = logits_of(tmp_path / "full"), logits_of(tmp_path / "half")
    assert len(set(half.values())) > 0.99 * len(half)
    difference = max(abs(full[key] - half[key]) for key in full)
    assert 0 < difference < 0.2
    told = storage.read_json(str(tmp_path / "half" / "_report.json"))["largest_difference_of_bf16"]
    assert told == pytest.approx(difference, rel=1e-3)


def test_the_last_layer_answers_in_32_bits_under_autocast() -> None:
    model = full_precision_head(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1)))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(torch.ones(2, 4)).dtype == torch.float32


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "needs inputs.manifest=URI or inputs.shards=URI, found neither"),
        (("inputs.manifest={manifest}", "inputs.shards={shards}"), "found manifest and shards"),
        (("inputs.shards={empty}",), "has no Parquet file; inputs.shards is a folder of shards of stamps"),
        (("inputs.shards={manifest}",), "is not a shard of stamps"),
        (("inputs.manifest={manifest}", "splits=[]"), "splits"),
    ],
)
def test_what_cannot_be_scored_is_one_sentence(
    tmp_path: Path, trained: tuple[str, str], capsys: pytest.CaptureFixture[str], words: tuple[str, ...], sentence: str
) -> None:
    manifest, folder = trained
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "note.txt").write_text("nothing")
    places = {"manifest": manifest, "shards": shard_folder(manifest), "empty": str(tmp_path / "empty")}
    assert run(tmp_path / "s", f"inputs.run={folder}", *(word.format(**places) for word in words)) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_a_stamp_that_lies_in_two_shards_is_refused(
    tmp_path: Path, trained: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, folder = trained
    twice = tmp_path / "twice"
    twice.mkdir()
    for shard in Path(shard_folder(manifest)).glob("*.parquet"):
        for copy in ("a", "b"):
            (twice / f"{copy}-{shard.name}").write_bytes(shard.read_bytes())
    assert run(tmp_path / "s", f"inputs.shards={twice}", f"inputs.run={folder}", "keep=top", "top_k=10") == 2
    assert "lie in two shards" in capsys.readouterr().err


def test_rows_of_a_shard_are_as_a_manifest_has_them(trained: tuple[str, str]) -> None:
    from ray_train.scoring import shard_rows

    manifest, _ = trained
    whole = read_manifest(manifest)
    folder = shard_folder(manifest)
    names = sorted(path.name for path in Path(folder).glob("*.parquet"))
    rows = pa.concat_tables([shard_rows(folder, name) for name in names])
    for name in ("cutout_id", "row_group", "row"):
        assert rows[name].to_pylist() == whole.table[name].to_pylist()


def test_of_equal_logits_the_smaller_keys_are_kept_and_a_short_survey_is_kept_whole(
    tmp_path: Path, trained: tuple[str, str]
) -> None:
    manifest, folder = trained
    one = read_manifest(manifest)
    stamps = np.repeat(one.head(2).stamps()[:1], 20, axis=0)
    with ShardWriter(str(tmp_path / "alike"), one.layout()) as writer:
        writer.add(pa.table({"cutout_id": np.arange(20, dtype=np.int64)[::-1].copy()}), stamps)
        writer.close()
    line = (f"inputs.shards={tmp_path / 'alike'}", f"inputs.run={folder}", "keep=top", "fpr_levels=[0.5]")
    assert run(tmp_path / "few", *line, "top_k=5") == 0
    assert list(logits_of(tmp_path / "few")) == [0, 1, 2, 3, 4]
    assert run(tmp_path / "every", *line, "top_k=5000", "views=d4") == 0
    assert list(logits_of(tmp_path / "every")) == list(range(20))
    [half] = storage.read_json(str(tmp_path / "every" / "_report.json"))["thresholds"]
    assert half["exact"]  # all logits tie: the only threshold that lets no more than ten through lets none through
    assert half["above"] == pytest.approx(logits_of(tmp_path / "every")[0])


def test_a_stamp_whose_copy_is_the_first_that_is_not_kept_is_refused(
    tmp_path: Path, trained: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, folder = trained
    (tmp_path / "twice").mkdir()
    for shard in Path(shard_folder(manifest)).glob("*.parquet"):
        for copy in ("a", "b"):
            (tmp_path / "twice" / f"{copy}-{shard.name}").write_bytes(shard.read_bytes())
    assert (
        run(tmp_path / "s", f"inputs.shards={tmp_path / 'twice'}", f"inputs.run={folder}", "keep=top", "top_k=1") == 2
    )
    assert "1 of the highest 2 stamps lie in two shards" in capsys.readouterr().err


def test_what_sixteen_bits_cost_is_still_told_after_a_restart_and_histograms_are_read_one_by_one(
    tmp_path: Path, trained: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, folder = trained
    line = (
        f"inputs.manifest={manifest}",
        f"inputs.run={folder}",
        "keep=top",
        "top_k=9",
        "part_rows=1",
        "precision=bf16",
    )
    assert run(tmp_path / "s", *line) == 0
    before = storage.read_json(str(tmp_path / "s" / "_report.json"))
    for name in ("_SUCCESS", "_table.json", "_report.json"):
        (tmp_path / "s" / name).unlink()
    assert before["parts"] > 3
    merge = score.merged
    together: list[int] = []
    monkeypatch.setattr(score, "merged", lambda several: together.append(len(several)) or merge(several))
    assert run(tmp_path / "s", *line) == 0
    after = storage.read_json(str(tmp_path / "s" / "_report.json"))
    assert (after["largest_difference_of_bf16"], after["stamps"]) == (before["largest_difference_of_bf16"], 400)
    assert max(together) <= 2


def test_scores_of_a_manifest_say_what_the_run_has_learnt_from(tmp_path: Path, trained: tuple[str, str]) -> None:
    uri, folder = trained
    manifest = read_manifest(uri)
    plain, folds = Manifest(uri, manifest.table.drop_columns("fold")), manifest.column("fold")
    assert as_trained(manifest, folder).table.equals(manifest.table)

    def changed(**data: object) -> str:
        run_folder = tmp_path / "-".join(data)
        shutil.copytree(folder, run_folder, ignore=shutil.ignore_patterns("scores"))  # as a run that goes on has none
        config = yaml.safe_load((run_folder / "config.yaml").read_text())
        config["data"] |= data
        (run_folder / "config.yaml").write_text(yaml.safe_dump(config))
        return str(run_folder)

    own = as_trained(manifest, changed(held_out_fold=1, hold_out_test=False))
    np.testing.assert_array_equal(own.column("split") == "test", folds == 1)
    assert (as_trained(plain, changed(held_out_fold=1)).column("split") == plain.column("split")).all()
    dealt = as_trained(plain, changed(split="random"))
    assert dealt.table.equals(deal_out(plain, load_scorer(folder, "best", torch.device("cpu")).config.seed).table)
    assert not dealt.table.equals(plain.table)
    fold_run = str(tmp_path / "held_out_fold-hold_out_test")
    assert run(tmp_path / "scores", f"inputs.manifest={uri}", f"inputs.run={fold_run}") == 0
    said = tables.read_table(str(tmp_path / "scores")).to_pandas().set_index("cutout_id")["split"]
    assert (said == own.table.to_pandas().set_index("cutout_id")["split"]).all()


def test_a_manifest_that_deals_the_rows_otherwise_gets_the_splits_of_the_run(
    tmp_path: Path, trained: tuple[str, str]
) -> None:
    """As the parity manifest does, whose val holds the audit manifest's test (R-T10)."""
    manifest, folder = trained
    whole = read_manifest(manifest)
    index, split = whole.table.column_names.index("split"), whole.column("split")
    renamed = np.where(split == "train", "test", np.where(split == "val", "train", "val"))
    other = replace(whole, table=whole.table.set_column(index, "split", pa.array(renamed)))
    found = as_trained(other, folder)
    np.testing.assert_array_equal(found.column("split"), split)
    fresh = other.table.set_column(
        other.table.column_names.index("cutout_id"), "cutout_id", pa.array(whole.column("cutout_id") + 10**9)
    )
    assert as_trained(replace(other, table=fresh), folder).table.equals(fresh)
