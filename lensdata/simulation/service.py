"""What the simulated server answers to a path and a query; knows nothing of sockets.

Paths, each also below any prefix such as ``/dr10/south``:

- ``/viewer/fits-cutout``, ``/viewer/cutout.fits``: cutouts, made when asked for (`lensdata.simulation.cutouts`);
- ``/sweep/10.1/`` (a list of links) and ``/sweep/10.1/sweep-*.fits``;
- ``/coadd/AAA/BRICK/legacysurvey-BRICK-image-BAND.fits.fz``, ``...-invvar-BAND.fits.fz``, ``...-maskbits.fits.fz``: made when
  first asked for, then kept in the cache.
"""

from __future__ import annotations

import re
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple, cast

from lensdata import storage
from lensdata.cutouts.coadds import Kind, coadd_path
from lensdata.errors import InputError
from lensdata.simulation.bricks import write_brick, write_extra
from lensdata.simulation.cutouts import MissingPosition, OffFootprint, UnknownLayer, cutout_fits, parse_query
from lensdata.simulation.rendering import Renderer
from lensdata.simulation.sky import BANDS, bricks_by_id
from lensdata.simulation.world import SWEEP_FOLDER, Survey, brickid_of_name

_CUTOUT = re.compile(r"/viewer/(fits-cutout|cutout\.fits)/?$")
_COADD = re.compile(
    r"/coadd/(\d{3})/(\d{4}[pm]\d{3})/legacysurvey-(\d{4}[pm]\d{3})-"
    rf"(?:(image|invvar)-([{''.join(BANDS)}])|(maskbits))\.fits\.fz$"
)
_SWEEP = re.compile(r"/sweep/10\.1/(sweep-[0-9pm-]+\.fits)?$")
HTML = "text/html; charset=utf-8"


class Answer(NamedTuple):
    """An HTTP answer; ``content`` is bytes or a file to send (a part of)."""

    status: int
    content: bytes | Path
    kind: str = HTML
    headers: tuple[tuple[str, str], ...] = ()


class Service:
    """What the server serves; knows nothing of sockets.

    Parameters
    ----------
    folder
        A survey written by `lensdata.simulation.survey`.
    cache
        Folder for the brick files made on demand; a temporary one if None.
    """

    def __init__(self, folder: str, cache: str | None = None) -> None:
        self.folder = str(storage.local_path(folder))
        self.renderer = Renderer(Survey.load(self.folder))
        self._temporary = tempfile.TemporaryDirectory(prefix="lensdata-coadds-") if cache is None else None
        self.cache = cache if cache is not None else (self._temporary.name if self._temporary else "")
        self._locks: dict[Path, threading.Lock] = {}
        self._guard = threading.Lock()

    def answer(self, path: str, query: dict[str, str]) -> Answer:
        """The answer to a GET."""
        if _CUTOUT.search(path):
            return self._cutout(query)
        if found := _COADD.search(path):
            folder, brick, again, kind, band, maskbits = found.groups()
            return self._coadd(folder, brick, again, cast(Kind, kind or maskbits), band or "")
        if found := _SWEEP.search(path):
            return self._sweep(found.group(1))
        if path == "/":
            return Answer(200, b"simulated Legacy Surveys DR10\n", "text/plain")
        return Answer(404, b"<h1>Not Found</h1>")

    def close(self) -> None:
        """Remove the temporary cache, if there is one."""
        if self._temporary:
            self._temporary.cleanup()

    def _cutout(self, query: dict[str, str]) -> Answer:
        try:
            request = parse_query(query)
            content = cutout_fits(self.renderer, request)
        except MissingPosition as error:
            return Answer(400, str(error).encode())
        except UnknownLayer:
            return Answer(200, b"no such layer", "text/html")
        except (OffFootprint, ValueError):
            return Answer(500, b"<h1>Server Error (500)</h1>")
        name = f"cutout_{request.ra:.4f}_{request.dec:.4f}.fits"
        return Answer(200, content, "image/fits", (("Content-Disposition", f'attachment; filename="{name}"'),))

    def _sweep(self, name: str | None) -> Answer:
        folder = Path(self.folder) / SWEEP_FOLDER
        if name is None:
            links = "".join(f'<a href="{file.name}">{file.name}</a>\n' for file in sorted(folder.glob("sweep-*.fits")))
            return Answer(200, f"<html><body><pre>\n{links}</pre></body></html>\n".encode())
        return _file(folder / name)

    def _coadd(self, folder: str, brick: str, again: str, kind: Kind, band: str) -> Answer:
        written = Path(self.folder) / coadd_path(brick, kind, band)
        cached = Path(self.cache) / coadd_path(brick, kind, band)
        if brick != again or not brick.startswith(folder):
            return _missing()
        if written.is_file():
            return _file(written)
        try:
            number = brickid_of_name(brick)
        except InputError:
            return _missing()
        if not self.renderer.survey.meets(bricks_by_id([number])):
            return _missing()
        with self._guard:
            lock = self._locks.setdefault(cached, threading.Lock())
        with lock:
            if not cached.is_file():
                if kind == "image":
                    write_brick(self.renderer, number, band, self.cache)
                else:
                    write_extra(self.renderer, number, kind, band, self.cache)
        return _file(cached)


def _missing() -> Answer:
    return Answer(404, b"<h1>404 Not Found</h1>")


def _file(path: Path) -> Answer:
    return Answer(200, path, "application/fits") if path.is_file() else _missing()
