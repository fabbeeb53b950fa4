"""Keys, strata, splits, manifests and stamps checked; what the sample holds, in JSON and on a page (R-S8)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lensdata import storage, tables
from lensdata.audit.conditions import conditions_gate
from lensdata.catalogue import checks
from lensdata.catalogue.covariates import compare_all
from lensdata.config.catalogue import ValidateCatalogueConfig
from lensdata.cutouts.duplicates import exact_duplicates
from lensdata.cutouts.packing import MANIFESTS
from lensdata.cutouts.stored import read_stored
from lensdata.errors import InputError
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
    InputError
        An input is not what its name says, or the folder for those pages holds something else.
    """
    config: ValidateCatalogueConfig = run.config
    _refuse_foreign(f"{run.final}-failed")
    sample = _sample(run.inputs["sample"])
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
        stamps = _stored(sample, run.inputs["cutouts"], run.inputs["sample"])
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


def _refuse_foreign(failed: str) -> None:
    """What an earlier failure left is replaced, nothing else is."""
    if storage.exists(failed) and not storage.exists(storage.join(failed, "validation.json")):
        raise InputError(
            f"{failed}, where the pages go if a check fails, holds no validation.json; choose another output."
        )


def _sample(folder: str) -> pd.DataFrame:
    """The sample, also where a source_id repeats: that is for the page to say."""
    table = tables.read_table(folder, replace(tables.SAMPLE, key=None))
    if table["source_id"].null_count:
        raise InputError(
            f"{folder}: source_id is null in {table['source_id'].null_count} rows; run assign_splits again."
        )
    return table.to_pandas()


def _manifests(folder: str) -> dict[str, pd.DataFrame]:
    """The manifests of build_manifests, or one of them, by name."""
    uris = [storage.join(folder, name) for name in MANIFESTS]
    found = [uri for uri in uris if storage.exists(storage.join(uri, "_SUCCESS"))]
    described = storage.join(folder, "_table.json")
    if storage.exists(described) and storage.read_json(described).get("table") == tables.MANIFEST.name:
        found = [folder]
    if not found:
        raise InputError(
            f"inputs.manifests={folder} is not a manifest and has none inside: give the output of build_manifests, which "
            f"holds {' or '.join(MANIFESTS)}, or one of those."
        )
    return {uri.rsplit("/", 1)[-1]: tables.read_table(uri, tables.MANIFEST).to_pandas() for uri in found}


def _stored(sample: pd.DataFrame, cutouts: str, origin: str) -> pd.DataFrame:
    """Ledger rows of the stored stamps with their objects, by cutout_id.

    Raises
    ------
    InputError
        No stamp is of the sample, whose address is ``origin``.
    """
    tables.require_success(cutouts)
    ledger = tables.read_table(storage.join(cutouts, "ledger"), columns=LEDGER_COLUMNS).to_pandas()
    ledger = ledger[ledger["outcome"] == "stored"]
    stored = ledger.merge(sample.drop_duplicates("source_id"), on="source_id", validate="many_to_one")
    if stored.empty and len(ledger):
        raise InputError(f"No stored stamp of {cutouts} belongs to {origin}: give the cutouts fetched for this sample.")
    return stored.sort_values("cutout_id", ignore_index=True)


def _duplicates(stamps: pd.DataFrame, cutouts: str, config: ValidateCatalogueConfig) -> dict[str, Any]:
    spark = build_session(JOB.name, config.execution.shuffle_partitions)
    near = search_near_duplicates(spark, cutouts, stamps, config.near_duplicate_bits)
    return {"exact": exact_duplicates(stamps), "near": near}


def _examples(stamps: pd.DataFrame, cutouts: str, seed: int) -> dict[str, list[galleries.Picture]]:
    """Pictures per kind; none of stamps in other bands than g, r, z."""
    chosen = galleries.choose_examples(stamps[stamps["bands"] == "grz"], EXAMPLES, seed)
    if not chosen:
        return {}
    everything = pd.concat(chosen.values(), ignore_index=True)
    pictures = galleries.examples(everything, read_stored(cutouts, everything), "nanomaggy")
    kinds = np.repeat(list(chosen), [len(rows) for rows in chosen.values()])
    return {kind: [picture for picture, of in zip(pictures, kinds, strict=True) if of == kind] for kind in chosen}


if __name__ == "__main__":
    sys.exit(main())
