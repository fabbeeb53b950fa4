"""One way to open, list, publish and checksum a local path or an ``s3://`` URI.

S3 goes through s3fs with the usual AWS variables; ``AWS_ENDPOINT_URL_S3`` (or ``AWS_ENDPOINT_URL``) points it at
another store. pyarrow reads Parquet through its own S3 client on the same endpoint, because ranged reads are
the hot path there.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
import shutil
import uuid
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlparse

import fsspec
import pyarrow.fs as pafs

from lensdata.errors import InputError

PUBLISHING = "_publishing"


def is_s3(uri: str) -> bool:
    """True for ``s3://`` (and ``s3a://``) URIs."""
    return uri.startswith(("s3://", "s3a://"))


def local_path(uri: str) -> Path:
    """The path of a local URI (``file:///x`` or a plain path)."""
    return Path(urlparse(uri).path if uri.startswith("file://") else uri)


def join(base: str, *parts: str) -> str:
    """Join and normalise, ``..`` included; an absolute or ``s3://`` part starts anew.

    >>> join("s3://bucket/a/b", "../c")
    's3://bucket/a/c'
    """
    out = str(base)
    for part in parts:
        if is_s3(part) or part.startswith(("/", "file://")):
            out = part
            continue
        scheme, mark, rest = out.partition("://")
        out = (
            f"{scheme}://{posixpath.normpath(posixpath.join(rest, part))}"
            if mark
            else posixpath.normpath(posixpath.join(out, part))
        )
    return out


@lru_cache(maxsize=8)
def _s3(pid: int) -> fsspec.AbstractFileSystem:
    # One client per process: s3fs runs an event loop that a fork must not share.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return fsspec.filesystem("s3", endpoint_url=endpoint or None, use_listings_cache=False)


def fs_of(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of a URI and the path inside it."""
    if is_s3(uri):
        return _s3(os.getpid()), uri.split("://", 1)[1].rstrip("/")
    return fsspec.filesystem("file"), str(local_path(uri))


@lru_cache(maxsize=8)
def _arrow_s3(pid: int) -> pafs.FileSystem:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    retry = pafs.AwsStandardS3RetryStrategy(max_attempts=8)
    if not endpoint:
        return pafs.S3FileSystem(retry_strategy=retry)
    address = urlparse(endpoint)
    return pafs.S3FileSystem(endpoint_override=address.netloc, scheme=address.scheme, retry_strategy=retry)


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The pyarrow file system of a URI and the path inside it."""
    if is_s3(uri):
        return _arrow_s3(os.getpid()), uri.split("://", 1)[1].rstrip("/")
    return pafs.LocalFileSystem(), str(local_path(uri))


def exists(uri: str) -> bool:
    """True if a file or a non-empty folder is there."""
    fs, path = fs_of(uri)
    return bool(fs.exists(path))


def is_folder(uri: str) -> bool:
    """True if ``uri`` is a folder (on S3: a prefix with objects)."""
    fs, path = fs_of(uri)
    return bool(fs.isdir(path))


def list_files(uri: str, suffix: str = "") -> list[str]:
    """All files below a folder (or the file itself), sorted, as URIs."""
    fs, path = fs_of(uri)
    if not fs.exists(path):
        return []
    found = fs.find(path) if fs.isdir(path) else [path]
    prefix = "s3://" if is_s3(uri) else ""
    return sorted(prefix + str(name) for name in found if str(name).endswith(suffix))


def size(uri: str) -> int:
    """Bytes of a file."""
    fs, path = fs_of(uri)
    return int(fs.size(path))


def version(uri: str) -> dict[str, Any]:
    """What tells one state of an input file from another: name, size and etag (S3) or mtime (local)."""
    fs, path = fs_of(uri)
    if not fs.exists(path):
        raise InputError(f"Input {uri} does not exist.")
    info = fs.info(path)
    mark = str(info.get("ETag", "")).strip('"') or str(int(float(info.get("mtime", 0)) * 1e6))
    return {"name": posixpath.basename(path), "size": int(info["size"]), "version": mark}


def open_input(uri: str) -> BinaryIO:
    """Open a file for reading bytes.

    Raises
    ------
    InputError
        If there is no such file.
    """
    fs, path = fs_of(uri)
    if not fs.isfile(path):
        raise InputError(f"Input file {uri} does not exist.")
    return cast(BinaryIO, fs.open(path, "rb"))


def read_bytes(uri: str) -> bytes:
    """The whole file."""
    with open_input(uri) as handle:
        return handle.read()


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, never half of them."""
    if is_s3(uri):  # a PUT is atomic
        fs, path = fs_of(uri)
        fs.pipe_file(path, data)
        return
    target = local_path(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp-{uuid.uuid4().hex[:8]}")
    with temporary.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, target)


def read_json(uri: str) -> Any:
    """Read a JSON file."""
    try:
        return json.loads(read_bytes(uri))
    except json.JSONDecodeError as error:
        raise InputError(f"{uri} is not valid JSON; delete it and run the step that wrote it again.") from error


def write_json(uri: str, value: Any) -> None:
    """Write a JSON file atomically."""
    write_bytes(uri, (json.dumps(value, indent=1, sort_keys=False) + "\n").encode())


def upload_file(source: Path, uri: str) -> None:
    """Move a finished local file to its place, atomically."""
    if is_s3(uri):
        fs, path = fs_of(uri)
        fs.put_file(str(source), path)
        source.unlink()
        return
    target = local_path(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp-{uuid.uuid4().hex[:8]}")
    shutil.move(str(source), temporary)
    os.replace(temporary, target)


def make_folder(uri: str) -> None:
    """Create a local folder; S3 has none to create."""
    if is_s3(uri):
        return
    try:
        local_path(uri).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Folder {uri} cannot be made ({error.strerror}); choose another --output.") from error


def sha256(uri: str) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with open_input(uri) as handle:
        while block := handle.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def remove(uri: str) -> None:
    """Remove a file or a folder with all that is in it; nothing there is fine."""
    fs, path = fs_of(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def set_aside(uri: str) -> str | None:
    """Move a local folder out of the way and return where it is now; None where there is none, or on S3."""
    if is_s3(uri) or not local_path(uri).exists():
        return None
    target = local_path(uri)
    old = target.with_name(f"_old-{uuid.uuid4().hex[:8]}-{target.name}")
    os.rename(target, old)
    return str(old)


def discard_folder(uri: str) -> None:
    """Remove a folder so that an interruption leaves nothing that looks like a finished or started step."""
    if not is_s3(uri):
        old = set_aside(uri)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
        return
    for mark in ("_SUCCESS", "_table.json", "_started.json"):
        remove(join(uri, mark))
    remove(uri)


def leftovers(uri: str) -> list[str]:
    """Work folders and set-aside outputs that an interrupted run of this output left beside it."""
    fs, path = fs_of(uri)
    parent, _, name = path.rpartition("/")
    if not fs.exists(parent):
        return []
    pattern = re.compile(rf"_temporary-{re.escape(name)}-[0-9a-f]{{8}}|_old-[0-9a-f]{{8}}-{re.escape(name)}")
    found = (str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in fs.ls(parent, detail=False))
    return [join(uri, "..", entry) for entry in found if pattern.fullmatch(entry)]


def publishing_order(name: str) -> tuple[bool, bool, str]:
    """Sort key of the files of a folder: data, then the marks of tables inside, then the folder's own mark."""
    return name.rsplit("/", 1)[-1] == "_SUCCESS", name == "_SUCCESS", name


def publish_folder(temporary: str, final: str) -> None:
    """Put a finished folder in its place, replacing what was there.

    Local: two renames. S3 has no rename: objects are copied, the ``_SUCCESS`` marks last and the folder's own after those of
    the tables inside it, so that a reader who asks for a mark never takes a half-copied table for a whole one. `PUBLISHING`
    tells a later run that what it finds was left by an interrupted copy.
    """
    if not is_s3(final):
        target, source = local_path(final), local_path(temporary)
        target.parent.mkdir(parents=True, exist_ok=True)
        old = target.with_name(f"_old-{uuid.uuid4().hex[:8]}-{target.name}")
        if target.exists():
            os.rename(target, old)
        os.rename(source, target)
        shutil.rmtree(old, ignore_errors=True)
        return
    fs, source_path = fs_of(temporary)
    _, target_path = fs_of(final)
    discard_folder(final)
    write_bytes(join(final, PUBLISHING), b"")
    names = [str(name)[len(source_path) + 1 :] for name in fs.find(source_path)]
    for name in sorted(names, key=publishing_order):
        fs.copy(f"{source_path}/{name}", f"{target_path}/{name}")
    remove(join(final, PUBLISHING))
    fs.rm(source_path, recursive=True)
