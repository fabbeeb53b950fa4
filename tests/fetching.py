"""A sample to fetch stamps for, a server in a process of its own, and what its access log tells."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np
import pyarrow as pa

from lensdata import tables
from lensdata.simulation import survey as survey_job
from lensdata.simulation.sky import bricks_at

TINY = Path(__file__).parents[1] / "configs" / "simulation" / "tiny.yaml"
PATIENCE_S = 120
# Latency 50 ms, 2% 503, 1% resets, 1% truncated, 0.5% 429 with Retry-After, 0.2% that never come.
FAULTS = {
    "latency_s": 0.05, "rate_503": 0.02, "rate_reset": 0.01, "rate_truncated": 0.01, "rate_429": 0.005,
    "retry_after_s": 1.0, "permanent_500": 0.002,
}  # fmt: skip


def write_survey(folder: Path) -> Path:
    """The tiny simulated survey; returns its folder."""
    assert survey_job.main(["--config", str(TINY), "--output", str(folder), "inputs.lenses=lenscat"]) == 0
    return folder


def write_sample(folder: Path, count: int, *, seed: int = 0, bricks: int | None = None) -> Path:
    """A sample of ``count`` positions in the tiny survey, anywhere or in that many bricks; returns its folder."""
    rng = np.random.default_rng(seed)
    if bricks is None:
        ra, dec = rng.uniform(12.05, 21.95, count), rng.uniform(-6.95, -1.05, count)
    else:
        chosen = bricks_at(rng.uniform(13, 21, bricks), rng.uniform(-6, -2, bricks))
        which = rng.integers(0, bricks, count)
        ra = rng.uniform(chosen.ra1[which], chosen.ra2[which])
        dec = rng.uniform(chosen.dec1[which], chosen.dec2[which])
    found = bricks_at(ra, dec)
    columns = {name: pa.nulls(count, tables.SAMPLE.schema.field(name).type) for name in tables.SAMPLE.names}
    columns |= {
        "source_id": pa.array(10_000 + rng.permutation(count)), "ra": pa.array(ra), "dec": pa.array(dec),
        "brickname": pa.array(found.name), "brickid": pa.array(found.brickid, pa.int32()),
        "label": pa.array(np.arange(count) % 10 == 0, pa.int8()),
    }  # fmt: skip
    tables.write_table(pa.table(columns), str(folder), tables.SAMPLE)
    return folder


class ServerProcess:
    """The simulated server as a process that can be killed and started again on its port."""

    def __init__(self, survey: Path, folder: Path, **faults: float) -> None:
        self.survey, self.folder, self.faults = survey, folder, faults
        self.log, self.port = folder / "access.jsonl", 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        port_file = self.folder / "port"
        port_file.unlink(missing_ok=True)
        settings = [f"{name}={value}" for name, value in self.faults.items()]
        command = [
            sys.executable, "-m", "lensdata.simulation.server", "--survey", str(self.survey), "--port", str(self.port),
            "--port-file", str(port_file), "--access-log", str(self.log), "--cache", str(self.folder / "cache"),
            *(["--faults", *settings] if settings else []),
        ]  # fmt: skip
        with (self.folder / "server.log").open("ab") as handle:
            self.process = subprocess.Popen(command, stdout=handle, stderr=handle)
        deadline = time.monotonic() + PATIENCE_S
        while not port_file.exists():
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.port = int(port_file.read_text())

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def requests(self) -> list[dict]:
        """Lines of the access log; one that a kill cut short is left out."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def most_in_any(times: list[float], window_s: float) -> int:
    """Greatest number of events in any window of that length."""
    best, inside = 0, deque()
    for at in sorted(times):
        inside.append(at)
        while inside[0] <= at - window_s:
            inside.popleft()
        best = max(best, len(inside))
    return best
