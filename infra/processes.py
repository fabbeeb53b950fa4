"""Starting a step or a service as a process, and following its log."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lensdata.errors import InputError

PROGRESS = re.compile(r"progress done=(\d+) total=(\d+) unit=(.+)$")
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Progress:
    """How far a step is."""

    done: int
    total: int
    unit: str


def _die_with_parent() -> None:
    """A step must not outlive a runner that was killed: the next run would meet it at work."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def start(
    command: list[str], log: Path, *, keep_open: tuple[int, ...] = (), environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a command with both outputs appended to a log file.

    Parameters
    ----------
    keep_open
        File descriptors the process inherits (the run's lock).
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as handle:
        handle.write(f"$ {' '.join(command)}\n".encode())
        handle.flush()
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=handle, stderr=subprocess.STDOUT, pass_fds=keep_open,
            env=os.environ | (environment or {}), preexec_fn=_die_with_parent,
        )  # fmt: skip


def follow(process: subprocess.Popen[bytes], log: Path, offset: int, seen: Callable[[Progress | None], None]) -> int:
    """Wait for a process while reading its log; ``seen`` gets each progress line, and None when there is none.

    Returns
    -------
    int
        The exit code.
    """
    with log.open("rb") as handle:
        handle.seek(offset)
        while True:
            ended = process.poll() is not None
            latest = None
            for line in _lines(handle.read()):
                found = PROGRESS.search(line)
                if found:
                    latest = Progress(int(found[1]), int(found[2]), found[3].strip())
            seen(latest)
            if ended:
                return int(process.returncode)
            time.sleep(0.3)


def _lines(data: bytes) -> Iterator[str]:
    yield from data.decode("utf-8", "replace").splitlines()


def last_error(log: Path, offset: int, lines: int = 12) -> str:
    """What a failed step said last: its ``error:`` sentence, or else the end of its log."""
    text = log.read_bytes()[offset:].decode("utf-8", "replace").splitlines()
    for line in reversed(text):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    return "\n".join(line for line in text[-lines:] if line.strip())


def stop(process: subprocess.Popen[bytes], patience_s: float = 15.0) -> None:
    """Ask a process to end, and end it where it does not."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for_file(path: Path, process: subprocess.Popen[bytes], log: Path, patience_s: float = 120.0) -> str:
    """The content of a file that a service writes when it is ready.

    Raises
    ------
    InputError
        The service ended or took too long.
    """
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().strip():
            return path.read_text().strip()
        if process.poll() is not None:
            raise InputError(f"The service ended at once: {last_error(log, 0)} (log: {log}).")
        time.sleep(0.1)
    raise InputError(f"The service was not ready after {patience_s:.0f} s; see {log}.")
