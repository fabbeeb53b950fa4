"""Hard confusers, the categories of the N2 pool (R-S4).

A galaxy can satisfy several rules: all are kept as bits, and the primary category is the first that holds in the order
merger, ring, edge-on, blue, large.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lensdata.config.catalogue import BlueRule, Confusers, EdgeOnRule, LargeRule, RingRule
from lensdata.sky.crossmatch import SkyIndex

CATEGORIES = ("merger", "ring", "edge_on", "blue", "large")
BITS = {name: 1 << bit for bit, name in enumerate(CATEGORIES)}
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def is_ring(types: npt.NDArray[np.str_], flux_r: Floats, sersic: Floats, rule: RingRule) -> Mask:
    """FLUX_R > 5 nMgy and (DEV, or SER with SERSIC > 4)."""
    concentrated = (types == "DEV") | ((types == "SER") & (sersic > rule.sersic_min))
    return np.asarray((flux_r > rule.flux_r_min) & concentrated)


def is_edge_on(ellipticity: Floats, rule: EdgeOnRule) -> Mask:
    """1 - b/a > 0.50."""
    return ellipticity > rule.ellipticity_min


def is_blue(gr: Floats, mag_r: Floats, rule: BlueRule) -> Mask:
    """g - r < 0.4 and r < 20.5; galaxies without a magnitude are not blue."""
    return (gr < rule.gr_max) & (mag_r < rule.mag_r_max)


def is_large(shape_r: Floats, flux_r: Floats, rule: LargeRule) -> Mask:
    """SHAPE_R > 2 arcsec and FLUX_R > 3 nMgy."""
    return (shape_r > rule.shape_r_min_arcsec) & (flux_r > rule.flux_r_min)


def flags_without_merger(columns: dict[str, npt.NDArray[np.generic]], rules: Confusers) -> npt.NDArray[np.int32]:
    """Bits of the rules that look at one row.

    Parameters
    ----------
    columns
        ``type, flux_r, sersic, ellipticity, gr, mag_r, shape_r``; nan where null.
    """
    types = np.asarray(columns["type"]).astype(str)
    number = {
        name: np.asarray(columns[name], np.float64)
        for name in ("flux_r", "sersic", "ellipticity", "gr", "mag_r", "shape_r")
    }
    with np.errstate(invalid="ignore"):
        masks = {
            "ring": is_ring(types, number["flux_r"], number["sersic"], rules.ring),
            "edge_on": is_edge_on(number["ellipticity"], rules.edge_on),
            "blue": is_blue(number["gr"], number["mag_r"], rules.blue),
            "large": is_large(number["shape_r"], number["flux_r"], rules.large),
        }
    flags = np.zeros(len(types), np.int32)
    for name, mask in masks.items():
        flags |= np.where(mask, BITS[name], 0).astype(np.int32)
    return flags


def close_pairs(ra: Floats, dec: Floats, mag_r: Floats, radius_arcsec: float, difference_max: float) -> Mask:
    """Members of a pair within the radius and within ``difference_max`` in r."""
    pairs = SkyIndex(ra, dec).pairs(radius_arcsec)
    with np.errstate(invalid="ignore"):
        similar = np.abs(mag_r[pairs[:, 0]] - mag_r[pairs[:, 1]]) <= difference_max
    member = np.zeros(len(ra), bool)
    member[pairs[similar].ravel()] = True
    return member


def primary_index(flags: npt.NDArray[np.int32]) -> npt.NDArray[np.int8]:
    """Place in CATEGORIES of the first category in the order of precedence; -1 without a flag.

    >>> primary_index(np.array([0, 1, 2 | 8, 16], np.int32)).tolist()
    [-1, 0, 1, 4]
    """
    out = np.full(len(flags), -1, np.int8)
    for place in reversed(range(len(CATEGORIES))):
        out[(flags & (1 << place)) != 0] = place
    return out


def primary(flags: npt.NDArray[np.int32]) -> npt.NDArray[np.object_]:
    """First category in the order of precedence; None without a flag."""
    return np.array([*CATEGORIES, None], object)[primary_index(flags)]
