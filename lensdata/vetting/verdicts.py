"""From the grades of several people to one verdict per stamp, as a table that the cleaning reads."""

from __future__ import annotations

import posixpath
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from lensdata import steps, storage, tables
from lensdata.errors import InputError
from lensdata.vetting.agreement import summary
from lensdata.vetting.grades import GRADES, Line, Standing
from lensdata.vetting.session import Session

RULES = ("majority", "unanimous")
DISAGREE, UNGRADED = "disagree", "ungraded"


def verdict(grades: Sequence[str], rule: str = "majority", min_graders: int = 1) -> str:
    """What graders say together.

    ``majority``: the grade that most gave. It is ``disagree`` where two grades are equally frequent, and where one says ``lens``
    and another ``not`` or ``artefact``, however many they are. ``unanimous``: the grade that all gave, else ``disagree``.
    ``ungraded`` where fewer than ``min_graders`` graded.

    >>> verdict(["maybe", "lens", "maybe"]), verdict(["lens", "lens", "not"]), verdict(["not", "artefact"]), verdict([])
    ('maybe', 'disagree', 'disagree', 'ungraded')
    """
    if len(grades) < max(min_graders, 1):
        return UNGRADED
    ordered = Counter(grades).most_common()
    if len(ordered) == 1:
        return ordered[0][0]
    opposite = "lens" in grades and ("not" in grades or "artefact" in grades)
    if rule == "unanimous" or opposite or ordered[0][1] == ordered[1][1]:
        return DISAGREE
    return ordered[0][0]


def kind_of(kinds: Sequence[str | None]) -> str | None:
    """The kind that most of those name who name one; None for a tie.

    >>> kind_of(["ring", None, "ring", "spiral"]), kind_of(["ring", "spiral"]), kind_of([None])
    ('ring', None, None)
    """
    named = Counter(kind for kind in kinds if kind is not None).most_common(2)
    return None if not named or (len(named) == 2 and named[0][1] == named[1][1]) else named[0][0]


def verdicts(session: Session, standing: Standing, rule: str, min_graders: int) -> pa.Table:
    """One row of `tables.GRADES` per stamp shown, controls among them, in the order of the list."""
    by_stamp: dict[int, list[Line]] = {}
    for own in standing.grades.values():
        for key, line in own.items():
            by_stamp.setdefault(key, []).append(line)
    rows = []
    for key, control in zip(session.cutout_ids.tolist(), session.items["control"].to_pylist(), strict=True):
        lines = by_stamp.get(key, [])
        grades = [str(line.grade) for line in lines]
        said = verdict(grades, rule, min_graders)
        rows.append({
            "cutout_id": key, "verdict": said, "n_graders": len(lines),
            **{f"n_{grade}": grades.count(grade) for grade in GRADES},
            "kind": kind_of([line.kind for line in lines]) if said == "not" else None,
            "control": control, "graders": ",".join(sorted(line.grader for line in lines)) or None,
        })  # fmt: skip
    return pa.Table.from_pylist(rows, schema=tables.GRADES.schema)


def export(
    session: Session, standing: Standing, output: str, *, rule: str, min_graders: int, force: bool
) -> dict[str, int]:
    """Publish the verdicts as a table; returns how many there are of each.

    Raises
    ------
    InputError
        Nothing is graded, or the output exists.
    """
    if not standing.grades or not any(standing.grades.values()):
        raise InputError(f"{session.folder} holds no grades yet; look at some stamps first.")
    output = output.rstrip("/")
    if storage.exists(output) and not (force and storage.exists(storage.join(output, "_table.json"))):
        what = "is no table" if force else "exists"
        raise InputError(
            f"Output {output} {what}; choose another --output{'' if force else ', or --force to replace it'}."
        )
    table = verdicts(session, standing, rule, min_graders)
    counts = dict(Counter(table["verdict"].to_pylist()).most_common())
    report: dict[str, Any] = {
        "rows": table.num_rows, "rule": rule, "min_graders": min_graders, "verdicts": counts, "session": session.id,
        "folder": str(session.folder), "ledger_lines": standing.lines, **summary(session, standing),
        "provenance": steps.provenance(),
    }  # fmt: skip
    for old in storage.leftovers(output):
        storage.remove(old)
    beside = storage.join(output, "..", f"_temporary-{posixpath.basename(output)}-{uuid.uuid4().hex[:8]}")
    tables.write_table(table, beside, tables.GRADES, report=report)
    storage.publish_folder(beside, output)
    return counts
