"""The figures of a selection function's page, from its injections and what was measured of them (R-E7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from lensdata.audit.completeness import Resamples, SelectionFunction, marginal
from lensdata.catalogue.strata import DEPTH_EDGES_MAG, PSF_EDGES_ARCSEC
from lensdata.report import completeness_figures as drawn_as

RESOLUTION_EDGES = (0.0, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 1.8, 2.2, 3.0, 5.0)  # of theta_E / FWHM
CURVE_POINTS = 60
_EDGES: dict[str, tuple[Sequence[float], str]] = {
    "psf_bin": (PSF_EDGES_ARCSEC, "″"),
    "depth_bin": (DEPTH_EDGES_MAG, " mag"),
}


def drawings(
    rows: pd.DataFrame,
    drawn: Resamples,
    function: SelectionFunction,
    found: dict[str, Any],
    samples: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]],
) -> dict[str, Figure]:
    """Figures by name; those of one false-positive rate are at ``found["fpr_of_figures"]``.

    Parameters
    ----------
    rows
        Injections, as `lensdata.audit.completeness` takes them.
    found
        What ``selection.json`` holds.
    samples
        Real lenses and the injections matched to them, by quantity.
    """
    brightness, main = function.brightness, found["fpr_of_figures"]
    names, out = brightness_names(brightness, rows), {}
    together = marginal(rows, ["theta_e", brightness], drawn)
    known = together[together["completeness"].notna()]
    for level in known["fpr"].unique():
        title = f"Completeness at FPR {level:g}, {len(rows):,} injections"
        out[map_name(level)] = drawn_as.completeness_map(known[known["fpr"] == level], brightness, title)
    along = marginal(rows, ["theta_e"], drawn)
    along = along[along["completeness"].notna()]
    levels = {level: f"FPR {level:g}" for level in along["fpr"].unique()}
    out["by_theta_e"] = drawn_as.curves(along, "theta_e", "fpr", levels, "All brightnesses, seeings and depths")
    sharp = marginal(rows, ["theta_e_fwhm", brightness], drawn, {"theta_e_fwhm": RESOLUTION_EDGES})
    title = f"At FPR {main:g}"
    out["by_resolution"] = drawn_as.curves(sharp[sharp["fpr"] == main], "theta_e_fwhm", brightness, names, title)
    of_main = known[known["fpr"] == main]
    if (band := _band(function, rows, main)) is not None:
        title = f"Model and cells at FPR {main:g}"
        out["smooth"] = drawn_as.curves(of_main, "theta_e", brightness, names, title, band)
    table = function.cells.table
    bins = {name: {int(value): bin_name(name, int(value)) for value in rows[name].unique()} for name in _EDGES}
    out["conditions"] = drawn_as.conditions_maps(table[table["fpr"] == main], brightness, bins)
    if found["groups"]:
        # of the same injections as the groups; a total may be that of a population
        overall = next(share["with_arc"] for share in found["shares"] if share["fpr"] == main)
        out["groups"] = drawn_as.groups([(entry["name"], entry) for entry in found["groups"]], overall)
    if found["deltas"]:
        out["deltas"] = drawn_as.deltas(pd.DataFrame(found["deltas"]))
    if samples:
        out["distributions"] = drawn_as.distributions(samples)
    return out


def map_name(level: float) -> str:
    """Name of the map at a false-positive rate."""
    return f"map_{level:g}"


def brightness_names(brightness: str, rows: pd.DataFrame) -> dict[float, str]:
    """What to call each node of brightness."""
    form = "S/N {:g}" if brightness == "arc_snr" else "{:g} mag"
    return {float(node): form.format(node) for node in np.unique(rows[brightness])}


def bin_name(column: str, number: int) -> str:
    """What to call a bin of seeing or depth.

    >>> bin_name("psf_bin", 1), bin_name("depth_bin", 0)
    ('1–1.2″', '< 23 mag')
    """
    edges, unit = _EDGES[column]
    if number == 0:
        return f"< {edges[0]:g}{unit}"
    if number == len(edges):
        return f"≥ {edges[-1]:g}{unit}"
    return f"{edges[number - 1]:g}–{edges[number]:g}{unit}"


def _band(function: SelectionFunction, rows: pd.DataFrame, level: float) -> pd.DataFrame | None:
    """The smooth model along the Einstein radius at the median seeing and depth, for every brightness; None without a fit."""
    place = [record["fpr"] for record in function.thresholds].index(level)
    if function.model is None or function.model.reports[place].get("reason"):
        return None
    theta_e = np.linspace(rows["theta_e"].min(), rows["theta_e"].max(), CURVE_POINTS)
    condition = {"psf": rows["psf"].median(), "depth": rows["depth"].median()}
    pieces = []
    for node in np.unique(rows[function.brightness]):
        where = {"theta_e": theta_e, function.brightness: node} | condition
        low, high = function.interval(fpr=level, kind="smooth", **where)
        value = function(fpr=level, kind="smooth", **where)
        columns = {"theta_e": theta_e, function.brightness: node, "completeness": value, "low": low, "high": high}
        pieces.append(pd.DataFrame(columns))
    return pd.concat(pieces, ignore_index=True)
