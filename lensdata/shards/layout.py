"""What the bytes of one stamp mean: shape, type, bands, unit; kept in the schema metadata of every shard.

A stamp is one `fixed_size_binary` value: no list levels to decode, no offsets, and the type itself checks the
length (docs/architecture.md, section 3).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lensdata.errors import InputError

METADATA_KEY = b"lensdata.image"
IMAGE_COLUMN = "image"
FORMAT_VERSION = 1
DTYPES = ("float32", "float16", "uint8")

Stamps = npt.NDArray[Any]  # (n, height, width, bands), one of DTYPES


@dataclass(frozen=True, kw_only=True)
class ImageLayout:
    """How one stamp is stored.

    Parameters
    ----------
    shape
        (height, width, bands), in pixels; C order.
    dtype
        "float32", "float16" or "uint8".
    bands
        One name per plane, in order; "g", "r", "z" for survey stamps (R-C1).
    unit
        "nanomaggy", or for pictures "rgb8".
    pixscale_arcsec
        Pixel size in arcsec; None where it varies or is unknown.

    Examples
    --------
    >>> SURVEY_LAYOUT.nbytes
    122412
    """

    shape: tuple[int, int, int]
    dtype: str
    bands: tuple[str, ...]
    unit: str
    pixscale_arcsec: float | None = None

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(f"A stamp has a shape (height, width, bands) of positive numbers, found {self.shape}.")
        if len(self.bands) != self.shape[2]:
            raise InputError(f"Stamps of shape {self.shape} need {self.shape[2]} band names, found {self.bands}.")
        if self.dtype not in DTYPES:
            raise InputError(f"Stamps are stored as one of {', '.join(DTYPES)}, found {self.dtype!r}.")

    @property
    def nbytes(self) -> int:
        """Bytes of one stamp."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def metadata(self) -> dict[bytes, bytes]:
        """The schema metadata of a shard."""
        values = asdict(self) | {"layout": "HWC", "format_version": FORMAT_VERSION}
        return {METADATA_KEY: json.dumps(values, sort_keys=True).encode()}

    def field(self) -> pa.Field:
        """The image column."""
        return pa.field(IMAGE_COLUMN, pa.binary(self.nbytes), nullable=False)


SURVEY_LAYOUT = ImageLayout(
    shape=(101, 101, 3), dtype="float32", bands=("g", "r", "z"), unit="nanomaggy", pixscale_arcsec=0.262
)
"""Legacy Survey stamps (R-C1)."""


def layout_of(schema: pa.Schema, source: str) -> ImageLayout:
    """The layout that a shard's schema declares.

    Raises
    ------
    InputError
        No or broken metadata, another format version, or an image column that is not what the metadata says.
    """
    raw = (schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise InputError(f"{source} has no {METADATA_KEY.decode()!r} schema metadata, so it is not a shard of stamps.")
    try:
        values = json.loads(raw)
        version, order = values.pop("format_version"), values.pop("layout")
        values["shape"], values["bands"] = tuple(values["shape"]), tuple(values["bands"])
        layout = ImageLayout(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{source}: the {METADATA_KEY.decode()!r} metadata cannot be read ({error}).") from error
    if (version, order) != (FORMAT_VERSION, "HWC"):
        raise InputError(f"{source} is format {version} in {order} order; this version reads {FORMAT_VERSION}, HWC.")
    _check_column(schema, layout, source)
    return layout


def _check_column(schema: pa.Schema, layout: ImageLayout, source: str) -> None:
    if IMAGE_COLUMN not in schema.names:
        raise InputError(f"{source} has no column {IMAGE_COLUMN!r}.")
    found = schema.field(IMAGE_COLUMN).type
    if found != pa.binary(layout.nbytes):
        raise InputError(
            f"{source}: images of shape {layout.shape} and type {layout.dtype} take {layout.nbytes} bytes, "
            f"but the image column is {found}."
        )


def to_arrow(stamps: Stamps, layout: ImageLayout) -> pa.Array:
    """Stamps (n, H, W, C) as an Arrow column, without a copy where they are contiguous.

    Raises
    ------
    InputError
        If shape or type is not the layout's.
    """
    if stamps.ndim != 4 or stamps.shape[1:] != layout.shape or stamps.dtype != np.dtype(layout.dtype):
        raise InputError(
            f"Stamps of shape {stamps.shape} and type {stamps.dtype} do not fit the layout (n, "
            f"{', '.join(map(str, layout.shape))}) {layout.dtype}."
        )
    data = np.ascontiguousarray(stamps)
    return pa.Array.from_buffers(pa.binary(layout.nbytes), len(data), [None, pa.py_buffer(data)])


def to_numpy(column: pa.ChunkedArray | pa.Array, layout: ImageLayout) -> Stamps:
    """The image column as a read-only array (n, H, W, C) over Arrow's memory."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # combine_chunks of an empty column
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], pa.binary(layout.nbytes))
    if len(array) == 0:
        return np.empty((0, *layout.shape), layout.dtype)
    flat = np.frombuffer(
        array.buffers()[1], dtype=np.uint8, count=len(array) * layout.nbytes, offset=array.offset * layout.nbytes
    )
    return flat.view(layout.dtype).reshape(len(array), *layout.shape)
