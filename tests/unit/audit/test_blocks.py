"""Bootstrap of whole blocks against a naive one that draws them one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from sklearn.metrics import roc_auc_score

from lensdata.audit import intervals, roc
from lensdata.audit.blocks import TooFewBlocks, _resampled, block_bootstrap, block_kinds, sky_blocks

RNG = np.random.default_rng(0)
LABEL = np.r_[np.ones(60, bool), np.zeros(500, bool)]
BLOCK = RNG.integers(0, 80, len(LABEL))
SCORE = np.round(RNG.normal(LABEL * 1.5, 1.0) + RNG.normal(0, 1.0, 80)[BLOCK], 1)


def test_resamples_are_distributed_as_naive_ones():
    members = [np.flatnonzero(number == BLOCK) for number in np.unique(BLOCK)]
    rng, naive = np.random.default_rng(1), []
    for _ in range(800):
        rows = np.concatenate([members[number] for number in rng.integers(0, len(members), len(members))])
        naive.append((roc_auc_score(LABEL[rows], SCORE[rows]), LABEL[rows].sum(), (~LABEL[rows]).sum()))
    drawn = list(_resampled(LABEL, SCORE, BLOCK, 4000, 2))
    for place, figure in enumerate((roc.auc, lambda c: c.n_positive, lambda c: c.n_negative)):
        ours = np.concatenate([figure(curve) for curve in drawn])
        assert len(ours) == 4000
        assert ks_2samp(ours, np.array(naive)[:, place]).pvalue > 0.01


def test_alike_neighbours_widen_the_interval():
    rng = np.random.default_rng(3)
    label, block = np.arange(1000) % 4 == 0, np.arange(1000) % 25
    score = rng.normal(label * 1.5) + rng.normal(0, 2.0, 25)[block] * label  # lenses of a block share their luck
    by_object = intervals.bootstrap(roc.compress(label, score), {"auc": roc.auc}, 1000, 0)["auc"]
    by_block = block_bootstrap(label, score, block, {"auc": roc.auc}, 1000, 0)["auc"]
    assert by_block.value == by_object.value
    assert by_block.high - by_block.low > 1.5 * (by_object.high - by_object.low)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5)), min_size=1, max_size=40))
def test_kinds_of_blocks_hold_every_object_once(objects):
    blocks, columns = np.array(objects).T
    kinds, contents = block_kinds(columns, blocks)
    assert kinds.sum() == len(np.unique(blocks))
    assert np.array_equal(contents @ kinds, np.bincount(columns))
    rebuilt = sorted(
        tuple(column) for column, many in zip(contents.toarray().T, kinds, strict=True) for _ in range(many)
    )
    expected = sorted(tuple(np.bincount(columns[blocks == b], minlength=columns.max() + 1)) for b in np.unique(blocks))
    assert rebuilt == expected


def test_duplicates_join_their_pixels():
    pixel, group = [1, 1, 2, 3, 4, 4], [10, 11, 11, 12, 12, 13]
    block = sky_blocks(pixel, group)
    assert block[0] == block[1] == block[2]
    assert block[3] == block[4] == block[5]
    assert block[0] != block[3]
    assert np.array_equal(sky_blocks(pixel), [0, 0, 1, 2, 3, 3])


@pytest.mark.parametrize("block", [np.zeros(20, int), np.r_[np.zeros(10, int), np.arange(1, 11)]])
def test_too_few_blocks_are_refused(block):
    label = np.r_[np.ones(10), np.zeros(10)]
    with pytest.raises(TooFewBlocks, match="blocks"):
        block_bootstrap(label, np.arange(20.0), block, (), 100, 0)
