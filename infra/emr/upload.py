"""Files to keys that tell their content, each compared with what S3 says it holds.

An object that is there with another checksum or size (half of it, or somebody else's) is never used: it is sent again.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from botocore.exceptions import ClientError

from infra.emr.archive import Archive
from lensdata.errors import InputError

SINGLE_PUT_BYTES = 5 << 30  # S3 takes no more in one request, and only such objects have the SHA-256 of their content
State = Literal["sent", "there", "damaged, sent again"]


@dataclass(frozen=True)
class Uploaded:
    """Where a file lies."""

    uri: str
    state: State


def upload(s3: Any, archive: Archive, bucket: str, key: str) -> Uploaded:
    """Bring a file to a key, unless the same bytes are there.

    Raises
    ------
    InputError
        The file is too large, changed while it was sent, or S3 holds something else afterwards.
    """
    size = archive.path.stat().st_size
    if size >= SINGLE_PUT_BYTES:
        raise InputError(f"{archive.path} has {size} bytes, more than one request can send; put it on S3 yourself.")
    uri = f"s3://{bucket}/{key}"
    found = _found(s3, bucket, key)
    wanted = (size, base64.b64encode(bytes.fromhex(archive.sha256)).decode())
    if found == wanted:
        return Uploaded(uri, "there")
    body = archive.path.read_bytes()
    if hashlib.sha256(body).hexdigest() != archive.sha256:
        raise InputError(f"{archive.path} changed while it was being sent; run the command again.")
    md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    s3.put_object(
        Bucket=bucket, Key=key, Body=body, ContentMD5=md5, ChecksumAlgorithm="SHA256", ChecksumSHA256=wanted[1]
    )
    stored = _found(s3, bucket, key)
    if stored != wanted:
        raise InputError(
            f"{uri} holds other bytes than were sent (size and SHA-256 {stored}, expected {wanted}); nothing was started."
        )
    return Uploaded(uri, "sent" if found is None else "damaged, sent again")


def _found(s3: Any, bucket: str, key: str) -> tuple[int, str | None] | None:
    """Size and SHA-256 of an object; None where there is none."""
    try:
        head = s3.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return None
        raise
    return int(head["ContentLength"]), head.get("ChecksumSHA256")


def key_of(prefix: str, kind: str, archive: Archive, name: str | None = None) -> str:
    """The key of a file: the SHA-256 is in it, and the name that a cluster gives it at the end."""
    return f"{prefix}/{kind}/{archive.sha256}/{name or Path(archive.path).name}"
