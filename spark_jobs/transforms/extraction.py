"""Sweep files to the rows of several tables in one pass (R-S1, R-S2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from lensdata.catalogue.cuts import KEPT, NEAR_LENS, REASONS, apply_cuts
from lensdata.catalogue.sources import derived_columns, source_columns, to_arrow
from lensdata.catalogue.sweeps import open_sweep, read_blocks
from lensdata.config.catalogue import ExtractPoolConfig
from lensdata.sky.crossmatch import SkyIndex
from lensdata.tables import NEAR_LENSES, REJECTED, SWEEP_SPLITS

# One row of the pass is a row of the table named by `kind`; columns of the other tables are null.
_FIELDS = {field.name: field for spec in (NEAR_LENSES, REJECTED, SWEEP_SPLITS) for field in spec.schema}
PASS_SCHEMA = pa.schema([pa.field("kind", pa.string()), *(pa.field(f.name, f.type) for f in _FIELDS.values())])
Lenses = dict[str, npt.NDArray[Any]]


def read_splits(splits: DataFrame, lenses: Lenses, config: ExtractPoolConfig, schema: Any) -> DataFrame:
    """Read row ranges (``uri, first_row, num_rows``), one per partition, as rows of `PASS_SCHEMA`."""
    return splits.mapInArrow(_reader(lenses, config), schema)


def _reader(
    lenses: Lenses, config: ExtractPoolConfig
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        index = SkyIndex(lenses["ra"], lenses["dec"])
        for batch in batches:
            for split in batch.to_pylist():
                yield from read_split(split["uri"], split["first_row"], split["num_rows"], index, lenses, config)

    return read


def read_split(
    uri: str, first_row: int, num_rows: int, index: SkyIndex, lenses: Lenses, config: ExtractPoolConfig
) -> Iterator[pa.RecordBatch]:
    """One row range: pool rows, rows near lenses, excluded rows, and the counts per reason, which add up."""
    sweep = open_sweep(uri)
    counts: Counter[str] = Counter()
    for block in read_blocks(sweep, first_row, num_rows):
        nearest, separation = index.nearest(block["RA"], block["DEC"], config.exclusion_radius_arcsec)
        close = np.flatnonzero(nearest >= 0)
        if close.size:
            yield _near_rows(block[close], nearest[close], separation[close], lenses)
        passing, dropped = apply_cuts(block, config.cuts)
        counts.update(dropped)
        excluded = nearest[passing] >= 0
        counts[NEAR_LENS] += int(excluded.sum())
        if excluded.any():
            rows = passing[excluded]
            yield _excluded_rows(block[rows], nearest[rows], separation[rows], lenses)
        kept = passing[~excluded]
        counts[KEPT] += kept.size
        if kept.size:
            yield _pool_rows(block[kept])
    yield _count_rows(sweep.name, first_row, counts)


def _pool_rows(block: npt.NDArray[Any]) -> pa.RecordBatch:
    columns = source_columns(block)
    return _pass_rows("pool", columns | derived_columns(columns))


def _lens_columns(
    nearest: npt.NDArray[np.int64], separation: npt.NDArray[np.float64], lenses: Lenses
) -> dict[str, Any]:
    return {
        "lens_name": lenses["name"][nearest],
        "lens_ra": lenses["ra"][nearest],
        "lens_dec": lenses["dec"][nearest],
        "lens_grading": lenses["grading"][nearest],
        "separation_arcsec": separation,
    }


def _near_rows(block: npt.NDArray[Any], nearest: Any, separation: Any, lenses: Lenses) -> pa.RecordBatch:
    columns = source_columns(block)
    return _pass_rows("near_lenses", columns | derived_columns(columns) | _lens_columns(nearest, separation, lenses))


def _excluded_rows(block: npt.NDArray[Any], nearest: Any, separation: Any, lenses: Lenses) -> pa.RecordBatch:
    columns = source_columns(block)
    kept = {name: columns[name] for name in ("source_id", "ra", "dec")}
    lens = _lens_columns(nearest, separation, lenses)
    reason = np.full(len(block), NEAR_LENS)
    return _pass_rows(
        "rejected", kept | {"reason": reason, "lens_name": lens["lens_name"], "separation_arcsec": separation}
    )


def _count_rows(name: str, first_row: int, counts: Counter[str]) -> pa.RecordBatch:
    reasons = [*REASONS, NEAR_LENS, KEPT]
    return _pass_rows(
        "sweep_splits",
        {
            "file": np.full(len(reasons), name),
            "first_row": np.full(len(reasons), first_row, np.int64),
            "reason": np.array(reasons),
            "rows": np.array([counts[reason] for reason in reasons], np.int64),
        },
    )


def _pass_rows(kind: str, columns: dict[str, Any]) -> pa.RecordBatch:
    rows = len(next(iter(columns.values())))
    return to_arrow({"kind": np.full(rows, kind), **columns}, PASS_SCHEMA)


def keep_first(frame: DataFrame) -> DataFrame:
    """One row per ``source_id``, the same whatever the order of files."""
    order = [F.col("ra"), F.col("dec"), F.xxhash64(*[F.col(name) for name in frame.columns])]
    rank = F.row_number().over(Window.partitionBy("source_id").orderBy(*order))
    return frame.withColumn("_rank", rank).where("_rank = 1").drop("_rank")


def drop_duplicate_sources(frame: DataFrame) -> DataFrame:
    """`keep_first` for the pool: sources on a box edge can stand in two sweep files.

    Only ids are shuffled to find the few that repeat; the rows of the others stay where they are.
    """
    repeated = F.broadcast(frame.groupBy("source_id").count().where("count > 1").select("source_id"))
    once = frame.join(repeated, "source_id", "left_anti").select(*frame.columns)
    return once.unionByName(keep_first(frame.join(repeated, "source_id", "left_semi").select(*frame.columns)))
