"""A small fetch folder as fetch_cutouts leaves it, made without a server."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lensdata import storage, tables
from lensdata.hashing import pixel_hash
from lensdata.shards import ImageLayout, ShardWriter

LAYOUT = ImageLayout(shape=(24, 24, 3), dtype="float32", bands=("g", "r", "z"), unit="nanomaggy", pixscale_arcsec=0.262)
PART_COLUMNS = [column.name for column in (*tables.REQUEST, *tables.QUALITY)] + ["pixel_hash"]
FIRST_ID = 1000


def stamp_of(cutout_id: int) -> np.ndarray:
    """Pixels (24, 24, 3) that only this stamp has: noise, and a galaxy with a size of its own."""
    rng = np.random.default_rng(abs(cutout_id))
    y, x = np.mgrid[-12:12, -12:12]
    galaxy = np.exp(-np.hypot(x, y) / rng.uniform(1, 4))[:, :, None] * np.array([0.05, 0.1, 0.2])
    return (galaxy + rng.normal(0, 0.003, (24, 24, 3))).astype(np.float32)


def write_fetch(
    folder: str, parts: int = 4, per_part: int = 10, *, extras: bool = False, group_rows: int = 4
) -> list[int]:
    """Write parts and ledger; the third request of each part failed, the last of all was excluded; returns the stored keys."""
    key, stored = FIRST_ID, []
    for index in range(parts):
        rows = []
        for place in range(per_part):
            row = dict.fromkeys(tables.LEDGER.names) | {"cutout_id": key, "source_id": key, "kind": "plain"}
            row |= {"request_hash": f"h{key}", "route": "service", "layer": "ls-dr10", "bands": "grz"}
            last = index == parts - 1 and place == per_part - 1
            row |= {"outcome": "failed" if place == 2 else "excluded" if last else "stored"}
            row |= {
                "reason": "http_500" if place == 2 else "missing_g" if last else None,
                "attempts": 1,
                "seconds": 0.1,
            }
            rows.append(row)
            key += 1
        good = [row for row in rows if row["outcome"] == "stored"]
        name = f"part-{index:05d}.parquet"
        for place, row in enumerate(good):
            row |= {"part": name, "row": place, "pixel_hash": pixel_hash(stamp_of(row["cutout_id"]))}
            row |= {f"missing_frac_{band}": 0.0 for band in "grz"} | {"saturated_frac": 0.0, "edge_score": 0.1}
        _write_part(storage.join(folder, "parts", "dataset"), index, good, extras, group_rows)
        with storage.new_file(storage.join(folder, "ledger", "dataset", name)) as path:
            pq.write_table(pa.Table.from_pylist(rows, schema=tables.LEDGER.schema), path)
        stored += [row["cutout_id"] for row in good]
    finish(folder)
    return stored


def finish(folder: str) -> None:
    """Describe the tables of a fetch folder and mark it finished."""
    identity = ["cutout_id", "request_hash", "pixel_hash"]
    tables.finish_table(storage.join(folder, "parts"), identity=identity)
    rows, content = tables.finish_table(
        storage.join(folder, "ledger"), tables.LEDGER, identity=[*identity, "outcome", "reason"]
    )
    entry = {"schema_version": tables.SCHEMA_VERSION, "step": "fetch_cutouts", "rows": rows, "content": content}
    storage.write_json(storage.join(folder, "_table.json"), entry)
    storage.write_json(storage.join(folder, "_report.json"), {"rows": rows})
    storage.write_bytes(storage.join(folder, "_SUCCESS"), b"")


def _write_part(folder: str, index: int, rows: list[dict], extras: bool, group_rows: int) -> None:
    schema = pa.schema([tables.LEDGER.schema.field(name) for name in PART_COLUMNS])
    table = pa.Table.from_pylist([{name: row[name] for name in PART_COLUMNS} for row in rows], schema=schema)
    stamps = np.stack([stamp_of(row["cutout_id"]) for row in rows])
    if extras:
        invvar = [(1 / (1 + stamp)).astype(np.float32).tobytes() for stamp in stamps]
        field = pa.field("invvar", pa.binary(LAYOUT.nbytes), nullable=False, metadata={"shape": "[24, 24, 3]"})
        table = table.append_column(field, pa.array(invvar, pa.binary(LAYOUT.nbytes)))
    with ShardWriter(
        folder, LAYOUT, first_index=index, prefix="part", target_bytes=1 << 40, group_rows=group_rows
    ) as writer:
        writer.add(table, stamps)
