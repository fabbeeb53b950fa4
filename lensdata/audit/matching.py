"""Negatives that look like the hosts of the positives: one for each, from the catalogue (R-E4).

Against galaxies drawn at random a lens is told by its host alone, which is luminous and red. Against a host-matched negative
that way is closed, and what is left is arcs or a shortcut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.spatial import cKDTree

from lensdata.tables import BANDS

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

COLUMNS = ("mag_z", "gr", "rz", "shape_r", "nobs", "psfsize")  # the last two are means over the bands
SHOWN = ("mag_g", "mag_r", "sersic", "axis_ratio", "psfdepth", "ebv")  # not matched, but in the balance table
NEIGHBOURS = 200  # candidates of each positive
MATCHED_BALANCE = 0.1  # standardised differences below this count as balanced (Austin 2009)


@dataclass(frozen=True)
class Matching:
    """Pairs of hosts.

    Attributes
    ----------
    positives, negatives
        Row numbers of the pairs, (m,) each.
    distances
        Of each pair: root mean square over the columns, in standard deviations, (m,).
    columns
        Columns that were matched.
    unmatched
        Why positives have no partner, and how many.
    """

    positives: Indices
    negatives: Indices
    distances: Floats
    columns: tuple[str, ...]
    unmatched: dict[str, int]


def host_columns(rows: pd.DataFrame, names: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """The columns of these names that hold a number; one without a band is the mean over its bands."""
    found = {}
    for name in names:
        bands = [column for column in (name, *(f"{name}_{band}" for band in BANDS)) if column in rows]
        if bands and rows[bands].notna().any(axis=None):
            found[name] = rows[bands].astype(np.float64).mean(axis=1)
    return pd.DataFrame(found, index=rows.index)


def match_hosts(
    rows: pd.DataFrame, labels: npt.NDArray[np.integer], strata: npt.NDArray[Any], caliper: float
) -> Matching:
    """Pair each positive with the nearest negative of its stratum that is free, nearest pairs first.

    Greedy in the order of distance, without replacement, over the `NEIGHBOURS` nearest of each.

    Parameters
    ----------
    rows
        Catalogue columns, n rows; those of `COLUMNS` that are there are matched, in units of the standard deviation over all.
    labels
        1 positive, 0 negative, (n,).
    strata
        What must be equal in a pair, e.g. type and fold, one value per row (n,).
    caliper
        Largest root mean square difference over the columns, standard deviations.
    """
    hosts = host_columns(rows)
    spread = hosts.std(ddof=0)
    names = tuple(name for name in hosts if spread[name] > 0)
    points = (hosts[list(names)] / spread[list(names)]).to_numpy(np.float64) / np.sqrt(max(1, len(names)))
    known = np.isfinite(points).all(axis=1) & bool(names)
    positives, negatives = (np.flatnonzero((labels == label) & known) for label in (1, 0))
    edges = [np.empty((0, 3))]
    alone = 0
    for stratum in pd.unique(strata[positives]):
        ours, theirs = positives[strata[positives] == stratum], negatives[strata[negatives] == stratum]
        if len(theirs):
            edges.append(_edges(points, ours, theirs, caliper))
        else:
            alone += len(ours)
    joined = np.concatenate(edges)
    pairs = _greedy(joined, len(rows))
    near = len(np.unique(joined[:, 1]))
    unmatched = {
        "a column is missing": int(np.sum(labels == 1)) - len(positives),
        "no negative of its kind": alone,
        "none within the caliper": len(positives) - alone - near,
        "all within the caliper taken": near - len(pairs),
    }
    return Matching(
        pairs[:, 1].astype(np.int64), pairs[:, 2].astype(np.int64), pairs[:, 0], names,
        {reason: count for reason, count in unmatched.items() if count},
    )  # fmt: skip


def balance(rows: pd.DataFrame, labels: npt.NDArray[np.integer], found: Matching) -> list[dict[str, Any]]:
    """Standardised mean difference of each host column before and after the matching.

    (mean of positives - mean of negatives) / sqrt of the mean of their variances, both times with the variances before.

    Returns
    -------
    list of dict
        ``column, matched, before, after``; differences null where they cannot be said.
    """
    hosts = host_columns(rows, COLUMNS + SHOWN)
    table = []
    for name in hosts:
        values = hosts[name].to_numpy(np.float64)
        lenses, others = values[labels == 1], values[labels == 0]
        spread = float(np.sqrt((np.nanvar(lenses) + np.nanvar(others)) / 2)) if len(lenses) and len(others) else 0.0
        before = _difference(lenses, others, spread)
        after = _difference(values[found.positives], values[found.negatives], spread)
        table.append({"column": name, "matched": name in found.columns, "before": before, "after": after})
    return table


def _edges(points: Floats, ours: Indices, theirs: Indices, caliper: float) -> Floats:
    """Distance, positive and negative of each pair within the caliper, (edges, 3)."""
    reach = min(NEIGHBOURS, len(theirs))
    distance, place = cKDTree(points[theirs]).query(
        points[ours], k=np.arange(1, reach + 1), distance_upper_bound=caliper
    )
    near = np.isfinite(distance)
    who = np.broadcast_to(ours[:, None], distance.shape)
    return np.stack([distance[near], who[near], theirs[place[near]]], axis=1)


def _greedy(edges: Floats, num_rows: int) -> Floats:
    """The edges that are taken, nearest first, each row in one of them at most."""
    order = np.lexsort((edges[:, 2], edges[:, 1], edges[:, 0]))
    free, taken = np.ones(num_rows, bool), []
    for number in order:
        one, two = int(edges[number, 1]), int(edges[number, 2])
        if free[one] and free[two]:
            free[one] = free[two] = False
            taken.append(number)
    return edges[np.asarray(taken, np.int64)]


def _difference(lenses: Floats, others: Floats, spread: float) -> float | None:
    if not spread > 0 or np.isnan(lenses).all() or np.isnan(others).all():
        return None
    return float((np.nanmean(lenses) - np.nanmean(others)) / spread)
