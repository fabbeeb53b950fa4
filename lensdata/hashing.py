"""Identities and keyed hashes of galaxies and stamps (docs/architecture.md, section 3)."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

OBJID_BITS, BRICKID_BITS, RELEASE_BITS = 22, 20, 16
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def splitmix64(values: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """The splitmix64 finaliser: a bijection of 64-bit integers, so distinct keys never tie.

    Source: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators".

    >>> int(splitmix64(0))
    16294208416658607535
    """
    with np.errstate(over="ignore"):
        x = np.asarray(values).astype(np.uint64, copy=False) + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * _MIX_1
        x = (x ^ (x >> np.uint64(27))) * _MIX_2
        return np.asarray(x ^ (x >> np.uint64(31)), dtype=np.uint64)


def pack_source_id(release: npt.ArrayLike, brickid: npt.ArrayLike, objid: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """RELEASE << 42 | BRICKID << 22 | OBJID, the packing of DESI's TARGETID.

    Raises
    ------
    ValueError
        A number does not fit its bits (16, 20, 22).

    >>> int(pack_source_id(10000, 331368, 12)) == (10000 << 42) | (331368 << 22) | 12
    True
    """
    parts = [np.asarray(part, dtype=np.int64) for part in (release, brickid, objid)]
    for part, bits, name in zip(
        parts, (RELEASE_BITS, BRICKID_BITS, OBJID_BITS), ("RELEASE", "BRICKID", "OBJID"), strict=True
    ):
        if part.size and (part.min() < 0 or part.max() >= 1 << bits):
            raise ValueError(f"{name} outside 0..{(1 << bits) - 1}: {part.min()}..{part.max()}")
    return (parts[0] << (BRICKID_BITS + OBJID_BITS)) | (parts[1] << OBJID_BITS) | parts[2]


def unpack_source_id(source_id: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], ...]:
    """RELEASE, BRICKID and OBJID of a source_id."""
    packed = np.asarray(source_id, dtype=np.int64)
    return (
        packed >> (BRICKID_BITS + OBJID_BITS),
        (packed >> OBJID_BITS) & ((1 << BRICKID_BITS) - 1),
        packed & ((1 << OBJID_BITS) - 1),
    )


def sampling_key(source_id: npt.ArrayLike, seed: int) -> npt.NDArray[np.int64]:
    """The order in which galaxies are sampled: a keyed bijection of source_id, as signed int64 (R-S5)."""
    ids = np.asarray(source_id, dtype=np.int64).view(np.uint64)
    return splitmix64(ids ^ splitmix64(np.uint64(seed))).view(np.int64)


def second_key(identifier: npt.ArrayLike, seed: int, purpose: str) -> npt.NDArray[np.int64]:
    """An order of objects for any later choice: independent of `sampling_key` and of the orders for other purposes.

    The negatives of a sample are those with the smallest sampling keys of their stratum. Whoever takes the smallest of these
    once more takes the strata with the largest pools, whatever the sample holds of each.

    >>> bool((second_key([1, 2, 3], 42, "shards") == second_key([1, 2, 3], 42, "gate")).any())
    False
    """
    salt = np.frombuffer(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), np.uint64)[0]
    ids = np.asarray(identifier, dtype=np.int64).view(np.uint64)
    return splitmix64(splitmix64(ids ^ salt) ^ splitmix64(np.uint64(seed))).view(np.int64)


KIND_CODES = {"plain": 0, "control": 1, "injection": 2}


def cutout_id(source_id: npt.ArrayLike, kind: str = "plain", ordinal: npt.ArrayLike = 0) -> npt.NDArray[np.int64]:
    """Key of a stamp: the source_id itself, or a negative hash of (source_id, kind, ordinal).

    Negative, so that no control or injection can meet a plain stamp. ``ordinal`` is one for all, or one each.
    """
    ids = np.atleast_1d(np.asarray(source_id, dtype=np.int64))
    if kind == "plain":
        return ids
    salt = splitmix64(np.uint64(KIND_CODES[kind])) ^ splitmix64(splitmix64(np.asarray(ordinal)))
    mixed = splitmix64(ids.view(np.uint64) ^ salt)
    return (mixed | np.uint64(1 << 63)).view(np.int64)


def text_hash(text: str, digits: int = 16) -> str:
    """BLAKE2b of a text, hexadecimal."""
    return hashlib.blake2b(text.encode(), digest_size=digits // 2).hexdigest()


def pixel_hash(pixels: npt.NDArray[np.generic]) -> str:
    """BLAKE2b of an array's bytes in C order, 32 hex digits."""
    return hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16).hexdigest()
