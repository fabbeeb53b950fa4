"""A web server of files with byte ranges, and with the faults that real ones have."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Faults:
    """What goes wrong: refusals before the first answer, answers cut short, ranges ignored or shifted.

    ``hold_after``: ranges after so many wait until ``released`` is set. ``no_head``: HEAD is answered with 405. ``unknown``: the
    status for names that are not there. ``forbid_after``: ranges after so many are answered with 403. ``redirect``: every
    request leads to itself.
    """

    refusals: int = 0
    cut_short: int = 0
    ignore_range: bool = False
    shift: int = 0
    hold_after: int | None = None
    no_head: bool = False
    unknown: int = 404
    forbid_after: int | None = None
    redirect: bool = False
    held: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def serve(folder: Path, faults: Faults | None = None) -> Iterator[str]:
    """Serve a folder on the loopback interface; yields its address."""
    state = faults or Faults()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            wanted = self.headers.get("Range")
            state.requests.append((self.path, wanted))
            path = folder / self.path.lstrip("/")
            if state.refusals > 0 and with_body:
                state.refusals -= 1
                return self._send(503, b"", with_body)
            if state.redirect:
                return self._send(302, b"", with_body, Location=self.path)
            if state.no_head and not with_body:
                return self._send(405, b"", with_body)
            if not path.is_file():
                return self._send(state.unknown, b"", with_body)
            data = path.read_bytes()
            if wanted is None or state.ignore_range:
                return self._send(200, data, with_body, ETag=f'"{path.stat().st_mtime_ns}"')
            if state.hold_after is not None:
                state.hold_after -= 1
                if state.hold_after < 0:
                    state.held += 1
                    state.released.wait(300)
            if state.forbid_after is not None:
                state.forbid_after -= 1
                if state.forbid_after < 0:
                    return self._send(403, b"", with_body)
            first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups())
            if first >= len(data):
                return self._send(416, b"", with_body, **{"Content-Range": f"bytes */{len(data)}"})
            first, last = first + state.shift, min(last, len(data) - 1) + state.shift
            return self._send(
                206, data[first : last + 1], with_body, **{"Content-Range": f"bytes {first}-{last}/{len(data)}"}
            )

        def _send(self, status: int, body: bytes, with_body: bool, **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if not with_body:
                return
            if state.cut_short > 0 and len(body) > 10:
                state.cut_short -= 1
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
                return
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
