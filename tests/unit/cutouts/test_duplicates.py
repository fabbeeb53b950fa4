"""The same pixels under two keys, against brute force and against what must not be found."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensdata.cutouts import duplicates
from lensdata.cutouts.duplicates import exact_duplicates, near_duplicates, near_pairs, noise_hash

THRESHOLD = 11


def galaxy_stamps(count: int, seed: int = 0, flux_nmgy: float = 20.0) -> np.ndarray:
    """Round, centred galaxies that look much alike, with noise of their own: what fools a hash of the whole picture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:101, :101] - 50.0
    radius = rng.uniform(2, 5, (count, 1, 1, 1))  # scale length, pixels: half-light radii of 0.9 to 2.2 arcsec
    profile = flux_nmgy / (2 * np.pi * radius**2) * np.exp(-np.hypot(x, y)[None, :, :, None] / radius)
    sigma = np.array([0.002, 0.003, 0.007])  # of a pixel, nanomaggies: DR10's typical depth
    return (profile * [0.3, 1.0, 1.8] + rng.normal(0, sigma, (count, 101, 101, 3))).astype(np.float32)


def bits(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return np.unpackbits(noise_hash(one) ^ noise_hash(two), axis=1).sum(axis=1)


def test_stamps_of_other_noise_differ_in_half_of_their_bits_as_fair_coins_do():
    hashes = np.unpackbits(noise_hash(galaxy_stamps(300)), axis=1).astype(int)
    assert hashes.shape == (300, 192)
    differing = (hashes[:, None] != hashes[None]).sum(axis=2)[np.triu_indices(300, 1)]
    assert abs(differing.mean() - 96) < 1
    assert abs(differing.std() - np.sqrt(192) / 2) < 0.5
    assert differing.min() > 4 * THRESHOLD


def test_even_halos_of_the_brightest_galaxies_do_not_make_pairs():
    hashes = np.unpackbits(noise_hash(galaxy_stamps(300, flux_nmgy=300.0)), axis=1).astype(int)
    assert (hashes[:, None] != hashes[None]).sum(axis=2)[np.triu_indices(300, 1)].min() > 2 * THRESHOLD


@pytest.mark.parametrize(
    "change",
    [
        lambda stamps, _: stamps * np.float32(1.7),
        lambda stamps, _: stamps + np.float32(0.05),
        lambda stamps, _: stamps.astype(np.float16).astype(np.float32),
        lambda stamps, _: np.where(np.hypot(*(np.mgrid[:101, :101] - 50))[None, :, :, None] < 18, 0.4, stamps),
        lambda stamps, rng: stamps + rng.normal(0, 0.0001, stamps.shape),
        lambda stamps, _: stamps + 1e-4 * np.arange(101)[:, None],
    ],
    ids=["flux scale", "sky level", "half precision", "another core", "noise of a twentieth", "a sky gradient"],
)
def test_the_same_exposures_are_known_again_after(change):
    stamps = galaxy_stamps(100)
    assert bits(stamps, change(stamps, np.random.default_rng(1))).max() <= THRESHOLD


@pytest.mark.parametrize(
    "change",
    [
        lambda stamps: galaxy_stamps(100, seed=5),
        lambda stamps: stamps[:, ::-1],
        lambda stamps: np.roll(stamps, 4, axis=2),
    ],
    ids=["the same kind of galaxy in other exposures", "mirrored", "shifted by four pixels"],
)
def test_what_the_hash_cannot_find_is_far_from_the_threshold(change):
    stamps = galaxy_stamps(100)
    assert bits(stamps, change(stamps)).min() > 2 * THRESHOLD


def test_missing_pixels_count_as_zero_and_a_small_stamp_is_refused():
    stamps = galaxy_stamps(3)
    stamps[:, 10:14, 20:60] = np.nan
    assert np.array_equal(noise_hash(stamps), noise_hash(np.nan_to_num(stamps)))
    with pytest.raises(ValueError, match="64 pixels, found 63"):
        noise_hash(stamps[:, :63, :63])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), limit=st.integers(0, 15), count=st.integers(0, 40))
def test_banded_lookup_finds_the_pairs_of_brute_force(seed, limit, count):
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 256, (count, 24), dtype=np.uint8)
    for copy in range(1, count, 3):  # every third is another one with up to 20 bits turned
        flip = np.zeros(192, np.uint8)
        flip[rng.choice(192, rng.integers(0, 21), replace=False)] = 1
        hashes[copy] = hashes[rng.integers(0, copy)] ^ np.packbits(flip)
    wide = np.unpackbits(hashes, axis=1).astype(int)
    differing = (wide[:, None] != wide[None]).sum(axis=2)
    expected = np.argwhere(np.triu(differing <= limit, 1))
    pairs, found = near_pairs(hashes, limit)
    assert np.array_equal(pairs, expected)
    assert np.array_equal(found, differing[pairs[:, 0], pairs[:, 1]])


def test_blank_stamps_are_no_pairs():
    assert len(near_pairs(noise_hash(np.zeros((5, 101, 101, 3), np.float32)), THRESHOLD)[0]) == 0


def listed(**columns) -> pd.DataFrame:
    count = len(columns["split"])
    defaults = {"cutout_id": range(count), "source_id": range(count), "label": 0, "ra": 10.0, "dec": 0.0}
    return pd.DataFrame(defaults | columns, index=range(count))


def test_equal_pixels_across_splits_are_named_and_those_in_one_split_only_counted():
    found = exact_duplicates(
        listed(
            pixel_hash=["a", "a", "b", "b", "c"], split=["train", "test", "val", "val", "val"], label=[1, 0, 0, 0, 0]
        )
    )
    assert (found["pixels_of_several_stamps"], found["stamps_with_shared_pixels"]) == (2, 4)
    assert found["stamps_across_splits"] == 2
    named = [(row["source_id"], row["split"], row["label"]) for row in found["across_splits"]]
    assert named == [(0, "train", 1), (1, "test", 0)]


def test_nearly_equal_stamps_across_splits_are_named_with_their_distance():
    stamps = galaxy_stamps(6)
    stamps[4], stamps[5] = stamps[0] * 1.1, stamps[1]
    rows = listed(
        pixel_hash=["p0", "p1", "p2", "p3", "p4", "p1"], split=["train", "train", "val", "val", "test", "test"],
        label=[1, 0, 0, 0, 0, 0], dec=[0.0, 0.1, 0.2, 0.3, 1 / 3600, 0.1],
    )  # fmt: skip
    found = near_duplicates(rows, noise_hash(stamps), THRESHOLD)
    assert (
        found["pairs"] == found["pairs_across_splits"] == found["pairs_of_both_labels"] == 1
    )  # equal pixels are not listed
    (pair,) = found["across_splits"]
    assert (pair["source_id_1"], pair["source_id_2"], pair["bits"]) == (0, 4, 0)
    assert pair["separation_arcsec"] == 1.0


def test_a_report_names_no_more_than_it_says(monkeypatch):
    monkeypatch.setattr(duplicates, "LISTED", 2)
    found = exact_duplicates(listed(pixel_hash=["a"] * 6, split=["train", "val"] * 3))
    assert (found["stamps_across_splits"], len(found["across_splits"])) == (6, 2)
