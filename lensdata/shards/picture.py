"""One stamp as a figure: its bands in grey and, of survey stamps, the colour composite (R-C3)."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lensdata.shards.folders import BandSummary, FoundStamp
from lensdata.shards.layout import Stamps

PANEL_INCHES = 3.1
FAINTEST, BRIGHTEST = -3.0, 99.7  # of the grey scale: noise below the median, percentile
MIN_SPAN = 10.0  # grey scale of an empty field, in noise


def stamp_png(stamp: FoundStamp) -> bytes:
    """A PNG with a panel per band and, for g, r and z in nanomaggies or for pictures, one in colour; axes in arcsec."""
    bands, colour = stamp.bands(), colours(stamp)
    panels = len(bands) + (colour is not None)
    figure = Figure(figsize=(PANEL_INCHES * panels, PANEL_INCHES + 1.1), layout="constrained", dpi=150)
    axes = figure.subplots(1, panels, squeeze=False, sharex=True, sharey=True)[0]
    for index, band in enumerate(bands):
        _draw_band(axes[index], stamp, stamp.pixels[:, :, index], band)
    if colour is not None:
        axes[-1].imshow(colour, origin="lower", extent=_extent(stamp), interpolation="nearest")
        axes[-1].set_title(
            "z, r, g as red, green, blue" if stamp.layout.unit == "nanomaggy" else "picture", fontsize=10
        )
    unit = "pixel" if stamp.layout.pixscale_arcsec is None else "arcsec"
    for panel in axes:
        panel.set_xlabel(f"x from the centre [{unit}]")
    axes[0].set_ylabel(f"y from the centre [{unit}]")
    figure.suptitle(_title(stamp), fontsize=12)
    sink = BytesIO()
    figure.savefig(sink, format="png")
    return sink.getvalue()


def colours(stamp: FoundStamp) -> Stamps | None:
    """The composite (H, W, 3), rows from the bottom, as in the galleries of the report; None where bands do not make one."""
    from lensdata.report.galleries import to_rgb  # the report's room is heavy, and only for pictures

    layout = stamp.layout
    if layout.unit == "rgb8" and len(layout.bands) >= 3:
        return to_rgb(stamp.pixels, layout.unit)[::-1]
    if layout.unit != "nanomaggy" or not {"g", "r", "z"} <= set(layout.bands):
        return None
    grz = stamp.pixels[:, :, [layout.bands.index(band) for band in "grz"]]
    return to_rgb(grz, layout.unit)[::-1]


def _draw_band(axes: Axes, stamp: FoundStamp, pixels: Stamps, band: BandSummary) -> None:
    finite = pixels[np.isfinite(pixels)]
    low, high = 0.0, 1.0
    if finite.size:
        low = band.median + FAINTEST * band.noise
        high = max(float(np.percentile(finite, BRIGHTEST)), low + MIN_SPAN * band.noise)
    image = axes.imshow(
        pixels, origin="lower", extent=_extent(stamp), cmap="gray", vmin=low, vmax=high, interpolation="nearest"
    )
    axes.set_title(f"{band.band}   median {band.median:.2g}, noise {band.noise:.2g}", fontsize=10)
    bar = axes.figure.colorbar(image, ax=axes, orientation="horizontal", shrink=0.9, aspect=28, pad=0.02)
    bar.set_label(
        f"{stamp.layout.unit} per pixel" if stamp.layout.unit == "nanomaggy" else stamp.layout.unit, fontsize=9
    )
    bar.ax.tick_params(labelsize=8)
    bar.ax.locator_params(nbins=5)


def _extent(stamp: FoundStamp) -> tuple[float, float, float, float]:
    """Edges of the picture from the centre pixel, which is at index n // 2."""
    height, width = stamp.pixels.shape[:2]
    scale = stamp.layout.pixscale_arcsec or 1.0
    edges = (-0.5 - width // 2, width - 0.5 - width // 2, -0.5 - height // 2, height - 0.5 - height // 2)
    left, right, bottom, top = (edge * scale for edge in edges)
    return left, right, bottom, top


def _title(stamp: FoundStamp) -> str:
    parts = [f"stamp {stamp.columns.get('cutout_id')}"]
    parts += [str(stamp.columns[key]) for key in ("name", "kind", "layer", "route") if stamp.columns.get(key)]
    return "  ·  ".join(parts)
