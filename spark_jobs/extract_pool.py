"""Negative pool from sweep files: cuts, exclusion around lenses, and what lies near a lens (R-S1, R-S2)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lensdata import storage, tables
from lensdata.catalogue import lenses as lens_tables
from lensdata.catalogue.cuts import KEPT
from lensdata.catalogue.sweeps import (
    REQUIRED,
    CorruptSweep,
    SweepFile,
    file_name,
    list_sweeps,
    open_sweeps,
    outside_declinations,
    plan_splits,
)
from lensdata.errors import InputError
from lensdata.jobs import JOBS
from lensdata.steps import JobFailed, JobRun, Outcome, progress, run_job
from spark_jobs import datasets
from spark_jobs.session import build_session
from spark_jobs.transforms.extraction import (
    PASS_SCHEMA,
    SET_ASIDE,
    Lenses,
    drop_duplicate_sources,
    keep_first,
    read_splits,
)

JOB = JOBS["extract_pool"]
log = logging.getLogger(__name__)
PARTLY_READ = "partly_read"
Files = list[dict[str, Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_job(JOB, extract_pool, sys.argv[1:] if argv is None else argv)


def extract_pool(run: JobRun) -> Outcome:
    """Read every sweep once, then write pool, near_lenses, rejected, the files and the counts per row range."""
    lenses = _lenses(run)
    sweeps, unread = _open(run)
    planned_ranges = plan_splits(sweeps, run.config.execution.rows_per_split)
    ranges = planned_ranges[: run.test_limit]
    cut_off = {uri for uri, _, _ in planned_ranges[len(ranges) :]}
    progress(0, len(ranges), "row ranges")
    spark = build_session(JOB.name, run.config.execution.shuffle_partitions)
    datasets.require_filesystem(spark, run.output)
    schema = datasets.spark_schema(PASS_SCHEMA)
    # A task reads one range of a large file, or the ranges of many small ones: a task of its own costs more than they do.
    rows = sum(num_rows for _, _, num_rows in ranges)
    tasks = max(spark.sparkContext.defaultParallelism, -(-rows // run.config.execution.rows_per_split))
    # From one partition they are dealt out evenly; a DataFrame of a list needs no Python on the executors to be read.
    splits = spark.createDataFrame(ranges, "uri string, first_row long, num_rows long").coalesce(1)
    splits = splits.repartition(min(tasks, len(ranges)))
    stage = run.path("_stage")
    # Read once, write once: the tables of this pass are then taken apart without opening a sweep again.
    read_splits(splits, sweeps, lenses, run.config, schema).write.partitionBy("kind").parquet(stage)
    progress(len(ranges), len(ranges), "row ranges")
    passed = spark.read.schema(schema).parquet(stage)
    unread += _corrupt(passed, unread, run.config.max_bad_files)
    outcome = _write_tables(spark, passed, run, ranges, unread, _files_table(sweeps, unread, cut_off))
    storage.remove(stage)
    return outcome


def _open(run: JobRun) -> tuple[list[SweepFile], Files]:
    """Headers of the files to read, and why the others are not.

    Raises
    ------
    InputError
        More files than allowed cannot be used, or none can.
    JobFailed
        A file cannot be read now: no fault of the file, so it is not set aside.
    """
    unknown = sorted(set(run.config.sweep_columns) - set(REQUIRED))
    if unknown:
        raise InputError(
            f"sweep_columns gives a name to {unknown[0]}, which is not needed; needed are {', '.join(REQUIRED)}."
        )
    uris, unread = list_sweeps(run.inputs["sweeps"]), []
    if run.config.files_outside_footprint == "skip":
        limits = run.config.cuts.footprint.limits
        unread = [
            {"file": file_name(uri), "uri": uri, "state": "outside_footprint"}
            for uri in uris
            if outside_declinations(uri, limits)
        ]
    skipped = {entry["uri"] for entry in unread}
    try:
        sweeps, errors = open_sweeps([uri for uri in uris if uri not in skipped], run.config.sweep_columns)
    except OSError as error:
        raise JobFailed(f"{error}; run it again when the file can be read") from error
    _allow(list(errors.values()), run.config.max_bad_files)
    if not sweeps:
        raise InputError(
            f"None of the {len(uris)} files in {run.inputs['sweeps']} is left to read: {len(skipped)} lie outside the "
            f"footprint (files_outside_footprint), {len(errors)} cannot be used (max_bad_files)."
        )
    for uri, error in errors.items():
        offset = error.offset if isinstance(error, CorruptSweep) else None
        entry = {"file": file_name(uri), "uri": uri, "state": SET_ASIDE, "offset": offset, "reason": str(error)}
        unread.append(entry)
    return sweeps, unread


def _allow(reasons: Sequence[object], allowed: int) -> None:
    if len(reasons) > allowed:
        others = f" {len(reasons) - 1} more cannot be used either." if len(reasons) > 1 else ""
        raise InputError(f"{reasons[0]}{others} Up to {allowed} such files are set aside: max_bad_files.")


def _corrupt(passed: DataFrame, unread: Files, allowed: int) -> Files:
    """Files that turned out to be corrupt while their rows were read: a row each, the one that says where it starts."""
    found = [row.asDict() for row in passed.where("kind = 'sweep_files'").select(*tables.SWEEP_FILES.names).collect()]
    first: dict[str, dict[str, Any]] = {}
    for entry in sorted(found, key=lambda entry: (entry["file"], entry["offset"] is None, entry["offset"])):
        first.setdefault(entry["file"], entry)
    before = [entry["reason"] for entry in unread if entry["state"] == SET_ASIDE]
    if first:
        _allow([entry["reason"] for entry in first.values()] + before, allowed)
    return list(first.values())


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


def _write_tables(
    spark: SparkSession,
    passed: DataFrame,
    run: JobRun,
    ranges: list[tuple[str, int, int]],
    unread: Files,
    files: pa.Table,
) -> Outcome:
    aside = sorted({entry["file"] for entry in unread if entry["state"] == SET_ASIDE})
    whole = passed.where(~F.col("file").isin(aside)) if aside else passed

    def of(kind: str) -> DataFrame:
        return whole.where(F.col("kind") == kind)

    rows_read = sum(num_rows for uri, _, num_rows in ranges if file_name(uri) not in aside)
    counted = of("sweep_splits").groupBy("reason").agg(F.sum("rows").alias("rows")).collect()
    reasons: dict[str, int] = {row["reason"]: int(row["rows"]) for row in counted}
    if sum(reasons.values()) != rows_read:
        raise RuntimeError(f"rows per reason add up to {sum(reasons.values())}, the files hold {rows_read}")
    # The same files elsewhere are the same content: addresses and sentences with them do not count.
    told_apart_by = ["file", "state", "rows", "offset"]
    tables.write_table(files, run.path("sweep_files"), tables.SWEEP_FILES, identity=told_apart_by)
    datasets.write(of("sweep_splits").coalesce(1), run.path("sweep_splits"), tables.SWEEP_SPLITS)
    near, _ = datasets.write(keep_first(of("near_lenses")), run.path("near_lenses"), tables.NEAR_LENSES)
    rejected, _ = datasets.write(keep_first(of("rejected")), run.path("rejected"), tables.REJECTED)
    kept, content = datasets.write(drop_duplicate_sources(of("pool")), run.output, tables.POOL)
    report: dict[str, Any] = {
        "rows_read": rows_read,
        "rows_per_reason": reasons,
        "duplicate_rows": reasons.get(KEPT, 0) - kept,
        "pool": kept,
        "near_lenses": near,
        "excluded_near_lens": rejected,
        "files": files["state"].to_pylist().count("read"),
        "files_partly_read": files["state"].to_pylist().count(PARTLY_READ),
        "files_outside_footprint": files["state"].to_pylist().count("outside_footprint"),
        "files_set_aside": {entry["file"]: entry["reason"] for entry in unread if entry["state"] == SET_ASIDE},
    }
    for name, reason in report["files_set_aside"].items():
        log.warning("file=%s set aside, none of its rows is used: %s", name, reason)
    return Outcome(kept, content, report)


def _files_table(sweeps: list[SweepFile], unread: Files, cut_off: set[str]) -> pa.Table:
    """A row per file; ``cut_off``: those of which ``--test-limit`` left something unread."""
    known = {entry["uri"] for entry in unread}
    read = [
        {"file": s.name, "uri": s.uri, "state": PARTLY_READ if s.uri in cut_off else "read", "rows": s.num_rows}
        for s in sweeps
        if s.uri not in known
    ]
    rows = sorted([*read, *unread], key=lambda entry: str(entry["file"]))
    schema = tables.SWEEP_FILES.schema
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)


if __name__ == "__main__":
    sys.exit(main())
