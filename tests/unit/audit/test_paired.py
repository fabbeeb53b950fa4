"""Two finders on the same objects: the joint bootstrap against a naive one, DeLong against the U statistic."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, norm
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score

from lensdata.audit import roc
from lensdata.audit.delong import delong
from lensdata.audit.paired import JointCounts, PairedSample, mcnemar, paired_bootstrap

LABEL = np.r_[np.ones(50, bool), np.zeros(300, bool)]


def two_finders(seed, digits=1):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=len(LABEL))
    return [
        np.round(LABEL * strength + 0.7 * shared + 0.7 * rng.normal(size=len(LABEL)), digits) for strength in (1.5, 1.2)
    ]


def test_differences_are_distributed_as_naive_ones():
    one, two = two_finders(0)
    rng = np.random.default_rng(1)
    naive = []
    for _ in range(800):
        rows = np.r_[rng.choice(50, 50), 50 + rng.choice(300, 300)]
        curves = [roc.compress(LABEL[rows], scores[rows]).roc() for scores in (one, two)]
        naive.append([float(f(curves[0]) - f(curves[1])) for f in (roc.auc, lambda c: roc.tpr_at_fpr(c, 0.05))])
    drawn = list(PairedSample.of(LABEL, one, two).resampled(4000, 2))
    for place, figure in enumerate((roc.auc, lambda c: roc.tpr_at_fpr(c, 0.05))):
        ours = np.concatenate([figure(a) - figure(b) for a, b in drawn])
        assert ks_2samp(ours, np.array(naive)[:, place]).pvalue > 0.01


def test_either_finder_keeps_the_totals_of_the_sample():
    one, two = two_finders(3)
    for curves in PairedSample.of(LABEL, one, two).resampled(100, 0):
        for curve in curves:
            assert (curve.n_positive == 50).all()
            assert (curve.n_negative == 300).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40))
def test_joint_counts_add_up_to_those_of_either_finder(pairs):
    one, two = np.array(pairs).T
    joint = JointCounts.of(one, two)
    for finder, values in enumerate((one, two)):
        places, counts = np.unique(values, return_counts=True)
        assert np.array_equal(joint.places[finder], places)
        assert np.array_equal(joint.split(joint.counts)[finder], counts)
        assert np.array_equal(joint.split(np.stack([joint.counts] * 2))[finder], [counts, counts])


def test_a_finder_does_not_differ_from_itself():
    one, _ = two_finders(4)
    for found in paired_bootstrap(LABEL, one, one, (0.05,), 200, 0).values():
        assert (found.value, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_the_differences_are_those_of_the_metrics_and_change_sign_with_the_finders():
    one, two = two_finders(5)
    found = paired_bootstrap(LABEL, one, two, (0.05,), 500, 0)
    swapped = paired_bootstrap(LABEL, two, one, (0.05,), 500, 0)
    assert set(found) == {"auc", "tpr_at_fpr_0.05"}
    assert found["auc"].value == pytest.approx(roc_auc_score(LABEL, one) - roc_auc_score(LABEL, two))
    assert swapped["auc"].value == pytest.approx(-found["auc"].value)


def test_the_p_value_agrees_with_the_interval_and_nearly_with_delongs():
    ours, theirs = [], []
    for seed in range(8):
        one, two = two_finders(seed, digits=6)
        found = paired_bootstrap(LABEL, one, two, {"auc": roc.auc}, 2000, seed)["auc"]
        if abs(found.p_value - 0.05) > 0.003:
            assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)
        ours.append(found.p_value)
        theirs.append(delong(LABEL, one, two).difference().p_value)
    assert np.allclose(ours, theirs, atol=0.06)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(2, 25), st.integers(1, 6))
def test_delong_is_the_covariance_of_the_u_statistics_components(seed, lenses, others, levels):
    """All pairs of a positive and a negative, ties half (DeLong, DeLong & Clarke-Pearson 1988, equations 4 to 6)."""
    rng = np.random.default_rng(seed)
    label = np.r_[np.ones(lenses, bool), np.zeros(others, bool)]
    scores = rng.integers(0, levels + 1, (2, lenses + others)).astype(float)
    found = delong(label, *scores)
    pairs = np.array([np.heaviside(s[label][:, None] - s[~label][None, :], 0.5) for s in scores])
    v10, v01 = pairs.mean(axis=2), pairs.mean(axis=1)
    expected = np.cov(v10) / lenses + np.cov(v01) / others
    assert np.allclose(found.auc, [roc_auc_score(label, s) for s in scores])
    assert np.allclose(found.covariance, expected, atol=1e-12)
    error = np.sqrt(max(0, expected[0, 0] + expected[1, 1] - 2 * expected[0, 1]))
    difference = found.difference()
    if error > 1e-6:
        assert difference.p_value == pytest.approx(2 * norm.sf(abs(difference.value) / error), abs=1e-9)


def test_delong_gives_the_numbers_of_published_implementations():
    """Of MLstatkit 0.1.91 (``Delong_test``) and, within its single precision, confidenceinterval 1.0.5, on the Wisconsin breast
    cancer data of scikit-learn: 569 tumours ranked by mean radius and by mean texture, with many ties."""
    data = load_breast_cancer()
    column = dict(zip(data.feature_names, data.data.T, strict=True))
    found = delong(data.target, -column["mean radius"], -column["mean texture"])
    for number, limits in ((0, (0.9170206708533339, 0.958012361227423)), (1, (0.7371459378115024, 0.8145030236598785))):
        interval = found.interval(number)
        assert (interval.low, interval.high) == pytest.approx(limits, abs=1e-9)
    difference = found.difference()
    assert difference.value == pytest.approx(0.9375165160403784 - 0.7758244807356904, abs=1e-12)
    assert difference.value / np.sqrt(0.0004894255038550451) == pytest.approx(7.308787404733406, rel=1e-9)
    assert difference.p_value == pytest.approx(2.6956386253426067e-13, rel=1e-6)
    half = 1.959963984540054 * np.sqrt(0.0004894255038550451)
    assert (difference.low, difference.high) == pytest.approx(
        (difference.value - half, difference.value + half), abs=1e-9
    )


def test_delongs_variance_is_nearly_the_jackknifes():
    one, two = two_finders(6, digits=6)
    everyone = np.arange(len(LABEL))
    variance = 0.0
    for inside in (np.flatnonzero(LABEL), np.flatnonzero(~LABEL)):
        left_out = []
        for place in inside:
            kept = everyone != place
            left_out.append(roc_auc_score(LABEL[kept], one[kept]) - roc_auc_score(LABEL[kept], two[kept]))
        size = len(inside)
        variance += (size - 1) / size * np.sum((left_out - np.mean(left_out)) ** 2)
    found = delong(LABEL, one, two).covariance
    assert found[0, 0] + found[1, 1] - 2 * found[0, 1] == pytest.approx(variance, rel=1e-6)


def test_a_perfect_auc_keeps_an_honest_interval_without_resampling():
    found = delong([1] * 10 + [0] * 50, np.r_[np.ones(10), np.zeros(50)])
    assert found.interval() == found.logit_interval()
    assert found.interval().low < 0.85
    assert found.interval().high == 1


def test_mcnemar_is_the_binomial_test_of_the_discordant_objects():
    one = np.r_[np.ones(9), np.zeros(2), np.ones(50)].astype(bool)
    two = np.r_[np.zeros(9), np.ones(2), np.ones(50)].astype(bool)
    as_uneven = sum(comb(11, heads) for heads in (0, 1, 2, 9, 10, 11)) / 2**11
    assert mcnemar(one, two) == pytest.approx(as_uneven)
    assert mcnemar(one, one) == 1
