"""One place for a job's requests: tasks on any machine ask the driver for their turns (R-C2).

The driver runs a `Coordinator`; a task holds `RemoteTurns` to its address. A turn is a message of a few bytes each way over the
standard library's authenticated connections. When the driver dies, so do the connections, and no orphan asks the server on.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections import Counter
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from types import TracebackType
from typing import Any, Protocol

from lensdata.cutouts.pace import SLACK_S, Event, Pace, Turn
from lensdata.errors import InputError

log = logging.getLogger(__name__)
PATIENCE_S = 30.0  # for the driver's answer, which takes no time


class Stopped(Exception):
    """The job makes no more requests: the outage lasts too long, the time is over, or the driver is gone."""


class Turns(Protocol):
    """Where a client asks for its turns and says what became of its requests."""

    def turn(self) -> Turn:
        """The next turn."""

    def report(
        self, event: Event | None, retry_after_s: float | None, counts: dict[str, int], *, probe: bool = False
    ) -> None:
        """What became of a request (None: of none), and counts to add."""


def wait_for_turn(turns: Turns, deadline: float | None = None) -> bool:
    """Block until a request may be made now; True if it is a probe in an outage.

    A turn that is reached too late (the machine was busy) is not used, for late turns pile up to a burst.

    Parameters
    ----------
    deadline
        `time.monotonic` after which no turn is wanted.

    Raises
    ------
    Stopped
        No request may be made any more.
    """
    while True:
        turn = turns.turn()
        due = time.monotonic() + turn.wait_s
        if turn.verdict == "stop" or (deadline is not None and due > deadline):
            raise Stopped
        time.sleep(turn.wait_s)
        if turn.verdict == "probe":  # there is but one: late is better than lost
            return True
        if turn.verdict == "go" and time.monotonic() - due < SLACK_S / 2:
            return False


class LocalTurns:
    """Turns of a `Pace` in this process; safe between threads."""

    def __init__(self, pace: Pace) -> None:
        self.pace, self.counts = pace, Counter[str]()
        self._lock = threading.Lock()

    def turn(self) -> Turn:
        """The next turn."""
        with self._lock:
            return self.pace.turn(time.monotonic())

    def report(
        self, event: Event | None, retry_after_s: float | None, counts: dict[str, int], *, probe: bool = False
    ) -> None:
        """What became of a request (None: of none), and counts to add."""
        with self._lock:
            if event is not None:
                was_down = self.pace.down
                self.pace.report(time.monotonic(), event, retry_after_s, probe=probe)
                if self.pace.down != was_down:
                    log.warning("outage: %s", "no answers, waiting" if self.pace.down else "over, going on slowly")
            self.counts.update(counts)

    def totals(self) -> dict[str, int]:
        """All counts so far: those of the tasks and those of the pace."""
        with self._lock:
            return dict(self.counts) | dict(self.pace.counts)


class Coordinator:
    """Serves the turns of a `LocalTurns` to other processes; a context manager.

    Parameters
    ----------
    host, port
        Where others find it; port 0 takes a free one.
    bind
        Address to listen at, where that is another one (behind the bridge of a container).

    Attributes
    ----------
    address
        Host and port, for `RemoteTurns`.
    key
        Secret that a client must know.
    """

    def __init__(self, turns: LocalTurns, host: str = "127.0.0.1", port: int = 0, bind: str | None = None) -> None:
        self.turns = turns
        self.key = secrets.token_bytes(32)
        try:
            self._listener = Listener((bind or host, port), backlog=128)
        except OSError as error:
            raise InputError(
                f"The driver cannot listen at {bind or host}, port {port} ({error}); see execution.coordinator_port."
            ) from error
        address: Any = self._listener.address
        self.address: tuple[str, int] = (host, int(address[1]))
        self._closed = False

    def __enter__(self) -> Coordinator:
        threading.Thread(target=self._accept, name="coordinator", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._closed = True
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection = self._listener.accept()
            except OSError:  # it went away, or we are closing
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection[Any, Any]) -> None:
        try:
            # here and not in the thread that accepts: a stranger that says nothing must not keep others waiting
            deliver_challenge(connection, self.key)
            answer_challenge(connection, self.key)
            _send_at_once(connection)
            while not self._closed:
                message = connection.recv()
                if message is None:
                    connection.send(self.turns.turn())
                else:
                    event, retry_after_s, counts, probe = message
                    self.turns.report(event, retry_after_s, counts, probe=probe)
        except (OSError, EOFError, AuthenticationError):  # the task has ended, or is none of ours
            connection.close()


def _send_at_once(connection: Connection[Any, Any]) -> None:
    """Without this a report and the question behind it wait 40 ms for each other (Nagle's algorithm and delayed ACKs)."""
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        same.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class RemoteTurns:
    """The turns of a `Coordinator`, from another process; safe between threads.

    Attributes
    ----------
    lost
        The connection broke; a new one may find the driver again.
    """

    def __init__(self, address: tuple[str, int], key: bytes) -> None:
        self.lost = False
        self._connection = Client(address, authkey=key)
        _send_at_once(self._connection)
        self._lock = threading.Lock()

    def turn(self) -> Turn:
        """The next turn.

        Raises
        ------
        Stopped
            The driver is gone.
        """
        try:
            with self._lock:
                self._connection.send(None)
                if not self._connection.poll(PATIENCE_S):
                    raise EOFError
                answer: Turn = self._connection.recv()
        except (OSError, EOFError) as error:
            self.lost = True
            raise Stopped("the driver is gone") from error
        return answer

    def report(
        self, event: Event | None, retry_after_s: float | None, counts: dict[str, int], *, probe: bool = False
    ) -> None:
        """What became of a request (None: of none), and counts to add; nobody is told where the driver is gone."""
        try:
            with self._lock:
                self._connection.send((event, retry_after_s, counts, probe))
        except OSError:
            return
