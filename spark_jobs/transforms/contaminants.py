"""Lists of contaminants, and the pool rows that lie at one (R-S9)."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lensdata import storage
from lensdata.config.catalogue import ContaminantColumns
from lensdata.errors import InputError
from lensdata.sky.healpix import ang2pix
from spark_jobs import datasets
from spark_jobs.transforms.crossmatch import BROADCAST_ROWS, Way, nearest_within
from spark_jobs.transforms.external import PARQUET, read_columns

ENDINGS = (*PARQUET, ".csv", ".csv.gz", ".tsv", ".txt", ".cat", ".dat", ".fits", ".fit", ".fits.gz")
WITH_PIXEL = pa.schema([("id", pa.int64()), ("healpix_128", pa.int64())])


def list_files(uri: str) -> list[str]:
    """The lists of an input: the file or table itself, or every list in a folder, by name.

    Raises
    ------
    InputError
        There is no list.
    """
    if not storage.exists(uri):
        raise InputError(f"Input {uri} does not exist.")
    if not storage.is_folder(uri) or uri.lower().endswith(PARQUET) or storage.exists(storage.join(uri, "_table.json")):
        return [uri]
    names = {name for name in storage.list_files(uri) if name.lower().endswith(ENDINGS)}
    here = storage.join(uri, "")
    lists = sorted(name for name in names if "/" not in name.removeprefix(here).strip("/"))
    if not lists:
        raise InputError(f"{uri} holds no list of contaminants; expected files ending in {', '.join(ENDINGS)}.")
    return lists


def read_lists(spark: SparkSession, uri: str, columns: ContaminantColumns) -> DataFrame:
    """All lists as ``id, list, category, name, ra, dec``; a row that repeats another in everything counts once.

    The id is a hash of the row, so that it does not depend on how a list was read.
    """
    found: DataFrame | None = None
    for name in list_files(uri):
        numbers, texts = {"ra": columns.ra, "dec": columns.dec}, {"name": columns.name, "category": columns.category}
        frame = read_columns(spark, name, numbers, texts)
        label = name.rstrip("/").rsplit("/", 1)[-1]
        frame = frame.select(
            F.lit(label).alias("list"), F.coalesce("category", F.lit(label)).alias("category"),
            F.coalesce("name", F.format_string("%.5f%+.5f", "ra", "dec")).alias("name"), "ra", "dec",
        )  # fmt: skip
        found = frame if found is None else found.unionByName(frame)
    assert found is not None
    return found.withColumn("id", F.xxhash64("list", "category", "name", "ra", "dec"))


def at_contaminants(pool: DataFrame, lists: DataFrame, radius_arcsec: float, way: Way) -> DataFrame:
    """Pool rows within the radius of a contaminant, with the nearest one: the rows of the table ``removed``."""
    once = lists.dropDuplicates(["id"])
    matches = nearest_within(pool.withColumnRenamed("source_id", "id"), once, radius_arcsec, way)
    contaminants = once.select(
        F.col("id").alias("match_id"), "list", F.col("category").alias("reason"), F.col("name").alias("contaminant"),
        F.col("ra").alias("contaminant_ra"), F.col("dec").alias("contaminant_dec"),
    )  # fmt: skip
    positions = pool.select(F.col("source_id").alias("id"), "ra", "dec")
    return small(matches).join(positions, "id").join(contaminants, "match_id").withColumnRenamed("id", "source_id")


def small(frame: DataFrame) -> DataFrame:
    """The frame with the advice to broadcast it where it has few rows."""
    return F.broadcast(frame) if frame.count() <= BROADCAST_ROWS else frame


def lists_in_sky(lists: DataFrame, pool: DataFrame) -> DataFrame:
    """``id`` of the contaminants in a HEALPix pixel (nside 128) that holds pool rows."""

    def pixels(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield pa.RecordBatch.from_arrays(
                [batch["id"], pa.array(ang2pix(batch["ra"], batch["dec"]))], schema=WITH_PIXEL
            )

    placed = datasets.map_partitions(lists.select("id", "ra", "dec"), pixels, WITH_PIXEL)
    covered = pool.select("healpix_128").distinct()
    return placed.join(F.broadcast(covered), "healpix_128", "left_semi").select("id").distinct()
