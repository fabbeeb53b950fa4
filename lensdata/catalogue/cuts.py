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

    def __init__(self, block: Block, index: npt.NDArray[np.int64] | None = None, of: Rows | None = None) -> None:
        self._block, self._index = block, index
        self._columns: dict[str, npt.NDArray[Any]] = of._columns if of is not None else {}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """A column in native byte order; that of a whole block is kept, for several rules look at it."""
        if self._index is not None and name not in self._columns:
            return _native(self._block[name][self._index])
        if name not in self._columns:
            self._columns[name] = _native(self._block[name])
        column = self._columns[name]
        return column if self._index is None else column[self._index]

    def __len__(self) -> int:
        return len(self._block) if self._index is None else len(self._index)

    def rows(self) -> Block:
        """The rows themselves, copied: as plain bytes, for numpy copies structured rows field by field."""
        raw = self._block.view(f"V{self._block.itemsize}")
        return (raw.copy() if self._index is None else raw[self._index]).view(self._block.dtype)

    def take(self, index: npt.NDArray[np.int64]) -> Rows:
        """The rows of these numbers of the block."""
        return Rows(self._block, index, self)


def _native(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return column.astype(column.dtype.newbyteorder("="), order="C")


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
    return np.asarray((block["MASKBITS"].astype(np.int64) & cuts.maskbits) == 0)


def has_flux(block: Rows, cuts: Cuts) -> Mask:
    """FLUX_Z > 0 and finite: without it there is no magnitude (nan fails too)."""
    flux = block["FLUX_Z"]
    return np.asarray((flux > 0) & (flux < np.inf))


def is_bright(block: Rows, cuts: Cuts) -> Mask:
    """z magnitude below the limit, dereddened where asked; a row whose MW_TRANSMISSION_Z is not positive fails then."""
    flux = block["FLUX_Z"]
    if cuts.dereddened:
        transmission = block["MW_TRANSMISSION_Z"].astype(np.float64)
        flux = flux.astype(np.float64) / np.where(transmission > 0, transmission, np.nan)
    # most rows are fainter by far: only the others need a logarithm
    bright = np.asarray((flux > 10 ** (0.4 * (22.5 - cuts.mag_z_max)) * (1 - 1e-6)) & (flux < np.inf))
    some = np.flatnonzero(bright)
    bright[some] = magnitude(flux[some].astype(np.float64)) < cuts.mag_z_max
    return bright


# Flux first: it decides nearly all rows by one column. A row is counted under the first cut that it fails.
RULES: tuple[tuple[str, Callable[[Rows, Cuts], Mask]], ...] = (
    ("flux_z_not_positive", has_flux),
    ("mag_z", is_bright),
    ("type", is_galaxy),
    ("footprint", in_footprint),
    ("nobs_g", _enough_exposures("G")),
    ("nobs_r", _enough_exposures("R")),
    ("nobs_z", _enough_exposures("Z")),
    ("maskbits", is_unmasked),
)
KEPT, NEAR_LENS = "kept", "near_lens"
REASONS = tuple(name for name, _ in RULES)


def apply_cuts(block: Block | Rows, cuts: Cuts) -> tuple[npt.NDArray[np.int64], dict[str, int]]:
    """Rows that pass, and how many failed each cut first.

    Returns
    -------
    tuple
        (indices of passing rows, {reason: rows}); the counts and the passing rows add up to the block.
    """
    rows = block if isinstance(block, Rows) else Rows(block)
    index: npt.NDArray[np.int64] | None = None
    dropped: dict[str, int] = {}
    for name, rule in RULES:
        passed = rule(rows if index is None else rows.take(index), cuts)
        kept = np.flatnonzero(passed)
        dropped[name] = len(passed) - len(kept)
        if dropped[name]:
            index = kept if index is None else index[kept]
    return (np.arange(len(rows)) if index is None else index), dropped
