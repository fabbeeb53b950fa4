"""Submitting once, following, ending with the command's own code; on a cluster that is made up (R-I2, R-I4)."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from infra import cli
from infra.ray import auth, local, submit
from infra.ray.dashboard import Dashboard, address_of
from infra.ray.packing import pack
from lensdata.errors import InputError

ADDRESS = "http://127.0.0.1:8265"


@pytest.fixture
def files(tmp_path):
    """A training configuration that extends one in another folder."""
    (tmp_path / "conf" / "base").mkdir(parents=True)
    (tmp_path / "conf" / "base" / "all.yaml").write_text("epochs: 3\n")
    (tmp_path / "conf" / "mine.yaml").write_text("extends: base/all.yaml\nseed: 7\n")
    (tmp_path / "conf" / "notes.txt").write_text("not asked for\n")
    return tmp_path


def train(files, *more, output="run"):
    return ["train", "--config", str(files / "conf" / "mine.yaml"), "--output", str(files / output),
            f"inputs.manifest={files / 'manifest'}", *more]  # fmt: skip


# ---- what travels


def test_configuration_travels_with_what_it_extends_and_nothing_else(files):
    packed = pack(train(files))
    assert set(packed.files) == {"mine.yaml", "base/all.yaml"}
    assert packed.command[:5] == ("python", "-m", "ray_train.train", "--config", "mine.yaml")
    assert packed.root == files / "conf"
    assert packed.local_places() == [str(files / "manifest"), str(files / "run")]


def test_relative_places_become_absolute_and_stores_stay_what_they_are(files, monkeypatch):
    monkeypatch.chdir(files)
    packed = pack(["score", "--output", "s3://bucket/scores/", "inputs.run=runs/a", "inputs.manifest=s3://bucket/m"])
    assert packed.command[3:] == (
        "--output",
        "s3://bucket/scores",
        f"inputs.run={files}/runs/a",
        "inputs.manifest=s3://bucket/m",
    )
    assert packed.files == {}


def test_a_step_by_its_name_or_by_its_module_is_the_same_submission(files):
    by_module = pack([sys.executable, "-m", "ray_train.train", *train(files)[1:]])
    assert by_module == pack(train(files))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "nothing to submit"),
        (["extract_pool", "--output", "x"], "runs on Spark"),
        (["train", "--output", "x", "inputs.manifest=m", "epoch=3"], "did you mean 'epochs'"),
        (["score", "--output", "x"], "needs inputs.run"),
        (["trian", "--output", "x"], "There is no step trian; did you mean train?"),
        (["nvidia-smi"], "There is no step nvidia-smi; `lensdata ray submit -- COMMAND...`"),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(words, sentence, capsys):
    assert cli.main(["ray", "submit", "--address", "http://127.0.0.1:1", *words]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--cpus=-1", "--gpus=nan", "--gpus=inf", "--gpus=one"])
def test_amounts_that_no_machine_has_are_refused(option, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["ray", "submit", option, "--", "true"])
    assert ended.value.code == 2
    assert option.partition("=")[2] in capsys.readouterr().err


def test_the_key_follows_content_and_not_the_wish_to_replace(files):
    key = pack(train(files)).key()
    assert pack(train(files, "--force")).key() == key
    assert pack(train(files, "seed=8")).key() != key
    (files / "conf" / "base" / "all.yaml").write_text("epochs: 4\n")
    assert pack(train(files)).key() != key


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "db_password", "HF_TOKEN"])
def test_names_of_secrets_are_refused(files, name):
    with pytest.raises(InputError, match=f"{name} looks like a secret"):
        submit.Submission(pack(train(files)), environment={name: "x"})


def test_the_line_that_is_printed_is_one_that_ray_understands(files):
    from ray.dashboard.modules.job.cli import submit as ray_job_submit

    submission = submit.Submission(pack(train(files)), cpus=1, gpus=0.5, environment={"AWS_REGION": "eu-west-1"})
    words = shlex.split(submit.equivalent(submission, ADDRESS, "lensdata-train-1"))
    assert words[:3] == ["ray", "job", "submit"]
    understood = ray_job_submit.make_context("submit", words[3:]).params
    assert understood["entrypoint"] == submission.packed.command
    assert understood["working_dir"] == str(files / "conf")
    assert understood["entrypoint_num_gpus"] == 0.5
    variables = json.loads(understood["runtime_env_json"])["env_vars"]
    assert variables == {"RAY_TRAIN_ENABLE_STATE_TRACKING": "1", "PYTHONUNBUFFERED": "1", "AWS_REGION": "eu-west-1"}


# ---- a cluster that is made up


@dataclass
class Client:
    """The part of Ray's JobSubmissionClient that is used, over a list of jobs."""

    jobs: list[SimpleNamespace] = field(default_factory=list)
    pieces: list[list[str | Exception]] = field(default_factory=list)
    ends: list[tuple[str, int | None]] = field(default_factory=lambda: [("SUCCEEDED", 0)])
    sent: list[set[str]] = field(default_factory=list)

    def list_jobs(self):
        return self.jobs

    def submit_job(self, *, entrypoint, submission_id, runtime_env, metadata, **resources):
        if submission_id in [job.submission_id for job in self.jobs]:
            raise RuntimeError(f"Job with submission_id {submission_id} already exists.")
        folder = runtime_env.get("working_dir")
        self.sent.append({str(path.relative_to(folder)) for path in Path(folder).rglob("*.*")} if folder else set())
        job = SimpleNamespace(submission_id=submission_id, entrypoint=entrypoint, metadata=metadata, status=status("RUNNING"),
                              message="its reason", driver_exit_code=None, resources=resources)  # fmt: skip
        self.jobs.append(job)

    async def tail_job_logs(self, submission_id):
        for piece in self.pieces.pop(0) if self.pieces else []:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def get_job_info(self, submission_id):
        job = next((job for job in self.jobs if job.submission_id == submission_id), None)
        if job is None:
            raise RuntimeError("Request failed with status code 404: no such job.")
        value, job.driver_exit_code = self.ends[0]
        job.status = status(value)
        return job


def status(value):
    return SimpleNamespace(value=value, is_terminal=lambda: value in ("SUCCEEDED", "FAILED", "STOPPED"))


@pytest.fixture
def client(monkeypatch):
    made = Client()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setattr(submit, "LOST_PAUSE_S", 0)
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda address: made)
    monkeypatch.setattr(Dashboard, "version", lambda self: __import__("ray").__version__)
    monkeypatch.setattr(Dashboard, "total", lambda self, resource: 2.0)
    return made


def launch(packed, **more):
    """(exit code, what we say, what the job says)."""
    said, written = [], []
    code = submit.run(submit.Submission(packed, **more), ADDRESS, said.append, written.append)
    return code, "\n".join(said), "".join(written)


def test_a_job_gets_the_configuration_and_its_words_come_back(files, client):
    client.pieces = [["one\n", "two\n"]]
    code, said, written = launch(pack(train(files)))
    assert (code, written) == (0, "one\ntwo\n")
    assert client.sent == [{"mine.yaml", "base/all.yaml"}]
    assert said.startswith("$ ray job submit --address http://127.0.0.1:8265")
    assert f"{files / 'run'} must be the same disk on every node" in said


def test_a_launcher_that_comes_again_follows_the_job_that_runs(files, client):
    client.ends = [("RUNNING", None)]
    cluster = submit.Cluster(ADDRESS)
    first, new = cluster.submit(submit.Submission(pack(train(files))), lambda line: None)
    assert new
    client.ends = [("SUCCEEDED", 0)]
    client.pieces = [["from the beginning\n"]]
    code, said, written = launch(pack(train(files, "--force")))
    assert (code, written) == (0, "from the beginning\n")
    assert said == f"job {first} is at work on this already: following it"
    assert len(client.jobs) == 1


def test_two_launchers_at_the_same_moment_make_one_job(files, client, monkeypatch):
    cluster = submit.Cluster(ADDRESS)
    monkeypatch.setattr(
        cluster, "_attempts", lambda stem, seen=[]: (seen.append(1), client.jobs if len(seen) > 1 else [])[1]
    )
    stem = submit.Submission(pack(train(files))).stem()
    client.submit_job(
        entrypoint="x", submission_id=f"{stem}-1", runtime_env={}, metadata={submit.KEY: pack(train(files)).key()}
    )
    assert cluster.submit(submit.Submission(pack(train(files))), lambda line: None) == (f"{stem}-1", False)
    assert len(client.jobs) == 1


def test_another_configuration_for_an_output_at_work_is_refused(files, client):
    submit.Cluster(ADDRESS).submit(submit.Submission(pack(train(files))), lambda line: None)
    with pytest.raises(InputError, match=r"is at work on .*run with another command line or configuration"):
        launch(pack(train(files, "seed=8")))
    assert launch(pack(train(files, "seed=8", output="other")))[0] == 0


def test_after_it_ended_the_same_output_gets_a_new_job(files, client):
    for _ in range(2):
        launch(pack(train(files)))
    assert [job.submission_id[-2:] for job in client.jobs] == ["-1", "-2"]


def test_jobs_that_were_deleted_do_not_lend_their_number_again(files, client):
    for _ in range(2):
        launch(pack(train(files)))
    del client.jobs[0]
    launch(pack(train(files)))
    assert [job.submission_id[-2:] for job in client.jobs] == ["-2", "-3"]


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (("SUCCEEDED", 0), 0),
        (("FAILED", 2), 2),
        (("FAILED", 1), 1),
        (("FAILED", -9), 1),
        (("FAILED", None), 1),
        (("STOPPED", -15), 130),
    ],
)
def test_the_command_ends_as_the_job_did(files, client, end, code):
    client.ends = [end]
    found, said, _ = launch(pack(train(files)))
    assert found == code
    assert ("its reason" in said) == (end in [("FAILED", -9), ("FAILED", None)])


def test_a_lost_connection_is_taken_up_where_it_broke(files, client):
    client.pieces = [["epoch 1\nepo", ConnectionResetError()], [OSError()], ["epoch 1\n", "epoch 2\n", "epoch 3\n"]]
    code, said, written = launch(pack(train(files)))
    assert (code, written) == (0, "epoch 1\nepoch 2\nepoch 3\n")
    assert said.count("lost sight of job") == 1


def test_a_cluster_that_does_not_come_back_ends_the_following_with_a_sentence(files, client, monkeypatch):
    monkeypatch.setattr(submit, "LOST_PATIENCE_S", -1)
    client.pieces = [[ConnectionResetError()]]
    with pytest.raises(InputError, match="open the tunnel and give the same command again"):
        launch(pack(train(files)))


def test_a_job_that_a_new_head_does_not_know_is_not_waited_for(files, client):
    client.pieces = [["one\n", ConnectionResetError()]]
    cluster = submit.Cluster(ADDRESS)
    submission_id, _ = cluster.submit(submit.Submission(pack(train(files))), lambda line: None)
    with pytest.raises(InputError, match="knows no job"):
        cluster.follow(submission_id, lambda piece: client.jobs.clear(), lambda line: None)


def test_ctrl_c_leaves_the_job_and_says_how_to_stop_it(files, client):
    client.ends, client.pieces = [("RUNNING", None)], [["one\n", KeyboardInterrupt()]]
    said = []
    with pytest.raises(KeyboardInterrupt):
        submit.run(submit.Submission(pack(train(files))), ADDRESS, said.append, lambda piece: None)
    assert said[-1].startswith("  lensdata ray stop lensdata-train-")
    assert client.jobs[0].status.value == "RUNNING"


def test_a_step_that_computes_in_its_own_process_asks_for_a_gpu(files, client):
    launch(pack(["score", "--output", "s3://b/scores", "inputs.run=s3://b/run", "inputs.manifest=s3://b/m"]))
    launch(pack(train(files)))
    launch(pack(["score", "--output", "s3://b/more", "inputs.run=s3://b/run", "inputs.manifest=s3://b/m"]), gpus=0)
    assert [job.resources["entrypoint_num_gpus"] for job in client.jobs] == [1.0, None, 0]


def test_another_release_of_ray_is_refused(files, client, monkeypatch):
    monkeypatch.setattr(Dashboard, "version", lambda self: "2.9.3")
    with pytest.raises(InputError, match=r"runs Ray 2\.9\.3, this machine has"):
        launch(pack(train(files)))


# ---- who answers


@contextmanager
def answering(code, body=b"{}"):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words): ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize(("code", "sentence"), [(401, "refuses this token"), (500, "answered 500")])
def test_a_refusal_of_the_dashboard_is_a_sentence(monkeypatch, code, sentence):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    with answering(code) as address, pytest.raises(InputError, match=sentence):
        Dashboard(address).version()


def test_a_dashboard_that_nobody_serves_points_to_the_tunnel(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        with pytest.raises(InputError, match="and the tunnel open"):
            Dashboard(f"http://127.0.0.1:{taken.getsockname()[1]}").version()


def test_without_a_token_nothing_is_asked(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(InputError, match="There is no token for Ray"):
        Dashboard(ADDRESS).version()


@pytest.mark.parametrize("content", ["two\nlines", "two words", "Schlüssel"])
def test_what_cannot_be_a_token_is_not_sent(monkeypatch, tmp_path, content):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").write_text(content)
    with pytest.raises(InputError, match="not one line of letters and digits"):
        Dashboard(ADDRESS).version()


@pytest.mark.parametrize("given", [None, "http://127.0.0.1:4321", "http://127.0.0.1:4321/"])
def test_the_cluster_of_the_usual_folder_brings_its_token(monkeypatch, tmp_path, given):
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / local.FOLDER
    folder.mkdir(parents=True)
    (folder / "auth_token").write_text("its own")
    made = local.LocalCluster(str(folder), "temp", "a", "http://127.0.0.1:4321", str(folder / "auth_token"), 1)
    (folder / local.STATE_FILE).write_text(json.dumps(made, default=vars))

    assert local.find("http://127.0.0.1:8265") == "http://127.0.0.1:8265"
    assert auth.token() == "another"
    assert local.find(given) == made.dashboard
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == made.token_path
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_an_address_that_is_no_dashboards_is_refused():
    with pytest.raises(InputError, match="not the address of a Ray dashboard"):
        address_of("10.0.0.1:6379")


# ---- processes of this machine


def test_a_tree_of_processes_is_ended_and_nobody_else():
    bystander = subprocess.Popen(["sleep", "600"])
    root = subprocess.Popen(["sh", "-c", "sleep 600 & sleep 600 & wait"], start_new_session=True)
    while len(children := local.descendants(root.pid)) < 2:
        pass
    local.end_tree(root.pid, at_once=True)
    root.wait()
    assert [pid for pid in (root.pid, *children) if local.began(pid)] == []
    assert bystander.poll() is None
    bystander.kill()


def test_a_process_that_has_the_number_of_another_is_left_alone(tmp_path):
    other = subprocess.Popen(["sleep", "600"])
    node = local.NodeProcess("head", other.pid, "Thu Jan  1 00:00:00 1970", 1, "log")
    cluster = local.LocalCluster(str(tmp_path), str(tmp_path / "temp"), "a", "b", "c", 1, [node])
    (tmp_path / local.STATE_FILE).write_text(json.dumps(cluster, default=vars))
    assert local.load(tmp_path) == cluster
    assert local.stop(tmp_path) == 0
    assert other.poll() is None
    other.kill()


def test_a_start_that_is_interrupted_leaves_no_process_and_no_file(monkeypatch, tmp_path):
    started = []

    class Node(subprocess.Popen):
        def __init__(self, command, **more):
            super().__init__(["sleep", "600"], **more)
            started.append(self)

    def interrupted(pid):
        raise KeyboardInterrupt  # before the node is on record

    monkeypatch.setattr(local.subprocess, "Popen", Node)
    monkeypatch.setattr(local, "began", interrupted)
    monkeypatch.setattr(local.tempfile, "mkdtemp", lambda prefix: str(tmp_path / prefix))
    (tmp_path / "ray-").mkdir()
    with pytest.raises(KeyboardInterrupt):
        local.start(tmp_path / "cluster", 2, 1)
    [node] = started
    assert node.wait(10) < 0
    assert not (tmp_path / "ray-").exists()
    assert not (tmp_path / "cluster" / local.STATE_FILE).exists()


def test_a_folder_without_a_cluster_is_said_to_be_that(tmp_path, capsys):
    assert cli.main(["ray", "down", "--folder", str(tmp_path)]) == 2
    assert "No local Ray cluster was started in" in capsys.readouterr().err


def test_a_pipeline_goes_on_by_the_same_submission(files, capsys):
    step = {
        "name": "train",
        "run": "train",
        "config": str(files / "conf" / "mine.yaml"),
        "inputs": {"manifest": str(files / "conf")},
    }
    (files / "p.yaml").write_text(yaml.safe_dump({"name": "p", "steps": [step]}))
    words = ["run", str(files / "p.yaml"), "--output", str(files / "out"), "--dry-run", "--ray-on", ADDRESS]
    assert cli.main(words) == 0
    line = shlex.split(capsys.readouterr().out.splitlines()[-2])
    assert line[1:6] == ["ray", "submit", "--address", ADDRESS, "--"]
    assert set(pack(line[6:]).files) == {"mine.yaml", "base/all.yaml"}
