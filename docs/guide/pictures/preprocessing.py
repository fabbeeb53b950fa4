"""Pictures of docs/guide/preprocessing.md, and the numbers that it states.

    python docs/guide/pictures/preprocessing.py --unpaired INJECT/unpaired --paired INJECT/paired [--output FOLDER]

The manifests are those of `lensdata.simulation.inject` (R-S10). Every operation is the one that training calls, on a batch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageChops
from sklearn.metrics import roc_auc_score

from lensdata.audit import features, gates
from lensdata.config.base import load_config
from lensdata.config.training import TrainingConfig
from lensdata.report.figures import ACCENT, LENS, OTHER, RC
from lensdata.report.galleries import to_rgb
from lensdata.shards.layout import ImageLayout, Stamps
from lensdata.shards.manifests import Manifest, read_manifest
from ray_train.core import augment, images
from ray_train.core.augment import MaskStage, Views
from ray_train.core.images import ImageRecipe, Statistics
from ray_train.training import image_recipe, pairs_of, views_of

RECIPES = Path(__file__).parents[3] / "configs" / "training"
SEED = 42
BAND, BAND_NAME = 1, "r"  # shown where one band is enough
SIDE = 63  # pixels of the crop that most pictures show
BATCH = 16
# (theta_e [arcsec], arc_snr, mag_r, axis_ratio of the host): the nearest injection of the training split is shown
WANTED = {
    "bright ring": (2.22, 80.0, 20.2, 0.75),
    "faint arc": (2.0, 15.0, 18.8, 0.66),
    "elongated host": (2.1, 27.0, 18.4, 0.20),
    "crowded field": (2.47, 44.4, 19.8, 0.45),
}
UNITS = {
    "stored": "nanomaggy",
    "raw_robust": "MAD",
    "per_sample_robust": "sigma",
    "residual": "sigma",
    "lanusse": "split sigma",
    "asinh": "asinh(x / sigma)",
    "rgb8": "-1 to 1",
}
WIDTH_INCHES, DPI = 5.2, 232  # 1206 pixels across; a letter of 8 points is 8 pixels high where the picture is 400 wide
FAINT = (-5.0, 10.0)  # sigma, to see what the residual leaves
GREY, DIFFERENCE = (mpl.colormaps[name].resampled(levels) for name, levels in (("gray", 32), ("RdBu_r", 41)))


@dataclass(frozen=True)
class Examples:
    """What is drawn.

    Attributes
    ----------
    stamps, hosts
        (n, H, W, 3) of the stamps named in `names`, with and without their arcs.
    batch, batch_ids
        The first stamps of the training split and their keys.
    statistics
        Of the training split, for a crop of `SIDE`.
    pairs, pair_labels, pair_groups
        All training pairs (n, H, W, 6), their labels and HEALPix pixels.
    shown_pairs
        Rows of a positive and of a matched negative.
    """

    layout: ImageLayout
    names: tuple[str, ...]
    ids: torch.Tensor
    stamps: torch.Tensor
    hosts: torch.Tensor
    batch: torch.Tensor
    batch_ids: torch.Tensor
    statistics: Statistics
    training_rows: int
    arcs: torch.Tensor
    arc_hosts: torch.Tensor
    pair_layout: ImageLayout
    pairs: torch.Tensor
    pair_labels: npt.NDArray[np.int64]
    pair_groups: npt.NDArray[np.int64]
    shown_pairs: tuple[int, int]

    @property
    def scale(self) -> float:
        """Arcsec per pixel."""
        return self.layout.pixscale_arcsec or 1.0

    def named(self, name: str) -> torch.Tensor:
        """One stamp (1, 3, H, W), float32, in nanomaggies."""
        place = self.names.index(name)
        return planes_first(self.stamps[place : place + 1])


def read_examples(unpaired_uri: str, paired_uri: str) -> Examples:
    """The stamps to draw, from the training splits of both manifests."""
    unpaired, paired = read_manifest(unpaired_uri).split("train"), read_manifest(paired_uri).split("train")
    arcs, hosts = with_hosts(unpaired)
    rows = arcs.table.select(["theta_e", "arc_snr", "mag_r", "axis_ratio"]).to_pandas().to_numpy(np.float64)
    chosen = [nearest(rows, wanted) for wanted in WANTED.values()]
    arc_stamps, host_stamps = torch.from_numpy(arcs.stamps()), torch.from_numpy(hosts.stamps())
    recipe = ImageRecipe(normalisation="asinh", crop=SIDE)
    batch = first_rows(unpaired, BATCH)
    labels, own = paired.column("label").astype(np.int64), paired.column("source_id")
    positive = int(np.flatnonzero(own == arcs.column("source_id")[chosen[0]])[0])
    return Examples(
        layout=unpaired.layout(),
        names=tuple(WANTED),
        ids=torch.from_numpy(arcs.column("cutout_id").astype(np.int64)[chosen]),
        stamps=arc_stamps[chosen],
        hosts=host_stamps[chosen],
        batch=torch.from_numpy(batch.stamps()),
        batch_ids=torch.from_numpy(batch.column("cutout_id").astype(np.int64)),
        statistics=images.measure_statistics(recipe, groups_of(unpaired)),
        training_rows=len(unpaired),
        arcs=arc_stamps,
        arc_hosts=host_stamps,
        pair_layout=paired.layout(),
        pairs=torch.from_numpy(paired.stamps()),
        pair_labels=labels,
        pair_groups=paired.column("healpix_128").astype(np.int64),
        shown_pairs=(positive, matched_negative(paired, positive)),
    )


def with_hosts(unpaired: Manifest) -> tuple[Manifest, Manifest]:
    """Injections and, in the same order, their hosts without arcs."""
    arcs = unpaired.where(unpaired.column("label") == 1)
    plain = unpaired.where(unpaired.column("label") == 0)
    keys = dict(zip(plain.column("source_id").tolist(), plain.column("cutout_id").tolist(), strict=True))
    return arcs, unpaired.take_ids([keys[source] for source in arcs.column("source_id").tolist()])


def nearest(rows: npt.NDArray[np.float64], wanted: tuple[float, ...]) -> int:
    """The row nearest to the wanted values, each in standard deviations of its column."""
    spread = rows.std(axis=0).clip(1e-9)
    return int(np.argmin((((rows - np.array(wanted)) / spread) ** 2).sum(axis=1)))


def matched_negative(paired: Manifest, positive: int) -> int:
    """The pair of label 0 whose host is as bright as that of a positive, in the same bins of seeing and depth if there is one."""
    rows = paired.table.select(["label", "mag_r", "psf_bin", "depth_bin"]).to_pandas()
    like = rows.iloc[positive]
    distance = (rows["mag_r"] - like["mag_r"]).abs()
    distance += 100.0 * (rows[["psf_bin", "depth_bin"]] != like[["psf_bin", "depth_bin"]]).sum(axis=1)
    return int(np.argmin(distance.where(rows["label"] == 0, np.inf)))


def first_rows(manifest: Manifest, count: int) -> Manifest:
    """The first rows in the order of the shards, which is random."""
    return replace(manifest, table=manifest.table.slice(0, count))


def groups_of(manifest: Manifest, rows: int = 256) -> Iterator[Stamps]:
    """The stamps of a manifest, some at a time."""
    for start in range(0, len(manifest), rows):
        yield replace(manifest, table=manifest.table.slice(start, rows)).stamps()


def planes_first(stamps_NHWC: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) float32."""
    return stamps_NHWC.permute(0, 3, 1, 2).float()


def recipe_file(name: str) -> TrainingConfig:
    """A shipped training recipe."""
    return load_config(TrainingConfig, RECIPES / f"{name}.yaml")


# --- drawing


def sheet(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, npt.NDArray[Any]]:
    """A figure `WIDTH_INCHES` wide with panels; height in inches."""
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def show(
    panel: Axes, pixels: torch.Tensor, scale: float, limits: tuple[float, float], cmap: Colormap = GREY
) -> AxesImage:
    """One plane (H, W), row 0 at the bottom, zero at the pixel (H // 2, W // 2)."""
    height, width = pixels.shape
    edges = (-0.5 - width // 2, width - 0.5 - width // 2, -0.5 - height // 2, height - 0.5 - height // 2)
    low, high = limits
    image = panel.imshow(
        pixels.numpy(), origin="lower", extent=tuple(scale * edge for edge in edges), cmap=cmap, vmin=low, vmax=high,
        interpolation="nearest",
    )  # fmt: skip
    panel.grid(visible=False)
    panel.tick_params(labelsize=7, length=2)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(MaxNLocator(3))
    return image


def label_edges(panels: npt.NDArray[Any]) -> None:
    """Axes named at the left and at the bottom of a sheet, numbers nowhere else."""
    for panel in panels[:-1].ravel():
        panel.tick_params(labelbottom=False)
    for panel in panels[:, 1:].ravel():
        panel.tick_params(labelleft=False)
    for panel in panels[-1]:
        panel.set_xlabel("x [arcsec]", fontsize=8, labelpad=1)
    for panel in panels[:, 0]:
        panel.set_ylabel("y [arcsec]", fontsize=8, labelpad=1)


def bar(figure: Figure, image: AxesImage, panels: Any, label: str) -> None:
    """The colour scale of a row of panels."""
    drawn = figure.colorbar(image, ax=list(np.ravel(panels)), aspect=14, pad=0.01, shrink=0.95)
    drawn.set_label(label, fontsize=8)
    drawn.ax.tick_params(labelsize=7, length=2)
    drawn.ax.yaxis.set_major_locator(MaxNLocator(4))
    drawn.outline.set_visible(False)


def spread_of(pixels: torch.Tensor) -> tuple[float, float]:
    """Two figures of 1st and 99th percentile, for a scale that no clip gives."""
    low, high = np.percentile(pixels.numpy(), [1, 99])
    return float(f"{low:.2g}"), float(f"{high:.2g}")


def order(examples: Examples) -> Figure:
    """One stamp through all operations, for both places of the normalisation."""
    stamp, key = examples.named("crowded field"), examples.ids[3:4]
    epochs = (epoch for epoch in range(16) if not torch.equal(seen(stamp, key, epoch=epoch), stamp))
    epoch = next(epochs, 0)  # the first whose view is not the stamp itself
    stored, clip = spread_of(stamp[0, BAND]), images.RAW_ROBUST_CLIP
    normalised, cropped = images.raw_robust(stamp), images.crop_centre(stamp, SIDE)
    prepared = {"raw_robust": images.crop_centre(normalised, SIDE), "residual": images.residual(cropped)}
    second = {"raw_robust": ("normalised", normalised, clip), "residual": ("cropped", cropped, stored)}
    third = {"raw_robust": "cropped", "residual": "normalised"}
    disc = (MaskStage(from_epoch=0, radius=5.0, probability=1.0),)
    figure, panels = sheet(2, 5, 2.9)
    for row, (name, x) in zip(panels, prepared.items(), strict=True):
        steps = [("stored", stamp, stored), second[name], (third[name], x, clip)]
        steps += [
            ("turned", seen(x, key, (), epoch), clip),
            ("core hidden", seen(x, key, disc, epoch), clip),
        ]
        for panel, (title, pixels, limits) in zip(row, steps, strict=True):
            image = show(panel, pixels[0, BAND], examples.scale, limits)
            panel.set_title(title, fontsize=8)
        bar(figure, image, row, f"{name}\n[{UNITS[name]}]")
    label_edges(panels)
    for panel in panels[:-1].ravel():
        panel.tick_params(labelbottom=True)
    figure.suptitle(f"Order of operations: one stamp (n = 1), band {BAND_NAME}\nbefore the normalisation {stored[0]:g} (black) to "
                    f"{stored[1]:g} (white) nanomaggies", fontsize=9)  # fmt: skip
    return figure


def seen(x_NCHW: torch.Tensor, key: torch.Tensor, masking: tuple[MaskStage, ...] = (), epoch: int = 0) -> torch.Tensor:
    """The D4 view of stamps in an epoch, masked or not."""
    views = Views(view="d4", masking=masking)
    return augment.augment(x_NCHW, views, seed=SEED, epoch=epoch, cutout_ids=key, indices=key)


def normalised_as(examples: Examples, name: str, stamps: torch.Tensor) -> torch.Tensor:
    """(n, 3, `SIDE`, `SIDE`) by the recipe of one normalisation; `rgb8` of the 8-bit pictures of the stamps."""
    if name == "stored":
        return images.crop_centre(planes_first(stamps), SIDE)
    if name == "rgb8":
        pictures = np.stack([to_rgb(stamp, "nanomaggy")[::-1] for stamp in stamps.numpy()])
        stamps = torch.from_numpy(pictures)
    recipe = ImageRecipe(normalisation=name, crop=SIDE, statistics=examples.statistics)
    return recipe.prepare(stamps)


def normalisations(examples: Examples) -> Figure:
    """Every normalisation of the same stamps, one row and one colour scale each."""
    clips = {"raw_robust": images.RAW_ROBUST_CLIP, "per_sample_robust": images.PER_SAMPLE_CLIP,
             "residual": images.PER_SAMPLE_CLIP, "rgb8": (-1.0, 1.0)}  # fmt: skip
    figure, panels = sheet(len(UNITS), len(examples.names), 8.8)
    for row, (name, unit) in zip(panels, UNITS.items(), strict=True):
        planes = normalised_as(examples, name, examples.stamps)[:, BAND]
        for panel, pixels in zip(row, planes, strict=True):
            image = show(panel, pixels, examples.scale, clips.get(name) or spread_of(planes))
        bar(figure, image, row, f"{name}\n[{unit}]")
    for panel, name in zip(panels[0], examples.names, strict=True):
        panel.set_title(name, fontsize=9)
    label_edges(panels)
    figure.suptitle(f"Normalisations of n = {len(examples.names)} stamps, band {BAND_NAME}, {SIDE} pixels", fontsize=10)
    return figure


def residual(examples: Examples) -> Figure:
    """Stamp, median of its rings, and what is left."""
    names = [name for name in examples.names if name != "faint arc"]
    figure, panels = sheet(len(names), 4, 4.9, width_ratios=(1, 1, 1, 1.15))
    for row, name in zip(panels, names, strict=True):
        stamp = images.crop_centre(examples.named(name), SIDE)
        round_part, left = images.azimuthal_median(stamp), images.residual(stamp)
        limits = spread_of(stamp[0, BAND])
        show(row[0], stamp[0, BAND], examples.scale, limits)
        show(row[1], round_part[0, BAND], examples.scale, limits)
        image = show(row[2], left[0, BAND], examples.scale, (-10, 10), DIFFERENCE)
        row[0].set_ylabel(f"{name}\ny [arcsec]", fontsize=8, labelpad=1)
        middle = stamp.shape[2] // 2
        reach = examples.scale * np.arange(middle + 1)
        row[3].plot(reach, stamp[0, BAND, middle, middle:], color=ACCENT, lw=1, label="pixels to the right")
        row[3].plot(reach, round_part[0, BAND, middle, middle:], color=OTHER, lw=1.4, label="ring median")
        row[3].set_title(f"{limits[0]:g} to {limits[1]:g} nmgy", fontsize=7, pad=2)
        row[3].tick_params(labelsize=7, length=2)
        row[3].yaxis.set_major_locator(MaxNLocator(4))
        row[3].yaxis.tick_right()
        row[3].set_ylabel("nanomaggy per pixel", fontsize=7, labelpad=1)
        row[3].yaxis.set_label_position("right")
        row[3].set_box_aspect(1)
    for panel in panels[:, 1:3].ravel():
        panel.tick_params(labelleft=False)
    for panel in panels[:-1].ravel():
        panel.tick_params(labelbottom=False)
    for panel, title in zip(panels[0], ("stamp", "ring median", "what is left"), strict=False):
        panel.set_title(title, fontsize=8)
    for panel in panels[-1]:
        panel.set_xlabel("x [arcsec]", fontsize=8, labelpad=1)
    panels[-1, 3].set_xlabel("radius [arcsec]", fontsize=8, labelpad=1)
    figure.legend(
        *panels[0, 3].get_legend_handles_labels(), frameon=False, fontsize=7, ncols=2, loc="outside lower right"
    )
    drawn = figure.colorbar(image, ax=list(panels[-1, :3]), orientation="horizontal", aspect=40, pad=0.02, shrink=0.8)
    drawn.set_label("what is left [sigma]", fontsize=8)
    drawn.ax.tick_params(labelsize=7, length=2)
    figure.suptitle(
        f"residual of n = {len(names)} stamps, band {BAND_NAME}; grey scale of a row above its curve",
        fontsize=9,
    )
    return figure


def crop(examples: Examples) -> Figure:
    """The stamp with its crops, and what a flip does to the centre of an odd and of an even one."""
    stamp = examples.named("elongated host")
    figure = Figure(figsize=(WIDTH_INCHES, 3.2), layout="constrained")
    panels = figure.subplot_mosaic([["whole", "63", "63 flipped"], ["whole", "64", "64 flipped"]],
                                   width_ratios=(2, 1, 1))  # fmt: skip
    limits = spread_of(stamp[0, BAND])
    show(panels["whole"], stamp[0, BAND], examples.scale, limits)
    panels["whole"].set_title(f"{stamp.shape[2]} pixels, crops 64 and 63", fontsize=9)
    for size, colour, style in ((64, LENS, "-"), (63, "#56B4E9", "--")):
        corner = examples.scale * (-0.5 - size // 2)
        side = examples.scale * size
        panels["whole"].add_patch(Rectangle((corner, corner), side, side, fill=False, color=colour, ls=style, lw=1.2))
        kept = images.crop_centre(stamp, size)
        for name, pixels in ((f"{size}", kept), (f"{size} flipped", kept.flip(3))):
            zoomed_core(panels[name], pixels[0, BAND], examples.scale, limits, colour)
            panels[name].set_title(name, fontsize=8)
    for panel in panels.values():
        panel.set_xlabel("x [arcsec]", fontsize=8, labelpad=1)
    panels["whole"].set_ylabel("y [arcsec]", fontsize=8, labelpad=1)
    figure.suptitle(f"Crop: one stamp (n = 1), band {BAND_NAME}, {limits[0]:g} (black) to {limits[1]:g} (white) nanomaggies\n"
                    "right: the central 11 pixels; square: pixel n // 2; cross: brightest pixel", fontsize=9)  # fmt: skip
    return figure


def zoomed_core(panel: Axes, pixels: torch.Tensor, scale: float, limits: tuple[float, float], colour: str) -> None:
    """The 11 pixels about pixel n // 2, with that pixel and the brightest of them marked."""
    middle = pixels.shape[0] // 2
    core = pixels[middle - 5 : middle + 6, middle - 5 : middle + 6]
    show(panel, pixels, scale, (limits[0], float(core.max())))
    y, x = divmod(int(core.argmax()), 11)
    panel.plot(scale * (x - 5), scale * (y - 5), "x", color=LENS, ms=7, mew=1.8)
    panel.add_patch(Rectangle((-0.5 * scale, -0.5 * scale), scale, scale, fill=False, color=colour, lw=1.4))
    panel.set(xlim=(-5.5 * scale, 5.5 * scale), ylim=(-5.5 * scale, 5.5 * scale))


def d4_views(examples: Examples) -> Figure:
    """The eight views of one stamp; keys 0 to 7 give each once."""
    x = normalised_as(examples, "per_sample_robust", examples.stamps[3:4])
    keys = torch.arange(8)
    views = augment.d4(x.expand(8, -1, -1, -1), keys)
    figure, panels = sheet(2, 4, 3.1)
    for panel, pixels, key in zip(panels.ravel(), views[:, BAND], keys.tolist(), strict=True):
        image = show(panel, pixels, examples.scale, images.PER_SAMPLE_CLIP)
        parts = ["flip x"] * (key & 1) + ["flip y"] * (key >> 1 & 1) + ["turn"] * (key >> 2 & 3)
        panel.set_title(", ".join(parts) or "as stored", fontsize=8)
    bar(figure, image, panels, "per_sample_robust [sigma]")
    label_edges(panels)
    figure.suptitle(f"d4: the eight views of one stamp (n = 1), band {BAND_NAME}, {SIDE} pixels", fontsize=10)
    return figure


def affine_views(examples: Examples) -> Figure:
    """One stamp, and its view in seven epochs."""
    x, key = normalised_as(examples, "per_sample_robust", examples.stamps[3:4]), examples.ids[3:4]
    views = affine_config()
    shown = [x] + [augment.augment(x, views, seed=SEED, epoch=epoch, cutout_ids=key, indices=key) for epoch in range(7)]
    figure, panels = sheet(2, 4, 3.1)
    for number, (panel, pixels) in enumerate(zip(panels.ravel(), shown, strict=True)):
        image = show(panel, pixels[0, BAND], examples.scale, images.PER_SAMPLE_CLIP)
        panel.set_title(f"epoch {number - 1}" if number else "as stored", fontsize=8)
    bar(figure, image, panels, "per_sample_robust [sigma]")
    label_edges(panels)
    low, high = views.affine.zoom
    figure.suptitle(f"affine: up to {views.affine.rotate_degrees:g} degrees, zoom {low:g} to {high:g}; one stamp (n = 1), "
                    f"band {BAND_NAME}", fontsize=9)  # fmt: skip
    return figure


def affine_config() -> Views:
    """The defaults of `images.affine`."""
    return views_of(TrainingConfig.model_validate({"images": {"augment": "affine"}}))


def masking(examples: Examples) -> Figure:
    """One batch in two epochs of one recipe and in one of another; hidden cores have a ring around them."""
    x = normalised_as(examples, "residual", examples.batch)
    blocks = [("masking_stochastic_r5", 0), ("masking_stochastic_r5", 1), ("masking_stochastic_r3", 0)]
    figure = Figure(figsize=(WIDTH_INCHES, 4.8), layout="constrained")
    for part, (name, epoch) in zip(figure.subfigures(len(blocks), 1), blocks, strict=True):
        views = views_of(recipe_file(name))
        stage = augment.mask_stage(views.masking, epoch)
        assert stage is not None
        ids = examples.batch_ids
        hidden = hidden_cores(x, views, ids, epoch)
        view = augment.augment(x, views, seed=SEED, epoch=epoch, cutout_ids=ids, indices=ids)
        panels = part.subplots(2, BATCH // 2, squeeze=False)
        for panel, pixels, is_hidden in zip(panels.ravel(), view[:, BAND], hidden, strict=False):
            image = show(panel, pixels, examples.scale, FAINT)
            panel.set(xlim=(-4.5, 4.5), ylim=(-4.5, 4.5), xticks=(-3, 0, 3), yticks=(-3, 0, 3))
            panel.tick_params(labelbottom=False, labelleft=False)
            if is_hidden:
                mark_hidden(panel, examples.scale * stage.radius)
        for panel in panels[:, 0]:
            panel.tick_params(labelleft=True)
            panel.set_ylabel("y", fontsize=8, labelpad=1)
        bar(part, image, panels, "residual\n[sigma]")
        part.suptitle(
            f"r {stage.radius:g}, p {stage.probability:g}, epoch {epoch}: {sum(hidden)} of {len(hidden)} hidden",
            fontsize=9,
        )
    for panel in panels[-1]:
        panel.tick_params(labelbottom=True)
        panel.set_xlabel("x", fontsize=8, labelpad=1)
    figure.suptitle(f"Cores hidden in a batch of n = {len(x)}, band {BAND_NAME}; axes in arcsec", fontsize=10)
    return figure


def mark_hidden(panel: Axes, radius: float) -> None:
    """A ring around a hidden core."""
    panel.add_patch(Circle((0, 0), radius, fill=False, color=LENS, lw=1))


def hidden_cores(x_NCHW: torch.Tensor, views: Views, ids: torch.Tensor, epoch: int) -> list[bool]:
    """Whose core is hidden: what a batch of ones shows."""
    ones = torch.ones_like(x_NCHW[:, :1])
    view = augment.augment(ones, views, seed=SEED, epoch=epoch, cutout_ids=ids, indices=ids)
    return [bool(value == 0) for value in view[:, 0, view.shape[2] // 2, view.shape[3] // 2]]


def schedule(examples: Examples) -> Figure:
    """Radius and probability of the scheduled recipe over the epochs, and a stamp in each stage."""
    config = recipe_file("masking_scheduled")
    stages = views_of(config).masking
    epochs = np.arange(config.epochs)
    found = [stage for epoch in epochs if (stage := augment.mask_stage(stages, int(epoch)))]
    x = normalised_as(examples, "residual", examples.stamps[:1])
    figure = Figure(figsize=(WIDTH_INCHES, 3.7), layout="constrained")
    names = ["not hidden", *(f"r {stage.radius:g}, p {stage.probability:g}" for stage in stages)]
    panels = figure.subplot_mosaic([["time"] * len(names), names], height_ratios=(1.1, 1))
    time, second = panels["time"], panels["time"].twinx()
    edges = np.append(epochs, config.epochs)
    time.stairs([stage.radius for stage in found], edges, color=LENS, lw=2, baseline=None)
    second.stairs([stage.probability for stage in found], edges, color=OTHER, lw=2, ls="--", baseline=None)
    time.set(xlim=(0, config.epochs), ylim=(0, 8))
    second.set(ylim=(0, 1))
    time.set_xlabel("epoch", fontsize=9, labelpad=1)
    time.set_ylabel("radius [pixels], solid", color=LENS, fontsize=9)
    second.set_ylabel("probability, dashed", color=OTHER, fontsize=9)
    for axis in (time, second):
        axis.tick_params(labelsize=8)
    second.grid(visible=False)
    second.spines["right"].set_visible(True)
    shown = [x, *(augment.mask_core(x, stage.radius, torch.tensor([True])) for stage in stages)]
    for name, pixels, stage in zip(names, shown, (None, *stages), strict=True):
        image = show(panels[name], pixels[0, BAND], examples.scale, FAINT)
        panels[name].tick_params(labelleft=stage is None)
        if stage is not None:
            mark_hidden(panels[name], examples.scale * stage.radius)
        panels[name].set_title(name, fontsize=9)
        panels[name].set_xlabel("x [arcsec]", fontsize=8, labelpad=1)
    panels[names[0]].set_ylabel("y [arcsec]", fontsize=8, labelpad=1)
    bar(figure, image, [panels[name] for name in names], "residual [sigma]")
    figure.suptitle(f"masking_scheduled; one stamp (n = 1), band {BAND_NAME}, as each stage hides it", fontsize=9)
    return figure


def prepared_pairs(examples: Examples, rows: slice | list[int]) -> torch.Tensor:
    """Pairs (n, 6, h, w) by the paired recipe."""
    recipe = image_recipe(recipe_file("gen5_prime_paired"), examples.pair_layout)
    return recipe.prepare(examples.pairs[rows])


def paired(examples: Examples, place: int, what: str) -> Figure:
    """The six planes of one pair and their differences."""
    x = prepared_pairs(examples, [examples.shown_pairs[place]])[0]
    bands = examples.pair_layout.bands
    figure, panels = sheet(3, 3, 5.9)
    for row, (one, two) in zip(panels, pairs_of(bands), strict=True):
        for panel, plane in ((row[0], one), (row[1], two)):
            grey = show(panel, x[plane], examples.scale, images.PER_SAMPLE_CLIP)
            panel.set_title(bands[plane], fontsize=8, pad=2)
        colour = show(row[2], x[one] - x[two], examples.scale, (-5, 5), DIFFERENCE)
        row[2].set_title(f"{bands[one]} - {bands[two]}", fontsize=8, pad=2)
    label_edges(panels)
    for image, under, name in (
        (grey, panels[:, :2], "per_sample_robust [sigma]"),
        (colour, panels[:, 2:], "difference [sigma]"),
    ):
        drawn = figure.colorbar(image, ax=list(under.ravel()), orientation="horizontal", aspect=22, pad=0.01)
        drawn.set_label(name, fontsize=8)
        drawn.ax.tick_params(labelsize=7, length=2)
    figure.suptitle(f"{what} (n = 1 pair)", fontsize=10)
    return figure


def pair_noise(examples: Examples) -> Figure:
    """Scatter of stamp - control of all training pairs, by label."""
    scatter = difference_scatter(examples)
    figure, ((axes,),) = sheet(1, 1, 2.5)
    edges = np.geomspace(1e-3, 3, 45)
    for label, colour, style in ((1, LENS, "-"), (0, OTHER, "--")):
        of_label = scatter[examples.pair_labels == label].clip(1e-3)
        counts, _ = np.histogram(of_label, edges)
        axes.stairs(counts, edges, color=colour, ls=style, lw=1.8, label=f"label {label} (n = {len(of_label)})")
    axes.set(xscale="log", xlim=(1e-3, 3))
    axes.set_xlabel(f"1.4826 MAD of stamp - control, band {BAND_NAME} [sigma]; first bin: and below", fontsize=8)
    axes.set_ylabel("pairs per bin", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.legend(frameon=False, fontsize=9, loc="upper center")
    figure.suptitle("Noise left in the difference of a pair, after normalisation", fontsize=10)
    return figure


def difference_scatter(examples: Examples) -> npt.NDArray[np.float64]:
    """Robust scatter of stamp - control in one band, per training pair."""
    one, two = pairs_of(examples.pair_layout.bands)[BAND]
    parts = []
    for start in range(0, len(examples.pairs), 256):
        x = prepared_pairs(examples, slice(start, start + 256))
        flat = (x[:, one] - x[:, two]).flatten(1)
        parts.append((images.MAD_TO_SIGMA * images.median((flat - images.median(flat)).abs()))[:, 0])
    return torch.cat(parts).double().numpy()


PICTURES: dict[str, Callable[[Examples], Figure]] = {
    "order": order,
    "normalisations": normalisations,
    "residual": residual,
    "crop": crop,
    "d4": d4_views,
    "affine": affine_views,
    "masking": masking,
    "schedule": schedule,
    "paired_positive": lambda examples: paired(examples, 0, "Label 1: a host with an arc, its own host as control"),
    "paired_negative": lambda examples: paired(examples, 1, "Label 0: a host, another such host as control"),
    "pair_noise": pair_noise,
}


# --- numbers


def numbers(examples: Examples) -> dict[str, Any]:
    """What the guide states of these stamps."""
    found: dict[str, Any] = {
        "stamps": dict(zip(examples.names, examples.ids.tolist(), strict=True)),
        "training stamps": examples.training_rows,
        "sigma of the split, g r z": [round(float(value), 5) for value in examples.statistics.sigma],
    }
    return (
        found
        | clipped(examples)
        | scales(examples)
        | residual_numbers(examples)
        | view_numbers(examples)
        | pair_numbers(examples)
    )


def clipped(examples: Examples) -> dict[str, Any]:
    """Pixels at the upper clip in the central 15 pixels."""
    out = {}
    for name, limit in (("raw_robust", images.RAW_ROBUST_CLIP[1]), ("per_sample_robust", images.PER_SAMPLE_CLIP[1])):
        core = images.crop_centre(normalised_as(examples, name, examples.stamps), 15)[:, BAND]
        out[f"{name}: share of the central 15 x 15 pixels at the clip"] = shares(examples, core >= limit)
    return out


def scales(examples: Examples) -> dict[str, Any]:
    """What the galaxy does to its own scale, how much of the arcs is cut off, and what 0 means after `lanusse`."""
    whole, host = planes_first(examples.arcs), planes_first(examples.arc_hosts)
    ring = images.annulus(whole.shape[2], whole.shape[3], *images.ANNULUS_PIXELS)
    wider = deviation(images.crop_centre(whole, 64)[:, BAND].flatten(1)) / deviation(whole[:, BAND][:, ring])
    out: dict[str, Any] = {"MAD of the crop of 64 over that of the annulus, 5, 50, 95%": percentiles(wider)}
    arc = (whole - host)[:, BAND].clamp_min(0)
    for name, limit in (("raw_robust", images.RAW_ROBUST_CLIP[1]), ("per_sample_robust", images.PER_SAMPLE_CLIP[1])):
        clipped_away = normalised_as(examples, name, examples.arcs)[:, BAND] >= limit
        inside = images.crop_centre(arc[:, None], SIDE)[:, 0]
        share = (inside * clipped_away).sum(dim=(1, 2)) / inside.sum(dim=(1, 2))
        out[f"{name}: share of the arc's flux in pixels at the clip, 5, 50, 95%"] = percentiles(share)
    middle = SIDE // 2
    centre = examples.statistics.mean[BAND, middle, middle] / examples.statistics.sigma[BAND]
    return out | {"lanusse: mean stamp at its centre [sigma]": round(float(centre), 1)}


def percentiles(values: torch.Tensor) -> list[float]:
    """5, 50 and 95%."""
    return [round(float(value), 3) for value in np.nanpercentile(values.numpy(), [5, 50, 95])]


def shares(examples: Examples, mask_NHW: torch.Tensor) -> dict[str, float]:
    """Mean of a mask per named stamp."""
    means = mask_NHW.float().mean(dim=(1, 2)).tolist()
    return {name: round(value, 3) for name, value in zip(examples.names, means, strict=True)}


def residual_numbers(examples: Examples) -> dict[str, Any]:
    """How much of the arcs' light the residual keeps, and what it leaves of the elongated host."""
    with_arc, host = (images.crop_centre(planes_first(x), SIDE) for x in (examples.arcs, examples.arc_hosts))
    kept_light = (with_arc - images.azimuthal_median(with_arc)) - (host - images.azimuthal_median(host))
    left, whole = (light[:, BAND].flatten(1).norm(dim=1).numpy() for light in (kept_light, with_arc - host))
    share = (left / whole)[whole > 0]
    shown = [int(torch.argmax((examples.arcs == stamp).flatten(1).all(dim=1).int())) for stamp in examples.stamps]
    place = examples.names.index("elongated host")
    plain = images.residual(images.crop_centre(planes_first(examples.hosts[place : place + 1]), SIDE))[0, BAND]
    return {
        "residual: share of the arc's S/N left, 5, 50, 95%": np.percentile(share, [5, 50, 95]).round(3).tolist(),
        "residual: arcs": len(share),
        "residual: the same, shown": dict(zip(examples.names, (left / whole)[shown].round(2).tolist(), strict=True)),
        "residual: elongated host without arc, lowest and highest": [
            round(float(plain.min()), 1),
            round(float(plain.max()), 1),
        ],
        "residual: round Gaussian of 200 sigma, FWHM 5 pixels, largest": round(float(round_galaxy_left()), 1),
        "residual: centre pixel before scaling, largest": float(
            (with_arc - images.azimuthal_median(with_arc))[:, :, SIDE // 2, SIDE // 2].abs().max()
        ),
    }


def round_galaxy_left() -> torch.Tensor:
    """What is left of a round galaxy on noise of 1, at most: its slope inside a ring of one pixel."""
    radius = np.hypot(*(np.indices((SIDE, SIDE)) - SIDE // 2))
    noise = np.random.default_rng(SEED).normal(size=radius.shape)
    galaxy = torch.from_numpy(200.0 * np.exp(-4.0 * np.log(2.0) * (radius / 5.0) ** 2) + noise)
    return images.residual(galaxy.float()[None, None]).abs().max()


def view_numbers(examples: Examples) -> dict[str, Any]:
    """Noise after an affine view, its empty pixels, and shares of hidden cores."""
    x = normalised_as(examples, "per_sample_robust", examples.batch)
    ids = examples.batch_ids
    ratios, empty = [], []
    for epoch in range(8):
        view = augment.augment(x, affine_config(), seed=SEED, epoch=epoch, cutout_ids=ids, indices=ids)
        empty.append(float((view[:, BAND] == 0).float().mean()))
        ring = images.annulus(SIDE, SIDE, 20, 28)
        before, after = (deviation(planes[:, BAND][:, ring]) for planes in (x, view))
        ratios.append((after / before).numpy())
    out: dict[str, Any] = {
        "affine: noise against before, median": round(float(np.median(np.concatenate(ratios))), 3),
        "affine: share of pixels from outside": round(float(np.mean(empty)), 3),
    }
    for name in ("masking_stochastic_r5", "masking_stochastic_r3"):
        config = recipe_file(name)
        views = views_of(config)
        per_epoch = [hidden_cores(x, views, ids, epoch) for epoch in range(config.epochs)]
        out[f"{name}: hidden in the batch, epochs 0 and 1"] = [sum(per_epoch[0]), sum(per_epoch[1])]
        out[f"{name}: share hidden over all epochs"] = round(float(np.mean(per_epoch)), 3)
    return out


def deviation(values: torch.Tensor) -> torch.Tensor:
    """MAD over the last axis, (n,)."""
    return images.median((values - images.median(values)).abs())[:, 0]


def pair_numbers(examples: Examples) -> dict[str, Any]:
    """What tells paired labels apart without looking for an arc."""
    scatter, labels = difference_scatter(examples), examples.pair_labels
    out: dict[str, Any] = {
        "pairs": {"label 1": int(labels.sum()), "label 0": int((labels == 0).sum())},
        "pairs: AUC of the scatter of the difference": round(float(roc_auc_score(labels, -scatter)), 4),
    }
    wider = (deviation(plane_of_pairs(examples, 0)) / deviation(plane_of_pairs(examples, 1))).numpy()
    out["pairs: MAD of stamp over MAD of control, shown positive"] = round(float(wider[examples.shown_pairs[0]]), 3)
    out["pairs: the same, label 1, 5, 50, 95%"] = np.percentile(wider[labels == 1], [5, 50, 95]).round(3).tolist()
    for label in (1, 0):
        out[f"pairs: scatter of label {label}, 5, 50, 95%"] = (
            np.percentile(scatter[labels == label], [5, 50, 95]).round(4).tolist()
        )
    arcless, identical = examples.pairs.clone(), examples.pairs[labels == 0]
    arcless[labels == 1, ..., :3] = arcless[labels == 1, ..., 3:]
    identical = torch.cat([identical[..., :3], identical[..., :3]], dim=-1)
    with_identical = replace(
        examples,
        pairs=torch.cat([examples.pairs, identical]),
        pair_labels=np.append(labels, np.zeros(len(identical), np.int64)),
        pair_groups=np.append(examples.pair_groups, examples.pair_groups[labels == 0]),
    )
    return (
        out
        | gate_numbers(examples, "")
        | gate_numbers(replace(examples, pairs=arcless), ", label 1 without its arcs")
        | gate_numbers(with_identical, ", label 0 also with itself as control")
    )


def gate_numbers(examples: Examples, what: str) -> dict[str, float]:
    """AUC of the features of the gate `Pairs`, by learner."""
    labels, found = examples.pair_labels, {}
    x = prepared_pairs(examples, slice(None)).permute(0, 2, 3, 1).numpy()
    table = features.pair_differences(x, pairs_of(examples.pair_layout.bands))
    folds = gates.make_folds(labels, examples.pair_groups, SEED)
    for learner in ("logistic", "trees"):
        scores = gates.out_of_fold(table, labels, folds, learner, SEED)
        judged = np.isfinite(scores)
        auc = float(roc_auc_score(labels[judged], scores[judged]))
        found[f"pairs: AUC of the gate's features, {learner}{what}"] = round(auc, 3)
    return found


def plane_of_pairs(examples: Examples, member: int) -> torch.Tensor:
    """Pixels (n, k) in nanomaggies of the stamps (0) or the controls (1) of all pairs, in one band, cropped as paired."""
    plane = pairs_of(examples.pair_layout.bands)[BAND][member]
    return images.crop_centre(planes_first(examples.pairs[..., plane : plane + 1]), 64)[:, 0].flatten(1)


# --- writing


def save(figure: Figure, path: Path, dpi: int = DPI) -> None:
    """A PNG of few colours: noise does not compress, and a guide is read on a slow line too."""
    figure.savefig(path, dpi=dpi, facecolor="white")
    with Image.open(path) as picture:
        colours = picture.convert("RGB")
    red, green, blue = colours.split()
    grey = ImageChops.difference(red, green).getbbox() is None and ImageChops.difference(red, blue).getbbox() is None
    few = red if grey else colours.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def write_pictures(examples: Examples, output: Path, dpi: int = DPI, *, bare: bool = False) -> list[Path]:
    """Every picture, as ``preprocessing_NAME.png``; ``bare`` leaves out axes and the arrangement, for tests."""
    output.mkdir(parents=True, exist_ok=True)
    written = []
    with mpl.rc_context(RC | {"figure.facecolor": "white"}):
        for name, draw in PICTURES.items():
            written.append(output / f"preprocessing_{name}.png")
            figure = draw(examples)
            if bare:
                figure.set_layout_engine("none")
                for panel in figure.axes:
                    panel.set_axis_off()
            save(figure, written[-1], dpi)
    return written


def main(argv: list[str] | None = None) -> int:
    """Write the pictures, and the numbers to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unpaired", required=True, help="manifest of g r z")
    parser.add_argument("--paired", required=True, help="manifest of g r z g_ctrl r_ctrl z_ctrl")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder of the pictures")
    given = parser.parse_args(argv)
    examples = read_examples(given.unpaired, given.paired)
    write_pictures(examples, given.output)
    sys.stdout.write(json.dumps(numbers(examples), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
