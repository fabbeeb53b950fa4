"""Conformal selection: p-values by counting, Benjamini-Hochberg against SciPy, and the promised rate by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import false_discovery_control

from lensdata.audit import conformal

SCORES = arrays(np.float64, st.integers(1, 60), elements=st.integers(-5, 5).map(float))


@given(SCORES, SCORES)
def test_a_p_value_counts_the_negatives_that_score_as_high(scores: np.ndarray, negatives: np.ndarray) -> None:
    expected = [(1 + int((negatives >= score).sum())) / (len(negatives) + 1) for score in scores]
    np.testing.assert_allclose(conformal.p_values(scores, negatives), expected)


@given(arrays(np.float64, st.integers(1, 60), elements=st.floats(0.001, 1)))
def test_q_values_of_all_tests_are_those_of_scipy(p: np.ndarray) -> None:
    np.testing.assert_allclose(conformal.q_values(p, len(p)), false_discovery_control(p), atol=1e-12)


@given(arrays(np.float64, st.integers(2, 60), elements=st.floats(0.001, 1)), st.integers(1, 59))
def test_leaving_out_large_p_values_never_selects_more(p: np.ndarray, kept: int) -> None:
    smallest = np.sort(p)[: min(kept, len(p))]
    assert np.all(conformal.q_values(smallest, len(p)) >= np.sort(false_discovery_control(p))[: len(smallest)] - 1e-12)


def test_the_share_of_false_discoveries_stays_below_the_rate_asked_for() -> None:
    rng, rate, shares = np.random.default_rng(0), 0.2, []
    for _ in range(300):
        survey = np.concatenate([rng.normal(size=1000), rng.normal(4, 1, 40)])
        q = conformal.q_values(conformal.p_values(survey, rng.normal(size=4000)), len(survey))
        chosen = q <= rate
        shares.append(chosen[:1000].sum() / max(1, chosen.sum()))
    assert np.mean(shares) < rate + 3 * np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) > 0.1  # and it is not empty


def test_more_p_values_than_tests_are_refused() -> None:
    with pytest.raises(ValueError, match="3 p-values of 2 tests"):
        conformal.q_values([0.1, 0.2, 0.3], 2)
