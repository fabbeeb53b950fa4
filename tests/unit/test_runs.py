"""Runs as a notebook and ``lensdata runs`` see them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest

import lensdata
from infra.cli import main
from lensdata.errors import InputError
from lensdata.runs import differences, figures
from lensdata.shards import importing
from ray_train import train

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = (
    "images.normalisation=identity", "images.crop=15", "model.arch=shielded_resnet", "model.preset=h21",
    "batch.micro_batch=8", "batch.accumulation=2", "execution.runtime=local", "execution.threads=1", "trackers.tensorboard=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two runs on one manifest: of two epochs and of one, with another rate."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(1)
    images = rng.normal(size=(60, 16, 16, 3)).astype(np.float32)
    columns = {name: rng.uniform(1, 2, 60) for name in ("ra", "dec", "mag_r", "psfsize_r")}
    np.savez(folder / "stamps.npz", images=images, label=np.arange(60) % 2, **columns)
    assert (
        importing.main([f"inputs.stamps={folder / 'stamps.npz'}", "unit=other", "--output", str(folder / "set")]) == 0
    )
    for name, settings in (("slow", ["epochs=2", "optimizer.lr=1e-4"]), ("fast", ["epochs=1", "optimizer.lr=1e-3"])):
        line = ["--output", str(folder / name), f"inputs.manifest={folder / 'set' / 'manifest'}", *SMALL, *settings]
        assert train.main(line) == 0
    return folder


def test_a_run_tells_what_was_run_and_what_came_of_it(runs):
    run = lensdata.open_run(str(runs / "slow"))

    assert run.finished
    assert run.config["optimizer"]["lr"] == 1e-4
    assert run.info["manifest"]["uri"] == str(runs / "set" / "manifest")
    epochs = run.epochs()
    assert list(epochs.index) == [0, 1]
    assert run.best["val_auc"] == epochs["val_auc"].max()
    scores = run.scores("val")
    assert set(scores["split"]) == {"val"}
    assert len(run.scores()) == 60


def test_stamps_come_in_the_order_asked(runs):
    manifest = lensdata.open_manifest(str(runs / "set" / "manifest"))
    keys = manifest.table["cutout_id"].to_pylist()

    chosen = manifest.stamps([keys[7], keys[3]])

    np.testing.assert_array_equal(chosen, manifest.stamps()[[7, 3]])
    with pytest.raises(InputError, match="has no cutout_id 12345"):
        manifest.stamps([12345])


def test_the_example_of_the_guide_runs(runs, monkeypatch):
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/guide/notebooks.md").read_text(), re.DOTALL)
    matplotlib.use("Agg")
    found: dict[str, object] = {}

    exec(example.replace("runs/demo/train", str(runs / "slow")), found)

    assert found["stamps"].shape == (len(found["missed"]), 16, 16, 3)
    assert list(found["objects"].columns) == ["ra", "dec", "mag_r", "psfsize_r"]
    assert set(found["val"].loc[found["missed"], "label"]) == {1}


def test_an_unfinished_run_is_read_as_far_as_it_is(runs, tmp_path):
    shutil.copytree(runs / "slow", tmp_path / "begun")
    for name in ("_SUCCESS", "best.json", "last.json"):
        (tmp_path / "begun" / name).unlink()
    run = lensdata.open_run(str(tmp_path / "begun"))

    assert not run.finished
    assert run.best is None
    assert len(run.epochs()) == 0
    assert figures({"begun": run}).loc["epochs done", "begun"] == 0


def test_what_is_no_run_is_refused_with_the_runs_inside(runs):
    with pytest.raises(InputError, match=r"holds no run_info.json, so it is no training run; it holds .*fast, .*slow"):
        lensdata.open_run(str(runs))
    with pytest.raises(InputError, match="There is no split 'vall'; expected train, val, test"):
        lensdata.open_run(str(runs / "slow")).scores("vall")


def test_only_keys_that_differ_are_compared(runs):
    found = differences({name: lensdata.open_run(str(runs / name)) for name in ("slow", "fast")})

    assert set(found.index) == {"epochs", "optimizer.lr"}
    assert list(found.loc["optimizer.lr"]) == [1e-4, 1e-3]


def test_the_commands_list_and_compare(runs, capsys):
    assert main(["runs", "list", str(runs), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {Path(name).name for name in listed} == {"slow", "fast"}
    assert listed[str(runs / "slow")]["epochs done"] == 2

    assert main(["runs", "compare", str(runs / "slow"), f"quick={runs / 'fast'}"]) == 0
    said = capsys.readouterr().out
    assert "quick" in said
    assert "optimizer.lr" in said
    assert "loss.clip_norm" not in said


def test_removing_asks_and_takes_runs_only(runs, tmp_path, capsys):
    shutil.copytree(runs / "fast", tmp_path / "fast")
    (tmp_path / "other").mkdir()

    assert main(["runs", "rm", str(tmp_path / "fast")]) == 2
    assert "nobody is here to ask; add --yes" in capsys.readouterr().err
    assert (tmp_path / "fast").exists()
    assert main(["runs", "rm", str(tmp_path / "other"), "--yes"]) == 2
    assert (tmp_path / "other").exists()
    assert main(["runs", "rm", str(tmp_path / "fast"), "--yes"]) == 0
    assert not (tmp_path / "fast").exists()


DAMAGE = {
    "config.yaml": ["", "optimizer: [1", "- 1\n"],
    "metrics.jsonl": ["", '{"epoch": 0, "train_lo', '{"loss": 1.0}\n', "7\n"],
    "best.json": ['{"epo', "[]"],
    "run_info.json": ["{", "[]"],
}


@pytest.mark.parametrize(("name", "content"), [(name, content) for name in DAMAGE for content in DAMAGE[name]])
def test_a_damaged_run_is_named_in_one_sentence_and_can_be_removed(runs, tmp_path, capsys, name, content):
    shutil.copytree(runs / "slow", tmp_path / "cut")
    (tmp_path / "cut" / name).write_text(content)

    assert main(["runs", "compare", str(tmp_path / "cut"), str(runs / "fast")]) == 2
    assert re.fullmatch(rf"error: \S+/cut/{name} is (damaged|not valid JSON).*\.\n", capsys.readouterr().err)
    assert main(["runs", "rm", str(tmp_path / "cut"), "--yes"]) == 0
    assert not (tmp_path / "cut").exists()


def test_a_run_whose_configuration_is_gone_is_not_compared(runs, tmp_path, capsys):
    shutil.copytree(runs / "slow", tmp_path / "cut")
    (tmp_path / "cut" / "config.yaml").unlink()

    assert main(["runs", "compare", str(tmp_path / "cut"), str(runs / "fast")]) == 2
    assert "cut/config.yaml does not exist" in capsys.readouterr().err


def test_one_damaged_run_does_not_hide_the_others(runs, tmp_path, capsys):
    shutil.copytree(runs / "slow", tmp_path / "cut")
    shutil.copytree(runs / "fast", tmp_path / "whole")
    (tmp_path / "cut" / "metrics.jsonl").write_text('{"epoch": 0, "tr')

    assert main(["runs", "list", str(tmp_path), "--json"]) == 2
    said = capsys.readouterr()
    assert list(json.loads(said.out)) == [str(tmp_path / "whole")]
    assert "cut/metrics.jsonl is damaged or cut short" in said.err


def test_a_place_without_runs_is_said_to_be_one(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "notes.txt"):
        assert main(["runs", "list", str(place)]) == 2
        assert f"{place} holds no training run" in capsys.readouterr().err


def test_importing_the_package_starts_nothing_heavy():
    import subprocess
    import sys

    code = "import sys, lensdata; print([name for name in ('pandas', 'pyarrow', 'torch', 'ray', 'pyspark') if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
