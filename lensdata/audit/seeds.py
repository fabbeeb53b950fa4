"""A figure over several seeds of the same training: mean, spread and the interval of the mean (R-A3)."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, sqrt

from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Spread:
    """A figure over the seeds where it is known.

    Attributes
    ----------
    n
        Seeds.
    mean
        None without seeds.
    sd
        Standard deviation (n - 1); None with fewer than two seeds.
    low, high
        95% t-interval of the mean: what more seeds of the same data would do to it. None with fewer than two seeds.
    """

    n: int
    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None


def over_seeds(values: Iterable[float | None], least: float = -inf, most: float = inf) -> Spread:
    """Mean, standard deviation and t-interval of a figure that was measured once per seed; unknown ones are left out.

    Parameters
    ----------
    values
        One per seed; None where it is not known.
    least, most
        Ends that the figure cannot pass, where the interval is cut.

    >>> found = over_seeds([0.91, 0.93, None, 0.95])
    >>> found.n, found.mean, round(found.sd, 3), round(found.low, 3), round(found.high, 3)
    (3, 0.93, 0.02, 0.88, 0.98)
    >>> over_seeds([0.91])
    Spread(n=1, mean=0.91, sd=None, low=None, high=None)
    """
    known = [value for value in values if value is not None]
    if not known:
        return Spread(0)
    mean = statistics.mean(known)  # exact: equal values have themselves as mean, also at a limit
    if len(known) < 2:
        return Spread(1, mean)
    sd = statistics.stdev(known)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(known) - 1)) * sd / sqrt(len(known))
    return Spread(len(known), mean, sd, max(least, mean - reach), min(most, mean + reach))
