"""Simulated sets of stamps in which the label is in the arcs alone, or in a shortcut that was planted (R-E4)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lensdata import storage, tables
from lensdata.shards import ImageLayout, ShardWriter
from lensdata.shards.manifests import read_manifest

BANDS = ("g", "r", "z")
PIXSCALE = 0.262
NOISE = np.array([0.006, 0.009, 0.02])  # nanomaggies per pixel, about a median field of DR10
COLOURS = np.array([0.12, 0.45, 1.0])  # g, r, z flux of a red galaxy
ARC_COLOURS = np.array([0.7, 0.9, 1.0])
SKY_SCATTER = 0.05  # of the sky level, in units of the noise
DEPTH_SCATTER = 0.15  # of ln(noise) over fields


@dataclass(frozen=True)
class Planted:
    """Stamps (n, H, W, 3) in nanomaggies, labels, sky folds and catalogue rows of n objects with alike hosts."""

    stamps: np.ndarray
    labels: np.ndarray
    folds: np.ndarray
    rows: pd.DataFrame


def clean_set(count: int, seed: int, size: int = 63, arc_share: float = 0.003) -> Planted:
    """Hosts of one population in fields of one population; every second one has a weak arc and label 1."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % 2)
    depth = np.exp(rng.normal(0, DEPTH_SCATTER, (count, 3)))
    flux = 10 ** rng.normal(1.2, 0.25, count)  # nanomaggies in z, magnitude 19.5
    radius = 10 ** rng.normal(0.15, 0.15, count)  # arcsec
    sersic = rng.uniform(2, 5, count)
    axis_ratio = rng.uniform(0.5, 1, count)
    colours = COLOURS * np.exp(rng.normal(0, 0.1, (count, 3)) * [1, 1, 0])
    hosts = _light(size, radius, sersic, axis_ratio, rng.uniform(0, np.pi, count)) * flux[:, None, None]
    arcs = _arcs(size, rng.uniform(1.0, 2.0, count), rng.uniform(0, 2 * np.pi, count))
    arcs *= (labels * arc_share * flux)[:, None, None]
    sigma = (NOISE * depth).astype(np.float32)
    stamps = rng.standard_normal((count, size, size, 3), np.float32) * sigma[:, None, None]
    stamps += hosts[..., None] * colours[:, None, None].astype(np.float32)
    stamps += arcs[..., None] * ARC_COLOURS.astype(np.float32)
    stamps += (rng.normal(0, SKY_SCATTER, (count, 3)) * sigma)[:, None, None].astype(np.float32)
    rows = pd.DataFrame({"type": rng.choice(["SER", "DEV", "REX"], count), "shape_r": radius, "sersic": sersic})
    rows["axis_ratio"], rows["ebv"], rows["dec"] = axis_ratio, rng.uniform(0, 0.1, count), rng.uniform(-60, 30, count)
    magnitudes = 22.5 - 2.5 * np.log10(flux[:, None] * colours) + rng.normal(0, 0.02, (count, 3))
    for place, band in enumerate(BANDS):
        rows[f"mag_{band}"] = magnitudes[:, place]
        rows[f"psfsize_{band}"] = rng.uniform(0.9, 1.8, count)
        rows[f"nobs_{band}"] = rng.poisson(6, count) + 1
        rows[f"psfdepth_{band}"] = 1000 / depth[:, place] ** 2
        rows[f"missing_frac_{band}"] = 0.0
    rows["gr"], rows["rz"] = rows["mag_g"] - rows["mag_r"], rows["mag_r"] - rows["mag_z"]
    rows["route"], rows["edge_score"] = rng.choice(["service", "tiles"], count), rng.uniform(0.05, 0.1, count)
    return Planted(stamps, labels, rng.integers(0, 5, count), rows)


def with_depth(found: Planted, deeper: float = 0.9) -> Planted:
    """Positives lie in deeper fields: the noise of the others is 1 / ``deeper`` times what it was, and their rows say so."""
    others = found.labels == 0
    stamps, rows = found.stamps.copy(), found.rows.copy()
    stamps[others] += np.float32(np.sqrt(1 / deeper**2 - 1)) * _fresh(stamps[others], 1) * _noise_of(stamps[others])
    for band in BANDS:
        rows.loc[others, f"psfdepth_{band}"] *= deeper**2
    return replace(found, stamps=stamps, rows=rows)


def with_bright_core(found: Planted, share: float = 0.06) -> Planted:
    """A share of the light of the innermost pixels is added there again in positives, and the catalogue does not know."""
    stamps, centre = found.stamps.copy(), found.stamps.shape[1] // 2
    near = np.hypot(*(np.indices(stamps.shape[1:3]) - centre)) < 2
    flux = 10 ** (0.4 * (22.5 - found.rows["mag_z"].to_numpy()))
    added = (flux * share / near.sum() * found.labels)[:, None, None] * near
    return replace(found, stamps=stamps + (added[..., None] * COLOURS).astype(np.float32))


def with_route(found: Planted) -> Planted:
    """Most positives came by one route, most others by the other."""
    rng = np.random.default_rng(2)
    told = np.where(rng.random(len(found.labels)) < 0.8, found.labels, 1 - found.labels)
    return replace(found, rows=found.rows.assign(route=np.where(told == 1, "service", "tiles")))


def with_texture(found: Planted, share: float = 0.1) -> Planted:
    """Noise is added to all, a tenth of the variance; that of positives is correlated along rows, as resampling does.

    The light is left alone: moving a part of it by a pixel would be a second shortcut.
    """
    fresh = _fresh(found.stamps, 3)
    correlated = (fresh + np.roll(fresh, 1, axis=2)) / np.float32(np.sqrt(2))
    added = np.where((found.labels == 1)[:, None, None, None], correlated, fresh)
    return replace(found, stamps=found.stamps + np.float32(np.sqrt(share)) * added * _noise_of(found.stamps))


def with_constant(found: Planted, of_noise: float = 0.1) -> Planted:
    """A constant is added to the pixels of positives."""
    added = (found.labels[:, None] * of_noise * NOISE).astype(np.float32)
    return replace(found, stamps=found.stamps + added[:, None, None])


def plant_core(manifest_uri: str, output: str, fraction: float, radius: float = 3.0) -> str:
    """A copy of a manifest and its stamps in which every stamp of label 1 has more light in its core; returns its folder.

    Parameters
    ----------
    manifest_uri
        A manifest of g, r, z stamps.
    output
        Gets ``shards/`` and ``manifest/``, every column as it was.
    fraction
        Light added per band within ``radius`` pixels of the central one, as a share of what is there above the sky, spread
        evenly; a tenth of the sky noise at the least, for hosts without light.
    """
    found = read_manifest(manifest_uri)
    stamps, lens = found.stamps().copy(), found.column("label") == 1
    height, width = stamps.shape[1:3]
    y, x = np.indices((height, width))
    core = np.hypot(y - height // 2, x - width // 2) < radius
    sky = np.median(stamps, axis=(1, 2))
    light = stamps[:, core].mean(axis=1) - sky
    added = np.maximum(fraction * light, 0.1 * fraction * _noise_of(stamps)[:, 0, 0]) * lens[:, None]
    stamps += (added[:, None, None] * core[..., None]).astype(np.float32)
    with ShardWriter(storage.join(output, "shards", "dataset"), found.layout(), group_rows=64) as writer:
        writer.add(found.table.select(["cutout_id"]), stamps)
    tables.finish_table(storage.join(output, "shards"), identity=["cutout_id"])
    table, places = found.table, writer.locations
    shards = pa.array([f"../shards/dataset/{name}" for name in places["shard"].to_pylist()])
    for name, values in (("shard", shards), ("row_group", places["row_group"]), ("row", places["row"])):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), values)
    manifest = storage.join(output, "manifest")
    with storage.new_file(storage.join(manifest, "dataset", "part-00000.parquet")) as path:
        pq.write_table(table, path)
    tables.finish_table(manifest)
    return manifest


def write_manifest(folder: str, found: Planted, group_rows: int = 64, **columns: object) -> str:
    """Shards and a manifest of a set, a row group after another; further manifest columns by name; returns the folder."""
    count, size = len(found.labels), found.stamps.shape[1]
    layout = ImageLayout(
        shape=(size, size, 3), dtype="float32", bands=BANDS, unit="nanomaggy", pixscale_arcsec=PIXSCALE
    )
    in_shards = ["route", "edge_score", *(f"missing_frac_{band}" for band in BANDS)]
    stored = pa.table({"cutout_id": np.arange(count)} | {name: found.rows[name] for name in in_shards})
    with ShardWriter(storage.join(folder, "shards"), layout, group_rows=group_rows) as writer:
        writer.add(stored, found.stamps.astype(np.float32))
    rows = found.rows.drop(columns=in_shards).assign(
        label=found.labels.astype(np.int8), fold=found.folds.astype(np.int8), kind="plain",
        split=np.array(["train", "train", "val", "test"])[np.arange(count) // 2 % 4],
    )  # fmt: skip
    places = writer.locations.to_pandas().assign(shard=lambda frame: "../shards/" + frame["shard"])
    manifest = storage.join(folder, "manifest")
    with storage.new_file(storage.join(manifest, "dataset", "part-00000.parquet")) as path:
        whole = pd.concat([places, rows.assign(**columns)], axis=1)
        pq.write_table(pa.Table.from_pandas(whole, preserve_index=False), path)
    tables.finish_table(manifest)
    return manifest


def _fresh(stamps: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(stamps.shape, np.float32)


def _noise_of(stamps: np.ndarray) -> np.ndarray:
    """Standard deviation of the outermost rows, (n, 1, 1, 3)."""
    return stamps[:, :8].std(axis=(1, 2), keepdims=True)


def _light(size: int, radius: np.ndarray, sersic: np.ndarray, axis_ratio: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Sersic-like light of unit flux (n, H, W), its centre smoothed by half an arcsec."""
    y, x = (np.indices((size, size)) - size // 2) * PIXSCALE
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    q = axis_ratio[:, None, None]
    along, across = x * cos + y * sin, y * cos - x * sin
    distance = np.sqrt(q * along**2 + across**2 / q + 0.25) / radius[:, None, None]
    index = sersic[:, None, None]
    light = np.exp(-(2 * index - 1 / 3) * (distance ** (1 / index) - 1))
    return (light / light.sum(axis=(1, 2), keepdims=True)).astype(np.float32)


def _arcs(size: int, radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Arcs of 60 degrees and unit flux (n, H, W) at a radius in arcsec."""
    y, x = (np.indices((size, size)) - size // 2) * PIXSCALE
    away = np.hypot(x, y) - radius[:, None, None]
    turned = np.angle(np.exp(1j * (np.arctan2(y, x) - angle[:, None, None])))
    light = np.exp(-0.5 * (away / 0.4) ** 2 - 0.5 * (turned / 0.5) ** 2)
    return (light / light.sum(axis=(1, 2), keepdims=True)).astype(np.float32)
