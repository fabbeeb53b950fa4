"""Confuser flags and sampling keys for pool rows (R-S4, R-S5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lensdata.catalogue.confusers import BITS, CATEGORIES, close_pairs, flags_without_merger
from lensdata.config.catalogue import Confusers, MergerRule
from lensdata.hashing import sampling_key
from lensdata.sky.crossmatch import chord, unit_vectors
from spark_jobs import datasets

CELL_ARCSEC = 120.0
KEYED = pa.schema(
    [
        ("source_id", pa.int64()), ("stratum", pa.string()), ("ra", pa.float64()), ("dec", pa.float64()), ("mag_r", pa.float64()),
        ("row_flags", pa.int32()), ("sample_key", pa.int64()),
    ]
)  # fmt: skip
CELLS = pa.schema(
    [
        ("cell", pa.int64()),
        ("source_id", pa.int64()),
        ("ra", pa.float64()),
        ("dec", pa.float64()),
        ("mag_r", pa.float64()),
    ]
)


def with_keys(pool: DataFrame, rules: Confusers, seed: int) -> DataFrame:
    """The narrow columns that sampling needs: stratum, flags of the row's own rules, key."""
    wanted = ["source_id", "stratum", "ra", "dec", "type", "flux_r", "sersic", "ellipticity", "gr", "mag_r", "shape_r"]

    def keyed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            columns: dict[str, Any] = {
                name: batch[name].to_numpy(zero_copy_only=False)
                for name in wanted
                if name not in ("source_id", "stratum")
            }
            ids = batch["source_id"].to_numpy()
            yield pa.RecordBatch.from_arrays(
                [
                    batch["source_id"], batch["stratum"], batch["ra"], batch["dec"], batch["mag_r"].cast(pa.float64()),
                    pa.array(flags_without_merger(columns, rules)), pa.array(sampling_key(ids, seed)),
                ],
                schema=KEYED,
            )  # fmt: skip

    return datasets.map_partitions(pool.select(*wanted), keyed, KEYED)


def close_pair_members(keyed: DataFrame, rule: MergerRule) -> DataFrame:
    """``source_id`` of every member of a close pair of comparable flux, by a self-join in cells with margins.

    The unit sphere's cube is cut into cells of 2'; a galaxy within the radius of a cell's wall is copied into the cell
    behind it, so that both members of every pair meet in one partition, whatever their right ascension or declination.
    """
    cells = datasets.map_partitions(
        keyed.select("source_id", "ra", "dec", "mag_r"), _to_cells(rule.radius_arcsec), CELLS
    )
    members = datasets.map_partitions(cells.repartition("cell"), _pairs(rule), pa.schema([("source_id", pa.int64())]))
    return members.distinct()


def _to_cells(radius_arcsec: float) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    side, reach = chord(CELL_ARCSEC), chord(radius_arcsec) * (1 + 1e-9)

    def copy(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            vectors = unit_vectors(batch["ra"], batch["dec"])
            low, high = (np.floor((vectors + d) / side).astype(np.int64) for d in (-reach, reach))
            rows, cells = [], []
            for corner in product((0, 1), repeat=3):
                # an axis that crosses no wall has one cell only: its second corner would repeat it
                fresh = np.all((high > low) | (np.array(corner) == 0), axis=1)
                chosen = np.where(np.array(corner) == 1, high, low)[fresh] + (1 << 20)
                rows.append(np.flatnonzero(fresh))
                cells.append((chosen[:, 0] << 42) | (chosen[:, 1] << 21) | chosen[:, 2])
            taken = pa.RecordBatch.from_arrays(
                [batch[name] for name in ("source_id", "ra", "dec", "mag_r")], schema=CELLS.remove(0)
            )
            copies = taken.take(pa.array(np.concatenate(rows)))
            yield pa.RecordBatch.from_arrays([pa.array(np.concatenate(cells)), *copies.columns], schema=CELLS)

    return copy


def _pairs(rule: MergerRule) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def find(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in datasets.one_batch(batches):
            ids, first = np.unique(table["source_id"].to_numpy(), return_index=True)  # a copy is no neighbour of itself
            ra, dec, mag = (table[name].to_numpy()[first] for name in ("ra", "dec", "mag_r"))
            member = close_pairs(ra, dec, mag, rule.radius_arcsec, rule.mag_r_difference_max)
            yield pa.RecordBatch.from_arrays([pa.array(ids[member])], names=["source_id"])

    return find


def with_confusers(keyed: DataFrame, members: DataFrame) -> DataFrame:
    """Add ``confuser_flags`` and the primary ``confuser`` by precedence merger, ring, edge-on, blue, large."""
    marked = keyed.join(members.withColumn("_merger", F.lit(BITS["merger"])), "source_id", "left")
    flagged = marked.withColumn("confuser_flags", F.col("row_flags").bitwiseOR(F.coalesce("_merger", F.lit(0))))
    primary = F.lit(None).cast("string")
    for name in reversed(CATEGORIES):
        primary = F.when(F.col("confuser_flags").bitwiseAND(F.lit(BITS[name])) != 0, F.lit(name)).otherwise(primary)
    return flagged.withColumn("confuser", primary).select(
        "source_id", "stratum", "sample_key", "confuser_flags", "confuser"
    )
