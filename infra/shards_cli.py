"""``lensdata shards``: look at, check, exchange and pack folders of stamps (R-C3)."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import Progress

from lensdata import storage
from lensdata.errors import InputError
from lensdata.shards import compaction, folders, maintenance, verification
from lensdata.shards import sync as syncing
from lensdata.shards.layout import SURVEY_LAYOUT, ImageLayout
from lensdata.shards.writer import DEFAULT_GROUP_ROWS, DEFAULT_TARGET_BYTES
from lensdata.steps import EXIT_DONE, EXIT_FAILED

MB = 1_000_000  # of a listing, as object stores count
MIB = 1 << 20  # of --shard-mb, as the writer counts
FOLDER = "fetch folder, folder with manifests, or folder of Parquet shards; local or s3://"
QUALITY_COLUMNS = ("missing_frac", "saturated_frac", "edge_score")


def add_parsers(commands: Any) -> None:
    """Add ``shards`` and its seven commands to the console command's subparsers."""
    shards = commands.add_parser("shards", help="verify, list, show, export, import or compact folders of stamps")
    known = shards.add_subparsers(required=True, metavar="COMMAND")

    verify = _command(known, "verify", _verify, "compare files, pages, pixels and ledger; exit 1 if something is wrong")
    verify.add_argument("--json", metavar="FILE", help="write all that was found to a file as well")
    listing = _command(known, "ls", _list, "one line per file")
    listing.add_argument("--json", action="store_true", help="print JSON")
    show = _command(known, "show", _show, "where a stamp is, its columns and its pixels in numbers")
    show.add_argument("id", metavar="ID", help="its cutout_id")
    show.add_argument("--png", metavar="FILE", help="write a picture of its bands and colours")
    export = _command(known, "export-npz", _export, "write OUT/<cutout_id>.npz per stamp, key cutout (H, W, bands)")
    export.add_argument("out", metavar="OUT", help="new folder, local or s3://")
    export.add_argument("--ids", metavar="FILE", help="only the stamps that a text file names, one cutout_id per line")
    bring = _command(
        known, "import-npz", _import, "pack NPZ objects (key cutout) into shards", folder="folder of *.npz files"
    )
    bring.add_argument("out", metavar="OUT", help="new folder, local or s3://")
    bring.add_argument(
        "--bands", default=",".join(SURVEY_LAYOUT.bands), help="one name per plane; %(default)s by default"
    )
    bring.add_argument("--unit", default=SURVEY_LAYOUT.unit, help="unit of the pixels; %(default)s by default")
    bring.add_argument(
        "--pixscale",
        type=float,
        default=SURVEY_LAYOUT.pixscale_arcsec,
        metavar="ARCSEC",
        help="pixel size; %(default)s by default",
    )
    pack = _command(known, "compact", _compact, "pack many small files into few of 64 to 256 MB")
    pack.add_argument("out", metavar="OUT", help="new folder, local or s3://")
    sync = _command(
        known,
        "sync",
        _sync,
        "copy a finished folder to a local disk, checked and resumable",
        folder="finished folder; local or s3://",
    )
    sync.add_argument("out", metavar="OUT", help="new local folder, or one that an interrupted copy began")
    sync.add_argument("--workers", type=int, default=8, help="files copied at once (%(default)s)")
    for command in (bring, pack):
        command.add_argument(
            "--shard-mb", type=int, default=DEFAULT_TARGET_BYTES // MIB, help="file size (%(default)s)"
        )
        command.add_argument(
            "--row-group", type=int, default=DEFAULT_GROUP_ROWS, help="stamps per row group (%(default)s)"
        )


def _sync(args: argparse.Namespace) -> int:
    if storage.is_s3(args.out):
        raise InputError(f"sync copies to a disk of this machine, and {args.out} is none; give a local folder.")
    if args.workers < 1:
        raise InputError(f"--workers must be at least 1, found {args.workers}.")
    with Progress(disable=not sys.stdout.isatty(), transient=True) as bar:
        task = bar.add_task("copying", total=None)
        made = syncing.sync_folder(
            args.folder, Path(args.out), workers=args.workers,
            seen=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    print(
        f"{made.files} files in {args.out}: {made.present} were there, {made.fetched_bytes / MB:.1f} MB copied and checked"
    )
    return EXIT_DONE


def _command(
    known: Any, name: str, function: Callable[[argparse.Namespace], int], text: str, folder: str = FOLDER
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = known.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("folder", metavar="FOLDER", help=folder)
    parser.set_defaults(command=name)
    parser.set_defaults(function=lambda args: _run(function, args))
    return parser


def _run(function: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Run a command; what a disk or a store refuses is said in one sentence as well."""
    try:
        return function(args)
    except BrokenPipeError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and not type(error).__module__.startswith("botocore"):  # an extra, so by name
            raise
        message = " ".join(str(error).split())
        raise InputError(f"{args.command} of {args.folder} met {type(error).__name__}: {message}.") from error


def _verify(args: argparse.Namespace) -> int:
    found = verification.verify(folders.open_folder(args.folder, damaged=True))
    by_file: dict[str, list[verification.Fault]] = defaultdict(list)
    for fault in found.faults:
        by_file[fault.file].append(fault)
    for name, faults in by_file.items():
        more = f" (and {len(faults) - 1:,} more)" if len(faults) > 1 else ""
        print(f"{name}: {faults[0].what}: expected {faults[0].expected}, found {faults[0].found}{more}")
    verdict = (
        f"{_counted(len(found.faults), 'fault')} in {_counted(len(by_file), 'file')}" if found.faults else "all well"
    )
    print(
        f"{_counted(found.files, 'shard file')}, {_counted(found.stamps, 'stamp')}, {found.bytes / MB:,.1f} MB; "
        f"{_counted(found.checksums, 'file')} compared by SHA-256, {_counted(found.hashed, 'stamp')} by pixel hash: {verdict}"
    )
    if args.json:
        storage.write_json(args.json, asdict(found))
    return EXIT_FAILED if found.faults else EXIT_DONE


def _list(args: argparse.Namespace) -> int:
    folder = folders.open_folder(args.folder)
    files = folders.summaries(folder)
    totals = {
        "files": len(files),
        "stamps": sum(entry.stamps for entry in files),
        "row_groups": sum(entry.row_groups for entry in files),
        "bytes": sum(entry.bytes for entry in files),
    }
    if args.json:
        entries = [asdict(entry) for entry in files]
        print(json.dumps({"folder": folder.uri, "kind": folder.kind, "files": entries, "total": totals}, indent=1))
        return EXIT_DONE
    lines = [("file", "stamps", "row groups", "MB", "shape", "type", "bands")]
    lines += [
        (
            entry.file,
            f"{entry.stamps:,}",
            f"{entry.row_groups:,}",
            f"{entry.bytes / MB:,.1f}",
            "x".join(map(str, entry.shape)),
            entry.dtype,
            _joined(entry.bands),
        )
        for entry in files
    ]
    total = _counted(len(files), "file")
    lines.append(
        (total, f"{totals['stamps']:,}", f"{totals['row_groups']:,}", f"{totals['bytes'] / MB:,.1f}", "", "", "")
    )
    _print_table(lines, right=(1, 2, 3))
    return EXIT_DONE


def _show(args: argparse.Namespace) -> int:
    folder = folders.open_folder(args.folder)
    stamp = folders.find_stamp(folder, maintenance.parse_id(args.id))
    layout = stamp.layout
    scale = f", {layout.pixscale_arcsec} arcsec per pixel" if layout.pixscale_arcsec else ""
    print(f"{stamp.file}, row group {stamp.row_group}, row {stamp.row}")
    print(f"{' x '.join(map(str, layout.shape))} {layout.dtype}, {_joined(layout.bands)}, {layout.unit}{scale}\n")
    _print_table([(f"  {name}", _shown(value)) for name, value in _quality_last(stamp.columns)])
    lines = [("  band", "min", "median", "max", "noise", "finite")]
    lines += [
        (
            f"  {band.band}",
            *(f"{value:.4g}" for value in (band.minimum, band.median, band.maximum, band.noise)),
            f"{band.finite:.1%}",
        )
        for band in stamp.bands()
    ]
    print(f"\npixels [{layout.unit}]; noise: 1.4826 MAD")
    _print_table(lines, right=range(1, 6))
    if args.png:
        from lensdata.shards.picture import stamp_png  # matplotlib, and only for pictures

        storage.write_bytes(args.png, stamp_png(stamp))
        print(f"\npicture {args.png}")
    return EXIT_DONE


def _export(args: argparse.Namespace) -> int:
    folder = folders.open_folder(args.folder)
    wanted = maintenance.read_ids(args.ids) if args.ids else None
    count = maintenance.export_npz(folder, args.out, wanted)
    print(f"{_counted(count, 'stamp')} written to {args.out}")
    return EXIT_DONE


def _import(args: argparse.Namespace) -> int:
    bands = tuple(args.bands.split(","))
    # shape and type come from the files
    like = ImageLayout(
        shape=(1, 1, len(bands)), dtype="float32", bands=bands, unit=args.unit, pixscale_arcsec=args.pixscale
    )
    target, rows = _sizes(args)
    count = maintenance.import_npz(args.folder, args.out, like, target_bytes=target, group_rows=rows)
    print(f"{_counted(count, 'stamp')} packed into {args.out}")
    return EXIT_DONE


def _compact(args: argparse.Namespace) -> int:
    target, rows = _sizes(args)
    done = compaction.compact(folders.open_folder(args.folder), args.out, target_bytes=target, group_rows=rows)
    print(
        f"{_counted(done.stamps, 'stamp')}: {_counted(done.files_before, 'file')} of {done.bytes_before / MB:,.1f} MB became "
        f"{len(done.shards):,} of {done.bytes_after / MB:,.1f} MB in {args.out}"
    )
    return EXIT_DONE


def _sizes(args: argparse.Namespace) -> tuple[int, int]:
    for option, value in (("--shard-mb", args.shard_mb), ("--row-group", args.row_group)):
        if value < 1:
            raise InputError(f"{option} must be at least 1, found {value}.")
    return args.shard_mb * MIB, args.row_group


def _quality_last(columns: dict[str, Any]) -> list[tuple[str, Any]]:
    """Columns in their order, those that judge the stamp at the end."""
    return sorted(columns.items(), key=lambda item: item[0].startswith(QUALITY_COLUMNS))


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'s' * (number != 1)}"


def _joined(bands: tuple[str, ...]) -> str:
    return "".join(bands) if all(len(band) == 1 for band in bands) else ",".join(bands)


def _print_table(lines: list[tuple[str, ...]], right: Any = ()) -> None:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
