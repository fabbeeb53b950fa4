"""Reading files of a plain HTTP server by byte ranges (R-S1).

A survey mirror offers files and nothing else: no listing, no client library. Every request is a range, so a broken connection
costs one range; urllib3 repeats it with growing pauses and honours Retry-After.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import urllib3

from lensdata.errors import InputError

RETRIED = (429, 500, 502, 503, 504)
TIMEOUT = urllib3.Timeout(connect=10.0, read=60.0)


def is_http(uri: str) -> bool:
    """True for ``http://`` and ``https://`` addresses."""
    return uri.startswith(("http://", "https://"))


@lru_cache(maxsize=8)
def _pool(pid: int) -> urllib3.PoolManager:
    # One pool per process: a fork must not share connections.
    retries = urllib3.Retry(
        total=8, backoff_factor=0.5, backoff_max=30, backoff_jitter=0.5, status_forcelist=RETRIED, raise_on_status=False
    )
    return urllib3.PoolManager(maxsize=32, retries=retries, timeout=TIMEOUT, headers={"User-Agent": "lensdata"})


def describe(uri: str) -> dict[str, Any] | None:
    """Size in bytes and version (ETag or Last-Modified) of a file; None where the server has none of that name.

    Raises
    ------
    InputError
        The server refuses, or does not tell the size.
    """
    answer = _pool(os.getpid()).request("HEAD", uri)
    if answer.status in (404, 410):
        return None
    if answer.status != 200 or "Content-Length" not in answer.headers:
        raise InputError(f"{uri}: the server answered {answer.status} without a size; expected 200 and Content-Length.")
    version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    return {"size": int(answer.headers["Content-Length"]), "version": version.strip('"')}


def read_range(uri: str, start: int, stop: int) -> bytes:
    """Bytes ``start`` to ``stop`` (exclusive) of a file; fewer at its end.

    Raises
    ------
    InputError
        No such file, or a server that does not serve ranges.
    OSError
        The server failed again and again.
    """
    if stop <= start:
        return b""
    wanted = f"bytes={start}-{stop - 1}"
    for attempt in (1, 2, 3):  # urllib3 repeats failed requests, but not answers that end early
        try:
            answer = _pool(os.getpid()).request("GET", uri, headers={"Range": wanted, "Accept-Encoding": "identity"})
            break
        except urllib3.exceptions.HTTPError as error:
            if attempt == 3:
                raise OSError(f"{uri}: {wanted} failed: {error}") from error
    if answer.status == 416:
        return b""
    if answer.status == 404:
        raise InputError(f"Input file {uri} does not exist.")
    if answer.status == 200:
        raise InputError(f"{uri}: the server ignores Range requests; copy the files to a disk or to S3 first.")
    if answer.status != 206:
        raise OSError(f"{uri}: {wanted} was answered with status {answer.status}")
    found = answer.headers.get("Content-Range", "")
    if not found.startswith(f"bytes {start}-"):
        raise InputError(
            f"{uri}: asked for {wanted}, the server sent {found or 'no Content-Range'}; do not use this mirror."
        )
    return bytes(answer.data)
