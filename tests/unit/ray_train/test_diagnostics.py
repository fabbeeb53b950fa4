"""What is looked at during training: gates, core reliance, strata, and what health makes of them (R-T9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from lensdata.errors import InputError
from lensdata.shards.manifests import Manifest
from ray_train.core.augment import MaskStage, Views
from ray_train.core.data import ResidentStamps, StampTable, StreamedStamps
from ray_train.core.health import check_health
from ray_train.core.images import ImageRecipe
from ray_train.core.recipe import Recipe
from ray_train.diagnostics import Diagnosis, stratum_figures, theta_e_figures

CPU = torch.device("cpu")
PLAIN = ImageRecipe(normalisation="identity", crop=None)


class CentralBrightness(nn.Module):
    """A network that looks at the core alone."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x[:, :, 9:12, 9:12].mean(dim=(1, 2, 3))[:, None]


def cored(count: int, kind: type = ResidentStamps) -> tuple[Any, np.ndarray]:
    """Stamps of noise, every fourth with a bright core."""
    random = np.random.default_rng(count)
    images = random.normal(size=(count, 21, 21, 3)).astype(np.float32)
    labels = (np.arange(count) % 4 == 0).astype(np.float32)
    images[labels == 1, 9:12, 9:12] += 1
    row = np.arange(count)
    table = StampTable(row, labels, np.ones(count, np.float32), row // 50, row % 50)
    return kind(table, lambda group: images[group * 50 : group * 50 + 50], PLAIN, CPU), labels


def manifest(**columns: Any) -> Manifest:
    return Manifest("manifest", pa.table(columns))


@pytest.mark.parametrize("kind", [ResidentStamps, StreamedStamps])
def test_a_planted_core_is_found_before_training_and_hidden_by_a_mask(
    recipe: Callable[..., Recipe], kind: type
) -> None:
    masked = Views(view="d4", masking=(MaskStage(from_epoch=3, radius=7, probability=1.0),))
    train, _ = cored(400, kind)
    val, labels = cored(120)
    diagnosis = Diagnosis(
        recipe=recipe(views=masked), train=train, val=val, rows=manifest(label=labels.astype(np.int8)), groups=None,
        pairs=[], device=CPU, rank=0, world=1,
    )  # fmt: skip
    model = CentralBrightness()
    logits = model(val.batches(val.table.in_order(), [(0, 120)]).__next__()).detach().numpy()[:, 0]
    first = diagnosis.before(0)
    assert first["core_lr_auc"] > 0.95
    assert first["gate_n_samples"] == 400
    assert diagnosis.before(1) == diagnosis.after(1, model, logits) == {}
    assert abs(diagnosis.before(3)["core_lr_auc"] - 0.5) < 0.1  # what the network sees in that stage
    reliance = diagnosis.after(4, model, logits)["core_reliance"]
    assert reliance == pytest.approx(roc_auc_score(labels, logits) - 0.5)


def test_strata_are_scikit_learns_figures() -> None:
    random = np.random.default_rng(0)
    labels = (np.arange(400) % 4 == 0).astype(np.int8)
    logits = (random.normal(size=400) + labels).astype(np.float32)
    theta = np.where(labels == 1, random.uniform(0.4, 3.2, 400), np.nan)
    arcs = np.where(labels == 1, np.arange(400) % 8, np.nan)
    rows = manifest(
        label=labels, theta_e=pa.array(theta, from_pandas=True), arc_snr=pa.array(arcs, from_pandas=True),
        brickname=np.array(["1500p100", "1502p100", "1504p100"])[np.arange(400) % 3],
    )  # fmt: skip
    bins = theta_e_figures(rows, logits)["theta_e_auc"]
    assert [(entry["low"], entry["high"]) for entry in bins] == [
        (0.5, 0.75), (0.75, 1.0), (1.0, 1.5), (1.5, 2.0), (2.0, 2.5), (2.5, 3.0),
    ]  # fmt: skip
    for entry in bins:
        inside = (labels == 1) & (theta >= entry["low"]) & (theta < entry["high"])
        used = inside | (labels == 0)
        assert entry["n"] == inside.sum()
        assert entry["auc"] == pytest.approx(roc_auc_score(labels[used], logits[used]))
    found = stratum_figures(rows, logits)
    assert np.sum(found["confusion"]) == 400
    assert found["confusion"][1][1] == np.sum((labels == 1) & (logits > 0))
    arcless = (labels == 1) & (arcs == 0)
    assert found["arcless_called_lens"] == pytest.approx((logits[arcless] > 0).mean())
    bricks = [roc_auc_score(labels[k::3], logits[k::3]) for k in range(3)]
    assert found["brick_auc_std"] == pytest.approx(np.std(bricks, ddof=1))


def test_nothing_is_said_where_nothing_is_known() -> None:
    labels, logits = np.array([0, 1], np.int8), np.array([-1, 1], np.float32)
    rows = manifest(label=labels, brickname=["a", "a"], theta_e=pa.nulls(2, pa.float32()))
    assert theta_e_figures(rows, logits) == {}
    assert stratum_figures(rows, logits) == {"confusion": [[1, 0], [0, 1]]}


def test_health_grades_what_was_measured() -> None:
    fine = {"epoch": 9, "val_loss": 0.3, "train_loss": 0.3, "val_auc": 0.95, "grad_norm_max": 2.0, "lr": 1e-3,
            "stem_grad_norm_mean": 0.1, "val_accuracy_negative": 0.9, "val_accuracy_positive": 0.8}  # fmt: skip
    bins = [{"low": 0.5, "high": 0.75, "n": 9, "auc": 0.85}, {"low": 0.75, "high": 1.0, "n": 9, "auc": 0.95}]
    measured = fine | {"core_lr_auc": 0.5, "radial_lr_auc": 0.5, "core_reliance": 0.01, "theta_e_auc": bins,
                       "arcless_called_lens": 0.1, "brick_auc_std": 0.01}  # fmt: skip
    assert {check["status"] for check in check_health([measured], 1e-3)} == {"PASS"}
    assert len(check_health([measured], 1e-3)) == len(check_health([fine], 1e-3)) + 8

    def graded(changes: dict[str, Any]) -> dict[str, str]:
        found = check_health([measured | changes], 1e-3)
        return {check["check"]: check["status"] for check in found if check["status"] != "PASS"}

    assert graded({"core_lr_auc": 0.9}) == {"core_lr_auc": "WARN"}
    assert graded({"core_reliance": 0.04}) == {"core_reliance": "WARN"}
    assert graded({"core_reliance": 0.06}) == {"core_reliance": "FAIL"}
    assert graded({"arcless_called_lens": 0.7}) == {"arcless": "WARN"}
    assert graded({"brick_auc_std": 0.06}) == {"brick_auc_std": "WARN"}
    falling = [bins[0] | {"auc": 0.95}, bins[1] | {"auc": 0.69}]
    assert graded({"theta_e_auc": falling}) == {
        "theta_e_spread": "FAIL", "theta_e_worst": "FAIL", "theta_e_rises": "WARN",
    }  # fmt: skip


def test_pairs_of_equal_planes_are_refused_as_the_only_negatives(recipe: Callable[..., Recipe]) -> None:
    random = np.random.default_rng(1)
    hosts = random.normal(size=(200, 21, 21, 3)).astype(np.float32)
    labels = (np.arange(200) % 2).astype(np.float32)
    stamps = hosts + np.where(labels == 1, 0.3, 0.0)[:, None, None, None].astype(np.float32)
    row = np.arange(200)
    table = StampTable(row, labels, np.ones(200, np.float32), row // 50, row % 50)

    def gates_of(controls: np.ndarray) -> dict[str, Any]:
        pairs = np.concatenate([stamps, controls], axis=3)
        source = ResidentStamps(table, lambda group: pairs[group * 50 : group * 50 + 50], PLAIN, CPU)
        diagnosis = Diagnosis(
            recipe=recipe(), train=source, val=source, rows=manifest(label=labels.astype(np.int8)), groups=None,
            pairs=[(0, 3), (1, 4), (2, 5)], device=CPU, rank=0, world=1,
        )  # fmt: skip
        return diagnosis.before(0)

    with pytest.raises(InputError, match="are equal to their controls"):
        gates_of(hosts)
    found = gates_of(random.normal(size=hosts.shape).astype(np.float32))
    assert found["paired_lr_auc"] > 0.95  # a brighter stamp is seen in the mean of the difference
