"""Figures of a study: cells and seeds, two axes as a map, many as parallel lines, and the plane of the decision (R-A2 to R-A4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from lensdata.audit.decision import Decision
from lensdata.audit.differences import Difference
from lensdata.audit.studies import FIGURES, Cell, TrialResult
from lensdata.report.audit_figures import intervals_by_row
from lensdata.report.figures import ACCENT, CONTROL, FOURTH, INK, LENS, OTHER, SERIES, canvas
from lensdata.report.study_tables import broken

MARKERS = "osD^vP"
LOW_TO_HIGH = LinearSegmentedColormap.from_list("low_to_high", [OTHER, "#56B4E9", "#E69F00", LENS])
LONG_NAME = 30  # characters; longer names of cells are broken
LOG_RATIO = 30.0  # a range whose ends differ by more is drawn in the logarithm
DRAWN = ("best_val_auroc", "final_core_lr_auc", "core_reliance", "theta_e_spread")


def seed_dots(cells: Mapping[str, Cell], trials: Sequence[TrialResult]) -> Figure | None:
    """Every figure of the cells that is known: a dot per seed, the mean and its interval; hollow where training was stopped."""
    finished = [trial for trial in trials if trial.status != "failed"]
    known = [name for name in DRAWN if any(getattr(trial, name) is not None for trial in finished)]
    if not known:
        return None
    names = list(cells)
    figure, panels = canvas(
        len(known), width=2.7 + 1.6 / len(known), height=_row_height(names) * max(3, len(names)) + 1.1
    )
    for axes, name in zip(panels, known, strict=True):
        for trial in finished:
            value = getattr(trial, name)
            if value is not None:
                fill = OTHER if trial.status == "done" else "none"
                axes.plot(value, names.index(trial.cell) + 0.16, "o", ms=4.5, color=OTHER, mfc=fill, alpha=0.8)
        spreads = [cells[cell].figures[name] for cell in names]
        rows = [{"value": each.mean, "low": each.mean if each.low is None else each.low,
                 "high": each.mean if each.high is None else each.high} if each.n else None for each in spreads]  # fmt: skip
        _kept_in_view(axes, [getattr(trial, name) for trial in finished])
        intervals_by_row(axes, rows, LENS, "D", -0.12)
        axes.set(xlabel=FIGURES[name][0], ylim=(len(names) - 0.5, -0.5))
        axes.set_yticks(range(len(names)), [])
    counts = [f"{broken(cell, LONG_NAME)}  (n = {len(cells[cell].done)})" for cell in names]
    panels[0].set_yticks(range(len(names)), counts, fontsize=8.5)
    figure.suptitle("Dots: seeds. Diamonds: means, 95% t-interval over seeds", fontsize=10, color=INK)
    return figure


def _row_height(names: Iterable[str]) -> float:
    """Inches that a row needs for its name."""
    return 0.24 + 0.14 * max(broken(name, LONG_NAME).count("\n") + 1 for name in names)


def _kept_in_view(axes: Axes, values: Sequence[float | None]) -> None:
    """Limits by the seeds: an interval of two or three is wide, and its ends may leave the picture."""
    known = [value for value in values if value is not None]
    reach = max(max(known) - min(known), 0.02)
    axes.set_xlim(min(known) - 0.5 * reach, max(known) + 0.5 * reach)
    axes.locator_params(axis="x", nbins=5, prune="both")


def differences(found: Mapping[str, Difference], reference: str) -> Figure | None:
    """Difference in validation AUC of every cell from the reference, with its interval."""
    known = {cell: one for cell, one in found.items() if one.value is not None}
    if not known:
        return None
    figure, (axes,) = canvas(width=7.0, height=_row_height(known) * max(3, len(known)) + 1.1)
    rows = [{"value": one.value, "low": one.low, "high": one.high} for one in known.values()]
    intervals_by_row(axes, rows, LENS)
    seeds = {
        cell: f"{len(one.seeds)} seed{'s' if len(one.seeds) > 1 else ''}{'' if one.same_task else ', another task'}"
        for cell, one in known.items()
    }
    axes.set_yticks(range(len(known)), [f"{broken(cell, LONG_NAME)}  ({seeds[cell]})" for cell in known], fontsize=8.5)
    axes.axvline(0, color=ACCENT, ls="--", lw=1)
    axes.set(xlabel=f"validation AUC less that of {reference}, 95% interval", ylim=(len(known) - 0.5, -0.5))
    axes.set_title("Differences, with the chance of objects and of seeds")
    return figure


def heat_map(cells: Mapping[str, Cell], axes_of: Mapping[str, Sequence[str]]) -> Figure | None:
    """Mean validation AUC over two axes of variants, with its standard deviation over seeds and their number."""
    (row_axis, rows), (column_axis, columns) = axes_of.items()
    values = np.full((len(rows), len(columns)), np.nan)
    texts: dict[tuple[int, int], str] = {}
    for cell in cells.values():
        place = (list(rows).index(str(cell.variants[row_axis])), list(columns).index(str(cell.variants[column_axis])))
        auc = cell.figures["best_val_auroc"]
        values[place] = np.nan if auc.mean is None else auc.mean
        texts[place] = _told(cell)
    if np.isnan(values).all():
        return None
    figure, (axes,) = canvas(width=max(5.0, 1.25 * len(columns) + 2.6), height=0.62 * len(rows) + 1.5)
    image = axes.imshow(values, cmap=LOW_TO_HIGH, aspect="auto")
    axes.grid(visible=False)
    for (row, column), text in texts.items():
        known = not np.isnan(values[row, column])
        colour = _readable(image.cmap(image.norm(values[row, column]))) if known else INK
        axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=colour)
    axes.set_xticks(range(len(columns)), columns, rotation=30 if max(map(len, columns)) > 12 else 0)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel=column_axis, ylabel=row_axis, title="Mean validation AUC ± standard deviation over seeds")
    figure.colorbar(image, ax=axes, label="mean validation AUC")
    return figure


def _told(cell: Cell) -> str:
    auc = cell.figures["best_val_auroc"]
    if auc.mean is None:
        return "failed" if cell.failed and not cell.stopped else "stopped" if cell.stopped else "–"
    spread = "" if auc.sd is None else f" ± {auc.sd:.3f}"
    return f"{auc.mean:.3f}{spread}\nn = {auc.n}"


def _readable(colour: Any) -> str:
    """Nearly black or white, whichever can be read on a colour (ITU-R BT.709 luminance); black itself follows the page."""
    return "#0a0a0a" if 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2] > 0.45 else "#ffffff"


def parallel(trials: Sequence[TrialResult], axes_of: Mapping[str, Sequence[str]]) -> Figure | None:
    """One line per trial through its variants and values, coloured by validation AUC; dotted where training was stopped."""
    shown = sorted((t for t in trials if t.best_val_auroc is not None), key=lambda trial: trial.best_val_auroc or 0.0)
    if not shown:
        return None
    auc = np.array([trial.best_val_auroc for trial in shown], float)
    scales = {axis: _scale(trials, axis, labels) for axis, labels in axes_of.items()}
    scales["validation AUC"] = _Scale.of_numbers(auc, log=False)
    figure, (axes,) = canvas(width=max(6.5, 1.9 * len(scales)), height=4.0)
    norm = Normalize(float(auc.min()), float(auc.max()) if np.ptp(auc) else float(auc.min()) + 1e-3)
    offsets = np.random.default_rng(0).uniform(-0.02, 0.02, (len(shown), len(scales)))  # that lines of one cell show
    for number, trial in enumerate(shown):
        points = [scale.place(_value(trial, axis)) for axis, scale in scales.items()]
        blurred = np.array(points) + np.where(
            [scale.labels is not None for scale in scales.values()], offsets[number], 0
        )
        style = "-" if trial.status == "done" else ":"
        axes.plot(range(len(scales)), blurred, color=LOW_TO_HIGH(norm(auc[number])), lw=1.3, alpha=0.85, ls=style)
    for place, scale in enumerate(scales.values()):
        axes.axvline(place, color=ACCENT, lw=0.8)
        for position, text in scale.ticks():
            shift, side = (
                (0.03, "bottom") if scale.labels is not None else (0.0, "center")
            )  # clear of the lines that meet
            axes.text(place, position + shift, f" {text}", fontsize=8, va=side, color=INK, zorder=5)
    axes.set_xticks(range(len(scales)), [_broken(axis) for axis in scales], fontsize=8.5)
    axes.set(ylim=(-0.06, 1.06), xlim=(-0.1, len(scales) - 0.65), title=f"Validation AUC of {len(shown)} trials")
    axes.yaxis.set_major_locator(NullLocator())
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False)
    return figure


class _Scale:
    """Where the values of an axis lie between 0 and 1."""

    def __init__(self, labels: Sequence[str] | None, ends: tuple[float, float], log: bool) -> None:
        self.labels, self.ends, self.log = labels, ends, log

    @classmethod
    def of_numbers(cls, values: Any, log: bool) -> _Scale:
        return cls(None, (float(np.min(values)), float(np.max(values))), log)

    def place(self, value: Any) -> float:
        if self.labels is not None:
            return (list(self.labels).index(str(value)) + 0.5) / len(self.labels)
        low, high = (np.log(end) for end in self.ends) if self.log else self.ends
        number = np.log(float(value)) if self.log else float(value)
        return float((number - low) / (high - low)) if high > low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        if self.labels is not None:
            return [(self.place(label), label) for label in self.labels]
        if self.ends[0] == self.ends[1]:
            return [(0.5, f"{self.ends[0]:.3g}")]
        spaced = np.geomspace(*self.ends, 5) if self.log else np.linspace(*self.ends, 5)
        return [(self.place(value), f"{value:.3g}") for value in spaced]


def _scale(trials: Sequence[TrialResult], axis: str, labels: Sequence[str]) -> _Scale:
    if labels:
        return _Scale(labels, (0, 1), log=False)
    values = np.array([float(trial.variants[axis]) for trial in trials])
    return _Scale.of_numbers(values, log=bool(values.min() > 0 and values.max() > LOG_RATIO * values.min()))


def _value(trial: TrialResult, axis: str) -> Any:
    return trial.best_val_auroc if axis == "validation AUC" else trial.variants[axis]


def _broken(name: str) -> str:
    """A dotted key on as many lines as it has parts: names of neighbours must not run into each other."""
    return name.replace(".", ".\n")


def decision_plane(decision: Decision, arms: Mapping[str, Sequence[TrialResult]]) -> Figure | None:
    """Core gate AUC against core reliance: the regions of the tree, and every arm with its seeds."""
    points = {arm: [(t.final_core_lr_auc, t.core_reliance) for t in own if None not in (t.final_core_lr_auc, t.core_reliance)]
              for arm, own in arms.items()}  # fmt: skip
    every = np.array([point for own in points.values() for point in own], float)
    if not len(every):
        return None
    rule = decision.rule
    x = (min(0.48, every[:, 0].min() - 0.02), max(2 * rule.core_gate_acceptable - 0.55, every[:, 0].max() + 0.03))
    y = (min(-0.01, every[:, 1].min() - 0.005), max(rule.reliance_acceptable + 0.025, every[:, 1].max() + 0.008))
    figure, (axes,) = canvas(width=7.0, height=4.4)
    _regions(axes, decision, x, y)
    for number, (arm, own) in enumerate(points.items()):
        if own:
            colour, marker, seeds = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)], np.array(own)
            axes.plot(seeds[:, 0], seeds[:, 1], marker, ms=4, color=colour, alpha=0.6, ls="none")
            axes.plot(*seeds.mean(0), marker, ms=9, color=colour, mec=INK, ls="none", label=f"{arm}, n = {len(own)}")
    axes.set(xlim=x, ylim=y, xlabel="core gate AUC (c)", ylabel="core reliance (d)")
    axes.set_title(f"{rule.baseline} decides; large: mean over seeds, small: seeds")
    axes.grid(visible=False)
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=5)
    return figure


def _regions(axes: Axes, decision: Decision, x: tuple[float, float], y: tuple[float, float]) -> None:
    rule = decision.rule
    c1, c2, d1, d2 = rule.core_gate_success, rule.core_gate_acceptable, rule.reliance_success, rule.reliance_acceptable
    regions = (
        ("SUCCESS", CONTROL, 0.28, (x[0], y[0], c1, d1), (x[0] + 0.004, d1 - 0.0008)),
        ("ACCEPTABLE", CONTROL, 0.12, (x[0], d1, c2, d2), (x[0] + 0.004, d2 - 0.0008)),
        ("", CONTROL, 0.12, (c1, y[0], c2, d1), None),
        ("MASKED ARMS", OTHER, 0.18, (c2, y[0], x[1], d2), (c2 + 0.004, d2 - 0.0008)),
        ("STOP: SHORTCUT", FOURTH, 0.25, (x[0], d2, x[1], y[1]), (x[0] + 0.004, y[1] - 0.0008)),
    )
    for name, colour, alpha, (left, bottom, right, top), corner in regions:
        axes.add_patch(Rectangle((left, bottom), right - left, top - bottom, color=colour, alpha=alpha, lw=0, zorder=0))
        if corner is not None:
            axes.text(*corner, name, fontsize=8.5, weight="bold", va="top", color=INK)
    axes.plot([c1, c1, x[0]], [y[0], d1, d1], color=ACCENT, lw=0.9)
    axes.plot([c2, c2], [y[0], d2], color=ACCENT, lw=0.9)
    axes.axhline(d2, color=ACCENT, lw=0.9)


def core_sensitivity(cells: Mapping[str, Sequence[TrialResult]]) -> Figure | None:
    """Validation AUC against the radius masked: the mean of every cell, its seeds thin."""
    curves = {name: [[(point.radius, point.auc) for point in t.core_sensitivity if point.auc is not None]
                     for t in own if t.core_sensitivity] for name, own in cells.items()}  # fmt: skip
    return _lines(curves, "central pixels masked (radius)", "validation AUC", "Core sensitivity")


def by_theta_e(cells: Mapping[str, Sequence[TrialResult]]) -> Figure | None:
    """Validation AUC by Einstein radius: the mean of every cell, its seeds thin."""
    bins = sorted({(b.low, b.high) for own in cells.values() for t in own for b in t.auroc_by_thetae or ()})
    curves = {name: [[(bins.index((b.low, b.high)), b.auc) for b in t.auroc_by_thetae if b.auc is not None]
                     for t in own if t.auroc_by_thetae] for name, own in cells.items()}  # fmt: skip
    figure = _lines(curves, "Einstein radius (arcsec)", "validation AUC", "By Einstein radius")
    if figure is not None:
        sizes = {edges: sorted({b.n for own in cells.values() for t in own for b in t.auroc_by_thetae or ()
                                if (b.low, b.high) == edges}) for edges in bins}  # fmt: skip
        texts = [f"{low:g} to {high:g}\nn = {'–'.join(map(str, dict.fromkeys((sizes[low, high][0], sizes[low, high][-1]))))}"
                 for low, high in bins]  # fmt: skip
        figure.axes[0].set_xticks(range(len(bins)), texts, fontsize=8)
    return figure


def _lines(curves: Mapping[str, Sequence[Sequence[tuple[float, Any]]]], x: str, y: str, title: str) -> Figure | None:
    known = {name: [curve for curve in own if curve] for name, own in curves.items()}
    if not any(known.values()):
        return None
    figure, (axes,) = canvas(width=6.2, height=3.8)
    for number, (name, own) in enumerate(known.items()):
        colour, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
        style = ("-", "--", ":", "-.")[number // len(SERIES) % 4]
        for curve in own:
            axes.plot(*zip(*curve, strict=True), color=colour, lw=0.7, alpha=0.4)
        places = sorted({place for curve in own for place, _ in curve})
        means = [np.mean([value for curve in own for at, value in curve if at == place]) for place in places]
        if own:
            label = f"{name} (n = {len(own)})"
            axes.plot(places, means, color=colour, marker=marker, ms=4.5, lw=1.8, ls=style, label=label)
    axes.set(xlabel=x, ylabel=y, title=f"{title}; thin: seeds")
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=3, fontsize=8.5)
    return figure
