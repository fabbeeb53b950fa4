"""Figures of a selection function: maps, curves, conditions, pairs, realism (R-E7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lensdata.report.audit_figures import intervals_by_row
from lensdata.report.figures import ACCENT, INK, RC, SERIES, canvas

COLOURS = "cividis"
LABELS = {
    "theta_e": "Einstein radius [arcsec]", "arc_snr": "S/N of the arc in r", "arc_mag": "magnitude of the arc in r",
    "theta_e_fwhm": "Einstein radius / FWHM in r",
}  # fmt: skip
STYLES = ("-", "--", "-.", ":")


def completeness_map(rows: pd.DataFrame, brightness: str, title: str) -> Figure:
    """Completeness over Einstein radius and brightness; the line is where half are found, hatched cells have few injections.

    Parameters
    ----------
    rows
        ``theta_e``, the brightness, ``n, completeness, few`` of one false-positive rate.
    """
    figure, (axes,) = canvas(width=7.2, height=3.8)
    image = _map(axes, rows, brightness, numbers=True)
    axes.set(xlabel=LABELS["theta_e"], ylabel=LABELS[brightness], title=title)
    figure.colorbar(image, ax=axes, label="completeness", format=PercentFormatter(1.0))
    return figure


def conditions_maps(rows: pd.DataFrame, brightness: str, names: Mapping[str, Mapping[int, str]]) -> Figure:
    """The map in every bin of seeing (columns) and depth (rows).

    Parameters
    ----------
    names
        What to call each ``psf_bin`` and ``depth_bin``.
    """
    import matplotlib as mpl

    seeing, depth = sorted(rows["psf_bin"].unique()), sorted(rows["depth_bin"].unique())
    with mpl.rc_context(RC):
        figure = Figure(figsize=(1.6 + 2.3 * len(seeing), 1.0 + 1.9 * len(depth)), layout="constrained")
        panels = figure.subplots(len(depth), len(seeing), squeeze=False, sharex=True, sharey=True)
    image: Any = None
    for row, deep in enumerate(depth):
        for column, seen in enumerate(seeing):
            axes = panels[row, column]
            part = rows[(rows["psf_bin"] == seen) & (rows["depth_bin"] == deep)]
            image = _map(axes, part, brightness, numbers=False)
            axes.set_title(
                f"{names['psf_bin'][seen]}, {names['depth_bin'][deep]}\nn = {int(part['n'].sum()):,}", fontsize=8
            )
    figure.supxlabel(LABELS["theta_e"], fontsize=10, color=INK)
    figure.supylabel(LABELS[brightness], fontsize=10, color=INK)
    figure.colorbar(image, ax=panels, label="completeness", format=PercentFormatter(1.0), shrink=0.8)
    return figure


def _map(axes: Axes, rows: pd.DataFrame, brightness: str, *, numbers: bool) -> Any:
    grid = rows.pivot(index=brightness, columns="theta_e", values="completeness").sort_index()
    count = rows.pivot(index=brightness, columns="theta_e", values="n").reindex_like(grid).fillna(0).to_numpy()
    values = grid.to_numpy(np.float64)
    image = axes.pcolormesh(
        np.arange(values.shape[1] + 1), np.arange(values.shape[0] + 1), values, vmin=0, vmax=1, cmap=COLOURS
    )
    for y, x in zip(*np.nonzero(count < 100), strict=True):
        axes.fill_between([x, x + 1], y, y + 1, facecolor="none", edgecolor=ACCENT, hatch="////", lw=0)
    measured = values[np.isfinite(values)]  # no line goes between these and the rest
    if min(values.shape) > 1 and len(measured) and measured.min() < 0.5 < measured.max():
        middle = (np.arange(values.shape[1]) + 0.5, np.arange(values.shape[0]) + 0.5)
        axes.contour(*middle, values, levels=[0.5], colors=["#D55E00"], linewidths=2)
    if numbers:
        for (y, x), value in np.ndenumerate(values):
            if np.isfinite(value):
                ink = "white" if value < 0.55 else "black"
                axes.text(x + 0.5, y + 0.5, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(np.arange(values.shape[1]) + 0.5, [f"{node:g}" for node in grid.columns], fontsize=8, rotation=90)
    axes.set_yticks(np.arange(values.shape[0]) + 0.5, [f"{node:g}" for node in grid.index], fontsize=8)
    axes.grid(False)
    return image


def curves(
    rows: pd.DataFrame, x: str, by: str | None, names: Mapping[float, str], title: str, band: pd.DataFrame | None = None
) -> Figure:
    """Completeness along an axis, a curve per value of ``by``, with 95% intervals; ``band`` is the smooth model's.

    Parameters
    ----------
    rows
        ``x`` (or ``x_low, x_high`` of bins), ``by``, ``completeness, low_total, high_total``.
    band
        ``x, by, completeness, low, high``.
    """
    figure, (axes,) = canvas(width=7.2, height=4.0)
    values = sorted(names) if by is None else sorted(rows[by].dropna().unique())
    where = (rows[f"{x}_low"] + rows[f"{x}_high"]) / 2 if f"{x}_low" in rows else rows[x]
    step = 0.006 * float(np.ptp(where) or 1)  # so that intervals do not lie on one another
    for number, value in enumerate(values):
        part = rows if by is None else rows[rows[by] == value]
        place = where[part.index].to_numpy() + (number - (len(values) - 1) / 2) * step
        colour = SERIES[number % len(SERIES)]
        y, low, high = (part[name].to_numpy() for name in ("completeness", "low_total", "high_total"))
        axes.errorbar(
            place, y, yerr=[np.maximum(y - low, 0), np.maximum(high - y, 0)],
            fmt="osD^vP"[number % 6], ms=4, lw=1.2, ls="none" if band is not None else STYLES[number % 4], capsize=2,
            color=colour, label=names.get(value, f"{value:g}"),
        )  # fmt: skip
        if band is not None:
            own = band if by is None else band[band[by] == value]
            axes.plot(own[x], own["completeness"], color=colour, lw=1.4, ls=STYLES[number % 4])
            axes.fill_between(own[x], own["low"], own["high"], color=colour, alpha=0.18, lw=0)
    axes.set(xlabel=LABELS[x], ylabel="completeness", ylim=(-0.02, 1.02), title=title)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(
        *axes.get_legend_handles_labels(),
        frameon=False,
        loc="outside lower center",
        ncols=min(6, len(values)),
        fontsize=8.5,
    )
    return figure


def groups(found: Sequence[tuple[str, dict[str, Any]]], overall: dict[str, Any]) -> Figure:
    """Completeness of groups of hosts, one per row; the band is that of all."""
    figure, (axes,) = canvas(width=7.2, height=0.26 * max(3, len(found)) + 1.2)
    intervals_by_row(axes, [entry for _, entry in found], SERIES[0])
    axes.set_yticks(range(len(found)), [f"{name}  (n = {entry['n']:,})" for name, entry in found], fontsize=8.5)
    axes.axvspan(overall["low"], overall["high"], color=ACCENT, alpha=0.25, lw=0, label="all, 95% interval")
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlabel="completeness, averaged over the injections", title="By host and conditions")
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside lower right", fontsize=8.5)
    return figure


def deltas(rows: pd.DataFrame) -> Figure:
    """What an arc does to the logit of its host, and what its light does when it is scrambled, by Einstein radius."""
    figure, (axes,) = canvas(width=7.2)
    for number, (quantity, part) in enumerate(rows.dropna(subset=["theta_e"]).groupby("quantity", sort=False)):
        place, y, low, high = (part[name].to_numpy() for name in ("theta_e", "median", "low", "high"))
        axes.errorbar(
            place, y, yerr=[np.maximum(y - low, 0), np.maximum(high - y, 0)], fmt="osD"[number % 3],
            ls=STYLES[number % 4], ms=4, capsize=2, color=SERIES[number % len(SERIES)], label=str(quantity),
        )  # fmt: skip
    axes.axhline(0, color=ACCENT, lw=1)
    axes.set(xlabel=LABELS["theta_e"], ylabel="difference in logit, median", title="One host, three pictures")
    axes.legend(frameon=False, fontsize=8.5)
    return figure


def distributions(pairs: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]]) -> Figure:
    """Cumulative distributions of real lenses and of the injections matched to them."""
    figure, panels = canvas(len(pairs), width=10.0 / max(3, len(pairs)), height=3.2)
    for axes, (name, samples) in zip(panels, pairs.items(), strict=True):
        for number, (values, label) in enumerate(zip(samples, ("real lenses", "injections"), strict=True)):
            ordered = np.sort(np.asarray(values, np.float64))
            ordered = ordered[np.isfinite(ordered)]
            axes.step(
                ordered, (np.arange(len(ordered)) + 1) / max(1, len(ordered)), where="post", color=SERIES[number],
                ls=STYLES[number], label=f"{label} (n = {len(ordered)})",
            )  # fmt: skip
        axes.set(xlabel=name, ylim=(0, 1.02))
    panels[0].set_ylabel("share below")
    figure.legend(
        *panels[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2, fontsize=8.5
    )
    return figure
