"""Recalibrations find the map that made the scores wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from lensdata.audit import calibration, recalibration


def sample(seed=0, size=40_000, slope=0.5, offset=-1.0):
    """Logits and labels with P(lens) = sigma(slope * logit + offset)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, size)
    return logits, (rng.random(size) < expit(slope * logits + offset)).astype(np.int64)


def test_platt_finds_the_line():
    found = recalibration.platt(*sample())
    assert found.parameters["slope"] == pytest.approx(0.5, abs=0.02)
    assert found.parameters["offset"] == pytest.approx(-1.0, abs=0.05)


def test_temperature_finds_the_factor():
    found = recalibration.temperature(*sample(offset=0.0)).parameters
    assert found["inverse_temperature"] == pytest.approx(0.5, abs=0.015)


def test_beta_holds_the_line_and_more():
    """With a = b it is Platt's line; with other weights of ln p and ln(1 - p) it finds these."""
    line = recalibration.beta(*sample())
    assert line.parameters["a"] == pytest.approx(0.5, abs=0.06)
    assert line.parameters["b"] == pytest.approx(0.5, abs=0.06)
    logits, _ = sample()
    truth = 1.5 * -np.logaddexp(0, -logits) + 0.4 * np.logaddexp(0, logits) + 0.3
    label = (np.random.default_rng(1).random(len(logits)) < expit(truth)).astype(np.int64)
    found = recalibration.beta(logits, label).parameters
    assert [found[name] for name in "abc"] == pytest.approx([1.5, 0.4, 0.3], abs=0.15)


def test_beta_never_turns_the_order_round():
    logits, label = sample(3, 300)
    found = recalibration.beta(logits, 1 - label)
    assert min(found.parameters["a"], found.parameters["b"]) >= 0
    assert (np.diff(found.probabilities(np.linspace(-40, 40, 200))) >= 0).all()


def test_isotonic_is_that_of_scikit_learn():
    logits, label = sample(2, 500)
    expected = IsotonicRegression(out_of_bounds="clip").fit(logits, label).predict(logits)
    assert np.allclose(recalibration.isotonic(logits, label).probabilities(logits), expected)


def test_platt_is_the_unpenalised_logistic_regression():
    logits, label = sample(4, 400)
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits[:, None], label)
    found = recalibration.platt(logits, label).parameters
    assert found["slope"] == pytest.approx(model.coef_[0, 0], rel=1e-3)


def test_every_method_improves_scores_that_are_wrong_and_only_isotonic_ties():
    found = recalibration.compare(*sample(0), *sample(1), bins=15)
    assert set(found) == {"none", "platt", "temperature", "beta", "isotonic"}
    for name in ("platt", "beta", "isotonic"):
        for skill in ("brier_skill", "log_loss_skill"):
            assert found[name][skill] is None or found[name][skill] > found["none"][skill]
        assert found[name]["ece"] < 0.2 * found["none"]["ece"]
        assert found[name]["mcb"] < 0.2 * found["none"]["mcb"]


@pytest.mark.parametrize("method", recalibration.METHODS)
def test_separated_classes_and_logits_of_forty_give_finite_maps(method):
    logits = np.r_[np.linspace(-40, -1, 50), np.linspace(1, 40, 50)]
    label = np.r_[np.zeros(50, int), np.ones(50, int)]
    fitted = recalibration.METHODS[method](logits, label)
    assert np.isfinite(list(fitted.parameters.values())).all()
    p = fitted.probabilities(np.array([-40.0, -1.0, 0.0, 1.0, 40.0]))
    assert ((p >= 0) & (p <= 1)).all()
    assert (np.diff(p) >= 0).all()


def test_an_infinite_loss_is_null_with_a_reason():
    logits = np.arange(20.0)
    fit, judged = (logits > 9).astype(int), (logits > 11).astype(int)
    found = recalibration.compare(logits, fit, logits, judged, bins=5)
    assert found["isotonic"]["log_loss_skill"] is None
    assert "infinitely" in found["isotonic"]["log_loss_reason"]
    json.dumps(found, allow_nan=False)


def test_a_shift_keeps_scores_calibrated_where_only_the_share_of_lenses_changes():
    rng = np.random.default_rng(0)
    label = rng.random(200_000) < 0.5
    logits = rng.normal(
        np.where(label, 1.0, -1.0), np.sqrt(2)
    )  # ln of the ratio of these densities is the score itself
    kept = ~label | (rng.random(len(label)) < 0.05)
    shift = recalibration.shift_logit(0.5, label[kept].mean())
    before, after = (calibration.reliability(label[kept], expit(logits[kept] + added)) for added in (0.0, shift))
    assert calibration.expected_calibration_error(before) > 0.1
    assert calibration.expected_calibration_error(after) < 0.01


def test_the_table_of_survey_probabilities():
    """From 93.3 others to a lens to one lens in 10,000 galaxies."""
    shift = recalibration.shift_logit(1 / 94.3, 1e-4)
    expected = {0.4: 0.0062, 0.5: 0.0092, 0.9: 0.077, 0.9867: 0.41, 0.99: 0.48, 0.999: 0.90, 0.9999: 0.989}
    assert np.exp(shift) == pytest.approx(0.00933, abs=5e-6)
    for score, there in expected.items():
        assert float(recalibration.shifted(score, shift)) == pytest.approx(there, abs=0.005 if there > 0.1 else 6e-4)
