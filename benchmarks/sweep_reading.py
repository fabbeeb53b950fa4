"""Rows per second of the sweep reader with all cuts, beside astropy and beside just reading the bytes.

    python benchmarks/sweep_reading.py [ROWS]

All run one after another in this process on the same file with the 130 columns of DR10.1; ratios are what counts.
"""

from __future__ import annotations

import csv
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from lensdata.catalogue import cuts, sources, sweeps
from lensdata.config.catalogue import Cuts

REPEATS = 3


def write_sweep(path: Path, rows: int) -> None:
    """A file of the real layout; about 1.4% of the rows pass the cuts, as in the survey."""
    rng = np.random.default_rng(0)
    text = resources.files("lensdata.simulation").joinpath("data/dr10_sweep_columns.csv").read_text()
    names = list(csv.DictReader(text.splitlines()))
    values = {
        "TYPE": rng.choice(["PSF", "REX", "EXP", "DEV", "SER"], rows, p=[0.48, 0.4, 0.08, 0.03, 0.01]),
        "DEC": rng.uniform(-30, 34, rows),
        "RA": rng.uniform(0, 5, rows),
        "FLUX_Z": rng.lognormal(0.2, 1.5, rows),
        "OBJID": np.arange(rows) % 4_000_000,
    }
    columns = []
    for entry in names:
        form = next(value for key, value in entry.items() if key.lower() in ("tform", "format", "fits_format"))
        name = next(value for key, value in entry.items() if key.lower() in ("name", "column"))
        fill = 8 if name.startswith("NOBS") else 1 if name.startswith("FLUX") else 0
        array = values.get(name, np.full(rows, fill) if not form.endswith("A") else np.full(rows, ""))
        repeat = int("".join(c for c in form if c.isdigit()) or 1)
        shaped = array if form.endswith("A") or repeat == 1 else np.zeros((rows, repeat))
        columns.append(fits.Column(name=name, format=form, array=shaped))
    fits.BinTableHDU.from_columns(columns).writeto(path)


def ours(path: Path) -> int:
    """Cuts on blocks, then the kept rows with every derived column."""
    kept = 0
    for block in sweeps.read_blocks(sweeps.open_sweep(str(path))):
        index, _ = cuts.apply_cuts(block, Cuts())
        if len(index):
            columns = sources.source_columns(block[index])
            kept += len(sources.derived_columns(columns)["mag_z"])
    return kept


def with_astropy(path: Path) -> int:
    """The same cuts on an astropy table."""
    table = Table.read(path, hdu=1)
    keep = np.isin(np.char.strip(np.asarray(table["TYPE"]).astype(str)), ["SER", "DEV", "REX"])
    keep &= (table["DEC"] > -18) & (table["DEC"] < 32) & (table["MASKBITS"] & 0x38E2 == 0)
    for band in "GRZ":
        keep &= table[f"NOBS_{band}"] >= 3
    with np.errstate(divide="ignore", invalid="ignore"):
        keep &= (table["FLUX_Z"] > 0) & (22.5 - 2.5 * np.log10(table["FLUX_Z"]) < 20)
    return len(table[keep])


def bytes_only(path: Path) -> int:
    """Reading the file and nothing else."""
    with path.open("rb") as handle:
        while handle.read(1 << 24):
            pass
    return 0


def best(function: Callable[[Path], int], path: Path) -> tuple[float, int]:
    """Shortest of some runs, seconds, and the rows kept."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        kept = function(path)
        times.append(time.perf_counter() - started)
    return min(times), kept


def main() -> None:
    """Print the table of ratios."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 300_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sweep.fits"
        write_sweep(path, rows)
        found = {
            name: best(function, path)
            for name, function in (("ours", ours), ("astropy", with_astropy), ("bytes", bytes_only))
        }
        reference, kept = found["ours"]
        assert found["astropy"][1] == kept, "the two readers keep different rows"
        print(f"{rows} rows, {path.stat().st_size / 1e6:.0f} MB, {kept} kept")
        print(f"{'reader':10} {'rows/s':>12} {'ours is':>10}")
        for name, (seconds, _) in found.items():
            print(f"{name:10} {rows / seconds:12,.0f} {seconds / reference:9.2f}x as fast")


if __name__ == "__main__":
    main()
