"""Random views: a function of (seed, epoch, stamp) alone, uniform over D4 (R-P7)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import affine_transform
from scipy.stats import chisquare, kstest

from lensdata.hashing import splitmix64
from ray_train.core.augment import (
    Affine,
    MaskStage,
    Views,
    affine,
    augment,
    d4,
    mask_core,
    mask_stage,
    mix,
    sample_key,
    uniform,
)

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
    for view in ("d4", "affine"):
        views = Views(
            view=view,
            affine=Affine(rotate_degrees=90, zoom=(0.9, 1.0), shift_pixels=1),
            masking=(MaskStage(from_epoch=0, radius=1, probability=0.5),),
        )
        together = augment(x, views, cutout_ids=keys, indices=torch.arange(len(ids)), **options)
        shuffled = augment(x[order], views, cutout_ids=keys[order], indices=torch.arange(len(ids)), **options)
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
    views = [augment(x, Views(view="original"), epoch=epoch, **options) for epoch in (0, 7)]
    assert torch.equal(*views)
    assert not torch.equal(views[0], x)
    assert not torch.equal(
        augment(x, Views(view="d4"), epoch=0, **options), augment(x, Views(view="d4"), epoch=7, **options)
    )
    assert augment(x, Views(view="none"), epoch=0, **options) is x


def test_draws_are_uniform_and_independent_of_one_another_and_of_the_flips() -> None:
    key = sample_key(torch.arange(40_000) + (10_000 << 42), seed=42, epoch=3)
    draws = np.stack([uniform(key, draw).numpy() for draw in range(4)] + [(key & 15).numpy() / 16])
    assert draws.min() >= 0
    assert draws.max() < 1
    assert all(kstest(draw, "uniform").pvalue > 1e-4 for draw in draws[:4])
    correlation = np.corrcoef(draws) - np.eye(5)
    assert np.abs(correlation).max() < 5 / np.sqrt(40_000)


@pytest.mark.parametrize(("epoch", "radius"), [(0, 7), (9, 7), (10, 5), (29, 5), (30, 3), (100, 3)])
def test_the_scheduled_masking_has_its_stages(epoch: int, radius: float) -> None:
    stages = tuple(
        MaskStage(from_epoch=first, radius=size, probability=p)
        for first, size, p in [(0, 7, 0.7), (10, 5, 0.5), (30, 3, 0.3)]
    )
    assert mask_stage(stages, epoch).radius == radius
    assert mask_stage((), epoch) is None


def test_a_mask_hides_the_disc_and_nothing_else() -> None:
    x = torch.randn(2, 3, 21, 21)
    seen = mask_core(x, 5.0, torch.tensor([True, False]))
    assert torch.equal(seen[1], x[1])
    rows, columns = np.indices((21, 21)) - 10
    core = torch.from_numpy(np.hypot(rows, columns) < 5)
    assert not seen[0][:, core].any()
    assert torch.equal(seen[0][:, ~core], x[0][:, ~core])
    filled = mask_core(x, 5.0, torch.tensor([True, True]), fill=torch.full_like(x, 9))
    assert (filled[:, :, core] == 9).all()


def test_a_fraction_of_the_stamps_is_masked_anew_in_every_epoch() -> None:
    ids = torch.arange(4000)
    views = Views(view="none", masking=(MaskStage(from_epoch=0, radius=2, probability=0.3),))
    hidden = [
        (
            augment(torch.ones(4000, 1, 5, 5), views, seed=1, epoch=epoch, cutout_ids=ids, indices=ids)[:, 0, 2, 2] == 0
        ).numpy()
        for epoch in (0, 1)
    ]
    assert abs(hidden[0].mean() - 0.3) < 0.03
    assert abs((hidden[0] & hidden[1]).mean() - 0.09) < 0.02


def test_a_continuous_view_is_scipys_affine_transform() -> None:
    x = torch.randn(6, 2, 25, 25)
    key = sample_key(torch.arange(6), seed=5, epoch=2)
    ranges = Affine(rotate_degrees=90, zoom=(0.9, 1.1), shift_pixels=2)
    seen = affine(x, key, ranges)
    for n in range(6):
        angle, zoom, dx, dy = (float(uniform(key, draw)[n]) for draw in (1, 2, 3, 4))
        angle, zoom = np.deg2rad(90) * (2 * angle - 1), 0.9 + 0.2 * zoom
        shift = np.array([2 * (2 * dy - 1), 2 * (2 * dx - 1)])  # (y, x)
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
        offset = 12 - matrix @ (12 + shift)
        for plane in range(2):
            expected = affine_transform(x[n, plane].double().numpy(), matrix, offset, order=1, mode="grid-constant")
            np.testing.assert_allclose(seen[n, plane], expected, atol=2e-5)


def test_a_view_without_rotation_zoom_and_shift_is_the_stamp() -> None:
    x = torch.randn(3, 3, 11, 11)
    still = affine(x, sample_key(torch.arange(3), seed=0, epoch=0), Affine(rotate_degrees=0))
    torch.testing.assert_close(still, x, atol=1e-5, rtol=0)
