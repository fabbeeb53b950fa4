"""The bootstrap against a naive one, binomial intervals against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.stats import binom_conf_interval
from scipy.stats import beta, ks_2samp
from sklearn.metrics import roc_auc_score

from lensdata.audit import intervals, roc

RNG = np.random.default_rng(0)
LABEL = np.r_[np.ones(60, bool), np.zeros(400, bool)]
SCORE = np.round(RNG.normal(LABEL * 1.5, 1.0), 1)


@pytest.fixture(scope="module")
def naive():
    """Objects drawn one by one: AUC and completeness at a false-positive rate of 0.05 of each resample."""
    rng = np.random.default_rng(7)
    found = []
    for _ in range(800):
        rows = np.r_[rng.choice(60, 60), 60 + rng.choice(400, 400)]
        counts = roc.compress(LABEL[rows], SCORE[rows]).roc()  # itself tested against scikit-learn
        found.append((roc_auc_score(LABEL[rows], SCORE[rows]), float(roc.tpr_at_fpr(counts, 0.05))))
    return np.array(found).T


def test_resamples_are_distributed_as_naive_ones(naive):
    wanted = {"auc": roc.auc, "tpr": lambda curve: roc.tpr_at_fpr(curve, 0.05)}
    drawn = intervals.evaluate(intervals.resampled(roc.compress(LABEL, SCORE), 4000, 1), wanted)
    for ours, theirs in zip((drawn["auc"], drawn["tpr"]), naive, strict=True):
        assert ks_2samp(ours, theirs).pvalue > 0.01
        assert ours.std() == pytest.approx(theirs.std(), rel=0.08)


@pytest.mark.parametrize("per_cell", [2, 40])
def test_counts_are_multinomial_whichever_way_they_are_drawn(per_cell):
    counts = np.array([1, 3, 0, 2, 4]) * per_cell
    drawn = intervals.multinomial(np.random.default_rng(0), counts, 20_000)
    share = counts / counts.sum()
    assert (drawn.sum(axis=1) == counts.sum()).all()
    assert np.allclose(drawn.mean(axis=0), counts, atol=0.05 * np.sqrt(per_cell))
    expected = counts.sum() * (np.diag(share) - np.outer(share, share))
    assert np.allclose(np.cov(drawn.T), expected, atol=0.06 * counts.max())


def test_the_bootstrap_is_the_same_for_the_same_seed():
    counts = roc.compress(LABEL, SCORE)
    assert intervals.bootstrap(counts, (0.1,), 200, 3) == intervals.bootstrap(counts, (0.1,), 200, 3)
    assert intervals.bootstrap(counts, (0.1,), 200, 3) != intervals.bootstrap(counts, (0.1,), 200, 4)


def test_intervals_hold_their_values():
    for name, found in intervals.bootstrap(roc.compress(LABEL, SCORE), (0.05, 0.0001), 500, 1).items():
        assert 0 <= found.low <= found.value <= found.high <= 1, name


def test_a_perfect_ranking_is_not_a_certain_one():
    found = intervals.bootstrap(roc.compress([1] * 20 + [0] * 500, [1.0] * 20 + [0.0] * 500), (0.01,), 200, 0)
    assert found["auc"].value == found["tpr_at_fpr_0.01"].value == 1
    assert found["auc"].low == found["tpr_at_fpr_0.01"].low == intervals.binomial(20, 20).low


@pytest.mark.parametrize(("label", "score"), [([1, 0], [1, 0]), ([1, 0, 0], [0, 1, 2]), ([1, 1, 0, 0], [0, 0, 0, 0])])
def test_the_smallest_samples_have_finite_intervals(label, score):
    for found in intervals.bootstrap(roc.compress(label, score), (0.01,), 100, 0).values():
        assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (13, 134_149), (5, 7)])
def test_binomial_intervals_are_those_of_astropy_and_of_their_definition(successes, trials):
    for method in ("jeffreys", "wilson"):
        found = intervals.binomial(successes, trials, method)
        expected = binom_conf_interval(successes, trials, 0.95, interval=method)
        assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-9)
    exact = intervals.binomial(successes, trials, "clopper-pearson")
    low = beta.ppf(0.025, successes, trials - successes + 1) if successes else 0.0
    high = beta.ppf(0.975, successes + 1, trials - successes) if successes < trials else 1.0
    assert (exact.low, exact.high) == pytest.approx((low, high))


def test_no_trials_say_nothing():
    found = intervals.binomial(0, 0)
    assert np.isnan(found.value)
    assert (found.low, found.high) == (0.0, 1.0)


def test_holm_rejects_what_its_steps_reject():
    """By the definition: sorted p-values against 0.05 / (m - i), up to the first that is not below."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        p = rng.uniform(0, 0.1, 8)
        rejected = np.zeros(8, bool)
        for step, place in enumerate(np.argsort(p)):
            if p[place] > 0.05 / (8 - step):
                break
            rejected[place] = True
        assert np.array_equal(intervals.holm(p) <= 0.05, rejected)
