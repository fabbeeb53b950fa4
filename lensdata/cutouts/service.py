"""Route A: the cutout service, asked politely and believed only after a check (R-C1, R-C2).

An HTTP 200 means nothing here: an unknown layer answers text, a wrong band letter answers other bands, a truncated body
is short, a missing band is a plane of zeros. Source of these behaviours: the public code of the service
(legacysurvey/imagine, map/cutouts.py).
"""

from __future__ import annotations

import random
import socket
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from io import BytesIO
from urllib.parse import urlparse

import numpy as np
import numpy.typing as npt
import urllib3
from astropy.io import fits

from lensdata import __version__
from lensdata.config.cutouts import Service
from lensdata.cutouts.request import CutoutRequest
from lensdata.errors import InputError

BLOCK = 2880
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
# The service answers 500 where there is no survey: not worth many attempts, but an overload answers 500 as well.
ATTEMPTS_AT_500 = 3


class Rejected(Exception):
    """An answer that is not the stamp that was asked for; ``permanent`` ones are not asked again."""

    def __init__(self, reason: str, *, permanent: bool) -> None:
        super().__init__(reason)
        self.reason, self.permanent = reason, permanent


@dataclass
class Fetched:
    """What became of one request."""

    request: CutoutRequest
    stamp: npt.NDArray[np.float32] | None = None
    reason: str | None = None
    survey: str | None = None
    version: str | None = None
    attempts: int = 0
    seconds: float = 0.0
    status: int | None = None
    bytes: int = 0


@dataclass
class RateLimiter:
    """At most ``rate`` starts per second over the threads of a process, evenly spaced."""

    rate: float
    _next: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self) -> None:
        """Block until it is this caller's turn."""
        with self._lock:
            now = time.monotonic()
            turn = max(self._next, now)
            self._next = turn + 1.0 / self.rate
        time.sleep(max(0.0, turn - now))

    def pause(self, seconds: float) -> None:
        """Nobody of this process asks before then: the service said so."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


def require_reachable(service: Service) -> None:
    """Refuse to start against an address where nobody answers: a typo would cost days of retries.

    Raises
    ------
    InputError
        No connection within the connect timeout.
    """
    address = urlparse(service.url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), service.connect_timeout_s).close()
    except OSError as error:
        raise InputError(f"Cutout service {service.url} cannot be reached ({error}); check service.url.") from error


class ServiceClient:
    """A keep-alive client of the cutout service."""

    def __init__(self, service: Service, limiter: RateLimiter) -> None:
        self.service, self.limiter = service, limiter
        agent = f"lensdata/{__version__}" + (f" (contact: {service.contact})" if service.contact else "")
        self.pool = urllib3.PoolManager(
            maxsize=service.connections_per_task,
            headers={"User-Agent": agent},
            timeout=urllib3.Timeout(connect=service.connect_timeout_s, read=service.read_timeout_s),
            retries=False,
        )

    def fetch(self, request: CutoutRequest) -> Fetched:
        """Ask until the stamp is here, the answer is final, or the attempts are used up; never raises for the network."""
        out = Fetched(request)
        started = time.monotonic()
        allowed, answers_500 = self.service.max_attempts, 0
        while out.attempts < allowed:
            self.limiter.wait()
            out.attempts += 1
            try:
                self._ask(request, out)
                out.reason = None
                break
            except Rejected as error:
                out.reason = error.reason
                answers_500 += out.status == 500
                if error.permanent or answers_500 >= ATTEMPTS_AT_500:
                    allowed = 0
            except (urllib3.exceptions.HTTPError, OSError) as error:
                out.reason, out.status = _network_reason(error), None
            if out.attempts < allowed:
                self._back_off(out.attempts)
        out.seconds = time.monotonic() - started
        return out

    def _ask(self, request: CutoutRequest, out: Fetched) -> None:
        answer = self.pool.request("GET", request.url(self.service.url), redirect=False)
        body = answer.data
        out.status = int(answer.status)
        out.bytes += len(body)
        if answer.status == 429 or (answer.status == 503 and "Retry-After" in answer.headers):
            self.limiter.pause(retry_after_s(answer.headers.get("Retry-After"), self.service.backoff_s))
        if answer.status != 200:
            raise Rejected(f"http_{answer.status}", permanent=answer.status not in TRANSIENT)
        out.stamp, out.survey, out.version = read_stamp(body, request)

    def _back_off(self, attempt: int) -> None:
        ceiling = min(self.service.backoff_max_s, self.service.backoff_s * 2 ** (attempt - 1))
        time.sleep(random.uniform(0, ceiling))  # noqa: S311 - jitter, no secret

    def close(self) -> None:
        """Close the connections."""
        self.pool.clear()


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


def read_stamp(body: bytes, request: CutoutRequest) -> tuple[npt.NDArray[np.float32], str | None, str | None]:
    """The stamp of an answer, (H, W, bands) float32 in native byte order, with SURVEY and VERSION.

    Raises
    ------
    Rejected
        The body is text, truncated, of another size, or holds other bands.
    """
    if not body.startswith(b"SIMPLE"):
        text = body[:40].decode("latin-1").strip()
        raise Rejected("no_such_layer" if "no such layer" in text else "not_fits", permanent="no such layer" in text)
    if len(body) % BLOCK:
        raise Rejected("truncated", permanent=False)
    try:
        with fits.open(BytesIO(body), memmap=False) as hdus:
            header, data = hdus[0].header, hdus[0].data
    except (OSError, ValueError, TypeError) as error:
        raise Rejected("truncated", permanent=False) from error
    bands = str(header.get("BANDS", "")).strip()
    if bands != request.bands:
        raise Rejected(f"wrong_bands_{bands or 'none'}", permanent=True)
    if data is not None and data.ndim == 2:
        data = data[None]
    if data is None or data.shape != (len(request.bands), request.size, request.size):
        raise Rejected("wrong_size", permanent=True)
    stamp = np.ascontiguousarray(np.moveaxis(data, 0, -1), dtype=np.float32)
    return stamp, _text(header.get("SURVEY")), _text(header.get("VERSION"))


def _text(value: object) -> str | None:
    return str(value).strip() if value is not None else None
