"""Reading files of a plain HTTP server by byte ranges (R-S1).

A survey mirror offers files and nothing else: no listing, no client library. Every request is a range, so a broken connection
costs one range; urllib3 repeats it with growing pauses and honours Retry-After.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import urllib3

from lensdata import network
from lensdata.errors import InputError

RETRIED = (429, 500, 502, 503, 504)
REFUSED = (401, 403)
TIMEOUT = urllib3.Timeout(connect=10.0, read=60.0)
RETRIES = urllib3.Retry(
    total=8, backoff_factor=0.5, backoff_max=30, backoff_jitter=0.5, status_forcelist=RETRIED, raise_on_status=False
)


class ChangedFile(InputError):
    """A file that has another size than when it was first looked at."""


def is_http(uri: str) -> bool:
    """True for ``http://`` and ``https://`` addresses."""
    return uri.startswith(("http://", "https://"))


@lru_cache(maxsize=8)
def _pool(pid: int) -> urllib3.PoolManager:
    # One pool per process: a fork must not share connections.
    return network.pool_manager(maxsize=32, retries=RETRIES, timeout=TIMEOUT, headers={"User-Agent": "lensdata"})


def _request(method: str, uri: str, wanted: str | None = None) -> urllib3.BaseHTTPResponse:
    headers = {"Accept-Encoding": "identity"} | ({"Range": wanted} if wanted else {})
    for _ in range(3):  # urllib3 repeats failed requests, but not answers that end early
        try:
            answer = _pool(os.getpid()).request(method, uri, headers=headers)
            break
        except urllib3.exceptions.MaxRetryError as error:
            raise OSError(f"{uri}: no answer from the server: {error.reason}.") from error
        except urllib3.exceptions.HTTPError as error:
            failure = error
    else:
        raise OSError(f"{uri}: {wanted or method} failed: {failure}.") from failure
    if answer.status in REFUSED:
        raise PermissionError(f"{uri}: the server refuses it (status {answer.status}); see whether it needs a login.")
    if answer.status in RETRIED:
        raise OSError(f"{uri}: the server answered {method} with status {answer.status} again and again.")
    return answer


def describe(uri: str) -> dict[str, Any] | None:
    """Size in bytes and version (ETag or Last-Modified) of a file; None where the server has none of that name.

    Raises
    ------
    InputError
        The server does not tell the size.
    PermissionError
        It refuses the file.
    OSError
        Nobody answers, or the server failed again and again.
    """
    answer = _request("HEAD", uri)
    if answer.status in (405, 501) or (answer.status == 200 and "Content-Length" not in answer.headers):
        answer = _request("GET", uri, "bytes=0-0")  # a server without HEAD
    if answer.status in (404, 410):
        return None
    found = _total(answer) if answer.status in (206, 416) else answer.headers.get("Content-Length")
    if answer.status not in (200, 206, 416) or found is None:
        raise InputError(f"{uri}: the server answered {answer.status} without a size; expected 200 and Content-Length.")
    version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    return {"size": int(found), "version": version.strip('"')}


def _total(answer: urllib3.BaseHTTPResponse) -> str | None:
    """Size of the whole file by an answer to a range; None where it does not say."""
    total = answer.headers.get("Content-Range", "").rpartition("/")[2]
    return total if total.isdecimal() else None


def read_range(uri: str, start: int, stop: int, size: int | None = None) -> bytes:
    """Bytes ``start`` to ``stop`` (exclusive) of a file; fewer at its end.

    Parameters
    ----------
    size
        Of the file when it was first looked at, where that is known.

    Raises
    ------
    InputError
        No such file, or a server that does not serve ranges.
    ChangedFile
        The file has another size now.
    OSError
        The server refuses the file, or failed again and again.
    """
    if stop <= start:
        return b""
    wanted = f"bytes={start}-{stop - 1}"
    answer = _request("GET", uri, wanted)
    total = _total(answer) if answer.status in (206, 416) else None
    if size is not None and total is not None and int(total) != size:
        raise ChangedFile(f"{uri} changed while it was read: it had {size} bytes and has {total}; run the step again.")
    if answer.status == 416:
        return b""
    if answer.status in (404, 410):
        raise InputError(f"Input file {uri} does not exist.")
    if answer.status == 200:
        raise InputError(f"{uri}: the server ignores Range requests; copy the files to a disk or to S3 first.")
    if answer.status != 206:
        raise OSError(f"{uri}: {wanted} was answered with status {answer.status}.")
    found = answer.headers.get("Content-Range", "")
    if not found.startswith(f"bytes {start}-"):
        raise InputError(
            f"{uri}: asked for {wanted}, the server sent {found or 'no Content-Range'}; do not use this mirror."
        )
    return bytes(answer.data)
