"""Clusters of Amazon EMR: where, how large, how long, at what price (R-I1, R-I5). No credential belongs here."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from lensdata.config.base import Config, Field


class InstanceType(Config):
    """A machine that a fleet may take."""

    type: str = Field(pattern=r"^[a-z][a-z0-9-]*\.[a-z0-9-]+$", description="EC2 instance type")
    units: int = Field(ge=1, description="what one machine counts in the fleet's capacity: its vCPUs")


class Fleet(Config):
    """Machines of one role, from several types, so that one that is sold out does not stop a run."""

    types: tuple[InstanceType, ...] = Field(min_length=1, description="types the fleet may mix")
    on_demand_units: int = Field(0, ge=0, description="capacity bought on demand, in units")
    spot_units: int = Field(0, ge=0, description="capacity bought as spot, in units; on demand where there is none")
    disk_gb: int = Field(64, ge=10, description="EBS disk per machine, GB")

    @model_validator(mode="after")
    def _some_capacity(self) -> Fleet:
        if self.on_demand_units + self.spot_units == 0:
            raise ValueError("a fleet needs on_demand_units or spot_units; leave the whole fleet out to have none")
        return self


class Fleets(Config):
    """The fleets of a cluster."""

    primary: Fleet = Field(description="one machine: the resource manager, and the mock service of a rehearsal")
    core: Fleet = Field(description="HDFS and the drivers; on demand, for losing one loses the step")
    task: Fleet | None = Field(None, description="executors only; spot; null for none")

    @model_validator(mode="after")
    def _one_primary(self) -> Fleets:
        if self.primary.on_demand_units + self.primary.spot_units != 1 or any(t.units != 1 for t in self.primary.types):
            raise ValueError("the primary fleet is one machine: one unit, and types of one unit each")
        if self.core.spot_units:
            raise ValueError("core machines hold the drivers and HDFS: buy them on demand, and spot in the task fleet")
        return self


class Scaling(Config):
    """Limits of EMR managed scaling, in units of the fleets."""

    minimum_units: int = Field(ge=1, description="core and task capacity never falls below")
    maximum_units: int = Field(ge=1, description="and never rises above: this bounds the cost")
    maximum_on_demand_units: int = Field(ge=0, description="of which on demand")

    @model_validator(mode="after")
    def _ordered(self) -> Scaling:
        if not self.minimum_units <= self.maximum_units:
            raise ValueError(f"minimum_units {self.minimum_units} is more than maximum_units {self.maximum_units}")
        if self.maximum_on_demand_units > self.maximum_units:
            raise ValueError("maximum_on_demand_units is more than maximum_units")
        return self


class Dependencies(Config):
    """The archive of Python packages, made from wheels of ``requirements.lock`` without running any of them."""

    packages: tuple[str, ...] = Field(description="packages of the lock that the Spark jobs import; all of them listed")
    platforms: tuple[str, ...] = Field(
        ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"), description="wheel tags, best first"
    )
    python: str = Field("3.11", pattern=r"^3\.\d+$", description="Python of the cluster")


class Price(Config):
    """What an instance type costs, in US dollars per hour."""

    ec2: float = Field(gt=0, description="on demand; spot is estimated at this price too, so the ceiling holds")
    emr: float = Field(ge=0, description="EMR's surcharge")


class Prices(Config):
    """The table of prices an estimate is made from, with where and when it was read."""

    region: str = Field(description="region of these prices")
    date: str = Field(description="when they were written down")
    source: str = Field(description="where they can be checked")
    disk_gb_month: float = Field(gt=0, description="EBS gp3, US dollars per GB and month")
    hourly: dict[str, Price] = Field(description="by instance type")


class EmrConfig(Config):
    """An account, a bucket and the cluster that Spark steps run on."""

    region: str = Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$", description="AWS region of cluster and bucket")
    account: str = Field(pattern=r"^\d{12}$", description="account id; credentials of another account are refused")
    bucket: str = Field(
        pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        description="bucket of code, packages and logs: its name, no address",
    )
    prefix: str = Field("lensdata", pattern=r"^[A-Za-z0-9][A-Za-z0-9/_.-]*[A-Za-z0-9]$", description="prefix in it")
    release: str = Field("emr-7.13.0", pattern=r"^emr-\d+\.\d+\.\d+$", description="EMR release label")
    subnets: tuple[str, ...] = Field(min_length=1, description="private subnets; EMR takes the one with most capacity")
    service_role: str = Field(description="role of EMR itself, from infra/emr/stack.yaml")
    instance_profile: str = Field(description="instance profile of the machines, from infra/emr/stack.yaml")
    security_configuration: str = Field(description="encryption and IMDSv2, from infra/emr/stack.yaml")
    key_pair: str | None = Field(None, description="EC2 key pair for ssh to the primary; null for none")
    fleets: Fleets
    scaling: Scaling
    spot_timeout_minutes: int = Field(10, ge=5, le=1440, description="wait for spot, then take on demand")
    idle_minutes: int = Field(15, ge=1, le=10080, description="an idle cluster ends after this long")
    max_hours: float = Field(
        6.0, gt=0, description="the launcher ends a cluster older than this; ceiling of the estimate"
    )
    step_concurrency: Literal[1] = Field(1, description="steps run one after another: each reads what the last wrote")
    poll_s: float = Field(15.0, gt=0, description="pause between two looks at the cluster")
    logs_wait_s: float = Field(
        360.0, ge=0, description="longest wait for a failed step's logs: EMR copies them every 5 min"
    )
    python: str = Field("/usr/bin/python3.11", description="interpreter on the machines")
    service_port: int = Field(8801, ge=1024, le=65535, description="port of a pipeline's service on the primary")
    tags: dict[str, str] = Field({}, description="further tags of every machine")
    spark_conf: dict[str, str] = Field({}, description="further --conf settings of every spark-submit")
    dependencies: Dependencies
    prices: Prices

    @model_validator(mode="after")
    def _fleets_priced_and_within_limits(self) -> EmrConfig:
        for fleet in (self.fleets.primary, self.fleets.core, self.fleets.task):
            for choice in fleet.types if fleet else ():
                if choice.type not in self.prices.hourly:
                    raise ValueError(f"prices.hourly has no entry for {choice.type}, which a fleet may take")
        core = self.fleets.core.on_demand_units
        if self.scaling.minimum_units < core:
            raise ValueError(f"scaling.minimum_units is below the {core} on-demand units of the core fleet")
        if self.scaling.maximum_on_demand_units < core:
            raise ValueError(f"scaling.maximum_on_demand_units is below the {core} units of the core fleet")
        workers = [fleet for fleet in (self.fleets.core, self.fleets.task) if fleet]
        start = sum(fleet.on_demand_units + fleet.spot_units for fleet in workers)
        if start > self.scaling.maximum_units:
            raise ValueError(
                f"the fleets begin with {start} units of core and task, more than scaling.maximum_units "
                f"{self.scaling.maximum_units}, which bounds the cost"
            )
        return self


class SparkPreflightConfig(Config):
    """The first step of a cluster: what the executors import and compute."""

    tasks: int = Field(0, ge=0, description="tasks to spread over the executors; 0: four per core that is there")
    packages: tuple[str, ...] = Field(
        ("numpy", "pyarrow", "pandas", "scipy", "healpy", "astropy", "s3fs", "lensdata"),
        description="packages whose versions are compared",
    )
