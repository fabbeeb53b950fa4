"""``lensdata vet``: look at stamps on a local page, then report and export the grades."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lensdata import storage
from lensdata.errors import InputError
from lensdata.steps import EXIT_DONE, setup_logging
from lensdata.vetting.agreement import summary
from lensdata.vetting.grades import GRADES, Ledger, Standing, check_name, read_standing
from lensdata.vetting.items import CONTROLS, Request
from lensdata.vetting.session import Session, open_session, read_session
from lensdata.vetting.verdicts import RULES, export

PORT = 8765
PORT_MAX = 65535
CONTROL_NAMES = {"lenses": "lens", "random": "random"}


def add_parsers(commands: Any) -> None:
    """Add ``vet`` to the console command's subparsers."""
    vet = commands.add_parser(
        "vet",
        help="look at stamps on a local page and grade them",
        description="LIST: a page on this machine to grade the stamps of a list. report FOLDER: agreement and control recall. "
        "export FOLDER: one verdict per stamp, as a table for the cleaning.",
    )
    vet.add_argument(
        "what",
        nargs="+",
        metavar="LIST | report FOLDER | export FOLDER",
        help="table folder, .parquet or .csv with a column cutout_id; or what to do with a folder that is begun",
    )
    vet.add_argument(
        "--manifest", action="append", default=[], metavar="URI", help="manifest that has the stamps; may be repeated"
    )
    vet.add_argument("--output", help="folder of session and grades; with export, the table to write")
    vet.add_argument("--top", type=_count, metavar="N", help="only the first N of the list")
    vet.add_argument(
        "--controls",
        metavar="lenses=K,random=K",
        help="known lenses and random negatives to mix in; 20 of each in a blind session, none in another",
    )
    vet.add_argument(
        "--blind",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="hide scores, names and controls, and shuffle; on by default",
    )
    vet.add_argument("--graders", metavar="NAME,NAME", help="let in these names only")
    vet.add_argument("--seed", type=_count, default=0, help="of order and controls (%(default)s)")
    vet.add_argument("--port", type=_port, default=PORT, help="of the page (%(default)s); 0 for any that is free")
    vet.add_argument(
        "--listen",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="let other machines in by this address; not encrypted",
    )
    vet.add_argument("--json", action="store_true", help="with report: print JSON")
    vet.add_argument(
        "--rule", choices=RULES, default=RULES[0], help="with export: how grades become a verdict (%(default)s)"
    )
    vet.add_argument(
        "--min-graders", type=_count, default=1, metavar="N", help="with export: fewer grades are none (%(default)s)"
    )
    vet.add_argument("--force", action="store_true", help="with export: replace the table")
    vet.set_defaults(function=_run)


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, found {text!r}")
    return int(text)


def _port(text: str) -> int:
    if (port := _count(text)) > PORT_MAX:
        raise argparse.ArgumentTypeError(f"expected a port of at most {PORT_MAX}, found {text}")
    return port


def _run(args: argparse.Namespace) -> int:
    if len(args.what) == 2 and args.what[0] in ("report", "export"):
        return _report(args) if args.what[0] == "report" else _export(args)
    if len(args.what) != 1 or args.what[0] in ("report", "export"):
        raise InputError(f"lensdata vet takes LIST, report FOLDER or export FOLDER, found {' '.join(args.what)!r}.")
    return _serve(args)


def _serve(args: argparse.Namespace) -> int:
    try:
        from lensdata.vetting import admission, server  # aiohttp, which only this page needs
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        raise InputError(
            "lensdata vet needs aiohttp; install lensdata with its extra: pip install 'lensdata[vet]'."
        ) from error
    if not args.manifest or not args.output:
        raise InputError(
            "lensdata vet LIST needs --manifest URI, where the stamps are, and --output FOLDER, for the grades."
        )
    if args.top == 0:
        raise InputError("--top must be at least 1, found 0.")
    setup_logging()
    graders = [check_name(name) for name in args.graders.split(",")] if args.graders else []
    request = Request(listed=args.what[0], manifests=tuple(uri.rstrip("/") for uri in args.manifest), top=args.top,
                      blind=args.blind, seed=args.seed, **controls(args.controls, blind=args.blind))  # fmt: skip
    session = open_session(args.output, request)
    with Ledger(session.folder, session.id, _keys(session)) as ledger:
        _announce(session, ledger.standing)
        if not admission.is_loopback(args.listen):
            print(
                f"warning: whoever reaches {args.listen} and has the address below can grade; nothing is encrypted.",
                file=sys.stderr,
            )
        try:
            server.serve(session, ledger, port=args.port, listen=args.listen, graders=graders, ready=_ready)
        except KeyboardInterrupt:
            print(f"\nStopped; {ledger.standing.lines} lines are in {ledger.path}. The same command goes on from here.")
    return EXIT_DONE


def controls(text: str | None, *, blind: bool) -> dict[str, Any]:
    """What ``--controls lenses=K,random=K`` asks for, as arguments of `Request`.

    >>> controls("lenses=5", blind=True)
    {'lenses': 5, 'random': 0, 'strict': True}
    """
    if text is None:
        return {} if blind else {"lenses": 0, "random": 0}
    found = dict.fromkeys(CONTROL_NAMES, 0)
    for part in text.split(","):
        name, _, count = part.partition("=")
        if name not in found or not count.isdigit():
            raise InputError(f"--controls is like lenses=20,random=20, found {text!r}.")
        found[name] = int(count)
    return {**found, "strict": True}


def _announce(session: Session, standing: Standing) -> None:
    mixed = {sort: session.items["control"].to_pylist().count(sort) for sort in CONTROLS}
    print(f"{len(session):,} stamps, of which {mixed['lens']} known lenses and {mixed['random']} random negatives as controls"
          f"{'' if session.blind else '; not blind'}")  # fmt: skip
    for name, own in sorted(standing.grades.items()):
        print(f"  {name} has graded {len(own):,}")


def _ready(url: str) -> None:
    print(f"open    {url}\nCtrl-C  stops; every grade is on the disk when the page says so", flush=True)


def _keys(session: Session) -> set[int]:
    return set(session.cutout_ids.tolist())


def _begun(args: argparse.Namespace) -> tuple[Session, Standing]:
    session = read_session(args.what[1])
    return session, read_standing(Path(session.folder), session.id, _keys(session))


def _report(args: argparse.Namespace) -> int:
    session, standing = _begun(args)
    found = summary(session, standing)
    if args.json:
        print(json.dumps(found, indent=1))
        return EXIT_DONE
    console = Console(width=None if sys.stdout.isatty() else 200)
    print(
        f"{found['stamps']:,} stamps, {found['controls']['lens']} known lenses and {found['controls']['random']} random "
        "negatives among them"
    )
    if not found["graders"]:
        print("nobody has graded yet")
        return EXIT_DONE
    table = _table(
        "grader", "graded", *GRADES, "seconds each", "lenses found", "or maybe", "random called lens", "or maybe"
    )
    for one in found["graders"]:
        known, other = one["controls_lens"], one["controls_random"]
        shares = [_share(part[name], part["n"]) for part in (known, other) for name in ("as_lens", "as_lens_or_maybe")]
        table.add_row(
            one["name"],
            str(one["graded"]),
            *(str(one[grade]) for grade in GRADES),
            f"{one['median_seconds']:.1f}",
            *shares,
        )
    console.print(table)
    _agreement(console, "kappa", found["agreement"])
    _agreement(console, "kappa without controls", found["agreement_without_controls"])
    return EXIT_DONE


def _agreement(console: Console, title: str, found: dict[str, Any] | None) -> None:
    if found is None:
        return
    table = _table(title, "both graded", "value", "95% interval")
    for pair in found["pairs"]:
        table.add_row(" and ".join(pair["graders"]), str(pair["n"]), *_limits(pair))
    if found["mean"]:
        table.add_row("mean of pairs", "", *_limits(found["mean"]))
    console.print(table)


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False, header_style="bold")


def _limits(entry: dict[str, Any]) -> tuple[str, str]:
    if entry["value"] is None:
        return "not measurable", ""
    return f"{entry['value']:.3f}", f"{entry['low']:.3f} to {entry['high']:.3f}" if entry["low"] is not None else ""


def _share(entry: dict[str, Any], count: int) -> str:
    if entry["value"] is None:
        return "none graded"
    return f"{entry['value']:.2f} of {count} ({entry['low']:.2f} to {entry['high']:.2f})"


def _export(args: argparse.Namespace) -> int:
    if not args.output:
        raise InputError("lensdata vet export FOLDER needs --output TABLE, a folder or s3:// URI to write.")
    session, standing = _begun(args)
    counts = export(session, standing, args.output, rule=args.rule, min_graders=args.min_graders, force=args.force)
    print(f"table   {storage.join(args.output)}")
    for name, count in counts.items():
        print(f"  {count:,} {name}")
    return EXIT_DONE
