"""Lens catalogues: lenscat's CSV, or any table with positions (R-S3)."""

from __future__ import annotations

import importlib.util
import zlib
from pathlib import Path

import pandas as pd
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


def read_any_table(uri: str) -> pd.DataFrame:
    """CSV/TSV, blank-separated text, ECSV, Parquet, FITS or a table folder as pandas.

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

            return tables.read_table(uri).to_pandas()
        if name.endswith((".csv", ".tsv", ".txt", ".csv.gz")):
            with storage.open_input(uri) as handle:
                compression = "gzip" if name.endswith(".gz") else None
                return pd.read_csv(handle, sep="\t" if name.endswith(".tsv") else ",", compression=compression)
        if name.endswith(".ecsv"):
            from astropy.table import Table

            with storage.open_input(uri) as handle:
                return Table.read(handle.read().decode(), format="ascii.ecsv").to_pandas()
        if name.endswith((".cat", ".dat")):
            with storage.open_input(uri) as handle:
                return _read_blank_separated(handle.read().decode())
        if name.endswith((".parquet", ".pq")):
            return pq.read_table(storage.open_arrow(uri)).to_pandas()
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


def _read_blank_separated(text: str) -> pd.DataFrame:
    """A table in columns of text; the names stand in its first line, after ``#`` or without."""
    from astropy.io import ascii as astropy_ascii

    first = next((line for line in text.splitlines() if line.strip()), "")
    form = "commented_header" if first.startswith("#") else "basic"
    return astropy_ascii.read(text.splitlines(), format=form).to_pandas()
