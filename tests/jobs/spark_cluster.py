"""A Spark standalone cluster of separate processes, as docker/compose.yaml starts it: a master and workers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SPARK_CLASS = shutil.which("spark-class", path=str(Path(sys.executable).parent)) or "spark-class"
MASTER, WORKER = (f"org.apache.spark.deploy.{name}" for name in ("master.Master", "worker.Worker"))
PATIENCE_S = 120


@dataclass
class Cluster:
    """Addresses and processes of a running cluster."""

    url: str
    folder: Path
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    worker_addresses: list[str] = field(default_factory=list)

    def submit(self, module: str, arguments: list[str], log: Path, *conf: str) -> subprocess.Popen[bytes]:
        """Start a job on the cluster by the command line that a user would type."""
        import importlib.util

        script = importlib.util.find_spec(module).origin
        settings = [item for entry in conf for item in ("--conf", entry)]
        command = [
            str(Path(sys.executable).with_name("spark-submit")),
            "--master",
            self.url,
            *settings,
            script,
            *arguments,
        ]
        with log.open("ab") as handle:
            return subprocess.Popen(command, stdout=handle, stderr=handle, env=environment(), start_new_session=True)

    def kill_worker(self, number: int) -> None:
        """SIGKILL a worker and the executors it started."""
        os.killpg(self.workers[number].pid, signal.SIGKILL)
        self.workers[number].wait()

    def executors(self) -> list[int]:
        """Process numbers of the running executors."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                command = (entry / "cmdline").read_bytes() if entry.name.isdecimal() else b""
            except OSError:  # it has just ended
                continue
            if b"CoarseGrainedExecutorBackend" in command and self._is_ours(command):
                found.append(int(entry.name))
        return sorted(found)

    def _is_ours(self, command: bytes) -> bool:
        return any(f"worker-url\0spark://Worker@{address}".encode() in command for address in self.worker_addresses)

    def executors_of(self, number: int) -> int:
        """Executors that a worker has started so far."""
        log = (self.folder / f"worker-{number}.log").read_text(errors="replace")
        return len(re.findall(r"Asked to launch executor", log))


def environment() -> dict[str, str]:
    """Executors run this interpreter; everything stays on the loopback interface."""
    return os.environ | {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}


def _start(name: str, folder: Path, arguments: list[str], pattern: str) -> tuple[subprocess.Popen[bytes], str]:
    log = folder / f"{name}.log"
    with log.open("wb") as handle:
        process = subprocess.Popen(
            [SPARK_CLASS, *arguments], stdout=handle, stderr=handle, env=environment(), start_new_session=True
        )
    deadline = time.monotonic() + PATIENCE_S
    while not (found := re.search(pattern, log.read_text(errors="replace"))):
        assert process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < deadline, log.read_text(errors="replace")
        time.sleep(0.1)
    return process, found[0]


@contextmanager
def spark_cluster(folder: Path, workers: int = 2, cores: int = 1, memory: str = "1g") -> Iterator[Cluster]:
    """A master and workers of so many cores and so much memory each, on free ports."""
    folder.mkdir(parents=True, exist_ok=True)
    started: list[subprocess.Popen[bytes]] = []
    try:
        arguments = [MASTER, "--host", "127.0.0.1", "--port", "0", "--webui-port", "0"]
        master, url = _start("master", folder, arguments, r"spark://127\.0\.0\.1:\d+")
        started.append(master)
        cluster = Cluster(url, folder)
        for number in range(workers):
            arguments = [
                WORKER,
                "--cores",
                str(cores),
                "--memory",
                memory,
                "--webui-port",
                "0",
                "--work-dir",
                str(folder / f"work-{number}"),
            ]
            worker, _ = _start(f"worker-{number}", folder, [*arguments, url], "Successfully registered with master")
            started.append(worker)
            log = (folder / f"worker-{number}.log").read_text(errors="replace")
            cluster.worker_addresses.append(re.search(r"Starting Spark worker (\S+) with", log)[1])
            cluster.workers.append(worker)
        yield cluster
    finally:
        for process in reversed(started):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
