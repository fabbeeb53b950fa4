"""Stamps that share sky: friends of friends, and what they do to the splits (R-S6)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from lensdata.sky.crossmatch import SkyIndex

GroupRule = Literal["report", "keep_together"]
Ids = npt.NDArray[np.int64]


def group_ids(
    source_id: npt.ArrayLike, ra_deg: npt.ArrayLike, dec_deg: npt.ArrayLike, radius_arcsec: float
) -> npt.NDArray[np.int64]:
    """Smallest ``source_id`` of each object's group; objects within the radius are friends, groups are their closure."""
    ids = np.asarray(source_id, dtype=np.int64)
    if ids.size == 0:
        return ids
    pairs = SkyIndex(ra_deg, dec_deg).pairs(radius_arcsec)
    links = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(ids.size, ids.size))
    _, component = connected_components(links, directed=False)
    smallest = np.full(component.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(smallest, component, ids)
    return np.asarray(smallest[component])


def placing_pixels(source_id: npt.ArrayLike, group_id: npt.ArrayLike, pixel: npt.ArrayLike, rule: GroupRule) -> Ids:
    """The pixel whose hash gives each object its split and fold.

    ``report``: the object's own. ``keep_together``: that of the group's reference, the member whose source_id is the
    group_id, so that no group is in two splits.

    Raises
    ------
    ValueError
        The reference of a group is not among the objects.

    >>> placing_pixels([1, 2, 3], [1, 1, 3], [70, 80, 90], "keep_together").tolist()
    [70, 70, 90]
    """
    ids, reference, own = (np.asarray(values, dtype=np.int64) for values in (source_id, group_id, pixel))
    if rule == "report" or ids.size == 0:
        return own
    order = np.argsort(ids)
    place = np.minimum(np.searchsorted(ids, reference, sorter=order), ids.size - 1)
    found = order[place]
    if (ids[found] != reference).any():
        raise ValueError("a group_id is no source_id of the objects")
    return np.asarray(own[found])


def group_report(sample: pd.DataFrame) -> dict[str, int]:
    """How many groups there are, and what those that span splits hold.

    Parameters
    ----------
    sample
        ``group_id, split, label``.
    """
    grouped = sample.groupby("group_id")["split"].agg(["size", "nunique"])
    spanning = grouped.index[grouped["nunique"] > 1]
    inside = sample[sample["group_id"].isin(spanning)]
    return {
        "groups": len(grouped),
        "groups_of_several": int((grouped["size"] > 1).sum()),
        "groups_in_two_splits": len(spanning),
        "stamps_in_those_groups": len(inside),
        "lenses_in_those_groups": int((inside["label"] == 1).sum()),
        "largest_group": int(grouped["size"].max()) if len(grouped) else 0,
    }
