"""Runs a declared list of steps, each as the command line a user would type (R-I4).

What is done is read from the outputs themselves, without starting an engine; a killed run goes on where it was.
"""

from __future__ import annotations

import difflib
import fcntl
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra import processes
from infra.screen import Screen
from lensdata import jobs, steps, storage
from lensdata.config.base import load_config
from lensdata.config.pipeline import PipelineConfig, SparkSubmit, StepEntry
from lensdata.errors import InputError
from lensdata.hashing import text_hash

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
DRY_RUN_PORT = 8801
SERVICE_MODULES = {"mock_sky": "lensdata.simulation.server"}


class StepFailed(Exception):
    """A step ended with a non-zero exit code."""

    def __init__(self, step: str, code: int, message: str, log: Path) -> None:
        super().__init__(f"step {step} failed: {message}")
        self.step, self.code, self.message, self.log = step, code, message, log


@dataclass(frozen=True)
class Options:
    """How the pipeline is run."""

    output: str
    spark_on: str = "local"
    ray_on: str = "local"
    force: tuple[str, ...] = ()
    start_from: str | None = None
    dry_run: bool = False
    emr_config: str | None = None
    yes: bool = False


@dataclass
class Pipeline:
    """A pipeline file and where it writes."""

    path: Path
    config: PipelineConfig
    options: Options
    services: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str, options: Options) -> Pipeline:
        """Read and check a pipeline file.

        Raises
        ------
        InputError
            An unknown step, job, configuration key or reference.
        """
        config = load_config(PipelineConfig, path)
        pipeline = cls(Path(path).resolve(), config, options)
        names = [step.name for step in config.steps]
        for wanted in (*options.force, *([options.start_from] if options.start_from else [])):
            if wanted not in names:
                raise InputError(f"Pipeline {config.name} has no step {wanted!r}; its steps are {', '.join(names)}.")
        if options.start_from:
            before = names[: names.index(options.start_from)]
            for wanted in options.force:
                if wanted in before:
                    raise InputError(
                        f"--force {wanted} lies before --from {options.start_from}; leave one of them out."
                    )
        for step in config.steps:  # every command line is checked before the first step runs
            pipeline.request(step)
        return pipeline

    def request(self, step: StepEntry, *, force: bool = False) -> steps.Request:
        """The checked command line of a step."""
        return steps.parse(jobs.find(step.run), self.arguments(step, force=force))

    def arguments(self, step: StepEntry, *, force: bool = False) -> list[str]:
        """What follows the program's name."""
        argv = []
        if step.config is not None:
            argv += ["--config", self._beside(step, step.config)]
        argv += ["--output", storage.join(self.options.output, step.name)]
        argv += ["--force"] if force else []
        argv += ["--test-limit", str(step.test_limit)] if step.test_limit is not None else []
        argv += [f"inputs.{name}={self._input(step, value)}" for name, value in step.inputs.items()]
        for key, value in step.overrides.items():
            filled = self._fill(step, value) if isinstance(value, str) else value
            argv.append(f"{key}={json.dumps(filled)}")  # JSON is YAML: a text stays a text whatever it looks like
        return argv

    def _input(self, step: StepEntry, value: str) -> str:
        filled = self._fill(step, value)
        first = filled.split("/", 1)[0]
        if first in [entry.name for entry in self.config.steps]:
            return storage.join(self.options.output, filled)
        if filled == "lenscat" or "://" in filled or filled.startswith("/"):
            return filled
        return self._beside(step, filled)

    def _beside(self, step: StepEntry, text: str) -> str:
        """A path relative to the pipeline's file; in a copied pipeline, relative to the folder it was copied from."""
        for folder in (self.path.parent, CONFIGS / "pipelines"):
            if (folder / text).exists():
                return str((folder / text).resolve())
        names = [entry.name for entry in self.config.steps]
        nearest = difflib.get_close_matches(text.split("/", 1)[0], names, n=1)
        hint = f"; did you mean the step {nearest[0]!r}?" if nearest else "."
        raise InputError(
            f"Step {step.name} of {self.path.name} refers to {text}, which is neither an earlier step nor a file{hint}"
        )

    def _fill(self, step: StepEntry, text: str) -> str:
        def variable(match: re.Match[str]) -> str:
            value = os.environ.get(match[1], "")
            if not value:
                raise InputError(
                    f"Step {step.name} of {self.path.name} needs the environment variable {match[1]}; set it and run again."
                )
            return value

        text = re.sub(r"\$\{(\w+)\}", variable, text).replace("{output}", self.options.output)
        for name in step.services:
            text = text.replace(f"{{{name}}}", self.services.get(name, f"http://{name}"))
        return text

    def command(self, step: StepEntry, *, force: bool = False) -> list[str]:
        """The whole command line of a step on the chosen engine."""
        job = jobs.find(step.run)
        arguments = self.arguments(step, force=force)
        if job.engine == "spark":
            return [*self._spark_submit(), file_of(job.module), *arguments]
        python = [sys.executable, "-m", job.module, *arguments]
        if job.engine == "ray" and self.options.ray_on != "local":
            lensdata = str(Path(sys.executable).with_name("lensdata"))
            return [lensdata, "ray", "submit", "--address", self.options.ray_on, "--", "python", *python[1:]]
        return python

    def _spark_submit(self) -> list[str]:
        return spark_submit(self.config.spark)

    def decide(self, step: StepEntry) -> tuple[steps.State, bool]:
        """What is to be done about a step, and whether it needs ``--force``.

        A step of which only inputs changed that other steps of this pipeline made replaces its output without being told, as
        a make rule would; any other difference is an error for the user to decide.
        """
        if step.name in self.options.force:
            return "replace", True
        request = self.request(step)
        try:
            return steps.state(request), False
        except InputError:
            names = {entry.name for entry in self.config.steps}
            changed = steps.changed_inputs(request)
            if changed and all(name in step.inputs and step.inputs[name].split("/", 1)[0] in names for name in changed):
                return "replace", True
            raise


def spark_submit(spark: SparkSubmit) -> list[str]:
    """The ``spark-submit`` line up to the job's file."""
    conf = [item for key, value in spark.conf.items() for item in ("--conf", f"{key}={value}")]
    return [
        str(Path(sys.executable).with_name("spark-submit")),
        "--master",
        spark.master,
        "--driver-memory",
        spark.driver_memory,
        *conf,
    ]


def spark_command(step: str, arguments: list[str]) -> list[str]:
    """The command line of one Spark step on this machine, outside a pipeline."""
    return [*spark_submit(SparkSubmit()), file_of(jobs.find(step).module), *arguments]


def file_of(module: str) -> str:
    """The file of a job's module, which is not imported."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise InputError(f"The package of {module} is not installed.")
    return spec.origin


def run(pipeline: Pipeline, screen: Screen) -> dict[str, float]:
    """Run every step that is not done; returns seconds per step that ran.

    Raises
    ------
    StepFailed
        A step failed; those before it stand.
    InputError
        An output was made with another configuration, or another run is at work in this folder.
    """
    seconds: dict[str, float] = {}
    names = [step.name for step in pipeline.config.steps]
    first = names.index(pipeline.options.start_from) if pipeline.options.start_from else 0
    clusters = _clusters(pipeline, screen)
    with ExitStack() as stack:
        lock = stack.enter_context(_lock(pipeline.options.output))
        if clusters:
            clusters.begin()
        for index, step in enumerate(pipeline.config.steps, 1):
            if index <= first or step.name in seconds:
                continue
            now, force = pipeline.decide(step)
            if now == "done":
                screen.skipped(index, step.name)
                continue
            if clusters and jobs.find(step.run).engine == "spark":
                seconds |= clusters.run_from(step, force)
                continue
            for service in step.services:
                if service not in pipeline.services:
                    pipeline.services[service] = stack.enter_context(_service(pipeline, service))
            seconds[step.name] = _run_step(pipeline, step, index, force, lock, screen, resumed=now == "resume")
    return seconds


def _clusters(pipeline: Pipeline, screen: Screen) -> Any:
    """What runs Spark steps elsewhere; None where they run here."""
    if pipeline.options.spark_on == "local":
        return None
    from infra.emr.launch import Launcher  # boto3, which only this needs

    return Launcher.of(pipeline, screen)


def _run_step(
    pipeline: Pipeline, step: StepEntry, index: int, force: bool, lock: int, screen: Screen, *, resumed: bool
) -> float:
    if jobs.find(step.run).engine == "spark" and not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        raise InputError(f"Step {step.name} needs Java 17 for Spark: install it, or set JAVA_HOME to where it is.")
    command = pipeline.command(step, force=force)
    log = log_file(pipeline, f"{index:02d}-{step.name}")
    offset = log.stat().st_size if log.exists() else 0
    screen.begin(index, step.name)
    process = processes.start(
        command, log, keep_open=(lock,), environment=environment(step.run) | {"PYTHONUNBUFFERED": "1"}
    )
    try:
        code = processes.follow(process, log, offset, screen.update)
    except BaseException:
        processes.stop(process)
        screen.end(False, " (stopped)")
        raise
    took = screen.end(code == 0, " (resumed)" if resumed and code == 0 else "")
    if code != 0:
        raise StepFailed(step.name, code, processes.last_error(log, offset), log)
    return took


def log_file(pipeline: Pipeline, name: str) -> Path:
    """Where what a step says is kept."""
    return local_folder(pipeline.options.output) / "logs" / f"{name}.log"


def local_folder(output: str) -> Path:
    """Where lock and logs of a run lie: in its output folder, for one on S3 under ``runs/`` here."""
    return Path("runs") / f"s3-{text_hash(output)}" if storage.is_s3(output) else storage.local_path(output)


@contextmanager
def _lock(output: str) -> Iterator[int]:
    """One run per output folder. Steps inherit the lock, so a step that outlives a killed runner still holds it."""
    folder = local_folder(output)
    storage.make_folder(str(folder))
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"Another run is at work in {output}; wait until it ends, or stop it.") from error
        yield handle.fileno()


@contextmanager
def _service(pipeline: Pipeline, name: str) -> Iterator[str]:
    entry = pipeline.config.services[name]
    survey = storage.join(pipeline.options.output, entry.survey)
    log, ready = log_file(pipeline, f"service-{name}"), log_file(pipeline, f"service-{name}").with_suffix(".port")
    ready.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        SERVICE_MODULES[entry.run],
        "--survey",
        survey,
        "--port",
        "0",
        "--port-file",
        str(ready),
        *entry.options,
    ]
    process = processes.start(command, log)
    try:
        yield f"http://127.0.0.1:{processes.wait_for_file(ready, process, log)}"
    finally:
        processes.stop(process)


def describe(pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    """(step, command line with its state) for ``--dry-run``; services come before the first step that needs them."""
    for number, (name, entry) in enumerate(pipeline.config.services.items()):
        port = str(DRY_RUN_PORT + number)
        pipeline.services[name] = f"http://127.0.0.1:{port}"
        survey = storage.join(pipeline.options.output, entry.survey)
        command = [sys.executable, "-m", SERVICE_MODULES[entry.run], "--survey", survey, "--port", port, *entry.options]
        yield f"service {name}: start it in another terminal before the steps that ask it", shlex.join(command)
    for step in pipeline.config.steps:
        try:
            now, force = pipeline.decide(step)
            note = {"done": "# done, would be skipped\n", "resume": "# would go on\n"}.get(now, "")
        except InputError as error:  # inputs that an earlier step has yet to write are no error here
            note, force = ("" if "does not exist" in str(error) else f"# refused: {error}\n"), False
        settings = " ".join(f"{key}={shlex.quote(value)}" for key, value in environment(step.run).items())
        yield step.name, note + " ".join(filter(None, [settings, shlex.join(pipeline.command(step, force=force))]))


def environment(job: str) -> dict[str, str]:
    """What a job needs in its environment: Spark runs the Python that it is told, not the one of its own process."""
    return {"PYSPARK_PYTHON": sys.executable} if jobs.find(job).engine == "spark" else {}


def headline(pipeline: Pipeline) -> dict[str, Any]:
    """The headline metrics that the pipeline names, or nothing."""
    if pipeline.config.headline is None:
        return {}
    uri = storage.join(pipeline.options.output, pipeline.config.headline)
    return dict(storage.read_json(uri)) if storage.exists(uri) else {}


def run_command(command: list[str], more: dict[str, str] | None = None) -> int:
    """Print a command line and run it in the foreground, with ``more`` in its environment."""
    print(f"$ {shlex.join(command)}", flush=True)  # noqa: T201 - the console command shows what it runs
    return subprocess.run(command, check=False, env=os.environ | (more or {})).returncode
