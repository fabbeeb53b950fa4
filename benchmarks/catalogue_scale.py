"""The catalogue jobs at the size of a survey, beside other tools on the same files in the same run.

    python benchmarks/catalogue_scale.py [ROWS] [--competitors PYTHON] [--work FOLDER]

ROWS (3,000,000 where left out; a DR10 pool has 27,000,000) is the size of the pool. PYTHON is the interpreter of an environment
that has the packages of competitors.txt; without it their lines say "not measured". Three tables are printed:

- sampling and splits, beside the same selection in SQL by DuckDB, whose rows must be the same;
- crossmatch of the pool with 5,000 positions and of a million rows with a million, beside astropy and LSDB, whose numbers of
  matches must be the same;
- growth of time with rows, and the exponent of the power law through it.

Times drift with what else the machine does: ratios are what counts. "work" leaves out the start of Python and the JVM; memory is
that of all processes together.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import synthetic_pool
from processes import Measured, measure

from lensdata import storage

DEFAULT_ROWS = 3_000_000
GROWTH = (1_000_000, 3_000_000, 9_000_000, 27_000_000)
FEW, MANY, RADIUS_ARCSEC = 5_000, 5_000_000, 1.0
THREADS, DRIVER_MEMORY = 2, "2g"
SUBMIT = {
    "PYSPARK_SUBMIT_ARGS": f"--master local[{THREADS}] --driver-memory {DRIVER_MEMORY} pyspark-shell",
    "PYTHONPATH": str(Path(__file__).parents[1]),
}
HERE = Path(__file__).parent


def work_seconds(done: Measured) -> float:
    """Time of the work itself, as the process says: ``seconds=S`` on its last line."""
    return float(re.findall(r"seconds=([0-9.]+)", done.output)[-1])


def sample(folder: Path) -> tuple[Measured, Measured]:
    """Our sampling and our splits of the pool in ``folder``."""
    done = []
    for job, inputs in (("sample_negatives", ("pool", "positives")), ("assign_splits", ("positives", "negatives"))):
        output = folder / {"sample_negatives": "negatives", "assign_splits": "sample"}[job]
        storage.remove(str(output))
        arguments = [f"inputs.{name}={folder / name}" for name in inputs]
        done.append(measure([sys.executable, "-m", f"spark_jobs.{job}", *arguments, "--output", str(output)], SUBMIT))
    return done[0], done[1]


def compare_sampling(folder: Path, rows: int, competitors: str | None) -> None:
    """Table (a): ours and DuckDB's sample of the same pool."""
    print(f"\nSampling and splits of {rows:,} pool rows, {THREADS} threads")
    sampling, splits = sample(folder)
    ours = work_seconds(sampling) + work_seconds(splits)
    print(f"  sample_negatives  {sampling}, work {work_seconds(sampling):6.1f} s")
    print(f"  assign_splits     {splits}, work {work_seconds(splits):6.1f} s")
    if competitors is None:
        print("  DuckDB            not measured")
        return
    out = folder / "duckdb.parquet"
    other = measure([competitors, str(HERE / "competitors.py"), "duckdb", str(folder), str(out)])
    print(f"  DuckDB            {other}, work {work_seconds(other):6.1f} s")
    same = identical(folder / "sample", out)
    peak = max(sampling.peak_bytes, splits.peak_bytes)
    print(f"  rows the same: {same}; DuckDB takes {work_seconds(other) / ours:.2f} of our time and {other.peak_bytes / peak:.2f} of our memory")  # fmt: skip # noqa: E501
    if not same:
        raise SystemExit("DuckDB drew another sample")


def identical(ours: Path, theirs: Path) -> bool:
    """Same negatives with the same pool, confuser and split."""
    columns = ["source_id", "pool", "confuser", "split"]
    found = []
    for path, more in ((ours / "dataset", ["label"]), (theirs, [])):
        table = pq.read_table(path, columns=columns + more, partitioning=None)
        frame = table.to_pandas()
        frame = frame[frame["label"] == 0] if more else frame
        found.append(frame[columns].fillna("").sort_values("source_id").reset_index(drop=True))
    return bool(found[0].equals(found[1]))


def write_catalogues(folder: Path, rows: int) -> dict[str, tuple[Path, Path]]:
    """Left and right catalogues (id, ra, dec): the pool and few positions, and many and many, half of them with a match."""
    table = pq.read_table(folder / "pool" / "dataset", columns=["source_id", "ra", "dec"], partitioning=None)
    rng = np.random.default_rng(1)
    found = {}
    for name, left_rows, right_rows in (("few", rows, FEW), ("many", min(rows, MANY), min(rows, MANY))):
        # a compact piece of sky for both: the same density whatever the size
        left = table if left_rows == rows else table.slice(0, left_rows)
        chosen = np.sort(rng.choice(left_rows, right_rows, replace=False))
        right = left.take(pa.array(chosen))
        step = rng.normal(0, 0.8 / 3600, (2, right_rows))
        ra, dec = right["ra"].to_numpy() + step[0], right["dec"].to_numpy() + step[1]
        paths = folder / f"left_{name}.parquet", folder / f"right_{name}.parquet"
        number = pa.array(np.arange(right_rows))
        pq.write_table(left.rename_columns(["id", "ra", "dec"]), paths[0])
        pq.write_table(pa.table({"id": number, "ra": ra, "dec": dec}), paths[1])
        found[name] = paths
    return found


def compare_crossmatch(folder: Path, rows: int, competitors: str | None) -> None:
    """Table (b): both of our ways, astropy and LSDB on the same two files."""
    for left, right in write_catalogues(folder, rows).values():
        sizes = [pq.ParquetFile(name).metadata.num_rows for name in (left, right)]
        print(f"\nCrossmatch of {sizes[0]:,} rows with {sizes[1]:,} within {RADIUS_ARCSEC} arcsec")
        pair = [str(left), str(right), str(RADIUS_ARCSEC)]
        runs = {
            way: ([sys.executable, __file__, "--crossmatch", way, *pair], SUBMIT)
            for way in ("broadcast", "partitioned")
        }
        other = {tool: ([competitors, str(HERE / "competitors.py"), tool, *pair], None) for tool in ("astropy", "lsdb")}
        first, matches = None, None
        for name, (command, environment) in (runs | other).items():
            if command[0] is None:
                print(f"  {name:12} not measured")
                continue
            done = measure(command, environment)
            seconds, count = work_seconds(done), int(re.findall(r"rows=(\d+)", done.output)[-1])
            first, matches = first or seconds, matches or count
            print(f"  {name:12} {done}, work {seconds:6.1f} s, {seconds / first:5.2f} of broadcast, {count:,} matches")
            if count != matches:
                raise SystemExit(f"{name} finds {count} matches, not {matches}")


def crossmatch(way: str, left: str, right: str, radius: str) -> None:
    """Our crossmatch of two files, in a process of its own."""
    from spark_jobs.session import NARROW_BATCH_ROWS, build_session
    from spark_jobs.transforms.crossmatch import nearest_within

    spark = build_session("crossmatch", None, NARROW_BATCH_ROWS)
    started = time.perf_counter()
    found = nearest_within(*(spark.read.parquet(name) for name in (left, right)), float(radius), way)
    rows = found.count()
    print(f"seconds={time.perf_counter() - started:.2f} rows={rows}")


def growth(work: Path, rows: int) -> None:
    """Table (c): time of sampling and splits over rows."""
    sizes = [size for size in GROWTH if size <= rows]
    if len(sizes) < 2:
        return
    print("\nGrowth of sampling and splits")
    found = []
    for size in sizes:
        done = sample(synthetic_pool.make(work / str(size), size))
        seconds, cores = (sum(map(each, done)) for each in (work_seconds, lambda run: run.cpu_seconds))
        peak = max(run.peak_bytes for run in done)
        print(f"  {size:>11,} rows  work {seconds:7.1f} s  {cores:7.1f} core-s  {peak / 1e9:5.2f} GB")
        found.append((seconds, cores))
    for name, values in zip(("time", "core time"), zip(*found, strict=True), strict=True):
        print(f"  {name} grows as rows ^ {np.polyfit(np.log(sizes), np.log(values), 1)[0]:.2f}")


def main(arguments: list[str] | None = None) -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="?", type=int, default=DEFAULT_ROWS)
    parser.add_argument("--competitors", help="interpreter of an environment with the packages of competitors.txt")
    parser.add_argument("--work", type=Path, help="folder for pools (0.2 GB per million rows); kept, and used again")
    parser.add_argument("--only", choices=["sampling", "crossmatch", "growth"], help="one of the tables")
    parser.add_argument("--crossmatch", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.crossmatch:
        crossmatch(*given.crossmatch)
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        folder = synthetic_pool.make(work / str(given.rows), given.rows)
        if given.only in (None, "sampling"):
            compare_sampling(folder, given.rows, given.competitors)
        if given.only in (None, "crossmatch"):
            compare_crossmatch(folder, given.rows, given.competitors)
        if given.only in (None, "growth"):
            growth(work, given.rows)


if __name__ == "__main__":
    main()
