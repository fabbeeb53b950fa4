"""``lensdata run --spark-on emr`` against a scripted EMR and moto: requests, states, failures, resuming (R-I1, R-I4)."""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from pathlib import Path

import boto3
import pytest
import s3fs
import yaml
from botocore.exceptions import ClientError, UnauthorizedSSOTokenError

from infra import cli
from infra.emr import watch
from lensdata import jobs, steps, storage
from tests.emr_endpoint import Fault, Result
from tests.emr_world import World, world

pytestmark = pytest.mark.slow

TOY = """
import sys
from lensdata import storage, steps
from lensdata.config.base import Config

class Settings(Config):
    content: str = "a"

FIRST = steps.Job("first", "toy_steps", "spark", Settings, "writes its content")
SECOND = steps.Job("second", "toy_steps", "spark", Settings, "reads another", ("upstream",))
HERE = steps.Job("here", "toy_steps", "python", Settings, "runs on this machine", ("upstream",))

def body(run):
    if run.config.content == "bad":
        raise steps.JobFailed("its content is bad")
    storage.write_bytes(run.path("made"), b"x")
    return steps.Outcome(1, run.config.content)

if __name__ == "__main__":
    job = SECOND if any(item.startswith("inputs.") for item in sys.argv) else FIRST
    sys.exit(steps.run_job(job, body, sys.argv[1:]))
"""


@pytest.fixture
def here(url, tmp_path, monkeypatch):
    """The account, toy jobs, and a pipeline file of three Spark steps with one that runs here between."""
    (tmp_path / "toy_steps.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    sys.modules.pop("toy_steps", None)
    toy = importlib.import_module("toy_steps")
    for job in (toy.FIRST, toy.SECOND, toy.HERE):
        monkeypatch.setitem(jobs.JOBS, job.name, job)
    monkeypatch.chdir(tmp_path)
    with world(url, tmp_path, Toy(toy)) as found:
        yield found


class Toy:
    """Runs a toy step in this process, from the command line EMR was given."""

    def __init__(self, module) -> None:
        self.module = module
        self.ran: list[str] = []
        self.lines: dict[str, list[str]] = {}

    def __call__(self, name: str, command: list[str], cluster: str) -> Result:
        self.ran.append(name)
        self.lines[name] = command
        if name == "preflight" or name.startswith("service-"):
            return Result(0)
        if command[0] == "bash":
            command = shlex.split(command[2].replace('"$(hostname -f)"', "127.0.0.1"))[1:]
        settings = storage.read_bytes(command[command.index("--files") + 1])
        config = Path("on-cluster") / name / command[command.index("--config") + 1]
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_bytes(settings)
        at = next(i for i, word in enumerate(command) if word.endswith(".py"))
        arguments = [str(config) if word == config.name else word for word in command[at + 1 :]]
        upstream = any(word.startswith("inputs.") for word in arguments)
        try:
            steps.run_request(
                steps.parse(self.module.SECOND if upstream else self.module.FIRST, arguments), self.module.body
            )
        except steps.JobFailed as error:
            said = {
                "application_1_0001/container_1_0001_01_000001/stderr": f"noise\nerror: {name} failed: {error}\nINFO stopped\n"
            }
            submit = "INFO Client: Submitted application application_1_0001\ndiagnostics: User application exited with status 1\n"
            return Result(1, stderr=submit, containers=said)
        return Result(0)


def pipeline(here: World, *, bad: str = "", whole: bool = False) -> Path:
    """one and two on a cluster; of the whole, three runs here and four on a cluster again."""
    entries = [
        {"name": "one", "run": "first"},
        {"name": "two", "run": "second", "inputs": {"upstream": "one"}},
        {"name": "three", "run": "here", "inputs": {"upstream": "two"}},
        {"name": "four", "run": "second", "inputs": {"upstream": "three"}},
    ][: 4 if whole else 2]
    for entry in entries:
        entry["overrides"] = {"content": "bad" if entry["name"] == bad else "a"}
    path = here.folder / "p.yaml"
    path.write_text(yaml.safe_dump({"name": "p", "steps": entries}))
    return path


def job_flows(here: World) -> list[dict]:
    return [given for name, given in here.emr.calls if name == "RunJobFlow"]


def names(request: dict) -> list[str]:
    return [step["Name"] for step in request["Steps"]]


@pytest.mark.slow
def test_spark_steps_run_on_clusters_and_the_others_here(here, capsys):
    assert here.run(pipeline(here, whole=True)) == 0
    shown = capsys.readouterr().out
    assert [names(request) for request in job_flows(here)] == [["preflight", "one", "two"], ["preflight", "four"]]
    assert "cluster j-TEST000000001 TERMINATED (ALL_STEPS_COMPLETED" in shown
    for name in ("one", "two", "three", "four"):
        assert storage.exists(f"{here.output}/{name}/_SUCCESS")
    assert here.run(pipeline(here, whole=True)) == 0  # all is done: AWS is not even asked for a cluster
    assert len(job_flows(here)) == 2
    assert "4/4] four done before, skipped" in capsys.readouterr().out


def test_the_request_has_roles_fleets_policies_tags_and_an_end(here):
    assert here.run(pipeline(here)) == 0
    request = job_flows(here)[0]
    assert (request["ServiceRole"], request["JobFlowRole"]) == ("lensdata-emr-service", "lensdata-emr-node")
    fleets = {fleet["InstanceFleetType"]: fleet for fleet in request["Instances"]["InstanceFleets"]}
    assert fleets["TASK"]["LaunchSpecifications"]["SpotSpecification"]["TimeoutAction"] == "SWITCH_TO_ON_DEMAND"
    assert "SpotSpecification" not in fleets["CORE"]["LaunchSpecifications"]
    assert request["Instances"]["KeepJobFlowAliveWhenNoSteps"] is False
    assert {step["ActionOnFailure"] for step in request["Steps"]} == {"TERMINATE_CLUSTER"}
    assert request["AutoTerminationPolicy"] == {"IdleTimeout": 900}
    assert request["SecurityConfiguration"] == "lensdata-emr"
    tags = {tag["Key"]: tag["Value"] for tag in request["Tags"]}
    assert tags["for-use-with-amazon-emr-managed-policies"] == "true"
    assert tags["lensdata-pipeline"] == "p"


def test_a_failed_step_ends_the_cluster_shows_its_log_and_the_next_run_begins_at_it(here, capsys):
    assert here.run(pipeline(here, bad="two")) == 1
    shown = capsys.readouterr().out
    assert "two failed: its content is bad" in shown
    assert "TERMINATED_WITH_ERRORS (STEP_FAILURE" in shown
    assert "resume  lensdata run" in shown
    assert "--spark-on emr" in shown
    log = next(line.split()[1] for line in shown.splitlines() if line.startswith("log "))
    assert "its content is bad" in Path(log).read_text()
    assert here.emr.runner.ran == ["preflight", "one", "two"]
    assert here.run(pipeline(here)) == 0
    assert names(job_flows(here)[1]) == ["preflight", "two"]
    assert "[1/2] one done before, skipped" in capsys.readouterr().out


def test_a_step_that_ends_without_output_is_not_believed(here, capsys):
    here.emr.ends["two"] = "COMPLETED"  # as if EMR lost what it wrote
    assert here.run(pipeline(here)) == 1
    assert "EMR says that two is done, but its output is not there" in capsys.readouterr().out


def test_a_lost_cluster_is_named_and_the_next_run_goes_on(here, capsys):
    here.emr.ends["two"] = "LOST"
    assert here.run(pipeline(here)) == 1
    shown = capsys.readouterr().out
    assert "INSTANCE_FAILURE: The master node was terminated: spot interruption" in shown
    assert "finished steps stand" in shown
    here.emr.ends.clear()
    assert here.run(pipeline(here)) == 0
    assert names(job_flows(here)[1]) == ["preflight", "two"]


def test_a_failed_preflight_of_the_executors_ends_the_cluster_before_any_step(here, capsys):
    here.emr.ends["preflight"] = "FAILED"
    here.emr.said["preflight"] = Result(1, stderr="error: ip-10-0-0-7 has pixels [1], expected [2]\n")
    assert here.run(pipeline(here)) == 1
    assert "ip-10-0-0-7 has pixels [1], expected [2]" in capsys.readouterr().out
    assert here.emr.runner.ran == []


def test_throttled_looks_are_missed_looks_and_a_throttled_start_is_repeated(here):
    here.emr.faults.extend(
        [Fault("RunJobFlow", "throttle"), Fault("DescribeCluster", "throttle"), Fault("ListSteps", "error")]
    )
    assert here.run(pipeline(here)) == 0
    assert not here.emr.faults
    assert len(here.emr.clusters) == 1


def test_a_start_whose_answer_was_lost_starts_no_second_cluster(here):
    here.emr.faults.append(Fault("RunJobFlow", "lost"))
    assert here.run(pipeline(here)) == 0
    assert [names(cluster.request) for cluster in here.emr.clusters.values()] == [["preflight", "one", "two"]]


def test_a_start_that_the_server_failed_is_repeated(here):
    here.emr.faults.append(Fault("RunJobFlow", "error"))
    assert here.run(pipeline(here)) == 0
    assert len(here.emr.clusters) == 1


def test_expired_credentials_leave_the_cluster_and_the_same_command_watches_it_again(here, capsys):
    here.emr.faults.append(Fault("ListSteps", "expired"))
    assert here.run(pipeline(here)) == 2
    assert "credentials expired while watching cluster j-TEST000000001" in capsys.readouterr().err
    assert here.run(pipeline(here)) == 0
    assert "cluster j-TEST000000001 of this run is at work: watching it" in capsys.readouterr().out
    assert len(here.emr.clusters) == 1


def test_a_login_that_expired_is_said_at_once_and_not_after_hours_of_missed_looks(here, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(watch, "look", lambda emr, cluster: (_ for _ in ()).throw(UnauthorizedSSOTokenError()))
        patch.setattr(watch, "MISSED_LOOKS", 1)
        assert here.run(pipeline(here)) == 2
    said = capsys.readouterr().err
    assert "missing or expired while watching cluster j-TEST000000001" in said
    assert "look missed" not in said
    assert "TerminateJobFlows" not in here.emr.operations()


def test_a_launcher_that_was_killed_finds_its_cluster_by_its_tag(here, capsys, monkeypatch):
    def killed(state):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(watch, "_end_if_old", lambda emr, state, config: killed(state))
        assert here.run(pipeline(here)) == 130
    assert "to end it now: lensdata emr terminate j-TEST000000001" in capsys.readouterr().out
    assert "TerminateJobFlows" not in here.emr.operations()
    assert here.run(pipeline(here)) == 0
    assert len(here.emr.clusters) == 1
    assert here.emr.runner.ran.count("one") == 1


def test_an_old_cluster_is_ended(here, capsys):
    here.change(max_hours=1e-9)
    assert here.run(pipeline(here)) == 2
    assert "more than max_hours" in capsys.readouterr().err
    assert here.emr.operations()[-1] == "TerminateJobFlows"


@pytest.mark.slow
def test_a_step_whose_input_is_made_anew_waits_for_it(here):
    """Whether two is to be repeated shows only when one is there: same content, so it is not."""
    assert here.run(pipeline(here)) == 0
    assert here.run(pipeline(here), "--force", "one") == 0
    assert [names(request) for request in job_flows(here)[1:]] == [["preflight", "one"]]
    assert "--force" in here.emr.runner.lines["one"]


def test_nobody_to_ask_and_no_yes_is_a_refusal(here, capsys):
    words = ["run", str(pipeline(here)), "--output", here.output, "--spark-on", "emr", "--emr", str(here.config)]
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert "add --yes" in captured.err
    assert "USD per hour" in captured.out
    assert here.emr.clusters == {}


def test_ctrl_d_at_the_question_means_no(here, capsys, monkeypatch):
    def ended(question):
        raise EOFError

    monkeypatch.setattr("builtins.input", ended)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    words = ["run", str(pipeline(here)), "--output", here.output, "--spark-on", "emr", "--emr", str(here.config)]
    assert cli.main(words) == 2
    assert "Nothing was started." in capsys.readouterr().err
    assert here.emr.clusters == {}


def test_an_output_on_this_machine_is_refused_and_not_made(here, capsys):
    here.output = str(here.folder / "out")
    assert here.run(pipeline(here)) == 2
    assert "give --output s3://" in capsys.readouterr().err
    assert not Path(here.output).exists()


@pytest.fixture
def logged_out(here, monkeypatch):
    """The account, and nobody who has credentials for it; clients that were made before know them still."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(here.folder / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for moment in ("before", "after"):
        storage._s3.cache_clear()
        s3fs.S3FileSystem.clear_instance_cache()
        if moment == "before":
            yield here


@pytest.mark.parametrize("words", [("--dry-run",), ()], ids=["dry run", "run"])
@pytest.mark.parametrize("profile", [None, "nobody"])
def test_who_is_not_logged_in_gets_a_sentence(logged_out, capsys, monkeypatch, words, profile):
    if profile:
        monkeypatch.setenv("AWS_PROFILE", profile)
    assert logged_out.run(pipeline(logged_out), *words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: AWS credentials are missing or expired while ")
    assert said.count("\n") == 1
    assert logged_out.emr.clusters == {}


def test_an_output_that_one_may_not_read_is_a_sentence(here, capsys, monkeypatch):
    def forbidden(uri):
        try:
            raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "HeadObject")
        except ClientError as error:
            raise PermissionError("Forbidden") from error  # as s3fs does

    monkeypatch.setattr(storage, "exists", forbidden)
    assert here.run(pipeline(here), "--dry-run") == 2
    assert "AWS refused permission while asking AWS: Forbidden" in capsys.readouterr().err


def test_a_defect_of_ours_keeps_its_trace(here, monkeypatch):
    def broken(uri):
        raise PermissionError("of a local file")

    monkeypatch.setattr(storage, "exists", broken)
    with pytest.raises(PermissionError):
        here.run(pipeline(here), "--dry-run")


def test_a_dry_run_prints_every_line_and_starts_nothing(here, capsys):
    assert here.run(pipeline(here, whole=True), "--dry-run") == 0
    shown = capsys.readouterr().out
    assert shown.count("spark-submit --master yarn --deploy-mode cluster") == 5  # two preflights and three steps
    assert "# three: not on a cluster" in shown
    assert "USD per hour" in shown
    assert here.emr.calls == []
    assert not storage.exists(here.output)


def test_a_dry_run_leaves_out_what_lies_before_from(here, capsys):
    assert here.run(pipeline(here, whole=True), "--dry-run", "--from", "four") == 0
    shown = capsys.readouterr().out
    assert "# one: before --from four" in shown
    assert shown.count("spark-submit --master yarn --deploy-mode cluster") == 2  # the preflight and four


@pytest.mark.slow
def test_submit_status_logs_and_terminate(here, capsys):
    path = str(pipeline(here, bad="one"))
    here.emr.hold = "one"
    assert here.emr_command("submit", path, "--output", here.output, "--yes") == 0
    for _ in range(6):
        assert here.emr_command("status", path, "--output", here.output) == 0
    assert "RUNNING     one" in capsys.readouterr().out
    assert here.emr_command("submit", path, "--output", here.output, "--yes") == 2
    assert "is at work" in capsys.readouterr().err
    here.emr.hold = None
    for _ in range(200):
        assert here.emr_command("status", path, "--output", here.output) == 0
        if "TERMINATED_WITH_ERRORS" in capsys.readouterr().out:
            break
    assert here.emr_command("logs", "j-TEST000000001") == 0
    assert "its content is bad" in capsys.readouterr().out
    assert here.emr_command("logs", "j-TEST000000001", "nothing") == 2
    assert "name one of preflight, one, two" in capsys.readouterr().err
    here.emr.hold = "one"
    assert here.emr_command("submit", path, "--output", here.output, "--yes") == 0
    assert here.emr_command("terminate", "j-TEST000000002") == 0
    assert here.emr.operations()[-1] == "TerminateJobFlows"


def test_the_endpoint_refuses_what_emr_would(here):
    client = boto3.client("emr")
    with pytest.raises(client.exceptions.ClientError, match="not valid"):
        client.describe_cluster(ClusterId="j-NONE")


def test_no_secret_travels(here):
    assert here.run(pipeline(here)) == 0
    sent = str(here.emr.calls)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "test"
    assert "SECRET" not in sent
    assert "ACCESS_KEY" not in sent
