"""Small recipes, networks and stamps for the loop's tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ray_train.core.augment import Views
from ray_train.core.images import ImageRecipe
from ray_train.core.recipe import Recipe
from ray_train.core.schedule import Schedule

PLAIN = ImageRecipe(normalisation="identity", crop=None)
RECIPE = Recipe(
    seed=7, epochs=2, views=Views(view="d4"), shuffle_rows=24,
    micro_batch=4, accumulation=3, drop_last=False, evaluation_batch=16, optimizer="adamw", lr=1e-3,
    weight_decay=1e-4, momentum=0.9,
    schedule=Schedule(
        name="cosine", lr_step_epoch=1, lr_step_factor=0.5, t_0=1, t_mult=2, eta_min=1e-6, warmup_epochs=0
    ),
    weighted=False, label_smoothing=0.0, clip_norm=0.0, precision="fp32", frozen_stem_epochs=0, patience=0,
    min_delta=0.0, stop_monitor="val_loss", best_monitor="val_auc", keep_every=10,
)  # fmt: skip


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    """A recipe with some values changed."""
    return lambda **changes: replace(RECIPE, **changes)


def make_arcs(count: int, seed: int, size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Noise, and a bright bar in every third stamp; the bar is what can be learned."""
    random = np.random.default_rng(seed)
    images = random.normal(size=(count, size, size, 3)).astype(np.float32)
    labels = (np.arange(count) % 3 == 0).astype(np.int8)
    images[labels == 1, size // 2 - 3 : size // 2 + 4, size // 2 + 3] += 2
    return images, labels


@pytest.fixture
def arcs() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Stamps (n, size, size, 3) and labels that a small network can learn."""
    return make_arcs


@pytest.fixture
def arc_manifest(tmp_path: Path) -> Callable[..., str]:
    """Imports such stamps and returns the manifest's folder."""

    def make(count: int = 60, size: int = 16, **settings: Any) -> str:
        from lensdata.shards import importing

        images, labels = make_arcs(count, seed=1, size=size)
        np.savez(tmp_path / "arcs.npz", images=images, label=labels)
        options = [f"{key}={value}" for key, value in ({"unit": "other"} | settings).items()]
        assert (
            importing.main(["--output", str(tmp_path / "arcs"), f"inputs.stamps={tmp_path / 'arcs.npz'}", *options])
            == 0
        )
        return str(tmp_path / "arcs" / "manifest")

    return make


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Sums are bit-equal only at the same number of threads; one does not wait for another on a busy machine."""
    torch.set_num_threads(1)


SURVEY_STAMPS = {"unit": "nanomaggy", "pixscale_arcsec": 0.262, "quality.edge_score_max": 1.0}
SMALL_RUN = (
    "images.normalisation=per_sample_robust", "images.crop=15", "model.arch=shielded_resnet", "model.preset=h21", "epochs=3",
    "batch.micro_batch=8", "batch.accumulation=1", "schedule.name=cosine", "optimizer.lr=3e-3",
    "execution.runtime=local", "execution.threads=1", "trackers.tensorboard=false",
)  # fmt: skip


def _trained(folder: Path, manifest: str, *settings: str) -> Path:
    from ray_train import train

    assert train.main(["--output", str(folder), f"inputs.manifest={manifest}", *SMALL_RUN, *settings]) == 0
    return folder


@pytest.fixture
def trained() -> Callable[..., Path]:
    """Trains a small network on a manifest, into a folder."""
    return _trained


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A manifest of small survey stamps, two runs on it and the bundle of the first; nobody changes them."""
    from lensdata.shards import importing
    from ray_train import make_bundle

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("bundled")
    images, labels = make_arcs(120, seed=1)
    np.savez(folder / "arcs.npz", images=images, label=labels)
    options = [f"{key}={value}" for key, value in SURVEY_STAMPS.items()]
    line = ["--output", str(folder / "arcs"), f"inputs.stamps={folder / 'arcs.npz'}", *options]
    assert importing.main(line) == 0
    manifest = folder / "arcs" / "manifest"
    runs = {name: _trained(folder / name, str(manifest), f"seed={seed}") for name, seed in (("one", 7), ("two", 8))}
    bundle = folder / "bundle"
    line = ["--output", str(bundle), f"inputs.manifest={manifest}", f"inputs.runs.one={runs['one']}"]
    assert make_bundle.main([*line, "execution.threads=1"]) == 0
    return {"manifest": manifest, "bundle": bundle, **runs}
