"""Figures of the report as SVG text: axes with units, n in the title, colours that the colour-blind can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn.metrics import roc_curve

# Okabe & Ito 2008
LENS, OTHER, CONTROL, ACCENT = "#D55E00", "#0072B2", "#009E73", "#444444"
RC = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "lensdata",
}


def svg(figure: Figure, *, crop: bool = True) -> str:
    """A figure as SVG for embedding; the same figure gives the same text. Cropping to what is drawn draws it twice."""
    sink = StringIO()
    box = "tight" if crop else None
    figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches=box)
    text = sink.getvalue()
    return text[text.index("<svg") :]


def _figure(columns: int = 1, width: float = 6.0, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    import matplotlib as mpl

    with mpl.rc_context(RC):
        figure = Figure(figsize=(width * columns, height), layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def learning_curves(epochs: Sequence[dict[str, Any]], best_epoch: int) -> str:
    """Loss and validation AUC per epoch; the best epoch is marked."""
    figure, (loss, auc) = _figure(2, width=4.6)
    frame = pd.DataFrame(epochs)
    loss.plot(frame["epoch"], frame["train_loss"], color=OTHER, marker="o", ms=3, label="training")
    loss.plot(frame["epoch"], frame["val_loss"], color=LENS, marker="s", ms=3, label="validation")
    loss.set(xlabel="epoch", ylabel="binary cross-entropy", title=f"Loss, {len(frame)} epochs")
    loss.legend(frameon=False)
    auc.plot(frame["epoch"], frame["val_auc"], color=LENS, marker="s", ms=3)
    auc.set(xlabel="epoch", ylabel="validation AUC", title=f"Validation AUC, best epoch {best_epoch}")
    for axes in (loss, auc):
        axes.axvline(best_epoch, color=ACCENT, ls=":", lw=1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return svg(figure)


def roc(label: Any, logit: Any, baseline: Any | None = None) -> str:
    """ROC with a logarithmic FPR axis; the axis ends where one negative is left."""
    figure, (axes,) = _figure()
    n1, n0 = int(np.sum(label)), int(len(label) - np.sum(label))
    for scores, colour, name in ((logit, LENS, "network"), (baseline, OTHER, "catalogue only")):
        if scores is None:
            continue
        fpr, tpr, _ = roc_curve(label, scores, drop_intermediate=False)
        axes.step(np.maximum(fpr, 0.5 / n0), tpr, where="post", color=colour, label=name)
    chance = np.geomspace(0.5 / n0, 1, 100)
    axes.plot(chance, chance, color=ACCENT, ls="--", lw=1, label="chance")
    for level in (1e-1, 1e-2, 1e-3, 1e-4):
        if level > 0.5 / n0:
            axes.axvline(level, color=ACCENT, ls=":", lw=0.7)
    axes.set(xscale="log", xlim=(0.5 / n0, 1), ylim=(0, 1.02), xlabel="false-positive rate", ylabel="completeness",
             title=f"ROC, {n1} lenses and {n0} others")  # fmt: skip
    axes.legend(frameon=False, loc="upper left")
    return svg(figure)


def score_histograms(groups: dict[str, Any]) -> str:
    """Share of objects per bin of score for each group."""
    figure, (axes,) = _figure()
    edges = np.linspace(0, 1, 26)
    for (name, scores), colour, style in zip(groups.items(), (LENS, OTHER, CONTROL), ("-", "-", "--"), strict=False):
        values = np.asarray(scores, float)
        counts, _ = np.histogram(values, edges)
        axes.stairs(
            counts / max(1, len(values)), edges, color=colour, ls=style, lw=1.8, label=f"{name} (n = {len(values)})"
        )
    axes.set(xlabel="score", ylabel="share of objects per bin", yscale="log", xlim=(0, 1), title="Scores, 25 bins")
    axes.legend(frameon=False)
    return svg(figure)


def reliability(bins: Sequence[dict[str, Any]], total: int) -> str:
    """Observed fraction of lenses against mean score, with Jeffreys intervals."""
    figure, (axes,) = _figure()
    x = np.array([entry["mean_score"] for entry in bins])
    y = np.array([entry["observed"] for entry in bins])
    low, high = (np.array([entry[key] for entry in bins]) for key in ("low", "high"))
    axes.plot([0, 1], [0, 1], color=ACCENT, ls="--", lw=1, label="calibrated")
    axes.errorbar(
        x,
        y,
        yerr=[np.maximum(y - low, 0), np.maximum(high - y, 0)],
        fmt="o",
        color=LENS,
        capsize=3,
        label="observed, 95% interval",
    )
    axes.set(xlabel="mean score of the bin", ylabel="observed fraction of lenses", xlim=(0, 1), ylim=(-0.02, 1.02),
             title=f"Reliability, {len(bins)} bins with members, n = {total}")  # fmt: skip
    axes.legend(frameon=False, loc="upper left")
    return svg(figure)


def confusers(rates: Sequence[dict[str, Any]]) -> str:
    """False-positive rate per confuser category at both rules."""
    names = list(dict.fromkeys(entry["category"] for entry in rates))
    figure, (axes,) = _figure(height=0.5 * len(names) + 1.4)
    for offset, rule, colour in ((-0.15, "score > 0.5", LENS), (0.15, "overall FPR 0.01", OTHER)):
        chosen = [entry for entry in rates if entry["rule"] == rule]
        y = np.array([names.index(entry["category"]) for entry in chosen]) + offset
        x, low, high = (np.array([entry[key] for entry in chosen]) for key in ("value", "low", "high"))
        axes.errorbar(
            x, y, xerr=[np.maximum(x - low, 0), np.maximum(high - x, 0)], fmt="o", color=colour, capsize=3, label=rule
        )
    members = {entry["category"]: entry["n_negative"] for entry in rates}
    axes.set_yticks(range(len(names)), [f"{name.replace('_', '-')} (n = {members[name]})" for name in names])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(
        xlabel="false-positive rate, 95% Jeffreys interval",
        xlim=(-0.01, None),
        title="False alarms by kind of negative",
    )
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside lower right", ncols=2)
    return svg(figure)
