"""When the next request may be made: the rate limit and the breaker of a whole job (R-C2).

One `Pace` serves all tasks of a job (`lensdata.cutouts.coordinator`), so its limit holds whatever the number of executors.
It knows no clock, no threads and no network: every call brings the time.

- **Rate**: never more than ``rate * 10`` requests in any 10 seconds. What a pause cost is caught up by a quarter more than
  the mean rate, within that bound.
- **Retry-After**: nobody asks before the time that the server named.
- **Slowing down**: where a quarter of the last answers was a refusal or an error, the rate is halved (down to a sixteenth) and
  grows again with good answers.
- **Breaker**: where half of the last answers, or five in a row, were none (no connection, timeout, cut off, 502-504), the job
  waits; one probe at a time, with growing pauses, finds out whether the server is back. An outage longer than ``outage_max_s``
  stops the job.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Literal

Event = Literal["good", "busy", "error", "fault"]
"""An answer that can be used or is final; 429; status 500; no answer, one that broke off, or 502-504."""
Verdict = Literal["go", "probe", "wait", "stop"]

WINDOW_S = 10.0
SLACK_S = 0.3  # a request may reach the server so much later than its turn and the limit still holds
CATCH_UP = 1.25  # of the mean rate, after a pause
CATCH_UP_S = 5.0  # of a pause are caught up, no more
HORIZON_S = 0.25  # turns are given out so far ahead, so that a pause finds few that are still to come
JUDGED = 40  # answers by which the rate is judged
SLOW_AT, OPEN_AT = 0.25, 0.5  # share of bad answers
OPEN_AFTER = 20  # answers, at least
OPEN_IN_A_ROW = 5  # faults, fewer than the attempts of a stamp: with one connection no stamp is lost to the onset
SLOWEST = 1 / 16
RECOVERY, RECOVERY_AFTER = 1.5, 20
FIRST_COOLDOWN_S = 1.0


@dataclass(frozen=True)
class Turn:
    """Leave to make one request ``wait_s`` from now (``go``, ``probe``), or to ask again then (``wait``), or no more (``stop``)."""

    verdict: Verdict
    wait_s: float = 0.0


class Pace:
    """The state of a job's requests.

    Parameters
    ----------
    rate
        Requests per second that must not be exceeded in any 10 seconds (or 1 / rate, where that is longer).
    cooldown_max_s
        Longest pause between two probes in an outage.
    outage_max_s
        An outage longer than this stops the job.
    probe_s
        A probe of which nothing was heard for so long is lost.
    now
        Time in seconds, on any clock that goes forward.
    resumed
        Another job may have asked at full rate until a moment ago: the limit holds over both.

    Examples
    --------
    >>> pace = Pace(2.0, 60.0, 1800.0, 60.0, now=0.0)
    >>> [pace.turn(now=0.0).verdict for _ in range(2)]
    ['go', 'wait']
    """

    def __init__(
        self,
        rate: float,
        cooldown_max_s: float,
        outage_max_s: float,
        probe_s: float,
        *,
        now: float,
        resumed: bool = False,
    ) -> None:
        self.window_s = max(WINDOW_S, 1 / rate)
        self.in_window = max(1, int(rate * self.window_s + 1e-9))
        self.mean_rate = self.in_window / (self.window_s + SLACK_S)
        self.cooldown_max_s, self.outage_max_s, self.probe_s = cooldown_max_s, outage_max_s, probe_s
        self.factor = 1.0
        self.given_up = False
        self.counts: Counter[str] = Counter()
        self._turns: deque[float] = deque(maxlen=self.in_window)
        if resumed:
            self._turns.extend(now - SLACK_S - (self.in_window - k) / self.mean_rate for k in range(self.in_window))
        self._due = now
        self._not_before = now
        self._recent: deque[Event] = deque(maxlen=JUDGED)  # since the rate was last changed
        self._faults: deque[bool] = deque(maxlen=JUDGED)  # since the last outage
        self._in_a_row = 0
        self._good = 0
        self._down_since: float | None = None
        self._cooldown_s = FIRST_COOLDOWN_S
        self._probe_at: float | None = None

    def named_wait_s(self, now: float) -> float:
        """How long the server still wants us to wait."""
        return max(0.0, self._not_before - now)

    @property
    def down(self) -> bool:
        """The breaker is open."""
        return self._down_since is not None

    def turn(self, now: float) -> Turn:
        """Whether, and when, a request may be made."""
        if self._down_since is not None:
            return self._turn_in_outage(now, self._down_since)
        rate = self.mean_rate * self.factor
        self._due = max(self._due, now - CATCH_UP_S)
        at = max(now, self._not_before, self._due)
        if self._turns:
            at = max(at, self._turns[-1] + 1 / (CATCH_UP * rate))
        if len(self._turns) == self.in_window:
            at = max(at, self._turns[0] + self.window_s + SLACK_S)
        if at - now > HORIZON_S:
            return Turn("wait", at - now)
        self._take(at, rate)
        return Turn("go", at - now)

    def _take(self, at: float, rate: float) -> None:
        self._turns.append(at)
        self._due += 1 / rate
        self.counts["turns"] += 1

    def _turn_in_outage(self, now: float, since: float) -> Turn:
        if now - since > self.outage_max_s:
            self.given_up = True
            return Turn("stop")
        if self._probe_at is not None and now - self._probe_at < self.probe_s:
            return Turn("wait", 1.0)
        if now < self._not_before:
            return Turn("wait", self._not_before - now)
        self._probe_at = now
        self._take(now, self.mean_rate)
        self.counts["probes"] += 1
        return Turn("probe")

    def report(self, now: float, event: Event, retry_after_s: float | None = None, *, probe: bool = False) -> None:
        """Take an answer into account; ``probe``: it is that of a probe."""
        self.counts[event] += 1
        if retry_after_s is not None:
            self._not_before = max(self._not_before, now + retry_after_s)
        if self._down_since is not None:
            self._report_in_outage(now, event, probe)
            return
        self._recent.append(event)
        self._faults.append(event == "fault")
        self._in_a_row = self._in_a_row + 1 if event == "fault" else 0
        half = len(self._faults) >= OPEN_AFTER and sum(self._faults) >= OPEN_AT * len(self._faults)
        bad = sum(entry != "good" for entry in self._recent)
        if half or self._in_a_row >= OPEN_IN_A_ROW:
            self._open(now)
        elif len(self._recent) >= OPEN_AFTER and bad >= SLOW_AT * len(self._recent):
            self.factor = max(SLOWEST, self.factor / 2)
            self.counts["slowed"] += 1
            self._start_anew(now)
        elif self.factor < 1:
            self._good += event == "good"
            if self._good >= RECOVERY_AFTER:
                self.factor, self._good = min(1.0, self.factor * RECOVERY), 0

    def _open(self, now: float) -> None:
        self._down_since, self._cooldown_s = now, FIRST_COOLDOWN_S
        self._not_before = max(self._not_before, now + self._cooldown_s)
        self._probe_at = None
        self.counts["outages"] += 1

    def _report_in_outage(self, now: float, event: Event, probe: bool) -> None:
        if event != "fault":  # somebody is there
            self._down_since, self._probe_at = None, None
            self._faults.clear()
            self._in_a_row = 0
            self.factor = max(SLOWEST, self.factor / 4)
            self._start_anew(now)
        elif probe:  # what was under way before it says no more
            self._probe_at = None
            self._cooldown_s = min(self.cooldown_max_s, 2 * self._cooldown_s)
            self._not_before = max(self._not_before, now + self._cooldown_s)

    def _start_anew(self, now: float) -> None:
        self._recent.clear()
        self._good = 0
        self._due = now
