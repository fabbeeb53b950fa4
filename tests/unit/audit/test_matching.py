"""Host matching: exact where it must be, near where it may be, one to one, and counted where it fails (R-E4)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensdata.audit.matching import COLUMNS, balance, host_columns, match_hosts


def hosts(count: int, seed: int, shift: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame({name: rng.normal(size=count) + shift for name in ("mag_z", "gr", "rz", "shape_r")})
    for band in "grz":
        rows[f"nobs_{band}"], rows[f"psfsize_{band}"] = rng.integers(3, 9, count), rng.normal(1.3, 0.1, count)
    rows["nobs_z_bin"] = "3-7"
    return rows


def sample(positives: int, negatives: int, seed: int = 0, shift: float = 0.5) -> tuple[pd.DataFrame, np.ndarray]:
    rows = pd.concat([hosts(positives, seed, shift), hosts(negatives, seed + 1)], ignore_index=True)
    return rows, np.r_[np.ones(positives, np.int64), np.zeros(negatives, np.int64)]


@settings(max_examples=25, deadline=None)
@given(
    positives=st.integers(1, 30), negatives=st.integers(0, 120), seed=st.integers(0, 999), caliper=st.floats(0.05, 2)
)
def test_pairs_are_one_to_one_of_one_stratum_and_within_the_caliper(
    positives: int, negatives: int, seed: int, caliper: float
) -> None:
    rows, labels = sample(positives, negatives, seed)
    strata = np.random.default_rng(seed).choice(["SER", "DEV", "REX"], len(rows))
    found = match_hosts(rows, labels, strata, caliper)
    assert (labels[found.positives] == 1).all()
    assert (labels[found.negatives] == 0).all()
    assert len(np.unique(found.positives)) == len(np.unique(found.negatives)) == len(found.positives)
    assert (strata[found.positives] == strata[found.negatives]).all()
    values = host_columns(rows)
    values = (values / values.std(ddof=0)).to_numpy()
    direct = np.sqrt(np.mean((values[found.positives] - values[found.negatives]) ** 2, axis=1))
    np.testing.assert_allclose(found.distances, direct, atol=1e-9)
    assert (found.distances <= caliper).all()
    assert len(found.positives) + sum(found.unmatched.values()) == positives


def test_the_nearest_pairs_come_first() -> None:
    """Against a slow greedy matching over all pairs."""
    rows, labels = sample(15, 40)
    found = match_hosts(rows, labels, np.full(55, ""), 5.0)
    values = host_columns(rows)
    values = (values / values.std(ddof=0)).to_numpy()
    free, pairs = set(range(55)), []
    order = sorted((np.mean((values[i] - values[j]) ** 2), i, j) for i in range(15) for j in range(15, 55))
    for _, one, two in order:
        if one in free and two in free:
            free -= {one, two}
            pairs.append((one, two))
    assert list(zip(found.positives.tolist(), found.negatives.tolist(), strict=True)) == pairs


def test_matching_balances_what_it_matches_and_shows_it() -> None:
    rows, labels = sample(200, 4000)
    rows["sersic"] = 4.0
    found = match_hosts(rows, labels, np.full(len(rows), ""), 0.5)
    table = {line["column"]: line for line in balance(rows, labels, found)}
    assert set(COLUMNS) <= set(table)
    assert [table[name]["matched"] for name in ("mag_z", "sersic")] == [True, False]
    assert table["sersic"]["before"] is table["sersic"]["after"] is None  # it does not vary
    lens, other = rows["mag_z"][labels == 1], rows["mag_z"][labels == 0]
    expected = (lens.mean() - other.mean()) / np.sqrt((lens.var(ddof=0) + other.var(ddof=0)) / 2)
    assert table["mag_z"]["before"] == pytest.approx(expected)
    assert expected > 0.3
    assert all(abs(table[name]["after"]) < 0.1 for name in COLUMNS)


def test_what_has_no_partner_is_counted_by_reason() -> None:
    rows = pd.DataFrame({"mag_z": [1.0, 1.0, 50.0, 1.0, np.nan, 1.0, 2.0]})
    labels = np.array([1, 1, 1, 1, 1, 0, 0])
    strata = np.array(["a", "a", "a", "b", "a", "a", "c"])
    found = match_hosts(rows, labels, strata, 0.1)
    assert found.positives.tolist() == [0]
    assert found.unmatched == {
        "a column is missing": 1, "no negative of its kind": 1, "none within the caliper": 1, "all within the caliper taken": 1,
    }  # fmt: skip


def test_a_set_without_host_columns_has_no_pairs() -> None:
    found = match_hosts(pd.DataFrame(index=range(4)), np.array([1, 1, 0, 0]), np.full(4, ""), 1.0)
    assert len(found.positives) == 0
    assert found.unmatched == {"a column is missing": 2}
    assert balance(pd.DataFrame(index=range(4)), np.array([1, 1, 0, 0]), found) == []
