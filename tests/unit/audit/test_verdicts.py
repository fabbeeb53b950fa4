"""What passed, warned or failed; a run beside Paper IV; recovery of real lenses (R-E3, R-E5, R-E9, R-E10)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lensdata.audit import paper_iv, verdicts
from lensdata.audit.recovery import recovery


def strata(*areas: float | None) -> list[dict]:
    return [
        {"name": str(n), "auc": {"too_few": True} if area is None else {"value": area}} for n, area in enumerate(areas)
    ]


@pytest.mark.parametrize(
    ("areas", "spread", "worst"),
    [
        ((0.95, 0.85, None), "PASS", "PASS"),
        ((0.95, 0.78), "WARN", "WARN"),
        ((0.95, 0.69), "FAIL", "FAIL"),
        ((0.89, 0.75), "PASS", "WARN"),
    ],
)
def test_einstein_radii_are_held_to_the_protocol_s_limits(areas: tuple, spread: str, worst: str) -> None:
    assert [line["verdict"] for line in verdicts.theta_e(strata(*areas))] == [spread, worst]


def test_one_bin_of_enough_lenses_has_no_spread() -> None:
    assert verdicts.theta_e(strata(0.9, None, None)) == []


def test_targets_pass_fail_or_cannot_be_told() -> None:
    found = {
        "auc": {"title": "AUC", "value": 0.96, "low": 0.94, "high": 0.98},
        "tpr0": {"title": "TPR0", "value": None},
    }
    told = {line["metric"]: line for line in verdicts.targets({"auc": 0.97, "tpr0": 0.5, "unheard_of": 0.5}, found)}
    assert told["auc"]["verdict"] == "FAIL"
    assert told["auc"]["message"].endswith("the interval holds both answers")
    assert verdicts.targets({"auc": 0.90}, found)[0] | {"title": ""} == {
        "metric": "auc", "title": "", "least": 0.9, "value": 0.96, "low": 0.94, "high": 0.98, "verdict": "PASS",
        "message": "more than 0.9 is asked for",
    }  # fmt: skip
    assert told["tpr0"]["verdict"] == told["unheard_of"]["verdict"] == "NOT MEASURED"


def test_the_list_begins_with_what_failed_and_gives_a_gate_its_worse_learner() -> None:
    gate = {
        "gate": "core",
        "title": "Core",
        "input": "model",
        "message": "",
        "auc": {"value": 0.7, "low": 0.6, "high": 0.8},
    }
    found = {"gates": {"gates": [
        gate | {"learner": "logistic", "sample": "host_matched", "verdict": "PASS"},
        gate | {"learner": "trees", "sample": "host_matched", "verdict": "FAIL"},
        gate | {"learner": "trees", "sample": "random", "verdict": "FLOOR"},
    ]}}  # fmt: skip
    health = [{"check": "grad_norm", "status": "WARN", "value": 11.0, "limit": 10.0, "message": "large"}]
    lines = verdicts.collect(found, health)
    assert [(line["title"], line["verdict"]) for line in lines] == [
        ("Core, model, hosts matched", "FAIL"), ("grad norm", "WARN"), ("Core, model, as drawn", "FLOOR"),
    ]  # fmt: skip
    assert verdicts.counts(lines) == {"FAIL": 1, "WARN": 1, "NOT MEASURED": 0, "FLOOR": 1, "PASS": 0}


def test_the_error_of_an_auc_from_its_counts_is_that_of_simulated_samples() -> None:
    random = np.random.default_rng(0)
    areas = []
    for _ in range(400):  # exponential scores, for which the formula is exact
        one, two = random.exponential(3.0, 60), random.exponential(1.0, 200)
        areas.append(stats.mannwhitneyu(one, two).statistic / (60 * 200))
    assert paper_iv.hanley_mcneil(0.75, 60, 200) == pytest.approx(np.std(areas), rel=0.12)
    assert 0.0011 < paper_iv.sampling_error() < 0.0014  # of 406 to 412 lenses


def test_an_architecture_without_counterpart_is_not_held_against_one() -> None:
    run = {
        "model": "timm:convnext_nano",
        "parameters": 1,
        "splits": {"train": {"rows": 10, "positive": 2}},
        "settings": {},
    }
    found = paper_iv.comparison({"value": 0.9, "low": 0.8, "high": 0.95}, "test", run, {"val_auc": 0.9, "epoch": 3})
    told = {row["quantity"]: row for row in found["rows"]}
    assert told["validation AUC"]["paper_iv"] == told["parameters"]["paper_iv"] == "no counterpart"
    assert told["lenses : others"]["here"] == "2 : 8"
    assert told["best epoch"]["here"] == "4 of ?"


def test_recovery_counts_what_was_trained_on_apart() -> None:
    judged = pd.DataFrame({"label": [1] * 10 + [0] * 100, "logit": [*np.linspace(0, 9, 10), *np.linspace(-10, 2, 100)]})
    listed = pd.DataFrame({"cutout_id": np.arange(6), "logit": [-5.0, 1.5, 3.0, 4.0, 5.0, 6.0]})
    found = recovery(listed, judged, trained_on={0, 5}, fpr_levels=(0.01, 1e-4), circular=True)
    assert (found["n"], found["n_trained_on"], found["circular"]) == (6, 2, True)
    at_one, at_none = found["levels"]
    assert at_one["logit_threshold"] == 2.0  # one of 100 others, at 2, is above
    assert (at_one["never_trained"]["hits"], at_one["never_trained"]["n"]) == (3, 4)
    assert (at_one["trained_on"]["hits"], at_one["trained_on"]["n"]) == (1, 2)
    assert at_one["split"]["value"] == 0.8
    assert at_one["gap"] == pytest.approx(0.8 - 0.75)
    assert at_none["logit_threshold"] == 3.0
    empty = recovery(listed.head(0), judged, set(), (0.01,), circular=False)
    assert empty["levels"][0]["never_trained"]["value"] is None
    assert empty["levels"][0]["gap"] is None
