"""One way to open, list, publish and checksum a local path or an ``s3://`` URI, and to read from a web server.

S3 goes through s3fs with the usual AWS variables; ``AWS_ENDPOINT_URL_S3`` (or ``AWS_ENDPOINT_URL``) points it at
another store. pyarrow reads Parquet through its own S3 client on the same endpoint, because ranged reads are
the hot path there.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import posixpath
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlparse

import fsspec
import pyarrow.fs as pafs

from lensdata import web
from lensdata.errors import InputError
from lensdata.web import is_http

PUBLISHING = "_publishing"
REQUEST_BYTES = 16 << 20  # of one ranged read from S3 or a web server


def is_s3(uri: str) -> bool:
    """True for ``s3://`` (and ``s3a://``) URIs."""
    return uri.startswith(("s3://", "s3a://"))


def local_path(uri: str) -> Path:
    """The path of a local URI (``file:///x`` or a plain path)."""
    if is_http(uri):
        raise InputError(f"{uri} is on a web server, which can only be read from; give a folder or an s3:// URI.")
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
    """True if a file or a non-empty folder is there; false too where a web server refuses to say."""
    if is_http(uri):
        try:
            return web.describe(uri) is not None
        except PermissionError:  # what many stores answer for a name that they do not have
            return False
    fs, path = fs_of(uri)
    return bool(fs.exists(path))


def is_folder(uri: str) -> bool:
    """True if ``uri`` is a folder (on S3: a prefix with objects); a web server has files only."""
    if is_http(uri):
        return False
    fs, path = fs_of(uri)
    return bool(fs.isdir(path))


def list_files(uri: str, suffix: str = "") -> list[str]:
    """All files below a folder (or the file itself), sorted, as URIs."""
    if is_http(uri):
        return [uri] if exists(uri) and uri.endswith(suffix) else []
    fs, path = fs_of(uri)
    if not fs.exists(path):
        return []
    found = fs.find(path) if fs.isdir(path) else [path]
    prefix = "s3://" if is_s3(uri) else ""
    return sorted(prefix + str(name) for name in found if str(name).endswith(suffix))


def size(uri: str) -> int:
    """Bytes of a file."""
    return int(version(uri)["size"])


def version(uri: str) -> dict[str, Any]:
    """What tells one state of an input file from another: name, size and etag (S3, HTTP) or mtime (local).

    Raises
    ------
    InputError
        There is no such file, or a web server refuses it.
    """
    if is_http(uri):
        try:
            return {"name": posixpath.basename(urlparse(uri).path), **_described(uri)}
        except PermissionError as error:
            raise InputError(str(error)) from error
    fs, path = fs_of(uri)
    if not fs.exists(path):
        raise InputError(f"Input {uri} does not exist.")
    info = fs.info(path)
    mark = str(info.get("ETag", "")).strip('"') or str(int(float(info.get("mtime", 0)) * 1e6))
    return {"name": posixpath.basename(path), "size": int(info["size"]), "version": mark}


def _described(uri: str) -> dict[str, Any]:
    found = web.describe(uri)
    if found is None:
        raise InputError(f"Input {uri} does not exist.")
    return found


def open_input(uri: str) -> BinaryIO:
    """Open a file for reading bytes.

    Raises
    ------
    InputError
        If there is no such file.
    """
    if is_http(uri):
        return cast(BinaryIO, io.BufferedReader(_RangedFile(uri, size(uri)), REQUEST_BYTES))
    fs, path = fs_of(uri)
    if not fs.isfile(path):
        raise InputError(f"Input file {uri} does not exist.")
    return cast(BinaryIO, fs.open(path, "rb"))


class _RangedFile(io.RawIOBase):
    """A file on S3 or a web server, read by ranges."""

    def __init__(self, uri: str, size: int) -> None:
        self._uri, self._size, self._at = uri, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = read_range(self._uri, self._at, min(self._at + len(buffer), self._size), self._size)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def open_ranged(uri: str, ahead: int = 1 << 16) -> tuple[BinaryIO, int]:
    """A file and its size; from S3 and web servers come ``ahead`` bytes a request: few to look at a header.

    Raises
    ------
    InputError
        There is no such file.
    OSError
        It cannot be read now: the disk fails, nobody answers, or the server refuses.
    """
    total = int(_described(uri)["size"]) if is_http(uri) else size(uri)
    if is_s3(uri) or is_http(uri):
        return cast(BinaryIO, io.BufferedReader(_RangedFile(uri, total), ahead)), total
    return open_input(uri), total


def read_range(uri: str, start: int, stop: int, size_before: int | None = None) -> bytes:
    """Bytes ``start`` to ``stop`` (exclusive) of a file by one request; fewer at its end, none behind it.

    With ``size_before`` a web server's file of another size is refused (`web.ChangedFile`).
    """
    if stop <= start:
        return b""
    if is_http(uri):
        return web.read_range(uri, start, stop, size_before)
    if is_s3(uri):
        fs, path = fs_of(uri)
        try:
            return bytes(fs.cat_file(path, start=start, end=stop))
        except OSError as error:
            if error.errno == errno.EINVAL and start >= size(uri):
                return b""
            raise
    with local_path(uri).open("rb", buffering=0) as handle:
        handle.seek(start)
        return handle.read(stop - start)


def read_pieces(uri: str, start: int, stop: int, piece: int, size_before: int | None = None) -> Iterator[memoryview]:
    """Bytes ``start`` to ``stop`` in pieces of equal size, the last one shorter; a file that ends early ends the pieces.

    A piece is valid until the next one is asked for: local files are read into one buffer that stays in the processor's
    cache. From elsewhere, the next request is under way while a piece is worked on. ``size_before`` as in `read_range`.
    """
    if is_s3(uri) or is_http(uri):
        yield from _remote_pieces(uri, start, stop, piece, size_before)
        return
    buffer = memoryview(bytearray(min(piece, max(stop - start, 0))))
    with local_path(uri).open("rb", buffering=0) as handle:
        handle.seek(start)
        while start < stop:
            wanted = buffer[: min(piece, stop - start)]
            count = handle.readinto(wanted)
            while 0 < count < len(wanted) and (more := handle.readinto(wanted[count:])):
                count += more
            yield wanted[:count]
            if count < len(wanted):
                return
            start += count


def _remote_pieces(uri: str, start: int, stop: int, piece: int, size_before: int | None) -> Iterator[memoryview]:
    request = max(piece, REQUEST_BYTES // piece * piece)  # whole pieces
    with ThreadPoolExecutor(1) as ahead:
        pending = ahead.submit(read_range, uri, start, min(start + request, stop), size_before)
        while start < stop:
            data = memoryview(pending.result())
            wanted = min(request, stop - start)
            start += wanted
            if len(data) == wanted and start < stop:
                pending = ahead.submit(read_range, uri, start, min(start + request, stop), size_before)
            for at in range(0, len(data), piece):
                yield data[at : at + piece]
            if len(data) < wanted:
                return


def is_file_list(uri: str) -> bool:
    """True for a text file (``.txt``) that names one file per line."""
    return uri.endswith(".txt")


def read_file_list(uri: str) -> list[str]:
    """The files that a text file names, one per line; blank lines and ``#`` comments are skipped.

    A name without a scheme or a leading slash is relative to the list.

    Raises
    ------
    InputError
        The list is empty, or names a file twice.
    """
    lines = [line.strip() for line in read_bytes(uri).decode("utf-8-sig", "replace").splitlines()]
    folder = uri.rpartition("/")[0] or "."
    names = [line if is_http(line) else join(folder, line) for line in lines if line and not line.startswith("#")]
    if not names:
        raise InputError(f"{uri} names no file; give one path or address per line.")
    again = [name for name in dict.fromkeys(names) if names.count(name) > 1] if len(set(names)) < len(names) else []
    if again:
        raise InputError(f"{uri} names {again[0]} twice; its rows would be counted twice.")
    return names


def versions(uris: list[str]) -> list[dict[str, Any]]:
    """`version` of many files, asked for side by side: a survey has thousands."""
    with ThreadPoolExecutor(32) as threads:
        return list(threads.map(version, uris))


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


@contextmanager
def new_file(uri: str) -> Iterator[Path]:
    """A local path to write a file to; the file is in its place when the block ends well, and nowhere else ever."""
    if is_s3(uri):
        with tempfile.TemporaryDirectory() as folder:
            yield (path := Path(folder) / "file")
            upload_file(path, uri)
        return
    target = local_path(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


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
