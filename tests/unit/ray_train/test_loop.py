"""The loop with everything else taken away: no Ray, no files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ray_train.core import metrics, state
from ray_train.core.averaging import WeightAverage
from ray_train.core.data import DataError, HostStamps, ResidentStamps, StampTable, StreamedStamps
from ray_train.core.health import check_health
from ray_train.core.images import ImageRecipe
from ray_train.core.loop import TrainingError, fit
from ray_train.core.order import EpochOrder
from ray_train.core.predict import predict
from ray_train.core.recipe import Recipe

CPU = torch.device("cpu")
PLAIN = ImageRecipe(normalisation="identity", crop=None)
Recipes = Callable[..., Recipe]
Arcs = Callable[..., tuple[np.ndarray, np.ndarray]]


class Memory:
    """A run context that keeps checkpoints in a list; stops after some epochs, or saves inside one, when asked."""

    rank, world, device = 0, 1, CPU

    def __init__(
        self,
        records: list[dict[str, Any]] | None = None,
        checkpoint: bytes | None = None,
        stop_after: int = 99,
        partial: bytes | None = None,
        stop_after_partials: int = 99,
    ) -> None:
        self._records, self.checkpoint, self._stop_after = records or [], checkpoint, stop_after
        self.partial, self._partials_left = partial, stop_after_partials

    def records(self) -> list[dict[str, Any]]:
        return list(self._records)

    def last_checkpoint(self) -> bytes | None:
        return self.checkpoint

    def partial_checkpoint(self) -> bytes | None:
        return self.partial

    def keep_partial(self, checkpoint: bytes) -> None:
        self.partial = checkpoint
        self._partials_left -= 1
        if not self._partials_left:
            raise KeyboardInterrupt

    def epoch_done(self, records: list[dict[str, Any]], checkpoint: bytes | None) -> None:
        self._records, self.checkpoint = list(records), checkpoint
        if len(records) >= self._stop_after:
            raise KeyboardInterrupt


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ELU(), nn.Dropout(0.2), nn.Conv2d(8, 8, 3), nn.ELU(),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 1),
    )  # fmt: skip


def sources(arcs: Arcs, recipe: Recipe, kind: type = ResidentStamps) -> list[Any]:
    made = []
    for count, seed in ((90, 1), (45, 2)):
        images, labels = arcs(count, seed)
        row = np.arange(count)
        weights = np.where(labels == 1, 1.0, 0.5).astype(np.float32)
        table = StampTable(row + 1000 * seed, labels.astype(np.float32), weights, row // 16, row % 16)
        made.append(kind(table, lambda group, images=images: images[group * 16 : group * 16 + 16], PLAIN, CPU))
    return made


def weights_of(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])


def test_it_learns(recipe: Recipes, arcs: Arcs) -> None:
    records = fit(recipe(epochs=12, lr=1e-2), network(), *sources(arcs, recipe()), Memory(), {})
    assert records[-1]["train_loss"] < records[0]["train_loss"] / 2
    assert max(record["val_auc"] for record in records) > 0.95
    assert [record["epoch"] for record in records] == list(range(12))
    assert all(record["train_rows"] == 90 and record["steps"] == 8 for record in records)


def test_every_residency_trains_the_same_network(recipe: Recipes, arcs: Arcs, tmp_path: Path) -> None:
    def in_a_file(table: StampTable, read: Any, images: Any, device: torch.device) -> HostStamps:
        return HostStamps(table, read, images, device, tmp_path / f"{len(table)}.npy")

    results = []
    for kind in (ResidentStamps, in_a_file, StreamedStamps):
        model = network()
        records = fit(recipe(), model, *sources(arcs, recipe(), kind), Memory(), {})
        results.append((weights_of(model), [record["train_loss"] for record in records]))
    for weights, curve in results[1:]:
        assert torch.equal(results[0][0], weights)
        assert results[0][1] == curve


CURVES = ("train_loss", "val_loss", "val_auc", "lr", "grad_norm_max", "grad_norm_mean", "train_rows", "steps")


@pytest.mark.parametrize("stop_after", range(1, 7))
def test_a_run_interrupted_inside_an_epoch_ends_with_the_same_weights(
    recipe: Recipes, arcs: Arcs, stop_after: int
) -> None:
    plan = recipe(epochs=2, every_steps=2, averaging=0.9)  # 8 steps an epoch: saved after 2, 4 and 6
    whole = network()
    undisturbed = Memory()
    expected = fit(plan, whole, *sources(arcs, plan), undisturbed, {})
    broken = Memory(stop_after_partials=stop_after)
    with pytest.raises(KeyboardInterrupt):
        fit(plan, network(), *sources(arcs, plan), broken, {})
    resumed = network()
    again = Memory(broken.records(), broken.checkpoint, partial=broken.partial)
    records = fit(plan, resumed, *sources(arcs, plan), again, {})
    assert torch.equal(weights_of(resumed), weights_of(whole))
    assert [[r[name] for name in CURVES] for r in records] == [[r[name] for name in CURVES] for r in expected]
    saved, other = (state.load(memory.checkpoint) for memory in (again, undisturbed))
    for name, value in state.weights(saved).items():
        assert torch.equal(value, state.weights(other)[name])


def test_the_averaged_weights_are_the_written_mean_and_are_what_is_judged(recipe: Recipes, arcs: Arcs) -> None:
    model = network()
    mean = WeightAverage(model, decay=0.5)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(9):
        with torch.no_grad():
            for value in (*model.parameters(), *model.buffers()):
                value.add_(1)
        mean.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            old = expected[name]
            expected[name] = decay * old + (1 - decay) * value if value.is_floating_point() else value.clone()
    for name, value in mean.model.state_dict().items():
        torch.testing.assert_close(value, expected[name])

    plan, memory, model = recipe(epochs=2, averaging=0.99), Memory(), network()
    train, val = sources(arcs, plan)
    records = fit(plan, model, train, val, memory, {})
    saved = state.load(memory.checkpoint)
    judged = network()
    judged.load_state_dict(state.weights(saved))
    logits = predict(judged, val, batch=16, device=CPU)
    assert records[-1]["val_auc"] == metrics.auc(val.table.labels, logits)
    assert not torch.equal(weights_of(judged), weights_of(model))


@pytest.mark.slow
def test_compiled_steps_train_the_same_network_within_rounding(recipe: Recipes, arcs: Arcs) -> None:
    results = []
    for mode in ("none", "default"):
        model = network()
        model[3].p = 0.0  # dropout draws its numbers elsewhere when it is compiled
        fit(recipe(epochs=1, compile=mode, optimizer="sgd"), model, *sources(arcs, recipe()), Memory(), {})
        results.append(weights_of(model))
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_an_interrupted_run_ends_with_the_same_weights(recipe: Recipes, arcs: Arcs, optimizer: str) -> None:
    plan = recipe(epochs=4, optimizer=optimizer)
    whole = network()
    expected = fit(plan, whole, *sources(arcs, plan), Memory(), {})

    broken = Memory(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        fit(plan, network(), *sources(arcs, plan), broken, {})
    resumed = network()
    torch.manual_seed(99)  # nothing may depend on what was drawn before
    records = fit(plan, resumed, *sources(arcs, plan), Memory(broken.records(), broken.checkpoint), {})

    assert torch.equal(weights_of(resumed), weights_of(whole))
    curves = ("train_loss", "val_loss", "val_auc", "lr", "grad_norm_max")
    assert [[record[name] for name in curves] for record in records] == [
        [record[name] for name in curves] for record in expected
    ]


def test_the_frozen_stem_moves_only_later(recipe: Recipes, arcs: Arcs) -> None:
    model = network()
    start = model[0].weight.detach().clone()
    memory = Memory(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe(epochs=3, frozen_stem_epochs=1), model, *sources(arcs, recipe()), memory, {})
    assert torch.equal(model[0].weight, start)
    assert not torch.equal(model[4].weight, network()[4].weight)
    fit(
        recipe(epochs=3, frozen_stem_epochs=1),
        model,
        *sources(arcs, recipe()),
        Memory(memory.records(), memory.checkpoint),
        {},
    )
    assert not torch.equal(model[0].weight, start)


def test_early_stopping_ends_the_run(recipe: Recipes, arcs: Arcs) -> None:
    plan = recipe(epochs=50, patience=2, min_delta=10.0, stop_monitor="val_loss")
    assert len(fit(plan, network(), *sources(arcs, plan), Memory(), {})) == 3


def test_drop_last_trains_on_whole_windows_only(recipe: Recipes, arcs: Arcs) -> None:
    records = fit(recipe(epochs=1, drop_last=True), network(), *sources(arcs, recipe()), Memory(), {})
    assert (records[0]["train_rows"], records[0]["steps"]) == (84, 7)


def test_clipping_bounds_the_step_but_reports_the_norm(recipe: Recipes, arcs: Arcs) -> None:
    plan = recipe(epochs=1, optimizer="sgd", momentum=0.0, weight_decay=0.0, lr=1.0, clip_norm=1e-6)
    model = network()
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    record = fit(plan, model, *sources(arcs, plan), Memory(), {})[0]
    moved = (torch.cat([parameter.detach().flatten() for parameter in model.parameters()]) - before).norm()
    assert moved.item() <= record["steps"] * 1e-6 * 1.01
    assert record["grad_norm_max"] > 1e-3


class Poisoned:
    """A source in which one stamp is not a number."""

    def __init__(self, source: Any, cutout_id: int) -> None:
        self.table, self._source, self._bad = source.table, source, cutout_id

    def batches(self, order: EpochOrder, slices: list[tuple[int, int]]) -> Iterator[torch.Tensor]:
        for (start, stop), images in zip(slices, self._source.batches(order, slices), strict=True):
            images = images.clone()
            images[torch.from_numpy(self.table.cutout_ids[order.rows[start:stop]] == self._bad)] = torch.nan
            yield images


def test_a_loss_that_is_no_number_names_step_and_stamp(recipe: Recipes, arcs: Arcs) -> None:
    train, val = sources(arcs, recipe())
    plain = nn.Sequential(nn.Conv2d(3, 4, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    with pytest.raises(TrainingError, match=r"epoch 0, step \d+; cutout_id 1033:"):
        fit(recipe(), plain, Poisoned(train, 1033), val, Memory(), {})


def test_a_stamp_that_nobody_scored_is_an_error(recipe: Recipes, arcs: Arcs) -> None:
    source = sources(arcs, recipe())[1]
    model = network()
    logits = predict(model, source, batch=7, device=CPU)
    np.testing.assert_allclose(logits, predict(model, source, batch=45, device=CPU), rtol=1e-5, atol=1e-6)
    with pytest.raises(DataError, match="45 of 45 stamps were not scored exactly once"):
        predict(model, source, batch=45, device=CPU, rank=1)  # worker 1 of 1 gets nothing


def test_a_checkpoint_holds_plain_tensors_and_refuses_rubbish(recipe: Recipes, arcs: Arcs) -> None:
    memory = Memory()
    fit(recipe(epochs=1), network(), *sources(arcs, recipe()), memory, {"arch": "tiny"})
    assert memory.checkpoint is not None
    saved = state.load(memory.checkpoint)
    assert (saved["epoch"], saved["network"], saved["recipe"]["seed"]) == (0, {"arch": "tiny"}, 7)
    with pytest.raises(state.CheckpointError, match="cannot be read"):
        state.load(memory.checkpoint[:1000])


def test_health_sees_what_it_should() -> None:
    fine = {"epoch": 0, "val_loss": 0.3, "train_loss": 0.3, "val_auc": 0.95, "grad_norm_max": 2.0, "lr": 1e-3,
            "stem_grad_norm_mean": 0.1, "val_accuracy_negative": 0.9, "val_accuracy_positive": 0.8}  # fmt: skip
    assert {check["status"] for check in check_health([fine], 1e-3)} == {"PASS"}
    for changes, name, status in [
        ({"val_loss": 0.5}, "train_val_gap", "WARN"),
        ({"grad_norm_max": 11.0}, "grad_norm", "WARN"),
        ({"lr": 2e-3}, "learning_rate", "FAIL"),
        ({"val_accuracy_positive": 1.0}, "class_accuracy", "WARN"),
        ({"stem_grad_norm_mean": 1e-9}, "stem_gradient", "WARN"),
        ({"epoch": 20, "val_auc": 0.85}, "val_auc", "FAIL"),
    ]:
        found = {check["check"]: check["status"] for check in check_health([fine | changes], 1e-3)}
        assert found.pop(name) == status
        assert set(found.values()) == {"PASS"}
    stale = [fine | {"epoch": epoch, "val_loss": 0.3 + (epoch > 0) * 0.01} for epoch in range(12)]
    assert {c["check"]: c["status"] for c in check_health(stale, 1e-3)}["val_loss_improves"] == "WARN"
