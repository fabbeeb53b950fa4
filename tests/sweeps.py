"""Small sweep files with chosen rows, written by astropy: an independent writer for the reader under test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from lensdata.catalogue.sweeps import REQUIRED

FORMATS = {"BRICKNAME": "8A", "TYPE": "3A", "RA": "D", "DEC": "D", "BRICKID": "J", "OBJID": "J", "MASKBITS": "J"}
INT16 = ("RELEASE", "NOBS_G", "NOBS_R", "NOBS_Z")


def galaxies(rows: int, seed: int = 0, **columns: Any) -> dict[str, Any]:
    """Plausible rows that pass every cut; ``columns`` replaces some."""
    rng = np.random.default_rng(seed)
    table: dict[str, Any] = {name: np.ones(rows, np.float32) for name in REQUIRED}
    table |= {
        "RELEASE": np.full(rows, 10000, np.int16),
        "BRICKID": rng.integers(300_000, 300_050, rows).astype(np.int32),
        "BRICKNAME": np.full(rows, "0100m050"),
        "OBJID": np.arange(rows, dtype=np.int32),
        "TYPE": rng.choice(["SER", "DEV", "REX"], rows),
        "RA": rng.uniform(10, 14, rows),
        "DEC": rng.uniform(-9, -5, rows),
        "MASKBITS": np.zeros(rows, np.int32),
        "EBV": rng.uniform(0, 0.1, rows).astype(np.float32),
        "SERSIC": rng.uniform(0.5, 6, rows).astype(np.float32),
        "SHAPE_R": rng.uniform(0.3, 3, rows).astype(np.float32),
        "SHAPE_E1": rng.uniform(-0.5, 0.5, rows).astype(np.float32),
        "SHAPE_E2": rng.uniform(-0.5, 0.5, rows).astype(np.float32),
    }
    for band, low, high in (("G", 2, 15), ("R", 11, 40), ("Z", 20, 60)):
        table[f"FLUX_{band}"] = rng.uniform(low, high, rows).astype(np.float32)
        table[f"NOBS_{band}"] = rng.integers(3, 15, rows).astype(np.int16)
        table[f"PSFDEPTH_{band}"] = rng.uniform(200, 3000, rows).astype(np.float32)
        table[f"PSFSIZE_{band}"] = rng.uniform(0.9, 1.8, rows).astype(np.float32)
    for name, values in columns.items():
        table[name] = np.broadcast_to(np.asarray(values), (rows,)).astype(np.asarray(table[name]).dtype)
    return table


def write_sweep(path: Path, table: dict[str, Any], drop: tuple[str, ...] = ()) -> Path:
    """Write rows as a FITS binary table."""
    columns = []
    for name in REQUIRED:
        if name not in drop:
            form = FORMATS.get(name, "I" if name in INT16 else "E")
            columns.append(fits.Column(name=name, format=form, array=table[name]))
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(path, overwrite=True)
    return path
