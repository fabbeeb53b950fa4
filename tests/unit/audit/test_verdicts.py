"""What passed, warned or failed; a run beside Paper IV; recovery of real lenses (R-E3, R-E5, R-E9, R-E10)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lensdata.audit import paper_iv, verdicts
from lensdata.audit.recovery import gap, recovery
from lensdata.errors import InputError


def strata(*areas: float | None) -> list[dict]:
    return [
        {"name": str(n), "n_positive": 20, "auc": {"too_few": True} if area is None else {"value": area}}
        for n, area in enumerate(areas)
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
        ("Core, model, hosts matched, trees", "FAIL"), ("in training: grad norm", "WARN"),
        ("Core, model, as drawn, trees", "FLOOR"),
    ]  # fmt: skip
    assert verdicts.counts(lines) == {"FAIL": 1, "WARN": 1, "NOT MEASURED": 0, "FLOOR": 1, "PASS": 0}


def test_of_two_learners_that_fail_alike_the_better_one_is_told_and_the_highest_floor_is_found() -> None:
    gate = {
        "gate": "profile",
        "title": "Profile",
        "input": "model",
        "message": "",
        "sample": "random",
        "verdict": "FLOOR",
    }
    gates = [
        gate | {"learner": learner, "auc": {"value": area, "low": 0.5, "high": 1.0}}
        for learner, area in (("logistic", 0.84), ("trees", 0.90))
    ]
    [line] = verdicts.collect({"gates": {"gates": gates}}, [])
    assert (line["title"], line["value"]) == ("Profile, model, as drawn, trees", 0.90)
    assert verdicts.highest_floor(gates) == gates[1]
    assert verdicts.highest_floor([]) is None


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


def judged_split() -> pd.DataFrame:
    return pd.DataFrame({"label": [1] * 10 + [0] * 100, "logit": [*np.linspace(0, 9, 10), *np.linspace(-10, 2, 100)]})


def test_recovery_counts_what_was_trained_on_apart() -> None:
    listed = pd.DataFrame({"cutout_id": np.arange(6), "logit": [-5.0, 1.5, 3.0, 4.0, 5.0, 6.0], "label": 1})
    found = recovery(listed, judged_split(), trained_on={0, 5}, fpr_levels=(0.01, 1e-4), circular=True)
    assert (found["n"], found["n_trained_on"], found["circular"]) == (6, 2, True)
    at_one, at_none = found["levels"]
    assert at_one["false_positives_allowed"] == 1
    assert at_one["logit_threshold"] == 2.0  # one of 100 others, at 2, is above
    assert (at_one["never_trained"]["hits"], at_one["never_trained"]["n"]) == (3, 4)
    assert (at_one["trained_on"]["hits"], at_one["trained_on"]["n"]) == (1, 2)
    assert at_one["split"]["value"] == 0.8
    assert at_one["gap"]["value"] == pytest.approx(0.8 - 0.75)
    assert at_one["gap"]["low"] < 0 < at_one["gap"]["high"]
    assert at_none["false_positives_allowed"] == 0
    for name in ("never_trained", "trained_on", "split", "gap"):
        assert [at_none[name][key] for key in ("value", "low", "high")] == [None] * 3
        assert at_none[name]["reason"] == "this rate allows no false positive among 100 others"
    assert at_none["logit_threshold"] is None
    whole = recovery(listed, judged_split(), set(range(6)), (0.01,), circular=False)["levels"][0]
    assert whole["never_trained"]["value"] is whole["gap"]["value"] is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda listed: listed.head(0), "have no rows"),
        (lambda listed: pd.concat([listed, listed.head(2)]), "2 of 8 rows .* repeat a cutout_id"),
        (lambda listed: listed.assign(label=[1, 1, 1, 0, 0, 0]), "3 of 6 rows .* have label 0"),
    ],
)
def test_what_is_no_list_of_lenses_is_refused(change: Callable[[pd.DataFrame], pd.DataFrame], sentence: str) -> None:
    listed = pd.DataFrame({"cutout_id": np.arange(6), "logit": 1.0, "label": 1})
    with pytest.raises(InputError, match=sentence):
        recovery(change(listed), judged_split(), set(), (0.01,), circular=False)


def test_the_interval_of_a_gap_is_newcombe_s_and_holds_the_truth() -> None:
    def limits(a: int, m: int, b: int, n: int) -> list[float]:
        found = gap({"value": a / m, "hits": a, "n": m}, {"value": b / n, "hits": b, "n": n})
        return [found["low"], found["high"]]

    # Newcombe 1998, Statistics in Medicine 17, 873, table II, method 10
    assert limits(56, 70, 48, 80) == pytest.approx([0.0524, 0.3339], abs=1e-4)
    assert limits(9, 10, 3, 10) == pytest.approx([0.1705, 0.8090], abs=1e-4)
    assert limits(10, 10, 0, 20) == pytest.approx([0.6791, 1.0], abs=1e-4)
    random = np.random.default_rng(0)
    held = [low <= 0.2 <= high for low, high in (
        limits(random.binomial(40, 0.9), 40, random.binomial(25, 0.7), 25) for _ in range(2000)
    )]  # fmt: skip
    assert 0.93 < np.mean(held) < 0.985
