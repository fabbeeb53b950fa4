"""Stamps that others made: read, cropped and checked before they become shards (R-C3, R-C4)."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lensdata import storage
from lensdata.config.training import ImportConfig
from lensdata.cutouts.quality import exclusion_reason, measure
from lensdata.errors import InputError
from lensdata.shards import npz
from lensdata.shards.layout import Stamps
from lensdata.tables import BANDS

FITS_SUFFIXES = (".fits", ".fit", ".fits.gz", ".fits.fz")
Row = dict[str, Any]


@dataclass(frozen=True)
class UserStamps:
    """What was read.

    Attributes
    ----------
    stamps
        (n, H, W, bands).
    names
        One per stamp.
    labels
        (n,), where the stamps' file has them.
    unreadable
        Names of files that could not be read.
    """

    stamps: Stamps
    names: list[str]
    labels: npt.NDArray[Any] | None
    unreadable: list[str]


def read_stamps(uri: str, config: ImportConfig) -> UserStamps:
    """Read the stamps of one NPZ file, or of a folder of NPZ and FITS files, cropped where asked.

    A file of a folder that cannot be read is named in the result; the others are used.

    Raises
    ------
    InputError
        Nothing there or nothing left, an array missing, stamps of different shapes, or smaller than the crop.
    """
    return _read_stack(uri, config) if npz.is_npz(uri) else _read_folder(uri, config)


def _read_folder(uri: str, config: ImportConfig) -> UserStamps:
    files = [name for name in storage.list_files(uri) if npz.is_npz(name) or name.lower().endswith(FITS_SUFFIXES)]
    if not files:
        raise InputError(f"{uri} is neither an NPZ file nor a folder with NPZ or FITS stamps.")
    images: list[Stamps] = []
    names: list[str] = []
    unreadable: list[str] = []
    for file in files:
        try:
            image = npz.read_cutout(file) if npz.is_npz(file) else _read_fits(file)
        except InputError:
            unreadable.append(file.rsplit("/", 1)[-1])
            continue
        image = _cropped(image, config.size, file)
        if images and image.shape != images[0].shape:
            raise InputError(
                f"{file} has shape {image.shape}, but the others have {images[0].shape}; give size=N to crop them alike."
            )
        images.append(image)
        names.append(_stem(file))
    if not images:
        raise InputError(f"None of the {len(files)} files in {uri} can be read as a stamp.")
    return UserStamps(np.stack(images), names, None, unreadable)


def _cropped(image: Stamps, size: int | None, source: str) -> Stamps:
    """The centre of an image (H, W, bands); the centre pixel is at index n // 2."""
    if size is None:
        return image
    if image.ndim != 3 or min(image.shape[:2]) < size:
        raise InputError(f"{source} has shape {image.shape}, too small for a crop to size={size}.")
    top, left = (side // 2 - size // 2 for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def measure_stamps(stamps: Stamps, config: ImportConfig) -> list[Row]:
    """Quality values and ``reason`` (None: good) of each stamp; empty rows where the unit is not nanomaggies.

    Columns are those of bands g, r, z; the limits hold for every band.
    """
    if config.unit != "nanomaggy":
        return [{} for _ in stamps]
    rows = []
    for stamp in stamps:
        values = measure(stamp, config.quality)
        fractions = dict(zip(config.bands, values.missing_frac, strict=True))
        row: Row = {f"missing_frac_{band}": fractions.get(band) for band in BANDS}
        row |= {"saturated_frac": values.saturated_frac, "edge_score": values.edge_score}
        rows.append(row | {"reason": exclusion_reason(values, config.bands, config.quality)})
    return rows


def _read_stack(uri: str, config: ImportConfig) -> UserStamps:
    arrays = npz.read_arrays(uri)
    if config.image_key not in arrays:
        raise InputError(f"{uri} has no array {config.image_key!r} (image_key); it has {', '.join(arrays) or 'none'}.")
    stamps = arrays[config.image_key]
    if len(stamps) == 0:
        raise InputError(f"{uri}: {config.image_key!r} holds no stamps.")
    if stamps.ndim != 4:
        raise InputError(f"{uri}: {config.image_key!r} has shape {stamps.shape}, expected (n, height, width, bands).")
    for key in (config.label_key, config.id_key):
        if key in arrays and len(arrays[key]) != len(stamps):
            raise InputError(f"{uri}: {key!r} has {len(arrays[key])} entries for {len(stamps)} stamps.")
    if config.size is not None:
        stamps = np.stack([_cropped(stamp, config.size, uri) for stamp in stamps])
    names = [str(name) for name in arrays.get(config.id_key, np.arange(1, len(stamps) + 1))]
    return UserStamps(stamps, names, arrays.get(config.label_key), [])


def _read_fits(uri: str) -> Stamps:
    from astropy.io import fits  # heavy, and only for FITS

    try:
        with fits.open(io.BytesIO(storage.read_bytes(uri))) as file:
            data = next((hdu.data for hdu in file if hdu.data is not None), None)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{uri} is not a readable FITS image ({error}).") from error
    if data is None or data.ndim != 3:
        raise InputError(f"{uri} holds no image (bands, height, width).")
    return np.ascontiguousarray(np.moveaxis(data, 0, -1).astype(np.float32))


def _stem(uri: str) -> str:
    name = uri.rsplit("/", 1)[-1]
    for suffix in (*FITS_SUFFIXES, ".npz"):
        name = name.removesuffix(suffix)
    return name
