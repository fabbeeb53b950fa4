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

from lensdata import storage, tables
from lensdata.config.cutouts import FetchCutoutsConfig
from lensdata.errors import InputError
from lensdata.hashing import cutout_id
from lensdata.jobs import JOBS
from lensdata.steps import JobFailed, JobRun, Outcome, progress, run_job
from spark_jobs.session import build_session
from spark_jobs.transforms.fetching import EXCLUDED, FAILED, STORED, fetch_parts, part_name

log = logging.getLogger(__name__)
JOB = JOBS["fetch_cutouts"]
# A fetch is what came, not when or how often it was asked for (DESIGN section 3).
LEDGER_IDENTITY = ["cutout_id", "request_hash", "outcome", "reason", "pixel_hash"]
Group = tuple[int, list[tuple[int, int, float, float]]]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_job(JOB, fetch_cutouts, sys.argv[1:] if argv is None else argv)


def fetch_cutouts(run: JobRun) -> Outcome:
    """Fetch what the ledger does not hold yet, then check and finish."""
    groups = plan_parts(run)
    published = {name.rsplit("/", 1)[-1] for name in storage.list_files(run.path("ledger", "dataset"), ".parquet")}
    missing = [group for group in groups if part_name(group[0]) not in published]
    total = sum(len(rows) for _, rows in groups)
    progress(total - sum(len(rows) for _, rows in missing), total, "stamps")
    if missing:
        _fetch(run, missing, total)
    ledger = tables.read_table(run.path("ledger"), tables.LEDGER, check=False)
    report = _check(ledger, total, run.config)
    tables.finish_table(run.path("parts"), identity=["cutout_id", "request_hash", "pixel_hash"])
    rows, content = tables.finish_table(run.path("ledger"), tables.LEDGER, identity=LEDGER_IDENTITY)
    return Outcome(rows, content, report)


def plan_parts(run: JobRun) -> list[Group]:
    """Requests in groups, by brick and id: the same sample always makes the same parts.

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
    rows = list(zip(ids.tolist(), *(sample[name].to_pylist() for name in ("source_id", "ra", "dec")), strict=True))
    size = run.config.execution.stamps_per_part
    return [(index, rows[first : first + size]) for index, first in enumerate(range(0, len(rows), size))]


def _fetch(run: JobRun, groups: list[Group], total: int) -> None:
    spark = build_session(JOB.name, run.config.execution.shuffle_partitions)
    context = spark.sparkContext
    slots = context.defaultParallelism
    watcher = _Watcher(run.path("ledger", "dataset"), run.config.execution.stamps_per_part, total)
    with watcher:
        # one task per group in one stage: a straggler holds back nobody, a lost task repeats its own group only
        done = (
            context.parallelize(groups, len(groups))
            .mapPartitionsWithIndex(fetch_parts(run.config, run.output, slots))
            .collect()
        )
    stored, excluded, failed = (sum(int(counts[i]) for counts in done) for i in (1, 2, 3))
    progress(total, total, "stamps")
    log.info("stored=%d excluded=%d failed=%d", stored, excluded, failed)


class _Watcher:
    """Reports progress from the published parts while the stage runs."""

    def __init__(self, folder: str, part_rows: int, total: int, every_s: float = 3.0) -> None:
        self.folder, self.part_rows, self.total, self.every_s = folder, part_rows, total, every_s
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
            parts = len(storage.list_files(self.folder, ".parquet"))
            progress(min(parts * self.part_rows, self.total), self.total, "stamps")


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
            f"{outcomes[FAILED]} of {total} stamps failed ({named}); use --force to ask again, or raise max_failed_fraction"
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
