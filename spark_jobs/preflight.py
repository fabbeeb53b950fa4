"""The first step of a cluster (R-I1): every executor imports the packages, says which, and computes known pixels and splits.

A cluster whose machines compute another HEALPix pixel for the same position makes another split, and nothing later would
notice. So nothing is repaired here and nothing falls back: a difference fails the step, and with it the cluster.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from lensdata import storage, tables
from lensdata.jobs import JOBS
from lensdata.sky import healpix, splits
from lensdata.steps import JobFailed, JobRun, Outcome, run_job
from spark_jobs.session import build_session

JOB = JOBS["preflight"]
# (ra, dec) in degrees, nside-128 NESTED pixel, split with seed 42; the pixels agree with two independent implementations of
# HEALPix, the splits with SHA-256 by hand (tests/jobs/test_emr_preflight.py)
GOLDEN = (
    ((10.03, 31.9), 10272, "train"),
    ((150.1163, 2.2058), 109033, "val"),
    ((35.17, -17.31), 146195, "train"),
    ((359.9999, -17.9999), 68620, "val"),
    ((210.8025, 89.9), 49151, "test"),
)
TASKS_PER_CORE = 4
FAILS = "does not import"
TASK_S = 0.5  # long enough that no executor takes the tasks of another


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_job(JOB, preflight, sys.argv[1:] if argv is None else argv)


def preflight(run: JobRun) -> Outcome:
    """Compare what the executors import and compute with each other and with what is known.

    Raises
    ------
    JobFailed
        Machines differ in a version, or compute something else.
    """
    context = build_session(JOB.name).sparkContext
    tasks = run.config.tasks or TASKS_PER_CORE * context.defaultParallelism
    look = partial(examine, run.config.packages)
    found = context.parallelize(range(tasks), tasks).mapPartitions(look).collect()
    driver = next(examine(run.config.packages, ()))
    refuse_differences([driver, *found])
    hosts = sorted({entry["host"] for entry in found})
    for name, version in sorted(driver["versions"].items()):
        print(f"preflight {name} {version}")  # noqa: T201 - the log of the step is where one looks
    print(f"preflight {len(found)} tasks on {', '.join(hosts)}: golden pixels and splits agree")  # noqa: T201
    storage.write_json(run.path("executors.json"), found)
    content = hashlib.sha256(json.dumps(driver["versions"], sort_keys=True).encode()).hexdigest()[:16]
    report = {"hosts": hosts, "tasks": len(found), "executor_versions": driver["versions"], "from": driver["from"]}
    return Outcome(len(hosts), content, report)


def examine(packages: Iterable[str], rows: Iterable[int]) -> Iterator[dict[str, Any]]:
    """What this machine imports and computes; one entry per task."""
    if list(rows):
        time.sleep(TASK_S)
    ra, dec = np.array([place for place, _, _ in GOLDEN]).T
    pixels = healpix.ang2pix(ra, dec)
    yield {
        "host": platform.node(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "from": str(tables.__file__),
        "pixels": pixels.tolist(),
        "splits": splits.assign_splits(pixels).tolist(),
    }


def _version(package: str) -> str:
    """The version of a package that imports; why it does not would be lost in the middle of Spark's stack trace."""
    try:
        return str(importlib.import_module(package).__version__)
    except ImportError as error:
        return f"{FAILS} ({error})"


def refuse_differences(found: Sequence[dict[str, Any]]) -> None:
    """Refuse machines that differ from the first or from what is known.

    Raises
    ------
    JobFailed
        With the machine, what it has, and what was expected.
    """
    expected = {"pixels": [pixel for _, pixel, _ in GOLDEN], "splits": [split for _, _, split in GOLDEN]}
    expected["versions"] = found[0]["versions"]
    for entry in found:
        for name, version in entry["versions"].items():
            if version.startswith(FAILS):
                raise JobFailed(f"on {entry['host']} {name} {version}; make the packages again")
        for key, wanted in expected.items():
            if entry[key] != wanted:
                raise JobFailed(f"{entry['host']} has {key} {entry[key]}, expected {wanted}; make the packages again")


if __name__ == "__main__":
    sys.exit(main())
