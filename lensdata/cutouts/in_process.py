"""Stamps at some positions, by threads of this process: hundreds, where a Spark session would take longer to start (R-C2).

The same requests, pace, checks, parts and ledger as `fetch_cutouts`; what a kill leaves is gone on with.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa

from lensdata import storage, tables
from lensdata.config.cutouts import FetchCutoutsConfig
from lensdata.cutouts.client import PoliteClient, require_reachable
from lensdata.cutouts.coordinator import LocalTurns, Stopped
from lensdata.cutouts.pace import Pace
from lensdata.cutouts.publishing import (
    LEDGER_IDENTITY,
    keep_one_row_per_stamp,
    part_index,
    publish,
    remove_orphans,
    settled_ids,
)
from lensdata.cutouts.request import CutoutRequest, make_request
from lensdata.cutouts.service import Fetched, fetch_stamp
from lensdata.cutouts.watching import Watcher
from lensdata.steps import JobFailed

log = logging.getLogger(__name__)


class Position(NamedTuple):
    """A place to get a stamp of."""

    cutout_id: int
    ra: float
    dec: float


def missing_of(folder: str, wanted: Sequence[Position]) -> list[Position]:
    """Positions that no ledger row settles yet; failures are asked for again."""
    settled = settled_ids(storage.join(folder, "ledger"))
    return [position for position in wanted if position.cutout_id not in settled]


def fetch_positions(
    folder: str, wanted: Sequence[Position], config: FetchCutoutsConfig, *, resumed: bool = False
) -> pa.Table:
    """Fetch what is missing into ``parts/`` and ``ledger/`` of a folder; returns the ledger, a row per position.

    Parameters
    ----------
    config
        What stamps; by route ``service``.
    resumed
        Another process may have asked at full rate until a moment ago.

    Raises
    ------
    InputError
        Nobody answers at the address.
    JobFailed
        The service did not answer for ``service.outage_max_s``; what came is kept.
    """
    missing = missing_of(folder, wanted)
    if missing:
        require_reachable(config.service, config.service.url, "service.url")
        _fetch(folder, missing, len(wanted), config, resumed=resumed)
    ledger_folder = storage.join(folder, "ledger")
    keep_one_row_per_stamp(ledger_folder)
    tables.finish_table(ledger_folder, tables.LEDGER, identity=LEDGER_IDENTITY)
    ledger = tables.read_table(ledger_folder, tables.LEDGER)
    remove_orphans(storage.join(folder, "parts"), ledger)
    tables.finish_table(storage.join(folder, "parts"), None, identity=["cutout_id", "request_hash", "pixel_hash"])
    return ledger


def _fetch(folder: str, missing: Sequence[Position], total: int, config: FetchCutoutsConfig, *, resumed: bool) -> None:
    server, ledger = config.service, storage.join(folder, "ledger")
    first = 1 + max((part_index(name) for name in storage.list_files(ledger, ".parquet")), default=-1)
    pace = Pace(
        server.requests_per_second, server.backoff_max_s, server.outage_max_s,
        server.connect_timeout_s + server.read_timeout_s, now=time.monotonic(), resumed=resumed,
    )  # fmt: skip
    turns, token, size = LocalTurns(pace), secrets.token_hex(4), config.execution.stamps_per_part
    client = PoliteClient(server, turns)

    def ask(request: CutoutRequest) -> Fetched | None:
        try:
            return fetch_stamp(client, server.url, request)
        except Stopped:
            return None

    watcher = Watcher(turns, storage.join(folder, "fetch.prom"), total - len(missing), total)
    try:
        with ThreadPoolExecutor(server.connections_per_task) as threads, watcher:
            for number, start in enumerate(range(0, len(missing), size), first):
                asked = [
                    make_request(key, key, ra, dec, config, "service") for key, ra, dec in missing[start : start + size]
                ]
                came = [answer for answer in threads.map(ask, asked) if answer is not None]
                rows = storage.join(ledger, "dataset", f"part-{number:05d}-{token}.parquet")
                counts, _ = publish(folder, rows, number, came, config)
                turns.report(None, None, counts)
                if len(came) < len(asked):
                    raise JobFailed(f"{server.url} did not answer for {server.outage_max_s:g} s; run again to go on")
    finally:
        client.close()
