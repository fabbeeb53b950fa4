"""Whether a folder of stamps is what it says: checksums, pages, pixels, and every ledger line and manifest row (R-C3)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lensdata import storage, tables
from lensdata.cutouts.outcome import STORED
from lensdata.errors import InputError
from lensdata.hashing import pixel_hash
from lensdata.shards.folders import Ints, StampFolder
from lensdata.shards.layout import ImageLayout
from lensdata.shards.manifests import resolve
from lensdata.shards.reader import open_shard

MANIFEST_COLUMNS = ["cutout_id", "shard", "row_group", "row"]
FILES_AT_ONCE = 4  # hashing leaves Python's lock alone, and S3 is waited for
COMMON = ("shape", "dtype", "bands", "unit")  # of the layouts of all files


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file: which property, what it should be, what it is."""

    file: str
    what: str
    expected: str
    found: str


@dataclass(frozen=True)
class Verification:
    """The result: what was read, and what is wrong with it.

    Attributes
    ----------
    files, stamps, bytes
        Shard files, their rows and bytes.
    checksums
        Files that were compared with a SHA-256.
    hashed
        Stamps whose pixels were compared with a pixel_hash.
    """

    folder: str
    kind: str
    files: int
    stamps: int
    bytes: int
    checksums: int
    hashed: int
    faults: list[Fault]


@dataclass
class _FileContent:
    """What a shard file holds: keys and pixel hashes by row, rows before each row group; ``whole`` if all could be read."""

    uri: str
    faults: list[Fault] = field(default_factory=list)
    layout: ImageLayout | None = None
    ids: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    hashes: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    hashed: int = 0
    bytes: int = 0
    whole: bool = False


def verify(folder: StampFolder) -> Verification:
    """Read a whole folder and compare all that it says of itself.

    Every file of every table inside is compared with its SHA-256 in ``_table.json``; of every shard all pages are read against
    their checksums, pixels are hashed and compared with ``pixel_hash``; of a fetch every stored line of the ledger must have
    its row, and every row of its parts a line; of manifests every row must name its stamp.

    Returns
    -------
    Verification
        With one `Fault` per thing that is wrong, an empty list where all is well.
    """
    with ThreadPoolExecutor(FILES_AT_ONCE) as threads:
        contents = {content.uri: content for content in threads.map(lambda uri: _read(folder, uri), folder.files)}
    faults = [fault for content in contents.values() for fault in content.faults]
    checksums, wrong = _check_tables(folder)
    faults += _check_finished(folder) + wrong + _check_layouts(folder, contents) + _check_keys(folder, contents)
    if folder.ledger is not None:
        faults += _check_ledger(folder, contents)
    for manifest in folder.manifests:
        faults += _check_manifest(folder, manifest, contents)
    return Verification(
        folder=folder.uri,
        kind=folder.kind,
        files=len(folder.files),
        stamps=sum(len(content.ids) for content in contents.values()),
        bytes=sum(content.bytes for content in contents.values()),
        checksums=checksums,
        hashed=sum(content.hashed for content in contents.values()),
        faults=faults,
    )


def _read(folder: StampFolder, uri: str) -> _FileContent:
    content, name = _FileContent(uri), folder.name_of(uri)
    if not storage.exists(uri):
        content.faults.append(Fault(name, "file", "a shard", "nothing there"))
        return content
    content.bytes = storage.size(uri)
    try:
        shard = open_shard(uri)
    except InputError as error:
        content.faults.append(Fault(name, "shard", "a Parquet file of stamps", str(error)))
        return content
    content.layout, content.whole = shard.layout, True
    ids: list[Ints] = []
    for group in range(shard.num_row_groups):
        content.starts.append(len(content.hashes))
        try:
            rows, stamps = shard.read_rows(group), shard.read_group(group)
        except InputError as error:
            why = str(error).removeprefix(f"{uri}: ")
            content.faults.append(Fault(name, f"row group {group}", "pages with the right checksums", why))
            content.whole = False
            break
        if "cutout_id" not in rows.column_names:
            content.faults.append(Fault(name, "columns", "cutout_id", ", ".join(rows.column_names)))
            content.whole = False
            break
        found = [pixel_hash(stamp) for stamp in stamps]
        ids.append(rows["cutout_id"].to_numpy().astype(np.int64))
        content.hashes += found
        if "pixel_hash" in rows.column_names:
            content.hashed += len(found)
            said = rows["pixel_hash"].to_pylist()
            content.faults += [
                Fault(name, f"pixel_hash of {key}", str(old), new)
                for key, old, new in zip(ids[-1], said, found, strict=True)
                if old != new
            ]
    content.ids = np.concatenate(ids) if ids else content.ids
    return content


def _check_finished(folder: StampFolder) -> list[Fault]:
    """A step's folder has its mark; shards alone have none."""
    step = folder.kind != "shards" or storage.exists(storage.join(folder.uri, "_table.json"))
    if not step or storage.exists(storage.join(folder.uri, "_SUCCESS")):
        return []
    return [Fault("_SUCCESS", "file", "the mark of a finished step", "nothing there")]


def _check_tables(folder: StampFolder) -> tuple[int, list[Fault]]:
    """Files of every table inside, and of the tables of files elsewhere, against SHA-256 and rows in ``_table.json``."""
    inside = [name.rsplit("/", 1)[0] for name in storage.list_files(folder.uri, "/_table.json")]
    owners = {uri: storage.join(uri, "..", "..") for uri in folder.files}
    elsewhere = {owner for owner in owners.values() if owner not in inside}
    wanted: dict[str, str] = {}
    faults: list[Fault] = []
    for table in [*inside, *sorted(elsewhere)]:
        described = storage.join(table, "_table.json")
        if not storage.exists(described):
            continue
        try:
            entry = storage.read_json(described)
        except InputError as error:
            faults.append(Fault(folder.name_of(described), "file", "JSON", str(error)))
            continue
        listed = {storage.join(table, name): digest for name, digest in entry.get("files", {}).items()}
        if table in elsewhere:  # of another folder only the files that this one uses
            wanted |= {uri: digest for uri, digest in listed.items() if uri in owners}
            continue
        wanted |= listed
        if "files" in entry:
            faults += _check_rows(folder, table, entry, listed)
    with ThreadPoolExecutor(FILES_AT_ONCE) as threads:
        digests = dict(zip(wanted, threads.map(_digest, wanted), strict=True))
    for uri, digest in wanted.items():
        if digests[uri] is None and uri not in folder.files:  # a missing shard has its line already
            faults.append(Fault(folder.name_of(uri), "file", "a file of its table", "nothing there"))
        elif digests[uri] is not None and digests[uri] != digest:
            faults.append(Fault(folder.name_of(uri), "SHA-256", digest, str(digests[uri])))
    return sum(digest is not None for digest in digests.values()), faults


def _digest(uri: str) -> str | None:
    return storage.sha256(uri) if storage.exists(uri) else None


def _check_rows(folder: StampFolder, table: str, entry: dict[str, Any], listed: dict[str, str]) -> list[Fault]:
    files = tables.dataset_files(table)
    name = folder.name_of(storage.join(table, "_table.json"))
    faults = [
        Fault(folder.name_of(uri), "file", f"listed in {name}", "not there") for uri in files if uri not in listed
    ]
    try:
        rows = sum(_rows_in(uri) for uri in files)
    except (pa.ArrowInvalid, OSError):
        return faults  # the file has its own line
    return faults if rows == entry["rows"] else [*faults, Fault(name, "rows", f"{entry['rows']}", f"{rows}")]


def _rows_in(uri: str) -> int:
    return int(pq.read_metadata(storage.open_arrow(uri)).num_rows)


def _check_layouts(folder: StampFolder, contents: dict[str, _FileContent]) -> list[Fault]:
    """All files hold stamps of one layout, that of the first."""
    known = [(folder.name_of(content.uri), content.layout) for content in contents.values() if content.layout]
    return [
        Fault(name, key, f"{getattr(known[0][1], key)} as in {known[0][0]}", str(getattr(layout, key)))
        for name, layout in known[1:]
        for key in COMMON
        if getattr(layout, key) != getattr(known[0][1], key)
    ]


def _check_keys(folder: StampFolder, contents: dict[str, _FileContent]) -> list[Fault]:
    """A stamp is in one place."""
    own = [contents[uri] for uri in folder.own]
    if not own:
        return []
    keys = np.concatenate([content.ids for content in own])
    files = np.repeat(np.arange(len(own)), [len(content.ids) for content in own])
    order = np.argsort(keys, kind="stable")
    again = order[1:][keys[order][1:] == keys[order][:-1]]
    return [
        Fault(folder.name_of(own[files[at]].uri), f"cutout_id {keys[at]}", "a stamp of its own", "a second row of it")
        for at in np.sort(again)
    ]


def _check_ledger(folder: StampFolder, contents: dict[str, _FileContent]) -> list[Fault]:
    """Every stored line has its row, every row of the folder's own files a line."""
    assert folder.ledger is not None
    faults = [Fault(folder.name_of(uri), "table", "a readable ledger", why) for uri, why in folder.unreadable]
    repeated = folder.ledger["cutout_id"][folder.ledger["cutout_id"].duplicated()]
    faults += [Fault("ledger", f"cutout_id {key}", "one line", "another line") for key in repeated]
    nowhere = folder.ledger[(folder.ledger["outcome"] == STORED) & folder.ledger[["part", "row"]].isna().any(axis=1)]
    faults += [Fault("ledger", f"cutout_id {key}", "part and row", "none") for key in nowhere["cutout_id"]]
    for uri, content in contents.items():
        if not content.whole:
            continue  # reported as such
        name = folder.name_of(uri)
        lines = folder.lines.get(uri, pd.DataFrame({"row": [], "cutout_id": [], "pixel_hash": []}, dtype=object))
        for row, key, digest in zip(lines["row"], lines["cutout_id"], lines["pixel_hash"], strict=True):
            if not 0 <= row < len(content.ids):
                faults.append(Fault(name, f"row {row}", f"stamp {key} of the ledger", f"{len(content.ids)} rows"))
            elif content.ids[row] != key:
                found = f"stamp {content.ids[row]}"
                faults.append(Fault(name, f"row {row}", f"stamp {key} of the ledger", found))
            elif content.hashes[row] != digest:
                faults.append(Fault(name, f"the ledger's pixel_hash of {key}", str(digest), content.hashes[row]))
        if uri in folder.own:
            without = np.setdiff1d(np.arange(len(content.ids)), lines["row"].to_numpy(np.int64))
            faults += [
                Fault(name, f"row {row}", "a stored line of the ledger", f"stamp {content.ids[row]} without one")
                for row in without
            ]
    return faults


def _check_manifest(folder: StampFolder, manifest: str, contents: dict[str, _FileContent]) -> list[Fault]:
    """Every row of a manifest names the place of its stamp."""
    name = folder.name_of(manifest)
    try:
        rows = list(_manifest_rows(manifest))
    except InputError as error:
        return [Fault(name, "table", "a manifest", str(error))]
    faults = []
    for key, shard, group, row in rows:
        content = contents.get(resolve(manifest, shard))
        if content is None or not content.whole:
            continue  # an NPZ object, or a file with a line of its own
        at = content.starts[group] + row if 0 <= group < len(content.starts) and row >= 0 else len(content.ids)
        found = f"stamp {content.ids[at]}" if at < len(content.ids) else "no such row"
        if found != f"stamp {key}":
            place = f"{shard}, row group {group}, row {row}"
            faults.append(Fault(name, place, f"stamp {key}", found))
    return faults


def _manifest_rows(manifest: str) -> Iterator[tuple[int, str, int, int]]:
    for piece in tables.iterate(manifest, MANIFEST_COLUMNS, check=False):
        yield from zip(*(piece[column].to_pylist() for column in MANIFEST_COLUMNS), strict=True)
