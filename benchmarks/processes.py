"""Time and memory of a command with all the processes it starts (JVM, Python workers), on Linux."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

INTERVAL_S = 0.5


@dataclass(frozen=True)
class Measured:
    """What a command took; memory is the greatest sum of proportional set sizes, in which shared pages count once.

    CPU time says more than time on a machine with other work; it misses the last half second of a process.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    output: str

    def __str__(self) -> str:
        return f"{self.seconds:7.1f} s {self.cpu_seconds:7.1f} core-s {self.peak_bytes / 1e9:6.2f} GB"


def children() -> dict[int, list[int]]:
    """Processes by parent."""
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):  # it ended while we looked
                continue
            found.setdefault(parent, []).append(int(entry.name))
    return found


def look(root: int, cpu: dict[int, float]) -> int:
    """Proportional set size of a process and its descendants, bytes; puts the CPU seconds of each into ``cpu``."""
    tree, waiting, total = children(), [root], 0
    while waiting:
        process = waiting.pop()
        waiting += tree.get(process, [])
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            times = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
        except OSError:
            continue
        cpu[process] = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def measure(command: Sequence[str], environment: dict[str, str] | None = None) -> Measured:
    """Run a command to its end.

    Raises
    ------
    RuntimeError
        It failed; the message ends with what it printed last.
    """
    cpu: dict[int, float] = {}
    started, peak = time.perf_counter(), 0
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | (environment or {})
    )
    while True:
        peak = max(peak, look(running.pid, cpu))
        try:
            output, _ = running.communicate(timeout=INTERVAL_S)
            break
        except subprocess.TimeoutExpired:
            continue
    seconds = time.perf_counter() - started
    if running.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with {running.returncode}: {output[-2000:]}")
    return Measured(seconds, sum(cpu.values()), peak, output)
