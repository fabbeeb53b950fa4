"""A cutout service of noise: the same position always has the same pixels, and a function says what goes wrong where."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from urllib.parse import parse_qs, urlparse

import numpy as np
from astropy.io import fits

Answer = tuple[int, bytes]


@dataclass
class Asked:
    """Positions that were asked for, in order, and the address."""

    url: str = ""
    positions: list[tuple[float, float]] = field(default_factory=list)


def stamp_body(query: dict[str, str], empty: str = "") -> bytes:
    """FITS of a galaxy in noise, as the service writes it; ``empty``: bands without data."""
    size, bands = int(query["size"]), query["bands"]
    ra, dec, scale = (float(query[name]) for name in ("ra", "dec", "pixscale"))
    rng = np.random.default_rng([int(ra * 1e4), int((dec + 90) * 1e4)])
    middle = np.hypot(*np.indices((size, size)) - size // 2)
    data = rng.normal(size=(len(bands), size, size)) + 5 * np.exp(-middle / 2)
    data[[bands.index(band) for band in empty]] = 0
    hdu = fits.PrimaryHDU(data.astype(np.float32))
    values = {
        "BANDS": bands,
        "CRVAL1": ra,
        "CRVAL2": dec,
        "CD2_2": scale / 3600,
        "SURVEY": "LegacySurvey",
        "VERSION": "DR10",
    }
    for key, value in values.items():
        hdu.header[key] = value
    sink = BytesIO()
    hdu.writeto(sink)
    return sink.getvalue()


@contextmanager
def serve(fault: Callable[[float, float, int], Answer | None] = lambda ra, dec, number: None) -> Iterator[Asked]:
    """Answer requests for stamps; ``fault`` of right ascension, declination and number of requests so far may answer instead."""
    asked = Asked()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = {name: values[0] for name, values in parse_qs(urlparse(self.path).query).items()}
            place = float(query["ra"]), float(query["dec"])
            asked.positions.append(place)
            status, body = fault(*place, len(asked.positions)) or (200, stamp_body(query))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    asked.url = f"http://127.0.0.1:{server.server_port}/viewer/fits-cutout"
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
