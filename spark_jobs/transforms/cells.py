"""Rows brought together by sky: HEALPix cells with margins, a few cells to a task (R-S3, R-S4, R-S9).

The rows of a cell travel packed, as one value per batch: Spark then moves thousands of values instead of tens of millions of
rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame

from lensdata.sky.healpix import cells_with_margin

ROWS_PER_TASK = 500_000
PACKED = pa.schema([("cell", pa.int64()), ("rows", pa.binary())])


def pack(batch: pa.RecordBatch, order: int, margin_arcsec: float) -> pa.RecordBatch:
    """Rows with ``ra`` and ``dec``, packed by cell; ``home`` is added: the row itself, else its copy in a cell's margin."""
    rows, cells = cells_with_margin(batch["ra"], batch["dec"], order, margin_arcsec)
    return _packed(batch, rows, cells)


def pack_at_home(batch: pa.RecordBatch, order: int, margin_arcsec: float) -> pa.RecordBatch:
    """`pack` without the copies."""
    _, cells = cells_with_margin(batch["ra"], batch["dec"], order, margin_arcsec)
    return _packed(batch, np.arange(batch.num_rows), cells[: batch.num_rows])


def _packed(batch: pa.RecordBatch, rows: npt.NDArray[np.int64], cells: npt.NDArray[np.int64]) -> pa.RecordBatch:
    home = pa.array(np.arange(len(rows)) < batch.num_rows)
    columns = pa.RecordBatch.from_arrays(
        [home, *batch.take(pa.array(rows)).columns], names=["home", *batch.schema.names]
    )
    order = np.argsort(cells, kind="stable")
    columns, cells = columns.take(pa.array(order)), cells[order]
    edges = np.flatnonzero(np.diff(cells, prepend=-1, append=-1))  # no cell is numbered -1
    return pa.RecordBatch.from_arrays(
        [
            pa.array(cells[edges[:-1]]),
            pa.array([_bytes(columns.slice(a, b - a)) for a, b in pairwise(edges)], pa.binary()),
        ],
        schema=PACKED,
    )


def _bytes(rows: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    return bytes(sink.getvalue())


def unpack(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """All rows of a partition as one table; nothing for an empty partition."""
    tables = [pa.ipc.open_stream(value.as_buffer()).read_all() for batch in batches for value in batch["rows"]]
    if tables:
        yield pa.concat_tables(tables).combine_chunks()


def by_cell(packed: DataFrame, rows: int) -> DataFrame:
    """All rows of a cell in one partition; as many partitions as keep a task at about half a million rows."""
    least = packed.sparkSession.sparkContext.defaultParallelism
    return packed.repartition(max(least, -(-rows // ROWS_PER_TASK)), "cell")


def needed(home: npt.NDArray[np.bool_], ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Indices of the rows of a partition that count: those at home, and one copy of each that is not."""
    at_home, away = np.flatnonzero(home), np.flatnonzero(~home)
    if not away.size:
        return at_home
    _, first = np.unique(ids[away], return_index=True)
    away = away[first]
    return np.concatenate([at_home, away[~np.isin(ids[away], ids[at_home])]])
