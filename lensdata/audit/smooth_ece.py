"""Calibration error without bins: the residuals smoothed at the bandwidth that equals the error itself (R-E2).

Blasiok & Nakkiran 2024, "Smooth ECE: Principled Reliability Diagrams via Kernel Smoothing", ICLR (arXiv 2309.12236).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.fft import dct, idct
from scipy.optimize import brentq
from scipy.special import expit

Floats = npt.NDArray[np.float64]
GRID = 2**15
LOGIT_LIMIT = 40.0  # beyond it 1 - p is under 1e-17, and no sample tells such scores apart


def smooth_ece(label: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """Smooth calibration error on the probability axis; blind to what happens below p ~ 1e-3."""
    p = np.asarray(score, np.float64)
    return _fixed_point(p, np.asarray(label, np.float64) - p, 1.0)


def smooth_ece_of_logits(label: npt.ArrayLike, logit: npt.ArrayLike) -> float:
    """The same with distances measured in logits, so that 1e-4 and 1e-3 are far apart; logits are cut at +-40.

    The bandwidth, in logits, is the error, in probability: with few lenses it is narrow and the value mostly noise. Compare it
    with that of labels drawn from the scores.
    """
    logits = np.asarray(logit, np.float64)
    place = (np.clip(logits, -LOGIT_LIMIT, LOGIT_LIMIT) + LOGIT_LIMIT) / (2 * LOGIT_LIMIT)
    return _fixed_point(place, np.asarray(label, np.float64) - expit(logits), 2 * LOGIT_LIMIT)


def _fixed_point(place: Floats, residual: Floats, width: float) -> float:
    """The bandwidth at which the integral of the absolute smoothed residuals equals it.

    Parameters
    ----------
    place
        Position of each object in [0, 1]; shape (n,).
    residual
        Label less probability; shape (n,).
    width
        Units of the bandwidth to the whole of [0, 1].
    """
    cell = np.minimum((place * GRID).astype(np.int64), GRID - 1)
    waves = dct(np.bincount(cell, residual, GRID) / len(place), norm="ortho")

    def excess(bandwidth: float) -> float:
        return _integral(waves, bandwidth / width) - bandwidth

    low, high = 1e-7 * width, width  # the integral falls with the bandwidth and is at most 1
    if excess(low) <= 0:
        return low
    return float(brentq(excess, low, max(high, 1.0), rtol=1e-6))


def _integral(waves: Floats, bandwidth: float) -> float:
    """Integral over [0, 1] of the absolute residuals, smoothed by a Gaussian reflected at both ends.

    In a cosine series, which is even about both ends, that convolution is a product.
    """
    damping = np.exp(-0.5 * (np.pi * bandwidth * np.arange(GRID)) ** 2)
    return float(np.abs(idct(waves * damping, norm="ortho")).sum())
