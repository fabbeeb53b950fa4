"""Which negatives each stratum gets, in integers and by the smallest keys (R-S5).

The rows taken depend on the keys alone, not on partitions, files or executors. A bound on the keys keeps a little more than is
wanted of each stratum; the draw over these candidates is then exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lensdata.catalogue.confusers import CATEGORIES
from lensdata.catalogue.strata import NOBS_BINS, STRATA, STRATUM_TYPES

N1, N2 = "N1", "N2"
LOWEST, HIGHEST = -(2**63), 2**63 - 1
Ints = npt.NDArray[np.int64]
Available = dict[str, dict[str | None, int]]  # pool rows by stratum and primary category, None for no confuser


@dataclass(frozen=True)
class Quota:
    """Wanted N1 and N2 of a stratum."""

    stratum: str
    positives: int
    n1: int
    n2: int


@dataclass(frozen=True)
class Taken:
    """A line of the quota table."""

    stratum: str
    pool: str
    confuser: str | None
    positives: int
    wanted: int
    available: int
    taken: int
    filled_from: str | None = None

    @property
    def shortfall(self) -> int:
        """What is missing. A category's share is a floor, not a promise: it can be passed."""
        missing = self.wanted - self.taken
        return missing if self.confuser is None else max(0, missing)


@dataclass(frozen=True)
class Candidates:
    """Pool rows that may be drawn, in any order: arrays of shape (n,)."""

    key: Ints
    stratum: npt.NDArray[np.integer]  # place in STRATA
    category: npt.NDArray[np.integer]  # place in CATEGORIES, -1 for no confuser


def quotas(positives: dict[str, int], ratio: int, n1_percent: int) -> list[Quota]:
    """``k = ratio x positives`` per stratum, ``n1 = n1_percent k // 100``, ``n2 = k - n1``.

    >>> quotas({"SER/3-5": 3}, 100, 85)
    [Quota(stratum='SER/3-5', positives=3, n1=255, n2=45)]
    """
    out = []
    for stratum, count in sorted(positives.items()):
        wanted = ratio * count
        n1 = n1_percent * wanted // 100
        out.append(Quota(stratum, count, n1, wanted - n1))
    return out


def category_shares(n2: int, available: dict[str, int]) -> dict[str, int]:
    """Equal share of N2 per category that exists, capped at what is there; the rest is drawn by key from all categories.

    >>> category_shares(10, {"ring": 100, "blue": 2})
    {'blue': 2, 'ring': 5}
    """
    present = sorted(name for name, count in available.items() if count > 0)
    if not present:
        return {}
    share = n2 // len(present)
    return {name: min(share, available[name]) for name in present}


def key_threshold(wanted: int, available: float, low: int = LOWEST) -> int:
    """A key below which about ``wanted + 8 sqrt(wanted) + 50`` of ``available`` keys, uniform above ``low``, fall.

    It bounds what is sorted exactly afterwards. Falling short has a probability below 1e-14 and is checked for.

    Parameters
    ----------
    low
        The keys are those above this one: N2 is drawn from what N1 left.
    """
    reach = wanted + 8.0 * np.sqrt(wanted) + 50.0
    if reach >= available:
        return HIGHEST
    return int(min(low + reach / available * (2.0**63 - low), 2.0**63 - 1025))


def candidate_limits(
    quotas: list[Quota], available: Available, fill: bool = False
) -> dict[tuple[str, str | None], int]:
    """The key up to which the rows of a stratum and category can be drawn; (stratum, None) holds for every category.

    With ``fill``, other strata may ask for what is missing in theirs, so every stratum offers that much more.
    """
    extra = sum(_missing_at_most(quota, available.get(quota.stratum, {})) for quota in quotas) if fill else 0
    wanted = {quota.stratum: quota for quota in quotas}
    limits: dict[tuple[str, str | None], int] = {}
    for stratum, counts in available.items():
        quota = wanted.get(stratum, Quota(stratum, 0, 0, 0))
        n1 = quota.n1 + (quota.n2 + extra if extra else 0)
        n2 = quota.n2 + extra
        below = key_threshold(n1, sum(counts.values())) if n1 else LOWEST
        limits[stratum, None] = below
        above = (2.0**63 - below) / 2.0**64  # the share of the keys that N1 certainly leaves
        for category in CATEGORIES if n2 else ():
            if counts.get(category):
                limits[stratum, category] = key_threshold(n2, counts[category] * above, below)
    return limits


def _missing_at_most(quota: Quota, counts: dict[str | None, int]) -> int:
    """Bound of a stratum's shortfall: N2 can fall short where not every N1 row can be spared for being a confuser."""
    confusers = sum(count for category, count in counts.items() if category is not None)
    missing_n1 = max(0, quota.n1 - sum(counts.values()))
    return missing_n1 + (quota.n2 if confusers < quota.n1 + quota.n2 else 0)


class Draw:
    """The draw from the candidates, stratum by stratum; what is taken once is not there any more.

    Attributes
    ----------
    pool
        0 not taken, 1 N1, 2 N2: shape (n,), in the order of the candidates.
    lines
        The quota table.
    """

    def __init__(self, rows: Candidates, available: Available) -> None:
        self.rows = rows
        self.pool = np.zeros(len(rows.key), np.int8)
        self.lines: list[Taken] = []
        self._available = available
        order = np.lexsort((rows.key, rows.stratum))
        edges = np.searchsorted(rows.stratum[order], np.arange(len(STRATA) + 1))
        self._of = {name: order[edges[i] : edges[i + 1]] for i, name in enumerate(STRATA)}  # by key

    def take_n1(self, quota: Quota) -> None:
        """The smallest keys of the whole stratum."""
        there = self._left(quota.stratum)
        taken = self._take(quota.stratum, 1, quota.n1, there)
        self.lines.append(Taken(quota.stratum, N1, None, quota.positives, quota.n1, there, taken))

    def take_n2(self, quota: Quota) -> None:
        """Equal shares of the categories that N1 left, then the smallest keys of all of them."""
        stratum = quota.stratum
        there = {name: left for name in CATEGORIES if (left := self._left(stratum, name)) > 0}
        shares = category_shares(quota.n2, there) if quota.n2 else {}
        taken = {name: self._take(stratum, 2, share, there[name], name) for name, share in sorted(shares.items())}
        rest = quota.n2 - sum(taken.values())
        if shares and rest:
            before = self.pool.copy()
            self._take(stratum, 2, rest, sum(there.values()) - sum(taken.values()), *CATEGORIES)
            more = np.bincount(self.rows.category[before != self.pool], minlength=len(CATEGORIES))
            taken = {name: count + int(more[CATEGORIES.index(name)]) for name, count in taken.items()}
        for name, share in sorted(shares.items()):
            self.lines.append(Taken(stratum, N2, name, quota.positives, share, there[name], taken[name]))
        there_all = sum(there.values()) if quota.n2 else 0
        self.lines.append(Taken(stratum, N2, None, quota.positives, quota.n2, there_all, sum(taken.values())))

    def fill(self, line: Taken) -> None:
        """Take what a line lacks from the neighbours of its stratum, in their order."""
        missing = line.shortfall
        categories = () if line.pool == N1 else CATEGORIES
        for donor in neighbours(line.stratum):
            there = self._left(donor, *categories)
            if not missing or not there:
                continue
            taken = self._take(donor, 1 if line.pool == N1 else 2, missing, there, *categories)
            self.lines.append(Taken(line.stratum, line.pool, None, line.positives, missing, there, taken, donor))
            missing -= taken

    def _left(self, stratum: str, *categories: str) -> int:
        """Pool rows of these categories, of all rows where none is named, that are not taken."""
        counts = self._available.get(stratum, {})
        there = sum(count for name, count in counts.items() if not categories or name in categories)
        return there - int(np.count_nonzero(self.pool[self._rows(stratum, categories)]))

    def _rows(self, stratum: str, categories: tuple[str, ...]) -> Ints:
        rows: Ints = self._of[stratum]
        if categories:
            rows = rows[np.isin(self.rows.category[rows], [CATEGORIES.index(name) for name in categories])]
        return rows

    def _take(self, stratum: str, pool: int, wanted: int, there: int, *categories: str) -> int:
        rows = self._rows(stratum, categories)
        chosen = rows[self.pool[rows] == 0][: min(wanted, there)]
        if len(chosen) != min(wanted, there):
            raise RuntimeError(f"stratum {stratum}: {len(chosen)} candidates for {min(wanted, there)} rows")
        self.pool[chosen] = pool
        return len(chosen)


def draw(
    rows: Candidates, quotas: list[Quota], available: Available, fill: bool = False
) -> tuple[npt.NDArray[np.int8], list[Taken]]:
    """N1 from the whole of each stratum, N2 from the confusers that are left, then what is missing from the neighbours.

    Parameters
    ----------
    rows
        At least the rows within `candidate_limits`.
    available
        Rows of the whole pool.
    fill
        Fill a stratum's shortfall from `neighbours`. N1 first, then N2, each in the order of STRATA; nothing that a stratum
        drew for itself changes.

    Returns
    -------
    tuple
        (0 not taken, 1 N1 or 2 N2 per candidate, lines of the quota table)
    """
    drawn = Draw(rows, available)
    for quota in quotas:
        drawn.take_n1(quota)
    for quota in quotas:
        drawn.take_n2(quota)
    if fill:
        short = [line for line in drawn.lines if line.confuser is None and line.shortfall > 0]
        for line in sorted(short, key=lambda line: (line.pool, STRATA.index(line.stratum))):
            drawn.fill(line)
    return drawn.pool, drawn.lines


def neighbours(stratum: str) -> list[str]:
    """Strata that may fill a shortfall: the other exposure bins of the type, nearer ones first and of two equally near the one
    with fewer exposures; then the same bin of the other types, in the order SER, DEV, REX.

    >>> neighbours("DEV/6-10")
    ['DEV/3-5', 'DEV/11+', 'SER/6-10', 'REX/6-10']
    """
    kind, _, exposures = stratum.partition("/")
    bins = NOBS_BINS[1:]
    here = bins.index(exposures)
    nearer = sorted((abs(place - here), place) for place in range(len(bins)) if place != here)
    return [f"{kind}/{bins[place]}" for _, place in nearer] + [
        f"{other}/{exposures}" for other in STRATUM_TYPES if other != kind
    ]
