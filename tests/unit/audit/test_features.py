"""Features of stamps are what their docstrings say, by another way to compute them (R-E4)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from lensdata.audit import features, regions, texture
from lensdata.cutouts.quality import edge_score

SCALE = regions.PIXSCALE_ARCSEC
SIZE = 71


def noise(count: int = 4, size: int = SIZE, planes: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, size, size, planes)).astype(np.float32)


def radius(size: int = SIZE) -> np.ndarray:
    return np.array([[np.hypot(row - size // 2, column - size // 2) for column in range(size)] for row in range(size)])


def test_core_pixels_are_the_pixels_of_the_core() -> None:
    stamps = noise(size=21)
    np.testing.assert_array_equal(features.core_pixels(stamps)[1], stamps[1][radius(21) < 5].ravel())


@pytest.mark.parametrize(("smallest", "largest"), [(0, np.inf), (5, 30.5)])
def test_a_profile_is_the_mean_of_each_ring(smallest: float, largest: float) -> None:
    stamps, ring = noise(), np.floor(radius() + 0.5)
    numbers = [number for number in range(int(ring.max()) + 1) if smallest <= number <= largest]
    found = features.radial_profile(stamps, smallest, largest).reshape(4, len(numbers), 3)
    for place, number in enumerate(numbers):
        for plane in range(3):
            expected = ndimage.mean(stamps[2, :, :, plane].astype(float), ring, number)
            assert found[2, place, plane] == pytest.approx(expected, abs=1e-6)


def test_ring_means_are_means_between_radii() -> None:
    stamps = noise()
    found = features.ring_means(stamps, (5, 8, 15)).reshape(4, 2, 3)
    inside = (radius() >= 8) & (radius() < 15)
    np.testing.assert_allclose(found[3, 1], stamps[3, inside].mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("size", [SIZE, 20])
def test_above_sky_takes_the_median_outside_away(size: int) -> None:
    stamps = noise(size=size) + np.arange(3)
    outside = radius(size) >= min(8 / SCALE, np.quantile(radius(size), 0.75))
    np.testing.assert_allclose(
        features.above_sky(stamps)[1], stamps[1] - np.median(stamps[1, outside], axis=0), atol=1e-6
    )


def test_annulus_cells_are_means_of_rings_cut_into_sectors() -> None:
    stamps = noise()
    found = features.annulus_cells(stamps).reshape(4, 3, 4, 8)
    low, high = regions.ANNULUS_ARCSEC
    sums, counts = np.zeros((4, 8)), np.zeros((4, 8))
    for row in range(SIZE):
        for column in range(SIZE):
            y, x = row - SIZE // 2, column - SIZE // 2
            arcsec = np.hypot(y, x) * SCALE
            if low <= arcsec < high:
                ring = int((arcsec - low) / (high - low) * 4)
                sector = int(np.floor(np.arctan2(y, x) / (2 * np.pi) % 1 * 8))
                sums[ring, sector] += stamps[1, row, column, 2]
                counts[ring, sector] += 1
    np.testing.assert_allclose(found[1, 2], sums / counts, atol=1e-5)


def test_background_figures_are_those_of_the_pixels_beyond_eight_arcsec() -> None:
    stamps = 0.3 * noise(seed=2) + 5
    found = features.background(stamps).reshape(4, 3, 12)[2, 1]
    sky = stamps[2, :, :, 1][radius() * SCALE >= 8].astype(float)
    level, sigma = np.median(sky), stats.median_abs_deviation(sky, scale="normal")
    assert found[0] == pytest.approx(level, abs=1e-5)
    assert found[1] == pytest.approx(np.log(sigma), abs=1e-3)
    quantiles = np.quantile(sky, features.QUANTILES, method="nearest")
    np.testing.assert_allclose(found[2:8], (quantiles - level) / sigma, atol=1e-2)
    scaled = np.clip((sky - level) / sigma, -5, 5)
    np.testing.assert_allclose(found[8:], [np.mean(scaled**power) for power in (1, 2, 3, 4)], atol=1e-2)


def test_pixel_statistics_are_counts() -> None:
    stamps = noise(3)
    stamps[0, :7, :, 1] = np.nan
    stamps[1, 5, 5, 0] = np.inf
    stamps[2, 10:20, 10:20, 2] = 300
    stamps[2, :, 60:, 0] = 7
    found = features.pixel_statistics(stamps, saturated_above=250)
    np.testing.assert_allclose(found[0, :3], [0, 7 / SIZE, 0])
    np.testing.assert_allclose(found[:, 12], [7 * SIZE / (3 * SIZE**2), 1 / (3 * SIZE**2), 0], atol=1e-9)
    np.testing.assert_allclose(found[:, 13], [0, 0, 100 / SIZE**2])
    sky = stamps[2, :, :, 0][radius() * SCALE >= 8]
    assert found[2, 3] == pytest.approx((len(sky) - len(np.unique(sky))) / (len(sky) - 1), rel=1e-3)
    assert found[2, 6] == pytest.approx(np.mean(sky == 7), rel=1e-2)
    assert found[2, 14] == edge_score(stamps[2])


def test_filters_are_scipys() -> None:
    stamps = noise(2, size=19)
    binomial = np.array([1, 4, 6, 4, 1]) / 16
    for index in range(2):
        for plane in range(3):
            image = stamps[index, :, :, plane].astype(float)
            expected = ndimage.laplace(image, mode="mirror")
            np.testing.assert_allclose(texture.laplacian(stamps)[index, :, :, plane], expected, atol=1e-5)
            once = image
            for axis in (0, 1):
                once = ndimage.convolve1d(once, binomial, axis=axis, mode="mirror")
            twice = once
            for axis in (0, 1):
                twice = ndimage.convolve1d(twice, binomial, axis=axis, mode="mirror")
            np.testing.assert_allclose(texture.dog(stamps)[index, :, :, plane], once - twice, atol=1e-5)


def test_white_noise_has_the_texture_of_white_noise_and_smoothed_noise_has_not() -> None:
    white = noise(6, size=101)
    smooth = ndimage.gaussian_filter1d(white, 0.5, axis=2)
    found = texture.high_frequencies(white).reshape(6, 4, 3)
    np.testing.assert_allclose(found[:, 0], np.log(np.sqrt(20)), atol=0.08)  # 4^2 + 4 variances of a pixel
    np.testing.assert_allclose(found[:, 2:], 0, atol=0.08)
    correlated = texture.high_frequencies(smooth).reshape(6, 4, 3)
    direct = [np.corrcoef(stamp[:, 1:, 0].ravel(), stamp[:, :-1, 0].ravel())[0, 1] for stamp in smooth]
    np.testing.assert_allclose(correlated[:, 3, 0], direct, atol=0.08)
    np.testing.assert_allclose(correlated[:, 2], 0, atol=0.08)  # along the other axis nothing changed
    assert (correlated[:, 0] < found[:, 0]).all()


def test_noise_free_light_leaves_the_fine_structure_and_smoothing_the_annulus_does_not() -> None:
    stamps = noise(8)
    light = 30 * np.exp(-radius() / 8)[None, :, :, None]
    before = texture.fine_structure(stamps)
    assert np.abs(texture.fine_structure(stamps + light) - before).max() < 0.15
    ring = ((radius() > 4) & (radius() < 14))[None, :, :, None]
    smoothed = np.where(ring, ndimage.gaussian_filter(stamps, (0, 1, 1, 0)), stamps)
    assert (texture.fine_structure(smoothed) < before - 0.5).all()


def test_blueness_is_the_logarithm_of_the_flux_ratios() -> None:
    stamps = 1e-3 * noise(3) + np.exp(-radius() / 4)[None, :, :, None] * np.array([1.0, 2, 3])
    ring = (radius() * SCALE >= 0.8) & (radius() * SCALE < 3)
    stamps[:, ring] *= np.array([1.5, 1, 1])
    found = features.blueness(stamps, ("g", "r", "z"))
    np.testing.assert_allclose(found[:, 0], np.log(1.5), atol=2e-3)
    np.testing.assert_allclose(found[:, 1], 0, atol=2e-3)
    assert features.blueness(stamps[..., 1:], ("r", "z")).shape == (3, 1)


def test_missing_pixels_take_the_median_of_the_known_ones() -> None:
    stamps = noise(3)
    stamps[1, :10, :, 2], stamps[1, 40, 40, 2], stamps[2, :, :, 0] = 0, np.nan, np.nan
    filled = features.fill_missing(stamps)
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[0], stamps[0])
    known = np.isfinite(stamps[1, :, :, 2]) & (stamps[1, :, :, 2] != 0)
    assert filled[1, 3, 3, 2] == np.median(stamps[1, :, :, 2][known])
    assert (filled[2, :, :, 0] == 0).all()


@settings(max_examples=12, deadline=None)
@given(
    scale=st.floats(0.2, 20), shift=st.floats(-3, 3), seed=st.integers(0, 999), quarter=st.integers(0, 3)
)  # fmt: skip
def test_each_gate_sees_its_own_cause_alone(scale: float, shift: float, seed: int, quarter: int) -> None:
    stamps = noise(2, seed=seed) + np.float32(5) * np.exp(-radius() / 5)[None, :, :, None].astype(np.float32)
    changed = (np.float32(scale) * stamps + np.float32(shift)).astype(np.float32)
    close = {"rtol": 1e-3, "atol": 2e-2}
    for ratios in (texture.high_frequencies, texture.fine_structure):  # whatever the depth and the level
        np.testing.assert_allclose(ratios(changed), ratios(stamps), **close)
    before, after = (features.background(image).reshape(2, 3, 12) for image in (stamps, changed))
    np.testing.assert_allclose(after[:, :, 0], scale * before[:, :, 0] + shift, **close)
    np.testing.assert_allclose(after[:, :, 1], before[:, :, 1] + np.log(scale), **close)
    np.testing.assert_allclose(after[:, :, 2:], before[:, :, 2:], rtol=1e-2, atol=5e-2)
    for light in (features.core_pixels, features.radial_profile, features.annulus_cells):  # above the sky: no constant
        one, two = light(features.above_sky(changed)), light(features.above_sky(stamps))
        np.testing.assert_allclose(one, scale * two, rtol=1e-3, atol=2e-3 * scale + 1e-4)
    colours = [features.blueness(features.above_sky(image), ("g", "r", "z")) for image in (stamps, changed)]
    np.testing.assert_allclose(*colours, **close)
    turned = np.rot90(stamps, quarter, axes=(1, 2))
    np.testing.assert_allclose(features.radial_profile(turned), features.radial_profile(stamps), atol=1e-4)


def test_stamps_too_small_for_a_sky_have_light_only() -> None:
    small = noise(size=31)
    assert features.of_stored(small) == {}
    assert set(features.of_prepared(small, ("g", "r", "z"))) == {"core", "profile", "annulus"}
    assert set(features.of_light(small)) == {"core", "profile", "annulus"}


def test_stamps_that_are_not_normalised_have_the_same_sky_stored_and_seen() -> None:
    stamps = noise()
    stored, seen = features.of_stored(stamps), features.of_prepared(stamps, ("g", "r", "z"))
    for name, values in stored.items():
        np.testing.assert_allclose(seen[name], values)


def test_batches_do_not_matter() -> None:
    stamps = noise(6)
    whole, halves = features.of_stored(stamps), [features.of_stored(stamps[:3]), features.of_stored(stamps[3:])]
    for name, values in whole.items():
        np.testing.assert_allclose(values, np.concatenate([half[name] for half in halves]), rtol=1e-5, atol=1e-6)


def test_stamps_without_noise_or_data_are_not_measurable_and_no_error() -> None:
    blank = np.zeros((2, SIZE, SIZE, 3), np.float32)
    with np.errstate(all="raise"):
        found = features.of_stored(blank)
    assert np.isnan(found["high_frequencies"]).all()
    assert (found["pixel_statistics"][:, :3] == 1).all()


def test_pairs_are_seen_where_the_bands_have_controls() -> None:
    stamps = noise(planes=6)
    bands = ("g", "r", "z", "g_ctrl", "r_ctrl", "z_ctrl")
    found = features.of_prepared(stamps, bands)["pair"]
    assert found.shape == (4, 12)
    assert found[1, 2] == pytest.approx(float((stamps[1, ..., 0] - stamps[1, ..., 3]).mean()), abs=1e-6)
