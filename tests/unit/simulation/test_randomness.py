"""Noise and draws that depend on identity alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lensdata.simulation.randomness import hashed_normal, hashed_uniform, key_of, pixel_noise


@given(st.integers(0, 2**31), st.integers(-9, 60), st.integers(-9, 60), st.integers(1, 30), st.integers(1, 30))
def test_a_window_of_noise_is_the_cut_of_any_larger_window(seed: int, y: int, x: int, height: int, width: int) -> None:
    key = key_of(seed, "noise")
    whole = pixel_noise(key, -10, -11, 110, 111, 3600)
    window = pixel_noise(key, y, x, height, width, 3600)
    np.testing.assert_array_equal(window, whole[y + 10 : y + 10 + height, x + 11 : x + 11 + width])


def test_noise_is_normal_and_white() -> None:
    noise = pixel_noise(key_of(1, "noise"), 0, 0, 600, 600, 3600)
    assert stats.kstest(noise.ravel(), "norm").pvalue > 0.01
    for shifted in (noise[:, 1:] * noise[:, :-1], noise[1:] * noise[:-1], noise[1:, 1:] * noise[:-1, :-1]):
        assert abs(shifted.mean()) < 4 / np.sqrt(shifted.size)


def test_draws_differ_by_purpose_and_seed_and_are_uniform() -> None:
    ids = np.arange(20000)
    first, second, third = hashed_uniform(1, "a", ids), hashed_uniform(1, "b", ids), hashed_uniform(2, "a", ids)
    assert abs(np.corrcoef([first, second, third])[np.triu_indices(3, 1)]).max() < 0.03
    assert stats.kstest(first, "uniform").pvalue > 0.01
    assert stats.kstest(hashed_normal(1, "a", ids), "norm").pvalue > 0.01
