"""Quality of a stamp and whether it is excluded (R-C4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lensdata.config.cutouts import Quality

Stamp = npt.NDArray[np.float32]
SEAM_REACH = 3  # rows; Lanczos-3 spreads a seam over fewer


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
    missing = ~np.isfinite(stamp) & ~np.isinf(stamp) | (stamp == 0)
    with np.errstate(invalid="ignore"):
        extreme = (np.abs(stamp) > quality.saturated_above_nmgy) | np.isinf(stamp)
    return StampQuality(
        tuple(float(fraction) for fraction in missing.mean(axis=(0, 1))),
        float(extreme.any(axis=2).mean()),
        edge_score(stamp),
    )


def edge_score(stamp: Stamp) -> float:
    """How much a stamp looks like two exposures with a straight seam, 0 to 1.

    For every boundary between neighbouring rows (and columns): the fraction of its pixels that step the same way by more
    than the noise does, less that of the boundaries `SEAM_REACH` rows away. A galaxy steps over many neighbouring
    rows alike, a seam over one (a few where the service resampled it). The largest over boundaries, axes and bands.
    """
    best = 0.0
    for band in range(stamp.shape[2]):
        plane = np.nan_to_num(stamp[:, :, band].astype(np.float64), posinf=0.0, neginf=0.0)
        for steps in (np.diff(plane, axis=0), np.diff(plane, axis=1).T):
            sigma = 1.4826 * np.median(np.abs(steps - np.median(steps)))
            # pixels that were repeated to a finer grid have no noise between them: the spread of all steps is the floor
            limit = max(3 * sigma, 2 * steps.std())
            if limit > 0 and len(steps) > 2 * SEAM_REACH:
                same_way = np.abs((steps > limit).mean(axis=1) - (steps < -limit).mean(axis=1))
                away = np.pad(same_way, SEAM_REACH)
                beside = np.maximum(away[: -2 * SEAM_REACH], away[2 * SEAM_REACH :])
                best = max(best, float(np.max(same_way - beside)))
    return best


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
