"""Pixels, splits, matches and groups against independent computations."""

from __future__ import annotations

import hashlib

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st

from lensdata.sky import groups, healpix, splits
from lensdata.sky.crossmatch import SkyIndex


def test_the_hash_of_pixel_zero_is_the_published_one():
    assert round(float(splits.pixel_hashes(42)[0]), 5) == 0.52190


def test_the_fractions_of_the_whole_sky_are_the_published_ones():
    names, counts = np.unique(splits.assign_splits(np.arange(healpix.NUM_PIXELS)), return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {"test": 29_504, "train": 137_671, "val": 29_433}


@settings(max_examples=100, deadline=None)
@given(pixel=st.integers(0, healpix.NUM_PIXELS - 1), seed=st.integers(41, 43))
def test_a_split_is_the_hash_written_out(pixel, seed):
    value = int.from_bytes(hashlib.sha256(f"{pixel}_{seed}".encode()).digest()[:4], "big") / 2**32
    expected = "train" if value < 0.70 else "val" if value < 0.85 else "test"
    assert splits.assign_splits([pixel], seed)[0] == expected


def test_folds_are_even_and_independent_of_the_split():
    pixels = np.arange(healpix.NUM_PIXELS)
    folds = splits.assign_folds(pixels)
    is_train = splits.assign_splits(pixels) == "train"
    assert np.abs(np.bincount(folds) / len(pixels) - 0.2).max() < 0.005
    assert np.abs(np.bincount(folds[is_train]) / is_train.sum() - 0.2).max() < 0.005


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dec=st.sampled_from([-90.0, -60.0, 0.0, 33.3, 89.5, 90.0]),
    ra=st.sampled_from([0.0, 45.0, 359.999]),
    radius=st.floats(1.0, 60.0),
)
def test_the_nearest_match_is_that_of_brute_force(seed, dec, ra, radius):
    rng = np.random.default_rng(seed)
    spread = 3 * radius / 3600
    stretch = 1 / max(np.cos(np.radians(dec)), 0.01)
    lens_ra, lens_dec = ra + rng.normal(0, spread, 12) * stretch, np.clip(dec + rng.normal(0, spread, 12), -90, 90)
    row_ra, row_dec = ra + rng.normal(0, spread, 40) * stretch, np.clip(dec + rng.normal(0, spread, 40), -90, 90)
    index, separation = SkyIndex(lens_ra, lens_dec).nearest(row_ra, row_dec, radius)
    lenses, rows = SkyCoord(lens_ra, lens_dec, unit="deg"), SkyCoord(row_ra, row_dec, unit="deg")
    exact = rows[:, None].separation(lenses[None]).to_value(u.arcsec)
    best, distance = exact.argmin(axis=1), exact.min(axis=1)
    inside = distance <= radius
    clear = np.abs(distance - radius) > 1e-6  # rounding decides within a microarcsecond of the edge
    assert np.array_equal((index >= 0)[clear], inside[clear])
    found = (index >= 0) & clear
    assert np.allclose(separation[found], distance[found], atol=1e-5)
    assert np.allclose(exact[found, index[found]], distance[found], atol=1e-5)
    assert np.all(best[found] >= 0)


def test_an_empty_list_matches_nothing():
    index, separation = SkyIndex([], []).nearest([10.0, 20.0], [0.0, 0.0], 11.0)
    assert index.tolist() == [-1, -1]
    assert np.isnan(separation).all()


def test_groups_are_the_closure_of_friends():
    step = 30 / 3600
    ra = np.array([359.999, 359.999 + step, 359.999 + 2 * step, 100.0])
    assert groups.group_ids([40, 30, 20, 10], ra, np.zeros(4), 37.0).tolist() == [20, 20, 20, 10]
