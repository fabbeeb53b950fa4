"""The draw against a plain sort in pandas: N1, N2, and what neighbours fill."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensdata.catalogue.confusers import CATEGORIES
from lensdata.catalogue.sampling import Candidates, Quota, candidate_limits, draw, neighbours, quotas
from lensdata.catalogue.strata import STRATA

NEIGHBOURS = {
    "SER/3-5": ["SER/6-10", "SER/11+", "DEV/3-5", "REX/3-5"],
    "SER/6-10": ["SER/3-5", "SER/11+", "DEV/6-10", "REX/6-10"],
    "SER/11+": ["SER/6-10", "SER/3-5", "DEV/11+", "REX/11+"],
    "DEV/3-5": ["DEV/6-10", "DEV/11+", "SER/3-5", "REX/3-5"],
    "DEV/6-10": ["DEV/3-5", "DEV/11+", "SER/6-10", "REX/6-10"],
    "DEV/11+": ["DEV/6-10", "DEV/3-5", "SER/11+", "REX/11+"],
    "REX/3-5": ["REX/6-10", "REX/11+", "SER/3-5", "DEV/3-5"],
    "REX/6-10": ["REX/3-5", "REX/11+", "SER/6-10", "DEV/6-10"],
    "REX/11+": ["REX/6-10", "REX/3-5", "SER/11+", "DEV/11+"],
}  # written out by hand from the rule


def pool_of(rows: int, seed: int, confusers: float = 0.3, strata=STRATA) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    kinds = [*CATEGORIES, None]
    shares = [*(confusers * np.array([0.1, 0.4, 0.3, 0.15, 0.05])), 1 - confusers]
    return pd.DataFrame(
        {
            "key": rng.integers(-(2**63), 2**63 - 1, rows),
            "stratum": rng.choice(strata, rows, p=rng.dirichlet(np.ones(len(strata)))),
            "confuser": rng.choice(np.array(kinds, object), rows, p=shares),
        }
    )


def plain(pool: pd.DataFrame, wanted: list[Quota], fill: bool) -> tuple[dict[int, str], list[tuple]]:
    """The rule as the documentation words it, one row after the other."""
    pool = pool.sort_values("key")
    taken: dict[int, str] = {}
    missing: dict[tuple[str, str], int] = {}
    for quota in wanted:
        rows = pool[pool["stratum"] == quota.stratum]
        taken |= dict.fromkeys(rows.index[: quota.n1], "N1")
        missing["N1", quota.stratum] = max(0, quota.n1 - len(rows))
        rest = rows.iloc[quota.n1 :].dropna(subset="confuser")
        share = quota.n2 // max(1, rest["confuser"].nunique())
        first = rest.groupby("confuser").head(share)
        more = rest.drop(first.index).head(quota.n2 - len(first))
        taken |= dict.fromkeys([*first.index, *more.index], "N2")
        missing["N2", quota.stratum] = max(0, quota.n2 - len(rest))
    filled = []
    for name, stratum in sorted(missing, key=lambda cell: (cell[0], STRATA.index(cell[1]))) if fill else ():
        left = missing[name, stratum]
        for donor in NEIGHBOURS[stratum]:
            rows = pool[(pool["stratum"] == donor) & ~pool.index.isin(list(taken))]
            rows = (rows if name == "N1" else rows.dropna(subset="confuser"))[:left]
            taken |= dict.fromkeys(rows.index, name)
            if len(rows):
                filled.append((stratum, name, donor, len(rows)))
            left -= len(rows)
    return taken, filled


def drawn(pool: pd.DataFrame, wanted: list[Quota], fill: bool):
    """The draw from the candidates alone, as the job does it."""
    counts = pool.groupby(["stratum", pool["confuser"].fillna("")]).size()
    available: dict = {}
    for (stratum, category), count in counts.items():
        available.setdefault(stratum, {})[category or None] = int(count)
    limits = candidate_limits(wanted, available, fill)
    reach = np.array([limits.get((s, None), -(2**63)) for s in pool["stratum"]])
    cells = zip(pool["stratum"], pool["confuser"], strict=True)
    further = np.array([limits.get((s, c), -(2**63)) if c else -(2**63) for s, c in cells])
    kept = pool[pool["key"].to_numpy() <= np.maximum(reach, further)]
    rows = Candidates(
        kept["key"].to_numpy(),
        np.array([STRATA.index(s) for s in kept["stratum"]], np.int8),
        np.array([CATEGORIES.index(c) if c else -1 for c in kept["confuser"]], np.int8),
    )
    places, lines = draw(rows, wanted, available, fill)
    names = np.array(["", "N1", "N2"])[places]
    return {i: n for i, n in zip(kept.index, names.tolist(), strict=True) if n}, lines, len(kept)


def test_the_neighbours_are_those_of_the_rule():
    assert {stratum: neighbours(stratum) for stratum in STRATA} == NEIGHBOURS


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 400),
    confusers=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    positives=st.dictionaries(st.sampled_from(STRATA), st.integers(1, 9), min_size=1),
    ratio=st.integers(1, 12),
    n1_percent=st.sampled_from([0, 50, 85, 100]),
    fill=st.booleans(),
)
def test_the_draw_is_that_of_a_plain_sort(seed, rows, confusers, positives, ratio, n1_percent, fill):
    pool, wanted = pool_of(rows, seed, confusers), quotas(positives, ratio, n1_percent)
    expected, filled = plain(pool, wanted, fill)
    found, lines, _ = drawn(pool, wanted, fill)
    assert found == expected
    assert [(line.stratum, line.pool, line.filled_from, line.taken) for line in lines if line.filled_from] == filled
    assert sum(line.taken for line in lines if line.confuser is None) == len(found)


@pytest.mark.parametrize("confusers", [0.05, 0.95])
@pytest.mark.parametrize("fill", [False, True])
def test_of_a_large_pool_few_rows_are_candidates_and_the_draw_is_the_same(confusers, fill):
    pool = pool_of(120_000, 5, confusers, STRATA[:6])
    wanted = [Quota("SER/3-5", 10, 850, 150), Quota("REX/11+", 1, 85, 15)]  # no pool row is REX/11+
    expected, filled = plain(pool, wanted, fill)
    found, _, candidates = drawn(pool, wanted, fill)
    assert found == expected
    assert bool(filled) == fill
    assert candidates < 20_000


def test_filling_changes_nothing_that_a_stratum_drew_for_itself():
    pool = pool_of(300, 3)
    wanted = quotas(dict.fromkeys(STRATA, 5), 10, 85)
    without, _, _ = drawn(pool, wanted, fill=False)
    filled, _, _ = drawn(pool, wanted, fill=True)
    assert without.items() < filled.items()
