"""A pool without the rows that lie at a contaminant, and a table of these (R-S9)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lensdata import tables
from lensdata.jobs import JOBS
from lensdata.steps import JobRun, Outcome, run_job
from spark_jobs import datasets
from spark_jobs.session import NARROW_BATCH_ROWS, build_session
from spark_jobs.transforms.contaminants import at_contaminants, lists_in_sky, read_lists, small

JOB = JOBS["remove_contaminants"]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_job(JOB, remove_contaminants, sys.argv[1:] if argv is None else argv)


def remove_contaminants(run: JobRun) -> Outcome:
    """Match the pool with the lists, write what was removed, then the pool without it."""
    config = run.config
    spark = build_session(JOB.name, config.execution.shuffle_partitions, NARROW_BATCH_ROWS)
    pool = datasets.read(spark, run.inputs["pool"], tables.POOL)
    if run.test_limit is not None:
        pool = pool.orderBy("source_id").limit(run.test_limit)
    lists = read_lists(spark, run.inputs["contaminants"], config.columns)
    found = at_contaminants(pool, lists, config.radius_arcsec, config.execution.crossmatch)
    num_removed, _ = datasets.write(found, run.path("removed"), tables.REMOVED)
    removed = datasets.read(spark, run.path("removed"), tables.REMOVED)
    rows, content = datasets.write(
        pool.join(small(removed.select("source_id")), "source_id", "left_anti"), run.output, tables.POOL
    )
    rows_in = pool.count()
    if rows + num_removed != rows_in:
        raise RuntimeError(f"{rows} rows kept and {num_removed} removed do not add up to the {rows_in} of the pool")
    report = {"pool_in": rows_in, "removed": num_removed, "pool": rows, "lists": _per_list(lists, removed, pool)}
    return Outcome(rows, content, report)


def _per_list(lists: DataFrame, removed: DataFrame, pool: DataFrame) -> list[dict[str, Any]]:
    """What each category of each list had and did; separations are those of removed rows to their nearest contaminant."""
    inside = lists_in_sky(lists, pool).withColumn("_inside", F.lit(1))
    sizes = lists.join(inside, "id", "left").groupBy("list", "category")
    sizes = sizes.agg(F.count(F.lit(1)).alias("rows"), F.coalesce(F.sum("_inside"), F.lit(0)).alias("in_pool_sky"))
    effects = removed.groupBy("list", F.col("reason").alias("category")).agg(
        F.count(F.lit(1)).alias("pool_rows_removed"),
        F.min("separation_arcsec").alias("least_separation_arcsec"),
        F.percentile("separation_arcsec", F.lit(0.5)).alias("median_separation_arcsec"),
        F.max("separation_arcsec").alias("greatest_separation_arcsec"),
    )
    joined = sizes.join(effects, ["list", "category"], "left").fillna(0, ["pool_rows_removed"])
    return [row.asDict() for row in joined.orderBy("list", "category").collect()]


if __name__ == "__main__":
    sys.exit(main())
