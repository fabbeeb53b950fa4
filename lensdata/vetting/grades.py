"""The ledger of grades: one line of JSON per grade, on the disk before the page hears that it is saved.

Nothing in it is ever changed. A new grade of the same stamp is a new line, and so is an undo, which repeats the grade that
counts again. Whoever kills the process loses at most the line being written: it has no end, is not counted, and makes room
for the next. A first line names the session, and lines are numbered, so that neither a foreign ledger nor a gap passes.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import time
from collections.abc import Container
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from lensdata.catalogue.confusers import CATEGORIES
from lensdata.errors import InputError

log = logging.getLogger(__name__)

GRADES = ("lens", "maybe", "not", "artefact")
KINDS = (*CATEGORIES, "spiral", "other")
"""What a stamp that is ``not`` a lens shows instead."""
NAME = re.compile(r"[A-Za-z0-9-]{1,40}")
KEY = re.compile(r"[A-Za-z0-9-]{1,64}")
FILE = "grades.jsonl"
VERSION = 1
SECONDS_MAX = 3600.0  # a stamp left open over lunch was not looked at for longer


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the ledger.

    Attributes
    ----------
    sequence
        1, 2, 3, … in the file.
    grade, kind
        What counts from this line on; both None where an undo leaves the stamp ungraded.
    seconds
        How long the stamp was looked at; of an undo, for the grade that counts again.
    key
        Made by the page for every press of a key, so that a line that is sent twice is written once.
    undoes
        Number of the line that this one takes back.
    """

    sequence: int
    cutout_id: int
    grader: str
    grade: str | None
    kind: str | None
    utc: str
    seconds: float
    key: str
    undoes: int | None = None


@dataclass
class Standing:
    """What counts after all lines so far."""

    grades: dict[str, dict[int, Line]] = field(default_factory=dict)  # by grader and stamp
    lines: int = 0
    _keys: dict[str, Line] = field(default_factory=dict)
    _done: dict[str, list[tuple[Line, Line | None]]] = field(
        default_factory=dict
    )  # what an undo takes back, and to what

    def add(self, line: Line) -> None:
        """Count one more line."""
        own, done = self.grades.setdefault(line.grader, {}), self._done.setdefault(line.grader, [])
        if line.undoes is None:
            done.append((line, own.get(line.cutout_id)))
        else:
            done.pop()
        if line.grade is None:
            own.pop(line.cutout_id, None)
        else:
            own[line.cutout_id] = line
        self._keys[line.key] = line
        self.lines = line.sequence

    def known(self, key: str) -> Line | None:
        """The line that a press of a key has become, if it has."""
        return self._keys.get(key)

    def last(self, grader: str) -> tuple[Line, Line | None] | None:
        """What an undo of this grader takes back, and the grade that counts again."""
        done = self._done.get(grader)
        return done[-1] if done else None


def check_name(name: str) -> str:
    """A grader's name as it is given.

    Raises
    ------
    InputError
        Anything but 1 to 40 letters, digits and dashes.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            f"A grader's name has 1 to 40 letters, digits and dashes, found {name[:60]!r}; choose another."
        )
    return name


def read_standing(folder: Path, session: str, cutout_ids: Container[int]) -> Standing:
    """What the ledger of a folder says, whether or not a server is writing it.

    Raises
    ------
    InputError
        It belongs to another session, or a line is damaged.
    """
    path = folder / FILE
    data = path.read_bytes() if path.exists() else b""
    return _replay(path, data[: _whole(data)], session, cutout_ids)


class Ledger:
    """The ledger, open for writing by one process.

    Parameters
    ----------
    folder
        Where ``grades.jsonl`` lies.
    session
        Identity of what is looked at.
    cutout_ids
        Its stamps.

    Raises
    ------
    InputError
        Another process has it, it belongs to another session, or a line is damaged.
    """

    def __init__(self, folder: Path, session: str, cutout_ids: Container[int]) -> None:
        self.path = folder / FILE
        self._session, self._cutout_ids = session, cutout_ids
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise InputError(f"{self.path} cannot be opened for writing ({error.strerror}).") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._open()
        except BlockingIOError as error:
            os.close(self._file)
            raise InputError(
                f"Another vetting server is at work in {folder}; use its page, or stop it first."
            ) from error
        except OSError as error:
            os.close(self._file)
            raise InputError(
                f"{self.path} cannot be locked or written ({error.strerror}); make room, or choose another --output."
            ) from error
        except InputError:
            os.close(self._file)
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        os.close(self._file)

    def grade(self, *, cutout_id: int, grader: str, grade: str, kind: str | None, seconds: float, key: str) -> Line:
        """Save a grade; the line is on the disk when this returns."""
        if (known := self.standing.known(key)) is not None:
            return known
        line = Line(
            sequence=self.standing.lines + 1, cutout_id=cutout_id, grader=grader, grade=grade, kind=kind, utc=_now(),
            seconds=round(min(max(seconds, 0.0), SECONDS_MAX), 2), key=key,
        )  # fmt: skip
        return self._append(line)

    def undo(self, *, grader: str, key: str) -> Line | None:
        """Take back the last grade of a grader that still counts; None where there is none."""
        if (known := self.standing.known(key)) is not None:
            return known
        last = self.standing.last(grader)
        if last is None:
            return None
        taken, before = last
        line = Line(
            sequence=self.standing.lines + 1, cutout_id=taken.cutout_id, grader=grader, utc=_now(), key=key,
            seconds=before.seconds if before else 0.0, grade=before.grade if before else None,
            kind=before.kind if before else None, undoes=taken.sequence,
        )  # fmt: skip
        return self._append(line)

    def _append(self, line: Line) -> Line:
        _check(asdict(line), line.sequence, self._cutout_ids)
        self._write((json.dumps(asdict(line)) + "\n").encode())
        self.standing.add(line)
        return line

    def _write(self, data: bytes) -> None:
        """Put whole lines at the end; where that fails they make room for the next, as if they had never been."""
        os.ftruncate(self._file, self._size)
        written = 0
        while written < len(data):
            written += os.pwrite(self._file, data[written:], self._size + written)
        os.fsync(self._file)
        self._size += len(data)

    def _open(self) -> None:
        data = self.path.read_bytes()
        self._size = _whole(data)
        if self._size < len(data):
            log.warning(
                "ledger=%s last line was cut short by a crash; bytes_dropped=%d", self.path, len(data) - self._size
            )
        self.standing = _replay(self.path, data[: self._size], self._session, self._cutout_ids)
        if not self._size:
            self._write((json.dumps({"ledger": VERSION, "session": self._session}) + "\n").encode())
            _sync_folder(self.path.parent)


def _sync_folder(folder: Path) -> None:
    """A new file's name is safe only when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _whole(data: bytes) -> int:
    """Length of the lines that have an end."""
    return data.rfind(b"\n") + 1


def _replay(path: Path, data: bytes, session: str, cutout_ids: Container[int]) -> Standing:
    standing = Standing()
    for number, text in enumerate(data.split(b"\n")[:-1], 1):
        try:
            values = json.loads(text)
            if number > 1:
                _check(values, number - 1, cutout_ids)
                standing.add(_line(values, standing))
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise InputError(
                f"{path}, line {number}, is damaged ({error}); put back a copy of the file, or remove that line and all after it."
            ) from error
        if number == 1 and values != {"ledger": VERSION, "session": session}:
            raise InputError(
                f"{path} holds the grades of another session than session.json beside it; give each list a folder of its own."
            )
    return standing


def _line(values: dict[str, Any], standing: Standing) -> Line:
    line = Line(**values)
    last = standing.last(line.grader)
    if line.undoes is not None and (last is None or last[0].sequence != line.undoes):
        raise ValueError(f"it takes back line {line.undoes}, which is not the grader's last")
    return line


def _check(values: dict[str, Any], sequence: int, cutout_ids: Container[int]) -> None:
    """Raise ValueError where a line is not what this module writes."""
    if values["sequence"] != sequence:
        raise ValueError(f"sequence is {values['sequence']!r}, expected {sequence}")
    if values["cutout_id"] not in cutout_ids:
        raise ValueError(f"cutout_id {values['cutout_id']!r} is no stamp of this session")
    if not NAME.fullmatch(values["grader"]) or not KEY.fullmatch(values["key"]):
        raise ValueError(f"grader or key is {values['grader']!r}, {values['key']!r}")
    if values["grade"] not in (*GRADES, None) or (values["grade"] is None and values["undoes"] is None):
        raise ValueError(f"grade is {values['grade']!r}, expected one of {', '.join(GRADES)}")
    if values["kind"] is not None and (values["grade"] != "not" or values["kind"] not in KINDS):
        raise ValueError(
            f"kind of {values['grade']!r} is {values['kind']!r}, expected one of {', '.join(KINDS)} of 'not'"
        )
