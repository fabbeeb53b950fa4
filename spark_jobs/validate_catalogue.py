"""Strata, splits and manifests checked; JSON and a page; a failed check fails the step (R-S8)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import resources

import jinja2
import pandas as pd

from lensdata import storage, tables
from lensdata.catalogue.checks import Check, check_manifests, check_sample, check_strata, counts
from lensdata.hashing import text_hash
from lensdata.jobs import JOBS
from lensdata.steps import JobFailed, JobRun, Outcome, run_job

JOB = JOBS["validate_catalogue"]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_job(JOB, validate_catalogue, sys.argv[1:] if argv is None else argv)


def validate_catalogue(run: JobRun) -> Outcome:
    """Check on the driver: a sample is hundreds of thousands of rows.

    Raises
    ------
    JobFailed
        A check failed. The pages are written beside the output first, for they are what one wants to read then.
    """
    sample = tables.read_table(run.inputs["sample"], tables.SAMPLE).to_pandas()
    checks = check_sample(sample, run.config)
    if "quotas" in run.inputs:
        checks += check_strata(sample, tables.read_table(run.inputs["quotas"], tables.QUOTAS).to_pandas(), run.config)
    if "manifests" in run.inputs:
        checks += check_manifests(sample, _manifests(run.inputs["manifests"]), run.config)
    summary = {
        "passed": all(check.passed for check in checks),
        "checks": [vars(check) for check in checks],
        "counts": counts(sample),
    }
    page = _page(checks, summary["counts"], len(sample))
    failed = [check for check in checks if not check.passed]
    folder = f"{run.final}-failed" if failed else run.output
    storage.remove(f"{run.final}-failed")
    storage.write_json(storage.join(folder, "validation.json"), summary)
    storage.write_bytes(storage.join(folder, "validation.html"), page.encode())
    if failed:
        named = "; ".join(f"{check.name} ({check.found})" for check in failed)
        raise JobFailed(f"{len(failed)} of {len(checks)} checks: {named}; see {folder}/validation.html")
    return Outcome(len(sample), text_hash(str(summary)), summary)


def _manifests(folder: str) -> dict[str, pd.DataFrame]:
    found = {}
    for name in ("parity_70_30", "audit_70_15_15"):
        if storage.exists(storage.join(folder, name, "_SUCCESS")):
            found[name] = tables.read_table(storage.join(folder, name), tables.MANIFEST).to_pandas()
    return found


def _page(checks: list[Check], numbers: dict[str, dict[str, int]], rows: int) -> str:
    template = jinja2.Environment(autoescape=True).from_string(
        resources.files("lensdata.catalogue").joinpath("checks.html").read_text()
    )
    return template.render(checks=checks, passed=all(check.passed for check in checks), counts=numbers, rows=rows)


if __name__ == "__main__":
    sys.exit(main())
