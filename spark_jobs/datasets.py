"""Tables as DataFrames: reading with the declared schema, writing, and finishing a folder on the executors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark import TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_schema

from lensdata import storage, tables
from lensdata.catalogue import hats
from lensdata.catalogue.hats import Leaf
from lensdata.errors import InputError
from lensdata.tables import TableSpec

FACTS = pa.schema([("name", pa.string()), ("sha256", pa.string()), ("rows", pa.int64()), ("content", pa.string())])


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
    require_filesystem(spark, folder)
    tables.require_kind(folder, spec)
    files = tables.dataset_files(folder)
    if not files:
        return spark.createDataFrame([], spark_schema(spec.schema))
    reader = spark.read.schema(spark_schema(spec.schema)).option("recursiveFileLookup", "true")
    return reader.parquet(storage.join(folder, "dataset")).select(*spec.names)


def require_filesystem(spark: SparkSession, uri: str) -> None:
    """Refuse a URI that this Spark cannot read or write, before anything is done.

    Raises
    ------
    InputError
        There is no file system for its scheme: the Spark of EMR has one for S3, the package from PyPI has none.
    """
    scheme = uri.partition("://")[0] if "://" in uri else "file"
    hadoop = spark.sparkContext._jvm.org.apache.hadoop.fs.FileSystem  # type: ignore[union-attr]
    try:
        hadoop.getFileSystemClass(scheme, spark.sparkContext._jsc.hadoopConfiguration())  # type: ignore[union-attr]
    except Py4JJavaError as error:
        raise InputError(
            f"{uri}: this Spark has no file system for {scheme}://; on EMR it has, elsewhere add hadoop-aws, or use a path."
        ) from error


def write(frame: DataFrame, folder: str, spec: TableSpec, report: dict[str, Any] | None = None) -> tuple[int, str]:
    """Write a table's rows and finish its folder; returns rows and content hash.

    The tasks write the files themselves and hash their rows on the way, so nothing is read again. A table of the sky becomes a
    HATS catalogue: its files follow from its rows alone. A task that is repeated writes the same files in the same place.
    """
    rows = frame.select(*spec.names)
    leaves: list[Leaf] = []
    if spec.sky:
        rows, leaves = _by_leaf(rows)
    facts = map_partitions(rows, _parts(folder, spec, leaves), FACTS).collect()
    files = [tables.FileFacts(row["name"], row["sha256"], row["rows"], int(row["content"], 16)) for row in facts]
    whole = {file.name for file in files}
    for name in storage.list_files(storage.join(folder, "dataset")):
        if name not in whole:  # what a task that was killed had begun
            storage.remove(name)
    if spec.sky:
        if len(whole) != len(leaves):
            raise RuntimeError(f"{folder}: {len(whole)} files were written, {len(leaves)} were planned")
        hats.describe(folder, spec, leaves)
    return tables.mark_finished(folder, spec, files, report)


def _by_leaf(rows: DataFrame) -> tuple[DataFrame, list[Leaf]]:
    """Rows of a leaf together and in the order of the sky, under the leaf's number in ``_leaf``."""
    cell = F.shiftright(hats.INDEX, hats.COUNT_SHIFT).alias("_cell")
    counts = {row["_cell"]: row["count"] for row in rows.groupBy(cell).count().collect()}
    leaves = hats.leaves(counts)
    cells = rows.sparkSession.createDataFrame(hats.leaf_of_cells(leaves, counts), "_cell long, _leaf long")
    numbered = rows.withColumn("_cell", cell).join(F.broadcast(cells), "_cell", "inner")
    placed = numbered.repartition(max(len(leaves), 1), "_leaf")
    return placed.sortWithinPartitions("_leaf", hats.INDEX, "source_id"), leaves


def _parts(
    folder: str, spec: TableSpec, leaves: list[Leaf]
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A file per leaf, or one per partition where there are none."""

    def write_parts(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number, pieces in groupby(_pieces(batches, bool(leaves)), key=itemgetter(0)):
            name = leaves[number].file if leaves else f"part-{number:05d}.parquet"
            facts = tables.write_part(storage.join(folder, "dataset", name), spec, map(itemgetter(1), pieces))
            entry = {"name": facts.name, "sha256": facts.sha256, "rows": facts.rows, "content": f"{facts.content:016x}"}
            yield pa.RecordBatch.from_pylist([entry], schema=FACTS)

    return write_parts


def _pieces(batches: Iterator[pa.RecordBatch], by_leaf: bool) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches with the number of their file; batches of several leaves are cut."""
    partition = TaskContext.get().partitionId()  # type: ignore[union-attr]
    for batch in batches:
        if batch.num_rows == 0:
            continue
        if not by_leaf:
            yield partition, batch
            continue
        numbers = batch["_leaf"].to_numpy()
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        for start, stop in pairwise([*starts.tolist(), batch.num_rows]):
            yield int(numbers[start]), batch.slice(start, stop - start)


def finish(
    spark: SparkSession,
    folder: str,
    spec: TableSpec | None,
    report: dict[str, Any] | None = None,
    identity: list[str] | None = None,
) -> tuple[int, str]:
    """Hash the files of a table, whoever wrote them, on the executors and finish its folder.

    ``identity``: the columns that make the content; all by default.
    """
    files = tables.dataset_files(folder)
    described: list[tables.FileFacts] = []
    if files:
        slices = min(len(files), 4 * spark.sparkContext.defaultParallelism)
        described = spark.sparkContext.parallelize(files, slices).map(partial(tables.describe_file, identity)).collect()
    return tables.mark_finished(folder, spec, described, report)


def map_partitions(frame: DataFrame, function: Any, schema: pa.Schema) -> DataFrame:
    """``mapInArrow`` with an Arrow schema."""
    return frame.mapInArrow(function, spark_schema(schema))
