"""The SHA-256 list of a release against the files one has (R-S1)."""

from __future__ import annotations

import re

from lensdata import storage
from lensdata.errors import InputError

_LINE = re.compile(r"([0-9a-fA-F]{64})[ \t]+\*?(\S.*)")
SAME, DIFFERENT, UNLISTED, UNREADABLE, ABSENT = "same", "different", "not_listed", "unreadable", "absent"


def read_checksums(uri: str) -> dict[str, str]:
    """SHA-256 by file name of a list in the format of ``sha256sum``; folders in the names are left out.

    Raises
    ------
    InputError
        A line of another form, one name with two sums, or no line.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(storage.read_bytes(uri).decode(errors="replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = _LINE.fullmatch(line.strip())
        if parts is None:
            raise InputError(
                f"{uri}: line {number} is not '<64 hexadecimal digits>  <file name>': {line.strip()[:80]!r}."
            )
        name, digest = parts[2].rsplit("/", 1)[-1].strip(), parts[1].lower()
        if found.setdefault(name, digest) != digest:
            raise InputError(f"{uri}: line {number} gives {name} a second checksum; use the list of one release.")
    if not found:
        raise InputError(f"{uri} holds no checksum; give the release's .sha256sum file.")
    return found


def judge(name: str, digest: str | None, wanted: dict[str, str]) -> str:
    """What a file's digest says of it; None: it could not be read."""
    if digest is None:
        return UNREADABLE
    if name not in wanted:
        return UNLISTED
    return SAME if digest == wanted[name] else DIFFERENT
