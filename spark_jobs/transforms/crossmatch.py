"""The nearest row of one catalogue for each row of another, of any size (R-S2, R-S3, R-S9).

Two ways with one answer. *Broadcast*: the right catalogue goes to every task as an index; the left one stays where it is.
*Partitioned*: both go to HEALPix cells, right rows also to every cell within the radius of them, so that a row's nearest
neighbour is always in its cell, at RA 0/360 and at the poles as elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lensdata.sky.crossmatch import SkyIndex
from lensdata.sky.healpix import cell_order
from spark_jobs import datasets
from spark_jobs.transforms.cells import PACKED, by_cell, needed, pack, pack_at_home, unpack

Way = Literal["auto", "broadcast", "partitioned"]
BROADCAST_ROWS = 1_000_000  # right rows up to this number are broadcast: 24 MB, and 0.1 GB as an index in each task
MATCHES = pa.schema([("id", pa.int64()), ("match_id", pa.int64()), ("separation_arcsec", pa.float64())])
Batches = Iterator[pa.RecordBatch]


def nearest_within(left: DataFrame, right: DataFrame, radius_arcsec: float, way: Way = "auto") -> DataFrame:
    """The nearest right row within the radius of each left row; of right rows at the same distance, the smallest id.

    Parameters
    ----------
    left, right
        ``id`` (long), ``ra``, ``dec`` (degrees), no nulls. Ids of the right rows are unique.
    radius_arcsec
        Greatest separation, inclusive.
    way
        ``auto``: broadcast up to BROADCAST_ROWS right rows, else partitioned.

    Returns
    -------
    DataFrame
        ``id, match_id, separation_arcsec`` of the left rows that have a match.
    """
    left, right = (frame.select(F.col("id").cast("long"), F.col("ra").cast("double"), F.col("dec").cast("double"))
                   for frame in (left, right))  # fmt: skip
    rows = right.count()
    if way == "broadcast" or (way == "auto" and rows <= BROADCAST_ROWS):
        return datasets.map_partitions(left, _against(_driver_rows(right), radius_arcsec), MATCHES)
    total = rows + left.count()
    order = cell_order(total, radius_arcsec)
    packed = [
        datasets.map_partitions(frame, _to_cells(order, radius_arcsec, is_right), PACKED)
        for frame, is_right in ((left, False), (right, True))
    ]
    return datasets.map_partitions(by_cell(packed[0].unionByName(packed[1]), total), _in_cells(radius_arcsec), MATCHES)


def _driver_rows(right: DataFrame) -> pa.Table:
    """The right catalogue on the driver, by id, so that the first of equals is the one with the smallest id."""
    rows = right.toPandas().sort_values("id")
    return pa.Table.from_pandas(rows, preserve_index=False)


def _against(right: pa.Table, radius_arcsec: float) -> Callable[[Batches], Batches]:
    def match(batches: Batches) -> Batches:
        index, ids = SkyIndex(right["ra"].to_numpy(), right["dec"].to_numpy()), right["id"].to_numpy()
        for batch in batches:
            yield _matches(index, ids, batch, radius_arcsec)

    return match


def _matches(index: SkyIndex, ids: np.ndarray, left: pa.RecordBatch | pa.Table, radius_arcsec: float) -> pa.RecordBatch:
    nearest, separation = index.nearest(left["ra"].to_numpy(), left["dec"].to_numpy(), radius_arcsec)
    found = np.flatnonzero(nearest >= 0)
    columns = (left["id"].to_numpy()[found], ids[nearest[found]], separation[found])
    return pa.RecordBatch.from_arrays([pa.array(values) for values in columns], schema=MATCHES)


def _to_cells(order: int, radius_arcsec: float, is_right: bool) -> Callable[[Batches], Batches]:
    packing = pack if is_right else pack_at_home

    def place(batches: Batches) -> Batches:
        for batch in batches:
            side = pa.array(np.full(batch.num_rows, is_right))
            rows = pa.RecordBatch.from_arrays([*batch.columns, side], names=["id", "ra", "dec", "is_right"])
            yield packing(rows, order, radius_arcsec)

    return place


def _in_cells(radius_arcsec: float) -> Callable[[Batches], Batches]:
    def match(batches: Batches) -> Batches:
        for table in unpack(batches):
            right, left = table.filter(table["is_right"]), table.filter(pa.compute.invert(table["is_right"]))
            ids = right["id"].to_numpy()
            rows = needed(right["home"].to_numpy(), ids)
            rows = rows[np.argsort(ids[rows])]
            index = SkyIndex(right["ra"].to_numpy()[rows], right["dec"].to_numpy()[rows])
            yield _matches(index, ids[rows], left, radius_arcsec)

    return match
