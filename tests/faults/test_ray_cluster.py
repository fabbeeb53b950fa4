"""A Ray cluster of two nodes, each a tree of processes on this machine: jobs, a lost node, metrics, refusals (R-I2, R-T5)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import torch
import yaml

from infra.ray import local
from infra.ray.dashboard import Dashboard
from lensdata.errors import InputError
from ray_train.gauges import FIGURES
from ray_train.run_folder import RunFolder
from tests.faults.test_train_kills import TWO_WORKERS
from tests.faults.training_runs import PATIENCE_S, SMALL, TrainingProcess, saves, train_workers, weights, write_manifest
from tests.unit.ray_train.test_trial import TRAINING

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.ray]
EPOCHS = 24
METRICS_PATIENCE_S = 60
LOOPBACKS = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")  # of /proc/net/tcp*
SETTINGS = (*SMALL, *TWO_WORKERS, f"epochs={EPOCHS}")


@dataclass
class Rehearsal:
    """The cluster of this module, and the console command as its user types it."""

    folder: Path

    @property
    def cluster(self) -> local.LocalCluster:
        return local.load(self.folder / "cluster")

    def lensdata(self, *words: str, log: str = "log") -> subprocess.Popen[bytes]:
        """Start a command of the console in the module's folder."""
        with (self.folder / log).open("ab") as handle:
            return subprocess.Popen(
                [sys.executable, "-m", "infra.cli", *words], cwd=self.folder, stdout=handle, stderr=handle,
                env=os.environ | self.cluster.environment() | {"PYTHONPATH": str(Path(__file__).parents[2])},
            )  # fmt: skip

    def run(self, *words: str, log: str = "log") -> int:
        return self.lensdata(*words, log=log).wait(PATIENCE_S)

    def said(self, log: str = "log") -> str:
        return (self.folder / log).read_text()

    def wait_until(self, condition, process: subprocess.Popen[bytes], log: str = "log"):
        """What the condition gives as soon as it gives something, while the command is at work."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := condition()):
            assert process.poll() is None, self.said(log)[-3000:]
            assert time.monotonic() < deadline, self.said(log)[-3000:]
            time.sleep(0.1)
        return found


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_manifest(tmp_path_factory.mktemp("manifest"))


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """Two nodes of one CPU, so that two workers of a training are on both."""
    folder = tmp_path_factory.mktemp("rehearsal")
    before = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN")}
    cluster = local.start(folder / "cluster", nodes=2, cpus=1)
    os.environ |= {name: value for name, value in cluster.environment().items() if name != "RAY_ADDRESS"}
    yield Rehearsal(folder)
    if (folder / "cluster" / local.STATE_FILE).exists():
        local.stop(folder / "cluster")
    for name, value in before.items():
        os.environ.pop(name, None)
        os.environ |= {name: value} if value is not None else {}


@pytest.fixture(scope="module")
def trained(rehearsal, manifest):
    """A run of two workers on two nodes, whose launcher and one of whose nodes were killed; what was seen on the way."""
    (rehearsal.folder / "base.yaml").write_text("trackers: {tensorboard: false}\n")
    (rehearsal.folder / "run.yaml").write_text("extends: base.yaml\nexecution: {num_workers: 2, max_failures: 3}\n")
    words = [
        "ray",
        "submit",
        "train",
        "--config",
        "run.yaml",
        "--output",
        "run",
        f"inputs.manifest={manifest}",
        *SETTINGS,
    ]
    output, seen = str(rehearsal.folder / "run"), {}
    first = rehearsal.lensdata(*words)
    head, lost = rehearsal.cluster.nodes
    rehearsal.wait_until(lambda: RunFolder(output).records() if Path(output).exists() else [], first)
    seen["workers"] = [len(train_workers(node.pid)) for node in (head, lost)]
    local.end_tree(lost.pid, at_once=True)  # as when its machine is gone: two workers have no room until another comes
    seen["records_at_loss"] = len(RunFolder(output).records())
    first.kill()
    seen["refused"] = rehearsal.run(*words, "optimizer.lr=0.5", log="refused"), rehearsal.said("refused")
    again = rehearsal.lensdata(*words, log="again")
    rehearsal.wait_until(lambda: "following it" in rehearsal.said("again"), again, "again")
    seen["saves_before"] = saves(output)
    local.add_node(rehearsal.cluster)  # as an autoscaler does
    rehearsal.wait_until(lambda: saves(output) != seen["saves_before"], again, "again")
    seen["metrics"] = _metrics_with(rehearsal, "ray_val_auc")
    seen["code"] = again.wait(PATIENCE_S)
    return seen


def test_a_training_goes_on_when_one_of_its_nodes_is_lost(rehearsal, trained):
    assert trained["workers"] == [1, 1]
    assert trained["code"] == 0, rehearsal.said("again")[-5000:]
    assert trained["records_at_loss"] < EPOCHS
    folder = RunFolder(str(rehearsal.folder / "run"))
    assert [record["epoch"] for record in folder.records()] == list(range(EPOCHS))
    states = {node.name: node.alive for node in Dashboard(rehearsal.cluster.dashboard).nodes()}
    assert states == {"head": True, "node-1": False, "node-2": True}


def test_its_network_is_that_of_one_undisturbed_worker(rehearsal, trained, manifest, tmp_path):
    alone = TrainingProcess(tmp_path / "run", tmp_path / "log", f"inputs.manifest={manifest}", *SETTINGS,
                            "execution.runtime=local")  # fmt: skip
    assert alone.wait() == 0, alone.said[-5000:]
    ours, theirs = weights(rehearsal.folder / "run"), weights(tmp_path / "run")
    assert [name for name, value in theirs.items() if not torch.equal(ours[name], value)] == []


def test_a_launcher_that_was_killed_finds_its_job_and_does_not_submit_another(rehearsal, trained):
    assert "ray job submit" in rehearsal.said()
    assert "ray job submit" not in rehearsal.said("again")
    jobs = [job for job in Dashboard(rehearsal.cluster.dashboard).jobs() if "ray_train.train" in job.entrypoint]
    assert [job.status for job in jobs] == ["SUCCEEDED"]
    lines = re.findall(r"progress done=(\d+)", rehearsal.said("again"))
    assert lines == [str(epoch + 1) for epoch in range(EPOCHS)]


def test_another_command_line_for_an_output_at_work_is_refused(trained):
    code, said = trained["refused"]
    assert code == 2
    assert "with another command line or configuration" in said.splitlines()[-1]


def test_only_configuration_travels_and_nothing_secret_does(rehearsal, trained):
    [job] = [job for job in _jobs(rehearsal) if "ray_train.train" in job["entrypoint"]]
    assert "--config run.yaml " in job["entrypoint"]
    assert set(job["runtime_env"]) <= {"env_vars", "working_dir", "_ray_commit"}
    assert set(job["runtime_env"]["env_vars"]) == {"RAY_TRAIN_ENABLE_STATE_TRACKING", "PYTHONUNBUFFERED"}


def test_prometheus_finds_the_figures_of_the_run(rehearsal, trained):
    text = trained["metrics"]
    shown = {figure.prometheus_name for figure in FIGURES if f"\n{figure.prometheus_name}{{" in text}
    assert shown >= {"ray_train_loss", "ray_val_auc", "ray_images_per_second", "ray_epoch"}
    assert re.search(r'^ray_val_auc\{.*run="run".*\} 0\.\d+', text, re.MULTILINE)
    found = Path(rehearsal.cluster.temp, "0", "prom_metrics_service_discovery.json")
    targets = {target for entry in json.loads(found.read_text()) for target in entry["targets"]}
    alive = {f"127.0.0.1:{node.metrics_port}" for node in rehearsal.cluster.nodes if local.running(node)}
    assert len(alive) == 2
    assert alive <= targets


def test_the_dashboard_lists_the_run_with_its_workers_and_configuration(rehearsal, trained):
    [run] = Dashboard(rehearsal.cluster.dashboard).get("/api/train/v2/runs/v1")["train_runs"]
    assert run["status"] == "FINISHED"
    assert run["run_settings"]["train_loop_config"]["config"]["epochs"] == EPOCHS
    assert len(run["attempts"]) > 1


def test_score_and_tune_run_there_too(rehearsal, trained, manifest):
    words = ["ray", "submit", "--", "python", "-m", "ray_train.score", "--output", "scores", "inputs.run=run"]
    assert rehearsal.run(*words, f"inputs.manifest={manifest}", log="score") == 0, rehearsal.said("score")
    assert (rehearsal.folder / "scores" / "_SUCCESS").exists()
    study = {"axes": {"optimizer.lr": [3e-3, 1e-3]}, "seeds": [1], "training": TRAINING,
             "execution": {"concurrent": 2, "cpus_per_trial": 1}}  # fmt: skip
    (rehearsal.folder / "study.yaml").write_text(yaml.safe_dump(study))
    words = ["ray", "submit", "tune", "--config", "study.yaml", "--output", "study", f"inputs.manifest={manifest}"]
    assert rehearsal.run(*words, log="tune") == 0, rehearsal.said("tune")[-5000:]
    assert (rehearsal.folder / "study" / "_SUCCESS").exists()


@pytest.mark.parametrize("step", ["gates", "probe"])
def test_steps_beside_training_run_there_too(rehearsal, trained, manifest, step):
    run = ["inputs.run=run"] if step == "probe" else ["images.normalisation=identity"]
    words = ["ray", "submit", step, "--output", step, f"inputs.manifest={manifest}", *run]
    assert rehearsal.run(*words, log=f"{step}.log") == 0, rehearsal.said(f"{step}.log")[-5000:]
    assert (rehearsal.folder / step / "_SUCCESS").exists()


def test_the_doctor_sees_every_node_and_a_closed_door(rehearsal, trained):
    words = ["doctor", "--json", "--ray", rehearsal.cluster.dashboard]
    assert rehearsal.run(*words, log="doctor") in (0, 1)  # this machine's disk may be what fails
    findings = {one["what"]: one for one in json.loads(rehearsal.said("doctor"))}
    assert {name for name in findings if name.startswith("node ")} == {"node head", "node node-2"}
    for name in ("cluster", "cluster auth", "node head", "node node-2"):
        assert findings[name]["verdict"] == "OK", findings[name]


def test_a_pipeline_sends_its_ray_steps_there_and_shows_their_errors(rehearsal, trained, manifest):
    score = {"name": "again", "run": "score", "inputs": {"run": str(rehearsal.folder / "run"), "manifest": manifest}}
    wrong = {"name": "wrong", "run": "train", "inputs": {"manifest": manifest}, "overrides": {"images.crop": 63}}
    (rehearsal.folder / "p.yaml").write_text(yaml.safe_dump({"name": "p", "steps": [score, wrong]}))
    words = ["run", "p.yaml", "--output", "pipeline", "--ray-on", rehearsal.cluster.dashboard]
    assert rehearsal.run(*words, log="pipeline.log") == 2
    assert "[1/2] again done in" in rehearsal.said("pipeline.log")
    assert "a crop of 63 pixels does not fit" in rehearsal.said("pipeline.log")


def test_a_stopped_job_ends_its_launcher_as_interrupted(rehearsal):
    launcher = rehearsal.lensdata("ray", "submit", "--", "sleep", "600", log="sleep")
    dashboard = Dashboard(rehearsal.cluster.dashboard)
    [job] = rehearsal.wait_until(
        lambda: [job for job in dashboard.jobs() if job.entrypoint == "sleep 600" and job.status == "RUNNING"],
        launcher, "sleep",
    )  # fmt: skip
    assert rehearsal.run("ray", "stop", job.submission_id) == 0
    assert launcher.wait(PATIENCE_S) == 130


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}], ids=["no token", "wrong token"])
def test_who_has_no_token_neither_reads_nor_submits(rehearsal, headers):
    url = f"{rehearsal.cluster.dashboard}/api/jobs/"
    refused = {401, 403}
    assert requests.get(url, headers=headers, timeout=30).status_code in refused
    assert requests.post(url, headers=headers, json={"entrypoint": "true"}, timeout=30).status_code in refused


def test_a_wrong_token_is_said_in_a_sentence(rehearsal, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(InputError, match="refuses this token"):
        Dashboard(rehearsal.cluster.dashboard).nodes()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="sockets of processes are read from /proc")
def test_everything_listens_on_the_loopback_alone(rehearsal):
    nodes = [node.pid for node in rehearsal.cluster.nodes if local.running(node)]
    sockets = _listening({pid for node in nodes for pid in (node, *local.descendants(node))})
    ports = {int(port, 16) for _, port in sockets}
    metrics = {node.metrics_port for node in rehearsal.cluster.nodes if local.running(node)}
    assert metrics | {int(rehearsal.cluster.dashboard.rpartition(":")[2])} <= ports
    assert {address for address, _ in sockets} <= set(LOOPBACKS), sockets


def test_down_ends_the_nodes_of_its_cluster_and_nobody_elses(rehearsal):
    bystander = subprocess.Popen(["sleep", "600"])
    cluster = rehearsal.cluster
    trees = [pid for node in cluster.nodes for pid in (node.pid, *local.descendants(node.pid))]
    assert rehearsal.run("ray", "down", "--folder", str(rehearsal.folder / "cluster"), log="down") == 0
    assert "ended 2 nodes" in rehearsal.said("down")
    assert [pid for pid in trees if local.began(pid)] == []
    assert not Path(cluster.temp).exists()
    assert bystander.poll() is None
    bystander.kill()


def _jobs(rehearsal):
    return [job for job in Dashboard(rehearsal.cluster.dashboard).get("/api/jobs/") if job.get("submission_id")]


def _metrics_with(rehearsal, name: str) -> str:
    """What the nodes export, once a figure is among it: workers hand theirs over every ten seconds."""
    ports = [node.metrics_port for node in rehearsal.cluster.nodes if local.running(node)]
    deadline, text = time.monotonic() + METRICS_PATIENCE_S, ""
    while f"\n{name}{{" not in text and time.monotonic() < deadline:
        time.sleep(0.5)
        text = "\n".join(requests.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text for port in ports)
    return text


def _listening(pids: set[int]) -> set[tuple[str, str]]:
    """Address and port, as the kernel writes them, at which these processes listen."""
    sockets = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").glob("*") if Path(f"/proc/{pid}/fd").exists() else ():
            try:
                sockets |= set(re.findall(r"socket:\[(\d+)\]", str(entry.readlink())))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                address, _, port = fields[1].partition(":")
                found.add((address, port))
    return found
