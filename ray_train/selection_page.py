"""The page of a selection function: figures, pictures, and what a reader needs to make it again (R-E7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lensdata import __version__, storage
from lensdata.config.selection import SelectionConfig
from lensdata.hashing import second_key
from lensdata.report import figures, galleries, page
from lensdata.report.completeness import map_name
from lensdata.shards.manifests import Manifest
from lensdata.simulation.selection_design import Cell
from lensdata.steps import JobRun
from ray_train.injecting import CellPart, Injector

GALLERY = 12  # injections with pictures


def write_page(
    run: JobRun, found: dict[str, Any], made: Mapping[str, Figure], pictures: list[list[galleries.Picture]]
) -> None:
    """``report.html`` and a PDF of every figure."""
    config: SelectionConfig = run.config
    for name, figure in made.items():
        storage.write_bytes(run.path("figures", f"{name}.pdf"), figures.pdf(figure))
    levels = [record["fpr"] for record in found["thresholds"] if record["above"] is not None]
    text = page.render(
        "completeness.html", title=config.title, found=found, config=config, main_level=f"{found['fpr_of_figures']:g}",
        figures={name: figures.svg(figure) for name, figure in made.items()},
        maps=[(map_name(level), f"Completeness by Einstein radius and brightness at FPR {level:g}") for level in levels],
        gallery=pictures, facts=facts(config, found),
    )  # fmt: skip
    storage.write_bytes(run.path("report.html"), text.encode())


def gallery(
    injector: Injector, hosts: Manifest, cells: Sequence[Cell], rows: pd.DataFrame
) -> list[list[galleries.Picture]]:
    """Host, host with arc and host with scrambled arc of a few injections, from small to large Einstein radii."""
    order = np.argsort(second_key(rows["injection_id"].to_numpy(np.int64), 0, "selection-gallery"))
    few = rows.iloc[order].drop_duplicates("source_id").head(GALLERY).sort_values(["theta_e", "injection_id"])
    out = []
    for row in few.to_dict("records"):
        part = CellPart.of(next(cell for cell in cells if cell.index == row["cell"]), hosts).of_keys(
            [row["injection_id"]]
        )
        batch = next(injector.batches(part))
        arc = f"{row['theta_e_drawn']:.2f}″, {batch.record['arc_mag'][0]:.1f} mag, S/N {batch.record['arc_snr'][0]:.0f}"
        shown = (
            (batch.host, "logit_host", "host"),
            (batch.with_arc, "logit", arc),
            (batch.scrambled, "logit_scrambled", "scrambled"),
        )
        out.append([
            galleries.Picture(
                galleries.jpeg_uri(galleries.to_rgb(stamps[0].cpu().numpy(), "nanomaggy")),
                f"galaxy {row['source_id']}: {what}", f"{what}; logit {row[logit]:.1f}", None,
            )
            for stamps, logit, what in shown
        ])  # fmt: skip
    return out


def facts(config: SelectionConfig, found: dict[str, Any]) -> list[tuple[str, str]]:
    """What a reader needs to make it again."""
    grid, sources, hosts = config.grid, config.sources, config.hosts
    colour = "" if hosts.gr_min is None else f", g - r at least {hosts.gr_min:g}"
    gains = "none" if config.electrons_per_nanomaggy is None else f"Poisson, gains {config.electrons_per_nanomaggy}"
    radii = "the grid" if grid.theta_e_from == "grid" else "the velocity dispersion of the host"
    low, high = sources.radius_arcsec
    views = {"one": "one view", "d4": "mean of 8 views"}[config.views]
    return [
        ("network", f"checkpoint {config.checkpoint}, {views}, {config.precision}"),
        ("hosts", f"types {', '.join(hosts.types)}; r {hosts.mag_r[0]:g} to {hosts.mag_r[1]:g}{colour}"),
        ("their splits", ", ".join(hosts.splits)),
        ("arcs of a host", f"{grid.per_host} at most"),
        ("lenses", f"isothermal ellipsoids along the light; Einstein radius from {radii}"),
        ("shear", f"{sources.shear_scatter:g} per component"),
        ("sources", f"Sersic, uniform over the area within {sources.caustic_multiple:g} of the outer caustic"),
        ("half-light radii", f"{low:g} to {high:g} arcsec"),
        ("colours", f"blue; {100 * sources.red_fraction:g}% as red as the host"),
        ("noise of the arc", gains),
        ("injections", f"{found['injections']:,}; {found['few']:,} cells have fewer than 100"),
        ("beyond the grid", f"{found['beyond_the_grid']:,}"),
        ("seed", str(config.seed)), ("lensdata", __version__),
    ]  # fmt: skip
