"""One NPZ file per object, key `cutout` (R-C3): the form for exchange with other programs."""

from __future__ import annotations

import io
import zipfile

import numpy as np

from lensdata import storage
from lensdata.errors import InputError
from lensdata.shards.layout import DTYPES, SURVEY_LAYOUT, ImageLayout, Stamps

KEY = "cutout"


def is_npz(uri: str) -> bool:
    """True for the address of an NPZ object."""
    return uri.endswith(".npz")


def read_arrays(uri: str) -> dict[str, Stamps]:
    """All arrays of an NPZ file; pickled objects are refused.

    Raises
    ------
    InputError
        Missing file, not NPZ, or an array that would need unpickling.
    """
    try:
        with np.load(io.BytesIO(storage.read_bytes(uri)), allow_pickle=False) as data:
            return {name: np.asarray(data[name]) for name in data.files}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        raise InputError(f"{uri} is not an NPZ file of plain arrays ({error}).") from error


def read_cutout(uri: str) -> Stamps:
    """The array `cutout` (H, W, C) of an NPZ object, in its own type."""
    arrays = read_arrays(uri)
    if KEY not in arrays:
        raise InputError(f"{uri} has no array {KEY!r}; it has {', '.join(arrays) or 'none'}.")
    return arrays[KEY]


def read_layout(uri: str, like: ImageLayout = SURVEY_LAYOUT) -> ImageLayout:
    """The layout of an NPZ object: shape and type from the array, bands and unit by convention (`like`).

    Raises
    ------
    InputError
        The array is not (H, W, bands) of a storable type.
    """
    cutout = read_cutout(uri)
    if cutout.ndim != 3 or cutout.shape[2] != len(like.bands) or cutout.dtype.name not in DTYPES:
        raise InputError(
            f"{uri}: {KEY!r} has shape {cutout.shape} and type {cutout.dtype}; "
            f"expected (height, width, {len(like.bands)}) of {', '.join(DTYPES)}."
        )
    height, width, bands = cutout.shape
    return ImageLayout(
        shape=(height, width, bands),
        dtype=cutout.dtype.name,
        bands=like.bands,
        unit=like.unit,
        pixscale_arcsec=like.pixscale_arcsec,
    )


def read_stamp(uri: str, layout: ImageLayout) -> Stamps:
    """The stamp (H, W, C) of an NPZ object, checked against `layout`."""
    cutout = read_cutout(uri)
    if cutout.shape != layout.shape or cutout.dtype != np.dtype(layout.dtype):
        raise InputError(
            f"{uri}: {KEY!r} has shape {cutout.shape} and type {cutout.dtype}, "
            f"expected {layout.shape} and {layout.dtype}."
        )
    return cutout


def write_stamp(uri: str, stamp: Stamps) -> None:
    """Write one stamp (H, W, C) as an NPZ object, atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, cutout=stamp)  # the keyword is KEY
    storage.write_bytes(uri, buffer.getvalue())
