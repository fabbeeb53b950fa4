"""The training step from its command line, without Ray: what it writes, what it refuses, how it resumes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from lensdata import storage, tables
from lensdata.errors import InputError
from lensdata.shards.manifests import read_manifest
from ray_train import score, train
from ray_train.core.metrics import auc
from ray_train.training import bootstrap_negatives, hold_out_fold

Manifest = Callable[..., str]

SMALL = (
    "images.normalisation=identity", "images.crop=15", "model.arch=shielded_resnet", "model.preset=h21", "epochs=2",
    "batch.micro_batch=8", "batch.accumulation=2", "schedule.name=cosine", "optimizer.lr=3e-3",
    "execution.runtime=local", "execution.threads=1", "trackers.tensorboard=false",
)  # fmt: skip


def run(output: Path, manifest: str, *settings: str) -> int:
    return train.main(["--output", str(output), f"inputs.manifest={manifest}", *SMALL, *settings])


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / f"{name}.pt", weights_only=True)["model"]


def test_a_run_folder_holds_everything(tmp_path: Path, arc_manifest: Manifest) -> None:
    manifest, folder = arc_manifest(), tmp_path / "runs" / "first"
    assert run(folder, manifest, "epochs=3", "checkpoints.keep_every=2", "trackers.tensorboard=true") == 0

    names = {path.name for path in folder.iterdir()}
    files = {"config.yaml", "run_info.json", "metrics.jsonl", "health.json", "best.json", "last.json", "_SUCCESS"}
    assert names >= files | {"checkpoints", "scores", "tensorboard"}
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [0, 1, 2]
    assert set(records[0]) >= {
        "train_loss",
        "val_loss",
        "val_auc",
        "lr",
        "seconds",
        "images_per_second",
        "grad_norm_max",
    }
    best, last = (json.loads((folder / f"{name}.json").read_text()) for name in ("best", "last"))
    assert last["checkpoint"] == "epoch_002"
    assert best["val_auc"] == max(record["val_auc"] for record in records)
    kept = {path.stem for path in (folder / "checkpoints").iterdir()}
    assert kept == {"epoch_000", "epoch_002", best["checkpoint"]}
    info = json.loads((folder / "run_info.json").read_text())
    assert info["parameters"] == 66_401
    assert info["splits"]["train"]["rows"] == 36
    assert info["manifest"]["sha256"]
    assert list((folder / "tensorboard").iterdir())


def test_scores_are_those_of_the_best_checkpoint_for_every_stamp(tmp_path: Path, arc_manifest: Manifest) -> None:
    manifest, folder = arc_manifest(), tmp_path / "run"
    assert run(folder, manifest, "epochs=4") == 0
    table = tables.read_table(str(folder / "scores"), tables.SCORES)
    assert sorted(table["cutout_id"].to_pylist()) == sorted(read_manifest(manifest).column("cutout_id"))
    val = table.filter(pc.equal(table["split"], "val"))
    best = json.loads((folder / "best.json").read_text())
    assert auc(val["label"], val["logit"]) == best["val_auc"]
    np.testing.assert_allclose(table["score"], 1 / (1 + np.exp(-table["logit"].to_numpy())), rtol=1e-6)


def test_scoring_again_gives_the_same_logits_in_parts_and_resumes(tmp_path: Path, arc_manifest: Manifest) -> None:
    manifest, folder, scores = arc_manifest(200), tmp_path / "run", tmp_path / "scores"  # two row groups
    assert run(folder, manifest, "epochs=1") == 0
    line = [
        "--output",
        str(scores),
        f"inputs.manifest={manifest}",
        f"inputs.run={folder}",
        "part_rows=1",
        "execution.threads=1",
    ]
    assert score.main(line) == 0
    (scores / "_SUCCESS").unlink()
    parts = sorted((scores / "dataset").iterdir())
    stamp = parts[0].stat().st_mtime_ns
    parts[-1].unlink()
    assert score.main(line) == 0
    assert parts[0].stat().st_mtime_ns == stamp
    again, first = (tables.read_table(str(path)).sort_by("cutout_id") for path in (scores, folder / "scores"))
    assert again["cutout_id"].equals(first["cutout_id"])
    np.testing.assert_allclose(again["logit"], first["logit"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("residency", ["device", "host", "stream"])
def test_every_residency_and_option_trains_and_is_scored_alike(
    tmp_path: Path, arc_manifest: Manifest, residency: str
) -> None:
    """Figures of the training split, averaged weights, half precision, masks and a choice of bands, all through the command."""
    manifest, folder, cache = arc_manifest(), tmp_path / "run", tmp_path / "cache"
    settings = (
        "images.normalisation=lanusse", "images.dtype=float16", "images.bands=[z,g]", "images.augment=affine",
        "images.masking=[{radius: 2, probability: 0.5}]", "model.averaging=0.9", "checkpoints.every_steps=1",
    )  # fmt: skip
    where = (f"execution.residency={residency}", f"execution.cache={cache}")
    assert run(folder, manifest, *settings, *where) == 0
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {record["residency"] for record in records} == {residency}
    assert records[0]["gate_n_samples"] > 0
    if residency == "host":
        assert len(list(cache.glob("stamps-*.npy"))) == 3
    scores = tmp_path / "scores"
    assert score.main(["--output", str(scores), f"inputs.manifest={manifest}", f"inputs.run={folder}"]) == 0
    again, first = (tables.read_table(str(path)).sort_by("cutout_id") for path in (scores, folder / "scores"))
    np.testing.assert_allclose(again["logit"], first["logit"], rtol=1e-5, atol=1e-6)
    reference = tmp_path / "reference"
    assert run(reference, manifest, *settings, "execution.residency=stream") == 0
    expected = tables.read_table(str(reference / "scores")).sort_by("cutout_id")
    assert expected["logit"].equals(first["logit"])  # bit for bit


def test_stamps_and_their_controls_train_a_network_of_six_planes(tmp_path: Path) -> None:
    from lensdata.shards import importing

    random = np.random.default_rng(0)
    hosts = random.normal(size=(60, 16, 16, 3)).astype(np.float32)
    stamps = hosts.copy()
    stamps[::3, 5:12, 11] += 3
    stamps[1::3], stamps[2::3] = random.normal(size=(2, 20, 16, 16, 3))  # matched hosts: none is its own control
    np.savez(
        tmp_path / "pairs.npz",
        images=np.concatenate([stamps, hosts], axis=3),
        label=(np.arange(60) % 3 == 0).astype(int),
    )
    bands = "bands=[g,r,z,g_ctrl,r_ctrl,z_ctrl]"
    out = ["--output", str(tmp_path / "pairs"), f"inputs.stamps={tmp_path / 'pairs.npz'}", "unit=other", bands]
    assert importing.main(out) == 0
    manifest = str(tmp_path / "pairs" / "manifest")
    assert run(tmp_path / "run", manifest, "images.normalisation=per_sample_robust", "images.crop=15", "epochs=1") == 0
    assert weights(tmp_path / "run", "epoch_000")["stem.0.weight"].shape[1] == 6
    assert run(tmp_path / "alone", manifest, "images.bands=[g,r,z]", "images.crop=15", "epochs=1") == 0
    assert weights(tmp_path / "alone", "epoch_000")["stem.0.weight"].shape[1] == 3


def test_a_finished_run_is_skipped_and_another_configuration_refused(
    tmp_path: Path, arc_manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, folder = arc_manifest(), tmp_path / "run"
    assert run(folder, manifest) == 0
    before = (folder / "metrics.jsonl").stat().st_mtime_ns
    assert run(folder, manifest, "execution.residency=stream") == 0  # how it runs is not what it is
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == before
    assert run(folder, manifest, "seed=1") == 2
    assert "seed=42 (now 1)" in capsys.readouterr().err


def test_a_run_may_start_from_another(tmp_path: Path, arc_manifest: Manifest) -> None:
    manifest, first, second = arc_manifest(), tmp_path / "a", tmp_path / "b"
    assert run(first, manifest, "epochs=4") == 0
    assert (
        run(second, manifest, f"inputs.init_from={first}", "epochs=1", "optimizer.lr=1e-12", "schedule.name=constant")
        == 0
    )
    start = weights(first, json.loads((first / "best.json").read_text())["checkpoint"])
    for name, value in weights(second, "epoch_000").items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(value, start[name], rtol=1e-6, atol=1e-9)


def test_npz_objects_train_like_shards(tmp_path: Path, arc_manifest: Manifest) -> None:
    """R-C3: a network trained on objects scores the shards they came from alike."""
    from lensdata.shards.convert import export_npz

    manifest = read_manifest(arc_manifest(unit="nanomaggy"))
    export_npz(sorted(set(manifest.shard_uris())), str(tmp_path / "npz"))
    table = manifest.table.set_column(
        manifest.table.column_names.index("shard"),
        "shard",
        [[f"../npz/{key}.npz" for key in manifest.column("cutout_id")]],
    )
    for name in ("row_group", "row"):
        table = table.set_column(table.column_names.index(name), name, pc.multiply(table[name], 0))
    tables.write_table(table, str(tmp_path / "npz_manifest"), tables.MANIFEST)
    assert run(tmp_path / "run", str(tmp_path / "npz_manifest"), "data.shuffle_rows=8") == 0
    line = ["--output", str(tmp_path / "s"), f"inputs.manifest={manifest.uri}", f"inputs.run={tmp_path / 'run'}"]
    assert score.main(line) == 0
    npz, shards = (
        tables.read_table(str(path)).sort_by("cutout_id") for path in (tmp_path / "run" / "scores", tmp_path / "s")
    )
    assert npz["cutout_id"].equals(shards["cutout_id"])
    np.testing.assert_allclose(npz["logit"], shards["logit"], rtol=1e-5, atol=1e-6)


def test_stamps_of_another_unit_are_not_scored(
    tmp_path: Path, arc_manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "run", arc_manifest(), "epochs=1") == 0
    shutil.rmtree(tmp_path / "arcs")
    manifest = arc_manifest(unit="nanomaggy")
    assert (
        score.main(["--output", str(tmp_path / "s"), f"inputs.manifest={manifest}", f"inputs.run={tmp_path / 'run'}"])
        == 2
    )
    assert "bands g, r, z in nanomaggy, but run run was trained on g, r, z in other" in capsys.readouterr().err


KILLED = """
import os, signal, sys
from lensdata import storage
from ray_train import train
write, left = storage.write_bytes, int(sys.argv[1])
def dying_write(uri, data):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    write(uri, data)
storage.write_bytes = dying_write
sys.exit(train.main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_a_run_killed_between_any_two_files_ends_bit_equal(tmp_path: Path, arc_manifest: Manifest) -> None:
    manifest, folder, whole = arc_manifest(), tmp_path / "run", tmp_path / "whole"
    settings = ["epochs=4", "checkpoints.keep_every=1"]
    assert run(whole, manifest, *settings) == 0
    line = ["--output", str(folder), f"inputs.manifest={manifest}", *SMALL, *settings]
    # Killed before the records of epoch 0, before last.json of epoch 1 or 2, and among the last files.
    codes = [
        subprocess.run([sys.executable, "-c", KILLED, str(n), *line], check=False).returncode for n in (6, 14, 12, 999)
    ]
    assert codes == [-9, -9, -9, 0]
    for epoch in range(4):
        ours, theirs = weights(folder, f"epoch_{epoch:03d}"), weights(whole, f"epoch_{epoch:03d}")
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    first, second = (tables.read_table(str(path / "scores")).sort_by("cutout_id") for path in (folder, whole))
    assert first["logit"].equals(second["logit"])
    lines = [
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (folder, whole)
    ]
    assert [r["train_loss"] for r in lines[0]] == [r["train_loss"] for r in lines[1]]


def test_folds_can_be_held_out_in_turn(tmp_path: Path, arc_manifest: Manifest) -> None:
    manifest = arc_manifest(num_folds=3)
    assert run(tmp_path / "run", manifest, "data.held_out_fold=2", "epochs=1") == 0
    scores = tables.read_table(str(tmp_path / "run" / "scores"))
    rows = read_manifest(manifest).table
    place = {row["cutout_id"]: row for row in rows.select(["cutout_id", "fold", "split"]).to_pylist()}
    for key, split, left_out in zip(
        *(scores[name].to_pylist() for name in ("cutout_id", "split", "fold")), strict=True
    ):
        assert split == {2: "test", 0: "val", 1: "train"}[place[key]["fold"]]
        assert left_out == 2


def test_the_test_split_can_be_held_out_with_every_fold(arc_manifest: Manifest) -> None:
    """So that what is cleaned by fold models does not follow from the test split (R-T10)."""
    whole = read_manifest(arc_manifest(num_folds=5))
    apart = whole.column("split") == "test"
    for fold in range(5):
        split = hold_out_fold(whole, fold, with_test=True).column("split")
        assert (split[apart] == "test").all()
        assert ((split == "test") == (apart | (whole.column("fold") == fold))).all()


def test_a_bootstrap_leaves_out_a_share_of_the_training_negatives_and_nothing_else(arc_manifest: Manifest) -> None:
    whole = read_manifest(arc_manifest(600))
    parts = [bootstrap_negatives(whole, seed) for seed in (1, 2)]
    drawn_from = (whole.column("split") == "train") & (whole.column("label") == 0)
    kept = [np.isin(whole.column("cutout_id"), part.column("cutout_id")) for part in parts]
    for one in kept:
        assert one[~drawn_from].all()
        assert abs(one[drawn_from].mean() - (1 - np.exp(-1))) < 4 * np.sqrt(0.25 / drawn_from.sum())
    assert (kept[0] != kept[1]).any()
    shuffled = replace(whole, table=whole.table.take(np.random.default_rng(0).permutation(len(whole))))
    again = bootstrap_negatives(shuffled, 1)
    assert set(again.column("cutout_id")) == set(parts[0].column("cutout_id"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("model.arch=resnet19",), "model: unknown architecture 'resnet19'; known are resnet18"),
        (("images.crop=17",), "images: a crop of 17 pixels does not fit stamps of 16 x 16"),
        (("images.normalisation=raw_robust",), "raw_robust needs stamps of at least 63 pixels, found 16 x 16"),
        (("images.normalisation=rgb8",), "but the stamps are in other"),
        (("images.bands=[g,i]",), "images.bands asks for i; the stamps have g, r, z"),
        (("model.arch=timm:vit_tiny_patch16_224",), "does not take stamps of 3 x 15 x 15: "),
        (
            ("model.weights=torchvision", "model.weights_sha256=abc"),
            "torchvision's own weights are checked by their name",
        ),
        (("images.bands=[g,g]",), "images.bands names a band twice: g, g"),
        (
            ("images.masking=[{radius: 9, probability: 1}]",),
            "images.masking hides all of the stamp: radius 9 at 15 x 15",
        ),
        (("images.masking=[{radius: 3, probability: 1, from_epoch: 7}]",), "begins at epoch 7, but there are 2 epochs"),
        (("execution.cache=s3://bucket/x",), "must be a folder of this machine"),
        (
            ("execution.shard_cache=s3://bucket/x",),
            "execution.shard_cache s3://bucket/x must be a folder of this machine",
        ),
        (("execution.cache=/dev/null/x",), "execution.cache /dev/null/x cannot be made a folder"),
        (("batch.micro_batch=100000000",), "batch.micro_batch 100000000 needs about"),
        (("images.affine.zoom=[1.1,0.9]",), "is no range of positive factors, lowest first"),
        (("execution.residency=hots",), "execution.residency"),
        (("optimizer.momentun=1",), "did you mean 'optimizer.momentum'"),
        (("batch.drop_last=true", "batch.micro_batch=64"), "batch.drop_last leaves nothing"),
        (("data.held_out_fold=9",), "data.held_out_fold 9"),
        (("execution.num_workers=3",), "is more than batch.accumulation 2"),
        (("model.weights=/nowhere.pt",), "/nowhere.pt does not exist"),
    ],
)
def test_mistakes_are_found_before_training_in_one_sentence(
    tmp_path: Path, arc_manifest: Manifest, capsys: pytest.CaptureFixture[str], settings: tuple[str, ...], message: str
) -> None:
    assert run(tmp_path / "run", arc_manifest(), *settings) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_fatal_health_check_ends_the_resumed_run_too(
    tmp_path: Path, arc_manifest: Manifest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_train.core.health.AUC_TARGET", 1.1)
    monkeypatch.setattr("ray_train.core.health.AUC_TARGET_EPOCH", 0)
    manifest = arc_manifest()
    for _ in range(2):
        assert run(tmp_path / "run", manifest, "epochs=1", "health.fatal=true") == 1
        assert "health check val_auc failed" in capsys.readouterr().err
    assert run(tmp_path / "run", manifest, "epochs=1", "health.fatal=false") == 0


def test_a_broken_save_inside_an_epoch_is_left_out(tmp_path: Path, arc_manifest: Manifest) -> None:
    manifest, folder, whole = arc_manifest(), tmp_path / "run", tmp_path / "whole"
    settings = ("epochs=2", "checkpoints.every_steps=1")
    assert run(whole, manifest, *settings) == 0
    line = ["--output", str(folder), f"inputs.manifest={manifest}", *SMALL, *settings]
    assert subprocess.run([sys.executable, "-c", KILLED, "7", *line], check=False).returncode == -9
    path = folder / "checkpoints" / "inside_epoch.pt"
    path.write_bytes(path.read_bytes()[:1000])
    assert run(folder, manifest, *settings) == 0
    ours, theirs = weights(folder, "epoch_001"), weights(whole, "epoch_001")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_files_of_prepared_stamps_are_the_runs_own_and_go_with_it(tmp_path: Path, arc_manifest: Manifest) -> None:
    manifest = arc_manifest()
    assert run(tmp_path / "run", manifest, "execution.residency=host", "epochs=1") == 0
    assert not (tmp_path / "run" / "prepared").exists()


def test_a_run_reads_copies_of_its_shards_on_a_disk_of_its_own(tmp_path: Path, arc_manifest: Manifest) -> None:
    manifest = arc_manifest()
    copies = tmp_path / "node"
    assert run(tmp_path / "far", manifest, "epochs=1") == 0
    assert run(tmp_path / "near", manifest, "epochs=1", f"execution.shard_cache={copies}") == 0

    assert [storage.sha256(str(path)) for path in copies.glob("*.parquet")] == [
        path.stem for path in copies.glob("*.parquet")
    ]
    assert len(list(copies.glob("*.parquet"))) == 1
    ours, theirs = weights(tmp_path / "near", "epoch_000"), weights(tmp_path / "far", "epoch_000")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_manifest_without_the_class_is_refused(
    tmp_path: Path, arc_manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = Path(arc_manifest())
    path = next((manifest / "dataset").iterdir())
    table = pq.read_table(path)
    pq.write_table(table.filter(pc.equal(table["label"], 0)), path)
    assert run(tmp_path / "run", str(manifest)) == 2
    assert "has no rows of label 1 in split 'train'" in capsys.readouterr().err


def test_a_diverging_run_fails_with_a_sentence(
    tmp_path: Path, arc_manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run(tmp_path / "run", arc_manifest(), "optimizer.lr=1e30", "schedule.name=constant", "optimizer.name=sgd") == 1
    )
    assert "the loss or its gradient is not a number in epoch 0, step" in capsys.readouterr().err


def test_the_presets_are_valid_and_say_what_paper_iv_did() -> None:
    from lensdata.config.base import load_config
    from lensdata.config.training import ImportConfig, TrainingConfig

    root = Path(train.__file__).parents[1] / "configs" / "training"
    presets = {
        path.stem: load_config(ImportConfig if path.stem.endswith("_import") else TrainingConfig, path)
        for path in root.glob("*.yaml")
    }
    assert len(presets) >= 6
    for name, lr, step, window in [("resnet18", 5e-4, 80, (128, 16)), ("shielded", 5e-4, 80, (128, 16)),
                                   ("efficientnet_v2_s", 3.88e-4, 130, (64, 8))]:  # fmt: skip
        preset = presets[f"parity_{name}"]
        assert (preset.optimizer.lr, preset.schedule.lr_step_epoch, preset.epochs) == (lr, step, 160)
        assert (preset.batch.micro_batch, preset.batch.accumulation) == window
        assert (preset.loss.weighted, preset.early_stopping.patience, preset.optimizer.weight_decay) == (False, 0, 1e-4)
        wide, audit = presets[f"wide_{name}"], presets[f"audit_{name}"]
        assert (wide.batch.micro_batch, wide.batch.accumulation) == (window[0] * window[1], 1)
        assert audit == preset.model_copy(update={"loss": preset.loss.model_copy(update={"weighted": True})})
    paired = presets["gen5_prime_paired"]
    assert (paired.schedule.name, paired.schedule.t_0, paired.schedule.t_mult) == ("warm_restarts", 10, 2)
    assert (paired.early_stopping.patience, paired.early_stopping.min_delta) == (10, 1e-4)
    stages = [
        (stage.from_epoch, stage.radius, stage.probability) for stage in presets["masking_scheduled"].images.masking
    ]
    assert stages == [(0, 7, 0.7), (10, 5, 0.5), (30, 3, 0.3)]
    for path in root.glob("*.yaml"):  # every key says what it means
        for line in path.read_text().splitlines():
            key = line.split("#")[0].rstrip()
            assert not key or key.endswith(":") or "#" in line, f"{path.name}: {line}"


@pytest.mark.slow
@pytest.mark.ray
def test_ray_train_gives_the_same_weights_as_the_bare_loop(tmp_path: Path, arc_manifest: Manifest) -> None:
    manifest = arc_manifest()
    assert run(tmp_path / "local", manifest) == 0
    line = [
        "-m",
        "ray_train.train",
        "--output",
        str(tmp_path / "ray"),
        f"inputs.manifest={manifest}",
        *SMALL,
        "execution.runtime=ray",
    ]
    done = subprocess.run([sys.executable, *line], capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "progress done=2 total=2 unit=epochs" in done.stderr
    ours, theirs = weights(tmp_path / "ray", "epoch_001"), weights(tmp_path / "local", "epoch_001")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not (tmp_path / "ray" / "ray").exists()
    shutil.rmtree(tmp_path / "ray")


@pytest.mark.ray
@pytest.mark.slow
def test_what_workers_of_ray_meet_is_one_sentence_and_no_restart_is_wasted(tmp_path: Path) -> None:
    """Each worker finds it alone, so that one which only returned would leave the other waiting."""
    from lensdata.shards import importing

    images = np.random.default_rng(0).normal(size=(60, 16, 16, 3)).astype(np.float32)
    images[..., 2] = 5
    np.savez(tmp_path / "stamps.npz", images=images, label=(np.arange(60) % 3 == 0).astype(int))
    out = ["--output", str(tmp_path / "stamps"), f"inputs.stamps={tmp_path / 'stamps.npz'}", "unit=other"]
    assert importing.main(out) == 0
    line = ["--output", str(tmp_path / "run"), f"inputs.manifest={tmp_path / 'stamps' / 'manifest'}", *SMALL]
    settings = ["images.normalisation=asinh", "execution.runtime=ray", "execution.num_workers=2"]
    done = subprocess.run(
        [sys.executable, "-m", "ray_train.train", *line, *settings],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 2
    assert "error: images.normalisation asinh: plane 2 has no noise to divide by" in done.stderr
    assert "Traceback" not in done.stderr.split("error: ")[-1]
    assert not (tmp_path / "run" / "ray").exists()


def test_weights_of_a_safetensors_file_are_where_a_network_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    from lensdata.config.base import load_config
    from lensdata.config.training import TrainingConfig
    from ray_train.core.models import build_model
    from ray_train.networks import read_weights

    encoder = {
        name: value for name, value in build_model("timm:test_convnext").state_dict().items() if "head.fc" not in name
    }
    save_file(encoder, tmp_path / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repository, name, revision: str(tmp_path / name))
    for source in (str(tmp_path / "model.safetensors"), "hub:somebody/encoder@main"):
        config = load_config(TrainingConfig, None, ["model.arch=timm:test_convnext", f"model.weights={source}"])
        weights = read_weights(config, None)
        network = build_model("timm:test_convnext", weights=weights)
        for name, value in encoder.items():
            assert torch.equal(network.state_dict()[name], value)
    pinned = load_config(TrainingConfig, None, ["model.weights=hub:somebody/encoder", "model.weights_sha256=0a0b"])
    with pytest.raises(InputError, match="have SHA-256"):
        read_weights(pinned, None)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        read_weights(config, None)


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from lensdata.config.base import load_config
    from lensdata.config.training import TrainingConfig
    from ray_train.networks import read_weights

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no way there")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    config = load_config(TrainingConfig, None, ["model.weights=hub:somebody/encoder"])
    with pytest.raises(
        InputError, match="hub:somebody/encoder could not be downloaded .OSError: no way there.; give a"
    ):
        read_weights(config, None)
