"""Ranking metrics from gap counts against scikit-learn and brute force, on scores with many ties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from lensdata.audit import intervals, roc
from lensdata.audit.delong import delong

LEVELS = [0.0, 0.01, 0.1, 0.25, 0.5, 1.0]


@st.composite
def scored(draw, smallest=2):
    """Labels with both classes, scores with many ties."""
    size = draw(st.integers(smallest, 60))
    label = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    label[: smallest // 2], label[-(smallest // 2) :] = True, False
    levels = draw(st.integers(1, 12))
    score = np.array(draw(st.lists(st.integers(0, levels), min_size=size, max_size=size))) / 3.0
    return label, score


def tpr_by_scikit_learn(label, score, level):
    fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
    return tpr[fpr <= level + 1e-12].max()


@settings(max_examples=150, deadline=None)
@given(scored(), st.sampled_from(LEVELS))
def test_metrics_from_gap_counts_are_those_of_scikit_learn(data, level):
    label, score = data
    counts = roc.compress(label, score)
    curve = counts.roc()
    assert (counts.n_positive, counts.n_negative) == (label.sum(), (~label).sum())
    assert roc.auc(curve) == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert roc.average_precision(curve) == pytest.approx(average_precision_score(label, score), abs=1e-12)
    assert roc.tpr_at_fpr(curve, level) == pytest.approx(tpr_by_scikit_learn(label, score, level), abs=1e-12)
    if 0 < level < 1:
        expected = roc_auc_score(label, score, max_fpr=level)
        assert roc.partial_auc(curve, level) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(scored(), st.sampled_from(LEVELS))
def test_the_threshold_of_a_false_positive_rate_gives_its_completeness(data, level):
    label, score = data
    threshold = roc.threshold_at_fpr(roc.compress(label, score), level)
    assert (score[~label] >= threshold).mean() <= level + 1e-12
    assert (score[label] >= threshold).mean() == pytest.approx(tpr_by_scikit_learn(label, score, level), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(scored(), st.sampled_from([0.1, 0.5, 0.9, 0.95, 1.0]))
def test_precision_and_recall_are_the_best_points_of_scikit_learns_curve(data, level):
    label, score = data
    curve = roc.compress(label, score).roc()
    precision, recall, _ = precision_recall_curve(label, score)
    found, pure = precision[:-1], recall[:-1]  # without the point that scikit-learn adds beyond all thresholds
    assert roc.precision_at_recall(curve, level) == pytest.approx(found[pure >= level - 1e-12].max(), abs=1e-12)
    best = pure[found >= level - 1e-12].max(initial=0.0)
    assert roc.recall_at_precision(curve, level) == pytest.approx(best, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(scored(), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_the_top_of_the_list_is_the_mean_over_the_orders_of_ties(data, size, seed):
    label, score = data
    size = min(size, len(label))
    last = np.sort(score)[::-1][size - 1]
    above, tied = score > last, score == last
    expected = label[above].sum() + label[tied].mean() * (size - above.sum())
    assert roc.precision_in_top(roc.compress(label, score).roc(), size) == pytest.approx(expected / size, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(scored(), st.integers(0, 12))
def test_completeness_at_a_number_of_false_positives_is_that_of_some_threshold(data, allowed):
    label, score = data
    tried = [np.inf, *np.unique(score)]
    expected = max((score[label] >= t).mean() for t in tried if (score[~label] >= t).sum() <= allowed)
    assert roc.tpr_at_count(roc.compress(label, score).roc(), allowed) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(scored(smallest=4))
def test_the_error_of_the_auc_is_delongs(data):
    label, score = data
    expected = np.sqrt(delong(label, score).covariance[0, 0])
    assert roc.auc_error(roc.compress(label, score).roc()) == pytest.approx(expected, abs=1e-7)


FIGURES = {
    "auc": (roc.auc, roc_auc_score),
    "average_precision": (roc.average_precision, average_precision_score),
    "tpr": (lambda c: roc.tpr_at_fpr(c, 0.05), lambda y, s: tpr_by_scikit_learn(y, s, 0.05)),
    "partial": (lambda c: roc.partial_auc(c, 0.1), lambda y, s: roc_auc_score(y, s, max_fpr=0.1)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_resample_has_the_metrics_of_the_objects_drawn(name):
    """A resample's counts are written out as labels and scores and given to scikit-learn."""
    ours, theirs = FIGURES[name]
    rng = np.random.default_rng(5)
    label = np.r_[np.ones(40, bool), np.zeros(300, bool)]
    score = np.round(rng.normal(label * 1.5, 1.0), 1)
    counts = roc.compress(label, score)
    middles = (counts.scores[1:] + counts.scores[:-1]) / 2
    place = np.empty(2 * len(counts.scores) + 1)
    place[1::2], place[0::2] = counts.scores, [counts.scores[0] + 1, *middles, counts.scores[-1] - 1]
    curves = next(intervals.resampled(counts, 50, 3))
    values = ours(curves)
    for row in range(50):
        positives, negatives = np.diff(curves.true[row]), np.diff(curves.false[row])
        assert (positives.sum(), negatives.sum()) == (40, 300)
        drawn = np.r_[np.repeat(counts.scores, positives), np.repeat(place[counts.cells], negatives)]
        assert values[row] == pytest.approx(theirs(np.r_[np.ones(40), np.zeros(300)], drawn), abs=1e-12)


@pytest.mark.parametrize(("label", "score"), [([1, 1], [0.1, 0.2]), ([0, 1], [np.nan, 0.2]), ([0, 1], [np.inf, 0.2])])
def test_one_class_or_nan_is_refused(label, score):
    with pytest.raises(ValueError, match="classes|finite"):
        roc.compress(label, score)
