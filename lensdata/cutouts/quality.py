"""Quality of a stamp and whether it is excluded (R-C4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lensdata.config.cutouts import Quality

Stamp = npt.NDArray[np.float32]
SEAM_REACH = 3  # rows; Lanczos-3 spreads a seam over fewer
NOISE_SAMPLE = 4  # every fourth step is enough to know the noise to 2%


@dataclass(frozen=True)
class StampQuality:
    """Quality values of one stamp.

    Attributes
    ----------
    missing_frac
        Per band, fraction of pixels that are NaN or exactly zero: the survey writes zeros where it has no data.
    saturated_frac
        Fraction of pixels above the extreme value in any band, or infinite.
    edge_score
        Strength of the strongest straight step along a row or column, 0 (none) to 1.
    """

    missing_frac: tuple[float, ...]
    saturated_frac: float
    edge_score: float


def measure(stamp: Stamp, quality: Quality) -> StampQuality:
    """Quality values of a stamp.

    Parameters
    ----------
    stamp
        Shape (H, W, bands), nanomaggies.
    """
    planes = np.ascontiguousarray(np.moveaxis(stamp, 2, 0))
    pixels = planes[0].size
    finite = np.isfinite(planes)
    missing = np.count_nonzero((planes == 0) | np.isnan(planes), axis=(1, 2)) / pixels
    extreme = np.abs(planes) > quality.saturated_above_nmgy  # infinite ones too
    if not finite.all():
        planes = np.where(finite, planes, np.float32(0))
    return StampQuality(
        tuple(missing.tolist()), float(np.count_nonzero(extreme.any(axis=0)) / pixels), _edge_score(planes)
    )


def edge_score(stamp: Stamp) -> float:
    """How much a stamp looks like two exposures with a straight seam, 0 to 1.

    For every boundary between neighbouring rows (and columns): the fraction of its pixels that step the same way by more
    than the noise does, less that of the boundaries `SEAM_REACH` rows away. A galaxy steps over many neighbouring
    rows alike, a seam over one (a few where the service resampled it). The largest over boundaries, axes and bands.

    Parameters
    ----------
    stamp
        Shape (H, W, bands).
    """
    planes = np.moveaxis(stamp, 2, 0)
    return _edge_score(np.where(np.isfinite(planes), planes, np.float32(0)))


def _edge_score(planes: Stamp) -> float:
    """The score of finite planes (bands, H, W)."""
    return max(_seams(np.diff(planes, axis=1)), _seams(np.diff(planes, axis=2).transpose(0, 2, 1)))


def _seams(steps: Stamp) -> float:
    """The strongest seam among the steps (bands, boundaries, pixels) between neighbouring rows."""
    if steps.shape[1] <= 2 * SEAM_REACH:
        return 0.0
    some = np.abs(steps[:, :, ::NOISE_SAMPLE]).reshape(len(steps), -1)
    middle = some.shape[1] // 2
    sigma = 1.4826 * np.partition(some, middle, axis=1)[:, middle]
    # pixels that were repeated to a finer grid have no noise between them: the spread of all steps is the floor
    limit = np.maximum(3 * sigma, 2 * steps.std(axis=(1, 2)))
    limit[limit == 0] = np.inf
    bound = limit[:, None, None].astype(steps.dtype)
    up, down = (np.count_nonzero(beyond, axis=2) for beyond in (steps > bound, steps < -bound))
    same_way = np.abs(up - down) / steps.shape[2]
    beside = np.zeros_like(same_way)
    beside[:, SEAM_REACH:] = same_way[:, :-SEAM_REACH]
    np.maximum(beside[:, :-SEAM_REACH], same_way[:, SEAM_REACH:], out=beside[:, :-SEAM_REACH])
    return float(np.max(same_way - beside, initial=0.0))


def exclusion_reason(found: StampQuality, bands: Sequence[str], quality: Quality) -> str | None:
    """Why a stamp is excluded, or None; an empty band is named before a partly missing one."""
    for band, fraction in zip(bands, found.missing_frac, strict=True):
        if fraction >= 1.0:
            return f"empty_band_{band}"
    for band, fraction in zip(bands, found.missing_frac, strict=True):
        if fraction > quality.missing_frac_max:
            return f"missing_pixels_{band}"
    if found.saturated_frac > quality.saturated_frac_max:
        return "saturated"
    if found.edge_score > quality.edge_score_max:
        return "edge_artefact"
    return None
