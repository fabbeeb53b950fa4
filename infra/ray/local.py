"""A Ray cluster of processes on this machine, for rehearsals: token on, loopback only, its own ports and folder (R-I2).

`ray stop` ends every Ray on a machine, other people's too; here exactly what was started is ended.
"""

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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from infra import processes
from infra.ray import auth, loopback_node
from infra.ray.dashboard import Dashboard, address_of
from lensdata import storage
from lensdata.errors import InputError

LOOPBACK = "127.0.0.1"
FOLDER = "runs/ray-local"
STATE_FILE = "cluster.json"
PATIENCE_S = 180.0
END_PATIENCE_S = 15.0
# Below the ports that systems give away (32768 on Linux), above those of other Rays' workers (10002 to 19999).
WORKER_PORTS = range(20000, 32000)
PORTS_PER_NODE = 100


@dataclass(frozen=True)
class NodeProcess:
    """`ray start --block` of one node, and when it began: a process id alone may be given to another later."""

    name: str
    pid: int
    began: str
    metrics_port: int
    log: str


@dataclass(frozen=True)
class LocalCluster:
    """Where the cluster is and what it is made of."""

    folder: str
    temp: str
    address: str
    dashboard: str
    token_path: str
    cpus: int
    nodes: list[NodeProcess] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """What a process needs to reach the cluster by its dashboard."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": self.token_path, "RAY_ADDRESS": self.dashboard}

    def ask(self) -> Dashboard:
        """Its dashboard, with its token."""
        return Dashboard(self.dashboard, Path(self.token_path).read_text())

    def join(self) -> list[str]:
        """The options of a node that joins it."""
        return [f"--address={self.address}"]


def start(folder: Path, nodes: int, cpus: int, dashboard_port: int | None = None) -> LocalCluster:
    """Start a head and further nodes, and wait until all of them are there.

    Parameters
    ----------
    folder
        Takes token, logs and the file by which the cluster is found again.
    nodes
        How many nodes there are, the head among them.
    cpus
        CPUs that each node offers; they may be more than the machine has.

    Raises
    ------
    InputError
        A cluster of this folder runs already, or a node did not start.
    """
    if nodes < 1 or cpus < 1:
        raise InputError(f"A cluster needs at least one node with one CPU, found --nodes {nodes} --cpus {cpus}.")
    folder = folder.resolve()
    if (folder / STATE_FILE).exists():
        if any(running(node) for node in load(folder).nodes):
            raise InputError(
                f"The cluster of {folder} runs already; end it with `lensdata ray down --folder {folder}`."
            )
        stop(folder)
    folder.mkdir(parents=True, exist_ok=True)
    auth.ensure_token(folder / "auth_token")
    port, dashboard = free_port(), dashboard_port or free_port()
    cluster = LocalCluster(
        str(folder),
        tempfile.mkdtemp(prefix="ray-"),  # Ray opens its own folder to everybody; this one around it is closed
        f"{LOOPBACK}:{port}", f"http://{LOOPBACK}:{dashboard}",
        str(folder / "auth_token"), cpus,
    )  # fmt: skip
    head = ["--head", f"--port={port}", "--dashboard-host", LOOPBACK, f"--dashboard-port={dashboard}",
            f"--ray-client-server-port={free_port()}"]  # fmt: skip
    _write_state(cluster)  # from here on `stop` knows what there is
    try:
        cluster = _with_node(cluster, head)
        _wait_for(cluster, cluster.nodes)
        for _ in range(nodes - 1):
            cluster = _with_node(cluster, cluster.join())
        _wait_for(cluster, cluster.nodes)
    except BaseException:
        stop(folder)
        raise
    return cluster


def add_node(cluster: LocalCluster) -> LocalCluster:
    """The cluster with one node more, as an autoscaler would start it."""
    cluster = _with_node(cluster, cluster.join())
    _wait_for(cluster, cluster.nodes[-1:])
    return cluster


def load(folder: Path) -> LocalCluster:
    """The cluster that was started in a folder.

    Raises
    ------
    InputError
        There is none.
    """
    file = folder / STATE_FILE
    if not file.exists():
        raise InputError(f"No local Ray cluster was started in {folder}; `lensdata ray up local` starts one.")
    values = json.loads(file.read_text())
    return LocalCluster(**values | {"nodes": [NodeProcess(**node) for node in values["nodes"]]})


def find(given: str | None) -> str:
    """The dashboard that is meant: the option, Ray's variables, the cluster of the usual folder, the end of a tunnel.

    Of the cluster of the usual folder the token is known, too, and Ray's variables are set to it; by its address as well,
    which is what our own messages name.
    """
    named = given or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    cluster = load(Path(FOLDER)) if (Path(FOLDER) / STATE_FILE).exists() else None
    if cluster and (named or cluster.dashboard).rstrip("/") == cluster.dashboard:
        os.environ |= cluster.environment()
        os.environ.pop("RAY_AUTH_TOKEN", None)
        return cluster.dashboard
    return address_of(named)


def running(node: NodeProcess) -> bool:
    """Whether this very process still runs."""
    return began(node.pid) == node.began


def stop(folder: Path) -> int:
    """End the nodes of the cluster in a folder, workers before the head; returns how many still ran."""
    cluster = load(folder.resolve())
    ended = 0
    for node in reversed(cluster.nodes):
        if running(node):
            ended += 1
            end_tree(node.pid)
    shutil.rmtree(cluster.temp, ignore_errors=True)
    (Path(cluster.folder) / STATE_FILE).unlink(missing_ok=True)
    return ended


def end_tree(pid: int, *, at_once: bool = False) -> None:
    """End a process and all under it: politely first, or as a machine that is lost."""
    tree = {each: began(each) for each in [pid, *descendants(pid)]}
    if not at_once:
        _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + END_PATIENCE_S
        while began(pid) and time.monotonic() < deadline:
            time.sleep(0.1)
    for each, since in tree.items():
        if since and began(each) == since:
            _signal(each, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    lines = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    children: dict[int, list[int]] = {}
    for line in lines.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found, waiting = [], [pid]
    while waiting:
        more = children.get(waiting.pop(), [])
        found += more
        waiting += more
    return found


def began(pid: int) -> str:
    """When a process began; empty for one that has ended."""
    shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, moment = shown.stdout.strip().partition(" ")
    return "" if state.startswith("Z") else moment.strip()


def free_port() -> int:
    """A port of the loopback that nobody listens at now."""
    with socket.socket() as server:
        server.bind((LOOPBACK, 0))
        port: int = server.getsockname()[1]
        return port


def _with_node(cluster: LocalCluster, options: list[str]) -> LocalCluster:
    name = f"node-{len(cluster.nodes)}" if cluster.nodes else "head"
    log, metrics_port, first = Path(cluster.folder) / f"{name}.log", free_port(), _worker_ports(cluster)
    command = [
        sys.executable, "-m", "infra.ray.loopback_node", "start", "--block", *options, f"--node-ip-address={LOOPBACK}",
        f"--num-cpus={cluster.cpus}", f"--temp-dir={cluster.temp}/{len(cluster.nodes)}", f"--metrics-export-port={metrics_port}",
        f"--dashboard-agent-listen-port={free_port()}", f"--min-worker-port={first}",
        f"--max-worker-port={first + PORTS_PER_NODE - 1}", "--disable-usage-stats", f"--node-name={name}",
    ]  # fmt: skip
    with log.open("ab") as handle:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=handle, stderr=subprocess.STDOUT, start_new_session=True,
            env=_node_environment(cluster, name),
        )  # fmt: skip
    try:
        node = NodeProcess(name, process.pid, began(process.pid), metrics_port, str(log))
        cluster = replace(cluster, nodes=[*cluster.nodes, node])
        _write_state(cluster)
    except BaseException:  # not on record, so that nobody else could end it
        process.kill()
        raise
    return cluster


def _write_state(cluster: LocalCluster) -> None:
    storage.write_json(str(Path(cluster.folder) / STATE_FILE), asdict(cluster))


def _node_environment(cluster: LocalCluster, name: str) -> dict[str, str]:
    """The token by its file, and this Python first on the path: jobs say ``python`` and mean the one Ray runs with."""
    mine = {key: value for key, value in os.environ.items() if key not in ("RAY_AUTH_TOKEN", "RAY_ADDRESS")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    settings = {"PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": cluster.token_path}
    return mine | loopback_node.ENVIRONMENT | settings


def _worker_ports(cluster: LocalCluster) -> int:
    """The first of a hundred ports of its own for a node's workers."""
    starts = list(WORKER_PORTS[::PORTS_PER_NODE])
    place = random.Random(cluster.temp).randrange(len(starts))  # noqa: S311 - to keep out of each other's way
    return starts[(place + len(cluster.nodes)) % len(starts)]


def _wait_for(cluster: LocalCluster, nodes: list[NodeProcess]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    wanted = {node.name for node in nodes}
    while True:
        for node in nodes:
            if not running(node):
                raise InputError(
                    f"The Ray node {node.name} ended at once: {processes.last_error(Path(node.log), 0, 3)}"
                )
        try:
            missing = wanted - {node.name for node in cluster.ask().nodes() if node.alive}
            reason = f"{', '.join(sorted(missing))} did not join (logs are in that folder)"
        except InputError as error:  # the dashboard is the last to come
            missing, reason = wanted, str(error)
        if not missing:
            return
        if time.monotonic() > deadline:
            raise InputError(f"The cluster in {cluster.folder} was not ready after {PATIENCE_S:.0f} s: {reason}")
        time.sleep(0.5)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
