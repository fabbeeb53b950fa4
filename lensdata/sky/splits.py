"""Train, val and test by the hash of a HEALPix pixel (R-S6)."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lensdata.hashing import splitmix64
from lensdata.sky.healpix import NUM_PIXELS

SPLITS = ("train", "val", "test")


@lru_cache(maxsize=4)
def pixel_hashes(seed: int = 42) -> npt.NDArray[np.float64]:
    """SHA-256 of ``"{pixel}_{seed}"``, first four bytes, big-endian, over 2^32; shape (196608,).

    >>> round(float(pixel_hashes(42)[0]), 5)
    0.5219
    """
    words = b"".join(hashlib.sha256(f"{pixel}_{seed}".encode()).digest()[:4] for pixel in range(NUM_PIXELS))
    hashes = np.frombuffer(words, ">u4").astype(np.float64) / 2.0**32
    hashes.setflags(write=False)
    return hashes


def assign_splits(
    pixel: npt.ArrayLike, seed: int = 42, train_fraction: float = 0.70, val_fraction: float = 0.15
) -> npt.NDArray[np.str_]:
    """Split of each nside-128 NESTED pixel: hash < 0.70 train, < 0.85 val, else test."""
    values = pixel_hashes(seed)[np.asarray(pixel, dtype=np.int64)]
    # 0.70 + 0.15 is 0.85 in floating point as well; rounding guards other fractions
    edges = np.array([train_fraction, round(train_fraction + val_fraction, 12)])
    return np.array(SPLITS)[np.searchsorted(edges, values, side="right")]


def assign_folds(pixel: npt.ArrayLike, folds: int = 5, seed: int = 42) -> npt.NDArray[np.int8]:
    """Fold of each pixel, by a hash independent of the split's: objects of one pixel share a fold."""
    keys = splitmix64(np.asarray(pixel, dtype=np.int64).view(np.uint64) ^ splitmix64(np.uint64(seed + (1 << 32))))
    return (keys % np.uint64(folds)).astype(np.int8)
