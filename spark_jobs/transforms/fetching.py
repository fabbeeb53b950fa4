"""One task of the fetch: a group of requests becomes a part file and its ledger rows, or nothing (R-C2)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
import urllib3

from lensdata import storage
from lensdata.config.cutouts import FetchCutoutsConfig, Route, Server
from lensdata.cutouts import coadds
from lensdata.cutouts.client import PoliteClient, Tally
from lensdata.cutouts.coordinator import RemoteTurns, Stopped
from lensdata.cutouts.outcome import Rejected
from lensdata.cutouts.publishing import publish
from lensdata.cutouts.request import CutoutRequest, make_request
from lensdata.cutouts.service import Fetched, fetch_stamp
from lensdata.errors import InputError


class Asked(NamedTuple):
    """An object to get a stamp of."""

    cutout_id: int
    source_id: int
    ra: float
    dec: float
    brickname: str


class Group(NamedTuple):
    """What a task asks for: the number of its part, and the objects."""

    index: int
    asked: list[Asked]


@dataclass(frozen=True)
class Fetch:
    """What every task of a job knows.

    Attributes
    ----------
    folder
        Output of the job.
    token
        Of this run of the driver, in the names of its ledger files: what an orphan of an earlier run still publishes does
        not bear a name of ours.
    address, key
        Of the coordinator.
    """

    config: FetchCutoutsConfig
    route: Route
    folder: str
    token: str
    address: tuple[str, int]
    key: bytes

    @property
    def server(self) -> Server:
        """The limits that hold on this route."""
        return self.config.service if self.route == "service" else self.config.coadds

    def ledger_uri(self, index: int) -> str:
        """Where the ledger rows of a part are published."""
        return storage.join(self.folder, "ledger", "dataset", f"part-{index:05d}-{self.token}.parquet")


def group_requests(asked: list[Asked], size: int, first: int, *, whole_bricks: bool) -> list[Group]:
    """Groups of ``size`` requests, numbered from ``first``: each becomes one part.

    Parameters
    ----------
    asked
        Sorted by brick.
    whole_bricks
        Never share a brick between groups: it would be read twice.
    """
    bricks = [list(members) for _, members in groupby(asked, key=lambda entry: entry.brickname)]
    groups: list[list[Asked]] = [[]]
    for members in bricks if whole_bricks else [[entry] for entry in asked]:
        if groups[-1] and len(groups[-1]) + len(members) > size:
            groups.append([])
        groups[-1].extend(members)
    return [Group(first + number, members) for number, members in enumerate(groups) if members]


def fetch_group(fetch: Fetch) -> Callable[[Iterator[Group]], Iterable[dict[str, float]]]:
    """The function of a task; it yields what storing in a smaller type lost, per part."""

    def run(groups: Iterator[Group]) -> Iterable[dict[str, float]]:
        for group in groups:
            if storage.exists(fetch.ledger_uri(group.index)):
                continue  # published by an attempt of this task that was lost afterwards
            turns = _connected(fetch)
            with ThreadPoolExecutor(fetch.server.connections_per_task) as threads:
                answers = _ask_for(fetch, group, turns, threads)
            came = [answer for answer in answers if answer is not None]
            counts, loss = publish(fetch.folder, fetch.ledger_uri(group.index), group.index, came, fetch.config)
            turns.report(None, None, counts)
            yield loss

    return run


def _connected(fetch: Fetch) -> RemoteTurns:
    turns = _turns(fetch.address, fetch.key)
    if turns.lost:
        _turns.cache_clear()
        _client.cache_clear()
        turns = _turns(fetch.address, fetch.key)
    return turns


@lru_cache(maxsize=1)
def _turns(address: tuple[str, int], key: bytes) -> RemoteTurns:
    return RemoteTurns(address, key)


@lru_cache(maxsize=1)
def _client(server: Server, address: tuple[str, int], key: bytes) -> PoliteClient:
    return PoliteClient(server, _turns(address, key))  # connections outlive a task


def _ask_for(fetch: Fetch, group: Group, turns: RemoteTurns, threads: ThreadPoolExecutor) -> list[Fetched | None]:
    """What became of each request; None for those that there was no time for."""
    deadline = time.monotonic() + fetch.config.execution.task_budget_s
    requests = [make_request(*asked[:4], fetch.config, fetch.route) for asked in group.asked]
    client = _client(fetch.server, fetch.address, fetch.key)
    if fetch.route == "service":

        def ask(request: CutoutRequest) -> Fetched | None:
            try:
                return fetch_stamp(client, fetch.config.service.url, request, deadline)
            except Stopped:
                return None

        return list(threads.map(ask, requests))
    out: list[Fetched | None] = []
    for brickname, members in groupby(zip(group.asked, requests, strict=True), key=lambda pair: pair[0].brickname):
        out += _read_brick(fetch, client, threads, brickname, [request for _, request in members], deadline)
    return out


class RangeReader:
    """Reads byte ranges of coadds at the job's pace and adds up what that cost; safe between threads."""

    def __init__(self, client: PoliteClient, deadline: float) -> None:
        self.client, self.deadline, self.tally = client, deadline, Tally()
        self._lock = threading.Lock()

    def __call__(self, uri: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes ``start`` to ``stop`` of a file; fewer at its end.

        Raises
        ------
        Rejected
            There is no such file, or it cannot be had.
        Stopped
            The time is over.
        """
        tally = Tally()
        try:
            if storage.is_http(uri):
                wanted = (
                    {}
                    if stop is None and start == 0
                    else {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
                )
                return self.client.ask(uri, _range_check(start, ranged=bool(wanted)), tally, wanted, self.deadline)
            return self._read_stored(uri, start, stop, tally)
        except Rejected as error:
            if error.reason in ("http_404", "http_410"):
                raise Rejected("no_such_file", permanent=True) from error
            raise
        finally:
            with self._lock:
                self.tally.add(tally)

    def _read_stored(self, uri: str, start: int, stop: int | None, tally: Tally) -> bytes:
        started = time.monotonic()
        if started > self.deadline:
            raise Stopped
        try:
            data = storage.read_range(uri, start, storage.size(uri) if stop is None else stop)
        except (InputError, FileNotFoundError) as error:
            raise Rejected("no_such_file", permanent=True) from error
        except OSError as error:
            raise Rejected("unreadable", permanent=False) from error
        tally.attempts, tally.bytes, tally.seconds = 1, len(data), time.monotonic() - started
        counts = {"requests": 1, "bytes": len(data)}
        self.client.turns.report(None, None, counts)
        return data


def _range_check(start: int, *, ranged: bool) -> Callable[[urllib3.BaseHTTPResponse], bytes]:
    def check(answer: urllib3.BaseHTTPResponse) -> bytes:
        if start == 0 and not answer.data.startswith(b"SIMPLE"):  # a page that says "maintenance", with status 200
            raise Rejected("not_fits", permanent=False)
        if ranged and answer.status != 206:
            raise Rejected("no_ranges", permanent=True)
        if ranged and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise Rejected("wrong_range", permanent=True)
        return bytes(answer.data)

    return check


def _read_brick(
    fetch: Fetch,
    client: PoliteClient,
    threads: ThreadPoolExecutor,
    brickname: str,
    requests: list[CutoutRequest],
    deadline: float,
) -> list[Fetched | None]:
    read = RangeReader(client, deadline)
    ra, dec = (np.array([getattr(request, name) for request in requests]) for name in ("ra", "dec"))
    config = fetch.config

    def look() -> coadds.BrickStamps:
        return coadds.read_brick(
            read, config.coadds.url, brickname, ra, dec, config.bands, config.size,
            whole=fetch.route == "bricks", extras=config.extras, threads=threads,
        )  # fmt: skip

    try:
        try:
            found = look()
        except Rejected as error:
            if error.permanent:
                raise
            found = look()  # what came whole may still not decompress
    except Stopped:
        return [None] * len(requests)
    except Rejected as error:
        return [Fetched(request, share, reason=error.reason) for request, share in _shares(requests, read.tally)]
    out: list[Fetched | None] = []
    for place, (request, share) in enumerate(_shares(requests, read.tally)):
        answer = Fetched(request, share, reason=found.reasons[place], survey=found.survey, version=found.version)
        if answer.reason is None:
            answer.stamp = found.stamps[place]
            answer.offset = (float(found.offsets[place, 0]), float(found.offsets[place, 1]))
            answer.extras = {name: getattr(found, name)[place] for name in config.extras}
        out.append(answer)
    return out


def _shares(requests: list[CutoutRequest], tally: Tally) -> Iterator[tuple[CutoutRequest, Tally]]:
    """The cost of a brick dealt out over its stamps, so that the ledger's sums are the true ones."""
    for place, request in enumerate(requests):
        attempts, size = (
            total * (place + 1) // len(requests) - total * place // len(requests)
            for total in (tally.attempts, tally.bytes)
        )
        yield request, replace(tally, attempts=attempts, bytes=size, seconds=tally.seconds / len(requests))
