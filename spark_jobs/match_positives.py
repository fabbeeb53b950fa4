"""Positives: lenses matched to Tractor sources, tiers, footprint (R-S3)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from lensdata import storage, tables
from lensdata.catalogue import lenses as lens_tables
from lensdata.catalogue.positives import SEARCH_RADIUS_ARCSEC, match, read_sources, select_lenses
from lensdata.errors import InputError
from lensdata.jobs import JOBS
from lensdata.steps import JobRun, Outcome, run_job

JOB = JOBS["match_positives"]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_job(JOB, match_positives, sys.argv[1:] if argv is None else argv)


def match_positives(run: JobRun) -> Outcome:
    """Match on the driver: lens lists are thousands of rows and the sources are only those near a lens.

    It starts no Spark session; it is submitted like the other jobs so that a pipeline treats them alike.
    """
    config = run.config
    lenses = select_lenses(lens_tables.read_lenses(run.inputs["lenses"], config.columns), config)
    lenses = lenses.iloc[: run.test_limit]
    search_radius = _search_radius(run)
    sources = read_sources(run.inputs["near_lenses"])
    positives, unmatched = match(lenses, sources, config, search_radius)
    tables.write_table(_arrow(unmatched, tables.UNMATCHED), run.path("unmatched"), tables.UNMATCHED)
    rows, content = tables.write_table(_arrow(positives, tables.POSITIVES), run.output, tables.POSITIVES)
    reasons = Counter(unmatched["reason"])
    low, high = config.footprint.limits
    if rows + sum(reasons.values()) != len(lenses):
        raise RuntimeError(f"{rows} positives and {sum(reasons.values())} others do not add up to {len(lenses)} lenses")
    report = {
        "lenses": len(lenses),
        "lenses_per_grading": {str(k): int(v) for k, v in lenses["grading"].value_counts().items()},
        "lenses_per_tier": {str(k): int(v) for k, v in lenses["tier"].value_counts().items()},
        "lenses_outside_footprint": int(((lenses["dec"] <= low) | (lenses["dec"] >= high)).sum()),
        "positives": rows,
        "positives_per_tier": dict(Counter(positives["tier"])),
        "without_positive": dict(reasons),
        "outside_strata": int(positives["stratum"].isna().sum()),
        "search_radius_arcsec": search_radius,
        "lenses_with_source_in_search_radius": int(positives.shape[0] + unmatched["nearest_source_id"].notna().sum()),
    }
    return Outcome(rows, content, report)


def _search_radius(run: JobRun) -> float:
    """How far around a lens the nearest source is looked for, arcsec: as far as ``near_lenses`` is complete.

    Raises
    ------
    InputError
        extract_pool made ``near_lenses`` around other lenses, within less than the radius, or without sweeps needed here.
    """
    config, near_lenses = run.config, run.inputs["near_lenses"]
    if not storage.is_folder(near_lenses):  # any table of sources; nobody says where it ends
        return max(SEARCH_RADIUS_ARCSEC, config.radius_arcsec)
    radius = SEARCH_RADIUS_ARCSEC
    described = storage.join(near_lenses, "..", "_table.json")
    extraction = storage.read_json(described) if storage.exists(described) else {}
    if extraction.get("step") == "extract_pool":
        _refuse_other_extraction(run, extraction["identity"]["inputs"].get("lenses"))
        radius = storage.read_json(storage.join(near_lenses, "..", "_config.json"))["exclusion_radius_arcsec"]
    if config.radius_arcsec > radius:
        raise InputError(
            f"radius_arcsec={config.radius_arcsec:g} is more than the {radius:g} arcsec within which {near_lenses} holds "
            "sources: use a smaller one, or run extract_pool with a larger exclusion_radius_arcsec."
        )
    return radius


def _refuse_other_extraction(run: JobRun, extracted_around: object) -> None:
    near_lenses = run.inputs["near_lenses"]
    report = storage.read_json(storage.join(near_lenses, "..", "_report.json"))
    if extracted_around != run.identity["inputs"]["lenses"]:
        raise InputError(
            f"{near_lenses} was extracted around the lenses of {report['inputs'].get('lenses', 'no list')}, not those of "
            f"{run.inputs['lenses']}: run extract_pool with this list, or match the lenses of the other."
        )
    unread = report.get("files_outside_footprint", 0)
    if unread and run.config.outside_footprint == "keep":
        raise InputError(
            f"{near_lenses} was extracted without the {unread} sweep files outside the footprint, so lenses there have no "
            "source: run extract_pool with files_outside_footprint=read, or use outside_footprint=drop."
        )


def _arrow(frame: pd.DataFrame, spec: tables.TableSpec) -> pa.Table:
    columns = []
    for field in spec.schema:
        values = frame[field.name] if field.name in frame else pd.Series([None] * len(frame), dtype=object)
        if pa.types.is_integer(field.type):
            missing = values.isna().to_numpy()
            numbers = np.where(missing, 0, values.to_numpy(dtype=object)).astype(np.int64)
            columns.append(pa.array(numbers, mask=missing).cast(field.type))
        else:
            columns.append(pa.array(values, from_pandas=True).cast(field.type))
    return pa.table(columns, schema=spec.schema)


if __name__ == "__main__":
    sys.exit(main())
