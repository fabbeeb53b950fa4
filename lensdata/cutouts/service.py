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

from lensdata.cutouts.client import PoliteClient, Tally
from lensdata.cutouts.outcome import Rejected
from lensdata.cutouts.request import CutoutRequest

BLOCK, CARD = 2880, 80
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
        cards, start = read_cards(body)
        shape = tuple(int(cards[f"NAXIS{axis}"]) for axis in range(int(cards["NAXIS"]), 0, -1))
        floats = int(cards["BITPIX"]) == -32
    except (ValueError, KeyError) as error:
        raise Rejected("truncated", permanent=False) from error
    bands = cards.get("BANDS", "")
    if bands != request.bands:
        raise Rejected(f"wrong_bands_{bands or 'none'}", permanent=True)
    wanted = (len(request.bands), request.size, request.size)
    if (shape if len(shape) == 3 else (1, *shape)) != wanted or not floats:
        raise Rejected("wrong_size", permanent=True)
    if len(body) != start + BLOCK * -(-int(np.prod(wanted)) * 4 // BLOCK):
        raise Rejected("truncated", permanent=False)
    if not _at_request(cards, request):
        raise Rejected("wrong_position_or_scale", permanent=True)
    data = np.frombuffer(body, ">f4", int(np.prod(wanted)), start).reshape(wanted)
    stamp = np.ascontiguousarray(np.moveaxis(data, 0, -1), dtype=np.float32)
    return stamp, cards.get("SURVEY"), cards.get("VERSION")


def read_cards(body: bytes) -> tuple[dict[str, str], int]:
    """Keyword and value, as text, of the primary header's cards, and where the data start.

    Fixed-format cards are all that the service writes (FITS standard 4.0, section 4.2). astropy's header, which knows every
    other kind, is the oracle in the tests; ``benchmarks/cutouts.py`` prints what it would cost per stamp.

    Raises
    ------
    ValueError
        There is no END card.
    """
    cards: dict[str, str] = {}
    for at in range(0, len(body) - CARD + 1, CARD):
        keyword = body[at : at + 8].rstrip().decode("latin-1")
        if keyword == "END":
            return cards, BLOCK * (at // BLOCK + 1)
        value = body[at + 10 : at + CARD].decode("latin-1").strip()
        cards[keyword] = (
            value[1:].partition("'")[0].rstrip() if value.startswith("'") else value.partition("/")[0].rstrip()
        )
    raise ValueError("no END card")


def _at_request(cards: dict[str, str], request: CutoutRequest) -> bool:
    """The WCS is that of the request; an answer without one is none of the service's."""
    try:
        ra, dec, scale = (float(cards[key]) for key in ("CRVAL1", "CRVAL2", "CD2_2"))
    except (KeyError, ValueError):
        return False
    apart = (ra - request.ra + 180) % 360 - 180
    near = abs(apart) < POSITION_TOLERANCE_DEG and abs(dec - request.dec) < POSITION_TOLERANCE_DEG
    return near and abs(scale * 3600 - request.pixscale_arcsec) < 1e-3 * request.pixscale_arcsec
