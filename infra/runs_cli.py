"""``lensdata runs``: which training runs there are, how they differ, and away with one."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from infra.report_cli import named
from lensdata import runs, storage
from lensdata.errors import InputError
from lensdata.steps import EXIT_DONE, EXIT_INPUT

MB = 1_000_000


def add_parsers(commands: Any) -> None:
    """Add ``runs`` and its commands to the console command's subparsers."""
    parser = commands.add_parser("runs", help="list, compare and remove training runs")
    known = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = known.add_parser("list", help="one line per run in a folder and below it")
    listing.add_argument("folder", nargs="?", default="runs", help="local or s3://; runs by default")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(function=_list)
    compare = known.add_parser("compare", help="configuration keys that differ, and what came of each run")
    compare.add_argument("runs", nargs="+", metavar="RUN", help="run folder; NAME=FOLDER gives it a name")
    compare.add_argument("--json", action="store_true", help="print JSON")
    compare.set_defaults(function=_compare)
    remove = known.add_parser("rm", help="remove a run folder, checkpoints and all")
    remove.add_argument("run", metavar="RUN", help="run folder")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    remove.set_defaults(function=_remove)


def _list(args: argparse.Namespace) -> int:
    if not storage.exists(args.folder):
        raise InputError(f"{args.folder} does not exist; give a folder that holds runs.")
    chosen = ["state", "network", "epochs done", "best epoch", "validation AUC", "begun (UTC)"]
    shown, damaged = [], []
    for run in runs.find_runs(args.folder):
        try:
            shown.append(runs.figures({run.uri: run}).T[chosen])
        except InputError as error:  # the others are listed all the same
            damaged.append(str(error))
    if not shown and not damaged:
        raise InputError(f"{args.folder} holds no training run (a folder with run_info.json).")
    _print(pd.concat(shown).sort_values("begun (UTC)") if shown else pd.DataFrame(columns=chosen), args.json, "run")
    for sentence in damaged:
        print(f"error: {sentence}", file=sys.stderr)
    return EXIT_INPUT if damaged else EXIT_DONE


def _compare(args: argparse.Namespace) -> int:
    chosen = {name: runs.open_run(folder) for name, folder in named(args.runs)}
    if len(chosen) < 2:
        raise InputError("lensdata runs compare needs two runs or more.")
    return _print(pd.concat([runs.figures(chosen), runs.differences(chosen)]), args.json, "")


def _remove(args: argparse.Namespace) -> int:
    run = runs.open_run(args.run)
    size = sum(storage.size(name) for name in storage.list_files(run.uri))
    what = f"{run.uri} ({'finished' if run.finished else 'NOT finished'}, {_epochs(run)}, {size / MB:.0f} MB)"
    if not args.yes:
        if not sys.stdin.isatty():
            raise InputError(f"This would remove {what} and nobody is here to ask; add --yes.")
        if input(f"Remove {what}? [y/N] ").strip().lower() not in ("y", "yes"):
            raise InputError("Nothing was removed.")
    storage.discard_folder(run.uri)
    print(f"removed {what}")
    return EXIT_DONE


def _epochs(run: runs.Run) -> str:
    try:
        return f"{len(run.epochs())} epochs"
    except InputError:  # what is damaged is what one wants to remove
        return "damaged"


def _print(frame: pd.DataFrame, as_json: bool, corner: str) -> int:
    if as_json:
        print(json.dumps(json.loads(frame.to_json(orient="index")), indent=1))
        return EXIT_DONE
    table = Table(corner, *(str(column) for column in frame.columns), box=None, pad_edge=False, header_style="bold")
    for name, row in frame.iterrows():
        table.add_row(str(name), *map(_text, row))
    width = None if sys.stdout.isatty() else 200  # a pipe has no width to fit into
    Console(width=width, soft_wrap=False).print(table)
    return EXIT_DONE


def _text(value: Any) -> str:
    if value is None or value != value:
        return "–"
    return (
        f"{value:.4f}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int) and not isinstance(value, bool)
        else str(value)
    )
