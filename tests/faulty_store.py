"""An S3 store that fails as real ones do: a proxy in front of a moto server that refuses, breaks and loses answers.

Whether a request fails is a hash of (seed, method, path, how often it was asked): the order in which threads come does not
change it, and a seed repeats a run.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlparse

CHUNK = 1 << 20
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect", "te", "trailer", "upgrade"}
ERRORS = {
    "slowdown": (503, "SlowDown", "Please reduce your request rate."),
    "500": (500, "InternalError", "We encountered an internal error. Please try again."),
    "no_upload": (404, "NoSuchUpload", "The specified multipart upload does not exist."),
    "501": (501, "NotImplemented", "A header you provided implies functionality that is not implemented."),
}
KINDS = ("slowdown", "500", "reset", "lost", "cut")


class FaultyStore:
    """A store on the loopback interface; what is not picked to fail passes through unchanged.

    Parameters
    ----------
    rate_slowdown, rate_500
        Fraction of requests answered with 503 SlowDown or 500 InternalError, unseen by the store.
    rate_reset
        Fraction whose connection is reset before the store sees them.
    rate_lost
        Fraction that the store carries out, and whose connection is then reset.
    rate_cut
        Fraction of answers with a body that end half-way.
    seed
        Other seeds, other requests that fail.
    without_conditions
        Answer conditional puts with 501, as stores do that know none.
    upstream
        Address of a store; a moto server of its own by default.

    Attributes
    ----------
    counts
        Requests that came, under ``requests``, and faults by kind.
    armed
        False: everything passes.
    """

    def __init__(
        self,
        *,
        rate_slowdown: float = 0.0,
        rate_500: float = 0.0,
        rate_reset: float = 0.0,
        rate_lost: float = 0.0,
        rate_cut: float = 0.0,
        seed: int = 0,
        without_conditions: bool = False,
        upstream: str | None = None,
    ) -> None:
        self.rates = dict(zip(KINDS, (rate_slowdown, rate_500, rate_reset, rate_lost, rate_cut), strict=True))
        self.seed, self.without_conditions, self.upstream = seed, without_conditions, upstream
        self.counts: Counter[str] = Counter()
        self.armed = True
        self.url = ""
        self._asked: Counter[tuple[str, str]] = Counter()
        self._next: list[tuple[str, str, str]] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._moto: Any = None
        if self.upstream is None:
            from moto.server import ThreadedMotoServer

            self._moto = ThreadedMotoServer(port=0, verbose=False)
            self._moto.start()
            self.upstream = "http://{}:{}".format(*self._moto.get_host_and_port())
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.store = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if self._moto is not None:
            self._moto.stop()

    def fail_next(self, method: str, kind: str, times: int = 1, containing: str = "") -> None:
        """Let the next requests of a method, with some text in their path, fail in one way, whatever the rates."""
        self._next += [(method, containing, kind)] * times

    def fault_of(self, method: str, path: str) -> str | None:
        """What happens to this request; counts it."""
        with self._lock:
            self.counts["requests"] += 1
            asked = self._asked[method, path]
            self._asked[method, path] += 1
            forced = next((entry for entry in self._next if entry[0] == method and entry[1] in path), None)
            if forced is not None:
                self._next.remove(forced)
                return forced[2]
        if not self.armed:
            return None
        digest = hashlib.blake2b(f"{self.seed} {method} {path} {asked}".encode(), digest_size=8).digest()
        draw = int.from_bytes(digest) / 2**64
        for kind, rate in self.rates.items():
            if draw < rate:
                return kind
            draw -= rate
        return None

    def count(self, kind: str) -> None:
        """A fault happened."""
        with self._lock:
            self.counts[kind] += 1


@contextmanager
def environment(url: str, bucket: str = "stamps") -> Iterator[str]:
    """The usual variables, so that `lensdata.storage` finds a store there, and a bucket in it; yields its ``s3://`` URI."""
    import boto3

    from lensdata import storage

    values = {
        "AWS_ENDPOINT_URL_S3": url,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    _forget_clients(storage)
    boto3.client("s3").create_bucket(Bucket=bucket)
    yield f"s3://{bucket}"
    for key, value in before.items():
        os.environ.pop(key) if value is None else os.environ.update({key: value})
    _forget_clients(storage)


def _forget_clients(storage: Any) -> None:
    storage._s3.cache_clear()
    storage._arrow_s3.cache_clear()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    store: FaultyStore

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no news here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # small answers wait 40 ms otherwise
    server: _Server

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        store = self.server.store
        kind = store.fault_of(self.command, self.path)
        if kind == "reset":
            store.count(kind)
            return self._reset()
        body = self._read_body()
        if store.without_conditions and "If-None-Match" in self.headers:
            kind = "501"
        if kind in ERRORS:
            store.count(kind)
            return self._refuse(*ERRORS[kind])
        return self._forward(body, kind)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _forward(self, body: bytes, kind: str | None) -> None:
        store = self.server.store
        address = urlparse(store.upstream)
        upstream = http.client.HTTPConnection(address.hostname, address.port, timeout=120)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    upstream.putheader(name, value)
            if body or "Content-Length" in self.headers:
                upstream.putheader("Content-Length", str(len(body)))
            upstream.endheaders(body or None)
            answer = upstream.getresponse()
            if kind == "lost":
                answer.read()
                store.count(kind)
                return self._reset()
            self._answer(answer, kind)
        finally:
            upstream.close()

    def _answer(self, answer: http.client.HTTPResponse, kind: str | None) -> None:
        size = answer.getheader("Content-Length")
        whole = None
        if size is None and self.command != "HEAD":  # chunked: its length is known when it is here
            whole = answer.read()
            size = str(len(whole))
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        if size is not None and answer.status != 204:
            self.send_header("Content-Length", size)
        self.end_headers()
        if self.command == "HEAD" or answer.status in (204, 304):
            return
        left = int(size or 0)
        cut = kind == "cut" and left > 1
        if cut:
            self.server.store.count(kind or "")
            left //= 2
            self.close_connection = True
        while left > 0 and (piece := whole if whole is not None else answer.read(min(CHUNK, left))):
            self.wfile.write(piece[:left])
            left -= len(piece[:left])

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass  # trailers
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
        data = body.encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _reset(self) -> None:
        """End the connection by RST: closed with a linger time of zero, once nothing else holds the socket."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.rfile.close()
        self.connection.close()
