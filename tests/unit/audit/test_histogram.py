"""The histogram of a survey's logits against the sorted logits themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lensdata.audit.histogram import LogitHistogram, lower_edges, merged, threshold

LOGITS = arrays(np.float32, st.integers(1, 300), elements=st.floats(-50, 50, width=32))


@given(LOGITS, st.integers(1, 300))
def test_no_logit_among_the_k_highest_lies_below_the_floor(logits: np.ndarray, k: int) -> None:
    floor = LogitHistogram.of(logits).floor(k)
    if k > len(logits):
        assert floor == -np.inf
    else:
        assert floor <= np.sort(logits)[::-1][k - 1]


@given(LOGITS)
def test_every_logit_lies_in_its_bin(logits: np.ndarray) -> None:
    histogram = LogitHistogram.of(logits)
    assert histogram.total == len(logits)
    for rank, value in enumerate(np.sort(logits)[::-1]):
        low, high = histogram.bracket(rank)
        assert low <= value < high or (value == 0 and low <= 0 <= high)


@given(LOGITS, st.integers(1, 7))
def test_a_survey_in_parts_is_counted_as_one(logits: np.ndarray, pieces: int) -> None:
    whole, parts = LogitHistogram.of(logits), [LogitHistogram.of(one) for one in np.array_split(logits, pieces)]
    together = merged(parts[::-1])
    np.testing.assert_array_equal(together.bins, whole.bins)
    np.testing.assert_array_equal(together.counts, whole.counts)


@given(LOGITS, st.floats(0.001, 0.99), st.integers(1, 300))
def test_no_more_than_the_allowed_share_exceeds_a_threshold(logits: np.ndarray, level: float, kept: int) -> None:
    highest = np.sort(logits)[::-1][:kept]
    found = threshold(LogitHistogram.of(logits), highest, level)
    if found["above"] is None:
        assert int(level * len(logits) * (1 + 1e-9)) == 0
        return
    above = int((logits > found["above"]).sum())
    assert above <= found["allowed"]
    if found["exact"]:  # no lower threshold does: the next lower logit would let too many through
        assert int((logits >= found["above"]).sum()) > found["allowed"]


def test_bins_are_a_twentieth_of_a_percent_wide_and_in_the_order_of_the_floats() -> None:
    values = np.linspace(-40, 40, 100_001).astype(np.float32)
    histogram = LogitHistogram.of(values)
    edges = lower_edges(histogram.bins)
    assert np.all(np.diff(edges) > 0)
    at_seven = np.array(histogram.bracket(int((values > 7).sum())))
    assert np.diff(at_seven)[0] / 7 < 6e-4


def test_a_logit_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        LogitHistogram.of([1.0, np.nan])
