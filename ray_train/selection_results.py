"""From scored injections to completeness, its smooth model, the realism gate, and the page (R-E7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from lensdata import __version__, storage
from lensdata.audit import completeness, completeness_model
from lensdata.audit.completeness import Resamples, SelectionFunction
from lensdata.catalogue.lenses import read_any_table
from lensdata.config.selection import SelectionConfig
from lensdata.errors import InputError
from lensdata.report.completeness import bin_name, drawings
from lensdata.shards.manifests import Manifest
from lensdata.simulation.selection_design import Cell
from lensdata.steps import JobRun
from ray_train.injecting import Injector, cell_file
from ray_train.realism import ask
from ray_train.scoring import Assignment
from ray_train.selection_page import gallery, write_page

FOLDER = "selection_function"  # what `SelectionFunction.load` reads
BINNED = ("psf_bin", "depth_bin")
BY = {"psf_bin": "seeing", "depth_bin": "depth", "type": "type", "nobs_z_bin": "exposures in z"}
GOODNESS = ("log loss", "of cells", "of a constant", "calibration slope", "largest residual [sigma]", "largest fall")


def conclude(
    run: JobRun,
    manifest: Manifest,
    hosts: Manifest,
    cells: Sequence[Cell],
    negatives: pd.DataFrame,
    dropped: dict[str, int],
    population: pd.DataFrame | None,
) -> dict[str, Any]:
    """Measure, write ``selection.json``, ``selection_function/``, figures and the page; returns figures for the report.

    Parameters
    ----------
    manifest
        Real lenses are of it.
    negatives
        ``logit, block`` of the negatives that give the thresholds, at one rate at least.
    population
        Whose completeness is wanted (`read_population`).
    """
    config: SelectionConfig = run.config
    rows, beyond = injections(run.output, cells, config)
    blocks = negatives["block"] if negatives["block"].duplicated().any() else None
    drawn = completeness.resampled(
        rows, negatives["logit"].to_numpy(), config.fpr_levels, config.resamples, config.seed, blocks
    )
    brightness = config.grid.brightness
    grid = completeness.cells(rows, completeness.axes_of(rows, brightness), drawn)
    model, reason = None, ""
    try:
        model = completeness_model.fit(rows, brightness, drawn, config.seed)
    except InputError as error:
        reason = str(error)
    function = SelectionFunction.of(rows, grid, drawn, model)
    function.save(run.path(FOLDER))
    paired = completeness.paired(rows, drawn)
    injector = Injector(Assignment(run.inputs["run"], run.output, config.model_dump(mode="json")))
    thresholds = {one.level: one.above for one in drawn.thresholds if one.above is not None}
    realism = ask(injector, manifest, hosts, cells, rows, config, thresholds)
    main = _main_level(drawn)
    found = {
        "run_id": injector.scorer.run.run_id, "lensdata": __version__, "injections": len(rows), "beyond_the_grid": beyond,
        "hosts": int(rows["source_id"].nunique()), "cells": len(cells), "fpr_of_figures": main,
        "brightness": brightness, "map": _records(_map(rows, brightness, drawn, main)),
        "thresholds": drawn.records(), "totals": totals(population, function, drawn), "realism": realism.record,
        "model": model_record(model), "model_reason": reason, "dropped": dropped,
        "groups": by_group(rows, drawn, main), "deltas": _records(paired.deltas), "shares": shares(paired.levels),
        "few": int(grid.table["few"].iloc[: grid.draws.shape[1]].sum()), "per_cell": _records(grid.table),
    }  # fmt: skip
    storage.write_json(run.path("selection.json"), found)
    made = drawings(rows, drawn, function, found, realism.samples)
    write_page(run, found, made, gallery(injector, hosts, cells, rows))
    return {name: found[name] for name in ("injections", "beyond_the_grid", "few")} | {
        "realism": {name: realism.record[name] for name in ("verdict", "auc")}, "totals": found["totals"],
    }  # fmt: skip


def injections(output: str, cells: Sequence[Cell], config: SelectionConfig) -> tuple[pd.DataFrame, int]:
    """Rows of all cells as `lensdata.audit.completeness` takes them, and how many lay beyond the grid of Einstein radius."""
    names = [
        "injection_id", "cell", "source_id", "healpix_128", "psf_bin", "depth_bin", "type", "nobs_z_bin", "mag_g", "mag_r", "mag_z",
        "psfsize_r", "depth_r", "theta_e_node", "theta_e", "brightness_node", "arc_snr", "arc_mag",
        "logit_host", "logit", "logit_scrambled",
    ]  # fmt: skip
    pieces = [pq.read_table(storage.open_arrow(cell_file(output, cell.index)), columns=names) for cell in cells]
    rows = pd.concat([piece.to_pandas() for piece in pieces], ignore_index=True)
    rows = rows.rename(columns={"psfsize_r": "psf", "depth_r": "depth", "theta_e": "theta_e_drawn"})
    rows["theta_e"] = rows.pop("theta_e_node")
    other = "arc_mag" if config.grid.brightness == "arc_snr" else "arc_snr"
    rows[config.grid.brightness] = rows.pop("brightness_node")
    rows = rows.rename(columns={other: f"{other}_drawn"})
    inside = rows["theta_e"].notna()
    if not inside.any():
        raise InputError(
            f"None of {len(rows)} Einstein radii that follow from the hosts' velocity dispersions lies on the grid "
            f"{config.grid.theta_e_arcsec[0]:g} to {config.grid.theta_e_arcsec[-1]:g} arcsec; widen grid.theta_e_arcsec."
        )
    return rows[inside].reset_index(drop=True), int((~inside).sum())


def read_population(run: JobRun) -> pd.DataFrame | None:
    """The table of ``inputs.population``, if one is given.

    Raises
    ------
    InputError
        It is no population of lenses.
    """
    if "population" not in run.inputs:
        return None
    uri = run.inputs["population"]
    population = read_any_table(uri, as_text=set())
    try:
        completeness.check_population(population, run.config.grid.brightness)
    except InputError as error:
        raise InputError(f"inputs.population={uri}: {error}") from error
    return population


def totals(population: pd.DataFrame | None, function: SelectionFunction, drawn: Resamples) -> list[dict[str, Any]]:
    """Completeness over all cells alike, or of a population, per false-positive rate."""
    if population is not None:
        found, weights = completeness.weighted_total(function, population), "weighted by inputs.population"
    else:
        grid = function.cells.table.iloc[: function.cells.draws.shape[1]]
        over = grid[[*function.cells.axes]].assign(weight=(grid["n"] > 0).astype(float))
        found, weights = completeness.weighted_total(function, over), "every cell with injections alike"
    reasons = {threshold.level: threshold.reason for threshold in drawn.thresholds}
    return [
        {
            "fpr": row["fpr"], "value": _known(row["completeness"]), "low": _known(row["low"]), "high": _known(row["high"]),
            "measured": row["measured"], "outside": row["outside"], "empty": row["empty"], "weights": weights,
            "reason": reasons[row["fpr"]] or ("" if row["measured"] else "none of the weight lies where something was measured"),
        }
        for row in found.to_dict("records")
    ]  # fmt: skip


def by_group(rows: pd.DataFrame, drawn: Resamples, level: float) -> list[dict[str, Any]]:
    """Completeness by seeing, depth, type and exposures of the hosts, at one false-positive rate."""
    out = []
    for column, title in BY.items():
        if rows[column].isna().all():
            continue
        table = completeness.marginal(rows, [column], drawn)
        for row in table[table["fpr"] == level].to_dict("records"):
            value = bin_name(column, int(row[column])) if column in BINNED else row[column]
            out.append({
                "name": f"{title} {value}", "by": column, "n": int(row["n"]), "hosts": int(row["hosts"]),
                "value": row["completeness"], "low": row["low_total"], "high": row["high_total"],
            })  # fmt: skip
    return out


def shares(levels: pd.DataFrame) -> list[dict[str, Any]]:
    """`completeness.Paired.levels` with values and their limits together."""
    out = []
    for row in levels.to_dict("records"):
        entry: dict[str, Any] = {"fpr": row["fpr"], "n": row["n"], "reason": row["reason"]}
        for name in ("with_arc", "without_arc", "scrambled", "net"):
            entry[name] = {
                "value": _known(row.get(name)), "low": _known(row.get(f"{name}_low")), "high": _known(row.get(f"{name}_high")),
            }  # fmt: skip
        out.append(entry)
    return out


def model_record(model: completeness_model.SmoothModel | None) -> dict[str, Any] | None:
    """What the page says of the smooth model."""
    if model is None:
        return None
    lines = []
    for report in model.reports:
        line: dict[str, Any] = {"fpr": report["fpr"], "reason": report.get("reason", ""), "values": []}
        if not line["reason"]:
            loss, falls = report["log_loss"], report["falls"].values()
            line["values"] = [
                loss["model"], loss["cells"], loss["constant"], report["calibration_slope"], report["largest_residual"],
                max((part["largest_drop"] for part in falls), default=0.0),
            ]  # fmt: skip
        lines.append(line)
    message = (
        "Logistic regression on splines of Einstein radius over FWHM and brightness together, of the host's magnitude, of depth; "
        "penalties chosen on hosts left out, bands from resampled hosts and negatives. Log losses are of hosts left out; a "
        "calibration slope of 1 is right; the residual is of cells with at least 100 injections; nothing forces completeness to "
        "rise, and its largest fall between neighbouring nodes is given."
    )
    return {"columns": GOODNESS, "rows": lines, "message": message, "reports": model.reports}


def _map(rows: pd.DataFrame, brightness: str, drawn: Resamples, level: float) -> pd.DataFrame:
    """Completeness by Einstein radius and brightness at one false-positive rate."""
    table = completeness.marginal(rows, ["theta_e", brightness], drawn)
    return table[table["fpr"] == level]


def _main_level(drawn: Resamples) -> float:
    """The rate of figures that show one: 1e-3, else the lowest that has a threshold."""
    levels = [threshold.level for threshold in drawn.thresholds if threshold.above is not None]
    return 1e-3 if 1e-3 in levels else min(levels)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON; what is no number is null."""
    return [{name: _known(value) for name, value in row.items()} for row in table.to_dict("records")]


def _known(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and not np.isfinite(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value
