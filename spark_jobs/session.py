"""The Spark session: the only place with settings."""

from __future__ import annotations

import os
import sys

from pyspark.sql import SparkSession

SETTINGS = {
    # Arrow on, and no fallback: without Arrow a null string becomes the text 'NaN' with pandas 3.
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.execution.arrow.pyspark.fallback.enabled": "false",
    "spark.sql.session.timeZone": "UTC",
    # Our own _SUCCESS lies one level up; a 0-byte file under dataset/ breaks readers of the HATS layout.
    "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
    "spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version": "2",
    "spark.sql.parquet.compression.codec": "zstd",
    # Tasks have side effects (requests, files): never two copies of one.
    "spark.speculation": "false",
    "spark.ui.showConsoleProgress": "false",
}


BATCH_ROWS = 10_000
NARROW_BATCH_ROWS = 65_536  # of a few numbers: halves the time of a pass through Python; not for rows with stamps


def build_session(app: str, shuffle_partitions: int | None = None, batch_rows: int = BATCH_ROWS) -> SparkSession:
    """The running session, or a new one; ``spark-submit`` gives the master and the resources.

    Parameters
    ----------
    batch_rows
        Most rows of an Arrow batch that a Python function gets.
    """
    # Executors must run the interpreter of the driver; it has to be known before the JVM starts.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName(f"lensdata {app}")
    for key, value in SETTINGS.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", batch_rows)
    if shuffle_partitions is not None:
        spark.conf.set("spark.sql.shuffle.partitions", shuffle_partitions)
    elif spark.sparkContext.master.startswith("local"):
        spark.conf.set("spark.sql.shuffle.partitions", spark.sparkContext.defaultParallelism)
    spark.sparkContext.setLogLevel("ERROR")
    return spark
