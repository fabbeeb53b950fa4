"""A tile-compressed FITS image of which only the bytes needed are in memory.

The file is an empty primary HDU and, in HDU 1, a table with a row per tile that says where in the heap behind it the tile's
bytes are (FITS standard 4.0, section 10). astropy decompresses; this module knows which bytes it will ask for. Nothing here
does any I/O: bytes come from a ``read`` given by the caller.
"""

from __future__ import annotations

import io
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from lensdata.cutouts.outcome import Rejected

Read = Callable[[str, int, int | None], bytes]
"""``read(uri, start, stop)``: bytes of a file, to its end if ``stop`` is None; raises `Rejected`; safe between threads."""
Corners = npt.NDArray[np.int64]

BLOCK = 2880
HEAD_BYTES = 1 << 16
"""First range. Headers of 14 kB and an index of 1,296 tiles of 24 or 32 bytes are 46-56 kB in real coadds."""
HEAD_BYTES_MAX = 1 << 20
BRIDGED_BYTES = 4096
"""Gaps up to this are read with their neighbours: less than a tile (11 kB), and the turn and headers of a request cost more."""
SECTION_OVERHEAD_TILES = 6
"""What a section costs beside its tiles, in tiles: astropy copies the index and reads some 70 header words each time."""
_ITEM_BYTES = {"L": 1, "X": 1, "A": 1, "B": 1, "I": 2, "J": 4, "E": 4, "K": 8, "D": 8}


class HeaderIncomplete(Exception):
    """The headers go on beyond the bytes at hand."""


@contextmanager
def decoding() -> Iterator[None]:
    """Whatever astropy makes of damaged bytes (a dozen kinds of exceptions) is one reason; see a test that damages files."""
    try:
        yield
    except (Rejected, HeaderIncomplete):
        raise
    except Exception as error:
        raise Rejected("damaged", permanent=False) from error


class HeldBytes(io.RawIOBase):
    """A file of which some ranges are held. Reading any other byte raises `Rejected`: what was fetched was planned wrongly."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self._at = size, 0
        self._pieces: list[tuple[int, bytes]] = []

    def hold(self, start: int, piece: bytes) -> None:
        """Have the bytes from ``start`` on; ranges do not overlap."""
        insort(self._pieces, (start, piece))

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a byte."""
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence])
        return self._at

    def tell(self) -> int:
        """The byte that is read next."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, up to the end of the file."""
        view, done = memoryview(buffer).cast("B"), 0
        wanted = max(0, min(len(view), self.size - self._at))
        while done < wanted:
            k = bisect_right(self._pieces, self._at, key=lambda piece: piece[0]) - 1
            start, piece = self._pieces[k] if k >= 0 else (0, b"")
            part = memoryview(piece)[self._at - start :][: wanted - done]
            if not part:
                raise Rejected("byte_not_held", permanent=False)
            view[done : done + len(part)] = part
            done, self._at = done + len(part), self._at + len(part)
        return done


class TiledImage:
    """The image of a file whose first bytes are at hand: headers and index, or all of it.

    Attributes
    ----------
    header
        Of the image.
    shape, tile_shape
        (rows, columns), pixels.

    Raises
    ------
    Rejected
        The bytes are not such an image.
    """

    def __init__(self, first: bytes) -> None:
        with decoding():
            table, start = _table_header(first)
            self._heap, self._end = _heap(table, start)
            self._num_first, self._held = len(first), HeldBytes(-(-self._end // BLOCK) * BLOCK)
            self._held.hold(0, first)
            self._index = np.frombuffer(first, _index_dtype(table), table["NAXIS2"], start)
            self._hdu = fits.open(self._held, memmap=False)[1]
            self.header: fits.Header = self._hdu.header
            self.shape, self.tile_shape = tuple(self._hdu.shape), tuple(self._hdu.tile_shape)
            counts = [-(-side // tile) for side, tile in zip(self.shape, self.tile_shape, strict=True)]
            if len(self.shape) != 2 or np.prod(counts) != len(self._index):
                raise Rejected("damaged", permanent=False)
            self._counts = counts

    def hold(self, start: int, piece: bytes) -> None:
        """Have more bytes, those of a range of `spans`."""
        self._held.hold(start, piece)

    def tiles(self, corners: Corners, size: int) -> npt.NDArray[np.bool_]:
        """Which tiles, (rows of tiles, columns of tiles), stamps with these lower corners (n, 2) = (y, x) touch."""
        needed = np.zeros(self._counts, bool)
        for (y0, x0), (y1, x1) in zip(corners // self.tile_shape, (corners + size - 1) // self.tile_shape, strict=True):
            needed[y0 : y1 + 1, x0 : x1 + 1] = True
        return needed

    def spans(self, corners: Corners, size: int) -> list[tuple[int, int]]:
        """Byte ranges (start, stop) of the tiles that stamps need and that are not held yet, neighbours joined."""
        rows = self._index[self.tiles(corners, size).ravel()]
        spans: list[tuple[int, int]] = []
        # a tile that could not be quantised is not in the first column but in that of gzipped or raw numbers
        for name in (name for name in rows.dtype.names or () if rows[name].ndim == 2):
            count, offset = rows[name].astype(np.int64).T
            starts, num_bytes = self._heap + offset, count * _ITEM_BYTES[name[-1]]
            if ((count < 0) | (offset < 0) | (starts + num_bytes > self._end)).any():
                raise Rejected("damaged", permanent=False)
            not_held = np.maximum(starts, self._num_first)
            spans += zip(not_held.tolist(), (starts + num_bytes).tolist(), strict=True)
        return _joined(sorted(span for span in spans if span[0] < span[1]))

    def cuts(self, corners: Corners, size: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Stamps (size, size) with these lower corners (n, 2) = (y, x), in any order, each with its place; tiles must be held.

        Stamps that lie close together share a section where that costs less than one each. Where sections cost more than the
        whole image and all of it is held, that is decompressed. Measured on 3600 x 3600 pixels, one core: all 1,296 tiles
        0.12 s, a section of 2 x 2 tiles 0.9 ms, of which 0.5 ms are overhead.
        """
        whole = self._num_first >= self._end
        boxes = np.concatenate([corners // self.tile_shape, (corners + size - 1) // self.tile_shape + 1], axis=1)
        sections, owners = _sections(boxes) if whole else (boxes, np.arange(len(boxes)))
        if whole and _cost(sections).sum() > len(self._index):
            sections, owners = np.array([[0, 0, *self._counts]]), np.zeros(len(boxes), np.int64)
        for number, box in enumerate(sections):
            y0, x0 = box[:2] * self.tile_shape
            y1, x1 = np.minimum(box[2:] * self.tile_shape, self.shape)
            with decoding():
                pixels = self._hdu.section[y0:y1, x0:x1]
            for place in np.flatnonzero(owners == number):
                y, x = corners[place] - (y0, x0)
                yield int(place), pixels[y : y + size, x : x + size]


def read_first(read: Read, uri: str, *, whole: bool) -> bytes:
    """A whole file, or its headers and index: one range, more where the headers are longer than `HEAD_BYTES` allows.

    Raises
    ------
    Rejected
        What ``read`` raises; ``not_fits``; ``truncated``; ``damaged``.
    """
    asked = None if whole else HEAD_BYTES
    found = read(uri, 0, asked)
    if not found.startswith(b"SIMPLE"):
        raise Rejected("not_fits", permanent=False)
    while (needed := _needed(found, whole)) > len(found):
        if asked is None or len(found) < asked:
            raise Rejected("truncated", permanent=False)
        asked = needed
        found += read(uri, len(found), asked)
    return found


def read_span(read: Read, uri: str, start: int, stop: int) -> bytes:
    """Exactly this range; `Rejected` (``truncated``) if it comes short."""
    piece = read(uri, start, stop)
    if len(piece) != stop - start:
        raise Rejected("truncated", permanent=False)
    return piece


def _needed(found: bytes, whole: bool) -> int:
    """How many bytes of the file are needed to begin with, as far as those at hand tell."""
    try:
        with decoding():
            table, start = _table_header(found)
            return _heap(table, start)[1] if whole else start + int(table["NAXIS1"] * table["NAXIS2"])
    except HeaderIncomplete:
        if len(found) >= HEAD_BYTES_MAX:
            raise Rejected("not_fits", permanent=False) from None
        return len(found) + HEAD_BYTES


def _table_header(found: bytes) -> tuple[fits.Header, int]:
    """Header of HDU 1 and where its data begin; `HeaderIncomplete` if more bytes are needed to tell."""
    stream = io.BytesIO(found[: len(found) // BLOCK * BLOCK])
    try:
        fits.Header.fromfile(stream)
        header = fits.Header.fromfile(stream)
    except (OSError, EOFError) as error:  # no END card, no second header
        raise HeaderIncomplete from error
    sizes = [header[key] for key in ("NAXIS1", "NAXIS2", "PCOUNT")]
    if header["XTENSION"].strip() != "BINTABLE" or not header["ZIMAGE"] or min(sizes) < 0:
        raise Rejected("damaged", permanent=False)
    return header, stream.tell()


def _heap(table: fits.Header, start: int) -> tuple[int, int]:
    """Where the tiles' bytes begin and end."""
    num_index = int(table["NAXIS1"] * table["NAXIS2"])
    return start + int(table.get("THEAP", num_index)), start + num_index + int(table["PCOUNT"])


def _index_dtype(table: fits.Header) -> np.dtype[Any]:
    """The table's rows; a column of descriptors (count, offset) is named after its number and the letter of its items."""
    fields: list[Any] = []
    for column in range(1, table["TFIELDS"] + 1):
        letters = table[f"TFORM{column}"].strip().lstrip("01")
        if letters[0] in "PQ":
            fields.append((f"{column}{letters[1]}", ">i4" if letters[0] == "P" else ">i8", (2,)))
        else:
            fields.append((f"{column}{letters[0]}", f"V{_ITEM_BYTES[letters[0]]}"))
    return np.dtype(fields)


def _sections(boxes: Corners) -> tuple[Corners, Corners]:
    """Sections that hold boxes of tiles (n, 4) = (y0, x0, y1, x1), and which of them holds each box.

    Each box joins the section where that saves most, or begins one of its own.
    """
    sections = boxes[:0]
    owners = np.zeros(len(boxes), np.int64)
    for place in np.lexsort((boxes[:, 1], boxes[:, 0])):
        box = boxes[place]
        joint = np.concatenate([np.minimum(sections[:, :2], box[:2]), np.maximum(sections[:, 2:], box[2:])], axis=1)
        saved = _cost(sections) + _cost(box) - _cost(joint)
        if len(saved) and saved.max() > 0:
            owners[place] = saved.argmax()
            sections[owners[place]] = joint[owners[place]]
        else:
            owners[place] = len(sections)
            sections = np.concatenate([sections, box[None]])
    return sections, owners


def _cost(boxes: Corners) -> Corners:
    """What sections of these boxes of tiles cost, in tiles."""
    return np.asarray((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) + SECTION_OVERHEAD_TILES)


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted ranges with those joined that touch or nearly touch."""
    joined: list[tuple[int, int]] = []
    for start, stop in spans:
        if joined and start - joined[-1][1] <= BRIDGED_BYTES:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined
