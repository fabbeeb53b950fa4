"""Copies of shards near the processor that reads them: from S3 to a node's own disk, checked and resumable (R-T5).

Each file is written under a name of its own that ends in ``.part``, compared with the SHA-256 that the table it belongs to
has on record, and only then given its name. What an interruption leaves is gone on with, not fetched again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from lensdata import storage
from lensdata.errors import InputError
from lensdata.shards.manifests import Manifest, resolve

PIECE_BYTES = 1 << 22
SPARE_BYTES = 1 << 28  # left free on the disk: logs and checkpoints are written beside the copies
ATTEMPTS = 2  # a copy with a wrong checksum is made once more before it is given up


@dataclass(frozen=True)
class Wanted:
    """A file to be copied: where from, where to, its size in bytes and its SHA-256 if one is on record."""

    source: str
    target: Path
    size: int
    digest: str | None


@dataclass(frozen=True)
class Copied:
    """What a copy of several files came to: files looked at, files that were there already, bytes fetched."""

    files: int
    present: int
    fetched_bytes: int


def sync_folder(
    source: str, target: Path, *, workers: int = 8, seen: Callable[[int, int], None] = lambda done, total: None
) -> Copied:
    """Copy a finished step's folder to a local one; the marks of its tables come last.

    Parameters
    ----------
    source
        Folder with ``_SUCCESS``, local or ``s3://``.
    target
        New folder, or one that an interrupted copy of the same content began.
    workers
        Files copied at once.
    seen
        Called with (files done, files in all).

    Raises
    ------
    InputError
        The source is missing or unfinished; the target is the source, is inside it or holds something else; the disk is too
        small; a file is not what its table says.
    """
    target = _target(source, target)
    if not storage.exists(storage.join(source, "_SUCCESS")):
        raise InputError(f"{source} has no _SUCCESS, so it is no finished folder; wait for the step that writes it.")
    digests = _digests(source)
    prefix = len(storage.join(source, "x")) - 1
    files = {uri[prefix:]: uri for uri in storage.list_files(source)}
    missing = sorted(set(digests) - set(files))
    if missing:
        raise InputError(
            f"{source} lacks {missing[0]}, which its table lists; run the step that wrote it with --force."
        )
    wanted = [Wanted(uri, target / name, storage.size(uri), digests.get(name)) for name, uri in sorted(files.items())]
    data = [file for file in wanted if file.digest is not None]
    others = [file for file in wanted if file.digest is None]
    others.sort(key=lambda file: storage.publishing_order(file.target.relative_to(target).as_posix()))
    with _alone(target.with_name(f".{target.name}.lock")):
        _require_same(source, target, files)
        target.mkdir(parents=True, exist_ok=True)
        made = fetch(data, target, workers=workers, seen=lambda done, _: seen(done, len(wanted)))
        for number, file in enumerate(others, len(data) + 1):  # few and small; the marks last, in their order
            _copy_whole(file)
            seen(number, len(wanted))
    return replace(made, files=len(wanted), fetched_bytes=made.fetched_bytes + sum(file.size for file in others))


def near(manifest: Manifest, cache: Path, *, workers: int = 8) -> Manifest:
    """The manifest with its shards on a local disk: copied into ``cache`` where they are not there yet.

    A copy is named by its SHA-256, so runs and manifests that use the same shards share it, and a changed shard is another
    file. NPZ objects and shards without a checksum on record stay where they are. Several processes of a node may call this
    at once: one copies a file, the others wait for it.

    Raises
    ------
    InputError
        The disk is too small, or a shard is not what its table says.
    """
    names = pc.unique(manifest.table["shard"]).to_pylist()
    known = {name: (resolve(manifest.uri, name), _digest_of(resolve(manifest.uri, name))) for name in names}
    wanted = {
        name: Wanted(uri, cache / f"{digest}.parquet", storage.size(uri), digest)
        for name, (uri, digest) in known.items()
        if digest is not None
    }
    with _alone(cache / ".lock"):
        fetch(
            list({file.target: file for file in wanted.values()}.values()),
            cache,
            workers=workers,
            named_by_content=True,
        )
    place = {name: str(wanted[name].target.resolve()) if name in wanted else known[name][0] for name in names}
    column = pa.array([place[name] for name in manifest.table["shard"].to_pylist()], pa.string())
    return replace(
        manifest, table=manifest.table.set_column(manifest.table.column_names.index("shard"), "shard", column)
    )


def fetch(
    files: Sequence[Wanted],
    folder: Path,
    *,
    workers: int = 8,
    named_by_content: bool = False,
    seen: Callable[[int, int], None] = lambda done, total: None,
) -> Copied:
    """Copy files with a checksum each; those that are there are not copied again.

    Parameters
    ----------
    folder
        Where they all go, itself or below it.
    named_by_content
        The name of a copy is its checksum: one of the right size is taken without reading it.

    Raises
    ------
    InputError
        The disk is too small, or a file is not what was expected.
    """
    _require_room(files, folder)
    present = fetched = 0
    with ThreadPoolExecutor(max(1, workers)) as pool:
        pending = [pool.submit(_copy, file, named_by_content) for file in files]
        try:
            for done, future in enumerate(as_completed(pending), 1):
                count = future.result()
                present, fetched = present + (count is None), fetched + (count or 0)
                seen(done, len(files))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Copied(len(files), present, fetched)


def _copy(file: Wanted, named_by_content: bool) -> int | None:
    """Bytes fetched for one file, or None where it was there."""
    file.target.parent.mkdir(parents=True, exist_ok=True)
    there = file.target.exists() and file.target.stat().st_size == file.size
    if there and (named_by_content or storage.sha256(str(file.target)) == file.digest):
        return None
    part, fetched, digest = _part(file.target), 0, ""
    for _ in range(ATTEMPTS):
        count, digest = _continue(file, part)
        fetched += count
        if digest == file.digest:
            part.replace(file.target)
            return fetched
        part.unlink()
    raise InputError(
        f"{file.source} has SHA-256 {digest[:16]}…, its table says {(file.digest or '')[:16]}…; "
        "the file was changed or damaged: run the step that wrote it with --force."
    )


def _copy_whole(file: Wanted) -> None:
    """Fetch a file without a checksum from its beginning; what a kill leaves has the name that the next copy knows."""
    file.target.parent.mkdir(parents=True, exist_ok=True)
    part = _part(file.target)
    with part.open("wb") as handle:
        for piece in storage.read_pieces(file.source, 0, file.size, PIECE_BYTES, file.size):
            handle.write(piece)
        handle.flush()
        os.fsync(handle.fileno())
    part.replace(file.target)


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _continue(file: Wanted, part: Path) -> tuple[int, str]:
    """Fetch what a partial copy lacks; returns the bytes fetched and the SHA-256 of the whole."""
    digest = hashlib.sha256()
    with part.open("a+b") as handle:
        handle.seek(0)
        while block := handle.read(PIECE_BYTES):
            digest.update(block)
        begun = handle.tell()
        if begun > file.size:  # of another file
            handle.truncate(0)
            digest, begun = hashlib.sha256(), 0
        fetched = 0
        for piece in storage.read_pieces(file.source, begun, file.size, PIECE_BYTES, file.size):
            handle.write(piece)
            digest.update(piece)
            fetched += len(piece)
        handle.flush()
        os.fsync(handle.fileno())
    return fetched, digest.hexdigest()


def _target(source: str, target: Path) -> Path:
    """The whole name of the target; a copy onto or into its own source would take the marks of what it copies."""
    whole = target.resolve()
    if not storage.is_s3(source) and whole.is_relative_to(storage.local_path(source).resolve()):
        raise InputError(f"{target} is {source} or lies inside it; choose a folder outside.")
    if whole.exists() and not whole.is_dir():
        raise InputError(f"{target} is a file; choose a new folder.")
    return whole


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _require_room(files: Sequence[Wanted], folder: Path) -> None:
    needed = 0
    for file in files:
        there = next((path.stat().st_size for path in (file.target, _part(file.target)) if path.exists()), 0)
        needed += max(file.size - there, 0)
    free = shutil.disk_usage(folder).free
    if needed and needed + SPARE_BYTES > free:
        raise InputError(
            f"{folder} has {free / 1e9:.1f} GB free; the copies need {needed / 1e9:.1f} GB, and {SPARE_BYTES / 1e9:.1f} GB "
            "must stay free. Choose a larger disk."
        )


def _digests(folder: str) -> dict[str, str]:
    """SHA-256 of each file on record in the tables of a folder, by its path inside it."""
    prefix = len(storage.join(folder, "x")) - 1
    found: dict[str, str] = {}
    for mark in storage.list_files(folder, "_table.json"):
        inside = mark[prefix:].rpartition("/")[0]
        listed: dict[str, str] = storage.read_json(mark).get("files", {})
        found |= {f"{inside}/{name}" if inside else name: digest for name, digest in listed.items()}
    return found


def _digest_of(shard: str) -> str | None:
    """The SHA-256 that the table of a shard has on record."""
    table, _, name = shard.rpartition("/dataset/")
    mark = storage.join(table, "_table.json") if table else ""
    if not mark or not storage.exists(mark):
        return None
    digest = storage.read_json(mark).get("files", {}).get(f"dataset/{name}")
    return None if digest is None else str(digest)


def _require_same(source: str, target: Path, files: dict[str, str]) -> None:
    """Refuse a target that holds anything that the source has not: its rows would be read as well."""
    if not target.exists():
        return
    for path in sorted(target.rglob("*")):
        name = path.relative_to(target).as_posix().removesuffix(".part")
        if path.is_file() and name not in files:
            raise InputError(f"{target} holds {name}, which {source} has not; choose a new folder, or remove this one.")
    marks = [path for path in target.rglob("*") if path.name in ("_SUCCESS", "_table.json")]
    for path in sorted(
        marks, key=lambda path: storage.publishing_order(path.relative_to(target).as_posix()), reverse=True
    ):
        path.unlink()  # what is being changed looks unfinished, the tables inside it as well
