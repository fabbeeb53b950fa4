"""Stamps and the ledger rows that publish them, for whoever fetches: tasks of Spark, or threads of one process (R-C2).

A part of stamps counts when its ledger rows are there. So a fetch that was killed anywhere goes on with what no row settles.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lensdata import storage
from lensdata.config.cutouts import FetchCutoutsConfig
from lensdata.cutouts import quality
from lensdata.cutouts.outcome import EXCLUDED, FAILED, STORED
from lensdata.cutouts.service import Fetched
from lensdata.hashing import pixel_hash
from lensdata.shards.layout import ImageLayout, Stamps
from lensdata.shards.writer import ShardWriter
from lensdata.tables import BANDS, LEDGER, QUALITY, REQUEST

# A fetch is what came, not when or how often it was asked for (docs/architecture.md, section 3).
LEDGER_IDENTITY = ["cutout_id", "request_hash", "outcome", "reason", "pixel_hash"]
READERS = 16  # files of the ledger read at once
PART_COLUMNS = [column.name for column in (*REQUEST, *QUALITY)] + ["pixel_hash"]
EXTRA_DTYPES = {"invvar": "float32", "maskbits": "int32"}


def part_index(uri: str) -> int:
    """Number of a part, from the name of its file; -1 for the ledger rows of an earlier batch.

    >>> part_index("x/part-00007-1a2b3c4d.parquet")
    7
    """
    prefix, number, *_ = uri.rsplit("/", 1)[-1].removesuffix(".parquet").split("-")
    return int(number) if prefix == "part" else -1


def layout(config: FetchCutoutsConfig) -> ImageLayout:
    """How the stamps of this configuration are stored."""
    return ImageLayout(
        shape=(config.size, config.size, len(config.bands)),
        dtype=config.dtype,
        bands=tuple(config.bands),
        unit="nanomaggy",
        pixscale_arcsec=config.pixscale_arcsec,
    )


def publish(
    folder: str, ledger_uri: str, index: int, answers: Sequence[Fetched], config: FetchCutoutsConfig
) -> tuple[dict[str, int], dict[str, float]]:
    """Write the part, then the ledger rows that publish it; returns counts per outcome and what storing lost.

    Parameters
    ----------
    folder
        Of the fetch; stamps go to ``parts/dataset`` in it.
    ledger_uri
        File of the ledger rows; where it is there already, nothing is published.
    index
        Number of the part.
    """
    rows = [ledger_row(answer, config) for answer in answers]
    stored = [(row, answer) for row, answer in zip(rows, answers, strict=True) if row["outcome"] == STORED]
    loss: dict[str, float] = {}
    if stored:
        exact = np.stack([answer.stamp for _, answer in stored if answer.stamp is not None])
        stamps = exact.astype(config.dtype, copy=False)
        loss = storing_loss(exact, stamps)
        for place, (row, _) in enumerate(stored):
            row |= {"row": place, "pixel_hash": pixel_hash(stamps[place])}
        name = _write_part(folder, index, stored, stamps, config)
        for row, _ in stored:
            row["part"] = name
    ledger = ledger_bytes(pa.Table.from_pylist(rows, schema=LEDGER.schema))
    # Where another attempt of this task was faster, its rows stand, and our part is removed as an orphan in the end.
    if not rows or not storage.write_new(ledger_uri, ledger):
        return {}, {}
    outcomes = [row["outcome"] for row in rows]
    return {name: outcomes.count(name) for name in (STORED, EXCLUDED, FAILED)}, loss


def ledger_row(answer: Fetched, config: FetchCutoutsConfig) -> dict[str, Any]:
    """The ledger's line for one request; the stamp is measured and, where it is bad, excluded with the reason."""
    request, tally = answer.request, answer.tally
    row: dict[str, Any] = dict.fromkeys(LEDGER.names)
    row |= {
        "cutout_id": request.cutout_id, "source_id": request.source_id, "kind": request.kind, "request_hash": request.hash,
        "route": request.route, "layer": request.layer, "bands": request.bands, "outcome": FAILED, "reason": answer.reason,
        "survey": answer.survey, "version": answer.version, "attempts": tally.attempts, "seconds": tally.seconds,
        "status": tally.status, "bytes": tally.bytes,
    }  # fmt: skip
    if answer.offset is not None:
        row |= {"offset_x": answer.offset[0], "offset_y": answer.offset[1]}
    if answer.stamp is None:
        return row
    found = quality.measure(answer.stamp, config.quality)
    by_band = dict(zip(request.bands, found.missing_frac, strict=True))
    row |= {f"missing_frac_{band}": by_band.get(band) for band in BANDS}
    row |= {"saturated_frac": found.saturated_frac, "edge_score": found.edge_score}
    reason = quality.exclusion_reason(found, request.bands, config.quality)
    return row | {"outcome": EXCLUDED if reason else STORED, "reason": reason}


def storing_loss(exact: Stamps, stamps: Stamps) -> dict[str, float]:
    """What a smaller type costs: largest error, and its root mean square over the pixel noise (both per part)."""
    if exact.dtype == stamps.dtype:
        return {}
    error = stamps.astype(np.float32) - exact
    noise = 1.4826 * np.median(np.abs(exact - np.median(exact, axis=(1, 2), keepdims=True)), axis=(1, 2))
    scaled = error.std(axis=(1, 2)) / np.where(noise > 0, noise, np.inf)
    return {"largest_error_nmgy": float(np.nanmax(np.abs(error))), "rms_error_over_noise": float(np.nanmax(scaled))}


def _write_part(
    folder: str, index: int, stored: list[tuple[dict[str, Any], Fetched]], stamps: Stamps, config: FetchCutoutsConfig
) -> str:
    """Write the stamps under a name that tells the content: attempts that got other answers never overwrite each other."""
    schema = pa.schema([LEDGER.schema.field(name) for name in PART_COLUMNS])
    table = pa.Table.from_pylist([{name: row[name] for name in PART_COLUMNS} for row, _ in stored], schema=schema)
    for extra in config.extras:
        values = np.stack([answer.extras[extra] for _, answer in stored]).astype(EXTRA_DTYPES[extra])
        table = table.append_column(*_extra_column(extra, values))
    with tempfile.TemporaryDirectory() as scratch:
        writer = ShardWriter(scratch, layout(config), first_index=index, prefix="part", target_bytes=1 << 40)
        with writer:
            writer.add(table, stamps)
        info = writer.shards[0]
        name = f"part-{index:05d}-{info.sha256[:8]}.parquet"
        storage.upload_file(Path(scratch) / info.name, storage.join(folder, "parts", "dataset", name))
    return name


def _extra_column(name: str, values: Stamps) -> tuple[pa.Field, pa.Array]:
    """An array per stamp as fixed-size bytes; shape and type stand in the field's metadata."""
    size = values[0].nbytes
    meaning = {"shape": str(list(values.shape[1:])), "dtype": str(values.dtype)}
    column = pa.Array.from_buffers(pa.binary(size), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])
    return pa.field(name, pa.binary(size), nullable=False, metadata=meaning), column


def ledger_bytes(rows: pa.Table) -> bytes:
    """Ledger rows as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    return bytes(sink.getvalue())


def read_ledger(ledger: str, columns: list[str] | None = None) -> dict[str, pa.Table]:
    """The files of a ledger, side by side: thousands of small ones, each a few round trips to a store."""
    names = storage.list_files(ledger, ".parquet")
    with ThreadPoolExecutor(READERS) as threads:
        read = threads.map(lambda name: pq.read_table(storage.open_arrow(name), columns=columns), names)
        return dict(zip(names, read, strict=True))


def settled_ids(ledger: str, token: str | None = None) -> set[int]:
    """Stamps that need no request: stored, excluded, or given up by the run of that token.

    Failures of earlier runs are asked for again: what could not be had in an outage is no final word.
    """
    found: set[int] = set()
    for name, rows in read_ledger(ledger, ["cutout_id", "outcome"]).items():
        ours = token is not None and name.endswith(f"-{token}.parquet")
        final = rows if ours else rows.filter(pc.not_equal(rows["outcome"], FAILED))
        found.update(final["cutout_id"].to_pylist())
    return found


def keep_one_row_per_stamp(ledger: str) -> None:
    """Take out failures that a later run asked for again, and what an orphan of a killed run published after this run had looked.

    Of a stamp's rows a failure yields to any other and an earlier failure to a later one; else the first file's row stays.
    """
    found = read_ledger(ledger, ["cutout_id", "outcome"])
    best: dict[int, tuple[bool, int, str]] = {}
    for place, (name, rows) in enumerate(found.items()):
        for key, outcome in zip(rows["cutout_id"].to_pylist(), rows["outcome"].to_pylist(), strict=True):
            failed = outcome == FAILED
            rank = (failed, -place if failed else place, name)
            best[key] = min(best.get(key, rank), rank)
    for name, rows in found.items():
        kept = [best[key][2] == name for key in rows["cutout_id"].to_pylist()]
        if not any(kept):
            storage.remove(name)
        elif not all(kept):
            storage.write_bytes(name, ledger_bytes(pq.read_table(storage.open_arrow(name)).filter(pa.array(kept))))


def remove_orphans(parts: str, ledger: pa.Table) -> None:
    """Remove part files that no ledger row names: their tasks were killed before they published."""
    named = set(ledger["part"].to_pylist())
    for uri in storage.list_files(storage.join(parts, "dataset")):
        if uri.rsplit("/", 1)[-1] not in named:
            storage.remove(uri)
