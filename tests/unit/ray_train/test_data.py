"""Stamps reach the loop in order, each once, from memory or from row groups (R-T8)."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_train.core.data import DataError, ResidentStamps, StampTable, StreamedStamps, choose_residency, read_ahead
from ray_train.core.images import ImageRecipe
from ray_train.core.order import epoch_order, micro_batches

CPU = torch.device("cpu")
PLAIN = ImageRecipe(normalisation="identity", crop=None)


def table_of(groups: list[list[int]]) -> tuple[StampTable, list[np.ndarray]]:
    """Row groups of 10 stamps, of which only some rows are listed; a stamp's pixels are its key."""
    stamps = [
        np.full((10, 2, 2, 1), 100 * g, np.float32) + np.arange(10, dtype=np.float32)[:, None, None, None]
        for g in range(len(groups))
    ]
    group = np.repeat(np.arange(len(groups)), [len(rows) for rows in groups])
    within = np.array([row for rows in groups for row in rows], np.int64)
    count = len(within)
    return StampTable(
        100 * group + within, np.zeros(count, np.float32), np.ones(count, np.float32), group, within
    ), stamps


GROUPS = st.lists(st.lists(st.integers(0, 9), unique=True, min_size=1, max_size=10).map(sorted), min_size=1, max_size=7)


@settings(max_examples=40, deadline=None)
@given(
    groups=GROUPS,
    micro=st.integers(1, 9),
    shuffle_rows=st.integers(1, 40),
    epoch=st.integers(0, 5),
    world=st.integers(1, 3),
)
def test_both_residencies_deliver_the_order_exactly(
    groups: list[list[int]], micro: int, shuffle_rows: int, epoch: int, world: int
) -> None:
    table, stamps = table_of(groups)
    order = epoch_order(table.group_sizes, seed=1, epoch=epoch, shuffle_rows=shuffle_rows)
    resident = ResidentStamps(table, stamps.__getitem__, PLAIN, CPU)
    streamed = StreamedStamps(table, stamps.__getitem__, PLAIN, CPU)
    seen = []
    for rank in range(world):
        steps = micro_batches(len(table), micro_batch=micro, accumulation=2, drop_last=False, rank=rank, world=world)
        slices = [piece for step in steps for piece in step]
        pairs = zip(slices, resident.batches(order, slices), streamed.batches(order, slices), strict=True)
        for (start, stop), a, b in pairs:
            expected = table.cutout_ids[order.rows[start:stop]]
            assert a[:, 0, 0, 0].tolist() == b[:, 0, 0, 0].tolist() == expected.tolist()
            seen += expected.tolist()
    assert sorted(seen) == sorted(table.cutout_ids.tolist())


def test_streaming_holds_one_window_and_reads_each_group_once() -> None:
    table, stamps = table_of([list(range(10))] * 12)
    read: list[int] = []
    order = epoch_order(table.group_sizes, seed=0, epoch=0, shuffle_rows=20)
    source = StreamedStamps(table, lambda group: read.append(group) or stamps[group], PLAIN, CPU)
    batches = source.batches(order, [(start, start + 10) for start in range(0, 120, 10)])
    next(batches)
    assert len(read) <= 2 * 4  # four pieces ahead of the first, two to a window of two groups
    list(batches)
    assert sorted(read) == list(range(12))


def test_a_row_that_is_not_in_its_group_is_an_error() -> None:
    table, stamps = table_of([[0, 9]])
    short = [group[:5] for group in stamps]
    with pytest.raises(DataError, match="row group 0 has 5 rows, but the manifest asks for row 9"):
        ResidentStamps(table, short.__getitem__, PLAIN, CPU)
    with pytest.raises(DataError, match="asks for row 9"):
        list(StreamedStamps(table, short.__getitem__, PLAIN, CPU).batches(table.in_order(), [(0, 2)]))


def test_an_error_while_reading_ahead_reaches_the_reader() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("disk gone")

    ahead = read_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(ahead)


def test_leaving_early_ends_the_reading_thread() -> None:
    ahead = read_ahead(iter(range(10**9)))
    assert next(ahead) == 0
    ahead.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_residency_goes_by_bytes() -> None:
    assert choose_residency("auto", 100, (101, 101, 3), 63, CPU)[0] == "device"
    assert choose_residency("auto", 10**9, (101, 101, 3), None, CPU)[0] == "stream"
    assert choose_residency("stream", 1, (101, 101, 3), None, CPU)[0] == "stream"
    with pytest.raises(DataError, match="use residency stream"):
        choose_residency("device", 10**9, (101, 101, 3), None, CPU)
