"""All logits of a survey as counts: how many stamps were scored, and how many reach a threshold, in a megabyte.

26.7 million logits need not be kept for the thresholds that matter. The counts say how many there are and where the k-th
highest lies; the few hundred thousand highest are kept as they are, and give every threshold among them exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lensdata.audit import roc

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
KEPT_BITS = 20  # of the 32 of a float: sign, exponent and 11 of the mantissa, bins of 0.05% in the logit
DROPPED_BITS = 32 - KEPT_BITS


@dataclass(frozen=True)
class LogitHistogram:
    """Counts of logits in bins of constant relative width.

    Attributes
    ----------
    bins
        (B,) int64, ascending: the bins that hold any; bin b holds the logits from `lower_edges(b)` up to that of b + 1.
    counts
        (B,) int64.
    """

    bins: Ints
    counts: Ints

    @classmethod
    def of(cls, logits: npt.ArrayLike) -> LogitHistogram:
        """Count logits (n,); every one must be a number."""
        values = np.asarray(logits, np.float32)
        if not np.isfinite(values).all():
            raise ValueError("logits must be finite")
        bins, counts = np.unique(_ordered(values) >> DROPPED_BITS, return_counts=True)
        return cls(bins.astype(np.int64), counts.astype(np.int64))

    @property
    def total(self) -> int:
        """Logits counted."""
        return int(self.counts.sum())

    def floor(self, k: int) -> float:
        """A logit that at least k of the counted ones reach, as high as the bins tell; -inf where there are fewer."""
        above = np.cumsum(self.counts[::-1])
        place = int(np.searchsorted(above, k))
        return float("-inf") if place >= len(above) else float(lower_edges(self.bins[::-1][place : place + 1])[0])

    def bracket(self, rank: int) -> tuple[float, float]:
        """Edges of the bin of the logit of a rank, counted from 0 at the highest."""
        above = np.cumsum(self.counts[::-1])
        place = int(np.searchsorted(above, rank, side="right"))
        if place >= len(above):
            raise ValueError(f"rank {rank} of {self.total} logits")
        low, high = lower_edges(self.bins[::-1][place] + np.arange(2))
        return float(low), float(high)


def merged(histograms: Sequence[LogitHistogram]) -> LogitHistogram:
    """All of them together; the order does not matter."""
    bins = np.concatenate([np.empty(0, np.int64), *(one.bins for one in histograms)])
    counts = np.concatenate([np.empty(0, np.int64), *(one.counts for one in histograms)])
    known, place = np.unique(bins, return_inverse=True)
    sums = np.zeros(len(known), np.int64)
    np.add.at(sums, place, counts)
    return LogitHistogram(known, sums)


def lower_edges(bins: Ints) -> npt.NDArray[np.float64]:
    """The smallest logit of each bin."""
    ordered = (np.asarray(bins, np.int64) << DROPPED_BITS).astype(np.int32)
    return np.asarray((ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(np.float32), np.float64)


def threshold(histogram: LogitHistogram, highest: npt.ArrayLike, level: float) -> dict[str, Any]:
    """The logit to exceed so that at most a share ``level`` of all that was counted does.

    Parameters
    ----------
    highest
        The highest logits, all there are down to the lowest of them.
    level
        Share of what was scored. Where nearly nothing that was scored is a lens it is the false-positive rate.

    Returns
    -------
    dict
        ``level, allowed``; ``exact``: whether the threshold lies among ``highest``; ``above``: the logit to exceed; where it
        is not exact ``low, high``: edges of its bin, of which ``above`` is the higher; null with a ``reason`` where the
        rate allows nothing.

    Examples
    --------
    >>> logits = np.array([5.0, 4.0, 3.0, 2.0, 1.0], np.float32)
    >>> found = threshold(LogitHistogram.of(logits), logits[:4], 0.4)
    >>> found["allowed"], found["above"], found["exact"]
    (2, 3.0, True)
    """
    values = np.sort(np.asarray(highest, np.float32))[::-1]
    allowed = roc.allowed(level, histogram.total)
    found: dict[str, Any] = {"level": level, "allowed": allowed, "above": None, "exact": None}
    if not allowed:
        return found | {"reason": f"this rate allows none of {histogram.total} stamps"}
    if allowed < len(values):
        return found | {"above": float(values[allowed]), "exact": True}
    low, high = histogram.bracket(min(allowed, histogram.total - 1))
    return found | {"above": high, "exact": False, "low": low, "high": high}


def _ordered(values: Floats) -> npt.NDArray[np.int32]:
    """Integers that sort as the floats do."""
    bits = np.ascontiguousarray(values, np.float32).view(np.int32)
    return np.asarray(bits ^ ((bits >> 31) & 0x7FFFFFFF), np.int32)
