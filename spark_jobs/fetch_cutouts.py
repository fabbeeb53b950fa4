"""A stamp for every object of the sample: many small tasks, each published whole, restartable anywhere (R-C1 to R-C4)."""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from lensdata import storage, tables
from lensdata.config.cutouts import FetchCutoutsConfig
from lensdata.cutouts.service import require_reachable
from lensdata.errors import InputError
from lensdata.hashing import cutout_id
from lensdata.jobs import JOBS
from lensdata.steps import JobFailed, JobRun, Outcome, progress, run_job
from spark_jobs import datasets
from spark_jobs.session import build_session
from spark_jobs.transforms.fetching import EXCLUDED, FAILED, STORED, fetch_parts, part_index, write_ledger

log = logging.getLogger(__name__)
JOB = JOBS["fetch_cutouts"]
# A fetch is what came, not when or how often it was asked for (docs/architecture.md, section 3).
LEDGER_IDENTITY = ["cutout_id", "request_hash", "outcome", "reason", "pixel_hash"]
Asked = tuple[int, int, float, float]  # cutout_id, source_id, ra, dec
Group = tuple[int, list[Asked]]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_job(JOB, fetch_cutouts, sys.argv[1:] if argv is None else argv)


def fetch_cutouts(run: JobRun) -> Outcome:
    """Fetch what the ledger does not hold yet, then check and finish."""
    requests = plan_requests(run)
    ledger_folder, parts_folder = run.path("ledger"), run.path("parts")
    done = settle(ledger_folder, parts_folder) if run.resumed else set()
    missing = [request for request in requests if request[0] not in done]
    progress(len(requests) - len(missing), len(requests), "stamps")
    if missing:
        require_reachable(run.config.service)
    spark = build_session(JOB.name, run.config.execution.shuffle_partitions, fixed_executors=True)
    if missing:
        first = 1 + max([part_index(name) for name in storage.list_files(ledger_folder, ".parquet")], default=-1)
        _fetch(spark, run, group_requests(missing, run.config.execution.stamps_per_part, first), len(requests))
    ledger = tables.read_table(ledger_folder, tables.LEDGER, check=False)
    report = _check(ledger, len(requests), run.config)
    datasets.finish(spark, parts_folder, None, identity=["cutout_id", "request_hash", "pixel_hash"])
    rows, content = datasets.finish(spark, ledger_folder, tables.LEDGER, identity=LEDGER_IDENTITY)
    return Outcome(rows, content, report)


def settle(ledger_folder: str, parts_folder: str) -> set[int]:
    """Put in order what an interrupted fetch left; returns the stamps that need no further request.

    A part file without its ledger rows was not published and goes. Failures are forgotten, so that they are asked for again:
    what could not be had in an outage is no final word.
    """
    ledgers = {part_index(name): name for name in storage.list_files(ledger_folder, ".parquet")}
    for name in storage.list_files(parts_folder, ".parquet"):
        if part_index(name) not in ledgers:
            storage.remove(name)
    done: set[int] = set()
    for index, name in ledgers.items():
        rows = pq.read_table(storage.open_input(name)).to_pylist()
        final = [row for row in rows if row["outcome"] != FAILED]
        if len(final) < len(rows):
            write_ledger(index, final, storage.join(ledger_folder, ".."))
        done.update(row["cutout_id"] for row in final)
    return done


def plan_requests(run: JobRun) -> list[Asked]:
    """What to ask for, by brick and id, so that stamps of a brick come together.

    Raises
    ------
    InputError
        No object of the sample has a wanted label.
    """
    columns = ["source_id", "ra", "dec", "brickname", "label"]
    sample = tables.read_table(run.inputs["sample"], columns=columns)
    sample = sample.filter(pc.is_in(sample["label"], pa.array(run.config.labels, pa.int8())))
    if sample.num_rows == 0:
        raise InputError(f"No object in {run.inputs['sample']} has a label among {list(run.config.labels)}.")
    sample = sample.sort_by([("brickname", "ascending"), ("source_id", "ascending")]).slice(0, run.test_limit)
    ids = cutout_id(sample["source_id"].to_numpy(), run.config.kind)
    return list(zip(ids.tolist(), *(sample[name].to_pylist() for name in ("source_id", "ra", "dec")), strict=True))


def group_requests(requests: list[Asked], size: int, first: int) -> list[Group]:
    """Groups of ``size`` requests, numbered from ``first``: each becomes one part."""
    return [
        (first + number, requests[start : start + size]) for number, start in enumerate(range(0, len(requests), size))
    ]


def _fetch(spark: SparkSession, run: JobRun, groups: list[Group], total: int) -> None:
    """Fetch all groups in one stage of a fixed number of tasks.

    However many executors come and go, no more than these tasks run at once, each with its share of the job's rate.
    """
    context, folder = spark.sparkContext, run.path("ledger", "dataset")
    tasks = min(len(groups), run.config.execution.tasks or context.defaultParallelism)
    before = total - sum(len(rows) for _, rows in groups)
    with _Watcher(folder, run.config.execution.stamps_per_part, before, total):
        work = context.parallelize(groups, tasks).mapPartitionsWithIndex(fetch_parts(run.config, run.output, tasks))
        done = work.collect()
    stored, excluded, failed = (sum(int(counts[i]) for counts in done) for i in (1, 2, 3))
    progress(total, total, "stamps")
    log.info("stored=%d excluded=%d failed=%d", stored, excluded, failed)


class _Watcher:
    """Reports progress from the published parts while the stage runs."""

    def __init__(self, folder: str, part_rows: int, before: int, total: int, every_s: float = 3.0) -> None:
        self.folder, self.part_rows, self.before, self.total, self.every_s = folder, part_rows, before, total, every_s
        self._there = len(storage.list_files(folder, ".parquet"))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self.every_s):
            parts = len(storage.list_files(self.folder, ".parquet")) - self._there
            progress(min(self.before + parts * self.part_rows, self.total), self.total, "stamps")


def _check(ledger: pa.Table, total: int, config: FetchCutoutsConfig) -> dict[str, Any]:
    """Every request has one line; releases are not mixed; failures are within bounds.

    Raises
    ------
    JobFailed
        Releases are mixed, or more stamps failed than ``execution.max_failed_fraction``.
    """
    if ledger.num_rows != total:
        raise RuntimeError(f"the ledger has {ledger.num_rows} lines for {total} requests")
    outcomes = Counter(ledger["outcome"].to_pylist())
    reasons = Counter(reason for reason in ledger["reason"].to_pylist() if reason)
    stored = ledger.filter(pc.equal(ledger["outcome"], STORED))
    versions = sorted(
        {f"{a} {b}" for a, b in zip(stored["survey"].to_pylist(), stored["version"].to_pylist(), strict=True)}
    )
    if config.require_survey_version and len(versions) > 1:
        raise JobFailed(
            f"the stamps mix releases {', '.join(versions)}; restrict the sample, or set require_survey_version=false"
        )
    if outcomes[FAILED] > config.execution.max_failed_fraction * total:
        named = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(4))
        raise JobFailed(
            f"{outcomes[FAILED]} of {total} stamps failed ({named}); run again to ask for these, "
            "or raise execution.max_failed_fraction"
        )
    seconds = np.asarray(ledger["seconds"], dtype=float)
    return {
        "requested": total,
        "stored": outcomes[STORED],
        "excluded": outcomes[EXCLUDED],
        "failed": outcomes[FAILED],
        "reasons": dict(sorted(reasons.items())),
        "releases": versions,
        "attempts": int(pc.sum(ledger["attempts"]).as_py()),
        "bytes": int(pc.sum(ledger["bytes"]).as_py()),
        "median_seconds_per_stamp": round(float(np.median(seconds)), 3),
    }


if __name__ == "__main__":
    sys.exit(main())
