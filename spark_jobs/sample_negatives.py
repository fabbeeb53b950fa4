"""Stratified N1 and N2 negatives, exact whatever the partitioning (R-S4, R-S5)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from lensdata import tables
from lensdata.catalogue.sampling import quotas
from lensdata.errors import InputError
from lensdata.jobs import JOBS
from lensdata.steps import JobRun, Outcome, run_job
from spark_jobs import datasets
from spark_jobs.session import build_session
from spark_jobs.transforms.confusers import close_pair_members, with_confusers, with_keys
from spark_jobs.transforms.sampling import N1, N2, Taken, draw

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
    spark = build_session(JOB.name, config.execution.shuffle_partitions)
    pool = datasets.read(spark, run.inputs["pool"], tables.POOL)
    if run.test_limit is not None:
        pool = pool.orderBy("source_id").limit(run.test_limit)
    keyed = with_keys(pool, config.confusers, config.seed).persist()
    flagged = with_confusers(keyed, close_pair_members(keyed, config.confusers.merger)).persist()
    drawn, lines = draw(flagged, quotas(positives, config.ratio, config.n1_percent))
    rows, content = datasets.write(pool.join(drawn, "source_id", "inner"), run.output, tables.NEGATIVES)
    tables.write_table(_quota_table(lines), run.path("quotas"), tables.QUOTAS)
    taken = sum(line.taken for line in lines if line.pool == N1 or line.confuser is None)
    if rows != taken:
        raise RuntimeError(f"wrote {rows} negatives, {taken} were drawn")
    return Outcome(rows, content, _report(lines, positives, len(strata)))


def _quota_table(lines: list[Taken]) -> pa.Table:
    rows: list[dict[str, Any]] = [vars(line) | {"shortfall": line.wanted - line.taken} for line in lines]
    for row in rows:  # a category's share is a floor, not a promise: only N1 and the N2 total can fall short
        if row["confuser"] is not None:
            row["shortfall"] = max(0, row["shortfall"])
    return pa.Table.from_pylist(rows, schema=tables.QUOTAS.schema)


def _report(lines: list[Taken], positives: Counter[str], all_positives: int) -> dict[str, Any]:
    totals = [line for line in lines if line.confuser is None]
    return {
        "positives_in_strata": sum(positives.values()),
        "positives_outside_strata": all_positives - sum(positives.values()),
        "wanted": sum(line.wanted for line in totals),
        "taken": sum(line.taken for line in totals),
        "shortfall": {
            f"{line.stratum} {line.pool}": line.wanted - line.taken for line in totals if line.taken < line.wanted
        },
        "n1": sum(line.taken for line in totals if line.pool == N1),
        "n2": sum(line.taken for line in totals if line.pool == N2),
        "n2_per_category": dict(
            sum((Counter({line.confuser: line.taken}) for line in lines if line.confuser), Counter[str]())
        ),
    }


if __name__ == "__main__":
    sys.exit(main())
