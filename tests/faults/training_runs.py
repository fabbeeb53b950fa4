"""Training runs as processes of their own, Ray beside them, and what a run folder says when all is over."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from lensdata import storage, tables
from ray_train.core import state
from ray_train.run_folder import PARTIAL, RunFolder

ROOT = Path(__file__).parents[2]
PATIENCE_S = 600
WALL_CLOCK = {"seconds", "val_seconds", "images_per_second", "data_wait_seconds"}
SMALL = (
    "images.normalisation=identity", "model.arch=shielded_resnet", "model.preset=p4_c", "model.averaging=0.9",
    "batch.micro_batch=8", "batch.accumulation=2", "schedule.name=cosine", "optimizer.lr=3e-3",
    "checkpoints.every_steps=2", "checkpoints.keep_every=2", "execution.threads=1", "trackers.tensorboard=false",
)  # fmt: skip


def write_manifest(folder: Path, count: int = 300, size: int = 32) -> str:
    """Import stamps of noise, of which every third has a bright bar; returns the manifest's folder."""
    from lensdata.shards import importing

    noise = np.random.default_rng(1)
    images = noise.normal(size=(count, size, size, 3)).astype(np.float32)
    labels = (np.arange(count) % 3 == 0).astype(np.int8)
    images[labels == 1, size // 2 - 3 : size // 2 + 4, size // 2 + 3] += 2
    np.savez(folder / "arcs.npz", images=images, label=labels)
    line = ["--output", str(folder / "arcs"), f"inputs.stamps={folder / 'arcs.npz'}", "unit=other"]
    assert importing.main(line) == 0
    return str(folder / "arcs" / "manifest")


class TrainingProcess:
    """The training command in a process group of its own.

    Parameters
    ----------
    output, log
        Run folder (a path or ``s3://``), and the file that its words are added to.
    environment
        More environment variables.
    module
        Another command of `ray_train`, with settings of its own.
    """

    def __init__(
        self,
        output: str | Path,
        log: Path,
        *settings: str,
        environment: dict[str, str] | None = None,
        module: str = "ray_train.train",
    ) -> None:
        self.output, self._log, self._offset = str(output), log, log.stat().st_size if log.exists() else 0
        environment = environment or {}
        small = SMALL if module == "ray_train.train" else ()
        command = [sys.executable, "-m", module, "--output", self.output, *small, *settings]
        with log.open("ab") as handle:
            self._process = subprocess.Popen(
                command, stdout=handle, stderr=handle, cwd=ROOT, start_new_session=True, env=os.environ | environment
            )
        self.pid = self._process.pid

    @property
    def said(self) -> str:
        """What this process has written."""
        return self._log.read_bytes()[self._offset :].decode(errors="replace")

    def running(self) -> bool:
        """Whether it is still at work."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Its exit code."""
        return self._process.wait(PATIENCE_S)

    def wait_for_saves(self, count: int) -> None:
        """Until `count` more checkpoints, inside an epoch or at its end, were seen in the run folder."""
        seen, latest = 0, saves(self.output)

        def enough() -> bool:
            nonlocal seen, latest
            now = saves(self.output)
            seen, latest = seen + (now != latest), now
            return seen >= count

        self.wait_until(enough)

    def wait_until(self, condition: Callable[[], Any]) -> Any:
        """What the condition gives as soon as it gives something."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := condition()):
            self.require_running()
            assert time.monotonic() < deadline, self.said[-3000:]
            time.sleep(0.02)
        return found

    def wait_for_workers(self, count: int = 1, besides: Sequence[int] = (), under: int = 0) -> list[int]:
        """Until that many new workers of Ray Train are there, under this process or another one; returns them."""

        def new() -> list[int]:
            found = [pid for pid in train_workers(under or self.pid) if pid not in besides]
            return found if len(found) == count else []

        workers: list[int] = self.wait_until(new)
        return workers

    def require_running(self) -> None:
        """Fail where the run ended before it was to be killed."""
        assert self.running(), f"the run ended before it was killed:\n{self.said[-3000:]}"

    def kill(self, *, group: bool = True) -> None:
        """SIGKILL to the whole process group, or to the driver alone."""
        (os.killpg if group else os.kill)(self.pid, signal.SIGKILL)
        self._process.wait()


def saves(output: str) -> tuple[str | None, ...]:
    """What changes with every checkpoint: the versions of the one inside an epoch and of `last.json`."""
    folder = RunFolder(output)
    found: list[str | None] = []
    for uri in (folder.path("checkpoints", PARTIAL), folder.path("last.json")):
        try:
            found.append(str(storage.version(uri)))
        except Exception:  # not there, or replaced under our eyes
            found.append(None)
    return tuple(found)


def outcome(output: str | Path) -> dict[str, Any]:
    """Everything that must be the same in two equal runs: states, records without wall-clock figures, scores, names."""
    folder = RunFolder(str(output))
    states = {name: state.load(folder.checkpoint(name)) for name in ("best", "last")}
    scores = tables.read_table(folder.path("scores"), tables.SCORES).sort_by("cutout_id")
    lines = storage.read_bytes(folder.path("metrics.jsonl")).decode().splitlines()
    records = [json.loads(line) for line in lines]
    checkpoints = storage.list_files(folder.path("checkpoints"))
    return {
        "states": _flat(states),
        "records": [{key: value for key, value in record.items() if key not in WALL_CLOCK} for record in records],
        "scores": scores.drop_columns(["run_id"]).to_pydict(),
        "checkpoints": [uri.rsplit("/", 1)[-1] for uri in checkpoints],
        "health": storage.read_json(folder.path("health.json")),
        "files": _names_beside(folder),
    }


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Bit for bit."""
    for part in theirs:
        assert ours[part] == theirs[part], part


def weights(output: str | Path, name: str = "last") -> dict[str, torch.Tensor]:
    """The network's weights in a checkpoint."""
    saved: dict[str, dict[str, torch.Tensor]] = state.load(RunFolder(str(output)).checkpoint(name))
    return saved["model"]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested state as one dictionary of plain values; tensors as type, shape and bytes."""
    if isinstance(value, torch.Tensor):
        return {prefix: (str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes())}
    if isinstance(value, dict):
        return {key: leaf for name, part in value.items() for key, leaf in _flat(part, f"{prefix}.{name}").items()}
    return {prefix: value}


def _names_beside(folder: RunFolder) -> list[str]:
    """Files of a run other than checkpoints, relative to its folder."""
    names = {uri.removeprefix(folder.uri).lstrip("/") for uri in storage.list_files(folder.uri)}
    return sorted(name for name in names if not name.startswith("checkpoints/"))


# ---- processes


def descendants(pid: int) -> list[int]:
    """The processes that one has started, and those that these have."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def alive(pid: int) -> bool:
    """Whether a process still runs; one that nobody has waited for does not."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in "ZX"


def train_workers(pid: int) -> list[int]:
    """Ray Train's workers under a process."""
    return [child for child in descendants(pid) if "RayTrainWorker" in command_of(child)]


def command_of(pid: int) -> str:
    """The command line of a process (Ray gives its workers a title there); empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def wait_for_the_end_of(pids: list[int]) -> None:
    """Until none of these processes runs that could disturb another run.

    Ray's two agents of a node, which neither train nor hold anything, look for their head for a minute.
    """
    deadline = time.monotonic() + PATIENCE_S
    while left := {pid: title for pid in pids if alive(pid) and "agent" not in (title := command_of(pid)).lower()}:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _stat(pid: int) -> list[str]:
    """State, parent and what follows; empty where the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


# ---- a cluster of one machine


class RayHead:
    """`ray start --head` with ports, token and folder of its own; `environment` leads a driver to it."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.environment: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._folder = tempfile.mkdtemp(prefix="ray-")  # names of sockets in it must be short
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": random.Random().randbytes(32).hex()}
        self.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """A new head, on another port."""
        port, client_port = _free_port(), _free_port()
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}",
            f"--ray-client-server-port={client_port}", "--node-ip-address=127.0.0.1", "--num-cpus=2",
            "--include-dashboard=false", f"--temp-dir={self._folder}", "--disable-usage-stats",
        ]  # fmt: skip
        offset = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as handle:
            self._process = subprocess.Popen(
                command, stdout=handle, stderr=handle, start_new_session=True, env=os.environ | self.environment
            )
        self.pid = self._process.pid
        while b"--block" not in self._log.read_bytes()[offset:]:
            assert self._process.poll() is None, self._log.read_text()[-3000:]
            time.sleep(0.1)
        self.environment |= {"RAY_ADDRESS": f"127.0.0.1:{port}"}

    def kill(self) -> None:
        """SIGKILL to the head's two services, as when its machine is lost; `ray start --block` then ends by itself."""
        everyone = descendants(self.pid)
        for pid in everyone:
            if Path(command_of(pid).split(" ")[0]).name in ("gcs_server", "raylet"):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(PATIENCE_S)
        wait_for_the_end_of(everyone)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port
