"""Measure how complete a finder is, by injection and recovery (R-E7).

    python -m ray_train.selection_function --config configs/audit/selection_function.yaml --output selection/audit \
        inputs.run=runs/audit inputs.manifest=manifests/audit_70_15_15

Arcs are put on galaxies that the run has not learnt from, on a grid of Einstein radius and brightness in every bin of seeing and
depth; host, host with arc, and host with the scrambled arc are scored. Each cell is a file, and a restart makes those that are
missing. From them follow completeness at fixed false-positive rates, a smooth model, and a page; `lensdata.audit.completeness`
reads ``selection_function/`` again as a callable.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lensdata import jobs, steps, storage, tables
from lensdata.audit.completeness import thresholds
from lensdata.cleaning.scores import of_one_network
from lensdata.config.selection import SelectionConfig
from lensdata.errors import InputError
from lensdata.hashing import KIND_CODES, cutout_id
from lensdata.shards.manifests import Manifest, read_manifest
from lensdata.simulation.injected_stamps import check_layout
from lensdata.simulation.selection_design import choose_hosts, hosts_without_cells, plan
from lensdata.steps import JobRun, Outcome
from ray_train.context import choose_device
from ray_train.core.data import DataError
from ray_train.injecting import CellPart, Injector, cell_file
from ray_train.score import crew
from ray_train.scoring import Assignment, as_trained, check_fit, load_scorer
from ray_train.selection_results import conclude, read_population


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; returns its exit code."""
    return steps.run_job(
        jobs.find("selection_function"), selection_function, sys.argv[1:] if argv is None else list(argv)
    )


def selection_function(run: JobRun) -> Outcome:
    """Make and score the cells that are not there yet, then measure."""
    config: SelectionConfig = run.config
    manifest = as_never_seen(as_trained(read_manifest(run.inputs["manifest"]), run.inputs["run"]), run.inputs["run"])
    check_layout(manifest.layout(), manifest.uri)
    # what cannot be measured is said before hours of scoring, not after
    check_fit(
        load_scorer(run.inputs["run"], config.checkpoint, choose_device(config.execution.device)), manifest.layout()
    )
    negatives, population = held_out_negatives(run, manifest), read_population(run)
    hosts, dropped = choose_hosts(manifest, config)
    cells = plan(hosts, config)
    if few := hosts_without_cells(hosts, cells):
        dropped["too few in its bin of seeing and depth"] = few
    cells = cells[: run.test_limit]
    task = Assignment(run.inputs["run"], run.output, config.model_dump(mode="json"))
    tally = CellTally(run, len(cells))
    try:
        with crew(task, config.execution, Injector) as members:
            members.score((CellPart.of(cell, hosts) for cell in cells if cell.index not in tally.done), tally)
    except DataError as error:
        raise steps.JobFailed(str(error)) from error
    rows, content = tables.content_hash(tables.iterate(run.output, check=False))
    report = {"cells": len(cells), "hosts": len(hosts), "dropped": dropped} | tally.report()
    return Outcome(rows, content, report | conclude(run, manifest, hosts, cells, negatives, dropped, population))


def as_never_seen(manifest: Manifest, run_uri: str) -> Manifest:
    """The manifest with every stamp of a galaxy of which the run has learnt from any in split train.

    A run that was trained on a galaxy with an arc, or on its control, knows that galaxy under another key.
    """
    if "source_id" not in manifest.table.column_names:  # `choose_hosts` says so
        return manifest
    scores = tables.read_table(storage.join(run_uri, "scores"), columns=["cutout_id", "split"]).to_pandas()
    learnt = scores.loc[scores["split"] == "train", "cutout_id"].to_numpy(np.int64)
    sources = manifest.column("source_id").astype(np.int64)
    known = np.any([np.isin(cutout_id(sources, kind), learnt) for kind in KIND_CODES], axis=0)
    split = np.where(known, "train", manifest.column("split").astype(str))
    index = manifest.table.column_names.index("split")
    return replace(manifest, table=manifest.table.set_column(index, "split", pa.array(split, pa.string())))


class CellTally:
    """Which cells are done, and how fast."""

    floor = float("-inf")  # what `RayCrew` tells workers of a survey

    def __init__(self, run: JobRun, total: int) -> None:
        self._total, self._rows, self._since = total, 0, time.perf_counter()
        self.done = {index for index in range(total) if storage.exists(cell_file(run.output, index))}

    def add(self, facts: dict[str, Any]) -> None:
        """Take in a cell that a worker has made."""
        self.done.add(facts["index"])
        self._rows += facts["rows"]
        steps.progress(len(self.done), self._total, "cells")

    def report(self) -> dict[str, Any]:
        """Figures of this attempt; cells of an earlier one are not in its rate."""
        seconds = time.perf_counter() - self._since
        return {"injected_now": self._rows, "injections_per_second": round(self._rows / seconds, 1)}


def held_out_negatives(run: JobRun, manifest: Manifest) -> pd.DataFrame:
    """``cutout_id, logit, block`` of the negatives that give the thresholds; block is their piece of sky, where it is known.

    Raises
    ------
    InputError
        The scores are of another network, or there are none of these splits, or too few for any of the rates.
    """
    config: SelectionConfig = run.config
    uri = run.inputs.get("scores", run.inputs["run"])
    if "scores" not in run.inputs and (config.checkpoint != "best" or config.views != "one"):
        raise InputError(
            f"The scores of run {uri} are of checkpoint best and one view; for {config.checkpoint} and views={config.views} "
            "score the manifest so (ray_train.score), and give the scores as inputs.scores."
        )
    rows = tables.read_table(of_one_network("scores", uri), tables.SCORES).to_pandas()
    require_same_network(run, uri, rows)
    rows = rows[(rows["label"] == 0) & rows["split"].isin(config.threshold_splits)][["cutout_id", "logit"]]
    if rows.empty:
        raise InputError(f"{uri} has no scores of negatives in split {', '.join(config.threshold_splits)}.")
    if all(one.above is None for one in thresholds(rows["logit"], config.fpr_levels)):
        levels = ", ".join(f"{level:g}" for level in config.fpr_levels)
        raise InputError(
            f"{uri} has {len(rows)} negatives in split {', '.join(config.threshold_splits)}, which allow no false positive at "
            f"any of fpr_levels={levels}; take higher rates, or score more negatives."
        )
    names = manifest.table.column_names
    if "healpix_128" not in names:
        return rows.assign(block=np.arange(len(rows)))
    sky = manifest.table.select(["cutout_id", "healpix_128"]).to_pandas()
    rows = rows.merge(sky, on="cutout_id", how="left")
    alone = -1 - np.arange(len(rows))  # a negative of another manifest is a block of its own
    return rows.assign(block=rows.pop("healpix_128").fillna(pd.Series(alone, rows.index)).astype(np.int64))


def require_same_network(run: JobRun, uri: str, rows: pd.DataFrame) -> None:
    """Refuse scores of another network, checkpoint or number of views than the injections are shown to."""
    own = tables.read_table(storage.join(run.inputs["run"], "scores"), columns=["run_id"])["run_id"][0].as_py()
    found = sorted(set(rows["run_id"]))
    if found != [own]:
        raise InputError(
            f"{uri} has scores of run {', '.join(map(str, found))}, but inputs.run is {own}; score with this run."
        )
    described = storage.join(uri, "_config.json")
    how = storage.read_json(described) if "scores" in run.inputs and storage.exists(described) else {}
    for name in ("checkpoint", "views"):
        if name in how and how[name] != getattr(run.config, name):
            raise InputError(
                f"{uri} was scored with {name}={how[name]}, the injections with {getattr(run.config, name)}; a threshold holds "
                "for scores made alike."
            )


if __name__ == "__main__":
    sys.exit(main())
