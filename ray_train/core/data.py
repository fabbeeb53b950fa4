"""Stamps for the loop: on the device, in a file that is mapped to memory, or streamed; the same order always (R-T8).

None has per-sample Python: row groups are read whole by one thread, which runs ahead of the training (pyarrow
and large copies release the interpreter lock; forked loader workers inside a Ray actor deadlock).
"""

from __future__ import annotations

import fcntl
import queue
import threading
import uuid
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
    augmentation: at 63 pixels 40% of the bytes of the full stamp. With several workers each holds all stamps, since
    micro-batches are dealt to them whole.
    """

    def __init__(self, table: StampTable, read_group: ReadGroup, recipe: ImageRecipe, device: torch.device) -> None:
        self.table = table
        self._images_NHWC: torch.Tensor | None = None
        for first, ready in _prepared(table, read_group, recipe, device):
            if self._images_NHWC is None:
                self._images_NHWC = torch.empty((len(table), *ready.shape[1:]), dtype=ready.dtype, device=device)
            self._images_NHWC[first : first + len(ready)] = ready

    @classmethod
    def of(cls, table: StampTable, images_NHWC: torch.Tensor) -> ResidentStamps:
        """Stamps that are prepared and on the device already, in the order of the table."""
        if len(images_NHWC) != len(table):
            raise DataError(f"{len(images_NHWC)} prepared stamps, but the manifest lists {len(table)}")
        made = cls.__new__(cls)
        made.table, made._images_NHWC = table, images_NHWC
        return made

    @property
    def images_NHWC(self) -> torch.Tensor | None:
        """All prepared stamps; None where there are none."""
        return self._images_NHWC

    def batches(self, order: EpochOrder, slices: Slices) -> Iterator[torch.Tensor]:
        """See `StampSource`."""
        if self._images_NHWC is None:
            return
        rows = torch.from_numpy(order.rows).to(self._images_NHWC.device)
        for start, stop in slices:
            yield self._images_NHWC.index_select(0, rows[start:stop]).permute(0, 3, 1, 2)


class HostStamps:
    """All stamps, normalised and cropped once, in one file that is mapped to memory.

    The file is made in the first pass over the shards, under a temporary name, and found again by later runs (and the
    other workers of this machine) that name the same path. The operating system keeps in memory what fits.

    Parameters
    ----------
    path
        Of the file, named after everything that its content depends on.
    """

    def __init__(
        self, table: StampTable, read_group: ReadGroup, recipe: ImageRecipe, device: torch.device, path: Path
    ) -> None:
        self.table, self._device = table, device
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one worker writes, the others wait for it
            for leftover in path.parent.glob(f".{path.name}.*"):  # of a writer that was killed
                leftover.unlink()
            if not path.exists():
                _write_prepared(path, _prepared(table, read_group, recipe, device), len(table))
        mapped = np.load(path, mmap_mode="c")  # torch wants memory that may be written to; nobody does
        if len(mapped) != len(table):
            raise DataError(f"{path} holds {len(mapped)} stamps, but the manifest lists {len(table)}; remove it")
        self._images_NHWC = torch.from_numpy(mapped)

    def batches(self, order: EpochOrder, slices: Slices) -> Iterator[torch.Tensor]:
        """See `StampSource`."""
        for stamps in to_device(read_ahead(self._gathered(torch.from_numpy(order.rows), slices)), self._device):
            yield stamps.permute(0, 3, 1, 2)

    def _gathered(self, rows: torch.Tensor, slices: Slices) -> Iterator[torch.Tensor]:
        pin = self._device.type == "cuda"
        for start, stop in slices:
            shape = (stop - start, *self._images_NHWC.shape[1:])
            out = torch.empty(shape, dtype=self._images_NHWC.dtype, pin_memory=pin)
            torch.index_select(self._images_NHWC, 0, rows[start:stop], out=out)
            yield out


class StreamedStamps:
    """Stamps read again in every epoch, one window of row groups at a time."""

    def __init__(self, table: StampTable, read_group: ReadGroup, recipe: ImageRecipe, device: torch.device) -> None:
        self.table, self._read_group, self._recipe, self._device = table, read_group, recipe, device
        self._first = np.concatenate([[0], np.cumsum(table.group_sizes)])

    def batches(self, order: EpochOrder, slices: Slices) -> Iterator[torch.Tensor]:
        """See `StampSource`."""
        for stamps in to_device(read_ahead(self._pieces(order, slices)), self._device):
            yield self._recipe.prepare(stamps)

    def _pieces(self, order: EpochOrder, slices: Slices) -> Iterator[torch.Tensor]:
        """Raw stamps (n, H, W, C) of each slice; holds only the row groups of windows that a slice still needs."""
        held: dict[int, npt.NDArray[Any]] = {}
        windows: list[tuple[Indices, int]] = []
        waiting = iter(order.windows)
        loaded = 0
        for start, stop in slices:
            while windows and windows[0][1] <= start:
                for group in windows.pop(0)[0]:
                    del held[int(group)]
            while loaded < stop:
                groups, _, loaded = next(waiting)
                if loaded > start:
                    held |= {int(group): self._group(int(group)) for group in groups}
                    windows.append((groups, loaded))
            yield self._gathered(held, order.rows[start:stop])

    def _group(self, group: int) -> npt.NDArray[Any]:
        stamps = self._read_group(group)
        _check_group(stamps, self.table.within[self._first[group] : self._first[group + 1]], group)
        return stamps

    def _gathered(self, held: dict[int, npt.NDArray[Any]], rows: Indices) -> torch.Tensor:
        """One copy per stamp, straight from where it was read; a line of Python each costs little beside it."""
        groups, within = self.table.group[rows].tolist(), self.table.within[rows].tolist()
        example = held[groups[0]]
        dtype = torch.from_numpy(np.empty(0, example.dtype)).dtype
        out = torch.empty((len(rows), *example.shape[1:]), dtype=dtype, pin_memory=self._device.type == "cuda")
        view = out.numpy()
        for place, (group, row) in enumerate(zip(groups, within, strict=True)):
            view[place] = held[group][row]
        return out


def to_device(items: Iterable[torch.Tensor], device: torch.device) -> Iterator[torch.Tensor]:
    """The same tensors on the device; on a GPU the next one is copied while the latest is used."""
    if device.type != "cuda":
        yield from items
        return
    copies, ahead = torch.cuda.Stream(device), None
    for item in items:
        with torch.cuda.stream(copies):
            moved = item.to(device, non_blocking=True)
        if ahead is not None:
            yield _arrived(ahead, copies)
        ahead = moved
    if ahead is not None:
        yield _arrived(ahead, copies)


def _arrived(tensor: torch.Tensor, copies: torch.cuda.Stream) -> torch.Tensor:
    current = torch.cuda.current_stream(tensor.device)
    current.wait_stream(copies)
    tensor.record_stream(current)  # its memory is not given away while the current stream uses it
    return tensor


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


def _prepared(
    table: StampTable, read_group: ReadGroup, recipe: ImageRecipe, device: torch.device
) -> Iterator[tuple[int, torch.Tensor]]:
    """Every row once, as the table has them: number of the first, and prepared stamps (n, h, w, C) on the device."""
    done = 0
    for stamps in read_ahead(stamps_in_order(table, read_group)):
        ready = recipe.prepare(torch.from_numpy(stamps).to(device)).permute(0, 2, 3, 1)
        yield done, ready
        done += len(ready)
    if done != len(table):
        raise DataError(f"{done} stamps were read, but the manifest lists {len(table)}")


def _write_prepared(path: Path, pieces: Iterator[tuple[int, torch.Tensor]], num_rows: int) -> None:
    """Write prepared stamps as one NPY file, which appears when it is whole."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    mapped: npt.NDArray[Any] | None = None
    try:
        for first, ready in pieces:
            values = ready.cpu().numpy()
            if mapped is None:
                shape = (num_rows, *values.shape[1:])
                mapped = np.lib.format.open_memmap(partial, mode="w+", dtype=values.dtype, shape=shape)
            mapped[first : first + len(values)] = values
        if mapped is None:
            raise DataError("there are no stamps to keep")
        mapped.flush()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def stamps_in_order(table: StampTable, read_group: ReadGroup) -> Iterator[npt.NDArray[Any]]:
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
