"""Route A: the cutout service; an answer is believed only after a check (R-C1).

An HTTP 200 means nothing here: an unknown layer answers text, a wrong band letter answers other bands, a truncated body
is short, a missing band is a plane of zeros. Source of these behaviours: the public code of the service
(legacysurvey/imagine, map/cutouts.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from lensdata.cutouts.client import PoliteClient, Tally
from lensdata.cutouts.outcome import Rejected
from lensdata.cutouts.request import CutoutRequest

BLOCK = 2880
POSITION_TOLERANCE_DEG = 1e-6  # 4 mas; positions are sent with 1e-7 degrees
Stamp = npt.NDArray[np.float32]


@dataclass
class Fetched:
    """What became of one request.

    Attributes
    ----------
    stamp
        (H, W, bands), or None with a ``reason``.
    offset
        Of the object from the centre of the centre pixel, (x, y) in pixels; None where the stamp was resampled to it.
    extras
        Further arrays by name (``invvar``, ``maskbits``).
    """

    request: CutoutRequest
    tally: Tally
    stamp: Stamp | None = None
    reason: str | None = None
    survey: str | None = None
    version: str | None = None
    offset: tuple[float, float] | None = None
    extras: dict[str, npt.NDArray[Any]] = field(default_factory=dict)


def fetch_stamp(client: PoliteClient, url: str, request: CutoutRequest, deadline: float | None = None) -> Fetched:
    """Ask the service at ``url`` for a stamp; every failure is a reason.

    Raises
    ------
    Stopped
        It was not asked to the end: the deadline has passed, or the job makes no more requests.
    """
    out = Fetched(request, Tally())
    try:
        out.stamp, out.survey, out.version = client.ask(
            request.url(url), lambda answer: read_stamp(answer.data, request), out.tally, deadline=deadline
        )
    except Rejected as error:
        out.reason = error.reason
    return out


def read_stamp(body: bytes, request: CutoutRequest) -> tuple[Stamp, str | None, str | None]:
    """The stamp of an answer, (H, W, bands) float32 in native byte order, with SURVEY and VERSION.

    Raises
    ------
    Rejected
        The body is text, truncated, of another size, place or scale, or holds other bands.
    """
    if not body.startswith(b"SIMPLE"):
        text = body[:40].decode("latin-1").strip()
        raise Rejected("no_such_layer" if "no such layer" in text else "not_fits", permanent="no such layer" in text)
    try:
        header = fits.Header.fromstring(body[: _header_bytes(body)])
        shape = tuple(int(header[f"NAXIS{axis}"]) for axis in range(int(header["NAXIS"]), 0, -1))
        floats = int(header["BITPIX"]) == -32
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Rejected("truncated", permanent=False) from error
    bands = str(header.get("BANDS", "")).strip()
    if bands != request.bands:
        raise Rejected(f"wrong_bands_{bands or 'none'}", permanent=True)
    wanted = (len(request.bands), request.size, request.size)
    if (shape if len(shape) == 3 else (1, *shape)) != wanted or not floats:
        raise Rejected("wrong_size", permanent=True)
    if len(body) != _header_bytes(body) + BLOCK * -(-int(np.prod(wanted)) * 4 // BLOCK):
        raise Rejected("truncated", permanent=False)
    if not _at_request(header, request):
        raise Rejected("wrong_position_or_scale", permanent=True)
    data = np.frombuffer(body, ">f4", int(np.prod(wanted)), _header_bytes(body)).reshape(wanted)
    stamp = np.ascontiguousarray(np.moveaxis(data, 0, -1), dtype=np.float32)
    return stamp, _text(header.get("SURVEY")), _text(header.get("VERSION"))


def _header_bytes(body: bytes) -> int:
    """Length of the primary header: whole blocks up to the one that holds END."""
    for start in range(0, len(body), BLOCK):
        block = body[start : start + BLOCK]
        if any(block[card : card + 80].rstrip() == b"END" for card in range(0, len(block), 80)):
            return start + BLOCK
    raise Rejected("truncated", permanent=False)


def _at_request(header: fits.Header, request: CutoutRequest) -> bool:
    """The WCS is that of the request; an answer without one is none of the service's."""
    try:
        ra, dec, scale = (float(header[key]) for key in ("CRVAL1", "CRVAL2", "CD2_2"))
    except (KeyError, TypeError, ValueError):
        return False
    apart = (ra - request.ra + 180) % 360 - 180
    near = abs(apart) < POSITION_TOLERANCE_DEG and abs(dec - request.dec) < POSITION_TOLERANCE_DEG
    return near and abs(scale * 3600 - request.pixscale_arcsec) < 1e-3 * request.pixscale_arcsec


def _text(value: object) -> str | None:
    return str(value).strip() if value is not None else None
