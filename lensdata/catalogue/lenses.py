"""Lens catalogues: lenscat's CSV, or any table with positions (R-S3)."""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Collection
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lensdata import storage
from lensdata.config.catalogue import LensColumns
from lensdata.errors import InputError

LENSCAT_COLUMNS = {
    "name": "name",
    "RA [deg]": "ra",
    "DEC [deg]": "dec",
    "grading": "grading",
    "zlens": "zlens",
    "type": "type",
    "ref": "ref",
}


def lenscat_csv() -> Path:
    """The CSV inside the installed package ``lenscat``, found without importing it.

    Importing lenscat loads ligo.skymap and matplotlib; only its table is needed.

    Raises
    ------
    InputError
        The package is not installed.
    """
    found = importlib.util.find_spec("lenscat")
    if found is None or not found.submodule_search_locations:
        raise InputError("The package lenscat is not installed; install lenscat==1.1.3 or give inputs.lenses=TABLE.")
    return Path(found.submodule_search_locations[0]) / "data" / "catalog.csv"


def read_lenscat() -> pd.DataFrame:
    """lenscat 1.1.3, 32,838 rows: name, ra, dec (degrees), grading, zlens (text), type, ref."""
    return read_lenses(str(lenscat_csv()))


def read_lenses(uri: str, columns: LensColumns | None = None) -> pd.DataFrame:
    """A lens table as ``name, ra, dec, grading`` (and what else lenscat has).

    Parameters
    ----------
    uri
        CSV, blank-separated text (.cat), Parquet or FITS, or a table folder. lenscat's own column names are recognised.
    columns
        Column names of other tables, in any case.

    Raises
    ------
    InputError
        A column is missing, or a position is not a number on the sky.
    """
    frame = read_any_table(uri)
    is_lenscat = "RA [deg]" in frame.columns
    frame = frame.rename(columns=LENSCAT_COLUMNS) if is_lenscat else _rename(frame, columns or LensColumns(), uri)
    if frame.empty:
        raise InputError(f"Lens table {uri} has no rows, so it would exclude and match nothing; give the right file.")
    for name, low, high in (("ra", -360.0, 360.0), ("dec", -90.0, 90.0)):
        values = pd.to_numeric(frame[name], errors="coerce")
        bad = values.isna() | (values < low) | (values > high)
        if bad.any():
            row = int(bad.to_numpy().argmax())
            found = frame[name].iloc[row]
            raise InputError(f"{uri}: row {row + 1} of the data: {name} = {found} is not in {low:g}..{high:g} degrees.")
        frame[name] = values.astype("float64")
    frame["name"] = frame["name"].astype(str).str.strip()
    frame["grading"] = frame["grading"].astype(str).str.strip()
    return frame.reset_index(drop=True)


def _rename(frame: pd.DataFrame, columns: LensColumns, uri: str) -> pd.DataFrame:
    lower = {str(name).lower(): name for name in frame.columns}
    out = frame.copy()
    for wanted in ("ra", "dec"):
        given = getattr(columns, wanted)
        if given.lower() not in lower:
            raise InputError(
                f"{uri}: column {given!r} is missing (columns.{wanted}); found {', '.join(map(str, frame.columns))}."
            )
        out[wanted] = frame[lower[given.lower()]]
    name = lower.get(columns.name.lower())
    out["name"] = (
        frame[name]
        if name is not None
        else [f"{ra:.5f}{dec:+.5f}" for ra, dec in zip(out["ra"], out["dec"], strict=True)]
    )
    grading = lower.get(columns.grading.lower())
    out["grading"] = frame[grading] if grading is not None else "probable"
    return out


def read_any_table(uri: str, as_text: Collection[str] = ()) -> pd.DataFrame:
    """CSV/TSV, blank-separated text, ECSV, Parquet, FITS or a table folder as pandas.

    Parameters
    ----------
    as_text
        Names of columns in lower case that CSV and Parquet files keep as they are written: pandas makes numbers of names, whose
        leading zeros go, and floats of whole numbers where one is missing, whose last digits go.

    Raises
    ------
    InputError
        Unknown ending, or a file that cannot be read as what its ending says.
    """
    name = uri.lower()
    if not storage.exists(uri):
        raise InputError(f"Input table {uri} does not exist.")
    try:
        if storage.is_folder(uri):
            from lensdata import tables

            return _named_by_text(tables.read_table(uri), as_text).to_pandas()
        if name.endswith((".csv", ".tsv", ".txt", ".csv.gz")):
            return _read_separated(uri, as_text)
        if name.endswith(".ecsv"):
            from astropy.table import Table

            with storage.open_input(uri) as handle:
                return Table.read(handle.read().decode(), format="ascii.ecsv").to_pandas()
        if name.endswith((".cat", ".dat")):
            with storage.open_input(uri) as handle:
                return _read_blank_separated(handle.read().decode())
        if name.endswith((".parquet", ".pq")):
            return _named_by_text(pq.read_table(storage.open_arrow(uri)), as_text).to_pandas()
        if name.endswith((".fits", ".fits.gz", ".fit")):
            from astropy.table import Table

            with storage.open_input(uri) as handle:
                return Table.read(handle, format="fits", hdu=1).to_pandas()
    except (
        OSError,
        ValueError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        zlib.error,
    ) as error:  # pandas and Arrow's too
        raise InputError(f"Input table {uri} cannot be read: {' '.join(str(error).split())}.") from error
    raise InputError(f"Input table {uri} must be .csv, .tsv, .cat, .ecsv, .parquet, .fits or a table folder.")


def _read_separated(uri: str, as_text: Collection[str]) -> pd.DataFrame:
    separator = "\t" if uri.lower().endswith(".tsv") else ","
    compression = "gzip" if uri.lower().endswith(".gz") else None
    kept: list[str] = []
    if as_text:
        with storage.open_input(uri) as handle:
            names = pd.read_csv(handle, sep=separator, compression=compression, nrows=0).columns
        kept = [name for name in names if _lower(name) in as_text]
    with storage.open_input(uri) as handle:
        return pd.read_csv(handle, sep=separator, compression=compression, dtype=dict.fromkeys(kept, str))


def _named_by_text(table: pa.Table, as_text: Collection[str]) -> pa.Table:
    """The table with the whole numbers of these columns as text."""
    for place, field in enumerate(table.schema):
        if _lower(field.name) in as_text and pa.types.is_integer(field.type):
            table = table.set_column(place, field.name, table[place].cast(pa.string()))
    return table


def _lower(name: object) -> str:
    return str(name).strip().lower()


def _read_blank_separated(text: str) -> pd.DataFrame:
    """A table in columns of text; the names stand in its first line, after ``#`` or without."""
    from astropy.io import ascii as astropy_ascii

    first = next((line for line in text.splitlines() if line.strip()), "")
    form = "commented_header" if first.startswith("#") else "basic"
    return astropy_ascii.read(text.splitlines(), format=form).to_pandas()
