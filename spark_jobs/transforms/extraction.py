"""Sweep files to the rows of several tables in one pass (R-S1, R-S2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark import Broadcast
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from lensdata import storage
from lensdata.catalogue.cuts import KEPT, NEAR_LENS, REASONS, Rows, apply_cuts
from lensdata.catalogue.sources import derived_columns, source_columns, to_arrow
from lensdata.catalogue.sweeps import CorruptSweep, SweepFile, read_blocks
from lensdata.config.catalogue import ExtractPoolConfig
from lensdata.errors import InputError
from lensdata.sky.nearby import Box, Neighbourhood
from lensdata.tables import NEAR_LENSES, REJECTED, SWEEP_FILES, SWEEP_SPLITS

# One row of the pass is a row of the table named by `kind`, from the sweep `file`; columns of the other tables are null.
_FIELDS = {field.name: field for spec in (NEAR_LENSES, REJECTED, SWEEP_SPLITS, SWEEP_FILES) for field in spec.schema}
PASS_SCHEMA = pa.schema([pa.field("kind", pa.string()), *(pa.field(f.name, f.type) for f in _FIELDS.values())])
GATHERED_ROWS = 8_192  # passing rows that are turned into columns at once: the fixed cost of a call is shared
SET_ASIDE = "set_aside"
Lenses = dict[str, npt.NDArray[Any]]


def read_splits(
    splits: DataFrame, sweeps: list[SweepFile], lenses: Lenses, config: ExtractPoolConfig, schema: Any
) -> DataFrame:
    """Read row ranges (``uri, first_row, num_rows``) of the sweeps as rows of `PASS_SCHEMA`.

    The headers travel with the lenses, so that no executor reads them again.
    """
    sent = splits.sparkSession.sparkContext.broadcast(({sweep.uri: sweep for sweep in sweeps}, lenses))
    return splits.mapInArrow(_reader(sent, config), schema)


def _reader(
    sent: Broadcast[tuple[dict[str, SweepFile], Lenses]], config: ExtractPoolConfig
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sweeps, lenses = sent.value
        near = Neighbourhood(lenses["ra"], lenses["dec"], config.exclusion_radius_arcsec)
        for batch in batches:
            for split in batch.to_pylist():
                yield from read_split(sweeps[split["uri"]], split["first_row"], split["num_rows"], near, lenses, config)

    return read


def read_split(
    sweep: SweepFile, first_row: int, num_rows: int, near: Neighbourhood, lenses: Lenses, config: ExtractPoolConfig
) -> Iterator[pa.RecordBatch]:
    """One row range: pool rows, rows near lenses, excluded rows, and the counts per reason, which add up.

    A file that turns out to be corrupt, or that a disk no longer gives, gives a row of ``sweep_files`` instead of counts; what
    was read of it before is told by its name.

    Raises
    ------
    OSError
        A network that fails after all repeats: the task is to be tried again, the file is not at fault.
    """
    counts: Counter[str] = Counter()
    passing: list[npt.NDArray[Any]] = []
    row = gathered_from = first_row
    try:
        for block in checked_blocks(sweep, first_row, num_rows):
            with _readable(sweep, row):
                kept, dropped, tables = _cut_block(sweep.name, block, near, lenses, config)
            counts.update(dropped)
            yield from tables
            passing.append(block.take(kept).rows())
            row += len(block)
            if sum(map(len, passing)) >= GATHERED_ROWS:
                with _readable(sweep, gathered_from):
                    gathered = _pool_rows(sweep.name, _joined(passing))
                yield gathered
                passing, gathered_from = [], row
        if sum(map(len, passing)):
            with _readable(sweep, gathered_from):
                gathered = _pool_rows(sweep.name, _joined(passing))
            yield gathered
    except InputError as error:
        yield _set_aside(sweep, error)
        return
    except OSError as error:
        remote = storage.is_s3(sweep.uri) or storage.is_http(sweep.uri)
        if remote and not isinstance(error, FileNotFoundError):
            raise
        yield _set_aside(sweep, InputError(f"{sweep.uri} cannot be read: {error}; fetch the file again."))
        return
    yield _count_rows(sweep.name, first_row, counts)


@contextmanager
def _readable(sweep: SweepFile, row: int) -> Iterator[None]:
    """Values that our columns cannot hold are damage, somewhere behind this row."""
    try:
        yield
    except ValueError as error:  # Arrow's errors and those of text that is none are ValueErrors
        found = f"a value after row {row} is impossible ({' '.join(str(error).split())})"
        raise CorruptSweep(sweep.uri, sweep.offset + row * sweep.row_bytes, found) from error


def _joined(blocks: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    raw = [block.view(f"V{block.itemsize}") for block in blocks]
    return np.concatenate(raw).view(blocks[0].dtype)


def checked_blocks(sweep: SweepFile, first_row: int, num_rows: int) -> Iterator[Rows]:
    """Blocks of the row range.

    Raises
    ------
    CorruptSweep
        The file ends early, or a row has no position on the sky or is nothing but zeros.
    """
    row = first_row
    for block in read_blocks(sweep, first_row, num_rows):
        rows = Rows(block)
        ra, dec = rows["RA"], rows["DEC"]
        box = Box.around(ra, dec)
        good = None
        if not box.on_sky:
            good = (ra >= 0) & (ra <= 360) & (dec >= -90) & (dec <= 90)
        elif box.ra_min == 0:
            # Zeros are what an interrupted download into a file of full size leaves. Two row lengths of them hold a whole row,
            # and its RA is 0, so that other blocks need no look. A shorter gap inside two rows is not found, nor are
            # other bytes that make plausible rows: that is what verify_sweeps is for.
            good = (ra != 0) | (dec != 0) | ((rows["RELEASE"] > 0) & (rows["BRICKID"] > 0))
        if good is not None and not good.all():
            bad = int(np.argmin(good))
            found = f"row {row + bad} has RA {ra[bad]:g}, Dec {dec[bad]:g} and RELEASE {rows['RELEASE'][bad]}"
            raise CorruptSweep(sweep.uri, sweep.offset + (row + bad) * sweep.row_bytes, found)
        yield rows
        row += len(rows)


def _cut_block(
    name: str, block: Rows, near: Neighbourhood, lenses: Lenses, config: ExtractPoolConfig
) -> tuple[npt.NDArray[np.int64], dict[str, int], list[pa.RecordBatch]]:
    """Numbers of the pool's rows, rows per reason, and the rows of the tables around lenses."""
    ra, dec = block["RA"], block["DEC"]
    close, nearest, separation = near.near(ra, dec, Box.around(ra, dec))
    kept, counts = apply_cuts(block, config.cuts)
    tables: list[pa.RecordBatch] = []
    excluded = 0
    if close.size:
        tables.append(_near_rows(name, block.take(close).rows(), nearest, separation, lenses))
        chosen = np.isin(close, kept, assume_unique=True)
        excluded = int(chosen.sum())
        if excluded:
            rows = block.take(close[chosen]).rows()
            tables.append(_excluded_rows(name, rows, nearest[chosen], separation[chosen], lenses))
            kept = np.setdiff1d(kept, close, assume_unique=True)
    return kept, counts | {NEAR_LENS: excluded, KEPT: len(kept)}, tables


def _pool_rows(name: str, block: npt.NDArray[Any]) -> pa.RecordBatch:
    columns = source_columns(block)
    return _pass_rows("pool", name, columns | derived_columns(columns))


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


def _near_rows(name: str, block: npt.NDArray[Any], nearest: Any, separation: Any, lenses: Lenses) -> pa.RecordBatch:
    columns = source_columns(block)
    lens = _lens_columns(nearest, separation, lenses)
    return _pass_rows("near_lenses", name, columns | derived_columns(columns) | lens)


def _excluded_rows(name: str, block: npt.NDArray[Any], nearest: Any, separation: Any, lenses: Lenses) -> pa.RecordBatch:
    columns = source_columns(block)
    kept = {column: columns[column] for column in ("source_id", "ra", "dec")}
    lens = {"lens_name": lenses["name"][nearest], "separation_arcsec": separation}
    return _pass_rows("rejected", name, kept | lens | {"reason": np.full(len(block), NEAR_LENS)})


def _count_rows(name: str, first_row: int, counts: Counter[str]) -> pa.RecordBatch:
    reasons = [*REASONS, NEAR_LENS, KEPT]
    columns = {
        "first_row": np.full(len(reasons), first_row, np.int64),
        "reason": np.array(reasons),
        "rows": np.array([counts[reason] for reason in reasons], np.int64),
    }
    return _pass_rows("sweep_splits", name, columns)


def _set_aside(sweep: SweepFile, error: InputError) -> pa.RecordBatch:
    columns: dict[str, Any] = {
        "uri": [sweep.uri],
        "state": [SET_ASIDE],
        "rows": [sweep.num_rows],
        "reason": [str(error)],
    }
    if isinstance(error, CorruptSweep):
        columns["offset"] = [error.offset]
    return _pass_rows("sweep_files", sweep.name, {key: np.array(value) for key, value in columns.items()})


def _pass_rows(kind: str, name: str, columns: dict[str, Any]) -> pa.RecordBatch:
    rows = len(next(iter(columns.values())))
    return to_arrow({"kind": np.full(rows, kind), "file": np.full(rows, name), **columns}, PASS_SCHEMA)


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
