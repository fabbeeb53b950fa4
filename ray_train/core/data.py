"""Stamps for the loop: resident on the device, or streamed from row groups; the same order either way (R-T8).

Neither has per-sample Python: row groups are read whole by one thread, which runs ahead of the training (pyarrow
and large copies release the interpreter lock; forked loader workers inside a Ray actor deadlock).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from ray_train.core.images import ImageRecipe
from ray_train.core.order import EpochOrder, Indices

ReadGroup = Callable[[int], npt.NDArray[Any]]
Slices = Sequence[tuple[int, int]]
T = TypeVar("T")

READ_AHEAD = 4  # prepared pieces waiting for the device
DEVICE_SHARE, HOST_SHARE = 0.6, 0.4  # of the free memory that `auto` gives to resident stamps


class DataError(Exception):
    """The data are not what the manifest says."""


@dataclass(frozen=True)
class StampTable:
    """The rows of one split, sorted by row group.

    Attributes
    ----------
    cutout_ids, labels, weights
        (N,) int64, float32, float32.
    group, within
        (N,) int64: row group of each row, numbered 0..G-1, and its row inside that group.
    """

    cutout_ids: Indices
    labels: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    group: Indices
    within: Indices

    def __post_init__(self) -> None:
        if np.any(np.diff(self.group) < 0):
            raise ValueError("rows must be sorted by row group")

    def __len__(self) -> int:
        return len(self.cutout_ids)

    @property
    def group_sizes(self) -> Indices:
        """Rows taken from each group, (G,)."""
        return np.bincount(self.group).astype(np.int64) if len(self) else np.empty(0, np.int64)

    def in_order(self) -> EpochOrder:
        """The rows as they lie, one window per row group: the order of validation and scoring."""
        stops = np.cumsum(self.group_sizes)
        windows = [
            (np.array([group]), int(stop - size), int(stop))
            for group, (stop, size) in enumerate(zip(stops, self.group_sizes, strict=True))
            if size
        ]
        return EpochOrder(np.arange(len(self)), windows)


class StampSource(Protocol):
    """Where the loop gets prepared stamps from."""

    table: StampTable

    def batches(self, order: EpochOrder, slices: Slices) -> Iterator[torch.Tensor]:
        """Prepared stamps (n, C, h, w) on the device for each slice of `order.rows`, in turn."""
        ...


class ResidentStamps:
    """All stamps, normalised and cropped once, in the device's memory.

    Normalisation and crop do not change from epoch to epoch, so what is kept is the network's input before
    augmentation: at 63 pixels 40% of the bytes of the full stamp.
    """

    def __init__(self, table: StampTable, read_group: ReadGroup, recipe: ImageRecipe, device: torch.device) -> None:
        self.table = table
        self._images_NHWC: torch.Tensor | None = None
        done = 0
        for stamps in read_ahead(_groups(table, read_group)):
            ready = recipe.prepare(torch.from_numpy(stamps).to(device)).permute(0, 2, 3, 1)
            if self._images_NHWC is None:
                self._images_NHWC = torch.empty((len(table), *ready.shape[1:]), device=device)
            self._images_NHWC[done : done + len(ready)] = ready
            done += len(ready)
        if done != len(table):
            raise DataError(f"{done} stamps were read, but the manifest lists {len(table)}")

    def batches(self, order: EpochOrder, slices: Slices) -> Iterator[torch.Tensor]:
        """See `StampSource`."""
        if self._images_NHWC is None:
            return
        rows = torch.from_numpy(order.rows).to(self._images_NHWC.device)
        for start, stop in slices:
            yield self._images_NHWC.index_select(0, rows[start:stop]).permute(0, 3, 1, 2)


class StreamedStamps:
    """Stamps read again in every epoch, one window of row groups at a time."""

    def __init__(self, table: StampTable, read_group: ReadGroup, recipe: ImageRecipe, device: torch.device) -> None:
        self.table, self._read_group, self._recipe, self._device = table, read_group, recipe, device
        self._first = np.concatenate([[0], np.cumsum(table.group_sizes)])

    def batches(self, order: EpochOrder, slices: Slices) -> Iterator[torch.Tensor]:
        """See `StampSource`."""
        for stamps in read_ahead(self._pieces(order, slices)):
            pinned = torch.from_numpy(stamps)
            if self._device.type == "cuda":
                pinned = pinned.pin_memory()
            yield self._recipe.prepare(pinned.to(self._device, non_blocking=True))

    def _pieces(self, order: EpochOrder, slices: Slices) -> Iterator[npt.NDArray[Any]]:
        """Raw stamps (n, H, W, C) of each slice; holds only the windows that a slice still needs."""
        held: list[tuple[int, int, npt.NDArray[Any]]] = []
        waiting = iter(order.windows)
        loaded = 0
        for start, stop in slices:
            held = [window for window in held if window[1] > start]
            while loaded < stop:
                groups, first, last = next(waiting)
                loaded = last
                if last > start:
                    held.append((first, last, self._window(groups, order.rows[first:last])))
            parts = [data[max(start - first, 0) : stop - first] for first, _, data in held if first < stop]
            yield parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _window(self, groups: Indices, rows: Indices) -> npt.NDArray[Any]:
        out: npt.NDArray[Any] | None = None
        for group in groups:
            stamps = self._read_group(int(group))
            here = np.flatnonzero((rows >= self._first[group]) & (rows < self._first[group + 1]))
            within = self.table.within[rows[here]]
            _check_group(stamps, within, int(group))
            if out is None:
                out = np.empty((len(rows), *stamps.shape[1:]), stamps.dtype)
            out[here] = stamps[within]
        if out is None:
            raise DataError("a window of the epoch has no row group")
        return out


def choose_residency(
    wanted: str, num_rows: int, stamp_shape: tuple[int, ...], crop: int | None, device: torch.device
) -> tuple[str, str]:
    """ "device" or "stream", and why in a few words.

    Parameters
    ----------
    wanted
        "auto", "device" or "stream".
    num_rows, stamp_shape, crop
        What would be resident: float32 planes of `crop` (or the stamp's) pixels.

    Raises
    ------
    DataError
        "device" was asked for and does not fit.
    """
    height, width, planes = stamp_shape
    pixels = crop * crop if crop else height * width
    needed = 4 * num_rows * pixels * planes
    free = int(DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else _free_host_bytes()
    reason = f"stamps take {needed / 2**20:.0f} MiB, {free / 2**20:.0f} MiB may be used on {device.type}"
    if wanted == "device" and needed > free:
        raise DataError(f"residency device does not fit: {reason}; use residency stream")
    if wanted == "auto":
        return ("device" if needed <= free else "stream"), reason
    return wanted, reason


def read_ahead(items: Iterable[T], depth: int = READ_AHEAD) -> Iterator[T]:
    """The same items, produced by a thread up to `depth` items ahead; its errors appear here."""
    waiting: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def produce() -> None:
        try:
            for item in items:
                if not _put(waiting, (True, item), stopped):
                    return
            _put(waiting, (False, None), stopped)
        except BaseException as error:  # noqa: BLE001 (handed to the consumer, whatever it is)
            _put(waiting, (False, error), stopped)

    thread = threading.Thread(target=produce, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            more, item = waiting.get()
            if not more:
                if item is not None:
                    raise item
                return
            yield item
    finally:  # the consumer left early: let the thread end
        stopped.set()
        thread.join()


def _put(waiting: queue.Queue[tuple[bool, Any]], entry: tuple[bool, Any], stopped: threading.Event) -> bool:
    while not stopped.is_set():
        try:
            waiting.put(entry, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False


def _groups(table: StampTable, read_group: ReadGroup) -> Iterator[npt.NDArray[Any]]:
    """The rows of the table as they lie, one row group at a time."""
    first = 0
    for group, size in enumerate(table.group_sizes):
        if size:
            within = table.within[first : first + size]
            stamps = read_group(group)
            _check_group(stamps, within, group)
            yield stamps[within]
        first += int(size)


def _check_group(stamps: npt.NDArray[Any], within: Indices, group: int) -> None:
    if len(within) and within.max() >= len(stamps):
        raise DataError(f"row group {group} has {len(stamps)} rows, but the manifest asks for row {within.max()}")


def _free_host_bytes() -> int:
    with Path("/proc/meminfo").open() as lines:
        values = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return int(HOST_SHARE * 1024 * values["MemAvailable"])
