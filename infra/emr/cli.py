"""``lensdata emr``: package, plan, submit, status, logs, terminate (R-I1)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from infra import pipeline as pipelines
from infra.screen import Screen
from lensdata import jobs
from lensdata.config.base import load_config
from lensdata.config.emr import EmrConfig
from lensdata.config.pipeline import StepEntry
from lensdata.errors import InputError
from lensdata.steps import EXIT_DONE, EXIT_FAILED

DEFAULT_CONFIG = pipelines.CONFIGS / "infra" / "emr.yaml"


def add_run_options(command: argparse.ArgumentParser) -> None:
    """Options of ``lensdata run`` for ``--spark-on emr``."""
    command.add_argument("--emr", metavar="FILE", help="EMR configuration; configs/infra/emr.yaml by default")
    command.add_argument("--yes", action="store_true", help="start clusters without asking")


def add_parsers(commands: Any) -> None:
    """Add ``emr`` and its commands."""
    emr = commands.add_parser("emr", help="Spark steps on Amazon EMR: plan, submit, watch, end")
    actions = emr.add_subparsers(required=True, metavar="ACTION")
    for name, text, function in (
        ("plan", "print what a cluster would do and cost; asks AWS only whether outputs exist", _plan),
        ("submit", "start a cluster for the Spark steps that come next, and do not wait", _submit),
        ("status", "the cluster of a run, and its steps", _status),
    ):
        command = actions.add_parser(name, help=text, description=text)
        command.add_argument("pipeline", help="YAML file")
        command.add_argument("--output", required=True, help="s3:// URI of the run")
        command.add_argument("--force", action="append", default=[], metavar="STEP", help="run a step again")
        command.set_defaults(function=function)
    logs = actions.add_parser(
        "logs", help="what a step said", description="What a step said; the failed one by default."
    )
    logs.add_argument("cluster", help="id of a cluster: j-…")
    logs.add_argument("step", nargs="?", help="name of a step; the failed one by default")
    logs.set_defaults(function=_logs)
    terminate = actions.add_parser("terminate", help="end a cluster; finished steps stand")
    terminate.add_argument("cluster", help="id of a cluster: j-…")
    terminate.set_defaults(function=_terminate)
    package = actions.add_parser("package", help="make the archive of Python packages; asks the package index")
    package.set_defaults(function=_package)
    for command in actions.choices.values():
        add_run_options(command)


def _config(args: argparse.Namespace) -> EmrConfig:
    return load_config(EmrConfig, args.emr or DEFAULT_CONFIG)


def _launcher(args: argparse.Namespace) -> Any:
    from infra.emr.launch import Launcher

    pipeline = _pipeline(args)
    return Launcher.of(pipeline, Screen(len(pipeline.config.steps)))


def _pipeline(args: argparse.Namespace) -> pipelines.Pipeline:
    path = Path(args.pipeline)
    if not path.is_file():
        raise InputError(f"Pipeline {path} does not exist; give a YAML file, for example configs/pipelines/demo.yaml.")
    output = args.output.rstrip("/")
    options = pipelines.Options(output, "emr", force=tuple(args.force), emr_config=args.emr, yes=args.yes)
    return pipelines.Pipeline.load(str(path), options)


def _next(launcher: Any) -> tuple[StepEntry, bool] | None:
    """The first step that is not done, where it is Spark's; None where nothing is left for Spark.

    Raises
    ------
    InputError
        A step that runs elsewhere comes first.
    """
    for step in launcher.pipeline.config.steps:
        now, force = launcher.pipeline.decide(step)
        if now == "done":
            continue
        if jobs.find(step.run).engine != "spark":
            raise InputError(
                f"Step {step.name} comes first and runs no Spark; lensdata run --spark-on emr runs it here."
            )
        return step, force
    return None


def _plan(args: argparse.Namespace) -> int:
    return plan(_pipeline(args))


def plan(pipeline: pipelines.Pipeline) -> int:
    """Print the clusters that a run would start now: files, each line as by hand, the request, and what it may cost."""
    from infra.emr import cost
    from infra.emr.launch import Launcher, describe

    launcher = Launcher.of(pipeline, Screen(len(pipeline.config.steps)))
    left = {step.name for step in pipeline.config.steps if not launcher.finished(step)}
    names = [step.name for step in pipeline.config.steps]
    first = names.index(pipeline.options.start_from) if pipeline.options.start_from else 0
    shown: set[str] = set()
    for index, step in enumerate(pipeline.config.steps):
        if step.name in shown:
            continue
        if index < first:
            print(f"# {step.name}: before --from {pipeline.options.start_from}\n")
            continue
        if step.name not in left or jobs.find(step.run).engine != "spark":
            print(f"# {step.name}: {'not on a cluster' if step.name in left else 'has an output'}\n")
            continue
        planned = launcher.plan(step, step.name in pipeline.options.force, frozenset(left))
        print(f"{describe(planned)}\n")
        shown |= {line.name for line in planned.steps}
    for line in cost.describe(launcher.config):
        print(line)
    return EXIT_DONE


def _submit(args: argparse.Namespace) -> int:
    launcher = _launcher(args)
    found = launcher.living()
    if found:
        raise InputError(f"Cluster {found} of this run is at work; lensdata emr status, or terminate {found} first.")
    wanted = _next(launcher)
    if wanted is None:
        print("Every step is done.")
        return EXIT_DONE
    launcher.make_ready()
    cluster = launcher.submit(launcher.plan(*wanted))
    print(
        f"cluster {cluster} ends by itself; lensdata run {args.pipeline} --output {args.output} --spark-on emr watches it"
    )
    return EXIT_DONE


def _status(args: argparse.Namespace) -> int:
    from infra.emr import aws, watch

    launcher = _launcher(args)
    cluster = launcher.living((*watch.LIVING, "TERMINATING", *watch.ENDED))
    if cluster is None:
        print("No cluster of this run is known.")
        return EXIT_DONE
    with aws.sentences(f"looking at cluster {cluster}"):
        state = watch.look(launcher.clients.emr, cluster)
    print(f"{cluster} {state.state}" + (f" ({state.reason})" if state.reason else ""))
    for step in state.steps:
        print(f"  {step.state:<11} {step.name}" + (f"  {step.reason}" if step.reason else ""))
    return EXIT_DONE


def _logs(args: argparse.Namespace) -> int:
    from infra.emr import aws, logs, watch

    config = _config(args)
    clients = aws.connect(config)
    with aws.sentences(f"reading the logs of {args.cluster}"):
        state = watch.look(clients.emr, args.cluster)
        wanted = [step for step in state.steps if step.name == args.step] if args.step else [state.failed_step]
        if not wanted or wanted[0] is None:
            names = ", ".join(step.name for step in state.steps)
            raise InputError(
                f"Cluster {args.cluster} has no {f'step {args.step!r}' if args.step else 'failed step'}; name one of {names}."
            )
        said = logs.fetch(clients.s3, config, args.cluster, wanted[0].id, 0.0)
    print(said or "No log yet: EMR copies logs to S3 every 5 minutes.")
    return EXIT_DONE if said else EXIT_FAILED


def _terminate(args: argparse.Namespace) -> int:
    from infra.emr import aws, watch

    watch.terminate(aws.connect(_config(args)).emr, args.cluster)
    print(f"cluster {args.cluster} is ending")
    return EXIT_DONE


def _package(args: argparse.Namespace) -> int:
    from infra.emr import archive

    dependencies = _config(args).dependencies
    folder = Path("runs") / "emr"
    code, deps = archive.pack_code(folder), archive.pack_dependencies(dependencies)
    for name, made in (("code", code), ("packages", deps)):
        print(f"{name:<9} {made.sha256}  {made.path.stat().st_size / 1e6:.1f} MB  {made.path}")
    print(archive.try_imports(code, deps, dependencies))
    return EXIT_DONE
