"""Random numbers that depend on what they are for and on nothing else.

Everything is a hash of (seed, purpose, identity): no state, no order. A window of noise is therefore the same
numbers whether it is drawn alone or as part of a whole brick.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtri

from lensdata.hashing import splitmix64

FloatArray = npt.NDArray[np.float64]
UInt64Array = npt.NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LOW_32 = np.uint64(0xFFFFFFFF)


def key_of(seed: int, purpose: str) -> int:
    """A 64-bit key for one purpose of one seed."""
    return int(splitmix64(np.uint64(seed) ^ (np.uint64(zlib.crc32(purpose.encode())) << np.uint64(32))))


def hashed_bits(seed: int, purpose: str, identity: npt.ArrayLike) -> UInt64Array:
    """64 random bits for each identity (integers)."""
    ids = np.asarray(identity).astype(np.int64).view(np.uint64)
    return splitmix64(splitmix64(ids) ^ np.uint64(key_of(seed, purpose)))


def hashed_uniform(seed: int, purpose: str, identity: npt.ArrayLike) -> FloatArray:
    """Uniform in (0, 1), one per identity."""
    bits = hashed_bits(seed, purpose, identity) >> np.uint64(11)
    return np.asarray((bits.astype(np.float64) + 0.5) / 2**53)


def hashed_normal(seed: int, purpose: str, identity: npt.ArrayLike) -> FloatArray:
    """Standard normal, one per identity."""
    return np.asarray(ndtri(hashed_uniform(seed, purpose, identity)))


def generator(seed: int, purpose: str, identity: int = 0) -> np.random.Generator:
    """A numpy generator of its own for one purpose and identity."""
    return np.random.Generator(np.random.Philox(key=[key_of(seed, purpose), identity & (2**64 - 1)]))


class KeyedDraws:
    """Stands in for a numpy generator where the numbers of an object must not depend on which others are drawn with it.

    Every call is a purpose of its own, so the same calls in the same order give an object the same numbers.

    Examples
    --------
    >>> both = KeyedDraws(42, "arcs", [7, 8]).uniform(0, 1, 2)
    >>> bool(both[1] == KeyedDraws(42, "arcs", [8]).uniform(0, 1, 1)[0])
    True
    """

    def __init__(self, seed: int, purpose: str, identity: npt.ArrayLike) -> None:
        self._seed, self._purpose, self._calls = seed, purpose, 0
        self._identity = np.asarray(identity).astype(np.int64)

    def random(self, size: int) -> FloatArray:
        """Uniform in (0, 1); ``size`` is the number of objects, as everywhere here."""
        if size != len(self._identity):
            raise ValueError(f"{size} numbers for {len(self._identity)} objects")
        self._calls += 1
        return hashed_uniform(self._seed, f"{self._purpose}/{self._calls}", self._identity)

    def uniform(self, low: float, high: float, size: int) -> FloatArray:
        """Uniform between two limits."""
        return low + (high - low) * self.random(size)

    def standard_normal(self, size: int) -> FloatArray:
        """Standard normal."""
        return np.asarray(ndtri(self.random(size)))

    def beta(self, a: float, b: float, size: int) -> FloatArray:
        """Beta distributed in (0, 1)."""
        return np.asarray(betaincinv(a, b, self.random(size)))


def pixel_noise(key: int, y0: int, x0: int, height: int, width: int, row_length: int) -> FloatArray:
    """Standard normal noise of a window; a function of (key, y, x) alone.

    Each hash gives two 32-bit uniforms and by Box-Muller the values of an even pixel and its right neighbour.

    Parameters
    ----------
    key
        Names the noise field (seed, brick, band).
    y0, x0, height, width
        The window, pixels; it may reach outside the image.
    row_length
        Pixels per row of the whole image; even.

    Returns
    -------
    ndarray
        Shape (height, width).
    """
    first = x0 - x0 % 2
    pairs = (x0 + width - first + 1) // 2
    y = np.arange(y0, y0 + height, dtype=np.int64)[:, None]
    pair = np.arange(first // 2, first // 2 + pairs, dtype=np.int64)[None, :]
    counter = (y * (row_length // 2) + pair).view(np.uint64)
    with np.errstate(over="ignore"):
        bits = splitmix64(counter * _GOLDEN ^ np.uint64(key))
    radius = np.sqrt(-2 * np.log(((bits >> np.uint64(32)).astype(np.float64) + 0.5) / 2**32))
    angle = (bits & _LOW_32).astype(np.float64) * (2 * np.pi / 2**32)
    out = np.empty((height, 2 * pairs))
    out[:, 0::2] = radius * np.cos(angle)
    out[:, 1::2] = radius * np.sin(angle)
    return out[:, x0 - first : x0 - first + width]
