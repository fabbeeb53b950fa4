"""Stratified N1 and N2 negatives, exact whatever the partitioning (R-S4, R-S5)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import SparkSession

from lensdata import storage, tables
from lensdata.catalogue import hats
from lensdata.catalogue.sampling import N1, N2, Taken, quotas
from lensdata.errors import InputError
from lensdata.jobs import JOBS
from lensdata.steps import JobRun, Outcome, run_job
from spark_jobs import datasets
from spark_jobs.session import NARROW_BATCH_ROWS, build_session
from spark_jobs.transforms.confusers import FLAGGED, flag_confusers
from spark_jobs.transforms.lookup import rows_by_id
from spark_jobs.transforms.morphology import mergers_by_table
from spark_jobs.transforms.sampling import draw_negatives

JOB = JOBS["sample_negatives"]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_job(JOB, sample_negatives, sys.argv[1:] if argv is None else argv)


def sample_negatives(run: JobRun) -> Outcome:
    """Flag confusers, draw per stratum, write negatives and the quota table."""
    config = run.config
    strata = tables.read_table(run.inputs["positives"], columns=["stratum"])["stratum"].to_pylist()
    positives = Counter(name for name in strata if name is not None)
    if not positives:
        raise InputError(
            f"None of the {len(strata)} positives in {run.inputs['positives']} lies in a stratum, so no negatives are asked for."
        )
    spark = build_session(JOB.name, config.execution.shuffle_partitions, NARROW_BATCH_ROWS)
    datasets.require_filesystem(spark, run.output)
    folder = _as_catalogue(spark, run)
    mergers = None
    if "morphology" in run.inputs:
        pool = datasets.read(spark, folder, tables.POOL)
        mergers = mergers_by_table(pool, run.inputs["morphology"], config.morphology, config.execution.crossmatch)
    stage = run.path("_stage")
    marked = mergers.ids.toPandas()["source_id"].to_numpy() if mergers else None
    # The narrow rows are read several times below; on disk they cost no memory, and a reading skips what it does not need.
    flag_confusers(spark, folder, config.confusers, config.seed, marked).write.parquet(stage)
    flagged = spark.read.schema(datasets.spark_schema(FLAGGED)).parquet(stage)
    wanted = quotas(positives, config.ratio, config.n1_percent)
    drawn, lines = draw_negatives(flagged, wanted, config.fill == "neighbours")
    negatives = rows_by_id(spark, folder, tables.POOL, drawn, tables.NEGATIVES).persist(StorageLevel.DISK_ONLY)
    rows, content = datasets.write(negatives, run.output, tables.NEGATIVES)
    negatives.unpersist()
    for temporary in (stage, run.path("_catalogue")):
        storage.remove(temporary)
    tables.write_table(_quota_table(lines), run.path("quotas"), tables.QUOTAS)
    taken = sum(line.taken for line in lines if line.confuser is None)
    if rows != taken:
        raise RuntimeError(f"wrote {rows} negatives, {taken} were drawn")
    report = _report(lines, positives, len(strata))
    return Outcome(rows, content, report | ({"morphology": mergers.report} if mergers else {}))


def _as_catalogue(spark: SparkSession, run: JobRun) -> str:
    """The pool's folder where its files are the leaves of a HATS catalogue; else a copy that is, of the rows asked for."""
    folder = run.inputs["pool"]
    tables.require_kind(folder, tables.POOL)
    if run.test_limit is None and all(hats.leaf_of_file(name) for name in tables.dataset_files(folder)):
        return folder
    pool = datasets.read(spark, folder, tables.POOL)
    if run.test_limit is not None:
        pool = pool.orderBy("source_id").limit(run.test_limit)
    datasets.write(pool, run.path("_catalogue"), tables.POOL)
    return run.path("_catalogue")


def _quota_table(lines: list[Taken]) -> pa.Table:
    rows = [vars(line) | {"shortfall": line.shortfall} for line in lines]
    return pa.Table.from_pylist(rows, schema=tables.QUOTAS.schema)


def _report(lines: list[Taken], positives: Counter[str], all_positives: int) -> dict[str, Any]:
    totals = [line for line in lines if line.confuser is None]
    own = [line for line in totals if line.filled_from is None]
    filled = [line for line in totals if line.filled_from is not None]
    return {
        "positives_in_strata": sum(positives.values()),
        "positives_outside_strata": all_positives - sum(positives.values()),
        "wanted": sum(line.wanted for line in own),
        "taken": sum(line.taken for line in totals),
        "shortfall": {f"{line.stratum} {line.pool}": line.shortfall for line in own if line.shortfall},
        "filled": {f"{line.stratum} {line.pool} from {line.filled_from}": line.taken for line in filled},
        "n1": sum(line.taken for line in totals if line.pool == N1),
        "n2": sum(line.taken for line in totals if line.pool == N2),
        "n2_per_category": dict(
            sum((Counter({line.confuser: line.taken}) for line in lines if line.confuser), Counter[str]())
        ),
    }


if __name__ == "__main__":
    sys.exit(main())
