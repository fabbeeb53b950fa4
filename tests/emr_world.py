"""An AWS account on the loopback interface: moto's S3, IAM, EC2 and STS, and the scripted EMR beside them.

As a program it rehearses a pipeline: every step of every cluster runs on this machine, against a store that dies with it::

    LENSDATA_S3A_JARS=FOLDER python -m tests.emr_world configs/pipelines/tiny.yaml [--dry-run] [--from STEP] ...
"""

# ruff: noqa: T201 - it is a program, too
from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import requests
import yaml

from infra import cli
from lensdata import storage
from tests.emr_endpoint import JARS, EmrEndpoint, LocalRunner

SHIPPED = Path(__file__).parents[1] / "configs" / "infra" / "emr.yaml"
REGION, BUCKET = "us-east-1", "lensdata-example"
TAG = "for-use-with-amazon-emr-managed-policies"
SECURITY = (
    '{"EncryptionConfiguration": {"EnableAtRestEncryption": true, "EnableInTransitEncryption": true},'
    ' "InstanceMetadataServiceConfiguration": {"MinimumInstanceMetadataServiceVersion": 2, "HttpPutResponseHopLimit": 1}}'
)


@dataclass
class World:
    """What a test needs of it."""

    emr: EmrEndpoint
    config: Path
    folder: Path
    output: str

    def change(self, **values: Any) -> None:
        """Change keys of the EMR configuration."""
        self.config.write_text(yaml.safe_dump({**yaml.safe_load(self.config.read_text()), **values}))

    def run(self, pipeline: Path | str, *more: str) -> int:
        """``lensdata run PIPELINE --spark-on emr --yes``."""
        words = ["run", str(pipeline), "--output", self.output, "--spark-on", "emr", "--emr", str(self.config)]
        return cli.main([*words, *([] if "--dry-run" in more else ["--yes"]), *more])

    def emr_command(self, *words: str) -> int:
        """``lensdata emr …``."""
        return cli.main(["emr", *words, "--emr", str(self.config)])


@contextmanager
def variables(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables, and what depends on them, for a while."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    storage._s3.cache_clear()
    storage._arrow_s3.cache_clear()
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
        storage._s3.cache_clear()
        storage._arrow_s3.cache_clear()


@contextmanager
def account() -> Iterator[str]:
    """moto, found by the usual variables; yields its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    names = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": REGION}
    with variables({"AWS_ENDPOINT_URL": url, "AWS_ENDPOINT_URL_S3": url, **names}):
        requests.post(f"{url}/moto-api/reset", timeout=10)  # its memory is the process's, whoever used it before
        make_account()
        yield url
    server.stop()


def make_account() -> None:
    """All that stack.yaml makes, and a subnet in a VPC, both with the tag."""
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    iam, ec2 = boto3.client("iam"), boto3.client("ec2")
    trust = '{"Version": "2012-10-17", "Statement": []}'
    for role in ("lensdata-emr-service", "lensdata-emr-node"):
        iam.create_role(RoleName=role, AssumeRolePolicyDocument=trust)
    iam.create_instance_profile(InstanceProfileName="lensdata-emr-node")
    iam.add_role_to_instance_profile(InstanceProfileName="lensdata-emr-node", RoleName="lensdata-emr-node")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    ec2.create_tags(Resources=[subnet, vpc], Tags=[{"Key": TAG, "Value": "true"}])


@contextmanager
def world(url: str, folder: Path, runner: Callable[..., Any] | None = None, *, fresh: bool = False) -> Iterator[World]:
    """A scripted EMR, an output of its own, and the shipped configuration with short pauses.

    ``fresh``: an account that no test touched before; making one takes half a second.
    """
    if fresh:
        requests.post(f"{url}/moto-api/reset", timeout=10)
        make_account()
    subnets = boto3.client("ec2").describe_subnets(Filters=[{"Name": f"tag:{TAG}", "Values": ["true"]}])["Subnets"]
    with (
        EmrEndpoint(runner) as emr,
        variables({"AWS_ENDPOINT_URL_EMR": emr.url, "LENSDATA_CACHE": str(folder / "cache")}),
    ):
        emr.security["lensdata-emr"] = SECURITY
        found = World(emr, folder / "emr.yaml", folder, f"s3://{BUCKET}/runs/{folder.name}")
        values = yaml.safe_load(SHIPPED.read_text())
        values["dependencies"] = {"packages": []}  # the interpreter of the tests has them
        found.config.write_text(yaml.safe_dump(values))
        found.change(subnets=[subnets[0]["SubnetId"]], poll_s=0.02, logs_wait_s=0.0, service_port=18801)
        yield found


def _free_port() -> int:
    """The primary is this machine, where another rehearsal may be at work."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def main(argv: list[str]) -> int:
    """``lensdata run PIPELINE --spark-on emr`` with the given options, twice: the second time all is done."""
    if not os.environ.get(JARS):
        sys.exit(f"{JARS} names no folder: python tests/fetch_s3a_jars.py FOLDER")
    pipeline, *more = argv
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request of S3
    with tempfile.TemporaryDirectory(prefix="lensdata-emr-") as name, account() as url:
        folder = Path(name)
        with world(url, folder, LocalRunner(folder / "cluster")) as found:
            found.change(python=sys.executable, poll_s=1.0, service_port=_free_port())
            codes = [found.run(pipeline, *more) for _ in range(1 if "--dry-run" in more else 2)]
            for operation, given in found.emr.calls:
                if operation == "RunJobFlow":
                    print(operation, given["Name"], [step["Name"] for step in given["Steps"]])
                    print("  roles", given["ServiceRole"], given["JobFlowRole"], "fleets", end="")
                    for fleet in given["Instances"]["InstanceFleets"]:
                        print(
                            f" {fleet['Name']} {fleet['TargetOnDemandCapacity']}+{fleet['TargetSpotCapacity']} spot",
                            end="",
                        )
                    print(" idle", given["AutoTerminationPolicy"], "tags", len(given["Tags"]))
                elif operation not in ("DescribeCluster", "ListSteps", "ListClusters"):
                    print(operation)
            for cluster in found.emr.clusters.values():
                print(cluster.id, cluster.state, cluster.reason, [step.state for step in cluster.steps])
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
