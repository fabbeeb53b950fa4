"""Stamps reach the loop in order, each once, from memory or from row groups (R-T8)."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_train.core.data import DataError, HostStamps, ResidentStamps, StampTable, StreamedStamps, read_ahead
from ray_train.core.images import ImageRecipe
from ray_train.core.memory import GIB, NoRoomError, Room, choose_residency, require_room, room, step_need
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
def test_every_residency_delivers_the_order_exactly(
    groups: list[list[int]], micro: int, shuffle_rows: int, epoch: int, world: int
) -> None:
    table, stamps = table_of(groups)
    order = epoch_order(table.group_sizes, seed=1, epoch=epoch, shuffle_rows=shuffle_rows)
    resident = ResidentStamps(table, stamps.__getitem__, PLAIN, CPU)
    streamed = StreamedStamps(table, stamps.__getitem__, PLAIN, CPU)
    with tempfile.TemporaryDirectory() as folder:
        mapped = HostStamps(table, stamps.__getitem__, PLAIN, CPU, Path(folder) / "stamps.npy")
    seen = []
    for rank in range(world):
        steps = micro_batches(len(table), micro_batch=micro, accumulation=2, drop_last=False, rank=rank, world=world)
        slices = [piece for step in steps for piece in step]
        batches = [source.batches(order, slices) for source in (resident, mapped, streamed)]
        for (start, stop), *found in zip(slices, *batches, strict=True):
            expected = table.cutout_ids[order.rows[start:stop]]
            assert all(stamps[:, 0, 0, 0].tolist() == expected.tolist() for stamps in found)
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


def test_prepared_stamps_are_written_once_and_found_again(tmp_path: Path) -> None:
    table, stamps = table_of([[0, 3], [2, 5, 9]])
    path = tmp_path / "cache" / "stamps.npy"
    read: list[int] = []
    HostStamps(table, lambda group: read.append(group) or stamps[group], PLAIN, CPU, path)
    again = HostStamps(table, lambda group: read.append(group) or stamps[group], PLAIN, CPU, path)
    assert read == [0, 1]
    [found] = again.batches(table.in_order(), [(0, 5)])
    assert found[:, 0, 0, 0].tolist() == [0, 3, 102, 105, 109]
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["stamps.lock", "stamps.npy"]
    with pytest.raises(DataError, match="holds 5 stamps, but the manifest lists 2"):
        HostStamps(table_of([[0, 3]])[0], stamps.__getitem__, PLAIN, CPU, path)


def test_a_pass_that_breaks_off_leaves_no_file_of_prepared_stamps(tmp_path: Path) -> None:
    table, stamps = table_of([[0], [1]])

    def read(group: int) -> np.ndarray:
        if group:
            raise OSError("disk gone")
        return stamps[group]

    with pytest.raises(OSError, match="disk gone"):
        HostStamps(table, read, PLAIN, CPU, tmp_path / "stamps.npy")
    assert [entry.name for entry in tmp_path.iterdir()] == ["stamps.lock"]


def test_workers_of_one_machine_write_the_file_once(tmp_path: Path) -> None:
    table, stamps = table_of([list(range(10))] * 3)
    read: list[int] = []

    def make() -> None:
        HostStamps(table, lambda group: read.append(group) or stamps[group], PLAIN, CPU, tmp_path / "stamps.npy")

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read) == [0, 1, 2]


def test_residency_goes_by_bytes() -> None:
    gpu = Room(device=10 * GIB, host=100 * GIB, disk=50 * GIB)
    assert choose_residency("auto", 9 * GIB, gpu, workers=4)[0] == "device"
    assert choose_residency("auto", 11 * GIB, gpu)[0] == "host"
    assert choose_residency("auto", 60 * GIB, gpu)[0] == "stream"
    assert choose_residency("stream", 1, gpu)[0] == "stream"
    cpu = Room(device=10 * GIB, host=10 * GIB, disk=50 * GIB)
    assert choose_residency("auto", 9 * GIB, cpu, shared=True)[0] == "device"
    assert choose_residency("auto", 9 * GIB, cpu, workers=2, shared=True)[0] == "host"  # each would have its own copy
    with pytest.raises(
        DataError, match="residency device does not fit: prepared stamps take 11.00 GiB.*use residency host or stream"
    ):
        choose_residency("device", 11 * GIB, gpu)


def test_a_micro_batch_without_room_is_refused_with_the_one_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, bias=False), torch.nn.ELU(), torch.nn.Conv2d(16, 1, 3, bias=False)
    )
    # kept per stamp: the input, the convolution's output and the activation's, float32
    per_stamp = 1.3 * 4 * (3 * 32 * 32 + 16 * 30 * 30 * 2)
    weights = sum(value.numel() for value in model.parameters()) * 4
    monkeypatch.setattr("ray_train.core.memory.free_host_bytes", lambda: int(100.5 * per_stamp + 3 * weights + 4096))
    options = {"in_channels": 3, "size": 32, "precision": "fp32", "device": CPU}
    fits = step_need(model, micro_batch=100, **options)
    require_room(fits, CPU, taken=4096)
    with pytest.raises(NoRoomError, match="micro_batch 101 needs .* the largest micro-batch that fits is 100 "):
        require_room(step_need(model, micro_batch=101, **options), CPU, taken=4096)
    # what the step takes is not there for stamps
    assert room(CPU, tmp_path, fits).device <= 0.5 * per_stamp + 4096 + 1
