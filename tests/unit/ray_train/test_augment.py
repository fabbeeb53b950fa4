"""Random views: a function of (seed, epoch, stamp) alone, uniform over D4 (R-P7)."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from lensdata.hashing import splitmix64
from ray_train.core.augment import augment, d4, mix, sample_key

INT64 = st.integers(-(2**63), 2**63 - 1)


def reference_view(image: np.ndarray, key: int) -> np.ndarray:
    """Flips and turns one after the other, on (H, W, C)."""
    if key & 1:
        image = image[:, ::-1]
    if key >> 1 & 1:
        image = image[::-1]
    return np.rot90(image, key >> 2 & 3)


@given(st.lists(INT64, min_size=1, max_size=20))
def test_mix_is_splitmix64(values: list[int]) -> None:
    numbers = np.array(values, np.int64)
    np.testing.assert_array_equal(
        mix(torch.from_numpy(numbers)).numpy().view(np.uint64), splitmix64(numbers.view(np.uint64))
    )


def test_all_sixteen_keys_are_flips_then_turns() -> None:
    x = torch.randn(16, 3, 9, 9)
    seen = d4(x, torch.arange(16)).permute(0, 2, 3, 1).numpy()
    for key in range(16):
        np.testing.assert_array_equal(seen[key], reference_view(x[key].permute(1, 2, 0).numpy(), key))


@settings(deadline=None)
@given(
    ids=st.lists(INT64, min_size=2, max_size=12, unique=True),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 500),
    data=st.data(),
)
def test_a_view_does_not_depend_on_the_batch(ids: list[int], seed: int, epoch: int, data: st.DataObject) -> None:
    keys = torch.tensor(ids)
    x = torch.arange(len(ids) * 27.0).reshape(len(ids), 3, 3, 3)
    order = torch.tensor(data.draw(st.permutations(range(len(ids)))))
    options = {"seed": seed, "epoch": epoch}
    together = augment(x, "d4", cutout_ids=keys, indices=torch.arange(len(ids)), **options)
    shuffled = augment(x[order], "d4", cutout_ids=keys[order], indices=torch.arange(len(ids)), **options)
    assert torch.equal(together[order], shuffled)


def test_views_are_uniform_and_change_with_the_epoch() -> None:
    ids = torch.arange(40_000) + (10_000 << 42)
    first, second = (sample_key(ids, seed=42, epoch=epoch) & 15 for epoch in (0, 1))
    assert chisquare(torch.bincount(first, minlength=16).numpy()).pvalue > 1e-4
    joint = torch.bincount(first * 16 + second, minlength=256).numpy()
    assert chisquare(joint).pvalue > 1e-4


def test_the_original_formula_repeats_its_view_in_every_epoch() -> None:
    x = torch.randn(64, 3, 5, 5)
    options = {"seed": 42, "cutout_ids": torch.arange(64) * 977, "indices": torch.arange(64)}
    views = [augment(x, "original", epoch=epoch, **options) for epoch in (0, 7)]
    assert torch.equal(*views)
    assert not torch.equal(views[0], x)
    assert not torch.equal(augment(x, "d4", epoch=0, **options), augment(x, "d4", epoch=7, **options))
    assert augment(x, "none", epoch=0, **options) is x
