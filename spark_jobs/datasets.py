"""Tables as DataFrames: reading with the declared schema, writing, and finishing a folder on the executors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_schema

from lensdata import storage, tables
from lensdata.tables import TableSpec


def spark_schema(schema: pa.Schema) -> T.StructType:
    """The Spark schema of an Arrow schema."""
    return from_arrow_schema(schema)


def read(spark: SparkSession, folder: str, spec: TableSpec) -> DataFrame:
    """A finished table.

    Raises
    ------
    InputError
        The folder is missing or was not finished.
    """
    tables.require_kind(folder, spec)
    files = tables.dataset_files(folder)
    if not files:
        return spark.createDataFrame([], spark_schema(spec.schema))
    return spark.read.schema(spark_schema(spec.schema)).parquet(storage.join(folder, "dataset")).select(*spec.names)


def small_frame(spark: SparkSession, rows: list[tuple[Any, ...]], schema: str) -> DataFrame:
    """A DataFrame of a few driver rows."""
    return spark.createDataFrame(rows, schema)


def write(frame: DataFrame, folder: str, spec: TableSpec, report: dict[str, Any] | None = None) -> tuple[int, str]:
    """Write a table's rows and finish its folder; returns rows and content hash."""
    frame.select(*spec.names).write.mode("error").parquet(storage.join(folder, "dataset"))
    return finish(frame.sparkSession, folder, spec, report)


def finish(
    spark: SparkSession,
    folder: str,
    spec: TableSpec | None,
    report: dict[str, Any] | None = None,
    identity: list[str] | None = None,
) -> tuple[int, str]:
    """Hash the files of a table on the executors and write ``_table.json``, ``_report.json`` and ``_SUCCESS``.

    ``identity``: the columns that make the content; all by default.
    """
    files = tables.dataset_files(folder)
    described: list[tuple[str, str, int, int]] = []
    if files:
        slices = min(len(files), 4 * spark.sparkContext.defaultParallelism)
        described = spark.sparkContext.parallelize(files, slices).map(partial(_describe, identity)).collect()
    rows = sum(entry[2] for entry in described)
    content = f"{sum(entry[3] for entry in described) % (1 << 64):016x}"
    prefix = folder.rstrip("/") + "/"
    entry = {
        "schema_version": tables.SCHEMA_VERSION,
        "table": spec.name if spec else None,
        "rows": rows,
        "content": content,
        "files": {name.removeprefix(prefix): digest for name, digest, *_ in sorted(described)},
    }
    storage.write_json(storage.join(folder, "_table.json"), entry)
    storage.write_json(storage.join(folder, "_report.json"), report or {"rows": rows})
    storage.write_bytes(storage.join(folder, "_SUCCESS"), b"")
    return rows, content


def _describe(identity: list[str] | None, name: str) -> tuple[str, str, int, int]:
    fs, path = storage.filesystem(name)
    with pq.ParquetFile(fs.open_input_file(path)) as file:
        rows, content = tables.content_hash(file.iter_batches(columns=identity))
    return name, storage.sha256(name), rows, int(content, 16)


def map_partitions(frame: DataFrame, function: Any, schema: pa.Schema) -> DataFrame:
    """``mapInArrow`` with an Arrow schema."""
    return frame.mapInArrow(function, spark_schema(schema))


def one_batch(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The whole partition as one table; nothing for an empty partition."""
    collected = [batch for batch in batches if batch.num_rows]
    if collected:
        yield pa.Table.from_batches(collected)
