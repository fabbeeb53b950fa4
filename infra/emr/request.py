"""The one request that makes a cluster: a pure function of configuration and steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infra.emr.commands import ClusterStep
from lensdata.config.emr import EmrConfig, Fleet
from lensdata.hashing import text_hash

RUN_TAG = "lensdata-run"
MANAGED = {"for-use-with-amazon-emr-managed-policies": "true"}  # AmazonEMRServicePolicy_v2 touches nothing without it


def run_id(pipeline: str, output: str) -> str:
    """What tells the clusters of a run from all others: its pipeline and its output."""
    return text_hash(f"{pipeline} {output}")


def log_prefix(config: EmrConfig) -> str:
    """Where EMR puts logs, below the bucket."""
    return f"{config.prefix}/logs/"


def run_job_flow(
    config: EmrConfig, name: str, run: str, steps: Sequence[ClusterStep], tags: Mapping[str, str]
) -> dict[str, Any]:
    """The parameters of RunJobFlow for a cluster that runs these steps and ends.

    It ends itself after the last step, after a failed one, and when idle, whether anybody watches or not.
    """
    all_tags = {**config.tags, **tags, **MANAGED, RUN_TAG: run}
    scaling = config.scaling
    return {
        "Name": cluster_name(name, run),
        "LogUri": f"s3://{config.bucket}/{log_prefix(config)}",
        "ReleaseLabel": config.release,
        "Applications": [{"Name": "Spark"}],
        "Instances": _instances(config),
        "Steps": [_step(step) for step in steps],
        "ServiceRole": config.service_role,
        "JobFlowRole": config.instance_profile,
        "SecurityConfiguration": config.security_configuration,
        "VisibleToAllUsers": True,
        "Tags": [{"Key": key, "Value": value} for key, value in sorted(all_tags.items())],
        "ScaleDownBehavior": "TERMINATE_AT_TASK_COMPLETION",
        "StepConcurrencyLevel": config.step_concurrency,
        "EbsRootVolumeSize": 32,
        # drivers on core machines, which are not spot: without labels YARN puts them anywhere
        "Configurations": [
            {
                "Classification": "yarn-site",
                "Properties": {
                    "yarn.node-labels.enabled": "true",
                    "yarn.node-labels.am.default-node-label-expression": "CORE",
                },
            }
        ],
        "ManagedScalingPolicy": {
            "ComputeLimits": {
                "UnitType": "InstanceFleetUnits",
                "MinimumCapacityUnits": scaling.minimum_units,
                "MaximumCapacityUnits": scaling.maximum_units,
                "MaximumOnDemandCapacityUnits": scaling.maximum_on_demand_units,
                # what grows is the task fleet; without one it is the core fleet, or nothing could
                "MaximumCoreCapacityUnits": config.fleets.core.on_demand_units
                if config.fleets.task
                else scaling.maximum_units,
            }
        },
        "AutoTerminationPolicy": {"IdleTimeout": config.idle_minutes * 60},
    }


def cluster_name(name: str, run: str) -> str:
    """The name of a run's clusters."""
    return f"lensdata {name} {run}"


def _instances(config: EmrConfig) -> dict[str, Any]:
    fleets = [("MASTER", config.fleets.primary), ("CORE", config.fleets.core)]
    fleets += [("TASK", config.fleets.task)] if config.fleets.task else []
    instances: dict[str, Any] = {
        "InstanceFleets": [_fleet(role, fleet, config.spot_timeout_minutes) for role, fleet in fleets],
        "Ec2SubnetIds": list(config.subnets),
        "KeepJobFlowAliveWhenNoSteps": False,
        "TerminationProtected": False,
    }
    return instances | ({"Ec2KeyName": config.key_pair} if config.key_pair else {})


def _fleet(role: str, fleet: Fleet, spot_timeout_minutes: int) -> dict[str, Any]:
    specifications: dict[str, Any] = {"OnDemandSpecification": {"AllocationStrategy": "lowest-price"}}
    if fleet.spot_units:
        specifications["SpotSpecification"] = {
            "TimeoutDurationMinutes": spot_timeout_minutes,
            "TimeoutAction": "SWITCH_TO_ON_DEMAND",
            "AllocationStrategy": "price-capacity-optimized",
        }
    return {
        "Name": role.lower(),
        "InstanceFleetType": role,
        "TargetOnDemandCapacity": fleet.on_demand_units,
        "TargetSpotCapacity": fleet.spot_units,
        "InstanceTypeConfigs": [
            {
                "InstanceType": choice.type,
                "WeightedCapacity": choice.units,
                "EbsConfiguration": {
                    "EbsBlockDeviceConfigs": [
                        {
                            "VolumeSpecification": {"VolumeType": "gp3", "SizeInGB": fleet.disk_gb},
                            "VolumesPerInstance": 1,
                        }
                    ]
                },
            }
            for choice in fleet.types
        ],
        "LaunchSpecifications": specifications,
    }


def _step(step: ClusterStep) -> dict[str, Any]:
    return {
        "Name": step.name,
        "ActionOnFailure": "TERMINATE_CLUSTER",
        "HadoopJarStep": {"Jar": "command-runner.jar", "Args": list(step.command)},
    }
