"""What a running fetch shows: progress with rate and time left, and counters that Prometheus can read (R-C2)."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType

from lensdata import storage
from lensdata.cutouts.coordinator import LocalTurns
from lensdata.cutouts.outcome import EXCLUDED, FAILED, STORED
from lensdata.steps import progress

log = logging.getLogger(__name__)
EVERY_S = 3.0
SHOWN_EVERY = 10  # turns of the loop


class Watcher:
    """Reports while a job runs, and once more at its end; a context manager.

    Parameters
    ----------
    turns
        The job's turns, which know all counts.
    uri
        File for the counters, in Prometheus' text format (as its textfile collector reads it).
    before, total
        Stamps that were settled before, and all.
    """

    def __init__(self, turns: LocalTurns, uri: str, before: int, total: int) -> None:
        self.turns, self.uri, self.before, self.total = turns, uri, before, total
        self._started = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self.show()

    def _watch(self) -> None:
        rounds = 0
        while not self._stop.wait(EVERY_S):
            rounds += 1
            progress(self._settled(self.turns.totals()), self.total, "stamps")
            if rounds % SHOWN_EVERY == 0:
                self.show()

    def _settled(self, counts: dict[str, int]) -> int:
        new = sum(counts.get(name, 0) for name in (STORED, EXCLUDED, FAILED))
        return min(self.before + new, self.total)

    def show(self) -> None:
        """Log where the job stands, and write the counters."""
        counts = self.turns.totals()
        log.info(
            "%s", summary(counts, self._settled(counts), self.before, self.total, time.monotonic() - self._started)
        )
        try:
            storage.write_bytes(self.uri, prometheus(counts, self._settled(counts), self.total).encode())
        except OSError as error:  # counters are no reason to fail
            log.warning("%s cannot be written: %s", self.uri, error)


def summary(counts: dict[str, int], settled: int, before: int, total: int, seconds: float) -> str:
    """One line: outcomes, requests, rates and the time left at the present rate.

    >>> summary({"stored": 90, "excluded": 10, "requests": 120, "retries": 20}, 100, 0, 300, 50.0)
    'settled=100/300 stored=90 excluded=10 failed=0 requests=120 (2.4/s) retries=20 stamps=2.0/s left=0:01:40'
    """
    rate = (settled - before) / seconds if seconds else 0.0
    left = round((total - settled) / rate) if rate else None
    clock = "?" if left is None else f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
    outcomes = " ".join(f"{name}={counts.get(name, 0)}" for name in (STORED, EXCLUDED, FAILED))
    requests = counts.get("requests", 0)
    line = f"settled={settled}/{total} {outcomes} requests={requests} ({requests / max(seconds, 1e-9):.1f}/s)"
    line += f" retries={counts.get('retries', 0)} stamps={rate:.1f}/s left={clock}"
    if counts.get("outages"):
        line += f" outages={counts['outages']}"
    return line


def prometheus(counts: dict[str, int], settled: int, total: int) -> str:
    """Counters in Prometheus' text format.

    >>> print(prometheus({"stored": 3, "status_200": 3, "bytes": 9, "requests": 3}, 3, 4), end="")
    # TYPE lensdata_fetch_stamps gauge
    lensdata_fetch_stamps{state="settled"} 3
    lensdata_fetch_stamps{state="total"} 4
    # TYPE lensdata_fetch_events_total counter
    lensdata_fetch_events_total{event="bytes"} 9
    lensdata_fetch_events_total{event="requests"} 3
    lensdata_fetch_events_total{event="status_200"} 3
    lensdata_fetch_events_total{event="stored"} 3
    """
    lines = ["# TYPE lensdata_fetch_stamps gauge"]
    lines += [
        f'lensdata_fetch_stamps{{state="{name}"}} {value}' for name, value in (("settled", settled), ("total", total))
    ]
    lines.append("# TYPE lensdata_fetch_events_total counter")
    lines += [f'lensdata_fetch_events_total{{event="{name}"}} {value}' for name, value in sorted(counts.items())]
    return "\n".join(lines) + "\n"
