"""An HTTP client that asks politely and believes an answer only after a check (R-C2): routes A, B and C alike."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import urlparse

import urllib3

from lensdata import __version__, network
from lensdata.config.cutouts import Server
from lensdata.cutouts.coordinator import Turns, wait_for_turn
from lensdata.cutouts.outcome import Rejected
from lensdata.cutouts.pace import Event
from lensdata.errors import InputError

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
# The service answers 500 where there is no survey: not worth many attempts, but an overload answers 500 as well.
ATTEMPTS_AT_500 = 3
T = TypeVar("T")


@dataclass
class Tally:
    """What some requests cost.

    Attributes
    ----------
    attempts, bytes, seconds
        Requests made, body bytes received, time from the first request to the last answer.
    status
        Last HTTP status; None where none came.
    """

    attempts: int = 0
    bytes: int = 0
    seconds: float = 0.0
    status: int | None = None

    def add(self, other: Tally) -> None:
        """Add another tally; its status is the later one."""
        self.attempts += other.attempts
        self.bytes += other.bytes
        self.seconds += other.seconds
        self.status = other.status


class PoliteClient:
    """Keep-alive requests at a job's pace, repeated with exponential backoff and full jitter.

    Safe between threads.

    Parameters
    ----------
    server
        Timeouts, attempts, contact.
    turns
        The job's pace.
    """

    def __init__(self, server: Server, turns: Turns) -> None:
        self.server, self.turns = server, turns
        agent = f"lensdata/{__version__}" + (f" (contact: {server.contact})" if server.contact else "")
        self.headers = {"User-Agent": agent, "Accept-Encoding": "identity"}
        self.pool = network.pool_manager(
            maxsize=server.connections_per_task,
            timeout=urllib3.Timeout(connect=server.connect_timeout_s, read=server.read_timeout_s),
            retries=False,
        )

    def ask(
        self,
        url: str,
        check: Callable[[urllib3.BaseHTTPResponse], T],
        tally: Tally,
        headers: dict[str, str] | None = None,
        deadline: float | None = None,
    ) -> T:
        """Ask until an answer passes the check, one is final, or the attempts are used up.

        Parameters
        ----------
        url
            Address with query.
        check
            Turns an answer (200 or 206, body read) into what is wanted, or raises `Rejected`.
        tally
            What the requests cost is added here.
        headers
            Of the request, such as ``Range``.
        deadline
            `time.monotonic` after which no new attempt starts.

        Raises
        ------
        Rejected
            The reason why it cannot be had (now).
        Stopped
            The job makes no more requests, or the deadline has passed.
        """
        counted, answers_500, started = 0, 0, None
        try:
            while True:
                probe = wait_for_turn(self.turns, deadline)
                started = started or time.monotonic()
                tally.attempts += 1
                try:
                    return self._ask_once(url, check, tally, headers, retried=tally.attempts > 1, probe=probe)
                except Rejected as error:
                    # what an outage costs in probes is not charged to the stamp that probed
                    counted += not probe
                    answers_500 += tally.status == 500
                    if error.permanent or counted >= self.server.max_attempts or answers_500 >= ATTEMPTS_AT_500:
                        raise
                self._back_off(counted)
        finally:
            tally.seconds += time.monotonic() - started if started else 0.0

    def _ask_once(
        self,
        url: str,
        check: Callable[[urllib3.BaseHTTPResponse], T],
        tally: Tally,
        headers: dict[str, str] | None,
        *,
        retried: bool,
        probe: bool,
    ) -> T:
        event: Event = "fault"
        wait, size = None, 0
        tally.status = None
        try:
            answer = self.pool.request("GET", url, headers=self.headers | (headers or {}), redirect=False)
            size = len(answer.data)
            tally.status, tally.bytes = int(answer.status), tally.bytes + size
            wait = _named_wait(answer, self.server.backoff_s)
            event = _event(tally.status)
            if answer.status not in (200, 206):
                raise Rejected(f"http_{answer.status}", permanent=answer.status not in TRANSIENT)
            try:
                return check(answer)
            except Rejected as error:
                event = "good" if error.permanent else "fault"
                raise
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Rejected(_network_reason(error), permanent=False) from error
        finally:
            counts = {"requests": 1, "bytes": size, f"status_{tally.status or 'none'}": 1, "retries": int(retried)}
            self.turns.report(event, wait, counts, probe=probe)

    def _back_off(self, attempt: int) -> None:
        ceiling = min(self.server.backoff_max_s, self.server.backoff_s * 2 ** max(0, attempt - 1))
        time.sleep(random.uniform(0, ceiling))  # noqa: S311 - jitter, no secret

    def close(self) -> None:
        """Close the connections."""
        self.pool.clear()


def _event(status: int) -> Event:
    if status == 429:
        return "busy"
    if status == 500:
        return "error"
    return "fault" if status in TRANSIENT else "good"


def _named_wait(answer: urllib3.BaseHTTPResponse, default: float) -> float | None:
    """How long the server wants everybody to wait; None where it says nothing of that."""
    header = answer.headers.get("Retry-After")
    if answer.status == 429 or (answer.status == 503 and header is not None):
        return retry_after_s(header, default)
    return None


def retry_after_s(header: str | None, default: float) -> float:
    """Seconds of a Retry-After header, given in seconds or as a date.

    >>> retry_after_s("3", 1.0)
    3.0
    """
    if header is None:
        return default
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return default


def _network_reason(error: Exception) -> str:
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return "connection"
    if isinstance(error, urllib3.exceptions.ConnectTimeoutError | urllib3.exceptions.ReadTimeoutError):
        return "timeout"
    if isinstance(error, urllib3.exceptions.IncompleteRead):
        return "truncated"
    if isinstance(error, urllib3.exceptions.ProtocolError) and "IncompleteRead" in str(error):
        return "truncated"
    return "connection"


def require_reachable(server: Server, url: str, key: str) -> None:
    """Refuse to start against an address where nobody answers: a typo would cost days of retries.

    Raises
    ------
    InputError
        No connection within the connect timeout.
    """
    address = urlparse(url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), server.connect_timeout_s).close()
    except OSError as error:
        raise InputError(f"{url} cannot be reached ({error}); check {key}.") from error


def require_ranges(server: Server, uri: str) -> None:
    """Refuse to read ranges of files from a server that sends whole ones.

    Raises
    ------
    InputError
        A range was asked for, and answered with the file.
    """
    with network.pool_manager(timeout=urllib3.Timeout(server.connect_timeout_s, server.read_timeout_s)) as pool:
        answer = pool.request("GET", uri, headers={"Range": "bytes=0-0"}, preload_content=False)
        status = answer.status
        answer.close()
    if status == 200:
        raise InputError(f"{uri}: the server ignores Range requests, which route=tiles needs; take route=bricks.")
