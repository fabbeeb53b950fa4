"""The command lines of a cluster's steps, each as one would type it on the primary machine."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from infra.emr.archive import Archive
from infra.pipeline import SERVICE_MODULES, Pipeline, file_of
from lensdata import jobs, storage
from lensdata.config.base import dump_yaml
from lensdata.config.emr import EmrConfig
from lensdata.config.pipeline import StepEntry
from lensdata.errors import InputError

PREFLIGHT = "preflight"
SERVICE = "service-"
HOST = "LENSDATA_PRIMARY"  # stands for the address of the primary, which only the cluster knows
SERVICE_WAIT_S = 180
# Executors on other machines ask it; the security groups of stack.yaml let nobody else.
EVERYWHERE = "0.0.0.0"  # noqa: S104  # nosec B104


@dataclass(frozen=True)
class Bundle:
    """Code and packages on S3; the SHA-256 of each is in its address."""

    code: str
    deps: str
    code_sha256: str
    deps_sha256: str


@dataclass(frozen=True)
class ClusterStep:
    """A step as EMR runs it, on the primary."""

    name: str
    command: tuple[str, ...]

    def by_hand(self) -> str:
        """The line to type on the primary."""
        return shlex.join(self.command)


class Files:
    """What command lines refer to, by the content of each file.

    Nothing is sent while lines are made: ``plan`` prints them without touching S3.
    """

    def __init__(self, config: EmrConfig, folder: Path) -> None:
        self._base = f"s3://{config.bucket}"
        self._prefix = config.prefix
        self._folder = folder
        self.wanted: dict[str, Archive] = {}  # by key

    def add(self, kind: str, path: Path, name: str | None = None) -> str:
        """The URI that a local file will have."""
        archive = Archive.of(path)
        key = f"{self._prefix}/{kind}/{archive.sha256}/{name or path.name}"
        self.wanted[key] = archive
        return f"{self._base}/{key}"

    def write(self, kind: str, name: str, text: str) -> str:
        """The URI that a text will have."""
        path = self._folder / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return self.add(kind, path)


def bundle(files: Files, code: Archive, deps: Archive) -> Bundle:
    """Where the two archives will lie."""
    return Bundle(
        files.add("code", code.path, "code.tar.gz"),
        files.add("deps", deps.path, "deps.tar.gz"),
        code.sha256,
        deps.sha256,
    )


def spark_submit(
    config: EmrConfig, packed: Bundle, job: str, files: Sequence[str], arguments: Sequence[str]
) -> list[str]:
    """A ``spark-submit`` in cluster mode: driver and executors unpack both archives into their working folders."""
    environment = {
        "PYSPARK_PYTHON": config.python,
        "PYTHONPATH": "./code:./deps",  # YARN appends pyspark's own
        "AWS_DEFAULT_REGION": config.region,  # pyarrow and boto3 ask; the machine's role gives credentials
    }
    conf = {f"spark.yarn.appMasterEnv.{key}": value for key, value in environment.items()}
    conf |= {f"spark.executorEnv.{key}": value for key, value in environment.items()}
    conf |= config.spark_conf
    line = ["spark-submit", "--master", "yarn", "--deploy-mode", "cluster"]
    line += ["--archives", f"{packed.code}#code,{packed.deps}#deps"]
    line += ["--files", ",".join(files)] if files else []
    line += [item for key, value in conf.items() for item in ("--conf", f"{key}={value}")]
    return [*line, job, *arguments]


def preflight_step(config: EmrConfig, packed: Bundle, files: Files, output: str) -> ClusterStep:
    """The first step of every cluster: do the executors import what they need, and compute what they should?"""
    job = files.add("jobs", Path(file_of(jobs.find(PREFLIGHT).module)))
    arguments = ["--output", storage.join(output, f"_{PREFLIGHT}"), "--force"]
    return ClusterStep(PREFLIGHT, tuple(spark_submit(config, packed, job, [], arguments)))


def pipeline_step(
    config: EmrConfig, packed: Bundle, files: Files, pipeline: Pipeline, step: StepEntry, *, force: bool
) -> ClusterStep:
    """A step of the pipeline: what a user's local line says, with what it reads from this machine brought to S3.

    The configuration travels as one complete file, overrides included: YARN takes ``}}`` of a nested override for the end of
    a variable. Only addresses of services, which the cluster alone knows, stay on the command line.
    """
    request = pipeline.request(step, force=force)
    name = f"{step.name}.yaml"
    text = f"# Complete configuration of the step {step.name} of {pipeline.config.name}.\n{dump_yaml(request.config)}"
    settings = files.write("configs", name, text)
    job = files.add("jobs", Path(file_of(jobs.find(step.run).module)))
    arguments = ["--config", name, "--output", request.output]
    arguments += ["--force"] if force else []
    arguments += ["--test-limit", str(step.test_limit)] if step.test_limit is not None else []
    placed = replace(pipeline, services=service_addresses(config, pipeline))
    for item in placed.arguments(step, force=force):
        key, _, value = item.partition("=")
        if key.startswith("inputs."):
            arguments.append(f"{key}={_reachable(files, step, value)}")
        elif HOST in item:
            arguments.append(item)
    line = spark_submit(config, packed, job, [settings], arguments)
    return ClusterStep(
        step.name, ("bash", "-c", f"exec {_shell(line)}") if any(HOST in w for w in line) else tuple(line)
    )


def service_addresses(config: EmrConfig, pipeline: Pipeline) -> dict[str, str]:
    """The address of each service of a pipeline, on the primary."""
    return {
        name: f"http://{HOST}:{config.service_port + number}" for number, name in enumerate(pipeline.config.services)
    }


def service_step(config: EmrConfig, packed: Bundle, pipeline: Pipeline, name: str) -> ClusterStep:
    """Start a pipeline's service on the primary and leave it running; the step ends when it answers."""
    entry = pipeline.config.services[name]
    port = config.service_port + list(pipeline.config.services).index(name)
    survey = storage.join(pipeline.options.output, entry.survey)
    line = [
        config.python, "-m", SERVICE_MODULES[entry.run], "--survey", survey, "--host", EVERYWHERE, "--port", str(port),
        "--port-file", "port", *entry.options,
    ]  # fmt: skip
    script = f"""set -euo pipefail
cd "$(mktemp -d)"
aws s3 cp --only-show-errors {packed.code} code.tar.gz
aws s3 cp --only-show-errors {packed.deps} deps.tar.gz
printf '%s  %s\\n' {packed.code_sha256} code.tar.gz {packed.deps_sha256} deps.tar.gz | sha256sum --check --quiet
for part in code deps; do mkdir $part; tar -xzf $part.tar.gz -C $part; done
export PYTHONPATH=$PWD/code:$PWD/deps AWS_DEFAULT_REGION={config.region}
setsid nohup {shlex.join(line)} > service.log 2>&1 < /dev/null &
for _ in $(seq {SERVICE_WAIT_S}); do
  if test -s port; then echo "{name} answers on port $(cat port)"; exit 0; fi
  if ! kill -0 $!; then cat service.log >&2; exit 1; fi
  sleep 1
done
cat service.log >&2
echo "error: {name} was not ready after {SERVICE_WAIT_S} s" >&2
exit 1"""
    return ClusterStep(f"{SERVICE}{name}", ("bash", "-c", script))


def _reachable(files: Files, step: StepEntry, value: str) -> str:
    """An input as the cluster can read it."""
    if value == "lenscat" or "://" in value:
        return value
    path = Path(value)
    if not path.is_file():
        raise InputError(
            f"Step {step.name} reads the folder {value} of this machine, which a cluster cannot: copy it to s3:// and name that."
        )
    return files.add("inputs", path)


def _shell(line: Sequence[str]) -> str:
    """A line for bash in which the primary fills in its own name."""
    words = ["'" + word.replace("'", "'\"'\"'") + "'" for word in line]
    return " ".join(words).replace(HOST, "'\"$(hostname -f)\"'")
