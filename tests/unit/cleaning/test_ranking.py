"""Which labels look wrong: thresholds and ranks against cleanlab's definitions, and what may be averaged (R-N1, R-N2)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit

from lensdata.cleaning import ranking
from lensdata.config.cleaning import RankConfig
from lensdata.errors import InputError


def rows_of(logit: np.ndarray, label: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"cutout_id": np.arange(len(logit)) + 7, "label": label, "logit": logit})


@given(arrays(np.float64, st.integers(4, 200), elements=st.floats(-8, 8)), st.integers(0, 10_000))
def test_confident_errors_are_those_off_the_diagonal_of_the_confident_joint(logit: np.ndarray, seed: int) -> None:
    """Northcutt et al. 2021, equation 1: the class of largest probability among those that reach their threshold."""
    label = np.random.default_rng(seed).integers(0, 2, len(logit))
    label[:2] = 0, 1
    p = expit(logit)
    probabilities = np.stack([1 - p, p], axis=1)
    thresholds = np.array([probabilities[label == k, k].mean() for k in (0, 1)])
    expected = []
    for given_label, row in zip(label, probabilities, strict=True):
        reached = np.flatnonzero(row >= thresholds)
        best = reached[np.argmax(row[reached])] if len(reached) else given_label
        expected.append(
            best != given_label and row[best] > row[given_label] if len(reached) == 2 else best != given_label
        )
    found = ranking.confident_errors(label, p, thresholds[1], thresholds[0])
    ties = p == 0.5
    np.testing.assert_array_equal(found[~ties], np.array(expected)[~ties])


@given(arrays(np.float64, st.integers(3, 100), elements=st.floats(-20, 20)))
def test_the_rank_is_that_of_the_normalised_margin_where_that_does_not_tie(logit: np.ndarray) -> None:
    label = np.arange(len(logit)) % 2
    for of in (0, 1):
        found, _ = ranking.ranked(rows_of(logit, label), RankConfig(label=of))
        assert found["rank"].tolist() == list(range(1, (label == of).sum() + 1))
        assert np.all(np.diff(found["margin"]) >= 0)
        own = expit(found["logit"]) if of else 1 - expit(found["logit"])
        np.testing.assert_allclose(found["margin"], ((own - (1 - own)) + 1) / 2, atol=1e-12)


def test_a_probability_above_the_threshold_flags_and_the_order_of_the_rows_does_not_matter() -> None:
    logit = np.array([-1.0, 3.0, -0.3, -0.5, 2.0])
    label = np.array([0, 1, 0, 0, 0])
    rows = rows_of(logit, label)
    found, thresholds = ranking.ranked(rows, RankConfig())
    assert found["cutout_id"].tolist() == [11, 9, 10, 7]
    assert found["flagged"].tolist() == [True, True, False, False]
    assert thresholds["lens_threshold"] == pytest.approx(expit(3.0))
    again, _ = ranking.ranked(rows.sample(frac=1, random_state=1), RankConfig())
    pd.testing.assert_frame_equal(found, again)


def test_a_model_that_saw_an_object_has_no_say_in_its_rank() -> None:
    rows = pd.DataFrame({"cutout_id": [1, 2, 3], "fold": [0, 1, 1], "split": ["train", "val", "test"]})
    scores = pd.DataFrame({
        "cutout_id": [1, 2, 3, 1, 2, 3], "fold": pd.array([0, 0, 0, 1, 1, 1], "Int64"),
        "split": ["test", "val", "test", "train", "test", "test"], "logit": [1.0, 9.0, 3.0, 9.0, 2.0, 5.0],
        "model": ["a"] * 3 + ["b"] * 3,
    })  # fmt: skip
    found = ranking.mean_logits(ranking.unseen(scores, rows))
    assert found["logit"].to_dict() == {1: 1.0, 2: 2.0, 3: 4.0}  # the test row was kept from both
    assert found["models"].to_dict() == {1: 1, 2: 1, 3: 2}


def test_models_of_other_folds_are_refused() -> None:
    rows = pd.DataFrame({"cutout_id": [1], "fold": [2], "split": ["train"]})
    scores = pd.DataFrame({"cutout_id": [1], "fold": pd.array([0], "Int64"), "split": ["test"], "logit": [1.0]})
    scores["model"] = "runs/a"
    with pytest.raises(
        InputError, match="cutout_id 1 is in fold 2 of the manifest, but runs/a held it out with fold 0"
    ):
        ranking.unseen(scores, rows)


def test_fold_models_that_learnt_from_the_test_split_may_not_clean() -> None:
    rows = pd.DataFrame({"cutout_id": [1, 2], "fold": [0, 1], "split": ["train", "test"]})
    scores = pd.DataFrame(
        {"cutout_id": [1, 2], "fold": pd.array([0, 0], "Int64"), "split": ["test", "train"], "logit": [1.0, 2.0]}
    )
    with pytest.raises(InputError, match="has learnt from 1 rows of the test split.*data.hold_out_test=true"):
        ranking.unseen(scores.assign(model="runs/a"), rows)
