"""Everything that can be found wrong before money is spent (R-I1): one line per check, all of them, then a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from infra.emr import aws
from infra.emr.request import MANAGED
from infra.pipeline import Pipeline
from lensdata import jobs, storage
from lensdata.config.emr import EmrConfig
from lensdata.errors import InputError

# EC2's quotas of running vCPUs: "Running On-Demand Standard instances" and "All Standard Spot Instance Requests"
QUOTAS = {"on-demand": "L-1216C47A", "spot": "L-34B43A08"}
ACTIONS = (
    "elasticmapreduce:RunJobFlow", "elasticmapreduce:DescribeCluster", "elasticmapreduce:ListSteps",
    "elasticmapreduce:TerminateJobFlows", "s3:PutObject", "s3:GetObject",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """What a check found: all right, something to know that could not be read, or a reason not to start."""

    check: str
    verdict: Literal["ok", "note", "FAIL"]
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:<5} {self.check}: {self.text}"


def run(clients: aws.Clients, config: EmrConfig, pipeline: Pipeline, packages: Callable[[], str]) -> list[Finding]:
    """All checks; ``packages`` tries the archives in a clean interpreter and returns what it found.

    Raises
    ------
    InputError
        There are no usable credentials, or they are of another account: no other check would mean anything.
    """
    with aws.sentences("asking who you are"):
        identity = clients.sts.get_caller_identity()
    if identity["Account"] != config.account:
        raise InputError(
            f"These credentials are of account {identity['Account']}, the configuration names {config.account}; log in to "
            "that account, or correct account."
        )
    checks: list[tuple[str, Callable[[], str]]] = [
        ("buckets", lambda: _buckets(clients, config, pipeline)),
        ("inputs", lambda: _inputs(pipeline)),
        ("roles", lambda: _roles(clients, config)),
        ("security", lambda: _security(clients, config)),
        ("subnets", lambda: _subnets(clients, config)),
        ("vpc", lambda: _vpc(clients, config)),
        ("release", lambda: _release(clients, config)),
        ("permissions", lambda: _permissions(clients, str(identity["Arn"]))),
        *((f"quota {market}", lambda code=code: _quota(clients, config, code)) for market, code in QUOTAS.items()),
        ("packages", packages),
    ]
    found = [Finding("account", "ok", f"{identity['Account']} as {identity['Arn']}")]
    return found + [_one(name, check) for name, check in checks]


def _one(name: str, check: Callable[[], str]) -> Finding:
    try:
        text = check()
    except InputError as error:
        return Finding(name, "FAIL", str(error))
    except ClientError as error:
        code = aws.code_of(error)
        if code in aws.EXPIRED | aws.REFUSED:
            with aws.sentences(f"checking {name}"):
                raise
        # what one may not read need not be wrong: EMR itself will say so before a machine runs
        return Finding(name, "note", f"could not be read ({code})")
    except ResponseParserError:  # a store or proxy that does not know this question
        return Finding(name, "note", "could not be read (the answer was no answer of AWS)")
    except BotoCoreError as error:
        return Finding(name, "FAIL", f"AWS does not answer: {aws.one_line(error)}")
    return Finding(name, "ok" if not text.startswith("not ") else "note", text)


def _buckets(clients: aws.Clients, config: EmrConfig, pipeline: Pipeline) -> str:
    names = dict.fromkeys([config.bucket, pipeline.options.output.split("/")[2]])
    for name in names:
        try:
            head = clients.s3.head_bucket(Bucket=name)
        except ClientError as error:
            if aws.code_of(error) in ("404", "NoSuchBucket"):
                raise InputError(f"bucket {name} does not exist; infra/emr/stack.yaml makes one") from error
            raise
        region = head.get("BucketRegion") or head["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
        if region and region != config.region:
            raise InputError(
                f"bucket {name} is in {region}, the cluster in {config.region}: every byte would cost transfer"
            )
    return ", ".join(names)


def _inputs(pipeline: Pipeline) -> str:
    """Inputs that come from outside the pipeline are there, and where a cluster reaches them."""
    seen = []
    for step in pipeline.config.steps:
        if jobs.find(step.run).engine != "spark":
            continue
        for name, uri in pipeline.request(step).inputs.items():
            if uri.startswith(f"{pipeline.options.output}/") or step.inputs.get(name) == "lenscat" or uri in seen:
                continue
            if not _there(uri):
                raise InputError(f"input {name} of step {step.name}, {uri}, does not exist")
            if "://" not in uri and storage.is_folder(uri):
                raise InputError(
                    f"input {name} of step {step.name}, {uri}, is a folder of this machine: copy it to s3://"
                )
            seen.append(uri)
    return f"{len(seen)} from outside the pipeline"


def _there(uri: str) -> bool:
    """Whether an input exists; an error of the store is raised as that of AWS's client, which s3fs hides behind its own."""
    try:
        return storage.exists(uri)
    except OSError as error:
        raise (aws.error_behind(error) or error) from error


def _roles(clients: aws.Clients, config: EmrConfig) -> str:
    try:
        clients.iam.get_role(RoleName=config.service_role)
        profile = clients.iam.get_instance_profile(InstanceProfileName=config.instance_profile)["InstanceProfile"]
    except ClientError as error:
        if aws.code_of(error) == "NoSuchEntity":
            said = error.response["Error"]["Message"]
            raise InputError(f"{said.rstrip('.')}; infra/emr/stack.yaml makes both") from error
        raise
    if not profile["Roles"]:
        raise InputError(f"instance profile {config.instance_profile} has no role")
    return f"{config.service_role}, {config.instance_profile} with {profile['Roles'][0]['RoleName']}"


def _security(clients: aws.Clients, config: EmrConfig) -> str:
    name = config.security_configuration
    try:
        found = json.loads(clients.emr.describe_security_configuration(Name=name)["SecurityConfiguration"])
    except ClientError as error:
        if aws.code_of(error) == "InvalidRequestException":
            raise InputError(f"security configuration {name} does not exist; infra/emr/stack.yaml makes it") from error
        raise
    metadata_service = found.get("InstanceMetadataServiceConfiguration", {})
    if metadata_service.get("MinimumInstanceMetadataServiceVersion") != 2:
        raise InputError(f"security configuration {name} allows IMDSv1; use that of infra/emr/stack.yaml")
    encryption = found.get("EncryptionConfiguration", {})
    on = [word for word in ("AtRest", "InTransit") if encryption.get(f"Enable{word}Encryption")]
    if len(on) < 2:
        raise InputError(
            f"security configuration {name} encrypts {' and '.join(on) or 'nothing'}; at rest and in transit is asked"
        )
    return f"{name}: encrypted at rest and in transit, IMDSv2 only"


def _subnets(clients: aws.Clients, config: EmrConfig) -> str:
    try:
        found = clients.ec2.describe_subnets(SubnetIds=list(config.subnets))["Subnets"]
    except ClientError as error:
        if aws.code_of(error).startswith("InvalidSubnet"):
            raise InputError(f"{error.response['Error']['Message']} in {config.region}") from error
        raise
    key, value = next(iter(MANAGED.items()))
    bare = [subnet["SubnetId"] for subnet in found if {"Key": key, "Value": value} not in subnet.get("Tags", [])]
    if bare:
        raise InputError(f"{', '.join(bare)} lacks the tag {key}={value}, without which EMR's role may not use it")
    if len({subnet["VpcId"] for subnet in found}) > 1:
        raise InputError("the subnets are of several VPCs; a cluster is in one")
    return ", ".join(f"{s['SubnetId']} in {s['AvailabilityZone']} ({s['AvailableIpAddressCount']} free)" for s in found)


def _vpc(clients: aws.Clients, config: EmrConfig) -> str:
    """EMR makes its security groups in a VPC only where that has the tag, too."""
    subnet = clients.ec2.describe_subnets(SubnetIds=[config.subnets[0]])["Subnets"][0]
    found = clients.ec2.describe_vpcs(VpcIds=[subnet["VpcId"]])["Vpcs"][0]
    key, value = next(iter(MANAGED.items()))
    if {"Key": key, "Value": value} not in found.get("Tags", []):
        raise InputError(f"{found['VpcId']} lacks the tag {key}={value}, without which EMR may make no security groups")
    return str(found["VpcId"])


def _release(clients: aws.Clients, config: EmrConfig) -> str:
    try:
        found = clients.emr.describe_release_label(ReleaseLabel=config.release)
    except ClientError as error:
        if aws.code_of(error) in ("InvalidRequestException", "ValidationException"):
            raise InputError(f"{config.release} is not known in {config.region}") from error
        raise
    spark = next((app["Version"] for app in found["Applications"] if app["Name"].lower() == "spark"), None)
    ours = metadata.version("pyspark")
    if spark is None or spark.split(".")[:2] != ours.split(".")[:2]:
        raise InputError(f"{config.release} has Spark {spark}, the jobs are written and tested for {ours}")
    return f"{config.release} with Spark {spark}"


def _permissions(clients: aws.Clients, arn: str) -> str:
    if ":assumed-role/" in arn:  # a policy hangs on the role, not on the session
        head, _, rest = arn.partition(":assumed-role/")
        arn = f"{head.replace(':sts:', ':iam:')}:role/{rest.split('/')[0]}"
    answer = clients.iam.simulate_principal_policy(PolicySourceArn=arn, ActionNames=list(ACTIONS))
    denied = [
        found["EvalActionName"] for found in answer["EvaluationResults"] if found["EvalDecision"] == "explicitDeny"
    ]
    if denied:
        raise InputError(f"{arn} is denied {', '.join(denied)}")
    # policies that name resources answer "implicitDeny" to a question that names none
    return f"nothing denied of {len(ACTIONS)} actions"


def _quota(clients: aws.Clients, config: EmrConfig, code: str) -> str:
    value = clients.quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"]
    wanted = config.scaling.maximum_on_demand_units if code == QUOTAS["on-demand"] else config.scaling.maximum_units
    if wanted > value:
        raise InputError(f"the account may run {value:g} vCPUs of this kind, the cluster may ask for {wanted}")
    return f"{value:g} vCPUs, the cluster takes at most {wanted}"


def refuse(findings: list[Finding]) -> None:
    """Refuse where a check failed.

    Raises
    ------
    InputError
        With the failed checks.
    """
    failed = list(_failed(findings))
    if failed:
        raise InputError(f"Nothing was started: {'; '.join(failed)}.")


def _failed(findings: list[Finding]) -> Iterator[str]:
    for found in findings:
        if found.verdict == "FAIL":
            yield f"{found.check}: {found.text.rstrip('.')}"


__all__ = ["Finding", "refuse", "run"]
