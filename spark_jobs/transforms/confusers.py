"""Confuser flags and sampling keys for the rows of a pool, file by file of its HATS catalogue (R-S4, R-S5).

A file holds all rows of a piece of sky, so nearly every close pair lies in one file. Only galaxies at the edge of a piece, few
in a thousand, are brought together for the pairs across edges; no other row is moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from lensdata import storage, tables
from lensdata.catalogue import hats
from lensdata.catalogue.confusers import BITS, close_pairs, flags_without_merger, primary_index
from lensdata.catalogue.strata import STRATA
from lensdata.config.catalogue import Confusers
from lensdata.errors import InputError
from lensdata.hashing import sampling_key
from lensdata.sky.healpix import cells_with_margin
from spark_jobs import datasets

PLACE = ["source_id", "ra", "dec", "mag_r"]
NUMBERS = ("flux_r", "sersic", "ellipticity", "gr", "mag_r", "shape_r")
WANTED = [*PLACE, "stratum", "type", *(name for name in NUMBERS if name not in PLACE)]
EDGE = pa.schema([("source_id", pa.int64()), ("ra", pa.float64()), ("dec", pa.float64()), ("mag_r", pa.float32())])
FLAGGED = pa.schema(
    [
        ("source_id", pa.int64()),
        ("stratum", pa.int8()),
        ("sample_key", pa.int64()),
        ("confuser_flags", pa.int32()),
        ("category", pa.int8()),
    ]
)  # stratum and category: their places in STRATA and CATEGORIES, -1 for none
Pass = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def flag_confusers(
    spark: SparkSession, folder: str, rules: Confusers, seed: int, mergers: npt.NDArray[np.int64] | None = None
) -> DataFrame:
    """``source_id, stratum, sample_key, confuser_flags, category`` of the pool rows in a stratum.

    Parameters
    ----------
    folder
        A pool whose files are those of a HATS catalogue (`lensdata.catalogue.hats`).
    mergers
        ``source_id`` of rows that are mergers by another table; few enough to be sent to every task.
    """
    files = tables.dataset_files(folder)
    if not files:
        return spark.createDataFrame([], datasets.spark_schema(FLAGGED))
    slices = max(1, min(len(files), 16 * spark.sparkContext.defaultParallelism))
    names = spark.createDataFrame(spark.sparkContext.parallelize([(name,) for name in files], slices), "uri string")
    edge = datasets.map_partitions(names, _edges(rules.merger.radius_arcsec), EDGE).toPandas()
    sent = spark.sparkContext.broadcast({name: edge[name].to_numpy() for name in EDGE.names})
    known = np.sort(mergers) if mergers is not None else np.zeros(0, np.int64)
    return datasets.map_partitions(names, _flags(sent, spark.sparkContext.broadcast(known), rules, seed), FLAGGED)


def _edges(radius_arcsec: float) -> Pass:
    """Rows within the radius of another file's piece of sky, and a few that are a little further away."""

    def find(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for uri, table, order, pixel in _files(batches, PLACE):
            rows, cells = cells_with_margin(table["ra"], table["dec"], order, radius_arcsec)
            if (cells[: table.num_rows] != pixel).any():
                raise InputError(
                    f"{uri} holds rows outside its HEALPix pixel {pixel} of order {order}; write the pool again."
                )
            near = np.unique(rows[table.num_rows :])
            yield from table.take(pa.array(near)).cast(EDGE).combine_chunks().to_batches()

    return find


def _flags(edge: Any, mergers: Any, rules: Confusers, seed: int) -> Pass:
    def flag(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _, table, order, pixel in _files(batches, WANTED):
            ids = table["source_id"].to_numpy()
            columns: dict[str, Any] = {name: table[name].to_numpy() for name in NUMBERS}
            flags = flags_without_merger(columns | {"type": _texts(table["type"])}, rules)
            beyond = _beyond(edge.value, order, pixel, ids, rules.merger.radius_arcsec)
            place = [np.concatenate([table[name].to_numpy(), beyond[name]]).astype(float) for name in PLACE[1:]]
            member = close_pairs(*place, rules.merger.radius_arcsec, rules.merger.mag_r_difference_max)[: len(ids)]
            member |= np.isin(ids, mergers.value)
            flags |= np.where(member, BITS["merger"], 0).astype(np.int32)
            stratum = (
                pc.fill_null(pc.index_in(table["stratum"], value_set=pa.array(STRATA)), -1).to_numpy().astype(np.int8)
            )
            kept = stratum >= 0
            values = (ids[kept], stratum[kept], sampling_key(ids[kept], seed), flags[kept], primary_index(flags[kept]))
            yield pa.RecordBatch.from_arrays([pa.array(value) for value in values], schema=FLAGGED)

    return flag


def _beyond(edge: dict[str, Any], order: int, pixel: int, ids: Any, radius_arcsec: float) -> dict[str, Any]:
    """Rows of other files within the radius of a pixel."""
    rows, cells = cells_with_margin(edge["ra"], edge["dec"], order, radius_arcsec)
    near = np.unique(rows[cells == pixel])
    near = near[~np.isin(edge["source_id"][near], ids)]
    return {name: values[near] for name, values in edge.items()}


def _files(batches: Iterator[pa.RecordBatch], columns: list[str]) -> Iterator[tuple[str, pa.Table, int, int]]:
    """Name, rows, order and pixel of the files that a task was given."""
    for batch in batches:
        for uri in batch["uri"].to_pylist():
            leaf = hats.leaf_of_file(uri)
            if leaf is None:
                raise RuntimeError(f"{uri} is no leaf of a HATS catalogue")
            yield uri, pq.read_table(storage.open_arrow(uri), columns=columns), *leaf


def _texts(values: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[Any]]:
    """Strings as a numpy array; of a few different ones, each is decoded once."""
    encoded = values.combine_chunks().dictionary_encode()
    return np.array(encoded.dictionary.to_pylist() or [""])[encoded.indices.to_numpy(zero_copy_only=False)]
