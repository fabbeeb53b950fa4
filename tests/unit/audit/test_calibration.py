"""Calibration figures against scikit-learn, brute force and samples whose calibration is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss, d2_brier_score, d2_log_loss_score, log_loss

from lensdata.audit import calibration
from lensdata.audit.smooth_ece import LOGIT_LIMIT, smooth_ece, smooth_ece_of_logits

SEEDS = st.integers(0, 2**32 - 1)


def sample(seed, size=300, digits=None):
    """Calibrated scores, rounded where ties are wanted."""
    rng = np.random.default_rng(seed)
    score = rng.uniform(0, 1, size)
    label = (rng.uniform(0, 1, size) < score).astype(int)
    label[:2] = 0, 1
    return label, score if digits is None else np.round(score, digits)


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_reliability_agrees_with_scikit_learn(seed):
    label, score = sample(seed)
    bins = calibration.reliability(label, score, 10)
    observed, mean = calibration_curve(label, score, n_bins=10)
    assert np.allclose([entry.observed.value for entry in bins], observed)
    assert np.allclose([entry.mean_score for entry in bins], mean)


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_bins_of_equal_mass_are_the_quantiles_of_scikit_learn(seed):
    label, score = sample(seed)
    bins = calibration.equal_mass(label, score, 10)
    observed, mean = calibration_curve(label, score, n_bins=10, strategy="quantile")
    assert {entry.members for entry in bins} == {30}
    assert np.allclose([entry.observed.value for entry in bins], observed)
    assert np.allclose([entry.mean_score for entry in bins], mean)


def test_tied_scores_stay_in_one_bin():
    bins = calibration.equal_mass([0, 1] * 50, [0.5] * 90 + [0.9] * 10, 5)
    assert [entry.members for entry in bins] == [90, 10]


def test_errors_are_those_of_their_definitions():
    label, score = np.array([0, 0, 1, 1, 1, 0]), np.array([0.1, 0.1, 0.1, 0.9, 0.9, 0.7])
    bins = calibration.reliability(label, score, 2)
    errors = abs(1 / 3 - 0.1), abs(2 / 3 - 2.5 / 3)
    assert calibration.expected_calibration_error(bins) == pytest.approx(0.5 * sum(errors))
    assert calibration.maximum_calibration_error(bins, 3) == pytest.approx(max(errors))
    assert calibration.maximum_calibration_error(bins, 4) is None
    variance = (1 / 3) * (2 / 3) / 2
    expected = 0.5 * sum(error**2 - variance for error in errors)
    assert calibration.debiased_squared_error(bins) == pytest.approx(expected)


def test_the_debiased_error_is_zero_on_average_where_the_plain_one_is_not():
    rng = np.random.default_rng(0)
    plain, debiased = [], []
    for _ in range(600):
        score = np.repeat(rng.uniform(0, 1, 10), 20)
        bins = calibration.equal_mass(rng.random(200) < score, score, 10)
        plain.append(sum(b.members * b.error**2 for b in bins) / 200)
        debiased.append(calibration.debiased_squared_error(bins))
    error = np.std(debiased) / np.sqrt(600)
    assert abs(np.mean(debiased)) < 3 * error
    assert np.mean(plain) > 20 * error


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_losses_and_skills_are_those_of_scikit_learn(seed):
    label, score = sample(seed, 100)
    score = np.clip(score, 1e-6, 1 - 1e-6)
    loss = calibration.log_loss(label, logit(score))
    assert loss == pytest.approx(log_loss(label, score))
    assert calibration.log_loss_of_probabilities(label, score) == pytest.approx(loss)
    assert calibration.log_loss_skill(label, loss) == pytest.approx(d2_log_loss_score(label, score))
    assert calibration.brier_skill(label, score) == pytest.approx(d2_brier_score(label, score))


def test_logits_of_forty_lose_nothing():
    assert calibration.log_loss([1, 0], [40.0, -40.0]) == pytest.approx(np.exp(-40.0))
    assert calibration.log_loss([0], [40.0]) == pytest.approx(40.0)
    assert calibration.log_loss_of_probabilities([0], [1.0]) == np.inf


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.sampled_from([None, 1]))
def test_the_decomposition_adds_up_and_uses_the_isotonic_fit(seed, digits):
    label, score = sample(seed, 120, digits)
    found = calibration.corp(label, score)
    assert found.mcb - found.dsc + found.unc == pytest.approx(brier_score_loss(label, score))
    fitted = IsotonicRegression().fit_transform(score, label)
    assert found.unc - found.dsc == pytest.approx(brier_score_loss(label, fitted))
    assert found.mcb >= -1e-12
    assert found.dsc >= -1e-12


def test_scores_tied_at_one_are_told_apart_by_their_logits():
    logits = np.array([50.0, 45.0, 41.0, 38.0])
    label, p = np.array([1, 1, 0, 0]), expit(logits)
    assert len(set(p)) == 1
    assert calibration.corp(label, p).dsc == pytest.approx(0)
    assert calibration.corp(label, p, logits).dsc == pytest.approx(0.25)


def test_the_tail_is_the_top_of_the_list_with_its_ties():
    logits = np.r_[np.arange(990.0), [2000.0] * 10]
    label = np.r_[np.zeros(990), np.ones(8), 0, 0]
    found = dict(calibration.tail(label, logits / 100, (1e-1, 5e-3, 1e-4)))
    assert found[1e-4] is None
    assert found[5e-3].members == 10
    assert found[5e-3].observed.value == pytest.approx(0.8)
    assert found[1e-1].members == 100
    assert found[1e-1].mean_score == pytest.approx(expit(np.sort(logits)[-100:] / 100).mean())


def direct_smooth_ece(place, residual, width, bandwidth):
    """The integral by the trapezoid rule, every kernel and its reflections at both ends summed over all objects."""
    grid = np.linspace(0, 1, 4001)
    sigma = bandwidth / width
    smoothed = np.zeros_like(grid)
    for shift in range(-6, 7, 2):
        for image in (place + shift, -place + shift):
            smoothed += np.exp(-0.5 * ((grid[:, None] - image) / sigma) ** 2) @ residual
    density = smoothed / (np.sqrt(2 * np.pi) * sigma * len(place))
    return np.trapezoid(np.abs(density), grid)


@pytest.mark.parametrize("seed", range(4))
def test_smooth_ece_is_the_fixed_point_of_the_direct_sum(seed):
    label, score = sample(seed, 250)
    score = score ** (1 + seed)
    found = smooth_ece(label, score)
    assert direct_smooth_ece(score, label - score, 1.0, found) == pytest.approx(found, rel=2e-3)


@pytest.mark.parametrize("seed", range(4))
def test_smooth_ece_of_logits_is_the_fixed_point_of_the_direct_sum(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 6, 250) + 2 * seed
    label = (rng.random(250) < expit(0.3 * logits - 1)).astype(float)
    found = smooth_ece_of_logits(label, logits)
    place = (logits + LOGIT_LIMIT) / (2 * LOGIT_LIMIT)
    grid_error = 80 / 4000  # of the direct sum, against a bandwidth of about 0.2 logits
    assert direct_smooth_ece(place, label - expit(logits), 80.0, found) == pytest.approx(found, rel=grid_error)


def test_smooth_ece_is_small_for_calibrated_scores_and_about_the_shift_for_shifted_ones():
    label, score = sample(0, 50_000)
    assert smooth_ece(label, score) < 0.02
    assert smooth_ece(label, np.clip(score + 0.2, 0, 1)) == pytest.approx(0.18, abs=0.03)


@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
def test_constant_scores_and_extreme_logits_are_no_trouble(score):
    label = np.array([0, 1] * 20)
    assert smooth_ece(label, np.full(40, score)) == pytest.approx(abs(0.5 - score), abs=1e-6)
    assert np.isfinite(smooth_ece_of_logits(label, np.full(40, 60 * (score - 0.5))))
    assert calibration.expected_calibration_error(calibration.reliability(label, np.full(40, score))) == abs(
        0.5 - score
    )
