"""An accumulated window is the one batch it stands for (R-T4)."""

from __future__ import annotations

import copy
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from ray_train.core.window import MicroBatch, accumulate


def network() -> nn.Module:
    """No BatchNorm: with it the property cannot hold, its statistics follow the micro-batch."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ELU(), nn.Flatten(), nn.Linear(4 * 36, 1)).double()


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), weighted=st.booleans(), seed=st.integers(0, 1000))
def test_accumulated_gradient_is_the_one_batch_gradient(sizes: list[int], weighted: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    count = sum(sizes)
    images = torch.randn(count, 3, 8, 8, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 2, (count,), generator=generator).double()
    weights = (
        torch.rand(count, generator=generator, dtype=torch.float64) + 0.1 if weighted else torch.ones(count).double()
    )

    whole = network()
    losses = functional.binary_cross_entropy_with_logits(whole(images).squeeze(1), targets, reduction="none")
    expected = (losses * weights).sum() / weights.sum()
    expected.backward()

    parts = network()
    micro = (
        MicroBatch(*piece)
        for piece in zip(images.split(sizes), targets.split(sizes), weights.split(sizes), strict=True)
    )
    loss, logits = accumulate(parts, micro, len(sizes), float(weights.sum()), world=1, blank=images[:1])

    assert float(loss) == pytest.approx(expected.item(), abs=1e-12)
    assert sum(len(z) for z in logits) == count
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def test_a_window_of_zero_weight_changes_nothing() -> None:
    model = network()
    batch = MicroBatch(torch.randn(2, 3, 8, 8).double(), torch.ones(2).double(), torch.zeros(2).double())
    loss, _ = accumulate(model, iter([batch]), 1, 0.0, world=1, blank=batch.images[:1])
    assert float(loss) == 0
    assert all(not parameter.grad.any() for parameter in model.parameters())


def test_bf16_autocast_gives_a_float32_loss_near_the_exact_one() -> None:
    model = network().float()
    batch = MicroBatch(torch.randn(16, 3, 8, 8), torch.ones(16), torch.ones(16))
    exact, _ = accumulate(copy.deepcopy(model), iter([batch]), 1, 16, world=1, blank=batch.images[:1])
    loss, logits = accumulate(model, iter([batch]), 1, 16, world=1, blank=batch.images[:1], precision="bf16")
    assert (loss.dtype, logits[0].dtype) == (torch.float32, torch.float32)
    assert float(loss) == pytest.approx(float(exact), rel=2e-2)


@pytest.mark.slow
def test_two_workers_train_the_same_network_as_one(tmp_path: Path) -> None:
    script = Path(__file__).with_name("two_workers.py")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    jobs = [("0", "1"), ("0", "2"), ("1", "2")]
    outs = [tmp_path / f"{world}-{rank}.npz" for rank, world in jobs]
    running = [
        subprocess.Popen([sys.executable, str(script), rank, world, port, str(out)])
        for (rank, world), out in zip(jobs, outs, strict=True)
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    one, *two = (np.load(out) for out in outs)
    for worker in two:
        for name in one.files:
            np.testing.assert_allclose(worker[name], one[name], rtol=1e-6, atol=1e-8, err_msg=name)
