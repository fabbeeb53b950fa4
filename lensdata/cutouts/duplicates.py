"""The same pixels under two keys: exact by pixel hash, nearly the same by a hash of the sky noise (R-S6).

A stamp that appears twice, once in training and once in test, is leakage, and no column of the catalogue shows it.
`noise_hash` turns the sky around the galaxy into 192 bits that noise decides: two stamps of other exposures differ in
half of them (96 +- 7, as fair coins do), the same exposures in a few, whatever was done to flux scale, sky level, number
format or the centre (an arc painted on a host changes nothing outside 20 pixels).

What it does not find: the same galaxy in other exposures, and stamps that were shifted, turned, mirrored or resampled.
The first two are found by their positions (`lensdata.sky.groups`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lensdata.sky.crossmatch import chord_to_arcsec, unit_vectors

BLOCK = 4  # pixels; a block's mean survives rounding and half-pixel edits, and 101 pixels have 25 of them
CORE = 0.2  # of the side: the galaxy and its arcs, 20 pixels of 101, are left out
BITS_PER_BAND = 64
MIN_SIDE = 64  # pixels; a smaller stamp has too little sky
LISTED = 50  # pairs named in a report
Hashes = npt.NDArray[np.uint8]


def noise_hash(stamps: npt.NDArray[Any]) -> Hashes:
    """64 bits per band: is the middle one of three neighbouring block means above the mean of the other two?

    Second differences, so that neither a sky gradient nor the halo of a large galaxy decides; sixty-four triples per band,
    none overlapping, evenly taken from those outside the core.

    Parameters
    ----------
    stamps
        (n, H, W, bands), sides of at least `MIN_SIDE` pixels; NaN counts as 0.

    Returns
    -------
    ndarray
        (n, 8 x bands) bytes.
    """
    count, height, width, bands = stamps.shape
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"a noise hash needs sides of at least {MIN_SIDE} pixels, found {height} x {width}")
    rows, columns = height // BLOCK, width // BLOCK // 3
    pixels = np.nan_to_num(stamps[:, : rows * BLOCK, : columns * 3 * BLOCK].astype(np.float32))
    blocks = pixels.reshape(count, rows, BLOCK, columns, 3, BLOCK, bands).mean(axis=(2, 5))
    bent = 2 * blocks[:, :, :, 1] - blocks[:, :, :, 0] - blocks[:, :, :, 2]
    sky = bent[:, _outside_core(height, width, rows, columns)]
    chosen = sky[:, np.linspace(0, sky.shape[1] - 1, BITS_PER_BAND).astype(int)]
    return np.packbits((chosen > 0).transpose(0, 2, 1).reshape(count, bands * BITS_PER_BAND), axis=1)


def _outside_core(height: int, width: int, rows: int, columns: int) -> npt.NDArray[np.bool_]:
    y = (np.arange(rows) + 0.5) * BLOCK - height / 2
    x = (np.arange(columns) + 0.5) * 3 * BLOCK - width / 2
    # a triple reaches 1.5 blocks from its centre along a row
    return np.asarray(np.hypot(y[:, None], x[None]) > CORE * min(height, width) + 2 * BLOCK)


def near_pairs(hashes: Hashes, max_bits: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All pairs of hashes that differ in at most ``max_bits`` bits, without comparing all.

    The bits are dealt to ``max_bits + 1`` hands; by the pigeonhole principle a pair that differs in at most ``max_bits``
    agrees wholly in one hand, so only hashes that share a hand are compared. Hashes of one value throughout (blank
    stamps) are left out.

    Returns
    -------
    tuple
        (pairs, shape (n, 2), first index below the second; bits that differ, shape (n,))

    >>> near_pairs(np.array([[1, 2], [1, 3], [254, 5]], np.uint8), 1)[0].tolist()
    [[0, 1]]
    """
    kept = np.flatnonzero((hashes != hashes[:, :1]).any(axis=1)) if len(hashes) else np.zeros(0, np.int64)
    bits = np.unpackbits(hashes[kept], axis=1)
    found: list[npt.NDArray[np.int64]] = []
    for hand in range(max_bits + 1):
        keys = np.packbits(bits[:, hand :: max_bits + 1], axis=1)
        _, key = np.unique(keys, axis=0, return_inverse=True)
        order = np.argsort(key, kind="stable")
        found += _same_key(hashes[kept], key.reshape(-1)[order], order, max_bits)
    pairs = np.unique(np.sort(np.concatenate(found), axis=1), axis=0) if found else np.zeros((0, 2), np.int64)
    pairs = kept[pairs]
    return pairs, _differing(hashes, pairs)


def _same_key(
    hashes: Hashes, key: npt.NDArray[np.int64], order: npt.NDArray[np.int64], max_bits: int
) -> list[npt.NDArray[np.int64]]:
    """Pairs within the limit among neighbours in key order, one lag after another until no key repeats so far apart."""
    out: list[npt.NDArray[np.int64]] = []
    first = np.arange(max(0, len(key) - 1))
    lag = 1
    while first.size:
        first = first[first + lag < len(key)]
        first = first[key[first] == key[first + lag]]
        pairs = np.stack([order[first], order[first + lag]], axis=1)
        out.append(pairs[_differing(hashes, pairs) <= max_bits])
        lag += 1
    return out


def _differing(hashes: Hashes, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.asarray(np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]]).sum(axis=1, dtype=np.int64))


def exact_duplicates(stamps: pd.DataFrame) -> dict[str, Any]:
    """Stamps whose pixels are those of another, by ``pixel_hash``.

    Parameters
    ----------
    stamps
        ``cutout_id, source_id, pixel_hash, split, label`` of stored stamps.
    """
    repeated = stamps[stamps["pixel_hash"].duplicated(keep=False)]
    splits = repeated.groupby("pixel_hash")["split"].transform("nunique")
    across = repeated[splits > 1].sort_values(["pixel_hash", "source_id"])
    return {
        "stamps": len(stamps),
        "pixels_of_several_stamps": int(repeated["pixel_hash"].nunique()),
        "stamps_with_shared_pixels": len(repeated),
        "stamps_across_splits": len(across),
        "across_splits": across[["pixel_hash", "source_id", "split", "label"]].head(LISTED).to_dict("records"),
    }


def near_duplicates(stamps: pd.DataFrame, hashes: Hashes, max_bits: int) -> dict[str, Any]:
    """Stamps of the same sky noise but not of equal pixels; the closest pairs across splits are named.

    Parameters
    ----------
    stamps
        ``source_id, pixel_hash, split, label, ra, dec``, in the order of ``hashes``.
    """
    pairs, bits = near_pairs(hashes, max_bits)
    one, two = (stamps.iloc[pairs[:, side]].reset_index(drop=True) for side in (0, 1))
    listed = pd.DataFrame({f"{name}_{side}": frame[name] for side, frame in ((1, one), (2, two))
                           for name in ("source_id", "split", "label")})  # fmt: skip
    apart = unit_vectors(one["ra"], one["dec"]) - unit_vectors(two["ra"], two["dec"])
    listed = listed.assign(
        bits=bits, separation_arcsec=chord_to_arcsec(np.linalg.norm(apart, axis=1)).round(2)
    )[(one["pixel_hash"] != two["pixel_hash"]).to_numpy()]  # fmt: skip
    across = listed[listed["split_1"] != listed["split_2"]].sort_values(["bits", "source_id_1", "source_id_2"])
    return {
        "searched": True,
        "stamps": len(stamps),
        "max_bits": max_bits,
        "pairs": len(listed),
        "pairs_of_both_labels": int((listed["label_1"] != listed["label_2"]).sum()),
        "pairs_across_splits": len(across),
        "across_splits": across.head(LISTED).to_dict("records"),
    }
