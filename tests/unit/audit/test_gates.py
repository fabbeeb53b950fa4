"""Linear gates: blind where there is nothing to see, and not fooled by stamps of one patch of sky (R-E4)."""

from __future__ import annotations

import numpy as np
import pytest

from lensdata.audit.gates import balanced_sample, core_pixels, linear_auc, radial_profile


def stamps(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, 21, 21, 2)).astype(np.float32), np.arange(count) % 2


def test_noise_passes_the_gates() -> None:
    images, labels = stamps(600)
    for features in (core_pixels, radial_profile):
        assert abs(linear_auc(features(images), labels, None, seed=1) - 0.5) < 0.08


def test_a_planted_core_is_seen_in_the_core_and_an_annulus_only_in_the_profile() -> None:
    images, labels = stamps(600)
    radius = np.hypot(*(np.indices((21, 21)) - 10))
    with_core, with_ring = images.copy(), images.copy()
    with_core[labels == 1] += np.where(radius < 2, 1.0, 0.0)[:, :, None].astype(np.float32)
    with_ring[labels == 1] += np.where(np.abs(radius - 8) < 1, 0.5, 0.0)[:, :, None].astype(np.float32)
    assert linear_auc(core_pixels(with_core), labels, None, seed=1) > 0.95
    assert abs(linear_auc(core_pixels(with_ring), labels, None, seed=1) - 0.5) < 0.08
    assert linear_auc(radial_profile(with_ring), labels, None, seed=1) > 0.95


def test_features_are_the_pixels_and_means_they_say() -> None:
    images, _ = stamps(3)
    radius = np.hypot(*(np.indices((21, 21)) - 10))
    np.testing.assert_array_equal(core_pixels(images)[1], images[1][radius < 5].ravel())
    profile = radial_profile(images).reshape(3, -1, 2)
    for ring in (0, 1, 7, 14):
        inside = np.floor(radius + 0.5) == ring
        np.testing.assert_allclose(profile[:, ring], images[:, inside].mean(axis=1), atol=1e-6)


def test_a_signature_of_the_patch_of_sky_does_not_pass_for_a_class() -> None:
    random = np.random.default_rng(3)
    group = np.repeat(np.arange(40), 15)
    labels = (group % 2).astype(np.int64)  # whole patches are of one class
    features = random.normal(size=(600, 60)) + random.normal(size=(40, 60))[group]
    assert linear_auc(features, labels, None, seed=0) > 0.85
    assert linear_auc(features, labels, group, seed=0) < 0.75


def test_a_class_of_a_few_has_no_figure() -> None:
    images, _ = stamps(20)
    assert np.isnan(linear_auc(core_pixels(images), np.arange(20) // 17, None, seed=0))


@pytest.mark.parametrize(("size", "expected"), [(20, (10, 10)), (100, (50, 12)), (1000, (88, 12))])
def test_a_sample_takes_both_classes(size: int, expected: tuple[int, int]) -> None:
    labels = (np.arange(100) % 8 == 7).astype(np.int64)
    chosen = balanced_sample(labels, size, seed=0)
    assert tuple(np.bincount(labels[chosen])) == expected
    assert (np.diff(chosen) > 0).all()
