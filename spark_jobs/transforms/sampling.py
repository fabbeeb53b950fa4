"""Exact sampling by the smallest keys, without sorting the pool (R-S5).

A threshold on the key keeps a little more than is wanted of each cell; ``row_number`` then makes it exact. The rows taken
depend on the keys alone, not on partitions, files or executors.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from lensdata.catalogue.sampling import Quota, category_shares, key_threshold

N1, N2 = "N1", "N2"


@dataclass(frozen=True)
class Taken:
    """A line of the quota table."""

    stratum: str
    pool: str
    confuser: str | None
    positives: int
    wanted: int
    available: int
    taken: int


def smallest_keys(
    frame: DataFrame,
    cell: list[str],
    wanted: dict[tuple[str, ...], int],
    available: dict[tuple[str, ...], int],
    above: dict[str, int] | None = None,
) -> DataFrame:
    """The ``wanted`` rows with the smallest keys of each cell, with their ``rank`` from 1.

    ``above``: by stratum (the first part of a cell), the key above which the rows lie; all keys where it is not given.
    """
    spark, floor = frame.sparkSession, above or {}
    limits = [
        (*key, count, key_threshold(count, available[key], floor.get(key[0], -(2**63))))
        for key, count in sorted(wanted.items())
        if count > 0 and available.get(key, 0) > 0
    ]
    schema = ", ".join([*(f"{name} string" for name in cell), "_wanted long", "_limit long"])
    limited = frame.join(F.broadcast(spark.createDataFrame(limits, schema)), cell, "inner").where(
        "sample_key <= _limit"
    )
    order = Window.partitionBy(*cell).orderBy("sample_key", "source_id")
    return limited.withColumn("rank", F.row_number().over(order)).where("rank <= _wanted").drop("_limit", "_wanted")


def counts(frame: DataFrame, cell: list[str]) -> dict[tuple[str, ...], int]:
    """Rows per cell, on the driver."""
    return {tuple(row[name] for name in cell): int(row["count"]) for row in frame.groupBy(*cell).count().collect()}


def draw(keyed: DataFrame, quotas: list[Quota]) -> tuple[DataFrame, list[Taken]]:
    """N1 from the whole stratum, then N2 from the confusers that are left, in equal shares per category.

    Parameters
    ----------
    keyed
        ``source_id, stratum, sample_key, confuser_flags, confuser`` of pool rows.

    Returns
    -------
    tuple
        (``source_id, confuser_flags, confuser, pool`` of the rows taken, lines of the quota table)
    """
    in_strata = keyed.where(F.col("stratum").isin([q.stratum for q in quotas]))
    available = counts(in_strata, ["stratum"])
    first = smallest_keys(in_strata, ["stratum"], {(q.stratum,): q.n1 for q in quotas}, available).persist()
    reached = {
        row["stratum"]: int(row["key"])
        for row in first.groupBy("stratum").agg(F.max("sample_key").alias("key")).collect()
    }
    lines = _n1_lines(quotas, available, counts(first, ["stratum"]))
    second, second_lines = _draw_n2(in_strata, quotas, reached)
    columns = ["source_id", "confuser_flags", "confuser"]
    drawn = first.select(*columns, F.lit(N1).alias("pool"))
    if second is not None:
        drawn = drawn.unionByName(second.select(*columns, F.lit(N2).alias("pool")))
    return drawn, lines + second_lines


def _n1_lines(
    quotas: list[Quota], available: dict[tuple[str, ...], int], taken: dict[tuple[str, ...], int]
) -> list[Taken]:
    lines = []
    for q in quotas:
        there, got = available.get((q.stratum,), 0), taken.get((q.stratum,), 0)
        if got != min(q.n1, there):
            raise RuntimeError(f"stratum {q.stratum}: took {got} N1 rows, expected {min(q.n1, there)}")
        lines.append(Taken(q.stratum, N1, None, q.positives, q.n1, there, got))
    return lines


def _draw_n2(
    in_strata: DataFrame, quotas: list[Quota], reached: dict[str, int]
) -> tuple[DataFrame | None, list[Taken]]:
    spark = in_strata.sparkSession
    cutoffs = [(q.stratum, reached.get(q.stratum, -(2**63)), q.stratum in reached) for q in quotas if q.n2 > 0]
    if not cutoffs:
        return None, [Taken(q.stratum, N2, None, q.positives, 0, 0, 0) for q in quotas]
    limits = F.broadcast(spark.createDataFrame(cutoffs, "stratum string, _reached long, _any boolean"))
    left = in_strata.where("confuser is not null").join(limits, "stratum", "inner")
    left = left.where("not _any or sample_key > _reached").drop("_reached", "_any").persist()
    there = counts(left, ["stratum", "confuser"])
    wanted = {q.stratum: q.n2 for q in quotas}
    shares: dict[tuple[str, ...], int] = {}
    for stratum, n2 in wanted.items():
        cell = {category: count for (name, category), count in there.items() if name == stratum}
        shares |= {(stratum, category): share for category, share in category_shares(n2, cell).items()}
    # up to n2 of each category are candidates: the share itself, then the rest by key over all categories
    candidates = smallest_keys(left, ["stratum", "confuser"], {cell: wanted[cell[0]] for cell in there}, there, reached)
    share_rows = [(*cell, count) for cell, count in sorted(shares.items())]
    share_frame = spark.createDataFrame(share_rows, "stratum string, confuser string, _share long")
    shared = candidates.join(F.broadcast(share_frame), ["stratum", "confuser"], "left")
    rest = [
        (stratum, n2 - sum(v for (name, _), v in shares.items() if name == stratum)) for stratum, n2 in wanted.items()
    ]
    order = Window.partitionBy("stratum", "_extra").orderBy("sample_key", "source_id")
    chosen = (
        shared.withColumn("_extra", F.col("rank") > F.coalesce("_share", F.lit(0)))
        .withColumn("_place", F.row_number().over(order))
        .join(F.broadcast(spark.createDataFrame(rest, "stratum string, _rest long")), "stratum", "inner")
        .where("not _extra or _place <= _rest")
        .persist()
    )
    return chosen, _n2_lines(quotas, there, counts(chosen, ["stratum", "confuser"]), shares)


def _n2_lines(
    quotas: list[Quota],
    there: dict[tuple[str, ...], int],
    taken: dict[tuple[str, ...], int],
    shares: dict[tuple[str, ...], int],
) -> list[Taken]:
    lines = []
    for q in quotas:
        cells = sorted(cell for cell in there if cell[0] == q.stratum)
        got = sum(taken.get(cell, 0) for cell in cells)
        if got != min(q.n2, sum(there[cell] for cell in cells)):
            raise RuntimeError(f"stratum {q.stratum}: took {got} N2 rows of {q.n2}")
        for cell in cells:
            lines.append(
                Taken(q.stratum, N2, cell[1], q.positives, shares.get(cell, 0), there[cell], taken.get(cell, 0))
            )
        lines.append(Taken(q.stratum, N2, None, q.positives, q.n2, sum(there[cell] for cell in cells), got))
    return lines
