"""Reading shards by row group, straight into numpy (R-C3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lensdata import storage
from lensdata.errors import InputError
from lensdata.shards import npz
from lensdata.shards.layout import IMAGE_COLUMN, ImageLayout, Stamps, layout_of, to_numpy


@dataclass(frozen=True)
class Shard:
    """An open shard: its address, layout and Parquet handle."""

    uri: str
    layout: ImageLayout
    file: pq.ParquetFile

    @property
    def num_row_groups(self) -> int:
        """Row groups in the file."""
        return int(self.file.num_row_groups)

    @property
    def num_rows(self) -> int:
        """Stamps in the file."""
        return int(self.file.metadata.num_rows)

    def read_group(self, index: int) -> Stamps:
        """All stamps of a row group, (n, H, W, C), read-only, not copied from Arrow's buffer."""
        return to_numpy(self._read(index, [IMAGE_COLUMN])[IMAGE_COLUMN], self.layout)

    def read_rows(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The scalar columns of a row group (all but the image by default)."""
        names = [name for name in self.file.schema_arrow.names if name != IMAGE_COLUMN]
        return self._read(index, list(columns) if columns is not None else names)

    def _read(self, index: int, columns: list[str]) -> pa.Table:
        if not 0 <= index < self.num_row_groups:
            raise InputError(f"{self.uri} has {self.num_row_groups} row groups; group {index} was asked for.")
        try:
            return self.file.read_row_group(index, columns=columns, use_threads=False)
        except OSError as error:  # a page whose checksum is wrong, a truncated file
            raise InputError(f"{self.uri}: row group {index} cannot be read ({error}); fetch it again.") from error


def open_shard(uri: str, *, verify: bool = True) -> Shard:
    """Open a shard and check what it says about itself.

    Parameters
    ----------
    uri
        Local path or ``s3://``.
    verify
        Check the page checksums while reading.

    Raises
    ------
    InputError
        Missing file, not Parquet, or metadata and image column that do not fit.
    """
    if not storage.exists(uri):
        raise InputError(f"Shard {uri} does not exist.")
    try:
        # Reading ahead joins the ranged reads of a store. On a disk it costs: its buffers come from another thread's memory,
        # whose pages the kernel hands out anew for every row group (benchmarks/loading.py).
        ahead = storage.is_s3(uri)
        file = pq.ParquetFile(storage.open_arrow(uri), pre_buffer=ahead, page_checksum_verification=verify)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{uri} is not a readable Parquet file ({error}).") from error
    return Shard(uri, layout_of(file.schema_arrow, uri), file)


def read_layout(uri: str) -> ImageLayout:
    """The layout of a shard, or of an NPZ object."""
    return npz.read_layout(uri) if npz.is_npz(uri) else open_shard(uri).layout


class StampReader:
    """Reads row groups of many shards; keeps the last few files open.

    One reader per thread: a Parquet handle is not meant to be shared.

    Parameters
    ----------
    layout
        What every shard must hold; a shard of another shape or unit is an error that names it.

    Notes
    -----
    The page checksums of a row group are checked when it is read for the first time. Shards do not change, and a checksum
    costs as much as the reading itself (benchmarks/loading.py), so later readings do without.
    """

    def __init__(self, layout: ImageLayout, *, open_files: int = 32) -> None:
        self.layout = layout
        self._open = lru_cache(maxsize=open_files)(lambda uri, verify: self._checked(open_shard(uri, verify=verify)))
        self._verified: set[tuple[str, int]] = set()

    def read_group(self, uri: str, row_group: int) -> Stamps:
        """Stamps (n, H, W, C) of one row group of ``uri``, or the single stamp of an NPZ object."""
        if npz.is_npz(uri):
            return npz.read_stamp(uri, self.layout)[None]
        group = (uri, row_group)
        stamps = self._open(uri, group not in self._verified).read_group(row_group)
        self._verified.add(group)
        return stamps

    def _checked(self, shard: Shard) -> Shard:
        found, wanted = shard.layout, self.layout
        for name in ("shape", "dtype", "bands", "unit"):
            if getattr(found, name) != getattr(wanted, name):
                raise InputError(
                    f"{shard.uri} holds stamps with {name} {getattr(found, name)}, expected {getattr(wanted, name)} "
                    "as in the other shards of the manifest."
                )
        return shard


def read_stamps(uris: Sequence[str], row_groups: npt.ArrayLike, rows: npt.ArrayLike) -> Stamps:
    """Stamps at given places, in the order asked; each row group is read once.

    Parameters
    ----------
    uris, row_groups, rows
        Parallel sequences of n entries: shard address, row group, row inside it (see `manifests.places`).

    Returns
    -------
    ndarray
        (n, H, W, C) in the shards' own type.
    """
    groups, within = np.asarray(row_groups, np.int64), np.asarray(rows, np.int64)
    if not len(uris):
        raise InputError("No stamps were asked for.")
    reader = StampReader(read_layout(uris[0]))
    out = np.empty((len(uris), *reader.layout.shape), reader.layout.dtype)
    wanted: dict[tuple[str, int], list[int]] = {}
    for position, uri in enumerate(uris):
        wanted.setdefault((uri, int(groups[position])), []).append(position)
    for (uri, group), positions in sorted(wanted.items()):
        stamps, index = reader.read_group(uri, group), within[positions]
        if index.max() >= len(stamps):
            raise InputError(f"{uri}: row group {group} has {len(stamps)} rows; row {index.max()} was asked for.")
        out[positions] = stamps[index]
    return out
