"""Small pool and positives tables with chosen positions and columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lensdata import hashing, tables
from lensdata.catalogue.sources import derived_columns, to_arrow

PER_BAND = ("nobs", "flux_ivar", "mw_transmission", "psfsize", "psfdepth", "galdepth")
PLAIN = {
    "release": 10000, "maskbits": 0, "brickname": "0000p000", "ebv": 0.05, "type": "SER", "sersic": 2.0, "shape_r": 1.0,
    "shape_e1": 0.0, "shape_e2": 0.0, "flux_g": 1.0, "flux_r": 3.0, "flux_z": 6.0,
    **{f"{name}_{band}": 5 for name in PER_BAND for band in "grz"},
}  # fmt: skip


def rows_of(ra: Any, dec: Any, **columns: Any) -> pa.Table:
    """Pool rows at positions; a plain SER galaxy where nothing else is said, source_ids by place."""
    count = len(ra)
    values = {name: np.broadcast_to(np.asarray(columns.get(name, value)), count) for name, value in PLAIN.items()}
    number = np.arange(count)
    values |= {
        "ra": np.asarray(ra, float),
        "dec": np.asarray(dec, float),
        "brickid": number >> 12,
        "objid": number & 4095,
    }
    values["source_id"] = hashing.pack_source_id(values["release"], values["brickid"], values["objid"])
    return pa.Table.from_batches([to_arrow(values | derived_columns(values), tables.POOL.schema)])


def write_pool(folder: Path, ra: Any, dec: Any, **columns: Any) -> Path:
    """A finished pool table of `rows_of`."""
    tables.write_table(rows_of(ra, dec, **columns), str(folder), tables.POOL)
    return folder


def write_positives(folder: Path, strata: list[str]) -> Path:
    """A finished positives table with these strata; nothing else in it matters to sampling."""
    kinds, nobs = zip(*(name.split("/") for name in strata), strict=True)
    exposures = [{"3-5": 4, "6-10": 8, "11+": 12}[name] for name in nobs]
    table = rows_of(
        np.linspace(200, 300, len(strata)), np.zeros(len(strata)), type=np.array(kinds), nobs_z=np.array(exposures)
    )
    for field in tables.POSITIVES.schema:
        if field.name not in table.column_names:
            value = "B" if field.name == "tier" else "lens" if field.type == pa.string() else 0.0
            table = table.append_column(field, pa.array([value] * table.num_rows, field.type))
    tables.write_table(table, str(folder), tables.POSITIVES)
    return folder
