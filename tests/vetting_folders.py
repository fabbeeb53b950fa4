"""A manifest of a few stamps, a list of them, and sessions on both, for the tests of `lensdata vet`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from lensdata import storage, tables
from lensdata.shards import ImageLayout, ShardWriter
from lensdata.vetting.items import Request
from lensdata.vetting.session import Session, open_session
from tests.stamp_folders import LAYOUT, stamp_of

LENSES, OTHERS, GROUP_ROWS = 12, 48, 8
FIRST_ID = 5000


def write_manifest(
    folder: Path, *, lenses: int = LENSES, others: int = OTHERS, first: int = FIRST_ID, layout: ImageLayout = LAYOUT
) -> str:
    """A manifest whose first stamps are lenses, with names and positions; returns its folder."""
    keys = np.arange(first, first + lenses + others)
    with ShardWriter(str(folder / "shards" / "dataset"), layout, group_rows=GROUP_ROWS) as writer:
        stamps = np.stack([stamp_of(int(key)) for key in keys])[
            :, : layout.shape[0], : layout.shape[1], : layout.shape[2]
        ]
        writer.add(pa.table({"cutout_id": keys}), np.ascontiguousarray(stamps.astype(layout.dtype)))
    lens = keys < first + lenses
    columns = {field.name: pa.nulls(len(keys), field.type) for field in tables.MANIFEST.schema}
    places = writer.locations
    columns |= {name: places[name] for name in ("cutout_id", "row_group", "row")}
    columns["shard"] = pa.array([f"../shards/dataset/{name}" for name in places["shard"].to_pylist()])
    columns["source_id"], columns["label"] = pa.array(keys), pa.array(lens.astype(np.int8))
    columns["sample_weight"] = pa.array(np.ones(len(keys), np.float32))
    columns["split"], columns["kind"] = pa.array(["test"] * len(keys)), pa.array(["plain"] * len(keys))
    columns["ra"], columns["dec"] = pa.array(keys / 100.0), pa.array(-keys / 1000.0)
    columns["lens_name"] = pa.array(
        [f"DESI-{key}" if is_lens else None for key, is_lens in zip(keys, lens, strict=True)]
    )
    manifest = folder / "manifest"
    tables.write_table(pa.table(columns), str(manifest), tables.MANIFEST)
    return str(manifest)


def write_list(path: Path, keys: list[int], **columns: list[float]) -> str:
    """A CSV list; returns its path."""
    pacsv.write_csv(pa.table({"cutout_id": keys, **columns}), path)
    return str(path)


def begin(
    folder: Path, *, listed: int = 20, blind: bool = True, lenses: int = 4, random: int = 4, seed: int = 3
) -> Session:
    """A session on `listed` stamps of label 0, falling logits, with controls."""
    manifest = str(folder / "manifest")
    if not storage.exists(manifest):
        write_manifest(folder)
    keys = list(range(FIRST_ID + LENSES, FIRST_ID + LENSES + listed))
    rows = write_list(folder / "list.csv", keys, logit=[10.0 - key for key in range(listed)])
    request = Request(
        listed=rows, manifests=(manifest,), blind=blind, lenses=lenses, random=random, seed=seed, strict=True
    )
    return open_session(str(folder / "vetting"), request)


def keys_of(session: Session) -> set[int]:
    """The stamps of a session."""
    return set(session.cutout_ids.tolist())
