"""Positives against negatives, against scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from sklearn.metrics import roc_auc_score

from lensdata.catalogue.covariates import BY_NAME, COVARIATES, compare, compare_all
from tests.samples import random_sample


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), positives=st.integers(5, 40), negatives=st.integers(5, 80), ties=st.booleans())
def test_a_comparison_is_that_of_scipy_and_scikit_learn(seed, positives, negatives, ties):
    rng = np.random.default_rng(seed)
    label = np.r_[np.ones(positives), np.zeros(negatives)]
    values = rng.normal(0.3 * label, 1)
    values = np.round(values, 1) if ties else values
    found = compare(np.r_[values, np.nan], np.r_[label, 1])
    assert found["ks"] == pytest.approx(
        ks_2samp(values[label == 1], values[label == 0], method="asymp").statistic, abs=1e-12
    )
    assert found["auc"] == pytest.approx(roc_auc_score(label, values), abs=1e-12)
    assert found["median_positive"] == np.median(values[label == 1])
    assert (found["n_positive"], found["n_negative"]) == (positives, negatives)


def test_the_chance_distance_is_exceeded_in_five_per_cent_of_cases():
    rng = np.random.default_rng(0)
    label = np.arange(900) < 200
    over = []
    for _ in range(600):
        found = compare(rng.normal(size=900), label)
        over.append(found["ks"] > found["ks_chance_95"])
    assert np.mean(over) == pytest.approx(0.05, abs=0.025)


def test_a_class_of_four_says_nothing():
    assert compare([1.0] * 9, [1] * 4 + [0] * 5) is None


def test_every_covariate_is_compared_in_every_stratum_that_exists():
    sample = random_sample(200, 2000)
    sample = sample[sample["stratum"] != "REX/11+"]
    found = compare_all(sample)
    assert set(found) == {covariate.name for covariate in COVARIATES}
    assert len(found["mag_r"]) == 1 + 8
    assert found["mag_r"]["all"]["n_negative"] == (sample["label"] == 0).sum()
    assert found["sersic"]["DEV/3-5"] is None  # its index is fixed
    assert found["sersic"]["all"]["n_positive"] == ((sample["label"] == 1) & (sample["type"] == "SER")).sum()


def test_depth_is_compared_in_magnitudes():
    sample = random_sample(1, 0).assign(psfdepth_r=np.float32(25.0))  # 5 sigma is one nanomaggy
    assert BY_NAME["psfdepth_r"].values(sample)[0] == pytest.approx(22.5)
