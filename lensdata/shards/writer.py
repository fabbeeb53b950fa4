"""Writing shards: rows in, Parquet files of 64-256 MB out, each published whole (R-C3).

The order of the rows is the caller's business: `build_manifests` adds them in a seeded random order, so that any
row group is a fair sample and a small shuffle window is enough in training.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lensdata import storage
from lensdata.errors import InputError
from lensdata.shards.layout import IMAGE_COLUMN, ImageLayout, Stamps, to_arrow

log = logging.getLogger(__name__)

DEFAULT_TARGET_BYTES = 128 << 20  # inside the 64-256 MB that suits both S3 range reads and parallel writing
DEFAULT_GROUP_ROWS = 128  # 16 MB of 101 x 101 x 3 float32: one good range request


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One published shard: file name, rows, row groups, bytes and SHA-256."""

    name: str
    rows: int
    row_groups: int
    bytes: int
    sha256: str


class ShardWriter:
    """Collects stamps and writes them as numbered Parquet shards.

    Parameters
    ----------
    folder
        Where the shards go, for example ``<table>/dataset``; local or ``s3://``.
    layout
        Shape, type, bands and unit of the stamps.
    target_bytes
        A shard is closed when its stamps reach this size (bytes).
    group_rows
        Stamps per row group.
    first_index, prefix
        Shards are called ``{prefix}-{index:05d}.parquet`` from this index on.

    Examples
    --------
    >>> with ShardWriter(folder, SURVEY_LAYOUT) as writer:                    # doctest: +SKIP
    ...     writer.add(pa.table({"cutout_id": ids}), stamps)
    >>> writer.locations.column_names                                         # doctest: +SKIP
    ['cutout_id', 'shard', 'row_group', 'row']
    """

    def __init__(
        self,
        folder: str,
        layout: ImageLayout,
        *,
        target_bytes: int = DEFAULT_TARGET_BYTES,
        group_rows: int = DEFAULT_GROUP_ROWS,
        first_index: int = 0,
        prefix: str = "shard",
    ) -> None:
        if group_rows < 1 or target_bytes < 1:
            raise InputError("A shard needs group_rows and target_bytes of at least 1.")
        self.folder, self.layout = folder, layout
        self.shards: list[ShardInfo] = []
        self._group_rows, self._prefix, self._index = group_rows, prefix, first_index
        self._groups_per_shard = max(1, round(target_bytes / (layout.nbytes * group_rows)))
        self._schema: pa.Schema | None = None
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._file: pq.ParquetWriter | None = None
        self._path = Path()
        self._groups_in_file = self._rows_in_file = 0
        self._places: list[pa.Table] = []
        self._scratch = tempfile.TemporaryDirectory(prefix="lensdata-shard-")

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:  # a half-written shard is never published
            self._abandon()

    @property
    def locations(self) -> pa.Table:
        """Where each row went, in the order added: `cutout_id, shard` (file name), `row_group, row`."""
        return pa.concat_tables(self._places) if self._places else _places(pa.array([], pa.int64()), "", 0)

    def add(self, rows: pa.Table, stamps: Stamps) -> None:
        """Append stamps.

        Parameters
        ----------
        rows
            Scalar columns, `cutout_id` (int64) among them; every batch has the same schema.
        stamps
            (n, H, W, C), one per row.

        Raises
        ------
        InputError
            If shapes, types, lengths or columns differ from the layout or from the first batch.
        """
        if rows.num_rows != len(stamps):
            raise InputError(f"{rows.num_rows} rows came with {len(stamps)} stamps.")
        if "cutout_id" not in rows.column_names or IMAGE_COLUMN in rows.column_names:
            raise InputError("Shard rows need a column 'cutout_id' and none named 'image'.")
        if not len(stamps):
            return
        table = rows.append_column(self.layout.field(), to_arrow(stamps, self.layout))
        table = table.replace_schema_metadata(self.layout.metadata())
        if self._schema is None:
            self._schema = table.schema
        elif not table.schema.equals(self._schema):
            raise InputError(f"Columns {table.schema.names} differ from the first batch's {self._schema.names}.")
        self._pending.append(table)
        self._pending_rows += table.num_rows
        if self._pending_rows >= self._group_rows:
            self._drain(keep_rest=True)

    def close(self) -> list[ShardInfo]:
        """Write what is left and publish the last shard.

        Returns
        -------
        list of ShardInfo
            All shards of this writer, in order.
        """
        if self._pending_rows:
            self._drain(keep_rest=False)
        self._publish()
        self._scratch.cleanup()
        return self.shards

    def _drain(self, *, keep_rest: bool) -> None:
        table, start = pa.concat_tables(self._pending), 0
        while table.num_rows - start >= self._group_rows or (not keep_rest and start < table.num_rows):
            group = table.slice(start, self._group_rows)
            self._write_group(group)
            start += group.num_rows
        self._pending = [table.slice(start)] if start < table.num_rows else []
        self._pending_rows = table.num_rows - start

    def _write_group(self, group: pa.Table) -> None:
        if self._file is None:
            self._path = Path(self._scratch.name) / f"{self._prefix}-{self._index:05d}.parquet"
            self._file = pq.ParquetWriter(
                self._path,
                group.schema,
                compression="none",  # sky noise does not compress; decoding would cost and save next to nothing
                use_dictionary=False,
                write_statistics=[name for name in group.schema.names if name != IMAGE_COLUMN],
                write_page_checksum=True,
            )
        self._file.write_table(group, row_group_size=self._group_rows)
        self._places.append(_places(group["cutout_id"], self._path.name, self._groups_in_file))
        self._groups_in_file += 1
        self._rows_in_file += group.num_rows
        if self._groups_in_file >= self._groups_per_shard:
            self._publish()

    def _publish(self) -> None:
        if self._file is None:
            return
        self._file.close()
        self._file = None
        with self._path.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        info = ShardInfo(
            name=self._path.name,
            rows=self._rows_in_file,
            row_groups=self._groups_in_file,
            bytes=self._path.stat().st_size,
            sha256=digest,
        )
        storage.upload_file(self._path, storage.join(self.folder, info.name))
        log.info("shard=%s rows=%d bytes=%d", info.name, info.rows, info.bytes)
        self.shards.append(info)
        self._index += 1
        self._groups_in_file = self._rows_in_file = 0

    def _abandon(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._scratch.cleanup()


def _places(ids: pa.ChunkedArray | pa.Array, shard: str, row_group: int) -> pa.Table:
    count = len(ids)
    return pa.table(
        {
            "cutout_id": ids,
            "shard": pa.array([shard] * count, pa.string()),
            "row_group": pa.array(np.full(count, row_group, np.int32)),
            "row": pa.array(np.arange(count, dtype=np.int32)),
        }
    )
