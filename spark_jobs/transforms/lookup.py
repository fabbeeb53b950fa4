"""A few rows of a large table by their ids, whole (R-S5).

The table's files are searched by their id column alone, and other columns are decoded only where it holds a wanted id; a join
would turn every row of the table into a row of Spark first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import Broadcast
from pyspark.sql import DataFrame, SparkSession

from lensdata import storage, tables
from lensdata.tables import TableSpec
from spark_jobs import datasets


def rows_by_id(spark: SparkSession, folder: str, spec: TableSpec, wanted: pd.DataFrame, result: TableSpec) -> DataFrame:
    """Rows of the table in ``folder`` with a ``source_id`` of ``wanted``, and the columns of ``wanted`` beside them.

    Parameters
    ----------
    wanted
        ``source_id``, unique, and further columns; few enough rows to be sent to every task.
    result
        The columns that come out: those of ``spec`` and of ``wanted``.
    """
    tables.require_kind(folder, spec)
    files = tables.dataset_files(folder)
    table = pa.Table.from_pandas(wanted.sort_values("source_id"), preserve_index=False)
    sent = spark.sparkContext.broadcast(table)
    slices = max(1, min(len(files), 4 * spark.sparkContext.defaultParallelism))
    names = spark.createDataFrame(spark.sparkContext.parallelize([(name,) for name in files], slices), "uri string")
    return datasets.map_partitions(names, _reader(sent, spec, result), result.schema)


def _reader(
    sent: Broadcast[pa.Table], spec: TableSpec, result: TableSpec
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        wanted = sent.value
        for batch in batches:
            for uri in batch["uri"].to_pylist():
                yield from _found(uri, wanted, spec, result)

    return read


def _found(uri: str, wanted: pa.Table, spec: TableSpec, result: TableSpec) -> Iterator[pa.RecordBatch]:
    ids = wanted["source_id"].to_numpy()
    with pq.ParquetFile(storage.open_arrow(uri)) as file:
        for group in range(file.num_row_groups):
            here = file.read_row_group(group, columns=["source_id"])["source_id"].to_numpy()
            place = np.minimum(np.searchsorted(ids, here), len(ids) - 1) if len(ids) else np.zeros(0, np.int64)
            rows = np.flatnonzero(ids[place] == here) if len(ids) else place
            if not rows.size:
                continue
            columns = file.read_row_group(group, columns=spec.names).take(pa.array(rows))
            beside = wanted.take(pa.array(place[rows]))
            for name in beside.column_names:
                if name not in columns.column_names:
                    columns = columns.append_column(name, beside[name])
            yield from columns.select(result.names).cast(result.schema).combine_chunks().to_batches()
