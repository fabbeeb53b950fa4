"""Stamps that share sky: friends of friends (R-S6)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from lensdata.sky.crossmatch import SkyIndex


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
