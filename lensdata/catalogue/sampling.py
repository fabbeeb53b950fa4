"""How many negatives each stratum gets, in integers (R-S5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Quota:
    """Wanted N1 and N2 of a stratum."""

    stratum: str
    positives: int
    n1: int
    n2: int


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


def key_threshold(wanted: int, available: int, low: int = -(2**63)) -> int:
    """A key below which about ``wanted + 8 sqrt(wanted) + 50`` of ``available`` keys, uniform above ``low``, fall.

    It bounds what is sorted exactly afterwards. Falling short has a probability below 1e-14 and is checked for.

    Parameters
    ----------
    low
        The keys are those above this one: N2 is drawn from what N1 left.
    """
    reach = wanted + 8.0 * np.sqrt(wanted) + 50.0
    if reach >= available:
        return 2**63 - 1
    return int(min(low + reach / available * (2.0**63 - low), 2.0**63 - 1025))
