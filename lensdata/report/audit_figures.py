"""Figures of an audit: strata, gates, what a network looks at, calibration of the highest scores (R-E1, R-E2, R-E4 to R-E6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from lensdata.report.figures import ACCENT, CONTROL, INK, LENS, OTHER, SERIES, canvas

FILLS = {"core_zero": ("0", LENS, "o"), "core_noise": ("noise of its own sky", OTHER, "s"),
         "core_azimuthal": ("its azimuthal median", CONTROL, "^")}  # fmt: skip
CHANGES = {
    "none": "untouched", "arc_azimuthal": 'arc annulus (0.8-3") smoothed round', "scramble": "rings turned against each other",
    "background_only": 'only beyond 8"', "grey": "all bands their mean", "permuted": "bands permuted", "seeing": "seeing wider",
    "depth": "noise wider", "shift": "moved by 3 pixels",
}  # fmt: skip


def intervals_by_row(
    axes: Axes,
    entries: Sequence[dict[str, Any] | None],
    colour: str,
    marker: str = "o",
    offset: float = 0.0,
    label: str | None = None,
) -> None:
    """Values with intervals, one per row from the top; rows of None stay empty."""
    known = [(number, entry) for number, entry in enumerate(entries) if entry is not None]
    if not known:
        return
    rows = [number for number, _ in known]
    value, low, high = (np.array([entry[key] for _, entry in known], float) for key in ("value", "low", "high"))
    axes.errorbar(
        value, np.array(rows) + offset, xerr=[np.maximum(value - low, 0), np.maximum(high - value, 0)], fmt=marker, ms=4,
        color=colour, capsize=2, lw=1.2, label=label,
    )  # fmt: skip


def strata(groups: dict[str, list[dict[str, Any]]], overall: dict[str, Any], titles: dict[str, str]) -> Figure:
    """AUC of every stratum with its interval; the band is the AUC of all."""
    rows = [
        (titles.get(kind, kind), entry)
        for kind, entries in groups.items()
        for entry in entries
        if "value" in entry["auc"]
    ]
    figure, (axes,) = canvas(width=7.0, height=0.24 * max(3, len(rows)) + 1.1)
    intervals_by_row(axes, [entry["auc"] for _, entry in rows], LENS)
    names = [f"{kind} {entry['name']}  ({entry['n_positive']} : {entry['n_negative']})" for kind, entry in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8.5)
    axes.axvspan(overall["low"], overall["high"], color=ACCENT, alpha=0.25, lw=0, label="all, 95% interval")
    axes.invert_yaxis()
    axes.set(xlabel="AUC, 95% interval", title="AUC by stratum (lenses : others)", xlim=(None, 1.005))
    axes.legend(frameon=False, loc="lower left", fontsize=8.5)
    return figure


def gates(entries: Sequence[dict[str, Any]]) -> Figure:
    """AUC of every gate, as drawn and on matched hosts; a bar where its limit is."""
    names = list(dict.fromkeys((entry["gate"], entry["title"], entry["input"]) for entry in entries))
    figure, panels = canvas(2, width=4.2, height=0.34 * max(3, len(names)) + 1.2)
    for axes, sample, title in zip(panels, ("random", "host_matched"), ("As drawn", "Hosts matched"), strict=True):
        for learner, colour, marker, offset in (("logistic", LENS, "o", -0.15), ("trees", OTHER, "s", 0.15)):
            found = {
                (entry["gate"], entry["title"], entry["input"]): entry
                for entry in entries
                if entry["sample"] == sample and entry["learner"] == learner and entry["auc"]
            }
            own = [found[name]["auc"] if name in found else None for name in names]
            intervals_by_row(
                axes, own, colour, marker, offset, "logistic regression" if learner == "logistic" else "trees"
            )
            for row, name in enumerate(names):
                if name in found and found[name]["limits"]:
                    axes.plot(
                        [found[name]["limits"]["pass"]] * 2,
                        [row + offset - 0.13, row + offset + 0.13],
                        color=INK,
                        lw=1.4,
                    )
        axes.axvline(0.5, color=ACCENT, ls="--", lw=1)
        sizes = {
            (e["auc"]["n_positive"], e["auc"]["n_negative"]) for e in entries if e["sample"] == sample and e["auc"]
        }
        largest = max(sizes, default=(0, 0))
        axes.set(
            title=f"{title}, {largest[0]} : {largest[1]}", xlabel="AUC out of fold, 95% interval", xlim=(0.3, 1.02)
        )
        axes.set_ylim(len(names) - 0.5, -0.5)
    panels[0].set_yticks(range(len(names)), [f"{title} ({given})" for _, title, given in names], fontsize=8.5)
    panels[1].set_yticks(range(len(names)), [])
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2)
    return figure


def core_and_rings(curves: Sequence[dict[str, Any]], pixscale_arcsec: float) -> Figure:
    """AUC against the radius hidden, for three fills; and AUC lost by smoothing one ring after the other."""
    figure, (core, rings) = canvas(2, width=4.6)
    untouched = next(entry for entry in curves if entry["probe"] == "none")
    for probe, (name, colour, marker) in FILLS.items():
        own = [(0.0, untouched["auc"]), *((e["level"], e["auc"]) for e in curves if e["probe"] == probe)]
        if len(own) > 1:
            radius, auc = np.array([level for level, _ in own]), [each for _, each in own]
            value, low, high = (np.array([each[key] for each in auc]) for key in ("value", "low", "high"))
            core.plot(radius, value, color=colour, marker=marker, ms=4, label=f"filled with {name}")
            core.fill_between(radius, low, high, color=colour, alpha=0.15, lw=0)
    core.axhline(0.5, color=ACCENT, ls="--", lw=1)
    core.set(
        xlabel=f"hidden radius (pixels of {pixscale_arcsec:g} arcsec)",
        ylabel="AUC",
        title="Core hidden",
        ylim=(None, 1.01),
    )
    core.legend(frameon=False, loc="lower left", fontsize=8.5)
    lost = [entry for entry in curves if entry["probe"] == "ring_azimuthal"]
    if lost:
        width = lost[1]["level"] - lost[0]["level"] if len(lost) > 1 else 0.75
        middle = np.array([entry["level"] for entry in lost]) + width / 2
        value, low, high = (np.array([entry["auc_lost"][key] for entry in lost]) for key in ("value", "low", "high"))
        rings.errorbar(
            middle, value, xerr=width / 2, yerr=[value - low, high - value], fmt="o", ms=4, color=LENS, capsize=2
        )
    rings.axhline(0, color=ACCENT, ls="--", lw=1)
    rings.set(xlabel="radius of the ring (arcsec)", ylabel="AUC lost", title="One ring smoothed round")
    return figure


def changes(curves: Sequence[dict[str, Any]], sizes: tuple[int, int]) -> Figure:
    """AUC, and completeness and false positives at a fixed threshold, of stamps changed in other ways."""
    chosen = [entry for entry in curves if entry["probe"] in CHANGES]
    names = [CHANGES[entry["probe"]] + _how(entry["probe"], entry["level"]) for entry in chosen]
    figure, (left, right) = canvas(2, width=4.2, height=0.27 * len(chosen) + 1.2)
    intervals_by_row(left, [entry["auc"] for entry in chosen], LENS)
    left.axvline(0.5, color=ACCENT, ls="--", lw=1)
    left.set_yticks(range(len(chosen)), names, fontsize=8.5)
    intervals_by_row(right, [entry["completeness"] for entry in chosen], LENS, "o", -0.12, "lenses above")
    intervals_by_row(right, [entry["false_positive_rate"] for entry in chosen], OTHER, "s", 0.12, "others above")
    right.set_yticks(range(len(chosen)), [])
    for axes in (left, right):
        axes.set_ylim(len(chosen) - 0.5, -0.5)
    left.set(xlabel="AUC, 95% interval", title=f"{sizes[0]} lenses and {sizes[1]} others")
    right.set(xlabel="share above the threshold of FPR 0.01", xlim=(-0.02, 1.02), title="At a fixed threshold")
    if any(entry["completeness"] for entry in chosen):
        right.legend(frameon=False, loc="lower right", fontsize=8.5)
    return figure


def _how(probe: str, level: float) -> str:
    """What a probe's level means, for the names of rows."""
    if probe in ("seeing", "depth"):
        return f" {level:g} times"
    if probe == "permuted":
        return f", turn {level:g}"
    return f" {('right', 'left', 'up', 'down')[int(level)]}" if probe == "shift" else ""


def attributions(
    maps: dict[str, npt.NDArray[Any]], pixscale_arcsec: float, counts: dict[tuple[str, int], int]
) -> Figure:
    """Mean maps of where logits come from, lenses beside others; circles at 0.8 and 3 arcsec."""
    methods = list(dict.fromkeys(name.rsplit("_", 1)[0] for name in maps))
    figure, panels = canvas(2 * len(methods), width=2.6, height=3.0)
    shown = [(method, label) for method in methods for label in (1, 0)]
    for axes, (method, label) in zip(panels, shown, strict=True):
        picture = maps.get(f"{method}_{label}")
        if picture is None:
            axes.set_axis_off()
            continue
        half = len(picture) / 2 * pixscale_arcsec
        top = max(float(maps[name].max()) for name in maps if name.startswith(method))  # lenses and others on one scale
        image = axes.imshow(
            100 * picture, origin="lower", extent=(-half, half, -half, half), cmap="viridis", vmin=0, vmax=100 * top,
            rasterized=True,
        )  # fmt: skip
        centre = (len(picture) // 2 + 0.5) * pixscale_arcsec - half  # the centre pixel is n // 2
        for radius in (0.8, 3.0):
            axes.add_patch(Circle((centre, centre), radius, fill=False, color="white", lw=0.9, ls="--"))
        kind = "lenses" if label else "others"
        axes.grid(visible=False)
        axes.set_title(f"{method.replace('_', ' ').capitalize()}\n{counts.get((method, label), 0)} {kind}", fontsize=9)
        axes.set_xlabel("arcsec", fontsize=8)
        axes.tick_params(labelsize=7)
        if label == 0:
            bar = figure.colorbar(image, ax=axes, shrink=0.7)
            bar.set_label("% of a stamp's attribution per pixel", fontsize=7)
            bar.ax.tick_params(labelsize=7)
    return figure


def tail(entries: Sequence[dict[str, Any]], total: int) -> Figure:
    """Mean score and observed share of lenses among the highest scores."""
    chosen = [entry for entry in entries if "mean_score" in entry]
    figure, (axes,) = canvas(height=2.8)
    place = np.arange(len(chosen))
    observed, low, high = (np.array([entry[key] for entry in chosen], float) for key in ("observed", "low", "high"))
    axes.errorbar(
        place,
        observed,
        yerr=[observed - low, high - observed],
        fmt="o",
        color=LENS,
        capsize=3,
        label="observed share of lenses",
    )
    axes.plot(place, [entry["mean_score"] for entry in chosen], "s", mfc="none", color=OTHER, label="mean score")
    axes.set_xticks(place, [f"top {100 * entry['top_fraction']:g}%\nn = {entry['members']}" for entry in chosen])
    axes.set(ylabel="probability", ylim=(-0.03, 1.05), title=f"The highest scores of {total}")
    axes.margins(x=0.15)
    axes.legend(frameon=False, loc="lower left", fontsize=8.5)
    return figure


def theta_e(entries: Sequence[dict[str, Any]]) -> Figure:
    """AUC and completeness against Einstein radius."""
    figure, (axes,) = canvas(height=3.0)
    for key, name, colour, marker, offset in (
        ("auc", "AUC", LENS, "o", -0.06), ("tpr_at_overall_fpr_0.01", "completeness at FPR 0.01", OTHER, "s", 0.06),
    ):  # fmt: skip
        rows = [(place, entry[key]) for place, entry in enumerate(entries) if "value" in entry[key]]
        if rows:
            x = np.array([place for place, _ in rows]) + offset
            value, low, high = (np.array([found[part] for _, found in rows]) for part in ("value", "low", "high"))
            axes.errorbar(x, value, yerr=[value - low, high - value], fmt=marker, color=colour, capsize=3, label=name)
    axes.set_xticks(range(len(entries)), [f"{entry['name']}\nn = {entry['n_positive']}" for entry in entries])
    axes.set(xlabel="Einstein radius (arcsec)", ylim=(-0.03, 1.05), title="By Einstein radius")
    axes.legend(frameon=False, loc="lower right", fontsize=8.5)
    return figure


def side_by_side(runs: dict[str, dict[str, Any]], metrics: Sequence[str]) -> Figure:
    """The headline figures of several runs with their intervals."""
    titles = {key: next(found[key]["title"] for found in runs.values() if key in found) for key in metrics}
    figure, (axes,) = canvas(width=7.0, height=0.22 * len(metrics) * (len(runs) + 1) + 1.2)
    for number, ((name, found), colour) in enumerate(zip(runs.items(), SERIES * 9, strict=False)):
        offset = 0.7 * ((number + 0.5) / len(runs) - 0.5)
        own = [found.get(key) if found.get(key, {}).get("false_positives_allowed", 1) else None for key in metrics]
        intervals_by_row(axes, own, colour, "osD^vP"[number % 6], offset, name)
    axes.set_yticks(range(len(metrics)), [titles[key] for key in metrics], fontsize=8.5)
    axes.invert_yaxis()
    axes.set(xlabel="value, 95% interval", xlim=(None, 1.01), title="Side by side")
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=min(3, len(runs)))
    return figure
