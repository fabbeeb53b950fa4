"""Fold models of a study, their ranking, and the cleaned manifest, through the commands of the guide (R-N2)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lensdata import storage, tables
from lensdata.cleaning import rank_negatives
from lensdata.shards.manifests import read_manifest
from ray_train import clean_negatives, train, tune
from tests.unit.cleaning.conftest import write

pytestmark = [pytest.mark.slow, pytest.mark.ray]
ROOT = Path(__file__).parents[2]
COUNT, FOLDS, HIDDEN = 600, 3, 12
NETWORK = ("model.arch=shielded_resnet", "model.preset=p4_c", "images.normalisation=identity", "images.crop=null",
           "batch.micro_batch=32", "optimizer.lr=3e-3", "trackers.tensorboard=false", "images.augment=none", "seed=1")  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, pd.DataFrame]:
    """Noise, and a bright bar in every lens; twelve of the negatives have the bar, too."""
    place = np.arange(COUNT)
    rows = pd.DataFrame(
        {"cutout_id": place + 1000, "source_id": place + 1000, "label": (place % 4 == 0).astype(np.int8)}
    )
    rows["split"] = np.where(place < 420, "train", np.where(place < 510, "val", "test"))
    rows["fold"] = (place // 7 % FOLDS).astype(np.int8)
    hidden = rows.index[(rows["label"] == 0) & (rows["split"] == "train")][:: 315 // HIDDEN][:HIDDEN]
    rows["truth"] = rows["label"]
    rows.loc[hidden, "truth"] = 1
    stamps = np.random.default_rng(1).normal(size=(COUNT, 15, 15, 3)).astype(np.float32)
    stamps[rows["truth"] == 1, 4:11, 10] += 3
    return write(rows.drop(columns="truth"), tmp_path_factory.mktemp("set"), stamps), rows


def test_networks_that_never_saw_them_find_lenses_that_one_trained_on_them_has_learnt_by_heart(
    manifest: tuple[str, pd.DataFrame], tmp_path: Path
) -> None:
    uri, rows = manifest
    hidden = rows.loc[rows["truth"] != rows["label"], "cutout_id"]
    study = ["--config", str(ROOT / "configs" / "tuning" / "out_of_fold_laptop.yaml"), "--output", str(tmp_path / "folds"),
             f"inputs.manifest={uri}", "axes={data.held_out_fold: [0, 1, 2]}", "training.epochs=10"]  # fmt: skip
    assert tune.main([*study, *(f"training.{word}" for word in NETWORK if not word.startswith("seed"))]) == 0
    of_manifest = f"inputs.manifest={uri}"
    assert (
        rank_negatives.main(
            ["--output", str(tmp_path / "unseen"), of_manifest, f"inputs.scores.f={tmp_path / 'folds'}"]
        )
        == 0
    )
    alone = ["--output", str(tmp_path / "run"), of_manifest, "epochs=40", "execution.runtime=local", *NETWORK]
    assert train.main(alone) == 0
    seen = [
        "--output",
        str(tmp_path / "seen"),
        of_manifest,
        f"inputs.scores.run={tmp_path / 'run'}",
        "scores=in_sample",
    ]
    assert rank_negatives.main(seen) == 0
    found = {name: tables.read_table(str(tmp_path / name)).to_pandas() for name in ("unseen", "seen")}
    among_first = {name: table["cutout_id"].head(2 * HIDDEN).isin(hidden).sum() for name, table in found.items()}
    assert among_first["unseen"] >= HIDDEN - 2
    assert found["seen"].loc[found["seen"]["cutout_id"].isin(hidden), "flagged"].sum() < among_first["unseen"]
    assert (found["unseen"].query("split == 'train'")["models"] == 1).all()
    line = [
        "--output",
        str(tmp_path / "clean"),
        of_manifest,
        f"inputs.ranking={tmp_path / 'unseen'}",
        "remove=above_threshold",
    ]
    assert clean_negatives.main([*line, "gallery_stamps=4"]) == 0
    kept = read_manifest(str(tmp_path / "clean")).table["cutout_id"].to_pylist()
    assert hidden.isin(kept).sum() <= 3
    test = storage.read_json(str(tmp_path / "clean" / "audit.json"))["splits"]["test"]
    assert test["after"] == test["before"]
