"""Figures of a catalogue's sample as SVG: where it lies on the sky, and how positives and negatives differ (R-S8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from lensdata.catalogue.covariates import Covariate
from lensdata.report.figures import ACCENT, CONTROL, INK, LENS, OTHER, RC, svg
from lensdata.sky.healpix import ang2pix, pix2ang
from lensdata.sky.splits import SPLITS

Floats = npt.NDArray[np.float64]
SPLIT_COLOURS = dict(zip(SPLITS, (OTHER, "#E69F00", CONTROL), strict=True))
CENTRE_RA = 120.0  # deg: the gap of the surveys then lies at the map's edges
ZOOM_DEG = 6.0  # side of the close-up: some 13 x 13 pixels of nside 128
ZOOM_OBJECTS = 6000  # drawn in the close-up
CELL_DEG = 2.0  # of the density map, along declination
GRID = 400  # points per axis at which the close-up asks for the pixel
PNG_DPI = 200


def _figure(width: float, height: float, projection: str | None = None) -> tuple[Figure, Axes]:
    with mpl.rc_context(RC):
        figure = Figure(figsize=(width, height), layout="constrained", dpi=PNG_DPI)
        axes = figure.add_subplot(projection=projection)
    return figure, axes


def _sky(height: float = 3.0) -> tuple[Figure, Axes]:
    """All of the sky, right ascension growing to the left."""
    figure, axes = _figure(5.0, height, "mollweide")
    longitudes = np.arange(-120, 121, 60)
    axes.set_xticks(np.radians(longitudes), [f"{(CENTRE_RA - value) % 360:.0f}°" for value in longitudes], fontsize=8)
    axes.set_yticks(
        np.radians(np.arange(-60, 61, 30)), [f"{dec:+d}°" if dec else "0°" for dec in range(-60, 61, 30)], fontsize=8
    )
    axes.grid(alpha=0.25)
    return figure, axes


def _place(ra: npt.ArrayLike, dec: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Map coordinates (radians) of positions (degrees)."""
    east = (np.asarray(ra, np.float64) - CENTRE_RA + 180.0) % 360.0 - 180.0
    return -np.radians(east), np.radians(np.asarray(dec, np.float64))


def _mark(count: int) -> float:
    """Area of a mark (points squared): smaller the more there are, down to that of a HEALPix pixel on the map."""
    return float(np.clip(3000 / max(1, count), 0.4, 4.0))


def _limits(axes: Axes, limits: tuple[float, float]) -> None:
    for dec in limits:
        if abs(dec) < 90:
            axes.plot([-np.pi, np.pi], np.radians([dec, dec]), color=ACCENT, ls="--", lw=0.8)


def sky_of_splits(sample: pd.DataFrame, limits: tuple[float, float]) -> str:
    """One mark per occupied HEALPix pixel and split, at its centre; dashed: the footprint's declinations."""
    figure, axes = _sky()
    found = sample[["healpix_128", "split"]].drop_duplicates()
    found = found.sample(frac=1, random_state=0)  # so that none lies over the others where marks touch
    axes.scatter(
        *_place(*pix2ang(found["healpix_128"])), s=_mark(len(found)), lw=0, c=found["split"].map(SPLIT_COLOURS), rasterized=True
    )  # fmt: skip
    for name, count in found["split"].value_counts().reindex(SPLITS, fill_value=0).items():
        axes.scatter([], [], s=4, color=SPLIT_COLOURS[name], label=f"{name} ({count:,} pixels)")
    _limits(axes, limits)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, markerscale=4, fontsize=9)
    return svg(figure)


def sky_of_classes(sample: pd.DataFrame, limits: tuple[float, float]) -> str:
    """Positives over the density of negatives, objects per square degree in cells of equal area."""
    figure, axes = _sky(3.4)
    positives, negatives = sample[sample["label"] == 1], sample[sample["label"] == 0]
    height = np.sin(np.radians(np.linspace(-90, 90, round(180 / CELL_DEG) + 1)))
    edges = np.linspace(height[0], height[-1], len(height))
    longitudes = np.linspace(-np.pi, np.pi, round(360 / CELL_DEG) + 1)
    x, y = _place(negatives["ra"], negatives["dec"])
    counts, _, _ = np.histogram2d(np.sin(y), x, (edges, longitudes))
    area = np.degrees(1) ** 2 * (edges[1] - edges[0]) * (longitudes[1] - longitudes[0])
    if counts.any():
        mesh = axes.pcolormesh(
            longitudes,
            np.arcsin(edges),
            np.where(counts > 0, counts / area, np.nan),
            cmap="Blues",
            vmin=0,
            rasterized=True,
        )
        bar = figure.colorbar(mesh, ax=axes, orientation="horizontal", shrink=0.6, pad=0.03, aspect=40)
        bar.set_label("negatives per square degree", fontsize=9)
    axes.scatter(*_place(positives["ra"], positives["dec"]), s=_mark(len(positives)), lw=0, color=LENS, rasterized=True)
    _limits(axes, limits)
    axes.set_title(f"{len(positives):,} positives (dots), {len(negatives):,} negatives", fontsize=10)
    return svg(figure)


def sky_close_up(sample: pd.DataFrame, split_of_pixel: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.str_]]) -> str:
    """The fullest window of 6 degrees: objects in the colour of their split, over the split that each pixel's hash gives."""
    figure, axes = _figure(4.4, 4.0)
    window = _fullest_window(sample)
    ra, dec = (np.linspace(window[name].min() - 0.1, window[name].max() + 0.1, GRID) for name in ("ra", "dec"))
    grid_ra, grid_dec = np.meshgrid(ra, np.clip(dec, -90, 90))
    index = np.searchsorted(sorted(SPLITS), split_of_pixel(ang2pix(grid_ra, grid_dec)))
    axes.pcolormesh(
        ra, dec, index, cmap=ListedColormap([SPLIT_COLOURS[name] for name in sorted(SPLITS)]), vmin=-0.5, vmax=2.5,
        alpha=0.25, rasterized=True, shading="nearest",
    )  # fmt: skip
    shown = window.iloc[:: max(1, -(-len(window) // ZOOM_OBJECTS))]
    for name in SPLITS:
        part = shown[shown["split"] == name]
        axes.scatter(part["ra"], part["dec"], s=9, lw=0, color=SPLIT_COLOURS[name], rasterized=True, label=name)
    lenses = window[window["label"] == 1]
    axes.scatter(lenses["ra"], lenses["dec"], s=18, marker="+", lw=0.9, color=INK, label="positive", rasterized=True)
    axes.invert_xaxis()
    axes.grid(visible=False)
    axes.set_aspect(1 / max(0.05, np.cos(np.radians(window["dec"].mean()))))
    axes.set(xlabel="right ascension (deg)", ylabel="declination (deg)")
    axes.set_title(f"{len(shown):,} of {len(window):,} objects here", fontsize=10)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, markerscale=1.6, fontsize=9)
    return svg(figure)


def _fullest_window(sample: pd.DataFrame) -> pd.DataFrame:
    """Cells start at RA 0, so no window crosses it; near the poles cells are narrow, and hardly the fullest."""
    cell = (np.floor(sample["dec"] / ZOOM_DEG).astype(int), np.floor(sample["ra"] / ZOOM_DEG).astype(int))
    place = sample.groupby([cell[0].rename("y"), cell[1].rename("x")]).size().idxmax()
    return sample[(cell[0] == place[0]) & (cell[1] == place[1])]


def distribution(sample: pd.DataFrame, covariate: Covariate, note: str = "") -> str | None:
    """Normalised histograms of positives and negatives; None where neither has a value.

    The axis covers the central 99% of each class; what lies outside is in the first and last bin.
    """
    values, positive = covariate.values(sample), (sample["label"] == 1).to_numpy()
    known = np.isfinite(values)
    if not known.any():
        return None
    classes = [("positives", values[known & positive], LENS), ("negatives", values[known & ~positive], OTHER)]
    edges = _edges([part for _, part, _ in classes if len(part)], whole_numbers=covariate.name.startswith("nobs"))
    with mpl.rc_context(RC):  # placed by hand: a page has some seventy of these, and a layout engine draws each thrice
        figure = Figure(figsize=(3.1, 2.35))
        axes = figure.add_axes((0.21, 0.19, 0.76, 0.61))
    for name, part, colour in classes:
        if len(part):
            counts, _ = np.histogram(np.clip(part, edges[0], edges[-1]), edges)
            axes.stairs(
                counts / len(part), edges, color=colour, lw=1.6, fill=name == "negatives",
                alpha=0.35 if name == "negatives" else 1.0, label=f"{len(part):,} {name}",
            )  # fmt: skip
    axes.set(xlabel=covariate.label, ylim=(0, None))
    axes.set_ylabel("share per bin", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.set_title(note, fontsize=9, loc="left")
    figure.legend(loc="upper left", ncols=2, frameon=False, fontsize=8, handlelength=1.2, columnspacing=1)
    return svg(figure, crop=False)


def _edges(parts: list[Any], *, whole_numbers: bool) -> Floats:
    low = min(np.percentile(part, 0.5) for part in parts)
    high = max(np.percentile(part, 99.5) for part in parts)
    if whole_numbers:
        return np.arange(np.floor(low) - 0.5, np.ceil(high) + 1)
    if high <= low:
        return np.array([low - 0.5, low + 0.5])
    fewest = min(len(part) for part in parts)
    return np.linspace(low, high, 31 if fewest >= 200 else 16)
