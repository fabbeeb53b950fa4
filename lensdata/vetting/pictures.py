"""Pictures of a stamp for the page: colours or one band, three stretches, with or without what is round about the centre."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.visualization import make_lupton_rgb
from PIL import Image

from lensdata.report.galleries import to_rgb
from lensdata.shards.layout import ImageLayout

COLOUR = "colour"
GAINS = {"faint": 3.0, "normal": 1.0, "bright": 0.25}
"""Stretches by what they show, and the factor of the light before it is drawn."""
BAND_GAINS = {"g": 2.2, "r": 1.3, "z": 0.9}  # those of the colours, so that a band looks as bright alone as in them
MIDDLE_GREY = 128

Floats = npt.NDArray[np.float64]


def channels(layout: ImageLayout) -> tuple[str, ...]:
    """What can be chosen to look at: the colours (or the mean of the planes), and each band where there are several."""
    return (COLOUR, *(layout.bands if layout.shape[2] > 1 else ()))


def draw(stamp: npt.NDArray[Any], layout: ImageLayout, channel: str, stretch: str, *, residual: bool) -> bytes:
    """A stamp (H, W, bands) as a PNG of its own size, sky north up.

    Parameters
    ----------
    channel
        One of `channels`.
    stretch
        One of `GAINS`.
    residual
        Take the median of each pixel's ring away first, as the normalisation ``residual`` does (R-P3).
    """
    planes = np.nan_to_num(stamp.astype(np.float64))
    if residual:
        planes = planes - azimuthal_median(planes)
    survey = layout.unit == "nanomaggy" and layout.shape[2] >= 3  # of known brightness, so that all are drawn alike
    if survey:
        picture = _survey(planes, layout, channel, GAINS[stretch])
    else:
        picture = _plain(planes, layout, channel, GAINS[stretch], residual=residual)
    sink = BytesIO()
    Image.fromarray(picture).save(sink, "PNG", compress_level=3)
    return sink.getvalue()


def azimuthal_median(planes: Floats) -> Floats:
    """Every pixel of (H, W, bands) replaced by the median of its ring about the pixel (H // 2, W // 2); rings are a pixel wide.

    >>> azimuthal_median(np.arange(9.0).reshape(3, 3, 1))[:, :, 0].tolist()
    [[4.0, 4.0, 4.0], [4.0, 4.0, 4.0], [4.0, 4.0, 4.0]]
    """
    height, width, bands = planes.shape
    order, starts, ring = _rings(height, width)
    flat = planes.reshape(-1, bands)
    medians = np.stack([np.median(flat[members], axis=0) for members in np.split(order, starts)])
    return medians[ring].reshape(planes.shape)


@lru_cache(maxsize=8)
def _rings(height: int, width: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pixels ring by ring, where each ring but the first begins, and the ring of each pixel."""
    rows, columns = np.arange(height) - height // 2, np.arange(width) - width // 2
    ring = np.floor(np.hypot(rows[:, None], columns[None, :]) + 0.5).astype(np.int64).ravel()
    return np.argsort(ring, kind="stable"), np.cumsum(np.bincount(ring))[:-1], ring


def _survey(planes: Floats, layout: ImageLayout, channel: str, gain: float) -> npt.NDArray[np.uint8]:
    if channel == COLOUR:
        return to_rgb(planes * gain, layout.unit)
    plane = planes[:, :, layout.bands.index(channel)] * gain * BAND_GAINS.get(channel, 1.0)
    picture = make_lupton_rgb(plane, plane, plane, stretch=0.07, Q=8, minimum=-0.003)
    return np.asarray(picture[::-1, :, 0], np.uint8)  # FITS rows start at the bottom


def _plain(planes: Floats, layout: ImageLayout, channel: str, gain: float, *, residual: bool) -> npt.NDArray[np.uint8]:
    """Pictures as they are, and what has another unit in grey, each from its own darkest to its own brightest."""
    if layout.unit == "rgb8" and residual:
        planes = np.clip(planes + MIDDLE_GREY, 0, 255)
    chosen = planes if channel == COLOUR else planes[:, :, [layout.bands.index(channel)]]
    if layout.unit == "rgb8" and chosen.shape[2] < 3:
        chosen = np.repeat(chosen.mean(axis=2, keepdims=True), 3, axis=2)
    picture = to_rgb(chosen, layout.unit) / 255
    return np.asarray(np.round(255 * picture**gain**-0.5), np.uint8)
