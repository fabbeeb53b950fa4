"""Trials as they are read, and cells over their seeds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from lensdata.audit.seeds import over_seeds
from lensdata.audit.studies import arm_figures, cells, cost_of, read_trial
from lensdata.errors import InputError
from tests.trials import trial, trial_json


def written(folder, values):
    (folder / "metrics.json").write_text(values if isinstance(values, str) else json.dumps(values))
    return str(folder / "metrics.json")


def test_a_trial_is_read_with_all_its_figures(tmp_path):
    found = read_trial(written(tmp_path, trial_json("B1", 2, auc=0.93, core=0.58, reliance=0.02)))
    assert (found.trial, found.cell, found.seed, found.status) == ("B1-s2", "B1", 2, "done")
    assert (found.best_val_auroc, found.final_core_lr_auc, found.core_reliance) == (0.93, 0.58, 0.02)
    assert [point.radius for point in found.core_sensitivity or ()] == [0, 3, 5, 7, 10, 15]
    assert found.test_auroc is None


def test_a_failed_trial_has_a_reason_and_no_figures(tmp_path):
    values = {
        "schema_version": 1,
        "trial": "t",
        "cell": "c",
        "variants": {},
        "seed": 1,
        "status": "failed",
        "reason": "no memory",
    }
    found = read_trial(written(tmp_path, values | {"best_val_auroc": None, "cost": None}))
    assert (found.best_val_auroc, found.cost.seconds) == (None, None)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema_version": 2}, "schema_version 2, expected 1"),
        ({"schema_version": None}, "no schema_version"),
        ({"seed": "first"}, "seed: Input should be a valid integer"),
        ({"status": "running"}, "status: Input should be 'done', 'stopped' or 'failed'"),
        ({"status": "failed", "reason": None}, "a failed trial needs a reason"),
        ({"best_val_auroc": float("nan")}, "best_val_auroc: Input should be a finite number"),
        ({"core_sensitivity": [{"auc": 0.9}]}, "core_sensitivity.0.radius: Field required"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path, change, told):
    uri = written(tmp_path, trial_json("B1", 1) | change)
    with pytest.raises(InputError) as refused:
        read_trial(uri)
    assert uri in str(refused.value)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["[1, 2]", "{", '"text"'])
def test_what_is_no_trial_at_all_is_refused(tmp_path, text):
    with pytest.raises(InputError, match=r"metrics\.json"):
        read_trial(written(tmp_path, text))


def test_the_interval_over_seeds_is_students():
    values = [0.91, 0.93, 0.92, 0.96]
    found = over_seeds([*values, None])
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.n, found.mean, found.sd) == (4, pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert over_seeds([0.9, 0.99], 0, 1).high == 1
    assert over_seeds([None]).mean is None


def test_a_cell_counts_every_seed_and_averages_those_done():
    trials = [
        trial("B1", 1, auc=0.90), trial("B1", 2, auc=0.94), trial("B1", 3, auc=0.5, status="stopped"),
        trial("B1", 4, status="failed", reason="no memory"), trial("B2", 1),
    ]  # fmt: skip
    found = cells(trials)
    assert list(found) == ["B1", "B2"]
    cell = found["B1"]
    assert (cell.done, cell.stopped, cell.failed) == ((1, 2), (3,), (4,))
    assert cell.figures["best_val_auroc"].mean == pytest.approx(0.92)
    assert cell.cost.seconds == pytest.approx(sum(one.cost.seconds for one in trials[:4]))
    assert found["B2"].figures["best_val_auroc"].sd is None


def test_costs_that_are_not_known_are_counted():
    found = cost_of([trial("B1", 1, cost={"seconds": 10.0, "peak_memory_bytes": 5}), trial("B1", 2, cost=None)])
    assert (found.seconds, found.gpu_hours, found.peak_memory_bytes, found.unknown) == (10.0, 0.0, 5, 1)
    assert cost_of([]).peak_memory_bytes is None


def test_an_arm_whose_trainings_all_failed_is_there_without_figures():
    found = arm_figures(
        [
            trial("B1", 1, core=0.58, auc=0.93),
            trial("B2", 1, status="failed", reason="x"),
            trial("B3", 1, status="stopped"),
        ],
        "masking",
    )
    assert (found["B1"][0].core_gate_auc, found["B1"][0].val_auc, found["B1"][0].seed) == (0.58, 0.93, 1)
    assert found["B2"] == found["B3"] == ()
    assert arm_figures([trial("B1", 1)], "architecture") == {}
