"""A pipeline: a declared list of steps (R-I4)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from lensdata.config.base import Config, Field


class StepEntry(Config):
    """One step of a pipeline; it becomes the command line that a user would type."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="name of the step and of its output folder")
    run: str = Field(description="job: extract_pool, train, ...")
    config: str | None = Field(None, description="YAML file, relative to the pipeline's file")
    overrides: dict[str, Any] = Field({}, description="dotted keys; {output}, {SERVICE} and ${VARIABLE} are filled in")
    inputs: dict[str, str] = Field(
        {}, description="an earlier step or a folder of it, lenscat, or a path or URI; ${VARIABLE} is filled in"
    )
    services: tuple[str, ...] = Field((), description="services that must run during the step")
    test_limit: int | None = Field(None, ge=1, description="work on the first N units only")


class ServiceEntry(Config):
    """A program that runs beside the steps that name it."""

    run: Literal["mock_sky"] = Field(description="mock_sky: the simulated cutout service")
    survey: str = Field(description="step that made the simulated survey")
    options: tuple[str, ...] = Field((), description="further arguments, for example --faults rate_503=0.02")


class SparkSubmit(Config):
    """How Spark steps are submitted locally."""

    master: str = Field("local[*]", description="Spark master")
    driver_memory: str = Field("2g", description="memory of the driver, which is everything in local mode")
    conf: dict[str, str] = Field({}, description="further --conf settings")


class PipelineConfig(Config):
    """Steps in order, what runs beside them, and what to show at the end."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="name; the default output is runs/NAME")
    description: str = Field("", description="one sentence")
    spark: SparkSubmit = SparkSubmit()
    services: dict[str, ServiceEntry] = Field({}, description="services by name")
    steps: tuple[StepEntry, ...] = Field(min_length=1, description="the steps, in order")
    report: str | None = Field(None, description="file to name at the end, for example evaluate/report.html")
    headline: str | None = Field(
        None, description="metrics.json or decision.json whose main lines are shown at the end"
    )

    @model_validator(mode="after")
    def _names(self) -> PipelineConfig:
        seen: set[str] = set()
        for step in self.steps:
            if step.name in seen:
                raise ValueError(f"step {step.name!r} is declared twice")
            seen.add(step.name)
            for service in step.services:
                if service not in self.services:
                    raise ValueError(f"step {step.name!r} names the service {service!r}, which is not declared")
        for name, entry in self.services.items():
            if entry.survey not in seen:
                raise ValueError(f"service {name!r} needs the step {entry.survey!r}, which is not declared")
        return self
