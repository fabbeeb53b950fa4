"""What becomes of a negative that was flagged or looked at (R-N1)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensdata.cleaning.mining import arms
from lensdata.cleaning.outcomes import DROP, KEEP, RELABEL, counts, with_outcomes
from lensdata.config.base import load_config
from lensdata.config.cleaning import CleanConfig, MineConfig
from lensdata.errors import InputError

VERDICTS = ["lens", "maybe", "not", "artefact", "disagree", None]


def rows_of(*rows: tuple[int, str, str | None, bool | None, str | None]) -> pd.DataFrame:
    columns = ["label", "split", "verdict", "flagged", "confuser"]
    return pd.DataFrame(rows, columns=columns).assign(cutout_id=range(len(rows)), stratum=None, pool="N1")


ROW = st.tuples(st.sampled_from([0, 1]), st.sampled_from(["train", "val", "test"]), st.sampled_from(VERDICTS),
                st.sampled_from([True, False, None]), st.sampled_from(["ring", None]))  # fmt: skip


@given(st.lists(ROW, min_size=1, max_size=30), st.sampled_from(["graded", "above_threshold"]))
def test_lenses_other_splits_and_confusers_stay_whatever_a_network_says(rows: list, remove: str) -> None:
    found = with_outcomes(rows_of(*rows), CleanConfig(remove=remove))
    changed = found["outcome"] != KEEP
    assert not (changed & ((found["label"] == 1) | (found["split"] != "train"))).any()
    if remove == "above_threshold":
        assert not (changed & found["confuser"].notna()).any()
        assert not (changed & ~found["flagged"].eq(True)).any()
    else:
        assert set(found.loc[changed, "verdict"]) <= {"lens", "maybe"}


def test_a_verdict_decides_as_the_configuration_says() -> None:
    config = CleanConfig(outcomes={"lens": "relabel", "maybe": "drop", "artefact": "drop"})
    found = with_outcomes(rows_of(*[(0, "train", verdict, None, None) for verdict in VERDICTS]), config)
    assert found["outcome"].tolist() == [RELABEL, DROP, KEEP, DROP, KEEP, KEEP]


def test_counts_add_up_and_say_how_the_prevalence_changes() -> None:
    rows = rows_of(
        (1, "train", None, None, None), (0, "train", "lens", True, None), (0, "train", "not", True, "ring"),
        (0, "train", None, False, None), (0, "val", "maybe", True, None), (1, "val", "lens", None, None),
    )  # fmt: skip
    found = counts(with_outcomes(rows, CleanConfig()))
    assert (found["negatives"], found["inspected"], found["dropped"]) == (4, 3, 1)
    assert (found["flagged"]["hits"], found["flagged"]["n"]) == (3, 4)
    assert (found["plausible"]["hits"], found["plausible"]["n"]) == (2, 3)
    assert found["splits"]["train"]["before"] == {"lenses": 1, "others": 3, "ratio": 3.0}
    assert found["splits"]["train"]["after"] == {"lenses": 1, "others": 2, "ratio": 2.0}
    assert found["splits"]["val"]["before"] == found["splits"]["val"]["after"]
    assert sum(group["negatives"] for group in found["by_confuser"].values()) == 4


def test_a_network_may_not_choose_the_test_negatives_it_is_judged_on() -> None:
    with pytest.raises(InputError, match="must not touch the test split"):
        load_config(CleanConfig, None, ["remove=above_threshold", "splits=[train,test]"])


@given(st.integers(30, 200), st.integers(0, 15), st.integers(1, 10), st.integers(0, 1000))
def test_both_arms_have_the_same_size_and_hold_nothing_that_may_be_a_lens(
    n: int, skim: int, mined: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pool = pd.DataFrame(
        {"cutout_id": rng.permutation(n), "logit": rng.normal(size=n), "verdict": rng.choice(VERDICTS, n)}
    )
    pool["verdict"] = pool["verdict"].where(rng.random(n) < 0.2, None)
    found = arms(pool, MineConfig(mined=mined, skim=skim, seed=seed))
    assert len(found["mined"]) == len(found["random"]) == mined
    for arm in ("mined", "random"):
        assert not np.isin(found[arm], found["skimmed"]).any()
        assert not pool["verdict"].iloc[found[arm]].isin(["lens", "maybe", "disagree"]).any()
    assert pool["logit"].iloc[found["mined"]].min() >= pool["logit"].drop(
        pool.index[np.concatenate([found["mined"], found["skimmed"]])]
    )[~pool["verdict"].isin(["lens", "maybe", "disagree"])].max()  # fmt: skip


def test_the_random_arm_does_not_depend_on_the_order_of_the_pool() -> None:
    rng = np.random.default_rng(3)
    pool = pd.DataFrame({"cutout_id": np.arange(500), "logit": rng.normal(size=500)})
    shuffled = pool.sample(frac=1, random_state=2).reset_index(drop=True)
    config = MineConfig(mined=50, skim=10)
    one, two = arms(pool, config), arms(shuffled, config)
    for arm in one:
        assert set(pool["cutout_id"].iloc[one[arm]]) == set(shuffled["cutout_id"].iloc[two[arm]])


def test_a_pool_that_is_too_small_is_one_sentence() -> None:
    pool = pd.DataFrame({"cutout_id": range(20), "logit": range(20)})
    with pytest.raises(InputError, match="10 stamps after the 10 that are skimmed"):
        arms(pool, MineConfig(mined=11, skim=10))
