"""Single stamps out of row groups, for somebody who looks at one after another."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt

from lensdata.errors import InputError
from lensdata.shards.layout import ImageLayout
from lensdata.shards.manifests import resolve
from lensdata.shards.reader import StampReader, read_layout
from lensdata.vetting.session import BLOCK, Session

CACHE_BYTES = 128 << 20
STRIPES = 16

Stamp = npt.NDArray[Any]  # (H, W, bands)


class StampStore:
    """The stamps of a session, read when they are asked for; safe to use from several threads.

    A row group is read whole. Of its stamps those are kept that are shown soon (of the same block of the list and the next):
    many, where the list is short, and few, where it is long, so that memory does not grow with the list.

    Parameters
    ----------
    cache_bytes
        What the kept stamps may take.
    """

    def __init__(self, session: Session, *, cache_bytes: int = CACHE_BYTES) -> None:
        items = session.items
        manifest, named = items["manifest"].to_numpy(), items["shard"].combine_chunks().dictionary_encode()
        names, name = named.dictionary.to_pylist(), named.indices.to_numpy()
        pairs, shard = np.unique(np.stack([manifest, name], axis=1), axis=0, return_inverse=True)
        self._uris = [resolve(session.manifests[where], names[which]) for where, which in pairs.tolist()]
        self._row_group, self._row = (items[name].to_numpy().astype(np.int64) for name in ("row_group", "row"))
        groups = np.stack([shard, self._row_group], axis=1)
        self._groups, self._group = np.unique(groups, axis=0, return_inverse=True)
        self._members = np.split(np.argsort(self._group, kind="stable"), np.cumsum(np.bincount(self._group))[:-1])
        self.layout: ImageLayout = read_layout(self._uris[0])
        self._capacity = max(64, cache_bytes // self.layout.nbytes)
        self._kept: OrderedDict[int, Stamp] = OrderedDict()
        self._lock = threading.Lock()
        self._at_work = [threading.Lock() for _ in range(STRIPES)]
        self._own = threading.local()

    def stamp(self, item: int) -> Stamp:
        """The stamp of a row of `Session.items`.

        Raises
        ------
        InputError
            Its shard cannot be read, or has no such row.
        """
        if (kept := self._look(item)) is not None:
            return kept
        group = int(self._group[item])
        with self._at_work[group % STRIPES]:  # of many who want the same row group, one reads
            if (kept := self._look(item)) is not None:
                return kept
            return self._read(group, item)

    def _look(self, item: int) -> Stamp | None:
        with self._lock:
            if item in self._kept:
                self._kept.move_to_end(item)
            return self._kept.get(item)

    def _read(self, group: int, item: int) -> Stamp:
        shard, row_group = self._groups[group]
        uri = self._uris[shard]
        stamps = self._reader().read_group(uri, int(row_group))
        ahead = self._members[group] // BLOCK - item // BLOCK
        soon = [int(other) for other in self._members[group][(ahead >= 0) & (ahead <= 1)] if other != item]
        with self._lock:
            for other in [*soon, item]:
                if self._row[other] < len(stamps):
                    self._kept[other] = stamps[self._row[other]].copy()
                    self._kept.move_to_end(other)
            if item not in self._kept:
                raise InputError(
                    f"{uri}: row group {row_group} has {len(stamps)} rows; row {self._row[item]} was asked for."
                )
            found = self._kept[item]
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        return found

    def _reader(self) -> StampReader:
        if not hasattr(self._own, "reader"):
            self._own.reader = StampReader(self.layout)
        reader: StampReader = self._own.reader
        return reader
