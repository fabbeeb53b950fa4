"""Studies from the command line, with Ray: searches, schedulers, shared stamps, and the decision of the masking study."""

from __future__ import annotations

import csv
import json

import pytest
import yaml

from lensdata.audit.studies import read_trial
from ray_train import tune
from tests.faults.training_runs import write_manifest
from tests.injected import injected_set
from tests.planted import plant_core
from tests.unit.ray_train.test_trial import TRAINING

pytestmark = [pytest.mark.ray, pytest.mark.slow]
LRS = {"optimizer.lr": [3e-3, 1e-6, 1e-7, 1e-8]}
MASKING = {
    "A1": {"inputs.manifest": "paired"},
    "B1": {"inputs.manifest": "unpaired"},
    "B2": {"inputs.manifest": "unpaired", "images.masking": [{"radius": 5, "probability": 0.5}]},
    "B3": {"inputs.manifest": "unpaired", "images.masking": [{"radius": 7, "probability": 0.7}]},
    "B4": {"inputs.manifest": "unpaired", "images.masking": [{"radius": 3, "probability": 0.3}]},
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_manifest(tmp_path_factory.mktemp("manifest"))


@pytest.fixture
def study(tmp_path):
    """Runs a study; returns its folder."""

    def run(inputs: dict[str, str], training: dict[str, object] | None = None, **settings: object):
        config = {"training": TRAINING | (training or {}), "execution": {"concurrent": 2}, **settings}
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(config))
        argv = ["--config", str(tmp_path / "study.yaml"), "--output", str(tmp_path / "study")]
        assert tune.main([*argv, *(f"inputs.{name}={uri}" for name, uri in inputs.items())]) == 0
        return tmp_path / "study"

    return run


def results(folder):
    """Every trial's row."""
    with (folder / "experiment_metrics.csv").open() as handle:
        return {row["trial"]: row for row in csv.DictReader(handle)}


def test_a_grid_is_trained_two_at_a_time_on_one_copy_of_the_stamps(study, manifest):
    folder = study({"manifest": manifest}, axes={"optimizer.lr": [3e-3, 1e-3]}, seeds=[1, 2])
    rows = results(folder)
    assert [row["status"] for row in rows.values()] == ["done"] * 4
    costs = [json.loads((folder / "trials" / name / "metrics.json").read_text())["cost"] for name in rows]
    assert {cost["residency"] for cost in costs} == {"host"}
    assert "Differences from lr0.003" in (folder / "EXPERIMENT_RESULTS.md").read_text()
    assert not (folder / "prepared").exists()
    assert not (folder / "ray").exists()


def test_shared_stamps_and_own_copies_give_the_same_networks(study, manifest, tmp_path):
    shared = results(study({"manifest": manifest}, axes={"optimizer.lr": [3e-3]}, seeds=[1, 2]))
    (tmp_path / "study").rename(tmp_path / "shared")
    execution = {"concurrent": 2, "share_stamps": False}
    own = results(study({"manifest": manifest}, axes={"optimizer.lr": [3e-3]}, seeds=[1, 2], execution=execution))
    assert [row["best_val_auroc"] for row in shared.values()] == [row["best_val_auroc"] for row in own.values()]


def test_successive_halving_stops_what_does_not_learn_and_keeps_its_row(study, manifest):
    scheduler = {"name": "asha", "grace_epochs": 4, "reduction_factor": 2}
    batch = {"micro_batch": 8, "accumulation": 1}
    folder = study({"manifest": manifest}, {"epochs": 9, "batch": batch}, axes=LRS, seeds=[1], scheduler=scheduler)
    rows = results(folder)
    assert rows["lr0.003-s1"]["status"] == "done"
    stopped = [row for row in rows.values() if row["status"] == "stopped"]
    assert stopped
    assert all("asha stopped it after" in row["reason"] for row in stopped)
    assert all(int(row["epochs"]) < 9 for row in stopped)


def test_a_search_by_optuna_draws_cells_and_trains_each_with_every_seed(study, manifest):
    axes = {"optimizer.lr": {"low": 1e-5, "high": 1e-2, "log": True}, "images.augment": ["d4", "none"]}
    folder = study({"manifest": manifest}, axes=axes, seeds=[1, 2], search={"name": "optuna", "num_cells": 3})
    rows = results(folder)
    assert len(rows) == 6
    assert sorted(row["seed"] for row in rows.values()) == ["1"] * 3 + ["2"] * 3
    assert len({row["cell"] for row in rows.values()}) == 3


def test_a_search_goes_on_when_a_trial_fails(study, manifest):
    axes = {"optimizer.lr": [3e-3, 1e30]}
    folder = study({"manifest": manifest}, axes=axes, seeds=[1], search={"name": "optuna", "num_cells": 6})
    assert {row["status"] for row in results(folder).values()} == {"done", "failed"}


def test_a_population_changes_its_settings_and_every_member_is_a_run_with_its_present_ones(study, manifest):
    mutations = {"optimizer.lr": {"low": 1e-8, "high": 3e-2, "log": True}}
    folder = study(
        {"manifest": manifest},
        {"epochs": 4},
        axes={"images.augment": ["d4"]},
        seeds=[1, 2, 3, 4],
        scheduler={"name": "pbt", "perturb_epochs": 2, "mutations": mutations},
        execution={"concurrent": 4, "cpus_per_trial": 0.5},
    )
    rows = results(folder)
    assert [row["status"] for row in rows.values()] == ["done"] * 4
    for name in rows:
        history = json.loads((folder / "population" / f"{name}.json").read_text())["history"]
        config = yaml.safe_load((folder / "trials" / name / "config.yaml").read_text())
        assert config["optimizer"]["lr"] == pytest.approx(history[-1]["keys"]["optimizer.lr"])
        assert 1e-8 <= config["optimizer"]["lr"] <= 3e-2
        assert all(entry["from_epoch"] < 4 for entry in history)  # who is at the end stays what it is


def test_failures_are_rows_and_retry_trains_them_again(study, manifest, tmp_path):
    folder = study({"manifest": manifest}, axes={"optimizer.lr": [3e-3, 1e30]}, seeds=[1])
    assert [row["status"] for row in results(folder).values()] == ["done", "failed"]
    first = (folder / "trials" / "lr0.003-s1" / "metrics.json").stat().st_mtime_ns
    argv = ["--config", str(tmp_path / "study.yaml"), "--output", str(folder), f"inputs.manifest={manifest}"]
    assert tune.main([*argv, "--retry"]) == 0
    assert (folder / "trials" / "lr0.003-s1" / "metrics.json").stat().st_mtime_ns == first
    assert [row["status"] for row in results(folder).values()] == ["done", "failed"]


def test_a_study_of_which_nothing_comes_fails_with_a_reason(manifest, tmp_path, capsys):
    config = {"training": TRAINING, "axes": {"optimizer.lr": [1e30]}, "seeds": [1]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config))
    argv = [
        "--config",
        str(tmp_path / "study.yaml"),
        "--output",
        str(tmp_path / "study"),
        f"inputs.manifest={manifest}",
    ]
    assert tune.main(argv) == 1
    assert (
        "none of 1 trials finished; the first says: the loss or its gradient is not a number" in capsys.readouterr().err
    )


MASKED_TRAINING = {
    "epochs": 3,
    "model": {"arch": "resnet18"},
    "images": {"normalisation": "residual", "crop": 63},
    "optimizer": {"lr": 1e-3},
    "batch": {"micro_batch": 32, "accumulation": 1},
    "schedule": {"name": "cosine"},
    "execution": {"runtime": "local"},
}


class TestTheMaskingStudy:
    """R-A2 and R-A4 on injected arcs: far from the core, as bright as is needed to learn them in a few epochs."""

    @pytest.fixture(scope="class")
    def bright(self, tmp_path_factory):
        arcs = ("arcs.theta_e_arcsec=[2.2,3.0]", "arcs.arc_snr=[60,100]")
        return injected_set(tmp_path_factory.mktemp("bright"), *arcs, count=900)

    @pytest.fixture(scope="class")
    def faint(self, tmp_path_factory):
        arcs = ("arcs.theta_e_arcsec=[2.2,3.0]", "arcs.arc_snr=[4,6]")
        return injected_set(tmp_path_factory.mktemp("faint"), *arcs, count=900)

    def decided(self, study, made, unpaired, **settings):
        folder = study(
            {"manifests.paired": f"{made}/paired", "manifests.unpaired": unpaired},
            MASKED_TRAINING,
            axes={"masking": MASKING},
            seeds=[1],
            reference={"masking": "B1"},
            execution={"concurrent": 1},
            **settings,
        )
        return json.loads((folder / "decision.json").read_text()), results(folder), folder

    def test_a_clean_set_leads_to_success_and_its_winner_is_judged_on_test_once(self, study, bright):
        winner = {"manifests": {"unpaired": "unpaired", "paired": "paired"}, "seed": 7}
        decision, rows, folder = self.decided(study, bright, f"{bright}/unpaired", decision={}, winner=winner)
        assert (decision["branch"], decision["winner"]) == ("SUCCESS", "B1")
        assert set(rows) == {"A1-s1", "B1-s1"}  # the tree did not ask for the others
        assert float(rows["B1-s1"]["best_val_auroc"]) > 0.9
        assert all(row["test_auroc"] == "" for row in rows.values())
        final = read_trial(str(folder / "trials" / "winner-B1" / "metrics.json"))
        assert final.seed == 7
        assert final.test_auroc > 0.9

    def test_a_planted_core_that_the_network_uses_leads_to_stop(self, study, faint, tmp_path):
        planted = plant_core(str(faint / "unpaired"), str(tmp_path / "planted"), fraction=0.5)
        decision, rows, _ = self.decided(study, faint, planted, decision={})
        assert decision["branch"] == "STOP_SHORTCUT"
        assert decision["winner"] is None
        assert float(rows["B1-s1"]["core_reliance"]) >= 0.05

    def test_a_planted_core_beside_bright_arcs_asks_for_masks_and_leads_to_stop(self, study, bright, tmp_path):
        planted = plant_core(str(bright / "unpaired"), str(tmp_path / "planted"), fraction=0.3)
        decision, rows, _ = self.decided(study, bright, planted, decision={})
        assert float(rows["B1-s1"]["final_core_lr_auc"]) > 0.65
        assert set(rows) == {f"{arm}-s1" for arm in MASKING}
        assert decision["branch"] == "STOP_REDESIGN"
