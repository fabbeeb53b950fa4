"""The cuts of the negative pool as small named rules on sweep columns (R-S1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lensdata.catalogue.strata import magnitude
from lensdata.config.catalogue import Cuts

Block = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


def types_of(block: Block) -> npt.NDArray[np.bytes_]:
    """TYPE without padding, as bytes. Comparing a padded or differently typed column silently empties the pool."""
    return np.char.strip(block["TYPE"])


def is_galaxy(block: Block, cuts: Cuts) -> Mask:
    """TYPE among the kept models."""
    return np.asarray(np.isin(types_of(block), np.array([kind.encode() for kind in cuts.types])))


def in_footprint(block: Block, cuts: Cuts) -> Mask:
    """Declination strictly inside the footprint (the pole itself belongs to it)."""
    low, high = cuts.footprint.limits
    dec = block["DEC"]
    above = np.ones(len(block), bool) if low <= -90 else dec > low
    return np.asarray(above & (dec < high))


def _enough_exposures(band: str) -> Callable[[Block, Cuts], Mask]:
    return lambda block, cuts: np.asarray(block[f"NOBS_{band}"] >= cuts.nobs_min)


def is_unmasked(block: Block, cuts: Cuts) -> Mask:
    """None of the rejected MASKBITS."""
    return np.asarray((block["MASKBITS"] & cuts.maskbits) == 0)


def has_flux(block: Block, cuts: Cuts) -> Mask:
    """FLUX_Z > 0: without it there is no magnitude (nan fails too)."""
    return np.asarray(block["FLUX_Z"] > 0)


def is_bright(block: Block, cuts: Cuts) -> Mask:
    """z magnitude below the limit, dereddened where asked."""
    flux = block["FLUX_Z"].astype(np.float64)
    if cuts.dereddened:
        flux = flux / block["MW_TRANSMISSION_Z"].astype(np.float64)
    with np.errstate(invalid="ignore"):
        return magnitude(flux) < cuts.mag_z_max


RULES: tuple[tuple[str, Callable[[Block, Cuts], Mask]], ...] = (
    ("type", is_galaxy),
    ("footprint", in_footprint),
    ("nobs_g", _enough_exposures("G")),
    ("nobs_r", _enough_exposures("R")),
    ("nobs_z", _enough_exposures("Z")),
    ("maskbits", is_unmasked),
    ("flux_z_not_positive", has_flux),
    ("mag_z", is_bright),
)
KEPT, NEAR_LENS = "kept", "near_lens"
REASONS = tuple(name for name, _ in RULES)


def apply_cuts(block: Block, cuts: Cuts) -> tuple[npt.NDArray[np.int64], dict[str, int]]:
    """Rows that pass, and how many failed each cut first.

    Returns
    -------
    tuple
        (indices of passing rows, {reason: rows}); the counts and the passing rows add up to the block.
    """
    index = np.arange(len(block))
    dropped: dict[str, int] = {}
    for name, rule in RULES:
        passed = rule(block[index], cuts) if len(index) < len(block) else rule(block, cuts)
        dropped[name] = int(len(index) - passed.sum())
        index = index[passed]
    return index, dropped
