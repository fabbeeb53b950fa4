"""Reading sweep files by row ranges (R-S1).

A sweep is a FITS binary table with rows of fixed width, so a row range is a byte range and a block of bytes is a numpy
structured array without a copy. Blocks of 16k rows stay in the processor's cache; cuts run on a block before any column
is copied. That is about 6 times as fast as astropy with the same cuts (benchmarks/sweep_reading.py), which is why it is
our own; astropy reads the headers here and is the oracle in the tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from lensdata import storage
from lensdata.errors import InputError

BLOCK_ROWS = 16_384
READ_ROWS = BLOCK_ROWS  # a request of 8 MB: larger ones fall out of the processor's cache before they are cut
FORMATS = {"L": "S1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
REQUIRED = [
    "RELEASE",
    "BRICKID",
    "BRICKNAME",
    "OBJID",
    "TYPE",
    "RA",
    "DEC",
    "EBV",
    "MASKBITS",
    "FLUX_G",
    "FLUX_R",
    "FLUX_Z",
    "FLUX_IVAR_G",
    "FLUX_IVAR_R",
    "FLUX_IVAR_Z",
    "MW_TRANSMISSION_G",
    "MW_TRANSMISSION_R",
    "MW_TRANSMISSION_Z",
    "NOBS_G",
    "NOBS_R",
    "NOBS_Z",
    "PSFSIZE_G",
    "PSFSIZE_R",
    "PSFSIZE_Z",
    "PSFDEPTH_G",
    "PSFDEPTH_R",
    "PSFDEPTH_Z",
    "GALDEPTH_G",
    "GALDEPTH_R",
    "GALDEPTH_Z",
    "SHAPE_R",
    "SHAPE_E1",
    "SHAPE_E2",
    "SERSIC",
]
_BOX = re.compile(r"sweep-(\d{3})([pm])(\d{3})-(\d{3})([pm])(\d{3})\.fits")


@dataclass(frozen=True)
class SweepFile:
    """Where the rows of a sweep lie: byte offset, bytes per row, rows, and the layout of a row."""

    uri: str
    offset: int
    row_bytes: int
    num_rows: int
    dtype: np.dtype[Any]

    @property
    def name(self) -> str:
        """File name without the folder."""
        return self.uri.rsplit("/", 1)[-1]


def list_sweeps(uri: str) -> list[str]:
    """The ``*.fits`` files of a folder, or a single file.

    Raises
    ------
    InputError
        Nothing there, or no FITS file among it.
    """
    if not storage.exists(uri):
        raise InputError(f"Input sweeps {uri} does not exist; give a folder of sweep-*.fits files or one file.")
    found = storage.list_files(uri, ".fits")
    if not found:
        raise InputError(f"Input sweeps {uri} holds no .fits file; give a folder of sweep-*.fits files or one file.")
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


def open_sweep(uri: str, required: list[str] | None = None) -> SweepFile:
    """Read the headers of a sweep and check that its rows can be read as they lie.

    Raises
    ------
    InputError
        Not FITS, no table, a needed column missing, scaled or of variable length, or a file shorter than its rows.
    """
    try:
        with storage.open_input(uri) as handle:
            primary = fits.Header.fromfile(handle)
            handle.seek(handle.tell() + _padded_data_bytes(primary))
            header = fits.Header.fromfile(handle)
            offset = handle.tell()
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{uri} is not a FITS file with a table: {' '.join(str(error).split())[:200]}.") from error
    if header.get("XTENSION", "").strip() != "BINTABLE":
        raise InputError(f"{uri}: the first extension is {header.get('XTENSION')!r}, expected BINTABLE.")
    dtype = _row_layout(header, uri, REQUIRED if required is None else required)
    sweep = SweepFile(uri, offset, int(header["NAXIS1"]), int(header["NAXIS2"]), dtype)
    needed = offset + sweep.row_bytes * sweep.num_rows
    found = storage.size(uri)
    if found < needed:
        raise InputError(
            f"{uri} is truncated: {sweep.num_rows} rows need {needed} bytes, the file has {found}; fetch it again."
        )
    return sweep


def _padded_data_bytes(header: fits.Header) -> int:
    if not header.get("NAXIS", 0):
        return 0
    count = int(np.prod([header[f"NAXIS{i + 1}"] for i in range(header["NAXIS"])], dtype=np.int64))
    data = abs(header["BITPIX"]) // 8 * header.get("GCOUNT", 1) * (header.get("PCOUNT", 0) + count)
    return int(-(-data // 2880) * 2880)


def _row_layout(header: fits.Header, uri: str, required: list[str]) -> np.dtype[Any]:
    fields: list[Any] = []
    for index in range(1, int(header["TFIELDS"]) + 1):
        name = str(header[f"TTYPE{index}"]).strip().upper()
        form = str(header[f"TFORM{index}"]).strip()
        repeat, code = re.fullmatch(r"(\d*)([A-Z])(.*)", form).group(1, 2)  # type: ignore[union-attr]
        count = int(repeat or 1)
        if name in required:
            if code not in FORMATS and code != "A":
                raise InputError(f"{uri}: column {name} has format {form!r}, expected a fixed-width number or text.")
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
    names = [entry[0] for entry in fields]
    missing = [name for name in required if name not in names]
    if missing:
        raise InputError(
            f"{uri}: column {missing[0]} is missing (with {len(missing) - 1} others); "
            "DR9 and DR10 sweep files have it, older ones do not."
        )
    dtype = np.dtype(fields)
    if dtype.itemsize != int(header["NAXIS1"]):
        raise InputError(
            f"{uri}: columns add up to {dtype.itemsize} bytes a row, NAXIS1 says {header['NAXIS1']}; the file is corrupt."
        )
    return dtype


def plan_splits(sweeps: list[SweepFile], rows_per_split: int) -> list[tuple[str, int, int]]:
    """Row ranges (uri, first row, rows) that cover every file; a file without rows has one empty range."""
    ranges = []
    for sweep in sweeps:
        for first in range(0, max(sweep.num_rows, 1), rows_per_split):
            ranges.append((sweep.uri, first, min(rows_per_split, sweep.num_rows - first)))
    return ranges


def read_blocks(sweep: SweepFile, first: int = 0, rows: int | None = None) -> Iterator[npt.NDArray[Any]]:
    """Blocks of rows as structured arrays over the file's own bytes (big-endian, upper-case names).

    Raises
    ------
    InputError
        The file ends early.
    """
    last = sweep.num_rows if rows is None else min(first + rows, sweep.num_rows)
    with storage.open_input(sweep.uri) as handle:
        handle.seek(sweep.offset + first * sweep.row_bytes)
        for start in range(first, last, READ_ROWS):
            count = min(READ_ROWS, last - start)
            data = handle.read(count * sweep.row_bytes)
            if len(data) != count * sweep.row_bytes:
                raise InputError(
                    f"{sweep.uri}: ends in row {start + len(data) // sweep.row_bytes} of {sweep.num_rows}; fetch it again."
                )
            table = np.frombuffer(data, dtype=sweep.dtype)
            for block in range(0, count, BLOCK_ROWS):
                yield table[block : block + BLOCK_ROWS]
