"""Spark steps of a pipeline on clusters that end themselves; the pipeline runner asks for them step by step."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from infra import pipeline as pipelines
from infra import processes
from infra.emr import archive, aws, commands, cost, logs, preflight, request, upload, watch
from infra.emr.archive import Archive
from infra.emr.commands import ClusterStep, Files
from infra.emr.show import Show
from infra.screen import Screen
from lensdata import jobs, steps, storage
from lensdata.config.base import load_config
from lensdata.config.emr import EmrConfig
from lensdata.config.pipeline import StepEntry
from lensdata.errors import InputError

DEFAULT_CONFIG = pipelines.CONFIGS / "infra" / "emr.yaml"


@dataclass(frozen=True)
class Plan:
    """What a cluster would be asked to do, before anything is sent."""

    request: dict[str, Any]
    steps: tuple[ClusterStep, ...]
    files: Files
    code: Archive
    deps: Archive


@dataclass
class Launcher:
    """Runs the Spark steps of one pipeline; one cluster at a time."""

    pipeline: pipelines.Pipeline
    config: EmrConfig
    screen: Screen
    yes: bool = False
    clients: aws.Clients = field(init=False)
    _ready: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not storage.is_s3(self.pipeline.options.output):
            raise InputError(
                f"A cluster cannot write to {self.pipeline.options.output}; give --output s3://{self.config.bucket}/runs/NAME."
            )
        self.clients = aws.connect(self.config)

    @classmethod
    def of(cls, pipeline: pipelines.Pipeline, screen: Screen) -> Launcher:
        """The launcher that the options of a pipeline ask for."""
        config = load_config(EmrConfig, pipeline.options.emr_config or DEFAULT_CONFIG)
        return cls(pipeline, config, screen, pipeline.options.yes)

    @property
    def run_id(self) -> str:
        """What tells this run's clusters from others."""
        return request.run_id(self.pipeline.config.name, self.pipeline.options.output)

    @property
    def _folder(self) -> Path:
        return pipelines.local_folder(self.pipeline.options.output) / "emr"

    @cached_property
    def _archives(self) -> tuple[Archive, Archive]:
        """Code and packages, the same for all clusters of this start: a checkout that changes meanwhile changes no later step."""
        return archive.pack_code(self._folder), archive.pack_dependencies(self.config.dependencies)

    def living(self, states: tuple[str, ...] = watch.LIVING) -> str | None:
        """The cluster of this run that is alive, whoever started it."""
        name = request.cluster_name(self.pipeline.config.name, self.run_id)
        with aws.sentences("looking for a cluster of this run"):
            return watch.find(self.clients.emr, name, self.run_id, states)

    def begin(self) -> None:
        """Check everything and ask, unless no Spark step is left or a cluster of this run is at work already."""
        if self._spark_is_left() and not self.living():
            self.make_ready()

    def _spark_is_left(self) -> bool:
        options = self.pipeline.options
        names = [step.name for step in self.pipeline.config.steps]
        first = names.index(options.start_from) if options.start_from else 0
        return any(
            jobs.find(step.run).engine == "spark" and not self.finished(step)
            for step in self.pipeline.config.steps[first:]
        )

    def finished(self, step: StepEntry) -> bool:
        """Whether a step has an output that it need not make again, as far as one look tells; `steps.state` decides."""
        options = self.pipeline.options
        return step.name not in options.force and storage.exists(storage.join(options.output, step.name, "_SUCCESS"))

    def make_ready(self) -> None:
        """Preflight, the estimate, and the question whether to go on.

        Raises
        ------
        InputError
            A check failed, the answer was no, or nobody is there to ask and ``--yes`` was not given.
        """
        if self._ready:
            return
        code, deps = self._archives
        found = preflight.run(
            self.clients,
            self.config,
            self.pipeline,
            lambda: archive.try_imports(code, deps, self.config.dependencies),
        )
        for line in found:
            self.screen.say(str(line), "" if line.verdict == "ok" else "yellow")
        preflight.refuse(found)
        for text in cost.describe(self.config):
            self.screen.say(text)
        self._ask()
        self._ready = True

    def _ask(self) -> None:
        if self.yes:
            return
        if not sys.stdin.isatty():
            raise InputError(
                "This starts machines that cost money and nobody is here to ask; add --yes to go on without."
            )
        if not _yes("Start clusters for this run?"):
            raise InputError("Nothing was started.")

    def run_from(self, step: StepEntry, force: bool) -> dict[str, float]:
        """Run a step and the Spark steps behind it on a cluster; returns seconds per step that ran.

        Raises
        ------
        StepFailed
            A step failed, or the cluster was lost; the cluster has ended.
        """
        ran = self._adopt()
        if ran:
            if step.name in ran:
                return ran
            now, force = self.pipeline.decide(step)
            if now == "done":
                return ran
        self.make_ready()
        cluster = self.submit(self.plan(step, force))
        return ran | self.follow(cluster)

    def _adopt(self) -> dict[str, float]:
        """Watch a cluster that an earlier start of this command left at work; wait for one that is just ending."""
        cluster = self.living()
        if cluster:
            self.screen.say(f"cluster {cluster} of this run is at work: watching it, starting no other")
            return self.follow(cluster)
        ending = self.living(("TERMINATING",))
        if ending:
            self.screen.say(f"cluster {ending} of this run is ending: waiting for that")
            watch.watch(self.clients.emr, ending, self.config, lambda state: None)
        return {}

    def plan(self, step: StepEntry, force: bool, unmade: frozenset[str] = frozenset()) -> Plan:
        """Command lines and request of the cluster that begins with a step; sends nothing.

        ``unmade``: steps whose outputs will be there by then, but are not now.
        """
        files = Files(self.config, self._folder)
        code, deps = self._archives
        packed = commands.bundle(files, code, deps)
        lines = [commands.preflight_step(self.config, packed, files, self.pipeline.options.output)]
        started: set[str] = set()
        for member, forced in members(self.pipeline, step, force, unmade):
            for service in member.services:
                if service not in started:
                    lines.append(commands.service_step(self.config, packed, self.pipeline, service))
                    started.add(service)
            lines.append(commands.pipeline_step(self.config, packed, files, self.pipeline, member, force=forced))
        tags = {"lensdata-pipeline": self.pipeline.config.name, "git-commit": steps.git_commit() or "unknown"}
        asked = request.run_job_flow(self.config, self.pipeline.config.name, self.run_id, lines, tags)
        return Plan(asked, tuple(lines), files, code, deps)

    def submit(self, plan: Plan) -> str:
        """Send the files and start the cluster; returns its id."""
        for key, sent in plan.files.wanted.items():
            with aws.sentences(f"sending s3://{self.config.bucket}/{key}"):
                found = upload.upload(self.clients.s3, sent, self.config.bucket, key)
            if found.state != "there":
                self.screen.say(f"{found.state} {found.uri}", "dim")
        with aws.sentences("starting a cluster"):
            cluster = watch.start(self.clients, plan.request, self.run_id, self.config.poll_s)
        names = ", ".join(step.name for step in plan.steps)
        self.screen.say(f"cluster {cluster} asked for: {names}")
        return cluster

    def follow(self, cluster: str) -> dict[str, float]:
        """Watch a cluster to its end; returns seconds per step.

        Raises
        ------
        StepFailed
            A step failed, or the cluster ended before its steps.
        """
        show = Show(self.screen, [step.name for step in self.pipeline.config.steps])
        try:
            state = watch.watch(self.clients.emr, cluster, self.config, show)
        except KeyboardInterrupt:
            show.stop()
            self._interrupted(cluster)
            raise
        except BaseException:
            show.stop()
            raise
        show.stop()
        if state.failed_step:
            raise self._step_failed(cluster, state.failed_step)
        unfinished = [step.name for step in state.steps if step.state != "COMPLETED"]
        if unfinished:
            raise self._lost(state, unfinished[0])
        for name in show.seconds:
            if not storage.exists(storage.join(self.pipeline.options.output, name, "_SUCCESS")):
                raise self._lost(state, name, f"EMR says that {name} is done, but its output is not there")
        return show.seconds

    def _interrupted(self, cluster: str) -> None:
        if sys.stdin.isatty() and _yes(f"\nEnd cluster {cluster}?"):
            watch.terminate(self.clients.emr, cluster)
            self.screen.say(f"cluster {cluster} is ending")
            return
        self.screen.say(
            f"cluster {cluster} goes on and ends by itself; to end it now: lensdata emr terminate {cluster}"
        )

    def _step_failed(self, cluster: str, failed: watch.StepState) -> pipelines.StepFailed:
        self.screen.say(f"waiting for the log of {failed.name}")
        with aws.sentences(f"reading the log of {failed.name}"):
            said = logs.fetch(self.clients.s3, self.config, cluster, failed.id, self.config.logs_wait_s)
        path = self._log(failed.name)
        offset = path.stat().st_size if path.exists() else 0
        where = f"s3://{self.config.bucket}/{logs.prefix_of(self.config, cluster)}steps/{failed.id}/"
        logs.keep(said or f"No log came to {where}; EMR says: {failed.reason or 'nothing'}", path)
        return pipelines.StepFailed(failed.name, logs.exit_code(said), processes.last_error(path, offset), path)

    def _lost(self, state: watch.ClusterState, name: str, said: str = "") -> pipelines.StepFailed:
        said = said or f"cluster {state.id} ended before it ({state.state}: {state.reason or 'no reason given'})"
        path = self._log(name)
        logs.keep(f"error: {said}", path)
        return pipelines.StepFailed(name, steps.EXIT_FAILED, f"{said}; finished steps stand", path)

    def _log(self, name: str) -> Any:
        names = [step.name for step in self.pipeline.config.steps]
        number = f"{names.index(name) + 1:02d}-" if name in names else "emr-"
        return pipelines.log_file(self.pipeline, f"{number}{name}")


def _yes(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        return False


def members(
    pipeline: pipelines.Pipeline, first: StepEntry, force: bool, unmade: frozenset[str] = frozenset()
) -> list[tuple[StepEntry, bool]]:
    """The steps of the cluster that begins with ``first``, each with whether it is forced.

    Spark steps that follow, up to one that runs elsewhere. One that has an output already and reads what an earlier member
    makes anew ends the group: whether it is to be repeated shows only when that is there.
    """
    names = [step.name for step in pipeline.config.steps]
    found = [(first, force)]
    made = {first.name, *unmade}
    for step in pipeline.config.steps[names.index(first.name) + 1 :]:
        if jobs.find(step.run).engine != "spark":
            break
        if any(value.split("/", 1)[0] in made for value in step.inputs.values()):
            if storage.exists(storage.join(pipeline.options.output, step.name)):
                break
            found.append((step, step.name in pipeline.options.force))
        else:
            now, forced = pipeline.decide(step)
            if now == "done":
                continue
            found.append((step, forced))
        made.add(step.name)
    return found


def describe(plan: Plan) -> str:
    """A plan as text: what is sent, each line as by hand, and the request."""
    lines = ["# files, by content"]
    lines += [f"{sent.sha256[:12]}  {key}" for key, sent in plan.files.wanted.items()]
    for step in plan.steps:
        lines += ["", f"# {step.name}", step.by_hand()]
    shown = {**plan.request, "Steps": [step["Name"] for step in plan.request["Steps"]]}
    return "\n".join([*lines, "", "# RunJobFlow", json.dumps(shown, indent=2)])
