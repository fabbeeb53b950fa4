"""Which pixels a logit comes from (R-E6)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ray_train import attribution
from ray_train.core.models.factory import build_model

SIZE, SCALE = 31, 0.3


class Ring(nn.Module):
    """A network that adds up some pixels."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.weights).sum(dim=(1, 2, 3))[:, None]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_gradients_find_the_zone_that_a_linear_network_looks_at(place: int) -> None:
    weights = torch.from_numpy(attribution.zones(SIZE, SCALE)[place].astype(np.float32)).expand(3, -1, -1).clone()
    x = torch.randn(4, 3, SIZE, SIZE)
    [method] = attribution.methods(Ring(weights), x[:1])  # no map to look at: no Grad-CAM
    found = method.attribute(x).detach()
    np.testing.assert_allclose(found, (x * weights).abs().sum(dim=1), rtol=1e-4, atol=1e-6)
    share = attribution.fractions(found.numpy(), SIZE, SCALE)
    np.testing.assert_allclose(share, np.eye(3)[[place] * 4], atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(size=st.integers(9, 70), scale=st.floats(0.1, 0.6), seed=st.integers(0, 99))
def test_zones_divide_a_stamp_and_shares_add_up(size: int, scale: float, seed: int) -> None:
    assert (attribution.zones(size, scale).sum(axis=0) == 1).all()
    maps = np.random.default_rng(seed).uniform(size=(3, size, size)).astype(np.float32)
    maps[1] = 0
    share = attribution.fractions(maps, size, scale)
    np.testing.assert_allclose(share[[0, 2]].sum(axis=1), 1, atol=1e-5)
    assert np.isnan(share[1]).all()


@pytest.mark.parametrize("arch", ["resnet18", pytest.param("efficientnet_v2_s", marks=pytest.mark.slow)])
def test_grad_cam_takes_the_deepest_map_that_can_tell_core_from_arc(arch: str) -> None:
    model, x = build_model(arch, in_channels=3).eval(), torch.randn(2, 3, 63, 63)
    layer = attribution.last_wide_layer(model, x[:1])
    assert layer is not None
    seen = []
    with layer.register_forward_hook(lambda *given: seen.append(given[2].shape)):
        model(x)
    assert seen[0][2] >= attribution.SMALLEST_MAP
    found = {method.name: method.attribute(x) for method in attribution.methods(model, x[:1])}
    assert set(found) == {"integrated_gradients", "grad_cam"}
    assert all(each.shape == (2, 63, 63) and bool((each >= 0).all()) for each in found.values())
