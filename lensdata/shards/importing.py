"""Turn a user's own stamps and labels into shards and a manifest, without Spark (R-C3).

    python -m lensdata.shards.importing --output imported inputs.stamps=stamps.npz inputs.labels=labels.csv

Stamps come as one NPZ with an array (n, H, W, bands), or as a folder of one NPZ (key `cutout`) or FITS file per
object. The output holds `shards/`, `manifest/`, which training reads, and `rejected/`: files that cannot be read, and
stamps in nanomaggies that fail the quality limits.
"""

from __future__ import annotations

import io
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lensdata import jobs, steps, storage, tables
from lensdata.config.training import ImportConfig
from lensdata.errors import InputError
from lensdata.hashing import pixel_hash, splitmix64
from lensdata.shards.foreign import UserStamps, measure_stamps, read_stamps
from lensdata.shards.layout import DTYPES, ImageLayout, Stamps
from lensdata.shards.writer import ShardWriter
from lensdata.steps import JobRun, Outcome

log = logging.getLogger(__name__)

WRITE_ROWS = 1024  # stamps handed to the writer at a time


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; returns its exit code."""
    return steps.run_job(jobs.find("import_stamps"), import_stamps, sys.argv[1:] if argv is None else list(argv))


def import_stamps(run: JobRun) -> Outcome:
    """Read, check, give folds and splits, write shards and manifest."""
    config: ImportConfig = run.config
    found = read_stamps(run.inputs["stamps"], config)
    layout = layout_for(found.stamps, config, run.inputs["stamps"])
    objects = read_objects(found, run.inputs.get("labels"), config)
    measured = measure_stamps(found.stamps, config)
    objects, rejected = drop_bad(objects, measured, found.unreadable)
    if run.test_limit is not None:
        objects = objects.iloc[: run.test_limit]
    objects = with_folds(objects, config)
    order = np.argsort(splitmix64(objects["cutout_id"].to_numpy(np.int64).view(np.uint64) ^ splitmix64(config.seed)))
    objects = objects.iloc[order]
    stamps = found.stamps[objects["stamp"].to_numpy()]
    quality = [measured[index] for index in objects["stamp"]]
    locations, pixels = write_shards(run.path("shards"), objects, stamps, layout, quality)
    rows, content = write_manifest(run.path("manifest"), objects, locations, pixels)
    tables.write_table(rejected, run.path("rejected"), tables.REJECTED_STAMPS)
    report = {
        "splits": {split: int(number) for split, number in objects["split"].value_counts().items()},
        "positives": int(objects["label"].sum()),
        "reasons": dict(Counter(rejected["reason"].to_pylist())),
        "layout": asdict(layout),
    }
    return Outcome(rows=rows, content=content, report=report)


def drop_bad(
    objects: pd.DataFrame, measured: list[dict[str, Any]], unreadable: list[str]
) -> tuple[pd.DataFrame, pa.Table]:
    """Objects with good stamps, and a row of `tables.REJECTED_STAMPS` for every other one.

    Raises
    ------
    InputError
        No stamp is left.
    """
    reason = np.array([row.get("reason") for row in measured], dtype=object)[objects["stamp"]]
    bad = objects[[value is not None for value in reason]]
    rows = [measured[stamp] | {"name": name} for stamp, name in zip(bad["stamp"], bad["name"], strict=True)]
    if len(bad) == len(objects):
        raise InputError(f"All {len(objects)} stamps fail the quality limits, the first with {reason[0]} (quality).")
    rows += [{"name": name, "reason": "unreadable"} for name in unreadable]
    return objects.drop(index=bad.index), pa.Table.from_pylist(rows, schema=tables.REJECTED_STAMPS.schema)


def layout_for(stamps: Stamps, config: ImportConfig, source: str) -> ImageLayout:
    """The layout of the user's stamps.

    Raises
    ------
    InputError
        Not (n, H, W, bands), or a type that is not stored.
    """
    if stamps.ndim != 4 or stamps.shape[3] != len(config.bands):
        raise InputError(
            f"{source}: stamps have shape {stamps.shape}, expected (n, height, width, {len(config.bands)}) for bands "
            f"{', '.join(config.bands)}."
        )
    if stamps.dtype.name not in DTYPES:
        raise InputError(
            f"{source}: stamps of type {stamps.dtype} cannot be stored; convert them to {', '.join(DTYPES)}."
        )
    _, height, width, planes = stamps.shape
    return ImageLayout(
        shape=(height, width, planes),
        dtype=stamps.dtype.name,
        bands=config.bands,
        unit=config.unit,
        pixscale_arcsec=config.pixscale_arcsec,
    )


def read_objects(found: UserStamps, labels_uri: str | None, config: ImportConfig) -> pd.DataFrame:
    """One row per stamp: its index `stamp`, `cutout_id`, `name`, `label`, and the user's columns that a manifest knows.

    Raises
    ------
    InputError
        No labels, a label other than 0 and 1, or a stamp without a row in the labels table.
    """
    objects = pd.DataFrame({"stamp": np.arange(len(found.names)), "name": found.names})
    if labels_uri is not None:
        objects = _join_table(objects, labels_uri, config)
    elif found.labels is not None:
        objects["label"] = found.labels
    elif config.default_label is not None:
        objects["label"] = config.default_label
    else:
        raise InputError(
            f"There are no labels: no array {config.label_key!r} beside the stamps, no inputs.labels=FILE, no default_label."
        )
    odd = objects[~objects["label"].isin([0, 1])]
    if len(odd):
        first = odd.iloc[0]
        raise InputError(
            f"Labels must be 0 or 1, found {first['label']} for stamp {first['name']!r} ({len(odd)} such labels)."
        )
    for column, allowed in (("split", ["train", "val", "test"]), ("fold", None)):
        if column in objects:
            wrong = objects[objects[column].isna() if allowed is None else ~objects[column].isin(allowed)]
            if len(wrong):
                first = wrong.iloc[0]
                raise InputError(
                    f"{labels_uri}: {column} = {first[column]} for stamp {first['name']!r}; "
                    f"expected {' or '.join(allowed) if allowed else 'a number in every row'}."
                )
    objects["label"] = objects["label"].astype("int8")
    if "cutout_id" not in objects:
        objects["cutout_id"] = np.arange(1, len(objects) + 1)
    if objects["cutout_id"].duplicated().any():
        raise InputError("cutout_id repeats in the labels table; it is the key of a stamp.")
    return objects


def with_folds(objects: pd.DataFrame, config: ImportConfig) -> pd.DataFrame:
    """Add `fold` (seeded, the same share of both classes in each) and `split`; columns that are there are kept."""
    if "fold" not in objects:
        key = splitmix64(objects["cutout_id"].to_numpy(np.int64).view(np.uint64) ^ splitmix64(~np.uint64(config.seed)))
        # Dealt out in random order, one class after the other: folds differ by one object of each class at most.
        order = np.lexsort((key, objects["label"]))
        fold = np.empty(len(objects), np.int8)
        fold[order] = np.arange(len(objects)) % config.num_folds
        objects = objects.assign(fold=fold)
    if "split" not in objects:
        val = (config.test_fold + 1) % config.num_folds
        split = np.where(objects["fold"] == config.test_fold, "test", np.where(objects["fold"] == val, "val", "train"))
        objects = objects.assign(split=split)
    return objects


def write_shards(
    folder: str, objects: pd.DataFrame, stamps: Stamps, layout: ImageLayout, quality: list[dict[str, Any]]
) -> tuple[pa.Table, list[str]]:
    """Write the stamps in the order given; returns where each went and the hash of its pixels."""
    hashes = [pixel_hash(stamp) for stamp in stamps]
    rows = pa.table(
        {
            "cutout_id": objects["cutout_id"].to_numpy(np.int64),
            "name": objects["name"].astype(str).tolist(),
            "kind": ["plain"] * len(objects),
            "route": ["import"] * len(objects),
            "bands": ["".join(layout.bands)] * len(objects),
            "pixel_hash": hashes,
        }
        | {column.name: pa.array([row.get(column.name) for row in quality], column.type) for column in tables.QUALITY}
    )
    with ShardWriter(storage.join(folder, "dataset"), layout) as writer:
        for start in range(0, len(objects), WRITE_ROWS):
            writer.add(rows.slice(start, WRITE_ROWS), stamps[start : start + WRITE_ROWS])
    tables.finish_table(folder, identity=["cutout_id", "pixel_hash"])
    return writer.locations, hashes


def write_manifest(folder: str, objects: pd.DataFrame, locations: pa.Table, hashes: list[str]) -> tuple[int, str]:
    """Write the manifest; its content identity covers the pixels too."""
    count = len(objects)
    columns: dict[str, Any] = {}
    for column in tables.MANIFEST.columns:
        if column.name in objects:
            columns[column.name] = pa.Array.from_pandas(objects[column.name], type=column.type)
        else:
            columns[column.name] = pa.nulls(count, column.type)
    columns["kind"] = pa.array(["plain"] * count)
    if "source_id" not in objects:
        columns["source_id"] = columns["cutout_id"]
    if "sample_weight" not in objects:
        columns["sample_weight"] = pa.array(np.ones(count, np.float32))
    columns["shard"] = pa.array([f"../shards/dataset/{name}" for name in locations["shard"].to_pylist()])
    columns["row_group"], columns["row"] = locations["row_group"], locations["row"]
    rows, _ = tables.write_table(pa.table(columns), folder, tables.MANIFEST)
    return rows, tables.add_to_content(folder, *sorted(hashes))


def _join_table(objects: pd.DataFrame, uri: str, config: ImportConfig) -> pd.DataFrame:
    """Join the labels table: by name where it has one, else row by row."""
    try:
        table = pd.read_csv(io.BytesIO(storage.read_bytes(uri)))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"Labels table {uri} cannot be read as CSV ({str(error).strip()}).") from error
    if config.label_key not in table:
        raise InputError(f"{uri} has no column {config.label_key!r} (label_key); it has {', '.join(table.columns)}.")
    known = [
        name
        for name in table.columns
        if name in tables.MANIFEST.names and name not in ("label", "shard", "row_group", "row")
    ]
    wanted = table[known].assign(label=table[config.label_key])
    if config.id_key not in table:
        if len(table) != len(objects):
            raise InputError(
                f"{uri} has {len(table)} rows for {len(objects)} stamps and no column {config.id_key!r} to join by."
            )
        return pd.concat([objects, wanted], axis=1)
    key = table[config.id_key].astype(str)
    if key.duplicated().any():
        raise InputError(f"{uri}: {config.id_key} {key[key.duplicated()].iloc[0]!r} is listed twice.")
    joined = objects.merge(wanted.assign(name=key), on="name", how="left", indicator=True)
    missing = joined.loc[joined["_merge"] != "both", "name"]
    if len(missing):
        raise InputError(f"{uri} has no row for stamp {missing.iloc[0]!r} ({len(missing)} stamps without a label).")
    return joined.drop(columns="_merge")


if __name__ == "__main__":
    sys.exit(main())
