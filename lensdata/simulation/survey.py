"""Make a simulated survey: sweep files, what the renderer needs, and the truth (the job ``mock_survey``).

Written into the output folder::

    sweeps/sweep-*.fits       the catalogue, in the schema and names of DR10.1
    sources.parquet           every source with what drawing it needs
    truth.parquet             which sources are lenses, and what was drawn at each
    survey.json               the configuration; with sources.parquet all that `server` needs
    coadd/AAA/BRICK/*.fits.fz brick images, for the bricks of ``write_bricks``
"""

from __future__ import annotations

import hashlib
import io
import logging
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from lensdata import steps, storage, tables
from lensdata.catalogue.lenses import read_lenses
from lensdata.config.simulation import MockSurveyConfig
from lensdata.simulation import populations
from lensdata.simulation.bricks import write_brick, write_extra
from lensdata.simulation.catalogue import LensList, build_sources
from lensdata.simulation.lenses import PARAMETERS
from lensdata.simulation.populations import Columns
from lensdata.simulation.rendering import Renderer
from lensdata.simulation.sky import BANDS
from lensdata.simulation.sweeps import sweep_files
from lensdata.simulation.world import (
    SOURCES_FILE,
    SURVEY_FILE,
    SWEEP_FOLDER,
    TRUTH_FILE,
    Survey,
    brickid_of_name,
    describe,
    table_of,
)

log = logging.getLogger(__name__)


def lens_list(frame: pd.DataFrame, config: MockSurveyConfig) -> LensList:
    """The lenses of a table (name, ra, dec) that the configuration asks for by name."""
    chosen = frame[frame["name"].astype(str).str.contains(config.lenses.name_contains, regex=False)]
    return LensList(chosen["name"].to_numpy(str), chosen["ra"].to_numpy(float), chosen["dec"].to_numpy(float))


def make_survey(config: MockSurveyConfig, lenses: LensList) -> Survey:
    """The whole sky in memory."""
    return Survey.from_sources(config, build_sources(config, lenses))


def write_survey(survey: Survey, folder: str) -> dict[str, Any]:
    """Write a survey's files; returns counts for the report.

    Returns
    -------
    dict
        ``rows`` of unique sources, ``lenses``, ``files`` (rows and repeated rows by sweep file), ``origins``,
        ``structures``.
    """
    sources = survey.sources
    files = {}
    for name, content, rows, repeated in sweep_files(survey.config, sources):
        storage.write_bytes(storage.join(folder, SWEEP_FOLDER, name), content)
        files[name] = {"rows": rows, "repeated": repeated, "sha256": hashlib.sha256(content).hexdigest()}
    counts: dict[str, Any] = {
        "rows": len(sources["ra"]),
        "lenses": int((sources["origin"] == "host").sum()),
        "files": files,
        "origins": _counts(sources["origin"]),
        "structures": _counts(sources["structure"]),
    }
    for name, columns in ((SOURCES_FILE, sources), (TRUTH_FILE, truth(sources))):
        buffer = io.BytesIO()
        pq.write_table(table_of(columns), buffer)
        storage.write_bytes(storage.join(folder, name), buffer.getvalue())
    storage.write_bytes(
        storage.join(folder, SURVEY_FILE), describe(survey.config, {k: counts[k] for k in ("rows", "lenses")}).encode()
    )
    return counts


def truth(sources: Columns) -> Columns:
    """What is true of every source: lens or not, arcs, what was drawn. Lens columns are NaN for all but lenses.

    ``arc_mag_*`` are AB magnitudes of all images of the source together, ``source_mag_*`` of the unlensed source;
    lengths in arcsec, angles in radians from x (west) to y (north). ``is_*`` are the rules of R-S4 on the true values.
    """
    is_lens = sources["origin"] == "host"
    out: Columns = {"source_id": sources["source_id"], "is_lens": is_lens, "lens_name": sources["lens_name"]}
    out |= {name: sources[name] for name in (*PARAMETERS, "magnification", "arc_snr")}
    for band in BANDS:
        flux = np.where(is_lens, sources[f"source_flux_{band}"], np.nan)
        out[f"source_mag_{band}"] = populations.mag_of(flux)
        out[f"arc_mag_{band}"] = populations.mag_of(flux * sources["magnification"])
    out |= {"origin": sources["origin"], "structure": sources["structure"], "has_ring": sources["structure"] == "ring"}
    rules = {
        "is_ring_proxy": populations.is_ring_proxy,
        "is_edge_on": populations.is_edge_on,
        "is_blue": populations.is_blue,
        "is_large": populations.is_large,
    }
    return out | {name: rule(sources) for name, rule in rules.items()}


def _counts(values: Any) -> dict[str, int]:
    names, numbers = np.unique(values, return_counts=True)
    return {str(name): int(number) for name, number in zip(names, numbers, strict=True)}


def body(run: steps.JobRun) -> steps.Outcome:
    """The job: read the lens list, draw the sky, write it."""
    config: MockSurveyConfig = run.config
    survey = make_survey(config, lens_list(read_lenses(run.inputs["lenses"]), config))
    report = write_survey(survey, run.output)
    log.info("survey rows=%d lenses=%d sweep_files=%d", report["rows"], report["lenses"], len(report["files"]))
    renderer = Renderer(survey)
    for done, name in enumerate(config.write_bricks, start=1):
        for band in BANDS:
            write_brick(renderer, brickid_of_name(name), band, run.output)
            write_extra(renderer, brickid_of_name(name), "invvar", band, run.output)
        write_extra(renderer, brickid_of_name(name), "maskbits", "", run.output)
        steps.progress(done, len(config.write_bricks), "bricks")
    _, content = tables.content_hash([table_of(survey.sources)])
    return steps.Outcome(rows=report["rows"], content=content, report=report)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    from lensdata.jobs import find

    arguments = list(sys.argv[1:] if argv is None else argv)
    if not any(argument.startswith("inputs.lenses=") for argument in arguments):
        arguments.append("inputs.lenses=lenscat")
    return steps.run_job(find("mock_survey"), body, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
