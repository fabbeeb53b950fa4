"""Preprocessing against a slow numpy reference, stamp by stamp (R-P1, R-P2, R-P4)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_train.core.images import ImageRecipe, annulus, azimuthal_median, crop_centre, measure_statistics


def reference_raw_robust(stamp: np.ndarray) -> np.ndarray:
    """R-P1 as it is written, one band at a time."""
    out = np.empty_like(stamp)
    rows, columns = np.indices(stamp.shape[:2])
    radius = np.hypot(rows - stamp.shape[0] // 2, columns - stamp.shape[1] // 2)
    ring = (radius >= 20) & (radius < 32)
    for band in range(stamp.shape[2]):
        plane = np.where(np.isnan(stamp[..., band]), np.float32(0), stamp[..., band])
        median = np.median(plane[ring])
        mad = np.median(np.abs(plane[ring] - median))
        out[..., band] = np.clip((plane - median) / (mad + np.float32(1e-8)), -10, 10)
    return np.where(np.isnan(out), np.float32(0), out)


def reference_per_sample_robust(stamp: np.ndarray) -> np.ndarray:
    """R-P2 as it is written."""
    out = np.empty_like(stamp)
    for band in range(stamp.shape[2]):
        plane = stamp[..., band]
        median = np.median(plane)
        out[..., band] = np.clip((plane - median) / (np.float32(1.4826) * np.median(np.abs(plane - median))), -5, 20)
    return out


def reference_residual(stamp: np.ndarray) -> np.ndarray:
    """R-P3: less the median of each one-pixel ring, then R-P2."""
    rows, columns = np.indices(stamp.shape[:2])
    ring = np.floor(np.hypot(rows - stamp.shape[0] // 2, columns - stamp.shape[1] // 2) + 0.5)
    out = stamp.copy()
    for radius in np.unique(ring):
        out[ring == radius] -= np.median(stamp[ring == radius], axis=0)
    return reference_per_sample_robust(out)


def noisy(count: int, height: int, width: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    stamps = random.normal(0.01, 0.02, (count, height, width, 3)).astype(np.float32)
    stamps[:, height // 2 - 3 : height // 2 + 4, width // 2 - 3 : width // 2 + 4] += 1.5
    return stamps


def prepare(stamps: np.ndarray, normalisation: str, crop: int | None = None) -> np.ndarray:
    ready = ImageRecipe(normalisation=normalisation, crop=crop).prepare(torch.from_numpy(stamps))
    assert ready.is_contiguous(memory_format=torch.channels_last)
    return ready.permute(0, 2, 3, 1).numpy()


@settings(max_examples=20, deadline=None)
@given(height=st.integers(63, 101), width=st.integers(63, 101), nan=st.floats(0, 0.6), seed=st.integers(0, 99))
def test_raw_robust_is_the_written_formula(height: int, width: int, nan: float, seed: int) -> None:
    stamps = noisy(2, height, width, seed)
    stamps[np.random.default_rng(seed).random(stamps.shape) < nan] = np.nan
    expected = np.stack([reference_raw_robust(stamp) for stamp in stamps])
    np.testing.assert_allclose(prepare(stamps, "raw_robust"), expected, rtol=2e-6, atol=2e-6)


@settings(max_examples=10, deadline=None)
@given(size=st.integers(8, 40), seed=st.integers(0, 99))
def test_per_sample_robust_is_the_written_formula(size: int, seed: int) -> None:
    stamps = noisy(2, size, size + 1, seed)
    expected = np.stack([reference_per_sample_robust(stamp) for stamp in stamps])
    np.testing.assert_allclose(prepare(stamps, "per_sample_robust"), expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(height=st.integers(9, 40), width=st.integers(9, 40), seed=st.integers(0, 99))
def test_residual_is_the_written_formula(height: int, width: int, seed: int) -> None:
    stamps = noisy(2, height, width, seed)
    expected = np.stack([reference_residual(stamp) for stamp in stamps])
    np.testing.assert_allclose(prepare(stamps, "residual"), expected, rtol=1e-4, atol=1e-4)


def test_residual_removes_what_is_round_and_keeps_an_arc() -> None:
    rows, columns = np.indices((63, 63)) - 31
    radius = np.hypot(rows, columns)
    galaxy = (10 * np.exp(-radius / 4)).astype(np.float32)
    stamps = np.random.default_rng(3).normal(0, 0.02, (2, 63, 63, 3)).astype(np.float32) + galaxy[:, :, None]
    arc = (np.abs(radius - 9) < 1.5) & (np.arctan2(rows, columns) > 2)
    stamps[1, arc] += 0.3
    round_one, with_arc = prepare(stamps, "residual")
    assert with_arc[arc].mean() > 8
    assert np.abs(round_one[radius > 6]).mean() < 1.2


def test_rings_keep_to_their_pixels() -> None:
    x = torch.zeros(1, 1, 7, 7)
    x[0, 0, 3, 3] = 9
    found = azimuthal_median(x)[0, 0]
    assert found[3, 3] == 9
    assert found.sum() == 9


@settings(max_examples=10, deadline=None)
@given(size=st.integers(8, 30), seed=st.integers(0, 99), crop=st.booleans())
def test_lanusse_and_asinh_are_the_written_formulas(size: int, seed: int, crop: bool) -> None:
    stamps = noisy(12, size, size, seed)
    stamps[np.random.default_rng(seed).random(stamps.shape) < 0.05] = 0
    stamps[0, :2] = np.nan
    side = 8 if crop else None
    recipe = ImageRecipe(normalisation="lanusse", crop=side)
    known = measure_statistics(recipe, [stamps[:5], stamps[5:]])
    first = size // 2 - 4 if crop else 0
    cut = stamps[:, first : first + 8, first : first + 8] if crop else stamps
    blank = np.isnan(cut) | (cut == 0)
    plain = np.where(blank, np.float32(0), cut)
    mean = np.where(blank, 0, cut.astype(np.float64)).sum(axis=0) / np.maximum((~blank).sum(axis=0), 1)
    centre = np.median(plain, axis=(1, 2), keepdims=True)
    sigma = np.median(1.4826 * np.median(np.abs(plain - centre), axis=(1, 2)), axis=0)
    np.testing.assert_allclose(known.mean.permute(1, 2, 0), mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(known.sigma, sigma, rtol=1e-5)
    for normalisation, expected in (
        ("lanusse", np.where(blank, 0, np.clip((cut - mean) / sigma, -250, 250))),
        ("asinh", np.arcsinh(plain / sigma)),
    ):
        how = ImageRecipe(normalisation=normalisation, crop=side, statistics=known)
        found = how.prepare(torch.from_numpy(stamps)).permute(0, 2, 3, 1)
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def test_figures_of_the_training_split_are_asked_for() -> None:
    recipe = ImageRecipe(normalisation="lanusse", crop=None)
    assert recipe.needs_statistics
    with pytest.raises(ValueError, match="figures of the training split"):
        recipe.prepare(torch.zeros(1, 8, 8, 3))
    stamps = noisy(3, 8, 8, 0)
    stamps[..., 1] = 5
    with pytest.raises(ValueError, match="plane 1 has no noise"):
        measure_statistics(recipe, [stamps])


def test_half_precision_rounds_and_planes_are_chosen_in_their_order() -> None:
    stamps = noisy(2, 63, 63, 4)
    full = prepare(stamps, "raw_robust")
    some = ImageRecipe(normalisation="raw_robust", crop=None, dtype="float16", planes=(2, 0)).prepare(
        torch.from_numpy(stamps)
    )
    assert some.dtype == torch.float16
    np.testing.assert_array_equal(some.permute(0, 2, 3, 1).numpy(), full[..., [2, 0]].astype(np.float16))


def test_no_1_4826_in_raw_robust() -> None:
    sigma = 0.03
    stamps = np.random.default_rng(0).normal(0, sigma, (1, 101, 101, 3)).astype(np.float32)
    assert prepare(stamps, "raw_robust").std() == pytest.approx(1.4826, rel=0.05)


def test_raw_robust_takes_its_annulus_from_the_full_stamp_and_per_sample_from_the_crop() -> None:
    stamps = noisy(1, 101, 101, 1)
    stamps[:, :25] += 3  # outside the crop of 33, inside the annulus
    np.testing.assert_array_equal(prepare(stamps, "raw_robust", 33), prepare(stamps, "raw_robust")[:, 34:67, 34:67])
    np.testing.assert_array_equal(
        prepare(stamps, "per_sample_robust", 33), prepare(stamps[:, 34:67, 34:67], "per_sample_robust")
    )


@given(size=st.integers(8, 40), data=st.data())
def test_a_crop_keeps_the_centre_pixel_at_its_middle(size: int, data: st.DataObject) -> None:
    crop = data.draw(st.integers(1, size))
    x = torch.zeros(1, 1, size, size)
    x[0, 0, size // 2, size // 2] = 1
    assert crop_centre(x, crop)[0, 0, crop // 2, crop // 2] == 1


def test_a_stamp_does_not_depend_on_its_batch() -> None:
    stamps = noisy(7, 101, 101, 5)
    together = prepare(stamps, "raw_robust", 63)
    alone = np.concatenate([prepare(stamps[i : i + 1], "raw_robust", 63) for i in range(7)])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("normalisation", ["raw_robust", "per_sample_robust", "identity"])
@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_an_empty_band_stays_finite(normalisation: str, fill: float) -> None:
    stamps = noisy(1, 101, 101, 2)
    stamps[..., 1] = fill
    ready = prepare(stamps, normalisation)
    assert np.isfinite(ready).all()
    assert not ready[..., 1].any()


def test_bands_keep_their_order() -> None:
    stamps = np.broadcast_to(np.float32([1, 2, 3]), (1, 101, 101, 3)).copy()
    ready = ImageRecipe(normalisation="identity", crop=5).prepare(torch.from_numpy(stamps))
    assert ready[0, :, 2, 2].tolist() == [1, 2, 3]


def test_pictures_span_minus_one_to_one() -> None:
    stamps = np.array([0, 255], np.uint8).reshape(1, 2, 1, 1)
    assert prepare(stamps, "rgb8").ravel().tolist() == [-1, 1]


def test_the_annulus_has_its_radii() -> None:
    mask = annulus(101, 101, 20, 32)
    assert not mask[50, 50 + 19]
    assert mask[50, 50 + 20]
    assert mask[50, 50 - 31]
    assert not mask[50, 50 - 32]


@pytest.mark.parametrize(
    ("recipe", "shape", "unit", "message"),
    [
        (ImageRecipe(normalisation="raw_robust", crop=102), (101, 101, 3), "nanomaggy", "crop of 102"),
        (ImageRecipe(normalisation="raw_robust", crop=None), (62, 101, 3), "nanomaggy", "at least 63 pixels"),
        (ImageRecipe(normalisation="rgb8", crop=None), (101, 101, 3), "nanomaggy", "in nanomaggy"),
        (ImageRecipe(normalisation="raw", crop=None), (101, 101, 3), "nanomaggy", "unknown normalisation 'raw'"),
    ],
)
def test_stamps_that_do_not_fit_are_refused(
    recipe: ImageRecipe, shape: tuple[int, ...], unit: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recipe.check(shape, unit)
