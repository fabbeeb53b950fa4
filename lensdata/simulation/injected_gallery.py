"""A look at injected arcs: hosts, the same with their arcs, and what was added."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lensdata.report.galleries import to_rgb
from lensdata.shards.layout import Stamps
from lensdata.shards.manifests import Manifest, read_manifest

PER_ROW = 6
PANELS = ("host", "host + arc", "arc, 3 times as bright")
BRIGHTER = 3.0
SHOWN_ARCSEC = 7.0  # from the centre to the edge of a picture


def gallery_png(manifest_uri: str, count: int = 24) -> bytes:
    """A PNG of injections of an unpaired manifest, from the smallest to the largest Einstein radius.

    The pictures have one stretch, so that brightness can be compared; the Einstein radius is drawn on the arc alone.
    """
    manifest = read_manifest(manifest_uri)
    arcs = manifest.where(manifest.column("label") == 1)
    rows = arcs.table.select(["cutout_id", "source_id", "theta_e", "arc_snr", "source_mag_r"]).to_pandas()
    order = np.argsort(rows["theta_e"].to_numpy())
    rows = rows.iloc[order[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]]
    with_arc = manifest.take_ids(rows["cutout_id"].tolist())
    plain = manifest.where(manifest.column("label") == 0)
    keys = dict(zip(plain.column("source_id").tolist(), plain.column("cutout_id").tolist(), strict=True))
    hosts = manifest.take_ids([keys[source] for source in rows["source_id"]])
    return _figure(manifest, rows, with_arc.stamps(), hosts.stamps(), len(arcs))


def _figure(manifest: Manifest, rows: pd.DataFrame, with_arc: Stamps, hosts: Stamps, total: int) -> bytes:
    layout = manifest.layout()
    down, across = -(-len(rows) // PER_ROW), min(PER_ROW, len(rows))
    figure = Figure(figsize=(2.1 * across + 0.6, 7.2 * down + 0.8), dpi=100)
    panels = figure.subplots(3 * down, across, squeeze=False, sharex=True, sharey=True)
    half = layout.shape[0] / 2 * (layout.pixscale_arcsec or 1.0)
    extent = (-half, half, -half, half)
    turn = np.linspace(0, 2 * np.pi, 100)
    for number, row in enumerate(rows.to_dict("records")):
        shown = (hosts[number], with_arc[number], BRIGHTER * (with_arc[number] - hosts[number]))
        for place, (title, pixels) in enumerate(zip(PANELS, shown, strict=True)):
            panel = panels[3 * (number // PER_ROW) + place, number % PER_ROW]
            panel.imshow(to_rgb(pixels, layout.unit)[::-1], origin="lower", extent=extent, interpolation="nearest")
            panel.set_title(title, fontsize=7)
            panel.set(xlim=(-SHOWN_ARCSEC, SHOWN_ARCSEC), ylim=(-SHOWN_ARCSEC, SHOWN_ARCSEC))
        panel.plot(
            row["theta_e"] * np.cos(turn), row["theta_e"] * np.sin(turn), color="white", linewidth=0.4, alpha=0.6
        )
        panels[3 * (number // PER_ROW), number % PER_ROW].set_title(
            f"$\\theta_E$ {row['theta_e']:.2f}″, S/N {row['arc_snr']:.0f}, source r {row['source_mag_r']:.1f}\nhost",
            fontsize=7,
        )
    for panel in panels[len(rows) and 3 * ((len(rows) - 1) // PER_ROW) :, (len(rows) - 1) % PER_ROW + 1 :].ravel():
        panel.set_axis_off()
    for panel in panels[-1]:
        panel.set_xlabel("x [arcsec]", fontsize=7)
    for panel in panels[:, 0]:
        panel.set_ylabel("y [arcsec]", fontsize=7)
    for panel in panels.ravel():
        panel.tick_params(labelsize=6)
    figure.suptitle(
        f"{len(rows)} of {total} injections; z, r, g as red, green, blue, one stretch",
        fontsize=10,
        y=1 - 0.2 / (7.2 * down + 0.8),
    )
    figure.subplots_adjust(
        left=0.05, right=0.99, bottom=0.4 / down / 7.2, top=1 - 0.75 / (7.2 * down + 0.8), wspace=0.08, hspace=0.2
    )
    sink = BytesIO()
    figure.savefig(sink, format="png")
    return sink.getvalue()
