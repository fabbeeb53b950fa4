"""Sources with the shapes of real galaxies: images of them as surface brightness behind a lens.

A folder holds one image per file: ``*.npz`` with an array ``image`` (height, width) or ``image_gri`` (3, height, width; the first
plane is taken), or ``*.fits`` whose first image is (height, width). Nothing is read but shapes: an image gets flux 1 and the size
that is drawn for the source, so neither zero points nor pixel scales matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lensdata import storage
from lensdata.errors import InputError
from lensdata.simulation.lensing import source_frame

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

COLUMN = "source_image"
"""Column that says which image an injection has."""
_KEYS = ("image", "image_gri")


@dataclass(frozen=True)
class SourceImages:
    """Images of m sources, flux 1 each, on squares with a border of zeros.

    ``pixels`` (m, s, s) is flux per pixel. ``half_light_pixels`` (m,) is the radius around the middle (s - 1) / 2, where the
    centroid of the light lies within half a pixel, that holds half of the flux. ``reach`` (m,) is the distance from the middle
    to the corner of what is not 0, in half-light radii.
    """

    pixels: npt.NDArray[np.float32]
    half_light_pixels: FloatArray
    reach: FloatArray
    names: tuple[str, ...]

    @classmethod
    def of(cls, images: Sequence[npt.NDArray[Any]], names: Sequence[str]) -> SourceImages:
        """Normalise and centre images (height, width) of any sizes.

        Raises
        ------
        InputError
            An image without light, with NaN or with another number of dimensions, by its name.
        """
        if not images:
            raise InputError("There is no image of a source; give one at least.")
        centred = [_centred(np.asarray(image), name) for image, name in zip(images, names, strict=True)]
        side = max(len(image) for image in centred)
        pixels = np.zeros((len(centred), side, side), np.float32)
        for place, image in enumerate(centred):
            start = (side - len(image)) // 2  # all sides are odd
            pixels[place, start : start + len(image), start : start + len(image)] = image
        y, x = np.indices((side, side)) - (side - 1) / 2
        radius = np.hypot(x, y)
        half = np.array([_half_light(image, radius) for image in pixels])
        reach = np.array([radius[image != 0].max() + 1 for image in pixels]) / half
        return cls(pixels, half, reach, tuple(names))

    @classmethod
    def load(cls, folder: str) -> SourceImages:
        """Read all images of a folder, in the order of their names.

        Raises
        ------
        InputError
            No images, or one that cannot be read, by its name.
        """
        found = sorted(uri for uri in storage.list_files(folder) if uri.endswith((".npz", ".fits", ".fits.gz")))
        if not found:
            raise InputError(f"Folder {folder} has no *.npz and no *.fits; expected images of sources.")
        return cls.of([_read(uri) for uri in found], [uri.rsplit("/", 1)[-1] for uri in found])

    def brightness(self, source: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        """Surface brightness at source-plane positions, per arcsec squared: bilinear between the middles of pixels.

        Parameters
        ----------
        source
            ``source_x, source_y, source_angle``; ``source_radius``, the half-light radius in arcsec; and `COLUMN`, integers.
            The axis ratio and the index are those of the image.
        """
        side = self.pixels.shape[1]
        along, across = source_frame(source, x, y)
        number = source[COLUMN]
        half = torch.as_tensor(self.half_light_pixels).to(along.device, along.dtype)[number]
        scale = half / source["source_radius"]  # pixels per arcsec
        stack = torch.as_tensor(self.pixels).to(along.device, along.dtype).ravel()
        column = along.mul_(scale).add_((side - 1) / 2).clamp_(0, side - 1.001)
        row = across.mul_(scale).add_((side - 1) / 2).clamp_(0, side - 1.001)
        left, low = column.long(), row.long()
        column -= left
        row -= low
        corner = low.mul_(side).add_(left).add_(number * side * side)
        lower = torch.lerp(stack[corner], stack[corner + 1], column)
        corner += side
        upper = torch.lerp(stack[corner], stack[corner + 1], column)
        return torch.lerp(lower, upper, row).mul_(scale.square())


def _centred(image: npt.NDArray[Any], name: str) -> FloatArray:
    """Flux 1, on an odd square around the centroid with a border of one zero."""
    if image.ndim != 2:
        raise InputError(f"The image of source {name} has shape {image.shape}; expected (height, width).")
    image = image.astype(np.float64)
    if not np.isfinite(image).all():
        raise InputError(f"The image of source {name} holds NaN or infinity; fill or leave out its bad pixels.")
    if not image.sum() > 0:
        raise InputError(f"The image of source {name} adds up to {image.sum():g}; expected light, a sum above 0.")
    image = image / image.sum()
    y, x = np.indices(image.shape)
    light = np.clip(image, 0, None) / np.clip(image, 0, None).sum()
    y0, x0 = round(float((light * y).sum())), round(float((light * x).sum()))
    half = max(y0, x0, image.shape[0] - 1 - y0, image.shape[1] - 1 - x0) + 1
    out = np.zeros((2 * half + 1, 2 * half + 1))
    out[half - y0 : half - y0 + image.shape[0], half - x0 : half - x0 + image.shape[1]] = image
    return out


def _half_light(image: npt.NDArray[np.float32], radius: FloatArray) -> float:
    order = np.argsort(radius, axis=None)
    enclosed = np.cumsum(image.ravel()[order].astype(np.float64))
    return max(float(radius.ravel()[order][np.searchsorted(enclosed, 0.5)]), 0.5)


def _read(uri: str) -> npt.NDArray[Any]:
    try:
        content = BytesIO(storage.read_bytes(uri))
        return _read_npz(content, uri) if uri.endswith(".npz") else _read_fits(content, uri)
    except (OSError, ValueError, TypeError, EOFError, BadZipFile) as error:
        raise InputError(f"Image of a source {uri} cannot be read ({error}); replace or remove it.") from error


def _read_npz(content: BytesIO, uri: str) -> npt.NDArray[Any]:
    if not content.getvalue().startswith(b"PK"):  # numpy would take it for a pickle
        raise ValueError("it is no NPZ file")
    with np.load(content, allow_pickle=False) as arrays:
        for key in _KEYS:
            if key in arrays:
                image = arrays[key]
                return np.asarray(image[0] if image.ndim == 3 else image)
        raise InputError(f"File {uri} holds {sorted(arrays)}; expected the image of a source as {' or '.join(_KEYS)}.")


def _read_fits(content: BytesIO, uri: str) -> npt.NDArray[Any]:
    from astropy.io import fits

    with fits.open(content) as units:
        for unit in units:
            if unit.is_image and unit.data is not None:
                return np.asarray(unit.data, np.float64)
    raise InputError(f"File {uri} has no image; expected the image of a source.")
