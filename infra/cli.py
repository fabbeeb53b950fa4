"""The console command: sugar over ``spark-submit``, ``ray job submit`` and ``python -m`` lines, which it prints."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra import doctor, model_cli, report_cli, runs_cli, shards_cli, vet_cli
from infra import pipeline as pipelines
from infra.emr import cli as emr_cli
from infra.ray import cli as ray_cli
from infra.screen import Screen
from lensdata import __version__, storage
from lensdata.config.base import load_config
from lensdata.config.pipeline import PipelineConfig
from lensdata.errors import InputError
from lensdata.steps import EXIT_DONE, EXIT_FAILED, EXIT_INPUT


def entry() -> None:
    """The ``lensdata`` program."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run a command line; returns the exit code (0 done, 1 a step failed, 2 bad input)."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        code = int(args.function(args))
        sys.stdout.flush()  # here, where a reader that has gone is no error
        return code
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INPUT
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to say goes nowhere
        return EXIT_DONE
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130
    except Exception as error:  # of AWS's client, wherever s3:// was asked; any other is a defect and keeps its trace
        said = _said_by_aws(error)
        if said is None:
            raise
        print(f"error: {said}", file=sys.stderr)
        return EXIT_INPUT


def _said_by_aws(error: Exception) -> str | None:
    """What is wrong between here and AWS, as a sentence; None where the error is of something else."""
    if "botocore" not in sys.modules:
        return None
    from infra.emr import aws  # boto3, which only those who use AWS need

    behind = aws.error_behind(error)
    if behind is None:
        return None
    try:
        with aws.sentences("asking AWS"):
            raise behind
    except InputError as sentence:
        return str(sentence)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lensdata", description="Training sets of strong-lens finders: build, train, audit."
    )
    parser.add_argument("--version", action="version", version=f"lensdata {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run", help="run a pipeline", description="Run the steps of a pipeline that are not done."
    )
    run.add_argument("pipeline", help="YAML file, or the name of one in configs/pipelines")
    demo = commands.add_parser("demo", help="a simulated sky, from sweeps to a report, in minutes")
    demo.set_defaults(pipeline="demo")
    for command in (run, demo):
        command.add_argument("--output", help="folder or s3:// URI of the run; runs/NAME by default")
        command.add_argument("--spark-on", choices=["local", "emr"], default="local", help="where Spark steps run")
        emr_cli.add_run_options(command)
        command.add_argument(
            "--ray-on",
            default="local",
            metavar="local|ADDRESS",
            help="where Ray steps run: here, or a cluster's dashboard address",
        )
        command.add_argument(
            "--force",
            action="append",
            default=[],
            metavar="STEP",
            help="run a step again; later ones follow where its content changed",
        )
        command.add_argument(
            "--from", dest="start_from", metavar="STEP", help="do not look at the steps before this one"
        )
        command.add_argument("--dry-run", action="store_true", help="print the command lines and run nothing")
        command.set_defaults(function=_run)
    _add_module(
        commands, "mock-survey", "lensdata.simulation.survey", "write a simulated survey (sweep files, sources, truth)"
    )
    _add_module(
        commands, "model", "ray_train.model", "what networks cost: parameters, arithmetic, memory; one by NAME, or all"
    )
    verify = commands.add_parser(
        "verify-sweeps",
        help="compare sweep files with the release's SHA-256 list",
        description="Hash every sweep file and compare it with the release's list; exit 1 if one differs.",
    )
    verify.add_argument("sweeps", help="folder, s3:// URI, or a .txt list of paths and addresses")
    verify.add_argument("checksums", help="the release's list, e.g. legacysurvey_dr10_south_sweep_10.1.sha256sum")
    verify.add_argument("--output", default="runs/verify_sweeps", help="folder or s3:// URI of the result")
    verify.add_argument("--force", action="store_true", help="hash again what was hashed")
    verify.set_defaults(function=_verify_sweeps)
    shards_cli.add_parsers(commands)
    runs_cli.add_parsers(commands)
    model_cli.add_parsers(commands)
    vet_cli.add_parsers(commands)
    emr_cli.add_parsers(commands)
    ray_cli.add_parsers(commands)
    doctor.add_parsers(commands)
    report = commands.add_parser(
        "report",
        help="the report of a run, or of several side by side",
        description="Each FOLDER is an evaluation, a pipeline's output that holds one, or a training run, which is then evaluated.",
    )
    report.add_argument("folders", nargs="+", metavar="FOLDER", help="folder or s3:// URI; NAME=FOLDER gives it a name")
    report.add_argument("--output", default="reports", help="folder or s3:// URI of what is made; reports by default")
    report.set_defaults(function=report_cli.run)
    return parser


def _add_module(commands: Any, name: str, module: str, text: str) -> None:
    """Add a command whose arguments, options and help are those of ``python -m MODULE``."""
    # no character begins an option here, so that options, too, reach the module
    command = commands.add_parser(name, help=text, add_help=False, prefix_chars="\0")
    command.add_argument("arguments", nargs=argparse.REMAINDER)
    command.set_defaults(function=lambda args: pipelines.run_command([sys.executable, "-m", module, *args.arguments]))


def _verify_sweeps(args: argparse.Namespace) -> int:
    settings = [f"inputs.sweeps={args.sweeps}", f"inputs.checksums={args.checksums}", "--output", args.output]
    command = pipelines.spark_command("verify_sweeps", settings + (["--force"] if args.force else []))
    return pipelines.run_command(command, pipelines.environment("verify_sweeps"))


def _run(args: argparse.Namespace) -> int:
    path = _pipeline_file(args.pipeline)
    output = args.output or f"runs/{load_config(PipelineConfig, path).name}"
    output = output.rstrip("/") if storage.is_s3(output) else str(Path(output).resolve())
    options = pipelines.Options(
        output, args.spark_on, args.ray_on, tuple(args.force), args.start_from, args.dry_run, args.emr, args.yes
    )
    pipeline = pipelines.Pipeline.load(str(path), options)
    if args.dry_run and args.spark_on == "emr":
        return emr_cli.plan(pipeline)
    if args.dry_run:
        for name, command in pipelines.describe(pipeline):
            print(f"# {name}\n{command}\n")
        return EXIT_DONE
    screen = Screen(len(pipeline.config.steps))
    screen.say(f"{pipeline.config.name}: {pipeline.config.description}".rstrip(": "), "bold")
    screen.say(f"output {output}")
    try:
        seconds = pipelines.run(pipeline, screen)
    except pipelines.StepFailed as failure:
        screen.say(failure.message, "red")
        screen.say(f"log     {failure.log}")
        screen.say(f"resume  {_resume(args)}")
        return EXIT_INPUT if failure.code == EXIT_INPUT else EXIT_FAILED
    _finish(pipeline, screen, seconds)
    return EXIT_DONE


def _resume(args: argparse.Namespace) -> str:
    """The command that goes on from a failure; what was forced and done need not be forced again."""
    words = ["lensdata", "run", args.pipeline, *(["--output", args.output] if args.output else [])]
    words += ["--spark-on", args.spark_on] if args.spark_on != "local" else []
    words += [*(["--emr", args.emr] if args.emr else []), *(["--yes"] if args.yes else [])]
    words += ["--ray-on", args.ray_on] if args.ray_on != "local" else []
    words += ["--from", args.start_from] if args.start_from else []
    return shlex.join(words)


def _pipeline_file(name: str) -> Path:
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = pipelines.CONFIGS / "pipelines" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in (pipelines.CONFIGS / "pipelines").glob("*.yaml")))
        raise InputError(
            f"Pipeline {name} does not exist; give a YAML file or one of {known or 'the configs/pipelines of a checkout'}."
        )
    return path


def _finish(pipeline: pipelines.Pipeline, screen: Screen, seconds: dict[str, float]) -> None:
    screen.say(f"{len(seconds)} of {len(pipeline.config.steps)} steps ran in {sum(seconds.values()):.0f} s", "bold")
    found = pipelines.headline(pipeline)
    for name, value in found.items():
        if isinstance(value, dict) and "value" in value and "check" not in value:
            screen.say(f"  {_metric(name, value)}")
    if "branch" in found:  # of a study
        for line in (
            f"decision {found['branch']}: {found['sentence']}",
            found["stability"]["sentence"],
            *found["notes"],
        ):
            screen.say(f"  {line}")
    verdicts = Counter(line["verdict"] for line in found.get("verdicts", []))
    if verdicts:
        screen.say("  verdicts " + ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()))
    if pipeline.config.report:
        screen.say(f"report  {storage.join(pipeline.options.output, pipeline.config.report)}", "bold")


def _metric(name: str, entry: dict[str, Any]) -> str:
    title = entry.get("title", name)
    if entry.get("false_positives_allowed") == 0:
        return f"{title} not measurable with {entry['n_negative']} others"
    text = f"{title} {entry['value']:.4f}"
    if entry.get("low") is not None and entry.get("high") is not None:
        text += f"  (95% interval {entry['low']:.4f} to {entry['high']:.4f})"
    counts = [
        f"{entry[key]} {word}"
        for key, word in (("n_positive", "lenses"), ("n_negative", "others"))
        if entry.get(key) is not None
    ]
    return text + (f"  {', '.join(counts)}" if counts else "")


if __name__ == "__main__":
    entry()
