"""Positions that somebody wants to have looked at: any table with right ascension and declination."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from lensdata.catalogue.lenses import read_any_table
from lensdata.config.bundle import PositionColumns
from lensdata.errors import InputError

ID_NAMES = ("id", "name", "objid", "object_id", "source_id", "targetid", "object", "designation")
LIMITS = {"ra": (-360.0, 360.0), "dec": (-90.0, 90.0)}  # degrees; a negative right ascension counts westwards


def read_positions(uri: str, columns: PositionColumns) -> pd.DataFrame:
    """A user's table as ``row, id, ra, dec, cutout_id, problem``, a row for each of its rows, in their order.

    ``row`` counts from 1. ``problem`` says why a row has no position on the sky, else it is None; then ``ra`` is within 0..360
    and ``cutout_id`` names the position: rows at one place share it.

    Parameters
    ----------
    uri
        CSV, TSV, blank-separated text, ECSV, Parquet, FITS, or a table folder.

    Raises
    ------
    InputError
        A column is missing, there are no rows, or no row has a position.
    """
    names = ID_NAMES if columns.id is None else (columns.id.lower(),)
    frame = read_any_table(uri, as_text=set(names) - {columns.ra.lower(), columns.dec.lower()})
    lower = {str(name).strip().lower(): name for name in frame.columns}
    for wanted in ("ra", "dec"):
        given = getattr(columns, wanted)
        if given.lower() not in lower:
            raise InputError(
                f"{uri}: column {given!r} is missing (columns.{wanted}); found {', '.join(map(str, frame.columns))}."
            )
    if frame.empty:
        raise InputError(f"{uri} has no rows, so there is nothing to score.")
    out = pd.DataFrame({"row": np.arange(1, len(frame) + 1)})
    out["id"] = _ids(frame, lower, columns, uri)
    problem = pd.Series([None] * len(frame), dtype=object)
    for name, (low, high) in LIMITS.items():
        values = pd.to_numeric(frame[lower[getattr(columns, name).lower()]], errors="coerce").to_numpy(np.float64)
        lost, outside = ~np.isfinite(values), (values < low) | (values > high)
        problem[lost & problem.isna()] = f"{name}_not_a_number"
        problem[outside & problem.isna()] = f"{name}_out_of_range"
        out[name] = values
    good = problem.isna()
    if not good.any():
        first = problem.iloc[0]
        raise InputError(
            f"{uri}: none of {len(frame)} rows has a position in decimal degrees; the first: {first.replace('_', ' ')}."
        )
    # Twice: the first remainder of a negative one of next to nothing is 360.
    out.loc[good, "ra"] = out.loc[good, "ra"] % 360.0 % 360.0
    keys = [position_id(ra, dec) for ra, dec in zip(out["ra"][good], out["dec"][good], strict=True)]
    out["cutout_id"] = pd.Series(keys, index=out.index[good], dtype="Int64").reindex(out.index)
    out["problem"] = problem
    return out


def position_id(ra: float, dec: float) -> int:
    """Key of the stamp at a position, which counts to 1e-7 degrees (0.4 mas), as requests do.

    >>> position_id(150.1, 2.2) == position_id(150.10000000001, 2.2) != position_id(150.2, 2.2)
    True
    >>> position_id(359.99999999, -0.00000001) == position_id(0.0, 0.0)
    True
    """
    east, north = round(ra, 7) % 360.0, round(dec, 7) + 0.0  # not 360, and no -0
    digest = hashlib.blake2b(f"{east:.7f},{north:+.7f}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # a signed 64-bit integer


def _ids(frame: pd.DataFrame, lower: dict[str, str], columns: PositionColumns, uri: str) -> pd.Series:
    """The names of the rows as text; None where there are none."""
    if columns.id is not None and columns.id.lower() not in lower:
        raise InputError(
            f"{uri}: column {columns.id!r} is missing (columns.id); found {', '.join(map(str, frame.columns))}."
        )
    candidates = [columns.id.lower()] if columns.id is not None else [name for name in ID_NAMES if name in lower]
    if not candidates:
        return pd.Series([None] * len(frame), dtype=object)
    values = frame[lower[candidates[0]]].astype(object)
    return values.map(lambda value: None if pd.isna(value) else _text(value))


def _text(value: object) -> str:
    return value.decode("utf-8", "replace").strip() if isinstance(value, bytes) else str(value).strip()
