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


class Rows:
    """Some rows of a block; a column is copied only when a rule asks for it, a row never as a whole."""

    def __init__(self, block: Block, index: npt.NDArray[np.int64] | None = None) -> None:
        self._block, self._index = block, index

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        column = self._block[name]
        return np.ascontiguousarray(column) if self._index is None else column[self._index]

    def __len__(self) -> int:
        return len(self._block) if self._index is None else len(self._index)


def is_galaxy(block: Rows, cuts: Cuts) -> Mask:
    """TYPE among the kept models, padded with blanks or not: a comparison that forgets them silently empties the pool."""
    types = block["TYPE"]
    width = types.dtype.itemsize
    names = {form for kind in cuts.types for form in (kind.encode(), kind.encode().ljust(width))}
    found = np.zeros(len(types), bool)
    for name in names:
        found |= types == name
    return found


def in_footprint(block: Rows, cuts: Cuts) -> Mask:
    """Declination strictly inside the footprint (the pole itself belongs to it)."""
    low, high = cuts.footprint.limits
    dec = block["DEC"]
    above = np.ones(len(block), bool) if low <= -90 else dec > low
    return np.asarray(above & (dec < high))


def _enough_exposures(band: str) -> Callable[[Rows, Cuts], Mask]:
    return lambda block, cuts: np.asarray(block[f"NOBS_{band}"] >= cuts.nobs_min)


def is_unmasked(block: Rows, cuts: Cuts) -> Mask:
    """None of the rejected MASKBITS."""
    return np.asarray((block["MASKBITS"] & cuts.maskbits) == 0)


def has_flux(block: Rows, cuts: Cuts) -> Mask:
    """FLUX_Z > 0: without it there is no magnitude (nan fails too)."""
    return np.asarray(block["FLUX_Z"] > 0)


def is_bright(block: Rows, cuts: Cuts) -> Mask:
    """z magnitude below the limit, dereddened where asked."""
    flux = block["FLUX_Z"].astype(np.float64)
    if cuts.dereddened:
        flux = flux / block["MW_TRANSMISSION_Z"].astype(np.float64)
    with np.errstate(invalid="ignore"):
        return magnitude(flux) < cuts.mag_z_max


RULES: tuple[tuple[str, Callable[[Rows, Cuts], Mask]], ...] = (
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
    index = np.flatnonzero(RULES[0][1](Rows(block), cuts))
    dropped = {RULES[0][0]: len(block) - len(index)}
    for name, rule in RULES[1:]:
        passed = rule(Rows(block, index), cuts)
        dropped[name] = int(len(index) - passed.sum())
        index = index[passed]
    return index, dropped
