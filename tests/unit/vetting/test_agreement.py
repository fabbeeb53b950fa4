"""Kappa and the recall of controls, beside independent implementations."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from lensdata.audit.intervals import multinomial
from lensdata.vetting.agreement import UNGRADED, agreement, kappa, summary
from lensdata.vetting.grades import GRADES, Ledger
from tests.vetting_folders import begin, keys_of

CODES = st.lists(st.tuples(*[st.integers(-1, 3)] * 3), min_size=1, max_size=60)


@settings(max_examples=80, deadline=None)
@given(rows=CODES)
def test_kappa_of_each_pair_is_that_of_scikit_learn(rows):
    codes = np.asarray(rows)
    found = agreement(codes, ["a", "b", "c"])
    for pair, (one, two) in zip(found["pairs"], itertools.combinations(range(3), 2), strict=True):
        both = codes[(codes[:, one] != UNGRADED) & (codes[:, two] != UNGRADED)]
        assert pair["n"] == len(both)
        if pair["value"] is None:
            assert len(both) == 0 or len(np.unique(both[:, [one, two]])) == 1  # chance alone agrees always
            continue
        assert pair["value"] == pytest.approx(cohen_kappa_score(both[:, one], both[:, two]))
        assert pair["low"] <= pair["value"] <= pair["high"]


def test_the_mean_over_pairs_is_told_for_three_graders():
    codes = np.random.default_rng(1).integers(0, 4, (200, 3))
    found = agreement(codes, ["a", "b", "c"])
    assert found["mean"]["value"] == pytest.approx(np.mean([pair["value"] for pair in found["pairs"]]))
    assert found["mean"]["low"] < found["mean"]["value"] < found["mean"]["high"]


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng, held, rounds = np.random.default_rng(2), 0, 120
    share = np.array(
        [[0.10, 0.03, 0.02, 0.0], [0.03, 0.10, 0.05, 0.0], [0.02, 0.05, 0.50, 0.02], [0.0, 0.0, 0.02, 0.06]]
    )
    truth = float(kappa(share))
    cells = rng.choice(16, size=(rounds, 150), p=share.ravel())
    for row in cells:
        [pair] = agreement(np.stack([row // 4, row % 4], axis=1), ["a", "b"])["pairs"]
        held += pair["low"] <= truth <= pair["high"]
    assert held / rounds > 0.88


def test_full_agreement_of_few_stamps_is_not_taken_for_certain():
    codes = np.array([[0, 0], [2, 2]] * 5)
    [pair] = agreement(codes, ["a", "b"])["pairs"]
    assert pair["value"] == 1
    assert pair["low"] < 0.7


def test_many_graders_of_a_long_list_need_no_gigabytes(monkeypatch):
    drawn = []

    def remembered(rng, counts, size):
        drawn.append(multinomial(rng, counts, size))
        return drawn[-1]

    monkeypatch.setattr("lensdata.vetting.agreement.multinomial", remembered)
    codes = np.random.default_rng(0).integers(0, 4, (10_000, 8))  # hardly two stamps alike
    found = agreement(codes, list("abcdefgh"))
    assert drawn[0].size <= 4_000_000
    assert len(drawn[0]) >= 200
    assert found["mean"]["low"] < 0 < found["mean"]["high"]


def test_one_grader_has_nobody_to_agree_with():
    assert agreement(np.zeros((5, 1), int), ["a"]) is None


def test_the_recall_of_controls_is_the_share_that_was_called_lens(tmp_path):
    session = begin(tmp_path, lenses=4, random=4)
    control = dict(zip(session.cutout_ids.tolist(), session.items["control"].to_pylist(), strict=True))
    known = [key for key, sort in control.items() if sort == "lens"]
    with Ledger(session.folder, session.id, keys_of(session)) as ledger:
        for key in session.cutout_ids.tolist():
            grade = "lens" if key in known[:2] else "maybe" if key == known[2] else "not"
            ledger.grade(cutout_id=key, grader="ada", grade=grade, kind=None, seconds=2, key=str(key))
        found = summary(session, ledger.standing)

    [ada] = found["graders"]
    assert ada["graded"] == 28
    assert [ada[grade] for grade in GRADES] == [2, 1, 25, 0]
    assert ada["controls_lens"]["n"] == 4
    assert ada["controls_lens"]["as_lens"]["value"] == 0.5
    assert ada["controls_lens"]["as_lens"]["low"] == pytest.approx(stats.beta(2.5, 2.5).ppf(0.025))
    assert ada["controls_lens"]["as_lens_or_maybe"]["value"] == 0.75
    assert ada["controls_random"]["as_lens_or_maybe"]["value"] == 0
    assert "NaN" not in json.dumps(found)
