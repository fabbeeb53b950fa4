"""The polite client against a server that answers by script."""

from __future__ import annotations

import threading
import time

import pytest

from lensdata.config.cutouts import Server
from lensdata.cutouts.client import PoliteClient, Tally, require_reachable
from lensdata.cutouts.coordinator import LocalTurns, Stopped
from lensdata.cutouts.outcome import Rejected
from lensdata.cutouts.pace import Pace
from lensdata.errors import InputError


def client(rate=1000.0, **settings):
    server = Server(**{"backoff_s": 0.01, "max_attempts": 4, "contact": "a@b.org"} | settings)
    return PoliteClient(server, LocalTurns(Pace(rate, 60.0, 600.0, 30.0, now=time.monotonic())))


def body_of(answer):
    if answer.data == b"no":
        raise Rejected("no", permanent=False)
    return answer.data


OK = (200, {}, b"yes")


def test_an_answer_that_passes_ends_the_asking_and_all_is_counted(serve):
    url, seen = serve((503, {}, b"busy"), (200, {}, b"no"), (200, {"Content-Length": "9"}, b"cut"), OK)
    asking, tally = client(), Tally()
    assert asking.ask(url, body_of, tally) == b"yes"
    assert (tally.attempts, tally.status, tally.bytes) == (4, 200, 4 + 2 + 3)
    assert len(seen) == 4
    assert asking.turns.totals()["requests"] == 4
    assert "a@b.org" in seen[0][2]["User-Agent"]


@pytest.mark.parametrize(
    ("answer", "requests", "reason"),
    [
        ((404, {}, b""), 1, "http_404"),
        ((500, {}, b""), 3, "http_500"),
        ((503, {}, b""), 4, "http_503"),
        ((200, {}, b"no"), 4, "no"),
        ((302, {"Location": "/y"}, b""), 1, "http_302"),
    ],
)
def test_what_is_final_is_not_asked_again_and_what_may_pass_is_asked_a_limited_number_of_times(
    serve, answer, requests, reason
):
    url, seen = serve(answer)
    with pytest.raises(Rejected, match=reason):
        client().ask(url, body_of, Tally())
    assert len(seen) == requests


def test_everybody_waits_as_long_as_the_server_says(serve):
    url, seen = serve((429, {"Retry-After": "1"}, b""), OK)
    asking = client()
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(asking.ask(url, body_of, Tally()))) for _ in range(2)]
    threads[0].start()
    while not seen:
        time.sleep(0.005)
    time.sleep(0.05)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert answers == [b"yes", b"yes"]
    assert seen[1][0] - seen[0][0] >= 0.99
    assert len(seen) == 3


def test_after_the_deadline_nothing_is_asked(serve):
    url, seen = serve((503, {}, b""))
    with pytest.raises(Stopped):
        client(backoff_s=0.2, max_attempts=50).ask(url, body_of, Tally(), deadline=time.monotonic() + 0.3)
    asked = len(seen)
    time.sleep(0.3)
    assert len(seen) == asked < 20


def test_probes_in_an_outage_are_not_charged_to_the_stamp(serve):
    url, seen = serve((503, {}, b""), OK)
    asking = client(max_attempts=1)
    for _ in range(20):
        asking.turns.report("fault", None, {})
    tally = Tally()
    started = time.monotonic()
    assert asking.ask(url, body_of, tally) == b"yes"  # pauses of 1 and 2 s, no attempt charged
    assert tally.attempts == len(seen) == 2
    assert time.monotonic() - started > 2.9


def test_an_address_where_nobody_answers_is_refused_at_once():
    with pytest.raises(InputError, match=r"cannot be reached.*check service\.url"):
        require_reachable(Server(), "http://127.0.0.1:9/x", "service.url")
