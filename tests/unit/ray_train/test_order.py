"""The order of an epoch: a permutation, windowed, the same for any number of workers (R-T8)."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ray_train.core.order import epoch_order, micro_batches, num_steps

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=30)


@given(sizes=SIZES, seed=st.integers(0, 2**40), epoch=st.integers(0, 300), shuffle_rows=st.integers(1, 60))
def test_every_epoch_is_a_permutation_in_windows(sizes: list[int], seed: int, epoch: int, shuffle_rows: int) -> None:
    order = epoch_order(sizes, seed=seed, epoch=epoch, shuffle_rows=shuffle_rows)
    assert sorted(order.rows) == list(range(sum(sizes)))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    end = 0
    for groups, start, stop in order.windows:
        assert start == end
        end = stop
        rows = np.concatenate([np.arange(starts[g], starts[g + 1]) for g in groups])
        assert sorted(order.rows[start:stop]) == sorted(rows)
        assert stop - start < shuffle_rows + 12
    assert end == sum(sizes)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    orders = {
        (seed, epoch): tuple(epoch_order([16] * 8, seed=seed, epoch=epoch, shuffle_rows=64).rows)
        for seed in (1, 2)
        for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4
    assert orders[1, 1] == tuple(epoch_order([16] * 8, seed=1, epoch=1, shuffle_rows=64).rows)


def test_a_wide_window_is_a_full_shuffle() -> None:
    """The mean distance of neighbours is that of random pairs, a third of the length."""
    rows = epoch_order([128] * 20, seed=0, epoch=0, shuffle_rows=10_000).rows
    assert abs(np.abs(np.diff(rows)).mean() / len(rows) - 1 / 3) < 0.02


@given(
    num_rows=st.integers(1, 200), micro_batch=st.integers(1, 16), accumulation=st.integers(1, 6),
    world=st.integers(1, 5), drop_last=st.booleans(),
)  # fmt: skip
def test_workers_share_every_step_whole_and_without_overlap(
    num_rows: int, micro_batch: int, accumulation: int, world: int, drop_last: bool
) -> None:
    options = {"micro_batch": micro_batch, "accumulation": accumulation, "drop_last": drop_last}
    alone = micro_batches(num_rows, **options)
    shares = [micro_batches(num_rows, **options, rank=rank, world=world) for rank in range(world)]
    assert (
        {len(share) for share in shares}
        == {len(alone)}
        == {num_steps(num_rows, micro_batch * accumulation, drop_last=drop_last)}
    )
    for step, whole in enumerate(alone):
        assert sorted(piece for share in shares for piece in share[step]) == whole
    covered = [row for step in alone for start, stop in step for row in range(start, stop)]
    window = micro_batch * accumulation
    assert covered == list(range(num_rows - num_rows % window if drop_last else num_rows))
