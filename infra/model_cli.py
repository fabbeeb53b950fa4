"""``lensdata bundle`` and ``lensdata score-positions``: a trained model as a folder, and a user's positions scored with it."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from infra import pipeline as pipelines
from infra.report_cli import named
from lensdata import storage
from lensdata.errors import InputError
from lensdata.steps import EXIT_DONE


def add_parsers(commands: Any) -> None:
    """Add ``bundle`` and ``score-positions`` to the console command's subparsers."""
    bundle = commands.add_parser(
        "bundle",
        help="a trained run as a model bundle",
        description="Weights, preprocessing, calibration, thresholds and model card in a folder; of several runs the mean logit.",
    )
    bundle.add_argument(
        "runs", nargs="+", metavar="RUN", help="training run, local or s3://; NAME=FOLDER gives it a name"
    )
    bundle.add_argument("--manifest", metavar="FOLDER", help="what it was trained on, where that has moved")
    bundle.add_argument("--evaluation", metavar="FOLDER", help="its evaluation, for the model card")
    bundle.add_argument("--onnx", action="store_true", help="write model.onnx too, and compare it with torch")
    _add_common(bundle, _bundle)
    score = commands.add_parser(
        "score-positions",
        help="fetch, check and score stamps at positions of a table",
        description="Every row of TABLE comes back with its score or the reason why it has none, as a table, a CSV and a page.",
    )
    score.add_argument("table", metavar="TABLE", help="CSV, ECSV, FITS or Parquet with columns ra and dec in degrees")
    score.add_argument("--model", required=True, metavar="BUNDLE", help="folder that lensdata bundle wrote")
    score.add_argument("--prevalence", type=float, help="share of lenses among such galaxies; 1e-4 by default")
    score.add_argument("--lenses", metavar="TABLE", help="catalogue of known lenses; lenscat by default")
    score.add_argument("--service", metavar="URL", help="address of the cutout service")
    score.add_argument("--contact", metavar="MAIL", help="your address, told to the service")
    score.add_argument("--rate", type=float, metavar="N", help="requests per second; 1 by default")
    score.add_argument("--retry", action="store_true", help="ask again for what could not be had")
    _add_common(score, _score)


def _add_common(command: argparse.ArgumentParser, function: Any) -> None:
    command.add_argument("--output", required=True, metavar="FOLDER", help="folder or s3:// URI to write")
    command.add_argument("--config", metavar="FILE", help="YAML of the step, for all its other keys")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the configuration")
    command.add_argument("--force", action="store_true", help="replace a finished output")
    command.set_defaults(function=function)


def _bundle(args: argparse.Namespace) -> int:
    runs = named(args.runs)
    manifest = args.manifest or _manifest_of(runs[0][1])
    words = [f"inputs.manifest={manifest}", *(f"inputs.runs.{name}={uri}" for name, uri in runs)]
    words += [f"inputs.evaluation={args.evaluation}"] if args.evaluation else []
    code = _run("ray_train.make_bundle", args, words + (["onnx=true"] if args.onnx else []))
    if code == EXIT_DONE:
        print(f"card  {storage.join(args.output, 'model_card.md')}")
    return code


def _manifest_of(run: str) -> str:
    place = storage.join(run, "run_info.json")
    if not storage.exists(place):
        raise InputError(f"{run} has no run_info.json, so it is not a training run.")
    manifest = str(storage.read_json(place)["manifest"]["uri"])
    if not storage.exists(manifest):
        raise InputError(f"Manifest {manifest} of run {run} is not there any more; say where it is: --manifest FOLDER.")
    return manifest


def _score(args: argparse.Namespace) -> int:
    words = [f"inputs.table={args.table}", f"inputs.model={args.model}"]
    words += [f"inputs.lenses={args.lenses}"] if args.lenses else []
    given = {
        "prevalence": args.prevalence, "service.url": args.service, "service.contact": args.contact,
        "service.requests_per_second": args.rate,
    }  # fmt: skip
    words += [f"{key}={value}" for key, value in given.items() if value is not None]
    code = _run("ray_train.score_positions", args, words + (["--retry"] if args.retry else []))
    if code == EXIT_DONE:
        print(f"page  {storage.join(args.output, 'page.html')}")
    return code


def _run(module: str, args: argparse.Namespace, words: list[str]) -> int:
    command = [sys.executable, "-m", module, *(["--config", args.config] if args.config else []), *words, *args.set]
    return pipelines.run_command([*command, "--output", args.output, *(["--force"] if args.force else [])])
