"""The 298 labelled Galaxy Zoo DECaLS ring pictures, imported and trained: real images through the real steps.

Needs LENSDATA_REAL_DATA; five trainings take about two minutes on two cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lensdata import tables
from lensdata.shards import importing, read_manifest
from ray_train import train

REAL = os.environ.get("LENSDATA_REAL_DATA", "")
RINGS = Path(REAL, "galaxyzoo_decals_rgb", "rings_101.npz")
CONFIGS = Path(train.__file__).parents[1] / "configs" / "training"
NUM_FOLDS = 5

pytestmark = pytest.mark.skipif(not REAL or not RINGS.exists(), reason="LENSDATA_REAL_DATA is not set")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    output = tmp_path_factory.mktemp("rings")
    line = [
        "--config",
        str(CONFIGS / "rings_import.yaml"),
        "--output",
        str(output),
        "--force",
        f"inputs.stamps={RINGS}",
    ]
    assert importing.main(line) == 0
    return str(output / "manifest")


def test_every_picture_arrives_with_its_label(manifest: str) -> None:
    rows = read_manifest(manifest)
    with np.load(RINGS, allow_pickle=False) as data:
        index = rows.column("cutout_id") - 1
        np.testing.assert_array_equal(rows.stamps(), data["images"][index])
        np.testing.assert_array_equal(rows.column("label"), data["ring"][index])
    assert (len(rows), int(rows.column("label").sum())) == (298, 147)
    assert rows.layout().unit == "rgb8"


@pytest.mark.slow
def test_rings_are_told_from_other_galaxies(
    manifest: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Every picture is scored by a network that never saw it."""
    labels, logits, folds = [], [], []
    for fold in range(NUM_FOLDS):
        line = [
            "--config",
            str(CONFIGS / "rings.yaml"),
            "--output",
            str(tmp_path / str(fold)),
            f"inputs.manifest={manifest}",
        ]
        assert train.main([*line, f"data.held_out_fold={fold}"]) == 0
        scores = tables.read_table(str(tmp_path / str(fold) / "scores"), tables.SCORES).to_pandas()
        test = scores[scores["split"] == "test"]
        assert set(test["fold"]) == {fold}
        labels += test["label"].tolist()
        logits += test["logit"].tolist()
        folds.append(roc_auc_score(test["label"], test["logit"]))
    record_property("auc_pooled", roc_auc_score(labels, logits))
    record_property("auc_mean", float(np.mean(folds)))
    assert len(labels) == 298
    assert np.mean(folds) > 0.62, folds
