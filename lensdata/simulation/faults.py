"""What goes wrong at the simulated server, and when: decided by hash, so every run meets the same faults."""

from __future__ import annotations

import threading
import time
import zlib
from collections import Counter, deque
from enum import Enum

from lensdata.config.simulation import FaultsConfig
from lensdata.simulation.randomness import hashed_uniform


class Fault(Enum):
    """A fault of one request."""

    TOO_MANY = "429"
    UNAVAILABLE = "503"
    RESET = "reset"
    TRUNCATED = "truncated"
    PERMANENT = "permanent_500"


class FaultPlan:
    """Decides the fault of each request from (seed, what is asked for, how often it was asked for).

    The order in which other things are asked for does not matter; only the limit on the rate depends on the clock.
    """

    def __init__(self, config: FaultsConfig) -> None:
        self.config = config
        self._attempts: Counter[str] = Counter()
        self._recent: deque[float] = deque()
        self._lock = threading.Lock()

    def decide(self, target: str) -> Fault | None:
        """The fault of the next request for ``target`` (a position or a path), None if all is well."""
        with self._lock:
            attempt = self._attempts[target]
            self._attempts[target] += 1
            too_fast = self._over_limit(time.monotonic())
        if hashed_uniform(self.config.seed, "fault-permanent", zlib.crc32(target.encode())) < self.config.permanent_500:
            return Fault.PERMANENT
        if too_fast:
            return Fault.TOO_MANY
        chance = float(hashed_uniform(self.config.seed, f"fault-{attempt}", zlib.crc32(target.encode())))
        for fault, share in (
            (Fault.TOO_MANY, self.config.rate_429),
            (Fault.UNAVAILABLE, self.config.rate_503),
            (Fault.RESET, self.config.rate_reset),
            (Fault.TRUNCATED, self.config.rate_truncated),
        ):
            if chance < share:
                return fault
            chance -= share
        return None

    def _over_limit(self, now: float) -> bool:
        if not self.config.max_requests_per_s:
            return False
        while self._recent and self._recent[0] < now - 1:
            self._recent.popleft()
        if len(self._recent) >= self.config.max_requests_per_s:
            return True
        self._recent.append(now)
        return False
