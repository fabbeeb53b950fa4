"""The simulated survey over HTTP: the cutout service with its traps, sweep files and brick coadds.

    python -m lensdata.simulation.server --survey DIR [--host 127.0.0.1] [--port 0] [--port-file FILE]
        [--access-log FILE] [--cache DIR] [--faults key=value ...]

The paths are those of `lensdata.simulation.service`. A survey on S3 is copied here first. Files answer Range requests
of one range. The access log has one JSON object per request.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from urllib.parse import parse_qsl, urlsplit

from lensdata import steps, storage
from lensdata.config.base import load_config
from lensdata.config.simulation import FaultsConfig
from lensdata.errors import InputError
from lensdata.simulation.faults import Fault, FaultPlan
from lensdata.simulation.service import Answer, Service

__all__ = ["Service", "SimulationServer", "main"]
log = logging.getLogger(__name__)
_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


class SimulationServer(ThreadingHTTPServer):
    """A server of one survey, on the loopback interface unless told otherwise.

    Use as a context manager in tests::

        with SimulationServer(Service(folder)) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            requests.get(server.url + "/viewer/fits-cutout", ...)
            server.shutdown()
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        service: Service,
        faults: FaultsConfig | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        access_log: Path | None = None,
    ) -> None:
        # before the socket: where it cannot be opened, the base class closes what there is
        self.service = service
        self.faults = FaultPlan(faults or service.renderer.survey.config.faults)
        self._log = access_log.open("a", buffering=1) if access_log else None
        self._log_lock = threading.Lock()
        super().__init__((host, port), Handler)

    @property
    def url(self) -> str:
        """Address on this machine, without a slash at the end."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def record(self, entry: dict[str, object]) -> None:
        """One line of the access log."""
        if self._log:
            with self._log_lock:
                self._log.write(json.dumps(entry) + "\n")

    def server_close(self) -> None:
        super().server_close()
        if self._log:
            self._log.close()
        self.service.close()

    def handle_error(self, request: object, client_address: object) -> None:
        if isinstance(sys.exception(), ConnectionError):
            return  # the client went away
        log.exception("request failed")


class Handler(BaseHTTPRequestHandler):
    """One connection; keeps it open between requests (HTTP/1.1)."""

    protocol_version = "HTTP/1.1"
    server_version = "lensdata-simulation"
    server: SimulationServer
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer a GET, or fail as planned."""
        started = time.time()
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        plan = self.server.faults
        target = f"{query['ra']},{query['dec']}" if "ra" in query and "dec" in query else parts.path
        fault = plan.decide(target)
        if plan.config.latency_s:
            time.sleep(plan.config.latency_s)
        entry: dict[str, object] = {"time": started, "path": parts.path}
        entry |= {key: query.get(key) for key in ("ra", "dec", "layer")}
        entry |= {"range": self.headers.get("Range"), "fault": fault.value if fault else None}
        if fault is Fault.RESET:
            self.server.record(entry | {"status": 0, "bytes": 0})
            self._reset()
        else:
            self._send(self._answer(fault, parts.path, query), entry, truncate=fault is Fault.TRUNCATED)

    do_HEAD = do_GET

    def _answer(self, fault: Fault | None, path: str, query: dict[str, str]) -> Answer:
        if fault is Fault.TOO_MANY:
            wait = self.server.faults.config.retry_after_s
            return Answer(429, b"Too Many Requests", headers=(("Retry-After", f"{wait:g}"),))
        if fault is Fault.UNAVAILABLE:
            return Answer(503, b"Service Unavailable")
        if fault is Fault.PERMANENT:
            return Answer(500, b"<h1>Server Error (500)</h1>")
        return self.server.service.answer(path, query)

    def _send(self, answer: Answer, entry: dict[str, object], *, truncate: bool) -> None:
        """Log an answer and write it, in this order: who has the answer finds it in the log."""
        status, headers = answer.status, dict(answer.headers)
        total = len(answer.content) if isinstance(answer.content, bytes) else answer.content.stat().st_size
        first, last = 0, total - 1
        if isinstance(answer.content, Path) and self.server.faults.config.accept_ranges:
            headers["Accept-Ranges"] = "bytes"
            wanted = _parse_range(self.headers.get("Range"), total)
            if wanted == "unsatisfiable":
                status, first, last = 416, 0, -1
                headers["Content-Range"] = f"bytes */{total}"
            elif isinstance(wanted, tuple):
                status, (first, last) = 206, wanted
                headers["Content-Range"] = f"bytes {first}-{last}/{total}"
        body = _read(answer.content, first, last)
        self.send_response(status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        sent = b"" if self.command == "HEAD" else body[: len(body) // 2] if truncate else body
        self.server.record(entry | {"status": status, "bytes": len(sent)})
        self.wfile.write(sent)
        self.wfile.flush()
        self.close_connection |= truncate

    def _reset(self) -> None:
        """Close with RST instead of FIN: linger for zero seconds."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
        self.rfile.close()
        self.wfile = open("/dev/null", "wb")  # noqa: SIM115, PTH123  (the base class flushes and closes it)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the access log says it."""


def _parse_range(header: str | None, total: int) -> tuple[int, int] | str | None:
    """First and last byte of a single range; None for no (usable) range, "unsatisfiable" beyond the end (RFC 9110)."""
    found = _RANGE.match(header or "")
    if not found or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if first == "":
        start, end = max(total - int(last), 0), total - 1
    else:
        start, end = int(first), min(int(last) if last else total - 1, total - 1)
    if start > end or start >= total:
        return "unsatisfiable"
    return start, end


def _read(content: bytes | Path, first: int, last: int) -> bytes:
    if isinstance(content, bytes):
        return content
    with content.open("rb") as handle:
        handle.seek(first)
        return handle.read(last - first + 1)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="lensdata.simulation.server", description="Serve a simulated survey over HTTP."
    )
    parser.add_argument("--survey", required=True, help="folder that lensdata.simulation.survey wrote")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 for all of this machine, in a private network",
    )
    parser.add_argument("--port", type=int, default=0, help="port; 0 takes a free one")
    parser.add_argument("--port-file", type=Path, help="file to write the port number to, once it listens")
    parser.add_argument("--access-log", type=Path, help="file to append a JSON line per request to")
    parser.add_argument("--cache", help="folder to keep brick files in; a temporary one by default")
    parser.add_argument(
        "--faults", nargs="*", default=[], metavar="key=value", help="faults, for example rate_503=0.05 latency_s=0.1"
    )
    return parser.parse_args(argv)


def _local_survey(survey: str, folder: str) -> str:
    """A survey as a local folder: sweep files and bricks are sent from files, by ranges."""
    if not storage.is_s3(survey):
        return survey
    files = storage.list_files(survey)
    if not files:
        raise InputError(f"{survey} does not exist.")
    for uri in files:
        target = Path(folder) / uri.removeprefix(survey.rstrip("/") + "/")
        target.parent.mkdir(parents=True, exist_ok=True)
        with storage.open_input(uri) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    steps.setup_logging()
    args = _arguments(argv)
    with tempfile.TemporaryDirectory(prefix="lensdata-survey-") as folder:
        return _serve(args, folder)


def _serve(args: argparse.Namespace, folder: str) -> int:
    try:
        service = Service(_local_survey(args.survey, folder), args.cache)
        base = service.renderer.survey.config.faults.model_dump()
        faults = FaultsConfig(**{**base, **load_config(FaultsConfig, None, args.faults).model_dump(exclude_unset=True)})
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return steps.EXIT_INPUT
    try:
        made = SimulationServer(service, faults, host=args.host, port=args.port, access_log=args.access_log)
    except OSError as error:
        sys.stderr.write(
            f"error: {args.host}:{args.port} cannot be listened on ({error.strerror}); choose another --port.\n"
        )
        return steps.EXIT_INPUT
    with made as server:

        def stop(_number: int, _frame: FrameType | None) -> None:
            threading.Thread(target=server.shutdown, daemon=True).start()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        if args.port_file:
            storage.write_bytes(str(args.port_file), f"{server.server_address[1]}\n".encode())
        sys.stdout.write(server.url + "\n")
        sys.stdout.flush()
        server.serve_forever(poll_interval=0.1)
    return steps.EXIT_DONE


if __name__ == "__main__":
    raise SystemExit(main())
