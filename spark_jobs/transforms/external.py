"""Tables from elsewhere as DataFrames: the columns asked for, positions checked (R-S4, R-S9).

Parquet is read by Spark, whatever its size; the small formats (CSV, TSV, FITS, blank-separated text) on the driver.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lensdata import storage, tables
from lensdata.catalogue.lenses import LENSCAT_COLUMNS, read_any_table
from lensdata.errors import InputError

PARQUET = (".parquet", ".pq")
NUMERIC = ("double", "float", "decimal", "bigint", "int", "smallint", "tinyint", "boolean", "string")
POSITION = {"ra": (-360.0, 360.0), "dec": (-90.0, 90.0)}


def read_columns(
    spark: SparkSession, uri: str, numbers: Mapping[str, str], texts: Mapping[str, str], section: str = "columns"
) -> DataFrame:
    """The columns of a table under our names, and ``_row``: the number of the row where the format has one.

    Parameters
    ----------
    numbers
        Column names in the table by our names; each must be there and hold numbers. ``ra`` and ``dec`` must lie on the sky.
    texts
        The same for columns that may be missing; they are null then.
    section
        The section of the configuration in which column names are given, for the error.

    Raises
    ------
    InputError
        A column is missing, a value is no number or no position, or there are no rows.
    """
    frame, found = _open(spark, uri)
    for ours, theirs in numbers.items():
        if theirs.lower() not in found:
            raise InputError(
                f"{uri}: column {theirs!r} is missing ({section}.{ours}); found {', '.join(found.values())}."
            )
    kinds = dict(frame.dtypes)
    for theirs in numbers.values():
        kind = kinds[found[theirs.lower()]]
        if not kind.startswith(NUMERIC):
            raise InputError(f"{uri}: column {theirs!r} holds {kind}, expected numbers.")
    raw = [F.col(_quoted(found[theirs.lower()])).cast("string").alias(f"_{ours}") for ours, theirs in numbers.items()]
    named = [
        (F.col(_quoted(found[theirs.lower()])) if theirs.lower() in found else F.lit(None)).cast("string").alias(ours)
        for ours, theirs in texts.items()
    ]
    typed = [F.expr(_number(found[theirs.lower()], ours)).alias(ours) for ours, theirs in numbers.items()]
    rows = frame.select(*typed, *named, *raw, "_row")
    _check(rows, uri, numbers)
    return rows.drop(*(f"_{ours}" for ours in numbers))


def _quoted(column: str) -> str:
    return "`" + column.replace("`", "``") + "`"


def _number(column: str, ours: str) -> str:
    """SQL that makes a number of a number, a truth value or a text, and null of anything else."""
    if ours == "source_id":  # 64 bits do not fit a double
        return f"try_cast({_quoted(column)} as bigint)"
    return f"coalesce(try_cast({_quoted(column)} as double), try_cast(try_cast({_quoted(column)} as boolean) as int))"


def _check(rows: DataFrame, uri: str, numbers: Mapping[str, str]) -> None:
    if rows.isEmpty():
        raise InputError(f"{uri} has no rows, so it would change nothing; give the right file.")
    for ours, theirs in numbers.items():
        low, high = POSITION.get(ours, (-np.inf, np.inf))
        value = F.col(ours)
        wrong = value.isNull() | F.isnan(value.cast("double")) | (value < F.lit(low)) | (value > F.lit(high))
        bad = rows.where(wrong).orderBy("_row").limit(1).collect()
        if bad:
            where = f"row {bad[0]['_row']} of the data" if bad[0]["_row"] is not None else "a row"
            limits = f" in {low:g}..{high:g} degrees" if ours in POSITION else ""
            raise InputError(f"{uri}: {where}: {theirs} = {bad[0][f'_{ours}']} is not a number{limits}.")


def _open(spark: SparkSession, uri: str) -> tuple[DataFrame, dict[str, str]]:
    """A table with ``_row``, and its column names by their lower-case forms."""
    name = uri.lower()
    if not storage.exists(uri):
        raise InputError(f"Input table {uri} does not exist.")
    is_table = storage.exists(storage.join(uri, "_table.json"))
    if name.endswith(PARQUET) or is_table:
        if is_table:
            tables.require_success(uri)
        frame = spark.read.parquet(storage.join(uri, "dataset") if is_table else uri)
        return frame.withColumn("_row", F.lit(None).cast("long")), {c.lower(): c for c in frame.columns}
    rows = read_any_table(uri)
    if "RA [deg]" in rows:
        rows = rows.rename(columns=LENSCAT_COLUMNS)
    plain = pd.DataFrame({str(c): _plain(rows[c]) for c in rows.columns if np.ndim(rows[c]) == 1})
    fields = ", ".join(f"{_quoted(c)} {'double' if plain[c].dtype.kind == 'f' else 'string'}" for c in plain)
    plain["_row"] = np.arange(1, len(plain) + 1)
    return spark.createDataFrame(plain, f"{fields}, _row long"), {c.lower(): c for c in plain.columns[:-1]}


def _plain(values: pd.Series) -> pd.Series:
    """Numbers as float64 (null is nan), everything else as text or null."""
    if values.dtype.kind in "f":
        return values.astype("float64")
    decoded = [None if value is None or value is pd.NA or value != value else value for value in values.tolist()]
    texts = [v.decode() if isinstance(v, bytes) else None if v is None else str(v) for v in decoded]
    return pd.Series([None if text is None else text.strip() for text in texts], dtype=object)
