"""Negative pool from sweep files: cuts, exclusion around lenses, and what lies near a lens (R-S1, R-S2)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lensdata import storage, tables
from lensdata.catalogue import lenses as lens_tables
from lensdata.catalogue.cuts import KEPT
from lensdata.catalogue.sweeps import list_sweeps, open_sweep, plan_splits
from lensdata.errors import InputError
from lensdata.jobs import JOBS
from lensdata.steps import JobRun, Outcome, progress, run_job
from spark_jobs import datasets
from spark_jobs.session import build_session
from spark_jobs.transforms.extraction import PASS_SCHEMA, Lenses, drop_duplicate_sources, keep_first, read_splits

JOB = JOBS["extract_pool"]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_job(JOB, extract_pool, sys.argv[1:] if argv is None else argv)


def extract_pool(run: JobRun) -> Outcome:
    """Read every sweep once, then write pool, near_lenses, rejected and the counts per row range."""
    lenses = _lenses(run)
    sweeps = [open_sweep(uri) for uri in list_sweeps(run.inputs["sweeps"])]
    ranges = plan_splits(sweeps, run.config.execution.rows_per_split)[: run.test_limit]
    progress(0, len(ranges), "row ranges")
    spark = build_session(JOB.name, run.config.execution.shuffle_partitions)
    schema = datasets.spark_schema(PASS_SCHEMA)
    # A task reads one range of a large file, or the ranges of many small ones: a task of its own costs more than they do.
    rows = sum(num_rows for _, _, num_rows in ranges)
    tasks = max(spark.sparkContext.defaultParallelism, -(-rows // run.config.execution.rows_per_split))
    planned = spark.sparkContext.parallelize(ranges, min(tasks, len(ranges)))
    splits = spark.createDataFrame(planned, "uri string, first_row long, num_rows long")
    stage = run.path("_stage")
    # Read once, write once: the tables of this pass are then taken apart without opening a sweep again.
    read_splits(splits, lenses, run.config, schema).write.partitionBy("kind").parquet(stage)
    progress(len(ranges), len(ranges), "row ranges")
    outcome = _write_tables(spark, spark.read.schema(schema).parquet(stage), run, rows)
    storage.remove(stage)
    return outcome


def _lenses(run: JobRun) -> Lenses:
    if "lenses" not in run.inputs:
        if not run.config.without_lens_list:
            raise InputError(
                "extract_pool has no lens list: give inputs.lenses=lenscat or a table, or set without_lens_list=true."
            )
        return {"name": np.array([], str), "ra": np.zeros(0), "dec": np.zeros(0), "grading": np.array([], str)}
    frame = lens_tables.read_lenses(run.inputs["lenses"], run.config.columns)
    return {
        name: frame[name].to_numpy(dtype=str if name in ("name", "grading") else float)
        for name in ("name", "ra", "dec", "grading")
    }


def _write_tables(spark: SparkSession, rows: DataFrame, run: JobRun, rows_read: int) -> Outcome:
    def of(kind: str) -> DataFrame:
        return rows.where(F.col("kind") == kind)

    counted = of("sweep_splits").groupBy("reason").agg(F.sum("rows").alias("rows")).collect()
    reasons: dict[str, int] = {row["reason"]: int(row["rows"]) for row in counted}
    if sum(reasons.values()) != rows_read:
        raise RuntimeError(f"rows per reason add up to {sum(reasons.values())}, the files hold {rows_read}")
    datasets.write(of("sweep_splits").coalesce(1), run.path("sweep_splits"), tables.SWEEP_SPLITS)
    near, _ = datasets.write(keep_first(of("near_lenses")), run.path("near_lenses"), tables.NEAR_LENSES)
    rejected, _ = datasets.write(keep_first(of("rejected")), run.path("rejected"), tables.REJECTED)
    kept, content = datasets.write(drop_duplicate_sources(of("pool")), run.output, tables.POOL)
    report: dict[str, Any] = {
        "rows_read": rows_read,
        "rows_per_reason": reasons,
        "duplicate_rows": reasons[KEPT] - kept,
        "pool": kept,
        "near_lenses": near,
        "excluded_near_lens": rejected,
        "files": int(of("sweep_splits").select("file").distinct().count()),
    }
    return Outcome(kept, content, report)


if __name__ == "__main__":
    sys.exit(main())
