"""Keys, strata, splits, manifests and stamps checked; what the sample holds, in JSON and on a page (R-S8)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pandas as pd

from lensdata import storage, tables
from lensdata.audit.conditions import conditions_gate
from lensdata.catalogue import checks
from lensdata.catalogue.covariates import compare_all
from lensdata.config.catalogue import ValidateCatalogueConfig
from lensdata.cutouts.duplicates import exact_duplicates
from lensdata.cutouts.packing import MANIFESTS
from lensdata.cutouts.stored import read_stored
from lensdata.hashing import text_hash
from lensdata.jobs import JOBS
from lensdata.report import galleries, validation
from lensdata.steps import JobFailed, JobRun, Outcome, run_job
from spark_jobs.session import build_session
from spark_jobs.transforms.duplicates import search_near_duplicates

JOB = JOBS["validate_catalogue"]
EXAMPLES = 8  # stamps per kind
LEDGER_COLUMNS = ["cutout_id", "source_id", "outcome", "pixel_hash", "bands", "part", "row"]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_job(JOB, validate_catalogue, sys.argv[1:] if argv is None else argv)


def validate_catalogue(run: JobRun) -> Outcome:
    """Check on the driver: a sample is hundreds of thousands of rows; only pixels are read on the executors.

    Raises
    ------
    JobFailed
        A required check failed. The pages are written beside the output first, for they are what one wants to read then.
    """
    config: ValidateCatalogueConfig = run.config
    sample = tables.read_table(run.inputs["sample"], tables.SAMPLE).to_pandas()
    done = checks.check_sample(sample, config)
    if "quotas" in run.inputs:
        quotas = tables.read_table(run.inputs["quotas"], tables.QUOTAS).to_pandas()
        done += checks.check_strata(sample, quotas, config)
    if "manifests" in run.inputs:
        done += checks.check_manifests(sample, _manifests(run.inputs["manifests"]), config)
    gate = conditions_gate(sample, config.gate.rows_max, config.gate.resamples, config.seed)
    done.append(checks.check_gate(gate, config.gate))
    numbers = {"counts": checks.counts(sample), "gate": gate, "covariates": compare_all(sample)}
    pictures: dict[str, list[galleries.Picture]] = {}
    if "cutouts" in run.inputs:
        stamps = _stored(sample, run.inputs["cutouts"])
        numbers["duplicates"] = _duplicates(stamps, run.inputs["cutouts"], config)
        done += checks.check_stamps(**numbers["duplicates"])
        pictures = _examples(stamps, run.inputs["cutouts"], config.seed)
    return _finish(run, done, numbers, validation.render(sample, done, numbers, config, pictures), len(sample))


def _finish(run: JobRun, done: list[checks.Check], numbers: dict[str, Any], page: str, rows: int) -> Outcome:
    failed = [check for check in done if check.result == "FAIL"]
    found = {"passed": not failed, "verdict": checks.verdict(done),
             "checks": [{**vars(check), "result": check.result} for check in done], **numbers}  # fmt: skip
    folder = f"{run.final}-failed" if failed else run.output
    storage.remove(f"{run.final}-failed")
    storage.write_json(storage.join(folder, "validation.json"), found)
    storage.write_bytes(storage.join(folder, "validation.html"), page.encode())
    if failed:
        named = "; ".join(f"{check.name} ({check.found})" for check in failed)
        raise JobFailed(f"{len(failed)} of {len(done)} checks: {named}; see {folder}/validation.html")
    report = {name: found[name] for name in ("verdict", "checks", "counts")}
    return Outcome(rows, text_hash(str(found)), report)


def _manifests(folder: str) -> dict[str, pd.DataFrame]:
    return {
        name: tables.read_table(storage.join(folder, name), tables.MANIFEST).to_pandas()
        for name in MANIFESTS
        if storage.exists(storage.join(folder, name, "_SUCCESS"))
    }


def _stored(sample: pd.DataFrame, cutouts: str) -> pd.DataFrame:
    """Ledger rows of the stored stamps with their objects, by cutout_id."""
    tables.require_success(cutouts)
    ledger = tables.read_table(storage.join(cutouts, "ledger"), columns=LEDGER_COLUMNS).to_pandas()
    stored = ledger[ledger["outcome"] == "stored"].merge(sample, on="source_id", validate="many_to_one")
    return stored.sort_values("cutout_id", ignore_index=True)


def _duplicates(stamps: pd.DataFrame, cutouts: str, config: ValidateCatalogueConfig) -> dict[str, Any]:
    spark = build_session(JOB.name, config.execution.shuffle_partitions)
    near = search_near_duplicates(spark, storage.join(cutouts, "parts"), stamps, config.near_duplicate_bits)
    return {"exact": exact_duplicates(stamps), "near": near}


def _examples(stamps: pd.DataFrame, cutouts: str, seed: int) -> dict[str, list[galleries.Picture]]:
    """Pictures per kind; none of stamps in other bands than g, r, z."""
    chosen = galleries.choose_examples(stamps[stamps["bands"] == "grz"], EXAMPLES, seed)
    return {
        kind: galleries.examples(rows, read_stored(cutouts, rows), "nanomaggy") for kind, rows in chosen.items()
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
