"""The gate on observing conditions: silent on independent labels, loud on a planted shortcut, honest about few objects."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lensdata.audit import conditions
from lensdata.audit.conditions import conditions_gate, drawn
from tests.samples import random_sample


def gate(sample, rows_max=50_000):
    return conditions_gate(sample, rows_max, 500, 42)


def test_labels_independent_of_conditions_cannot_be_told():
    found = gate(random_sample(150, 1500))
    assert found["measured"]
    assert abs(found["auc"] - 0.5) < 0.08
    assert found["low"] < found["auc"] < found["high"]
    assert max(found["importance"].values()) < 0.08


def test_a_planted_shortcut_is_found_and_named():
    sample = random_sample(150, 1500)
    sample["psfsize_r"] = sample["psfsize_r"] - 0.3 * sample["label"]
    found = gate(sample)
    assert found["low"] > 0.6
    assert next(iter(found["importance"])) == "PSF size"
    assert found["importance"]["PSF size"] > 0.1 > max(found["importance"][name] for name in ("depth", "reddening"))


def test_a_patch_of_sky_is_not_remembered():
    """Every pixel has a reddening of its own and one label only: in-pixel memory would reach 1."""
    sample = random_sample(300, 3000)
    pixels, place = np.unique(sample["healpix_128"], return_inverse=True)
    rng = np.random.default_rng(3)
    sample["ebv"] = rng.permutation(np.linspace(0, 0.1, len(pixels)))[place]
    sample["label"] = (rng.random(len(pixels)) < 0.2)[place].astype(np.int8)
    for name in conditions.FEATURES:
        if name != "ebv":
            sample[name] = 1.0
    remembered = conditions.classifier(0).fit(sample[["ebv"]], sample["label"]).predict_proba(sample[["ebv"]])[:, 1]
    assert roc_auc_score(sample["label"], remembered) > 0.8
    assert gate(sample)["auc"] < 0.65


def test_the_rows_are_all_positives_and_the_same_negatives_whatever_the_order():
    sample = random_sample(30, 500)
    part = drawn(sample, 100, 7)
    assert (part["label"] == 1).sum() == 30
    assert len(part) == 100
    assert set(drawn(sample.sample(frac=1, random_state=1), 100, 7)["source_id"]) == set(part["source_id"])
    assert set(part["source_id"]) < set(drawn(sample, 200, 7)["source_id"])


@pytest.mark.parametrize(("positives", "negatives"), [(19, 500), (500, 0), (0, 0)])
def test_too_few_objects_are_said_to_be_too_few(positives, negatives):
    found = gate(random_sample(positives, negatives))
    assert not found["measured"]
    assert "fewer than 20" in found["reason"]
    assert (found["n_positive"], found["n_negative"]) == (positives, negatives)


def test_positives_in_one_fold_only_are_not_judged():
    sample = random_sample(40, 400)
    sample["fold"] = np.where(sample["label"] == 1, 0, sample["fold"])
    assert gate(sample)["reason"] == "all positives are in one fold of pixels"


def test_the_same_sample_gives_the_same_numbers():
    sample = random_sample(60, 600)
    assert gate(sample) == gate(sample)
