"""Mergers by an external table of morphologies (R-S4)."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lensdata.config.catalogue import MorphologyTable
from spark_jobs.transforms.crossmatch import Way, nearest_within
from spark_jobs.transforms.external import read_columns


@dataclass(frozen=True)
class Mergers:
    """``source_id`` of the pool rows that the table marks, and what the table did."""

    ids: DataFrame
    report: dict[str, int]


def mergers_by_table(pool: DataFrame, uri: str, rule: MorphologyTable, way: Way) -> Mergers:
    """Pool rows whose row of the table has at least the threshold.

    A galaxy's row is the nearest one within the radius, marked or not, or the one with its ``source_id``.
    """
    spark = pool.sparkSession
    if rule.match_by == "source_id":
        numbers = {"source_id": rule.source_id, "column": rule.column}
        table = read_columns(spark, uri, numbers, {}, "morphology")
        values = table.groupBy("source_id").agg(F.max("column").alias("value"))
        matched = pool.select("source_id").join(values, "source_id")
    else:
        numbers = {"ra": rule.ra, "dec": rule.dec, "column": rule.column}
        table = read_columns(spark, uri, numbers, {}, "morphology")
        # rows at one position are one object; their id is a hash, so that it does not depend on how the table was read
        values = table.groupBy("ra", "dec").agg(F.max("column").alias("value"))
        values = values.withColumn("id", F.xxhash64("ra", "dec"))
        matches = nearest_within(pool.withColumnRenamed("source_id", "id"), values, rule.radius_arcsec, way)
        matched = matches.withColumnRenamed("id", "source_id").join(
            values.select(F.col("id").alias("match_id"), "value"), "match_id"
        )
    matched = matched.select("source_id", (F.col("value") >= F.lit(rule.threshold)).alias("marked")).persist()
    counted = matched.agg(F.count(F.lit(1)).alias("matched"), F.count_if("marked").alias("flagged")).collect()[0]
    report = {"rows": table.count(), "matched": counted["matched"], "flagged": counted["flagged"]}
    return Mergers(matched.where("marked").select("source_id"), report)
