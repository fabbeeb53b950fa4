"""Sweep files: where their rows lie, and reading them by row ranges (R-S1).

A sweep is a FITS binary table with rows of fixed width, so a row range is a byte range and a block of bytes is a numpy
structured array without a copy. Files lie on a disk, on S3 or on a web server; blocks of 16k rows stay in the processor's
cache while they are cut. ``benchmarks/catalogue.py`` compares this with astropy and with just reading the bytes, which is why
it is our own; astropy reads the headers here and is the oracle in the tests.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from astropy.io import fits

from lensdata import storage, web
from lensdata.errors import InputError
from lensdata.tables import SOURCE

BLOCK_ROWS = 16_384  # 8 MB: larger blocks fall out of the processor's cache before they are cut
ENDINGS = (".fits", ".fits.gz")
FORMATS = {"L": "S1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
NUMBERS = "BIJKED"
REQUIRED = [column.name.upper() for column in SOURCE if column.name != "source_id"]
TEXT_COLUMNS = [column.name.upper() for column in SOURCE if pa.types.is_string(column.type)]
HEADER_BLOCK = 2880  # FITS headers and data come in blocks of this many bytes
HEADER_BLOCKS = (
    1_000  # the 130 columns of DR10 need about 10; a header without its END card is not sought to the file's end
)
_BOX = re.compile(r"sweep-(\d{3})([pm])(\d{3})-(\d{3})([pm])(\d{3})\.fits")


class CorruptSweep(InputError):
    """A file that is not what its header says.

    Attributes
    ----------
    offset
        Where it went wrong, bytes from the start of the (uncompressed) file.
    """

    def __init__(self, uri: str, offset: int, found: str) -> None:
        super().__init__(f"{uri}: {found} (at byte {offset}); fetch the file again.")
        self.offset = offset


@dataclass(frozen=True)
class SweepFile:
    """Where the rows of a sweep lie: byte offset, bytes per row, rows, the layout of a row; and the size of the file."""

    uri: str
    offset: int
    row_bytes: int
    num_rows: int
    dtype: np.dtype[Any]
    size: int

    @property
    def name(self) -> str:
        """File name without the folder."""
        return file_name(self.uri)

    @property
    def compressed(self) -> bool:
        """Whether rows can only be reached by unpacking what lies before them."""
        return self.uri.endswith(".gz")


def file_name(uri: str) -> str:
    """File name without the folder."""
    return uri.rsplit("/", 1)[-1]


def list_sweeps(uri: str) -> list[str]:
    """The ``.fits`` and ``.fits.gz`` files of a folder, those a ``.txt`` list names, or a single file.

    Raises
    ------
    InputError
        Nothing there, no FITS file among it, another file in a list, or two files of one name.
    """
    if not storage.exists(uri):
        raise InputError(
            f"Input sweeps {uri} does not exist; give a folder of sweep-*.fits files, one file, or a .txt list."
        )
    is_list = storage.is_file_list(uri)
    named = storage.read_file_list(uri) if is_list else storage.list_files(uri)
    found = sorted(name for name in named if name.endswith(ENDINGS))
    if is_list and len(found) < len(named):
        other = next(name for name in named if not name.endswith(ENDINGS))
        raise InputError(f"Input sweeps {uri} names {other}, expected .fits or .fits.gz files; take it off the list.")
    if not found:
        raise InputError(
            f"Input sweeps {uri} holds no .fits file; give a folder of sweep-*.fits files, one file, or a .txt list."
        )
    seen: dict[str, str] = {}
    for name in found:
        other = seen.setdefault(file_name(name).removesuffix(".gz"), name)
        if other != name:
            raise InputError(f"Input sweeps {uri} holds one file twice: {other} and {name}; remove one of them.")
    return found


def declination_range(name: str) -> tuple[float, float] | None:
    """Declinations of a sweep's box from its file name, degrees; None where the name does not say.

    >>> declination_range("sweep-000m005-005p000.fits")
    (-5.0, 0.0)
    """
    found = _BOX.search(name)
    if found is None:
        return None
    low = int(found[3]) * (-1 if found[2] == "m" else 1)
    high = int(found[6]) * (-1 if found[5] == "m" else 1)
    return float(low), float(high)


def outside_declinations(name: str, limits: tuple[float, float]) -> bool:
    """True where the file's name says that no row of it lies inside the limits (degrees).

    >>> outside_declinations("sweep-000m085-005m080.fits", (-18.0, 32.0))
    True
    >>> outside_declinations("anything.fits", (-18.0, 32.0))
    False
    """
    box = declination_range(name)
    return box is not None and (box[1] <= limits[0] or box[0] >= limits[1])


def open_sweeps(
    uris: list[str], columns: Mapping[str, str] | None = None
) -> tuple[list[SweepFile], dict[str, InputError]]:
    """Headers of many files, read side by side; and why the others cannot be used. ``columns`` as in `open_sweep`."""
    with ThreadPoolExecutor(32) as threads:
        found = dict(zip(uris, threads.map(partial(_open_or_reason, columns=columns), uris), strict=True))
    errors = {uri: entry for uri, entry in found.items() if isinstance(entry, InputError)}
    return [entry for entry in found.values() if isinstance(entry, SweepFile)], errors


def _open_or_reason(uri: str, columns: Mapping[str, str] | None) -> SweepFile | InputError:
    try:
        return open_sweep(uri, columns=columns)
    except InputError as error:
        return error


def open_sweep(uri: str, required: list[str] | None = None, columns: Mapping[str, str] | None = None) -> SweepFile:
    """Read the headers of a sweep and check that its rows can be read as they lie.

    Parameters
    ----------
    required
        Columns that must be there, a number or a text a row; `REQUIRED` by default.
    columns
        What the file calls a column, by the name it has in `REQUIRED`, where the two differ.

    Raises
    ------
    InputError
        Not FITS, no table, a damaged header, a needed column missing, scaled or of another kind.
    CorruptSweep
        A file shorter than its rows, or columns that do not add up to a row.
    OSError
        It cannot be read now: nothing is wrong with the file.
    """
    try:
        stream, total = storage.open_ranged(uri)
        with stream, _unpacked(stream, uri) as handle:
            primary = _read_header(handle, b"SIMPLE  =")
            handle.seek(handle.tell() + _padded_data_bytes(primary))
            header = _read_header(handle, b"XTENSION=")
            offset = handle.tell()
        sweep = _described(uri, header, offset, total, REQUIRED if required is None else required, columns or {})
    except (
        EOFError, KeyError, TypeError, ValueError, OverflowError, zlib.error, gzip.BadGzipFile, fits.VerifyError
    ) as error:  # fmt: skip
        text = str(error.args[0] if isinstance(error, KeyError) else error)  # a KeyError's own text stands in quotes
        found = " ".join(text.split())[:200].strip(".")
        raise InputError(f"{uri} is not a FITS file with a table: {found}; fetch the file again.") from error
    except OSError as error:
        raise OSError(f"{uri} cannot be read: {' '.join(str(error).split())[:200].strip('.')}") from error
    needed = offset + sweep.row_bytes * sweep.num_rows
    if total < needed and not sweep.compressed:
        rows = max(total - offset, 0) // max(sweep.row_bytes, 1)
        raise CorruptSweep(
            uri, total, f"the file is truncated after {rows} of {sweep.num_rows} rows, it needs {needed} bytes"
        )
    return sweep


def _unpacked(stream: BinaryIO, uri: str) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if uri.endswith(".gz") else stream


def _read_header(handle: BinaryIO, start: bytes) -> fits.Header:
    """The header that begins here; reading errors pass through, so that they are not taken for a damaged file.

    Raises
    ------
    ValueError
        What lies here is no header.
    """
    text = ""
    for _ in range(HEADER_BLOCKS):
        block = handle.read(HEADER_BLOCK)
        if not text and not block.startswith(start):
            raise ValueError(f"a header should begin with {start.decode()!r}, found {block[:16]!r}")
        if len(block) < HEADER_BLOCK:
            raise ValueError("the file ends inside its header")
        text += block.decode("ascii")
        if any(text[at : at + 80].rstrip() == "END" for at in range(len(text) - HEADER_BLOCK, len(text), 80)):
            return fits.Header.fromstring(text)
    raise ValueError("a header has no END card")


def _number(header: fits.Header, key: str, default: int | None = None) -> int:
    found = header[key] if default is None else header.get(key, default)
    if type(found) is not int or (found < 0 and key != "BITPIX"):
        raise ValueError(f"{key} is {found!r}, expected a whole number")
    return found


def _padded_data_bytes(header: fits.Header) -> int:
    axes = _number(header, "NAXIS", 0)
    if not axes:
        return 0
    count = math.prod(_number(header, f"NAXIS{i + 1}") for i in range(axes))
    data = abs(_number(header, "BITPIX")) // 8 * _number(header, "GCOUNT", 1) * (_number(header, "PCOUNT", 0) + count)
    return -(-data // HEADER_BLOCK) * HEADER_BLOCK


def _described(
    uri: str, header: fits.Header, offset: int, total: int, required: list[str], columns: Mapping[str, str]
) -> SweepFile:
    if str(header["XTENSION"]).strip() != "BINTABLE":
        raise ValueError(f"the first extension is {header['XTENSION']!r}, expected 'BINTABLE'")
    dtype = _row_layout(header, uri, required, _renamed(header, columns))
    row_bytes, num_rows = _number(header, "NAXIS1"), _number(header, "NAXIS2")
    if dtype.itemsize != row_bytes:
        what = f"columns add up to {dtype.itemsize} bytes a row, NAXIS1 says {row_bytes}"
        raise CorruptSweep(uri, 0, what)
    return SweepFile(uri, offset, row_bytes, num_rows, dtype, total)


def _renamed(header: fits.Header, columns: Mapping[str, str]) -> list[str]:
    """Names of the columns, ours for those of ``columns``; a column that has such a name already gives it up."""
    names = [str(header[f"TTYPE{index + 1}"]).strip().upper() for index in range(_number(header, "TFIELDS"))]
    ours = {other.upper(): name for name, other in columns.items() if other.upper() in names}
    taken = set(ours.values())
    return [ours.get(name, f"_{index}" if name in taken else name) for index, name in enumerate(names)]


def _row_layout(header: fits.Header, uri: str, required: list[str], names: list[str]) -> np.dtype[Any]:
    fields: list[Any] = []
    for index, name in enumerate(names, 1):
        form = str(header[f"TFORM{index}"]).strip()
        parts = re.fullmatch(r"(\d*)([A-Z])(.*)", form)
        if parts is None:
            raise InputError(f"{uri}: column {name} has the unknown format {form!r}.")
        count, code = int(parts[1] or 1), parts[2]
        if name in required:
            is_text = name in TEXT_COLUMNS
            if not count or (code != "A" if is_text else code not in NUMBERS or count > 1):
                wanted = "text of fixed width" if is_text else "one number"
                raise InputError(f"{uri}: column {name} has format {form!r}, expected {wanted} a row.")
            if f"TZERO{index}" in header or f"TSCAL{index}" in header:
                raise InputError(f"{uri}: column {name} is scaled (TZERO/TSCAL), which sweep files never are.")
        if code == "A":
            fields.append((name, f"S{count}"))
        elif code in FORMATS:
            fields.append((name, FORMATS[code]) if count == 1 else (name, FORMATS[code], (count,)))
        else:  # not needed: opaque bytes of its width
            width = {"X": -(-count // 8), "C": 8 * count, "M": 16 * count, "P": 8 * count, "Q": 16 * count}.get(code)
            if width is None:
                raise InputError(f"{uri}: column {name} has the unknown format {form!r}.")
            fields.append((name, f"V{width}"))
    found = [entry[0] for entry in fields]
    missing = [name for name in required if name not in found]
    if missing:
        raise InputError(
            f"{uri}: column {missing[0]} is missing (with {len(missing) - 1} others); "
            "DR9 and DR10 sweep files have it, older ones do not (another name for it: sweep_columns)."
        )
    return np.dtype(fields)


def plan_splits(sweeps: list[SweepFile], rows_per_split: int) -> list[tuple[str, int, int]]:
    """Row ranges (uri, first row, rows) that cover every file; a file without rows has one empty range.

    A compressed file is one range: its rows can only be reached from the start.
    """
    ranges = []
    for sweep in sweeps:
        step = max(sweep.num_rows, 1) if sweep.compressed else rows_per_split
        for first in range(0, max(sweep.num_rows, 1), step):
            ranges.append((sweep.uri, first, min(step, sweep.num_rows - first)))
    return ranges


def read_blocks(sweep: SweepFile, first: int = 0, rows: int | None = None) -> Iterator[npt.NDArray[Any]]:
    """Blocks of rows as structured arrays over the file's own bytes (big-endian, upper-case names).

    A block is valid until the next one is asked for; fancy indexing copies what is to stay.

    Raises
    ------
    CorruptSweep
        The file ends early, cannot be unpacked, or is no longer the one whose header was read.
    OSError
        It cannot be read now.
    """
    last = sweep.num_rows if rows is None else min(first + rows, sweep.num_rows)
    start, stop = (sweep.offset + row * sweep.row_bytes for row in (first, last))
    piece = BLOCK_ROWS * sweep.row_bytes
    at, why = first, None
    try:
        if sweep.compressed:
            pieces = _unpack(sweep, start, stop, piece, to_end=last == sweep.num_rows)
        else:
            pieces = storage.read_pieces(sweep.uri, start, stop, piece, sweep.size)
        for data in pieces:
            count = len(data) // max(sweep.row_bytes, 1)
            if count:
                yield np.frombuffer(data, dtype=sweep.dtype, count=count)
            at += count
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        why = f"it cannot be unpacked ({error})"
    except web.ChangedFile:
        why = "it changed while it was read"
    if at < last or why:
        offset = sweep.offset + at * sweep.row_bytes
        raise CorruptSweep(sweep.uri, offset, f"{why or 'the file ends'} in row {at} of {sweep.num_rows}")


def _unpack(sweep: SweepFile, start: int, stop: int, piece: int, *, to_end: bool) -> Iterator[memoryview]:
    """Pieces of the unpacked file; only at its end does its checksum tell whether they were right."""
    packed, size = storage.open_ranged(sweep.uri, storage.REQUEST_BYTES)
    if size != sweep.size:
        packed.close()
        raise web.ChangedFile(f"{sweep.uri} has {size} bytes, before {sweep.size}.")
    with packed, gzip.GzipFile(fileobj=packed) as handle:
        handle.seek(start)
        while start < stop:
            data = handle.read(min(piece, stop - start))
            if not data:
                return
            start += len(data)
            yield memoryview(data)
        while to_end and handle.read(1 << 20):
            pass
