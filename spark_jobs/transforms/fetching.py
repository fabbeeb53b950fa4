"""One task of the fetch: a group of requests becomes a part file and its ledger rows, or nothing (R-C2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lensdata import storage
from lensdata.config.cutouts import FetchCutoutsConfig
from lensdata.cutouts import quality
from lensdata.cutouts.request import CutoutRequest, make_request
from lensdata.cutouts.service import Fetched, RateLimiter, ServiceClient
from lensdata.hashing import pixel_hash
from lensdata.shards.layout import ImageLayout
from lensdata.shards.writer import ShardWriter
from lensdata.tables import BANDS, LEDGER, QUALITY, REQUEST

STORED, EXCLUDED, FAILED = "stored", "excluded", "failed"
PART_COLUMNS = [column.name for column in (*REQUEST, *QUALITY)] + ["pixel_hash"]


def layout(config: FetchCutoutsConfig) -> ImageLayout:
    """How the stamps of this configuration are stored."""
    shape = (config.size, config.size, len(config.bands))
    return ImageLayout(
        shape=shape,
        dtype="float32",
        bands=tuple(config.bands),
        unit="nanomaggy",
        pixscale_arcsec=config.pixscale_arcsec,
    )


def part_name(index: int) -> str:
    """File name of a part and of its ledger rows."""
    return f"part-{index:05d}.parquet"


def part_index(uri: str) -> int:
    """Number of a part, from the name of its file."""
    return int(uri.rsplit("/", 1)[-1].removeprefix("part-").removesuffix(".parquet"))


def fetch_parts(
    config: FetchCutoutsConfig, folder: str, tasks: int
) -> Callable[[int, Iterator[Any]], Iterable[tuple[int, int, int, int]]]:
    """The function of a task over groups ``(part index, [(cutout_id, source_id, ra, dec)])``.

    The job's rate is shared evenly over its ``tasks``, of which no more than that many exist, so their sum never exceeds it.
    """

    def run(_: int, groups: Iterator[Any]) -> Iterable[tuple[int, int, int, int]]:
        client = ServiceClient(config.service, RateLimiter(config.service.requests_per_second / tasks))
        try:
            for index, rows in groups:
                if storage.exists(storage.join(folder, "ledger", "dataset", part_name(index))):
                    continue  # published by an attempt of this task that was lost afterwards
                requests = [make_request(*row, config) for row in rows]
                yield (index, *_fetch_part(client, index, requests, config, folder))
        finally:
            client.close()

    return run


def _fetch_part(
    client: ServiceClient, index: int, requests: list[CutoutRequest], config: FetchCutoutsConfig, folder: str
) -> tuple[int, int, int]:
    with ThreadPoolExecutor(config.service.connections_per_task) as threads:
        fetched = list(threads.map(client.fetch, requests))
    rows, stamps = [], []
    for answer in fetched:
        row = ledger_row(answer, config)
        if row["outcome"] == STORED:
            assert answer.stamp is not None
            row |= {"part": part_name(index), "row": len(stamps), "pixel_hash": pixel_hash(answer.stamp)}
            stamps.append(answer.stamp)
        rows.append(row)
    if stamps:
        _write_part(index, [row for row in rows if row["outcome"] == STORED], np.stack(stamps), config, folder)
    write_ledger(index, rows, folder)  # last: its ledger rows publish a part
    outcomes = [row["outcome"] for row in rows]
    return outcomes.count(STORED), outcomes.count(EXCLUDED), outcomes.count(FAILED)


def ledger_row(answer: Fetched, config: FetchCutoutsConfig) -> dict[str, Any]:
    """The ledger's line for one request; the stamp is measured and, where it is bad, excluded with the reason."""
    request = answer.request
    row: dict[str, Any] = dict.fromkeys(LEDGER.names)
    row |= {
        "cutout_id": request.cutout_id, "source_id": request.source_id, "kind": request.kind, "request_hash": request.hash,
        "route": request.route, "layer": request.layer, "bands": request.bands, "outcome": FAILED, "reason": answer.reason,
        "survey": answer.survey, "version": answer.version, "attempts": answer.attempts, "seconds": answer.seconds,
        "status": answer.status, "bytes": answer.bytes,
    }  # fmt: skip
    if answer.stamp is None:
        return row
    found = quality.measure(answer.stamp, config.quality)
    by_band = dict(zip(request.bands, found.missing_frac, strict=True))
    row |= {f"missing_frac_{band}": by_band.get(band) for band in BANDS}
    row |= {"saturated_frac": found.saturated_frac, "edge_score": found.edge_score}
    reason = quality.exclusion_reason(found, request.bands, config.quality)
    return row | {"outcome": EXCLUDED if reason else STORED, "reason": reason}


def _write_part(index: int, rows: list[dict[str, Any]], stamps: Any, config: FetchCutoutsConfig, folder: str) -> None:
    schema = pa.schema([LEDGER.schema.field(name) for name in PART_COLUMNS])
    table = pa.Table.from_pylist([{name: row[name] for name in PART_COLUMNS} for row in rows], schema=schema)
    target = storage.join(folder, "parts", "dataset")
    with ShardWriter(target, layout(config), first_index=index, prefix="part", target_bytes=1 << 40) as writer:
        writer.add(table, stamps)


def write_ledger(index: int, rows: list[dict[str, Any]], folder: str) -> None:
    """Publish the ledger rows of a part, atomically."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=LEDGER.schema), sink)
    storage.write_bytes(storage.join(folder, "ledger", "dataset", part_name(index)), sink.getvalue().to_pybytes())
