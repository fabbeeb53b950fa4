"""How far the light of a stamp lies from its centre: a position of another catalogue need not be that of a galaxy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

SMOOTHED_PIXELS = 2.0  # sigma, about the seeing: a single pixel is mostly noise
OFF_CENTRE_PIXELS = 2.5  # from here on scores suffer (docs/guide/scoring_positions.md)


def peak_offset(stamp: npt.NDArray[np.floating]) -> float:
    """Distance from the centre pixel (H // 2, W // 2) to the summit that one reaches going uphill from it, pixels.

    All bands together, smoothed. A brighter neighbour does not count while the centre has a summit of its own.

    Parameters
    ----------
    stamp
        Shape (H, W, bands).

    >>> stamp = np.zeros((101, 101, 3))
    >>> stamp[53, 46], stamp[80, 80] = 1.0, 9.0
    >>> peak_offset(stamp)
    5.0
    """
    light = gaussian_filter(np.nan_to_num(stamp.astype(np.float64)).sum(axis=2), SMOOTHED_PIXELS, mode="nearest")
    height, width = light.shape
    at = row, column = height // 2, width // 2
    while True:
        around = [
            (y, x)
            for y in range(max(at[0] - 1, 0), min(at[0] + 2, height))
            for x in range(max(at[1] - 1, 0), min(at[1] + 2, width))
        ]
        best = max(around, key=lambda place: light[place])
        if light[best] <= light[at]:
            return float(np.hypot(at[0] - row, at[1] - column))
        at = best
