"""Archives, uploads, command lines, the request, checks before a start, costs, the CloudFormation stack (R-I1, R-I5)."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import botocore.session
import pytest
import yaml
from botocore.exceptions import ClientError, ProfileNotFound, SSOTokenLoadError, UnauthorizedSSOTokenError
from botocore.stub import Stubber

from infra import pipeline as pipelines
from infra.emr import archive, aws, commands, cost, preflight, request, upload
from infra.emr.archive import Archive
from lensdata import jobs, steps, storage
from lensdata.config.base import config_hash, load_config
from lensdata.config.emr import Dependencies, EmrConfig
from lensdata.errors import InputError
from lensdata.simulation import server
from tests.emr_endpoint import EmrEndpoint, Fault
from tests.emr_world import BUCKET, SHIPPED, world

CONFIGS = Path(__file__).parents[3] / "configs"
GOLDEN = Path(__file__).with_name("emr_run_job_flow.json")
STACK = Path(commands.__file__).with_name("stack.yaml")


@pytest.fixture
def here(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with world(url, tmp_path, fresh=True) as found:
        yield found


@pytest.fixture
def config() -> EmrConfig:
    return load_config(EmrConfig, SHIPPED)


@pytest.fixture
def demo():
    options = pipelines.Options("s3://lensdata-example/runs/demo", "emr")
    return pipelines.Pipeline.load(str(CONFIGS / "pipelines" / "demo.yaml"), options)


def file_of(folder: Path, content: bytes = b"content") -> Archive:
    path = folder / "some.bin"
    path.write_bytes(content)
    return Archive.of(path)


# ---------------------------------------------------------------------- archives


def test_equal_files_make_equal_archives_whenever_and_wherever_they_are_packed(tmp_path):
    made = []
    for number, folder in enumerate(("a", "b")):
        root = tmp_path / folder / "root"
        (root / "package").mkdir(parents=True)
        for name in ("z.py", "a.py") if number else ("a.py", "z.py"):
            (root / "package" / name).write_text(name)
        (root / "package" / "__pycache__").mkdir()
        (root / "package" / "__pycache__" / "a.pyc").write_text(folder)
        os.utime(root / "package" / "a.py", (1_000_000 * (number + 1),) * 2)
        made.append(archive.pack(root, ["package"], tmp_path / folder / "code.tar.gz"))
    assert made[0].sha256 == made[1].sha256
    (tmp_path / "b" / "root" / "package" / "a.py").write_text("other")
    assert archive.pack(tmp_path / "b" / "root", ["package"], tmp_path / "c.tar.gz").sha256 != made[0].sha256


def test_the_code_imports_from_its_archive_alone(tmp_path):
    import tarfile

    packed = archive.pack_code(tmp_path)
    with tarfile.open(packed.path) as tar:
        tar.extractall(tmp_path / "code", filter="data")
    text = "import lensdata.simulation.facts, spark_jobs; print(lensdata.__file__, spark_jobs.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "code")}
    shown = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
    )
    assert all(word.startswith(str(tmp_path / "code")) for word in shown.stdout.split())
    assert not list((tmp_path / "code").rglob("*.pyc")) or (tmp_path / "code" / "lensdata").is_dir()


def test_every_package_of_the_shipped_list_is_locked_and_pyspark_is_not_among_them(config):
    pins = archive.locked(config.dependencies)
    assert len(pins) == len(config.dependencies.packages)
    assert not any(pin.startswith(("pyspark", "torch", "ray")) for pin in pins)


def test_a_package_that_the_lock_lacks_is_named():
    with pytest.raises(InputError, match="names nothing-like-it, which requirements.lock does not hold"):
        archive.locked(Dependencies(packages=("numpy", "nothing-like-it")))


def test_the_archive_of_packages_is_kept_by_what_is_in_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LENSDATA_CACHE", str(tmp_path))
    lock = tmp_path / "lock"
    lock.write_text("a==1\nb==2\n")
    one, other = (archive.cached(Dependencies(packages=names), lock) for names in (("a",), ("a", "b")))
    assert one != other
    lock.write_text("a==1.1\nb==2\n")
    assert archive.cached(Dependencies(packages=("a",)), lock) != one


@pytest.mark.skipif(sys.version_info[:2] != (3, 11) or sys.platform != "linux", reason="packages are for 3.11 on Linux")
def test_a_package_that_the_archive_lacks_is_found_in_a_clean_interpreter(tmp_path):
    (tmp_path / "one.py").write_text("")
    code, deps = archive.pack_code(tmp_path), archive.pack(tmp_path, ["one.py"], tmp_path / "deps.tar.gz")
    with pytest.raises(InputError, match="do not import by themselves: ModuleNotFoundError: No module named"):
        archive.try_imports(code, deps, Dependencies(packages=("numpy",)))


# ---------------------------------------------------------------------- uploads


def test_a_file_is_sent_once_and_compared_by_its_sha256(here, tmp_path):
    s3, sent = boto3.client("s3"), file_of(tmp_path)
    assert upload.upload(s3, sent, BUCKET, "k").state == "sent"
    assert upload.upload(s3, sent, BUCKET, "k").state == "there"
    head = s3.head_object(Bucket=BUCKET, Key="k", ChecksumMode="ENABLED")
    assert base64.b64decode(head["ChecksumSHA256"]).hex() == hashlib.sha256(b"content").hexdigest()


@pytest.mark.parametrize("content", [b"cont", b"CONTENT", b""], ids=["half of it", "tampered", "empty"])
@pytest.mark.parametrize("checksum", [{}, {"ChecksumAlgorithm": "SHA256"}], ids=["without checksum", "with its own"])
def test_an_object_with_other_bytes_is_never_used(here, tmp_path, content, checksum):
    s3, sent = boto3.client("s3"), file_of(tmp_path)
    s3.put_object(Bucket=BUCKET, Key="k", Body=content, **checksum)
    assert upload.upload(s3, sent, BUCKET, "k").state == "damaged, sent again"
    assert s3.get_object(Bucket=BUCKET, Key="k")["Body"].read() == b"content"


def test_a_store_that_keeps_other_bytes_is_refused(tmp_path):
    sent = file_of(tmp_path)
    s3 = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    with Stubber(s3) as stub:
        stub.add_client_error("head_object", "404", http_status_code=404)
        md5 = base64.b64encode(hashlib.md5(b"content").digest()).decode()
        sha = base64.b64encode(hashlib.sha256(b"content").digest()).decode()
        given = {
            "Bucket": "b",
            "Key": "k",
            "Body": b"content",
            "ContentMD5": md5,
            "ChecksumAlgorithm": "SHA256",
            "ChecksumSHA256": sha,
        }
        stub.add_response("put_object", {}, given)
        stub.add_response("head_object", {"ContentLength": 7, "ChecksumSHA256": "other"})
        with pytest.raises(InputError, match="holds other bytes than were sent"):
            upload.upload(s3, sent, "b", "k")


def test_a_file_that_changes_while_it_is_sent_is_refused(here, tmp_path):
    sent = file_of(tmp_path)
    sent.path.write_bytes(b"changed")
    with pytest.raises(InputError, match="changed while it was being sent"):
        upload.upload(boto3.client("s3"), sent, BUCKET, "k")


# ---------------------------------------------------------------------- command lines and the request


def lines_of(config, demo, tmp_path):
    files = commands.Files(config, tmp_path)
    packed = commands.bundle(files, file_of(tmp_path, b"code"), file_of(tmp_path, b"deps"))
    spark = [step for step in demo.config.steps if jobs.find(step.run).engine == "spark"]
    return files, packed, {s.name: commands.pipeline_step(config, packed, files, demo, s, force=False) for s in spark}


def test_a_step_is_the_line_one_would_type(config, demo, tmp_path):
    _, packed, lines = lines_of(config, demo, tmp_path)
    line = list(lines["extract_pool"].command)
    assert line[:5] == ["spark-submit", "--master", "yarn", "--deploy-mode", "cluster"]
    assert line[line.index("--archives") + 1] == f"{packed.code}#code,{packed.deps}#deps"
    assert "spark.executorEnv.PYTHONPATH=./code:./deps" in line
    job = next(i for i, word in enumerate(line) if word.endswith("/extract_pool.py"))
    assert line[job].startswith("s3://")
    assert line[job + 1 :] == [
        "--config", "extract_pool.yaml", "--output", "s3://lensdata-example/runs/demo/extract_pool",
        "inputs.sweeps=s3://lensdata-example/runs/demo/mock_survey/sweeps", "inputs.lenses=lenscat",
    ]  # fmt: skip


def test_the_configuration_that_travels_means_the_same(config, demo, tmp_path):
    files, _, lines = lines_of(config, demo, tmp_path)
    sent = {key.rsplit("/", 1)[-1]: found.path for key, found in files.wanted.items() if "/configs/" in key}
    assert set(sent) == {f"{name}.yaml" for name in lines}
    for step in demo.config.steps:
        if step.name in lines:
            job = jobs.find(step.run)
            assert config_hash(load_config(job.config, sent[f"{step.name}.yaml"])) == config_hash(
                demo.request(step).config
            )


def test_no_nested_override_reaches_yarn_which_would_cut_its_braces(config, demo, tmp_path):
    _, _, lines = lines_of(config, demo, tmp_path)
    assert not any("}}" in word or "{{" in word for step in lines.values() for word in step.command)


def test_a_step_asks_the_service_at_the_name_the_primary_gives_itself(config, demo, tmp_path):
    _, _, lines = lines_of(config, demo, tmp_path)
    shell, flag, text = lines["fetch_cutouts"].command
    assert (shell, flag) == ("bash", "-c")
    shown = subprocess.run(
        ["bash", "-c", text.replace("exec 'spark-submit'", "printf '%s\\n'").replace("$(hostname -f)", "ip-10-0-0-7")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert 'service.url="http://ip-10-0-0-7:8801/viewer/fits-cutout"' in shown.stdout.splitlines()


def test_the_service_is_started_from_archives_that_are_checked(config, demo, tmp_path):
    _, packed, _ = lines_of(config, demo, tmp_path)
    script = commands.service_step(config, packed, demo, "sky").command[2]
    assert f"{packed.code_sha256} code.tar.gz {packed.deps_sha256} deps.tar.gz | sha256sum --check" in script
    assert "--survey s3://lensdata-example/runs/demo/mock_survey --host 0.0.0.0 --port 8801" in script
    subprocess.run(["bash", "-n", "-c", script], check=True)


def test_a_folder_of_this_machine_is_no_input_of_a_cluster(config, demo, tmp_path):
    step = demo.config.steps[1].model_copy(update={"inputs": {"sweeps": str(tmp_path), "lenses": "lenscat"}})
    files = commands.Files(config, tmp_path)
    packed = commands.Bundle("s3://b/c", "s3://b/d", "", "")
    with pytest.raises(InputError, match="which a cluster cannot: copy it to s3://"):
        commands.pipeline_step(config, packed, files, demo, step, force=False)


def test_a_file_of_this_machine_travels_by_its_content(config, demo, tmp_path):
    lenses = tmp_path / "lenses.csv"
    lenses.write_text("name,ra,dec\n")
    step = demo.config.steps[1].model_copy(update={"inputs": {**demo.config.steps[1].inputs, "lenses": str(lenses)}})
    files = commands.Files(config, tmp_path)
    line = commands.pipeline_step(
        config, commands.Bundle("s3://b/c", "s3://b/d", "", ""), files, demo, step, force=True
    )
    digest = hashlib.sha256(lenses.read_bytes()).hexdigest()
    assert f"inputs.lenses=s3://lensdata-example/lensdata/inputs/{digest}/lenses.csv" in line.command
    assert "--force" in line.command


def test_the_request_is_the_recorded_one_and_valid_to_botocore(config):
    """The recorded file is for a reviewer's eye: what changes in the request changes there."""
    line = commands.ClusterStep("preflight", ("spark-submit", "s3://b/preflight.py"))
    made = request.run_job_flow(
        config, "demo", request.run_id("demo", "s3://b/runs/demo"), [line], {"git-commit": "0" * 40}
    )
    assert made == json.loads(GOLDEN.read_text())
    emr = botocore.session.get_session().create_client(
        "emr", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    with Stubber(emr) as stub:
        stub.add_response("run_job_flow", {"JobFlowId": "j-1"}, made)
        assert emr.run_job_flow(**made)["JobFlowId"] == "j-1"


def test_without_a_task_fleet_the_core_fleet_grows(config):
    fleets = config.fleets.model_copy(update={"task": None})
    for found, wanted in ((config, 8), (config.model_copy(update={"fleets": fleets}), 64)):
        made = request.run_job_flow(found, "demo", "run", [], {})
        assert made["ManagedScalingPolicy"]["ComputeLimits"]["MaximumCoreCapacityUnits"] == wanted


def test_a_survey_on_s3_is_copied_before_it_is_served(here, tmp_path):
    storage.write_bytes(f"{here.output}/mock_survey/survey.json", b"{}")
    storage.write_bytes(f"{here.output}/mock_survey/sweeps/a.fits", b"rows")
    found = Path(server._local_survey(f"{here.output}/mock_survey", str(tmp_path / "copy")))
    assert (found / "sweeps" / "a.fits").read_bytes() == b"rows"
    assert server._local_survey(str(tmp_path), str(tmp_path / "copy")) == str(tmp_path)
    with pytest.raises(InputError, match="nothing does not exist"):
        server._local_survey(f"{here.output}/nothing", str(tmp_path / "copy"))


def test_the_mock_service_listens_on_loopback_unless_told_otherwise():
    assert server._arguments(["--survey", "x"]).host == "127.0.0.1"
    assert server._arguments(["--survey", "x", "--host", "0.0.0.0"]).host == "0.0.0.0"


# ---------------------------------------------------------------------- configuration and costs


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prices": {"hourly": {}}}, "no entry for m5.xlarge"),
        (
            {"scaling": {"minimum_units": 4, "maximum_units": 64, "maximum_on_demand_units": 8}},
            "below the 8 on-demand units",
        ),
        (
            {"scaling": {"minimum_units": 9, "maximum_units": 8, "maximum_on_demand_units": 8}},
            "more than maximum_units",
        ),
        (
            {"scaling": {"minimum_units": 8, "maximum_units": 16, "maximum_on_demand_units": 16}},
            "begin with 32 units of core and task, more than scaling.maximum_units 16",
        ),
        ({"bucket": "s3://lensdata-example"}, "bucket"),
        ({"step_concurrency": 2}, "step_concurrency"),
        ({"acount": "1"}, "did you mean 'account'"),
        ({"account": "12"}, "account"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(tmp_path, change, sentence):
    values = yaml.safe_load(SHIPPED.read_text())
    for key, value in change.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    path = tmp_path / "emr.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=sentence):
        load_config(EmrConfig, path)


def test_no_type_or_size_costs_more_than_the_ceiling(config):
    found = cost.estimate(config)
    hourly = config.prices.hourly
    for fleet in (config.fleets.core, config.fleets.task):
        for choice in fleet.types:
            machines = config.scaling.maximum_units / choice.units
            assert machines * (hourly[choice.type].ec2 + hourly[choice.type].emr) < found.ceiling_per_hour
    assert found.first_per_hour < found.ceiling_per_hour
    assert found.ceiling == pytest.approx(found.ceiling_per_hour * config.max_hours)


# ---------------------------------------------------------------------- checks before a start


def findings(here, **changes):
    here.change(**changes)
    found = load_config(EmrConfig, here.config)
    options = pipelines.Options(here.output, "emr")
    pipeline = pipelines.Pipeline.load(str(CONFIGS / "pipelines" / "demo.yaml"), options)
    return preflight.run(aws.connect(found), found, pipeline, lambda: "23 modules import")


def test_an_account_as_the_stack_makes_it_passes(here):
    found = findings(here)
    preflight.refuse(found)
    assert {entry.check for entry in found if entry.verdict == "ok"} >= {
        "account",
        "buckets",
        "roles",
        "security",
        "subnets",
        "vpc",
        "release",
    }


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bucket": "lensdata-nowhere"}, "buckets: bucket lensdata-nowhere does not exist"),
        ({"service_role": "nobody"}, "roles: .*nobody"),
        ({"instance_profile": "nobody"}, "roles: .*nobody"),
        ({"security_configuration": "open"}, "security: security configuration open does not exist"),
        ({"subnets": ["subnet-0000000000000dead"]}, "subnets: .*subnet-0000000000000dead"),
        ({"release": "emr-99.0.0"}, "release: emr-99.0.0 is not known"),
        ({"release": "emr-6.15.0"}, "has Spark 3.4.1-amzn-2, the jobs are written and tested for 3.5"),
    ],
)
def test_what_is_not_there_is_found_before_anything_is_spent(here, changes, sentence):
    with pytest.raises(InputError, match=f"Nothing was started: .*{sentence}"):
        preflight.refuse(findings(here, **changes))
    assert "RunJobFlow" not in here.emr.operations()


def test_a_cluster_without_encryption_or_with_imdsv1_is_refused(here):
    for weaker, sentence in (
        ({"EncryptionConfiguration": {"EnableAtRestEncryption": True, "EnableInTransitEncryption": True}}, "IMDSv1"),
        ({"InstanceMetadataServiceConfiguration": {"MinimumInstanceMetadataServiceVersion": 2}}, "encrypts nothing"),
    ):
        here.emr.security["lensdata-emr"] = json.dumps(weaker)
        with pytest.raises(InputError, match=sentence):
            preflight.refuse(findings(here))


def test_a_subnet_that_emr_may_not_use_is_refused(here):
    subnet = load_config(EmrConfig, here.config).subnets[0]
    boto3.client("ec2").delete_tags(Resources=[subnet], Tags=[{"Key": "for-use-with-amazon-emr-managed-policies"}])
    with pytest.raises(InputError, match="lacks the tag for-use-with-amazon-emr-managed-policies=true"):
        preflight.refuse(findings(here))


def test_a_vpc_in_which_emr_may_make_no_security_groups_is_refused(here):
    ec2 = boto3.client("ec2")
    subnet = ec2.describe_subnets(SubnetIds=load_config(EmrConfig, here.config).subnets)["Subnets"][0]
    ec2.delete_tags(Resources=[subnet["VpcId"]], Tags=[{"Key": "for-use-with-amazon-emr-managed-policies"}])
    with pytest.raises(InputError, match=f"vpc: {subnet['VpcId']} lacks the tag"):
        preflight.refuse(findings(here))


def test_a_bucket_of_another_region_is_refused(here):
    boto3.client("s3", region_name="eu-west-1").create_bucket(
        Bucket="lensdata-far", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    with pytest.raises(InputError, match="lensdata-far is in eu-west-1, the cluster in us-east-1"):
        preflight.refuse(findings(here, bucket="lensdata-far"))


def test_credentials_of_another_account_are_refused_at_once(here):
    with pytest.raises(
        InputError, match="credentials are of account 123456789012, the configuration names 210987654321"
    ):
        findings(here, account="210987654321")


def test_expired_credentials_are_a_sentence_and_not_a_note(here):
    here.emr.faults.append(Fault("DescribeReleaseLabel", "expired"))
    with pytest.raises(InputError, match="credentials expired"):
        findings(here)


def test_what_may_not_be_read_is_a_note_and_no_refusal(here):
    here.emr.faults.append(Fault("DescribeReleaseLabel", "denied"))
    found = findings(here)
    preflight.refuse(found)
    assert "note  release: could not be read (AccessDeniedException)" in [str(entry) for entry in found]


def test_an_input_that_only_the_cluster_may_read_is_a_note(here, monkeypatch):
    def forbidden(uri):
        try:
            raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "HeadObject")
        except ClientError as error:
            raise PermissionError("Forbidden") from error  # as s3fs does

    monkeypatch.setattr(storage, "exists", forbidden)
    step = {"name": "pool", "run": "extract_pool", "inputs": {"sweeps": "s3://theirs/sweeps", "lenses": "lenscat"}}
    path = here.folder / "p.yaml"
    path.write_text(yaml.safe_dump({"name": "p", "steps": [step]}))
    found = load_config(EmrConfig, here.config)
    pipeline = pipelines.Pipeline.load(str(path), pipelines.Options(here.output, "emr"))
    lines = [str(entry) for entry in preflight.run(aws.connect(found), found, pipeline, lambda: "import")]
    assert "note  inputs: could not be read (403)" in lines


@pytest.mark.parametrize(
    "error",
    [ProfileNotFound(profile="nobody"), UnauthorizedSSOTokenError(), SSOTokenLoadError(error_msg="the token is old")],
    ids=lambda error: type(error).__name__,
)
def test_who_is_not_logged_in_is_told_to(error):
    with (
        pytest.raises(InputError, match="credentials are missing or expired while looking .* log in"),
        aws.sentences("looking"),
    ):
        raise error


def test_missing_credentials_are_a_sentence(here, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(here.folder / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(InputError, match="credentials are missing"):
        findings(here)


# ---------------------------------------------------------------------- the stack


def test_the_template_has_no_finding_of_cfn_lint():
    linter = Path(sys.executable).with_name("cfn-lint")
    if not linter.exists():
        pytest.skip("cfn-lint is not installed: pip install -r requirements.lock")
    done = subprocess.run([str(linter), str(STACK)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)


def test_the_stack_can_be_created_and_makes_what_the_configuration_names(url, config):
    import requests

    requests.post(f"{url}/moto-api/reset", timeout=10)
    formation = boto3.client("cloudformation")
    given = [{"ParameterKey": "BucketName", "ParameterValue": config.bucket}]
    formation.create_stack(
        StackName="lensdata", TemplateBody=STACK.read_text(), Parameters=given, Capabilities=["CAPABILITY_NAMED_IAM"]
    )
    stack = formation.describe_stacks(StackName="lensdata")["Stacks"][0]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    made = {entry["OutputKey"]: entry["OutputValue"] for entry in stack["Outputs"]}
    assert made["BucketName"] == config.bucket
    assert (made["ServiceRole"], made["InstanceProfile"]) == (config.service_role, config.instance_profile)
    boto3.client("s3").head_bucket(Bucket=config.bucket)
    profile = boto3.client("iam").get_instance_profile(InstanceProfileName=config.instance_profile)
    assert [role["RoleName"] for role in profile["InstanceProfile"]["Roles"]] == ["lensdata-emr-node"]


class Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms as plain values, and lists behind them as lists."""


def _short_form(loader, suffix, node):
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return f"{suffix} {node.value}"


Loader.add_multi_constructor("!", _short_form)


def statements(resource: str) -> dict[str, dict]:
    """The statements of a resource of the stack, conditional ones too, by their names."""
    properties = yaml.load(STACK.read_text(), Loader)["Resources"][resource]["Properties"]
    documents = [entry["PolicyDocument"] for entry in properties.get("Policies", [properties])]
    entries = [entry for document in documents for entry in document["Statement"]]
    found = [entry[1] if isinstance(entry, list) else entry for entry in entries]
    return {entry.get("Sid", str(number)): entry for number, entry in enumerate(found)}


def test_no_role_of_the_stack_may_do_everything():
    for name in ("ServiceRole", "NodeRole"):
        for statement in statements(name).values():
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            assert not any("*" in action for action in actions)
            assert statement["Resource"] != "*"


def test_a_machine_learns_that_an_object_is_not_there():
    """S3 answers HEAD with 404 only to who may list the bucket, and HEAD names no prefix that a condition could allow."""
    listing = [entry for entry in statements("NodeRole").values() if "s3:ListBucket" in entry["Action"]]
    assert any(entry["Resource"] == "GetAtt Bucket.Arn" and "Condition" not in entry for entry in listing)


def test_the_launcher_may_look_at_the_inputs_that_the_machines_read():
    machine, launcher = statements("NodeRole")["ReadInput"], statements("LauncherPolicy")["ReadInput"]
    assert machine["Action"] == launcher["Action"]
    assert machine["Resource"] == launcher["Resource"][1]  # behind the condition that there is such a bucket


def test_the_security_configuration_of_the_stack_is_one_that_the_checks_accept():
    text = STACK.read_text()
    for line in (
        "EnableAtRestEncryption: true",
        "EnableInTransitEncryption: true",
        "MinimumInstanceMetadataServiceVersion: 2",
    ):
        assert line in text


def test_steps_know_the_preflight_job():
    assert jobs.find("preflight").engine == "spark"
    assert steps.parse(jobs.find("preflight"), ["--output", "s3://b/x"]).config.tasks == 0


def test_the_scripted_endpoint_checks_requests_as_emr_does():
    with EmrEndpoint() as emr:
        client = boto3.client(
            "emr", endpoint_url=emr.url, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
        )
        with pytest.raises(client.exceptions.ClientError, match="release label is invalid"):
            client.run_job_flow(Name="x", ReleaseLabel="emr-99.0.0", Instances={})
