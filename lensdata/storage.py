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
import logging
import os
import posixpath
import random
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urlparse

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs

from lensdata import web
from lensdata.config.secrets import secret_in
from lensdata.errors import InputError
from lensdata.web import is_http

log = logging.getLogger(__name__)

T = TypeVar("T")
PUBLISHING = "_publishing"
REQUEST_BYTES = 16 << 20  # of one ranged read from S3 or a web server
REQUEST_ATTEMPTS = 6  # of one S3 request that is answered with an error or not at all; backoff 1 s to 20 s, jittered
TRANSFER_ATTEMPTS = 5  # of a transfer whose requests all failed, or whose body broke off
READ_ATTEMPTS = 7  # of a read by pyarrow's client that it did not repeat itself
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10, 60
CONFLICT_WAITS_S = (0.2, 0.5, 1.0, 2.0, 4.0)


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
    # S3 answers 503 SlowDown while it splits a busy prefix, now and then 500, and a connection in a thousand breaks: in a fetch
    # of hours all of it happens. botocore's standard mode repeats what is known to pass (503, 500, 429, timeouts, resets) with
    # jittered backoff, inside one client's budget, so that many threads do not hammer a store that is down; its default
    # ("legacy") knows fewer errors. s3fs repeats above it what is left of SlowDown, timeouts and broken connections, and bodies
    # that break off while being read, which botocore cannot see.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config = {
        "retries": {"mode": "standard", "total_max_attempts": REQUEST_ATTEMPTS},
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
    }
    fs = fsspec.filesystem("s3", endpoint_url=endpoint or None, use_listings_cache=False, config_kwargs=config)
    fs.retries = TRANSFER_ATTEMPTS
    return fs


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


def open_arrow(uri: str) -> pa.NativeFile:
    """A file for pyarrow's readers, which read by ranges.

    Raises
    ------
    FileNotFoundError
        There is none.
    """
    fs, path = filesystem(uri)
    return pa.PythonFile(_PatientFile(fs, path), mode="r") if is_s3(uri) else fs.open_input_file(path)


class _PatientFile(io.RawIOBase):
    """A file on S3 through pyarrow's client, which does not repeat every failure by itself.

    Its SDK writes the body of an error answer into the buffer of the read, so a SlowDown that answers a read of fewer bytes
    than the error has ("Failed to flush response stream") is taken for an internal failure that nobody need repeat; and an
    error that answers HEAD has no body to know it by.
    """

    def __init__(self, fs: pafs.FileSystem, path: str) -> None:
        self._file = _patiently(lambda: fs.open_input_file(path))
        self._size, self._at = self._file.size(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        wanted = max(0, self._size - self._at) if size < 0 else size
        data = _patiently(lambda: self._file.read_at(wanted, self._at))
        self._at += len(data)
        return bytes(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _patiently(action: Callable[[], T]) -> T:
    """The result of a read, repeated with growing pauses where the store failed."""
    for attempt in range(READ_ATTEMPTS):
        try:
            return action()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            if "AWS Error" not in str(error) or attempt == READ_ATTEMPTS - 1:
                raise
            time.sleep(random.uniform(0, 0.1 * 2**attempt))  # noqa: S311 - jitter, no secret
    raise AssertionError


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
        The list is empty, names a file twice, or holds a secret.
    """
    lines = [line.strip() for line in read_bytes(uri).decode("utf-8-sig", "replace").splitlines()]
    for number, line in enumerate(lines, 1):
        if (found := secret_in(line)) is not None:  # addresses are written into tables and logs
            raise InputError(
                f"{uri}, line {number}, holds {found}; give credentials by ~/.netrc, ~/.aws or a role instead."
            )
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
        try:
            fs.pipe_file(path, data)
        except FileNotFoundError as error:
            _require_landed(error, uri, len(data), hashlib.sha256(data).hexdigest())
        return
    target = local_path(uri)
    os.replace(_write_beside(target, data), target)


def write_new(uri: str, data: bytes) -> bool:
    """Publish a file only where none is: of many writers of one name, one wins, and its bytes stay (S3 safety of R-C2).

    Parameters
    ----------
    uri
        Where the file shall be; local or ``s3://``.
    data
        All of it.

    Returns
    -------
    bool
        True if these bytes are in place, False if other ones were there before. On S3 a file with the very same bytes counts
        as ours: a put may succeed and its answer be lost, and the repetition is then refused for what the first one wrote.

    Notes
    -----
    Where a store has no conditional put (501), or a disk no hard links, the file is looked for and then written: two writers at
    the same moment may both win, the later one's bytes stay. A log line says so once.
    """
    if is_s3(uri):
        return _put_new(uri, data)
    target = local_path(uri)
    temporary = _write_beside(target, data)
    try:
        os.link(temporary, target)
    except FileExistsError:
        return temporary.stat().st_nlink > 1  # over NFS our own link may be reported so, when its first answer was lost
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):  # FAT, some network disks
            raise
        _warn_once("hard links", str(target.parent))
        if target.exists():
            return False
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _write_beside(target: Path, data: bytes) -> Path:
    """The bytes in a temporary file next to their place, safe on the disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp-{uuid.uuid4().hex[:8]}")
    with temporary.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    return temporary


def _put_new(uri: str, data: bytes) -> bool:
    fs, path = fs_of(uri)
    for wait_s in (*CONFLICT_WAITS_S, None):
        try:
            fs.pipe_file(path, data, mode="create")
        except OSError as error:
            code = _s3_code(error)
            if code in ("PreconditionFailed", "412") or (code == "NoSuchUpload" and exists(uri)):
                return _holds(uri, len(data), hashlib.sha256(data).hexdigest())
            if code in ("NotImplemented", "501"):
                _warn_once("conditional puts", path.partition("/")[0])
                if fs.exists(path):
                    return False
                write_bytes(uri, data)
            elif code in ("ConditionalRequestConflict", "409") and wait_s is not None:
                time.sleep(wait_s)  # another put or a delete of this name is under way; S3 asks to repeat
                continue
            else:
                raise
        return True
    raise AssertionError("the last round returns or raises")


def _s3_code(error: BaseException) -> str:
    """The store's own code of an error that s3fs translated; empty where it is another error."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _holds(uri: str, size_bytes: int, digest: str) -> bool:
    """True if a file has these bytes, by SHA-256: an ETag is no checksum of an encrypted or multipart object."""
    return exists(uri) and size(uri) == size_bytes and sha256(uri) == digest


def _require_landed(error: OSError, uri: str, size_bytes: int, digest: str) -> None:
    """Raise ``error`` again unless it only says that the answer was lost to the request that completed a multipart upload.

    Its repetition finds no such upload any more; on AWS it is answered as the first, on other stores it is not.
    """
    if _s3_code(error) != "NoSuchUpload" or not _holds(uri, size_bytes, digest):
        raise error


@lru_cache(maxsize=64)
def _warn_once(lacking: str, where: str) -> None:
    log.warning("store=%s has no %s; of two writers of one name at the same moment both may take themselves for first",
                where, lacking)  # fmt: skip


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
        try:
            fs.put_file(str(source), path)
        except FileNotFoundError as error:
            _require_landed(error, uri, source.stat().st_size, sha256(str(source)))
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
