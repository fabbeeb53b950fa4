"""Ranking metrics against scikit-learn, the bootstrap against a naive one, intervals by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from lensdata.audit import calibration, intervals


@st.composite
def scored(draw):
    """Labels with both classes, scores with many ties."""
    size = draw(st.integers(2, 60))
    label = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    label[0], label[-1] = True, False
    levels = draw(st.integers(1, 12))
    score = np.array(draw(st.lists(st.integers(0, levels), min_size=size, max_size=size))) / 3.0
    return label, score


@settings(max_examples=300, deadline=None)
@given(scored(), st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5, 1.0]))
def test_metrics_from_gap_counts_are_those_of_scikit_learn(data, level):
    label, score = data
    counts = intervals.compress(label, score)
    assert counts.n_positive == label.sum()
    assert counts.n_negative == (~label).sum()
    assert intervals.auc(counts.positives, counts.negatives) == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert intervals.average_precision(counts.positives, counts.negatives) == pytest.approx(
        average_precision_score(label, score), abs=1e-12
    )
    fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
    assert intervals.tpr_at_fpr(counts.positives, counts.negatives, level) == pytest.approx(
        tpr[fpr <= level + 1e-12].max(), abs=1e-12
    )
    threshold = intervals.threshold_at_fpr(counts, level)
    assert (score[~label] >= threshold).mean() <= level + 1e-12
    assert (score[label] >= threshold).mean() == pytest.approx(tpr[fpr <= level + 1e-12].max(), abs=1e-12)


def test_the_bootstrap_has_the_spread_of_a_naive_one():
    rng = np.random.default_rng(0)
    label = np.r_[np.ones(60, bool), np.zeros(400, bool)]
    score = np.round(rng.normal(label * 1.5, 1.0), 1)
    found = intervals.bootstrap(intervals.compress(label, score), (0.05,), 4000, 1)
    naive = []
    for _ in range(1500):
        rows = np.r_[rng.choice(60, 60), 60 + rng.choice(400, 400)]
        naive.append(roc_auc_score(label[rows], score[rows]))
    low, high = np.percentile(naive, [2.5, 97.5])
    assert found["auc"].value == pytest.approx(roc_auc_score(label, score))
    assert found["auc"].low == pytest.approx(low, abs=0.006)
    assert found["auc"].high == pytest.approx(high, abs=0.006)
    assert found["tpr_at_fpr_0.05"].low <= found["tpr_at_fpr_0.05"].value <= found["tpr_at_fpr_0.05"].high


def test_the_bootstrap_is_the_same_for_the_same_seed():
    counts = intervals.compress([1, 1, 0, 0, 0], [0.9, 0.4, 0.5, 0.1, 0.1])
    assert intervals.bootstrap(counts, (0.1,), 200, 3) == intervals.bootstrap(counts, (0.1,), 200, 3)


@pytest.mark.parametrize(("label", "score"), [([1, 1], [0.1, 0.2]), ([0, 1], [np.nan, 0.2])])
def test_one_class_or_nan_is_refused(label, score):
    with pytest.raises(ValueError, match="classes|finite"):
        intervals.compress(label, score)


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_binomial_intervals_cover(rate):
    rng = np.random.default_rng(2)
    hits = rng.binomial(100, rate, 2000)
    covered = [found.low <= rate <= found.high for found in (intervals.binomial(int(k), 100) for k in hits)]
    assert 0.92 < np.mean(covered) < 0.98


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_calibration_agrees_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    score = rng.uniform(0, 1, 300)
    label = (rng.uniform(0, 1, 300) < score).astype(int)
    bins = calibration.reliability(label, score, 10)
    observed, mean = calibration_curve(label, score, n_bins=10)
    assert np.allclose([entry.observed.value for entry in bins], observed)
    assert np.allclose([entry.mean_score for entry in bins], mean)
    assert calibration.brier_score(label, score) == pytest.approx(brier_score_loss(label, score))
