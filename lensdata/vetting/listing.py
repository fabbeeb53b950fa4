"""The list of stamps that a person is to look at, read from a table folder, a Parquet file or a CSV file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from lensdata import storage, tables
from lensdata.errors import InputError

NUMBERS = ("rank", "logit", "score", "ra", "dec")
"""Columns beside ``cutout_id`` that are used where a list has them."""


def read_list(uri: str, top: int | None = None) -> pa.Table:
    """The stamps of a list in the order in which they deserve a look.

    Parameters
    ----------
    uri
        Folder of a finished table, ``.parquet`` or ``.csv`` file, local or ``s3://``, with a column ``cutout_id`` and perhaps
        those of `NUMBERS`.
    top
        Only so many from the front.

    Returns
    -------
    pyarrow.Table
        ``cutout_id`` (int64) and `NUMBERS` (float64, null where unknown): by ``rank`` where there is one, else by falling
        ``logit``, else as listed.

    Raises
    ------
    InputError
        No such list, an unfinished table, no ``cutout_id``, a key that is null or comes twice, no rows.
    """
    found = _read(uri)
    if "cutout_id" not in found.column_names:
        raise InputError(
            f"{uri} has no column 'cutout_id'; it has {', '.join(found.column_names)}. Give a list of stamps by their cutout_id."
        )
    try:
        keys = found["cutout_id"].cast(pa.int64())
        numbers = {
            name: found[name].cast(pa.float64()) if name in found.column_names else pa.nulls(len(keys), pa.float64())
            for name in NUMBERS
        }
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{uri}: cutout_id must be whole numbers, {', '.join(NUMBERS)} numbers ({error}).") from error
    _check_keys(keys, uri)
    listed = pa.table({"cutout_id": keys} | numbers)
    listed = listed.take(pa.array(_order(listed)))
    return listed if top is None else listed.slice(0, top)


def _read(uri: str) -> pa.Table:
    if storage.is_folder(uri):
        return tables.read_table(uri)
    try:
        with storage.open_input(uri) as handle:
            return pacsv.read_csv(handle) if uri.lower().endswith(".csv") else pq.read_table(handle)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise InputError(
            f"{uri} is neither a table folder nor a readable Parquet or .csv file ({error}); give one that is."
        ) from error


def _check_keys(keys: pa.ChunkedArray, uri: str) -> None:
    if not len(keys):
        raise InputError(f"{uri} lists no stamps; give a list with rows.")
    if keys.null_count:
        raise InputError(f"{uri}: cutout_id is null in {keys.null_count} rows; give every row its stamp.")
    counts = pc.value_counts(keys)
    again = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(again):
        raise InputError(
            f"{uri} lists cutout_id {again[0].as_py()} more than once ({len(again)} such stamps); keep one row for each."
        )


def _order(listed: pa.Table) -> npt.NDArray[np.int64]:
    """Places of the rows by rank, else by falling logit, else as they are; unknown ones last, ties as listed."""
    for name, sign in (("rank", 1.0), ("logit", -1.0)):
        if listed[name].null_count < listed.num_rows:
            return np.argsort(sign * listed[name].to_numpy(), kind="stable")  # nan, which null becomes, sorts last
    return np.arange(listed.num_rows)
