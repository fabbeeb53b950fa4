"""Leaving one member out of a mean-logit ensemble (R-M3)."""

from __future__ import annotations

import numpy as np
import pytest

from lensdata.audit import roc
from lensdata.audit.ensembles import EARNED, HURTS, OPEN, leave_one_out


def sample(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (np.arange(6000) < 600).astype(int)
    signal = 2.5 * labels
    good, other = (signal + rng.normal(size=6000) for _ in range(2))
    return labels, np.stack([good, other, rng.normal(scale=6, size=6000), good + 1e-3 * rng.normal(size=6000)], 1)


def test_a_member_of_noise_hurts_and_is_gated_out_and_an_independent_one_earns_its_place() -> None:
    labels, logits = sample()
    found = leave_one_out(labels, logits, ["good", "other", "noise", "copy"], [1e-2], 500, 3)["0.01"]
    verdicts = {name: entry["verdict"] for name, entry in found["contributions"].items()}
    assert verdicts["noise"] == HURTS
    assert "noise" not in found["gated"]
    two = leave_one_out(labels, logits[:, :2], ["good", "other"], [1e-2], 500, 3)["0.01"]
    assert [entry["verdict"] for entry in two["contributions"].values()] == [EARNED, EARNED]
    assert two["gated"] == ["good", "other"]


def test_of_two_copies_one_goes_at_most() -> None:
    labels, logits = sample()
    found = leave_one_out(labels, logits[:, [0, 1, 3]], ["good", "other", "copy"], [1e-2], 500, 3)["0.01"]
    assert "other" in found["gated"]
    assert {"good", "copy"} & set(found["gated"])


def test_a_contribution_is_the_difference_of_the_two_means_and_identical_members_add_nothing() -> None:
    labels, logits = sample()
    found = leave_one_out(labels, logits, list("abcd"), [1e-2], 200, 3)["0.01"]["contributions"]
    with_all = roc.tpr_at_fpr(roc.compress(labels, logits.mean(1)).roc(), 1e-2)
    without = roc.tpr_at_fpr(roc.compress(labels, logits[:, 1:].mean(1)).roc(), 1e-2)
    assert found["a"]["value"] == pytest.approx(float(with_all - without))
    twice = leave_one_out(labels, logits[:, [0, 0]], ["a", "b"], [1e-2], 200, 3)["0.01"]["contributions"]
    assert [entry["verdict"] for entry in twice.values()] == [OPEN, OPEN]
    assert twice["a"]["value"] == 0


def test_a_rate_that_allows_no_false_positive_is_not_judged() -> None:
    labels, logits = sample()
    found = leave_one_out(labels, logits, list("abcd"), [1e-4], 200, 3)["0.0001"]
    assert found["gated"] is None
    assert "5400 negatives allow no false positive" in found["reason"]
