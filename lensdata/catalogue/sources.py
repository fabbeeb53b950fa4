"""Sweep rows as rows of our tables: lower-case columns, native byte order, derived quantities (R-S1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lensdata.catalogue import strata
from lensdata.hashing import pack_source_id
from lensdata.sky.healpix import ang2pix
from lensdata.tables import BANDS, DERIVED, SOURCE

COPIED = tuple(column.name for column in SOURCE if column.name not in ("source_id", "type", "brickname"))


def source_columns(block: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """The SOURCE columns of a block of sweep rows.

    Raises
    ------
    ValueError
        A release, brick or object number that no survey gives, or text that is none.
    """
    columns: dict[str, npt.NDArray[Any]] = {
        "source_id": pack_source_id(block["RELEASE"], block["BRICKID"], block["OBJID"]),
        "type": np.char.strip(block["TYPE"]).astype(str),
        "brickname": np.char.strip(block["BRICKNAME"]).astype(str),
    }
    for name in COPIED:
        values = block[name.upper()]
        columns[name] = values.astype(values.dtype.newbyteorder("="))
    return columns


def derived_columns(columns: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The DERIVED columns of SOURCE columns."""
    out: dict[str, npt.NDArray[Any]] = {f"mag_{band}": strata.magnitude(columns[f"flux_{band}"]) for band in BANDS}
    out["gr"] = out["mag_g"] - out["mag_r"]
    out["rz"] = out["mag_r"] - out["mag_z"]
    out["axis_ratio"] = strata.axis_ratio(columns["shape_e1"], columns["shape_e2"])
    out["ellipticity"] = 1.0 - out["axis_ratio"]
    out["type_bin"] = strata.type_bin(columns["type"])
    out["nobs_z_bin"] = strata.nobs_bin(columns["nobs_z"])
    out["stratum"] = strata.stratum(out["type_bin"], out["nobs_z_bin"])
    out["psf_bin"] = strata.bin_index(columns["psfsize_r"], strata.PSF_EDGES_ARCSEC)
    out["depth_bin"] = strata.bin_index(strata.depth_magnitude(columns["psfdepth_r"]), strata.DEPTH_EDGES_MAG)
    out["_healpix_29"] = ang2pix(columns["ra"], columns["dec"], 1 << 29)
    out["healpix_128"] = out["_healpix_29"] >> 2 * (29 - 7)  # NESTED: a parent is a prefix
    return out


def to_arrow(columns: dict[str, npt.NDArray[Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Columns as a record batch; nan in a derived column becomes null, columns that are absent are null.

    Raises
    ------
    pyarrow.ArrowInvalid
        A number that the column's type cannot hold.
    """
    rows = len(next(iter(columns.values())))
    derived = {column.name for column in DERIVED}
    arrays = []
    for field in schema:
        values = columns.get(field.name)
        if values is None:
            arrays.append(pa.nulls(rows, field.type))
        elif field.name in derived and values.dtype.kind == "f":
            arrays.append(pa.array(values, mask=np.isnan(values)).cast(field.type))
        else:
            arrays.append(
                pa.array(values, type=field.type) if values.dtype.kind == "O" else pa.array(values).cast(field.type)
            )
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
