"""``lensdata doctor``: is this machine, this bucket, this cluster ready; one line each, and what to do (R-I2, R-I5)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra import checks
from infra.checks import Finding
from lensdata.errors import InputError
from lensdata.steps import EXIT_DONE, EXIT_FAILED

STYLES = {"OK": "green", "WARN": "yellow", "FAIL": "bold red"}
Check = Callable[[], Iterator[Finding]]


def add_parsers(commands: Any) -> None:
    """Add ``doctor`` to the console command's subparsers."""
    text = "check this machine, a bucket and a Ray cluster; exit 1 if something fails"
    doctor = commands.add_parser("doctor", help=text, description=f"{text[0].upper()}{text[1:]}.")
    doctor.add_argument(
        "--ray",
        metavar="ADDRESS",
        nargs="?",
        const="",
        help="dashboard of a cluster (found as by `lensdata ray`): nodes, versions, clocks, token",
    )
    doctor.add_argument("--s3", metavar="URI", help="write, read and delete one object under s3://BUCKET/PREFIX")
    doctor.add_argument(
        "--runs", default="runs", help="folder of runs, whose disk is looked at; %(default)s by default"
    )
    doctor.add_argument("--deep", action="store_true", help="start Spark and Ray on this machine, too (a minute)")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(function=run)


def run(args: argparse.Namespace) -> int:
    """Make every check that was asked for, show the findings, and return the exit code."""
    console = Console(highlight=False)
    found = []
    with console.status("looking") if console.is_terminal and not args.json else nullcontext():
        for name, check in _checks(args):
            found += _safely(name, check)
    show(found, console, as_json=args.json)
    return EXIT_FAILED if any(one.verdict == "FAIL" for one in found) else EXIT_DONE


def _checks(args: argparse.Namespace) -> Iterator[tuple[str, Check]]:
    yield from (("python", checks.python), ("packages", checks.packages), ("java", checks.java))
    if args.deep:
        yield from (("spark starts", checks.spark_starts), ("ray starts", checks.ray_starts))
    yield from (
        ("gpu", checks.gpu),
        ("disk", lambda: checks.disk(Path(args.runs))),
        ("shared memory", checks.shared_memory),
        ("ray auth", checks.ray_token),
    )
    if args.s3:
        yield "s3", lambda: checks.bucket(args.s3)
    if args.ray is not None:
        from infra.ray import examination

        yield "cluster", lambda: examination.cluster(args.ray)


def _safely(name: str, check: Check) -> list[Finding]:
    """What a check finds; one that cannot be made has failed, and the others are made all the same."""
    found: list[Finding] = []
    try:
        found.extend(check())
    except InputError as error:
        found.append(Finding(name, "FAIL", str(error)))
    except Exception as error:  # noqa: BLE001 - a doctor that falls over says nothing about the rest
        found.append(Finding(name, "FAIL", f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]))
    return found


def show(found: list[Finding], console: Console, *, as_json: bool) -> None:
    """JSON, a table on a terminal, or plain lines."""
    if as_json:
        sys.stdout.write(json.dumps([asdict(one) for one in found], indent=1) + "\n")
        return
    if console.is_terminal:
        console.print(_table(found))
    else:
        for one in found:
            sys.stdout.write(f"{one.verdict:<5} {one.what}: {one.found}{_rest(one, '; ')}\n")
    counts = {verdict: sum(one.verdict == verdict for one in found) for verdict in STYLES}
    console.print(
        f"{counts['OK']} fine, {counts['WARN']} to look at, {counts['FAIL']} failed",
        style=next(STYLES[verdict] for verdict in ("FAIL", "WARN", "OK") if counts[verdict] or verdict == "OK"),
    )


def _table(found: list[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold")
    table.add_column("expected, and what to do", overflow="fold")
    for one in found:
        rest = "" if one.verdict == "OK" else _rest(one, "\n").lstrip()
        table.add_row(Text(one.verdict, STYLES[one.verdict]), one.what, Text(one.found), Text(rest))
    return table


def _rest(one: Finding, separator: str) -> str:
    if one.verdict == "OK":
        return ""
    parts = [f"expected {one.expected}" if one.expected else "", one.advice]
    return "".join(separator + part for part in parts if part)
