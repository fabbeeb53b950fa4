"""Rows per second of pool extraction on one core, beside astropy, fitsio and just reading the bytes (R-S1).

    python benchmarks/extraction.py [--rows N] [--files N] [--competitors PYTHON]

All run one after another in this process on the same file with the 130 columns of DR10.1; ratios are what counts. fitsio needs
an interpreter of its own (benchmarks/competitors.txt). Then the whole job runs over some files on two cores: start of Spark,
duplicates, and the pool as a HATS catalogue included.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from processes import measure

from lensdata.catalogue import sweeps
from lensdata.catalogue.lenses import read_lenscat
from lensdata.config.catalogue import ExtractPoolConfig
from lensdata.sky.nearby import Neighbourhood
from spark_jobs.transforms.extraction import read_split

REPEATS = 5
CORES = 2
SUBMIT = {
    "PYSPARK_SUBMIT_ARGS": f"--master local[{CORES}] --driver-memory 2g pyspark-shell",
    "PYTHONPATH": str(Path(__file__).parents[1]),
}
BOX = (120.0, -18.5)  # lowest corner, degrees; the footprint's edge at -18 runs through it
BRICK_ROWS = 8_000  # the survey's mean of a brick, a quarter of a degree wide
# Shares of 2,827,055,986 rows of DR10.1 sweeps.
TYPES = {"PSF": 0.4761, "REX": 0.3972, "EXP": 0.0796, "DEV": 0.0297, "SER": 0.0172, "DUP": 0.0002}


def write_sweep(path: Path, rows: int, seed: int = 0) -> None:
    """A file of the real layout, brick by brick; 1% of its rows pass the cuts, as in the survey."""
    rng = np.random.default_rng(seed)
    text = resources.files("lensdata.simulation").joinpath("data/dr10_sweep_columns.csv").read_text()
    brick = np.sort(rng.integers(0, max(rows // BRICK_ROWS, 1), rows))
    values = {
        "RELEASE": np.full(rows, 10000),
        "BRICKID": 300_000 + 400 * seed + brick,
        "OBJID": np.arange(rows) % 4_000_000,
        "TYPE": rng.choice(list(TYPES), rows, p=np.array(list(TYPES.values())) / sum(TYPES.values())),
        "RA": BOX[0] + 0.25 * (brick % 20) + rng.uniform(0, 0.25, rows),
        "DEC": BOX[1] + 0.25 * (brick // 20) + rng.uniform(0, 0.25, rows),
        "FLUX_Z": rng.lognormal(-0.4, 1.5, rows),
    }
    columns = []
    for entry in csv.DictReader(text.splitlines()):
        name, form = entry["column"], entry["fits_format"]
        fill = 8 if name.startswith("NOBS") else 1 if name.startswith(("FLUX", "MW_", "PSF")) else 0
        repeat = int("".join(c for c in form if c.isdigit()) or 1)
        default = np.full(rows, "") if form.endswith("A") else np.full((rows, repeat) if repeat > 1 else rows, fill)
        columns.append(fits.Column(name=name, format=form, array=values.get(name, default)))
    fits.BinTableHDU.from_columns(columns).writeto(path)


def ours(path: Path, lenses: dict[str, np.ndarray]) -> int:
    """What a task of ``extract_pool`` does: cuts, exclusion around 32,838 lenses, every column of the pool as Arrow."""
    config = ExtractPoolConfig()
    near = Neighbourhood(lenses["ra"], lenses["dec"], config.exclusion_radius_arcsec)
    sweep = sweeps.open_sweep(str(path))
    batches = list(read_split(sweep, 0, sweep.num_rows, near, lenses, config))
    return sum(batch.num_rows for batch in batches if batch["kind"][0].as_py() in ("pool", "rejected"))


def with_astropy(path: Path) -> int:
    """``Table.read``, the needed columns to pandas, and the same cuts; no exclusion, no derived columns."""
    frame = Table.read(path, hdu=1)[sweeps.REQUIRED].to_pandas()
    types = frame["TYPE"].str.decode("ascii").str.strip()
    keep = types.isin(["SER", "DEV", "REX"]) & (frame["DEC"] > -18) & (frame["DEC"] < 32)
    keep &= (frame["MASKBITS"] & 0x38E2) == 0
    for band in "GRZ":
        keep &= frame[f"NOBS_{band}"] >= 3
    with np.errstate(divide="ignore", invalid="ignore"):
        keep &= (frame["FLUX_Z"] > 0) & (22.5 - 2.5 * np.log10(frame["FLUX_Z"].astype(float)) < 20)
    return len(frame[keep])


def bytes_only(path: Path) -> int:
    """Reading the file into one buffer and nothing else."""
    buffer = bytearray(1 << 23)
    with path.open("rb", buffering=0) as handle:
        while handle.readinto(buffer):
            pass
    return 0


WITH_FITSIO = """
import sys, time, numpy as np, fitsio
path, columns, repeats = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3])
times = []
for _ in range(repeats):
    started = time.perf_counter()
    rows = fitsio.read(path, ext=1, columns=columns)
    keep = np.isin(np.char.strip(rows["TYPE"].astype(str)), ["SER", "DEV", "REX"]) & (rows["DEC"] > -18) & (rows["DEC"] < 32)
    keep &= (rows["MASKBITS"] & 0x38E2) == 0
    for band in "GRZ":
        keep &= rows["NOBS_" + band] >= 3
    with np.errstate(divide="ignore", invalid="ignore"):
        keep &= (rows["FLUX_Z"] > 0) & (22.5 - 2.5 * np.log10(rows["FLUX_Z"].astype(float)) < 20)
    kept = len(rows[keep])
    times.append(time.perf_counter() - started)
print(min(times), kept)
"""


def with_fitsio(path: Path, python: str) -> tuple[float, int]:
    """fitsio reads the needed columns; the same cuts in numpy. In the competitors' interpreter."""
    command = [python, "-c", WITH_FITSIO, str(path), ",".join(sweeps.REQUIRED), str(REPEATS)]
    words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(words[0]), int(words[1])


def best(function: Callable[[], int]) -> tuple[float, int]:
    """Shortest of some runs, seconds, and the rows kept."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        kept = function()
        times.append(time.perf_counter() - started)
    return min(times), kept


def readers(path: Path, competitors: str | None) -> dict[str, tuple[float, int]]:
    """Seconds and rows kept of every reader."""
    frame = read_lenscat()
    lenses = {name: frame[name].to_numpy() for name in ("ra", "dec", "name", "grading")}
    found = {
        "extract_pool's task": best(lambda: ours(path, lenses)),
        "astropy Table.read, pandas": best(lambda: with_astropy(path)),
        "reading the bytes": best(lambda: bytes_only(path)),
    }
    if competitors:
        found["fitsio columns, numpy"] = with_fitsio(path, competitors)
    return found


def measure_job(folder: Path, rows: int, files: int) -> None:
    """Print what ``extract_pool`` takes over a quarter of the files and over all: the difference is free of Spark's start."""
    found = []
    for part in (max(files // 4, 1), files):
        sweeps_of = folder / f"sweeps-{part}"
        sweeps_of.mkdir()
        for number in range(part):
            write_sweep(sweeps_of / f"sweep-120m020-125m015-{number}.fits", rows, seed=number)
        command = [
            sys.executable,
            "-m",
            "spark_jobs.extract_pool",
            f"inputs.sweeps={sweeps_of}",
            "inputs.lenses=lenscat",
        ]
        done = measure([*command, "--output", str(folder / f"pool-{part}")], SUBMIT)
        report = json.loads((folder / f"pool-{part}" / "_report.json").read_text())
        found.append((report["rows_read"], done))
        print(f"{part:3} files, {report['rows_read']:,} rows, {report['pool']:,} in the pool: {done}")
    (few, quick), (many, slow) = found
    rate, cost = (
        (many - few) / (after - before)
        for before, after in ((quick.seconds, slow.seconds), (quick.cpu_seconds, slow.cpu_seconds))
    )
    print(f"    each further row: {rate / CORES:,.0f} rows/s per core, {cost:,.0f} rows per core-second")


def main(arguments: list[str] | None = None) -> None:
    """Print the table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=8, help="of --rows rows, for the whole job; 0 leaves it out")
    parser.add_argument("--competitors", help="interpreter with the packages of competitors.txt")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sweep-120m020-125m015.fits"
        write_sweep(path, args.rows)
        found = readers(path, args.competitors)
        size = path.stat().st_size
    reference, kept = found["extract_pool's task"]
    for name, (_, rows) in found.items():
        assert rows in (kept, 0), f"{name} keeps {rows} rows, extract_pool {kept}"
    print(f"Pool extraction on one core: {args.rows:,} rows, {size / 1e6:.0f} MB, {kept / args.rows:.2%} pass the cuts")
    print(f"{'':28} {'rows/s':>12} {'MB/s':>8}   extract_pool's task is")
    for name, (seconds, _) in found.items():
        print(
            f"{name:28} {args.rows / seconds:12,.0f} {size / seconds / 1e6:8.0f}   {seconds / reference:.2f}x as fast"
        )
    if not args.competitors:
        print(f"{'fitsio columns, numpy':28} not measured: give --competitors")
    if args.files:
        print(
            f"\nThe job extract_pool on {CORES} cores: reading, duplicates, near_lenses, the pool as a HATS catalogue"
        )
        with tempfile.TemporaryDirectory() as work:
            measure_job(Path(work), args.rows, args.files)


if __name__ == "__main__":
    main()
