"""Identities: packing, bijection, kinds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensdata import hashing


@given(st.integers(0, 2**16 - 1), st.integers(0, 2**20 - 1), st.integers(0, 2**22 - 1))
def test_source_ids_unpack_to_what_was_packed(release, brickid, objid):
    packed = hashing.pack_source_id(release, brickid, objid)
    assert tuple(int(part) for part in hashing.unpack_source_id(packed)) == (release, brickid, objid)


@pytest.mark.parametrize("parts", [(1 << 16, 0, 0), (0, 1 << 20, 0), (0, 0, 1 << 22), (-1, 0, 0)])
def test_numbers_that_do_not_fit_are_refused(parts):
    with pytest.raises(ValueError, match="outside"):
        hashing.pack_source_id(*parts)


def test_splitmix64_gives_the_reference_sequence():
    # first outputs of the generator seeded with 1234567, from the reference implementation's published test vector
    golden = 0x9E3779B97F4A7C15
    seeds = np.array([(1234567 + i * golden) % 2**64 for i in range(3)], dtype=np.uint64)
    assert hashing.splitmix64(seeds).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_sampling_keys_never_tie_and_depend_on_the_seed():
    ids = np.arange(200_000, dtype=np.int64)
    assert len(np.unique(hashing.sampling_key(ids, 42))) == len(ids)
    assert not np.array_equal(hashing.sampling_key(ids, 42), hashing.sampling_key(ids, 43))


def test_stamps_of_other_kinds_have_negative_keys_of_their_own():
    ids = np.arange(1, 10_001, dtype=np.int64) << 22
    assert np.array_equal(hashing.cutout_id(ids), ids)
    control, injection = hashing.cutout_id(ids, "control"), hashing.cutout_id(ids, "injection", 3)
    assert (control < 0).all()
    assert (injection < 0).all()
    assert len(np.unique(np.concatenate([control, injection]))) == 20_000


@pytest.mark.parametrize("purpose", ["gate", "subsample", "shards", "examples"])
def test_a_second_choice_among_the_sampled_does_not_follow_the_size_of_their_pools(purpose):
    """Equal samples of a large and a small pool are equally mixed in any tenth of the second order."""
    large, small = np.arange(600_000), np.arange(1_000_000, 1_030_000)
    sampled = np.concatenate([ids[np.argsort(hashing.sampling_key(ids, 42))[:20_000]] for ids in (large, small)])
    order = np.argsort(hashing.second_key(sampled, 42, purpose))
    shares = (sampled[order] < 600_000).reshape(10, -1).mean(axis=1)
    assert np.abs(shares - 0.5).max() < 0.04  # five standard deviations of 4,000 fair coins
    again = sampled[np.argsort(hashing.sampling_key(sampled, 42))]
    assert (again[:4000] < 600_000).mean() > 0.9, "the sampling key itself would follow them"
