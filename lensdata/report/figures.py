"""Figures of the report: axes with units, n in the title, colours that the colour-blind can tell apart, on light and on dark.

Every function gives a matplotlib figure; `svg` makes it text for the page, `pdf` a file for a paper.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from io import BytesIO, StringIO
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn.metrics import roc_curve

# Okabe & Ito 2008, and a grey that can be read on white and on black
LENS, OTHER, CONTROL, FOURTH, ACCENT = "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#808080"
SERIES = (LENS, OTHER, CONTROL, FOURTH, "#E69F00", "#56B4E9")
INK = "#010203"  # nearly black on paper; on a page it becomes the colour of the text around
RC = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": ACCENT,
    "grid.alpha": 0.25,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK
    ),
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def svg(figure: Figure, *, crop: bool = True) -> str:
    """A figure as SVG for embedding; the same figure gives the same text. Cropping to what is drawn draws it twice."""
    import matplotlib as mpl

    sink = StringIO()
    box = "tight" if crop else None
    with mpl.rc_context({"svg.hashsalt": "lensdata"}):  # else ids are drawn at random
        figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches=box)
    text = sink.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    own = f"f{hashlib.sha256(text.encode()).hexdigest()[:8]}-"  # figures of one page must not share ids
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{own}", text)
    return text.replace("<svg", '<svg fill="currentColor"', 1)  # what has no colour of its own is text


def pdf(figure: Figure) -> bytes:
    """A figure as PDF for a paper; the same figure gives the same bytes."""
    sink = BytesIO()
    figure.savefig(sink, format="pdf", metadata={"CreationDate": None}, bbox_inches="tight")
    return sink.getvalue()


def canvas(columns: int = 1, width: float = 6.0, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side; width of each and height in inches."""
    import matplotlib as mpl

    with mpl.rc_context(RC):
        figure = Figure(figsize=(width * columns, height), layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def learning_curves(epochs: Sequence[dict[str, Any]], best_epoch: int) -> Figure:
    """Loss and validation AUC per epoch; the best epoch is marked."""
    figure, (loss, auc) = canvas(2, width=4.6)
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
    return figure


def roc(label: Any, scores: dict[str, Any]) -> Figure:
    """ROC of one or several scores with a logarithmic FPR axis; the axis ends where one negative is left."""
    figure, (axes,) = canvas()
    n1, n0 = int(np.sum(label)), int(len(label) - np.sum(label))
    for number, (name, values) in enumerate(scores.items()):
        fpr, tpr, _ = roc_curve(label, values, drop_intermediate=False)
        style = ("-", "--", ":", "-.")[number // len(SERIES) % 4]
        axes.step(
            np.maximum(fpr, 0.5 / n0), tpr, where="post", color=SERIES[number % len(SERIES)], ls=style, label=name
        )
    chance = np.geomspace(0.5 / n0, 1, 100)
    axes.plot(chance, chance, color=ACCENT, ls="--", lw=1, label="chance")
    for level in (1e-1, 1e-2, 1e-3, 1e-4):
        if level > 0.5 / n0:
            axes.axvline(level, color=ACCENT, ls=":", lw=0.7)
    axes.set(xscale="log", xlim=(0.5 / n0, 1), ylim=(0, 1.02), xlabel="false-positive rate", ylabel="completeness",
             title=f"ROC, {n1} lenses and {n0} others")  # fmt: skip
    axes.legend(frameon=False, loc="upper left")
    return figure


def score_histograms(groups: dict[str, Any]) -> Figure:
    """Share of objects per bin of score for each group."""
    figure, (axes,) = canvas()
    edges = np.linspace(0, 1, 26)
    for (name, scores), colour, style in zip(groups.items(), (LENS, OTHER, CONTROL), ("-", "-", "--"), strict=False):
        values = np.asarray(scores, float)
        counts, _ = np.histogram(values, edges)
        axes.stairs(
            counts / max(1, len(values)), edges, color=colour, ls=style, lw=1.8, label=f"{name} (n = {len(values)})"
        )
    axes.set(xlabel="score", ylabel="share of objects per bin", yscale="log", xlim=(0, 1), title="Scores, 25 bins")
    axes.legend(frameon=False)
    return figure


def reliability(bins: Sequence[dict[str, Any]], total: int) -> Figure:
    """Observed fraction of lenses against mean score, with Jeffreys intervals."""
    figure, (axes,) = canvas()
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
    return figure


def confusers(rates: Sequence[dict[str, Any]]) -> Figure:
    """False-positive rate per confuser category at both rules."""
    names = list(dict.fromkeys(entry["category"] for entry in rates))
    figure, (axes,) = canvas(height=0.5 * len(names) + 1.4)
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
    return figure
