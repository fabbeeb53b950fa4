"""Whether a score of 0.8 means that 8 of 10 are lenses (R-E2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lensdata.audit.intervals import Interval, binomial


@dataclass(frozen=True)
class Bin:
    """One bin of the reliability diagram: mean score, observed fraction with its interval, members."""

    mean_score: float
    observed: Interval
    members: int


def reliability(label: npt.ArrayLike, score: npt.ArrayLike, bins: int = 15) -> list[Bin]:
    """Bins of equal width over [0, 1]; empty ones are left out."""
    labels, scores = np.asarray(label).astype(np.int64), np.asarray(score, np.float64)
    index = np.minimum((scores * bins).astype(np.int64), bins - 1)
    out = []
    for number in range(bins):
        inside = index == number
        if inside.any():
            out.append(
                Bin(
                    float(scores[inside].mean()),
                    binomial(int(labels[inside].sum()), int(inside.sum())),
                    int(inside.sum()),
                )
            )
    return out


def expected_calibration_error(bins: list[Bin]) -> float:
    """Mean distance of score and observed fraction, weighted by members."""
    members = sum(entry.members for entry in bins)
    return float(sum(entry.members * abs(entry.mean_score - entry.observed.value) for entry in bins) / members)


def brier_score(label: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """Mean squared difference of score and label."""
    return float(np.mean((np.asarray(score, np.float64) - np.asarray(label, np.float64)) ** 2))
