"""A manifest of small stamps with folds, and scores made up for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lensdata import tables
from lensdata.shards import ImageLayout, ShardWriter
from lensdata.shards.derived import write_manifest

COUNT, FOLDS = 120, 3


@pytest.fixture
def rows() -> pd.DataFrame:
    """Every fourth a lens; of the others the first six in train are hidden lenses (``truth``)."""
    frame = pd.DataFrame({"cutout_id": np.arange(COUNT, dtype=np.int64) + 1000})
    frame["source_id"] = frame["cutout_id"]
    frame["label"] = (np.arange(COUNT) % 4 == 0).astype(np.int8)
    frame["split"] = np.where(np.arange(COUNT) < 80, "train", np.where(np.arange(COUNT) < 100, "val", "test"))
    frame["fold"] = (np.arange(COUNT) % FOLDS).astype(np.int8)
    frame["confuser"] = np.where((frame["label"] == 0) & (np.arange(COUNT) % 5 == 0), "ring", None)
    frame["tier"] = np.where(frame["label"] == 1, "A", None)
    frame["stratum"], frame["pool"] = "SER/3-5", np.where(frame["label"] == 1, None, "N1")
    frame["ra"], frame["dec"] = 10 + np.arange(COUNT) * 0.1, -5.0
    frame["lens_name"] = np.where(frame["label"] == 1, "DESI-1", None)
    hidden = frame.index[(frame["label"] == 0) & (frame["split"] == "train") & frame["confuser"].isna()][:6]
    frame["truth"] = frame["label"]
    frame.loc[hidden, "truth"] = 1
    return frame


@pytest.fixture
def manifest(tmp_path: Path, rows: pd.DataFrame) -> str:
    """The rows as a manifest on real shards."""
    return write(rows.drop(columns="truth"), tmp_path / "set")


def write(rows: pd.DataFrame, folder: Path, stamps: np.ndarray | None = None) -> str:
    layout = ImageLayout(shape=(15, 15, 3), dtype="float32", bands=("g", "r", "z"), unit="nanomaggy")
    if stamps is None:
        stamps = np.random.default_rng(1).normal(size=(len(rows), 15, 15, 3)).astype(np.float32)
    with ShardWriter(str(folder / "shards"), layout, group_rows=32) as writer:
        writer.add(pa.table({"cutout_id": rows["cutout_id"].to_numpy()}), stamps)
        writer.close()
        places = writer.locations.to_pandas()
    table = rows.merge(places, on="cutout_id").assign(sample_weight=np.float32(1))
    table["shard"] = "../shards/" + table["shard"]
    known = {column.name: column.type for column in tables.MANIFEST.columns}
    schema = pa.schema([(name, known[name]) for name in table.columns])
    write_manifest(pa.Table.from_pandas(table, schema=schema, preserve_index=False), str(folder / "manifest"))
    return str(folder / "manifest")


@pytest.fixture
def scores(tmp_path: Path, rows: pd.DataFrame) -> Callable[..., str]:
    """Writes a table of scores of some rows: lenses high, in-sample hidden ones as low as their label."""

    def make(name: str, fold: int | None = None, seed: int = 0, of: pd.DataFrame | None = None, **changes: Any) -> str:
        frame = rows if of is None else of
        rng = np.random.default_rng(seed)
        believed = frame["label"] if fold is None else frame["truth"]
        split = frame["split"]
        if fold is not None:
            split = pd.Series(np.where((frame["fold"] == fold) | (split == "test"), "test", "train"), frame.index)
        logit = np.where(believed == 1, 3.0, -3.0) + rng.normal(size=len(frame))
        table = pd.DataFrame({
            "run_id": name, "model": "made up", "fold": pd.array([fold] * len(frame), "Int8"), "cutout_id": frame["cutout_id"],
            "split": split, "label": frame["label"], "logit": logit.astype(np.float32), "score": 0.5, "tier": None,
            "sample_weight": 1.0,
        } | changes)  # fmt: skip
        folder = str(tmp_path / name)
        found = pa.Table.from_pandas(table, schema=tables.SCORES.schema, preserve_index=False)
        tables.write_table(found, folder, tables.SCORES)
        return folder

    return make
