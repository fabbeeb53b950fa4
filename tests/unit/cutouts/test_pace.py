"""The rate limit and the breaker of a job, on a clock of their own."""

from __future__ import annotations

import heapq
import socket
import threading
import time
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensdata.cutouts.coordinator import Coordinator, LocalTurns, RemoteTurns, Stopped, wait_for_turn
from lensdata.cutouts.pace import SLACK_S, Pace
from lensdata.errors import InputError


def new_pace(rate=20.0, *, now=0.0, resumed=False, outage_max_s=600.0):
    return Pace(rate, 60.0, outage_max_s, 30.0, now=now, resumed=resumed)


class Job:
    """Callers that ask for turns and make requests of ``latency_s``, on a simulated clock."""

    def __init__(self, pace, callers=32, latency_s=0.05, answer=lambda now, number: ("good", None)):
        self.pace, self.latency_s, self.answer = pace, latency_s, answer
        self.starts: list[float] = []
        self.probes: list[float] = []
        self.stopped = 0
        self._events = [(0.0, caller, "ask") for caller in range(callers)]
        heapq.heapify(self._events)

    def run(self, until):
        while self._events and self._events[0][0] < until:
            now, caller, what = heapq.heappop(self._events)
            if what == "ask":
                turn = self.pace.turn(now)
                if turn.verdict == "stop":
                    self.stopped += 1
                elif turn.verdict == "wait":
                    heapq.heappush(self._events, (now + turn.wait_s + 1e-6, caller, "ask"))
                else:
                    self.starts.append(now + turn.wait_s)
                    if turn.verdict == "probe":
                        self.probes.append(now)
                    heapq.heappush(self._events, (now + turn.wait_s + self.latency_s, caller, "answer"))
            else:
                self.pace.report(now, *self.answer(now, len(self.starts)))
                heapq.heappush(self._events, (now, caller, "ask"))
        return np.array(sorted(self.starts))


def most_in_any(starts, window_s):
    """Greatest number of starts in any window of that length."""
    best, inside = 0, deque()
    for at in starts:
        inside.append(at)
        while inside[0] <= at - window_s:
            inside.popleft()
        best = max(best, len(inside))
    return best


@pytest.mark.parametrize("rate", [0.86, 1.0, 5.0, 20.0, 333.3])
def test_the_rate_is_kept_in_any_ten_seconds_and_nearly_used(rate):
    starts = Job(new_pace(rate), callers=64).run(60.0)
    assert most_in_any(starts, 10.0) <= rate * 10
    assert len(starts) >= 0.9 * rate * 60


@given(
    st.lists(st.sampled_from(["good"] * 30 + ["busy", "error", "fault"]), min_size=50, max_size=300),
    st.floats(0.5, 50.0), st.integers(1, 40), st.floats(0.001, 2.0), st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_no_answers_ever_lead_above_the_rate(events, rate, callers, latency_s, resumed):
    def answer(now, number):
        event = events[number % len(events)]
        return event, 1.5 if event == "busy" else None

    starts = Job(new_pace(rate, resumed=resumed), callers, latency_s, answer).run(40.0)
    # a request may reach the server later than its turn by the slack, the next ones in time
    late = np.sort(starts + np.where(np.arange(len(starts)) % 7 == 0, 0.9 * SLACK_S, 0.0))
    assert most_in_any(late, 10.0) <= max(1, int(rate * 10 + 1e-9))


def test_a_named_wait_is_kept_by_all_and_caught_up_afterwards():
    def answer(now, number):
        return ("busy", 1.0) if number % 200 == 0 else ("good", None)

    job = Job(new_pace(20.0), answer=answer)
    starts = job.run(100.0)
    assert np.diff(starts).max() >= 0.7
    assert most_in_any(starts, 10.0) <= 200
    assert len(starts) >= 0.9 * 20 * 100


def test_an_outage_stops_the_requests_but_for_probes_and_ends_with_the_first_answer():
    def answer(now, number):
        return ("fault" if 30 <= now < 90 else "good"), None

    job = Job(new_pace(20.0), answer=answer)
    starts = job.run(150.0)
    during = starts[(starts >= 33) & (starts < 90)]
    assert len(during) <= 10
    assert np.all(np.diff(np.diff(job.probes)) > -1e-6)  # growing pauses
    after = starts[starts > 120]
    assert len(after) >= 0.9 * 20 * 30
    assert job.pace.counts["outages"] == 1


def test_only_one_probe_is_under_way_and_a_lost_one_is_replaced():
    pace = new_pace()
    for _ in range(20):
        pace.report(0.0, "fault")
    assert pace.turn(0.5).verdict == "wait"
    assert [pace.turn(1.1).verdict for _ in range(5)] == ["probe"] + ["wait"] * 4
    assert pace.turn(31.2).verdict == "probe"  # the first one's task was killed


def test_an_endless_outage_stops_the_job():
    job = Job(new_pace(outage_max_s=300.0), callers=4, answer=lambda now, number: ("fault", None))
    job.run(1000.0)
    assert job.stopped == 4


def test_a_few_faults_do_not_slow_the_job_and_many_refusals_do():
    few = Job(new_pace(), answer=lambda now, number: ("fault" if number % 20 == 0 else "good", None))
    few.run(30.0)
    assert few.pace.factor == 1
    many = Job(new_pace(), answer=lambda now, number: ("busy" if number % 3 == 0 else "good", 0.0))
    slowed = many.run(60.0)
    assert len(slowed) < 0.5 * 20 * 60


def test_a_resumed_job_counts_the_requests_of_the_one_before():
    first = Job(new_pace(20.0)).run(30.0)
    second = Job(new_pace(20.0, now=0.0, resumed=True)).run(30.0)
    both = np.concatenate([first, 30.0 + second])
    assert most_in_any(both, 10.0) <= 200


def test_a_coordinator_serves_many_processes_threads_and_refuses_strangers():
    turns = LocalTurns(Pace(400.0, 60.0, 600.0, 30.0, now=time.monotonic()))
    starts: list[float] = []
    with Coordinator(turns) as coordinator:
        clients = [RemoteTurns(coordinator.address, coordinator.key) for _ in range(3)]

        def work(client):
            for _ in range(20):
                wait_for_turn(client)
                starts.append(time.monotonic())
                client.report("good", None, {"requests": 1})

        threads = [threading.Thread(target=work, args=(client,)) for client in clients for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(starts) == 120
        assert max(starts) - min(starts) >= 0.8 * 119 / (1.25 * 400)
        with pytest.raises(Exception, match="digest"):
            RemoteTurns(coordinator.address, b"another key")
        deadline = time.monotonic() + 5
        while turns.totals().get("requests") != 120 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert turns.totals()["requests"] == 120
    clients[0].turn()  # the thread that serves us was waiting for this one, and ends
    with pytest.raises(Stopped):
        clients[0].turn()


def test_no_turn_is_waited_for_beyond_the_deadline():
    turns = LocalTurns(Pace(0.1, 60.0, 600.0, 30.0, now=time.monotonic()))
    wait_for_turn(turns)
    with pytest.raises(Stopped):
        wait_for_turn(turns, time.monotonic() + 0.5)


def test_a_single_connection_notices_an_outage_before_its_stamp_is_given_up():
    pace = new_pace()
    for number in range(5):
        assert not pace.down, number
        pace.report(float(number), "fault")
    assert pace.down


def test_an_answer_that_was_under_way_is_not_taken_for_the_probes():
    pace = new_pace()
    for _ in range(5):
        pace.report(0.0, "fault")
    assert pace.turn(1.1).verdict == "probe"
    pace.report(1.2, "fault")  # of before
    assert pace.turn(1.3) == pace.turn(1.3)
    assert pace.turn(1.3).verdict == "wait"
    pace.report(1.4, "fault", probe=True)
    assert pace.turn(2.0).wait_s == pytest.approx(1.4)  # two seconds from the probe's answer


def test_a_stranger_that_says_nothing_keeps_nobody_waiting():
    turns = LocalTurns(Pace(400.0, 60.0, 600.0, 30.0, now=time.monotonic()))
    with Coordinator(turns) as coordinator, socket.create_connection(coordinator.address):
        assert RemoteTurns(coordinator.address, coordinator.key).turn().verdict == "go"


def test_a_port_that_is_taken_is_told_with_its_key():
    turns = LocalTurns(Pace(400.0, 60.0, 600.0, 30.0, now=time.monotonic()))
    with Coordinator(turns) as first, pytest.raises(InputError, match=r"execution\.coordinator_port"):
        Coordinator(turns, port=first.address[1])
