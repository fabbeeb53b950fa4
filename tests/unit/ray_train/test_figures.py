"""Metrics and schedules against independent implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from ray_train.core import metrics
from ray_train.core.recipe import best_epoch, should_stop
from ray_train.core.schedule import Schedule

PLAIN = {"lr_step_epoch": 80, "lr_step_factor": 0.5, "t_0": 10, "t_mult": 2, "eta_min": 1e-6, "warmup_epochs": 0}


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=60))
def test_auc_is_scikit_learns_with_ties_too(pairs: list[tuple[bool, int]]) -> None:
    labels, scores = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs]) / 7
    if labels.all() or not labels.any():
        assert math.isnan(metrics.auc(labels, scores))
    else:
        assert metrics.auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_cross_entropy_is_scikit_learns_and_does_not_overflow() -> None:
    random = np.random.default_rng(0)
    labels, logits, weights = random.integers(0, 2, 50), random.normal(size=50), random.random(50)
    expected = log_loss(labels, 1 / (1 + np.exp(-logits)), sample_weight=weights)
    assert metrics.cross_entropy(labels, logits, weights) == pytest.approx(expected)
    assert metrics.cross_entropy([0, 1], [1e5, 1e5]) == pytest.approx(5e4)


def torch_rates(name: str, epochs: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=5e-4)
    scheduler = {
        "step": lambda: torch.optim.lr_scheduler.MultiStepLR(optimizer, [80], gamma=0.5),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs, eta_min=1e-6),
        "warm_restarts": lambda: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 10, 2, eta_min=1e-6),
        "constant": lambda: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0),
    }[name]()
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", ["step", "cosine", "warm_restarts", "constant"])
def test_schedules_are_pytorchs(name: str) -> None:
    schedule = Schedule(name=name, **PLAIN)
    assert [schedule.rate(epoch, 5e-4, 160) for epoch in range(160)] == pytest.approx(torch_rates(name, 160), rel=1e-9)


def test_paper_iv_has_80_full_epochs_at_the_first_rate() -> None:
    rates = [Schedule(name="step", **PLAIN).rate(epoch, 5e-4, 160) for epoch in range(160)]
    assert rates.count(5e-4) == 80
    assert rates[79:81] == [5e-4, 2.5e-4]


def test_warm_up_rises_in_equal_steps() -> None:
    schedule = Schedule(name="constant", **(PLAIN | {"warmup_epochs": 3}))
    assert [schedule.rate(epoch, 4.0, 6) for epoch in range(6)] == [1, 2, 3, 4, 4, 4]


def test_the_best_epoch_is_the_first_of_equals_and_stopping_counts_from_it() -> None:
    records = [
        {"epoch": e, "val_auc": auc, "val_loss": loss}
        for e, (auc, loss) in enumerate([(0.7, 0.5), (0.9, 0.4), (0.9, 0.6), (0.8, 0.3)])
    ]
    assert best_epoch(records, "val_auc") == 1
    assert best_epoch(records, "val_loss") == 3
    assert should_stop(records, patience=2, min_delta=0, monitor="val_auc")
    assert not should_stop(records, patience=3, min_delta=0, monitor="val_auc")
    assert not should_stop(records, patience=2, min_delta=0, monitor="val_loss")
    assert should_stop(records, patience=2, min_delta=0.2, monitor="val_loss")
    assert not should_stop(records, patience=0, min_delta=0, monitor="val_auc")
