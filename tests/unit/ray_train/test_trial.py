"""One trial of a study, in this process: it is `ray_train.train`, and leaves the figures that a study compares."""

from __future__ import annotations

import json
import logging

import numpy as np
import pyarrow.parquet as pq
import pytest

from lensdata import storage
from lensdata.audit.studies import read_trial
from lensdata.config.base import validate
from lensdata.config.training import TrainingConfig
from lensdata.config.tuning import StudyConfig
from lensdata.errors import InputError
from lensdata.shards.manifests import read_manifest
from ray_train import train, tune
from ray_train.core.optimizer import build_optimizer, load_optimizer
from ray_train.run_folder import RunFolder
from ray_train.study import grid, trial_of
from ray_train.study_results import collect, validation_scores
from ray_train.training import deal_out
from ray_train.trial import FAILED, record_failure, record_stop, run_trial
from tests.faults.training_runs import write_manifest
from tests.trials import trial

pytestmark = pytest.mark.slow  # in CI by name

TRAINING = {
    "epochs": 2,
    "images": {"normalisation": "identity"},
    "model": {"arch": "shielded_resnet", "preset": "p4_c"},
    "batch": {"micro_batch": 16, "accumulation": 1},
    "schedule": {"name": "constant"},
    "optimizer": {"lr": 3e-3},
    "trackers": {"tensorboard": False},
    "execution": {"threads": 1, "runtime": "local"},
}
ARMS = {"none": {}, "masked": {"images.masking": [{"radius": 5, "probability": 1.0}]}}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_manifest(tmp_path_factory.mktemp("manifest"))


@pytest.fixture(scope="module")
def study(manifest, tmp_path_factory):
    """A study of two arms, each trained once."""
    config = validate(StudyConfig, {"axes": {"arm": ARMS}, "training": TRAINING, "seeds": [1]}, "study")
    workshop = tune.workshop_of(config, {"manifest": manifest}, str(tmp_path_factory.mktemp("study") / "arms"), None)
    tasks = [workshop.task(trial_of(config, cell, 1)) for cell in grid(config.axes)]
    for task in tasks:
        run_trial(task)
    return workshop, tasks


def test_a_trial_is_the_run_that_the_command_makes(study, manifest, tmp_path):
    _, (task, _) = study
    config = storage.local_path(task.study) / "configs" / f"{task.trial}.yaml"
    argv = ["--config", str(config), "--output", str(tmp_path / "run"), f"inputs.manifest={manifest}"]
    assert train.main(argv) == 0
    apart = {"seconds", "val_seconds", "images_per_second", "data_wait_seconds"}
    alone, tried = (
        [{key: value for key, value in record.items() if key not in apart} for record in RunFolder(str(uri)).records()]
        for uri in (tmp_path / "run", task.run)
    )
    assert alone == tried
    one, two = (pq.read_table(f"{uri}/scores/dataset").sort_by("cutout_id") for uri in (tmp_path / "run", task.run))
    assert one.drop("run_id").equals(two.drop("run_id"))


def test_a_trial_leaves_the_figures_of_the_study(study):
    _, (plain, masked) = study
    one, two = read_trial(plain.metrics), read_trial(masked.metrics)
    assert (one.status, one.cell, one.seed, one.epochs) == ("done", "none", 1, 2)
    assert one.best_val_auroc == max(record["val_auc"] for record in RunFolder(plain.run).records())
    assert [entry.radius for entry in one.core_sensitivity] == [0, 3, 5, 7, 10, 15]
    assert one.core_sensitivity[0].auc == pytest.approx(one.best_val_auroc, abs=1e-9)
    assert one.core_reliance == pytest.approx(one.core_sensitivity[0].auc - one.core_sensitivity[3].auc)
    assert one.test_auroc is None  # R-T10
    assert one.cost.seconds > 0
    assert one.cost.threads == 1
    # the bar of label 1 lies within 5 pixels of the centre: it shows in the gate, unless the core is masked in training
    assert one.final_core_lr_auc > 0.9 > 0.65 > two.final_core_lr_auc


def test_what_has_ended_is_not_trained_again(study, caplog):
    _, (task, _) = study
    before = storage.read_bytes(task.metrics)
    with caplog.at_level(logging.INFO):
        run_trial(task)
    assert "skipped: already done" in caplog.text
    assert storage.read_bytes(task.metrics) == before


def test_a_trial_that_fails_is_a_row_with_its_reason(manifest, tmp_path):
    config = validate(StudyConfig, {"axes": {"optimizer.lr": [1e30]}, "training": TRAINING, "seeds": [1]}, "study")
    workshop = tune.workshop_of(config, {"manifest": manifest}, str(tmp_path / "study"), None)
    task = workshop.task(trial_of(config, grid(config.axes)[0], 1))
    run_trial(task)
    (result,) = collect(task.study)
    assert result.status == "failed"
    assert "not a number" in result.reason
    assert tune.ended(task)
    tune.reopen(task.study)
    assert not tune.ended(task)


def test_a_stopped_trial_keeps_what_it_reached(study):
    _, (task, _) = study
    record_stop(task, "asha stopped it after 2 epochs")
    stopped = read_trial(task.other("stopped"))
    storage.remove(task.other("stopped"))
    assert (stopped.status, stopped.epochs) == ("stopped", 2)
    assert stopped.best_val_auroc == read_trial(task.metrics).best_val_auroc
    assert stopped.final_core_lr_auc is None


def test_scores_of_a_study_are_those_of_validation(study, manifest):
    workshop, tasks = study
    scores = validation_scores(workshop.study, collect(workshop.study))
    assert set(scores) == {task.trial for task in tasks}
    ids, labels, logits = scores[tasks[0].trial]
    assert sorted(ids) == sorted(read_manifest(manifest).split("val").column("cutout_id"))
    assert len(labels) == len(logits) == len(ids)


@pytest.mark.parametrize(
    ("inputs", "axes", "sentence"),
    [
        ({}, {"arm": ARMS}, "Cell none needs inputs.manifest=URI; given are none"),
        (
            {"manifests.a": ""},
            {"inputs.manifest": ["a", "b"]},
            "Cell b needs inputs.manifests.b=URI; given are inputs.manifests.a",
        ),
        ({"manifest": ""}, {"images.crop": [32, 101]}, "Cell crop101: "),
    ],
)
def test_what_a_trial_would_refuse_is_refused_before_any(manifest, tmp_path, inputs, axes, sentence):
    config = validate(StudyConfig, {"axes": axes, "training": TRAINING}, "study")
    given = dict.fromkeys(inputs, manifest)
    with pytest.raises(InputError) as error:
        tune.check(tune.workshop_of(config, given, str(tmp_path / "study"), None))
    assert sentence in str(error.value)


def test_a_list_of_the_trials_trains_nothing(manifest, tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(json.dumps({"axes": {"arm": ARMS}, "training": TRAINING}))
    argv = ["--plan-only", "--config", str(tmp_path / "study.yaml"), "--output", str(tmp_path / "out")]
    assert tune.main([*argv, f"inputs.manifest={manifest}"]) == 0
    said = capsys.readouterr().out
    assert "masked: images.masking=" in said
    assert "2 cells x 3 seeds = 6 trials of up to 2 epochs, 1 at once" in said
    assert not (tmp_path / "out").exists()


def test_a_run_goes_on_from_a_copy_of_another(study, tmp_path):
    _, (task, _) = study
    RunFolder(task.run).copy_to(tmp_path / "copy")
    other = RunFolder(str(tmp_path / "other"))
    other.take_over(tmp_path / "copy")
    assert other.records() == RunFolder(task.run).records()
    assert other.checkpoint("last") == RunFolder(task.run).checkpoint("last")
    assert other.checkpoint("best") == RunFolder(task.run).checkpoint("best")


def test_a_resumed_optimizer_has_the_settings_of_its_recipe_and_the_averages_of_its_past():
    import torch

    model = torch.nn.Linear(3, 1)
    old = build_optimizer(model, "adamw", lr=1e-3, weight_decay=0.1, momentum=0.9)
    model(torch.ones(2, 3)).sum().backward()
    old.step()
    new = build_optimizer(model, "adamw", lr=1e-2, weight_decay=0.5, momentum=0.9)
    load_optimizer(new, old.state_dict())
    assert (new.param_groups[0]["lr"], new.param_groups[0]["weight_decay"]) == (1e-2, 0.5)
    assert all(torch.equal(new.state[p]["exp_avg"], old.state[p]["exp_avg"]) for p in model.parameters())


def test_a_random_split_keeps_the_numbers_and_leaves_test_alone(manifest):
    whole = read_manifest(manifest)
    dealt = deal_out(whole, seed=4)
    before, after = (m.table.select(["split", "label"]).to_pandas().value_counts().sort_index() for m in (whole, dealt))
    assert before.equals(after)
    old, new = whole.column("split").astype(str), dealt.column("split").astype(str)
    assert np.array_equal(old == "test", new == "test")
    assert not np.array_equal(old, new)
    assert np.array_equal(deal_out(whole, seed=4).column("split"), dealt.column("split"))
    assert not np.array_equal(deal_out(whole, seed=5).column("split"), dealt.column("split"))


def test_a_split_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match=r"data\.split"):
        validate(TrainingConfig, {"data": {"split": "sky"}}, "training.yaml")


def test_the_failures_have_a_folder_of_their_own(study):
    workshop, _ = study
    assert not storage.exists(storage.join(workshop.study, FAILED))


def test_an_interrupted_second_stage_is_gone_through_as_a_whole(manifest, tmp_path, monkeypatch):
    arms = {arm: {"inputs.manifest": "set"} for arm in ("A1", "B1", "B2", "B3", "B4")}
    config = {"axes": {"masking": arms}, "training": TRAINING, "seeds": [1, 2], "decision": {}}
    (tmp_path / "study.yaml").write_text(json.dumps(config))
    shortcut = {"final_core_lr_auc": 0.9, "core_reliance": 0.0}
    done = [trial(arm, seed, **shortcut) for arm in ("A1", "B1") for seed in (1, 2)]
    done += [trial(arm, 1, **shortcut) for arm in ("B2", "B3", "B4")]  # the second seed was not reached
    asked = []
    monkeypatch.setattr(tune, "collect", lambda study, order=(): done)
    monkeypatch.setattr(tune, "train_cells", lambda workshop, cells: asked.append([cell.name for cell in cells]))
    monkeypatch.setattr(tune, "write_study", lambda folder, found: None)
    monkeypatch.setattr(tune, "study_of", lambda *parts: None)
    argv = ["--config", str(tmp_path / "study.yaml"), "--output", str(tmp_path / "out")]
    assert tune.main([*argv, f"inputs.manifests.set={manifest}"]) == 0
    assert asked == [["A1", "B1"], ["B2", "B3", "B4"]]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mutations": {"images.crop": [31, 32]}}, "scheduler.mutations.images.crop: only optimizer.lr"),
        ({"mutations": {"optimizer.lr": []}}, "optimizer.lr"),
        ({"mutations": {"optimizer.lr": ["fast"]}}, "optimizer.lr"),
        ({"mutations": {"optimizer.lr": {"low": -1, "high": 1}}}, "optimizer.lr"),
        ({"mutations": {"optimizer.weight_decay": [0.1]}, "cells": 2}, "needs one cell"),
        ({"mutations": {"optimizer.weight_decay": [0.1]}, "seeds": [1]}, "needs one cell, whose seeds"),
    ],
)
def test_a_population_that_cannot_be_is_refused(manifest, tmp_path, settings, sentence):
    scheduler = {"name": "pbt", "mutations": settings["mutations"]}
    axes = {"images.augment": ["d4", "none"][: settings.get("cells", 1)]}
    seeds = settings.get("seeds", [1, 2, 3, 4])
    config = validate(
        StudyConfig, {"axes": axes, "training": TRAINING, "scheduler": scheduler, "seeds": seeds}, "study"
    )
    with pytest.raises(InputError) as error:
        tune.check(tune.workshop_of(config, {"manifest": manifest}, str(tmp_path / "study"), None))
    assert sentence in str(error.value)


def test_more_than_the_machine_has_is_refused_before_ray_starts(manifest, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for execution in ({"cpus_per_trial": 4096}, {"gpus_per_trial": 99}):
        (tmp_path / "study.yaml").write_text(
            json.dumps({"axes": {"arm": ARMS}, "training": TRAINING, "execution": execution})
        )
        argv = [
            "--config",
            str(tmp_path / "study.yaml"),
            "--output",
            str(tmp_path / "out"),
            f"inputs.manifest={manifest}",
        ]
        assert tune.main(argv) == 2
        assert f"execution.{next(iter(execution))} is" in capsys.readouterr().err


def test_a_winner_needs_its_full_manifest(manifest, tmp_path):
    arms = {arm: {"inputs.manifest": "set"} for arm in ("A1", "B1", "B2", "B3", "B4")}
    values = {
        "axes": {"masking": arms},
        "training": TRAINING,
        "decision": {},
        "winner": {"manifests": {"other": "full"}},
    }
    config = validate(StudyConfig, values, "study")
    with pytest.raises(InputError, match="no entry for set, the manifest of cell A1"):
        tune.check(tune.workshop_of(config, {"manifests.set": manifest}, str(tmp_path / "study"), None))


def test_a_trial_that_failed_is_not_trained_again_unless_asked(manifest, tmp_path):
    config = validate(StudyConfig, {"axes": {"arm": ARMS}, "training": TRAINING, "seeds": [1]}, "study")
    workshop = tune.workshop_of(config, {"manifest": manifest}, str(tmp_path / "study"), None)
    task = workshop.task(trial_of(config, grid(config.axes)[0], 1))
    record_failure(task, "for a test")
    run_trial(task)
    assert not storage.exists(task.metrics)
