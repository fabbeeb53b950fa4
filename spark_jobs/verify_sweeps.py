"""Sweep files against the release's SHA-256 list (R-S1)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from lensdata import storage, tables
from lensdata.catalogue.checksums import ABSENT, DIFFERENT, SAME, UNLISTED, UNREADABLE, judge, read_checksums
from lensdata.catalogue.sweeps import file_name, list_sweeps
from lensdata.errors import InputError
from lensdata.jobs import JOBS
from lensdata.steps import JobFailed, JobRun, Outcome, run_job
from spark_jobs.session import build_session

JOB = JOBS["verify_sweeps"]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_job(JOB, verify_sweeps, sys.argv[1:] if argv is None else argv)


def verify_sweeps(run: JobRun) -> Outcome:
    """Hash every file, a task each.

    Raises
    ------
    JobFailed
        A file differs, cannot be read or is not in the list. The table is written beside the output first.
    """
    wanted = read_checksums(run.inputs["checksums"])
    found = list_sweeps(run.inputs["sweeps"])
    uris = found[: run.test_limit]
    spark = build_session(JOB.name)
    digests = spark.sparkContext.parallelize(uris, len(uris)).map(_digest).collect()
    rows: list[dict[str, Any]] = []
    for uri, (digest, error) in zip(uris, digests, strict=True):
        name = file_name(uri)
        state = judge(name, digest, wanted)
        rows.append(
            {"file": name, "uri": uri, "state": state, "sha256": digest, "listed": wanted.get(name), "reason": error}
        )
    here = {file_name(uri) for uri in found}
    rows += [{"file": name, "state": ABSENT, "listed": wanted[name]} for name in sorted(wanted.keys() - here)]
    return _judge_all(run, rows)


def _judge_all(run: JobRun, rows: list[dict[str, Any]]) -> Outcome:
    states = Counter(str(row["state"]) for row in rows)
    bad = [row for row in rows if row["state"] in (DIFFERENT, UNREADABLE, UNLISTED)]
    folder = f"{run.final}-failed" if bad else run.output
    storage.remove(f"{run.final}-failed")
    table = pa.Table.from_pylist(rows, schema=tables.SWEEP_CHECKSUMS.schema)
    count, content = tables.write_table(table, folder, tables.SWEEP_CHECKSUMS)
    if bad:
        named = ", ".join(f"{row['file']} ({row['state']})" for row in bad[:3])
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise JobFailed(
            f"{len(bad)} of {len(rows) - states[ABSENT]} files fail: {named}{more}; all are listed in {folder}"
        )
    return Outcome(count, content, {"files": states[SAME], "listed_but_not_here": states[ABSENT]})


def _digest(uri: str) -> tuple[str | None, str | None]:
    """SHA-256 of a file, or why it cannot be had: requests were repeated, and the other files are worth judging."""
    try:
        return storage.sha256(uri), None
    except InputError as error:
        return None, str(error)
    except OSError as error:
        return None, f"{uri} cannot be read: {error}"


if __name__ == "__main__":
    sys.exit(main())
