"""The ledger: what is saved stays saved, wherever the process is killed, and nothing else passes for a grade."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensdata.errors import InputError
from lensdata.vetting.grades import FILE, GRADES, KINDS, Ledger, Standing, check_name, read_standing

KEYS = set(range(10, 16))
ACTIONS = st.lists(
    st.tuples(st.sampled_from(["ada", "bob"]), st.sampled_from([*GRADES, "undo"]), st.sampled_from(sorted(KEYS))),
    max_size=20,
)


def play(ledger: Ledger, actions: list[tuple[str, str, int]], first: int = 0) -> None:
    for number, (grader, what, cutout_id) in enumerate(actions, first):
        if what == "undo":
            ledger.undo(grader=grader, key=f"k{number}")
        else:
            kind = KINDS[cutout_id % len(KINDS)] if what == "not" else None
            ledger.grade(cutout_id=cutout_id, grader=grader, grade=what, kind=kind, seconds=1.5, key=f"k{number}")


def said(standing: Standing) -> dict[str, dict[int, tuple[str | None, str | None]]]:
    found = {name: {key: (line.grade, line.kind) for key, line in own.items()} for name, own in standing.grades.items()}
    return {name: own for name, own in found.items() if own}


def expected(actions: list[tuple[str, str, int]]) -> dict[str, dict[int, tuple[str | None, str | None]]]:
    """The same by a stack of whole states per grader: the plainest undo there is."""
    states: dict[str, list[dict[int, tuple[str | None, str | None]]]] = {"ada": [{}], "bob": [{}]}
    for grader, what, cutout_id in actions:
        if what != "undo":
            kind = KINDS[cutout_id % len(KINDS)] if what == "not" else None
            states[grader].append(states[grader][-1] | {cutout_id: (what, kind)})
        elif len(states[grader]) > 1:
            states[grader].pop()
    return {name: stack[-1] for name, stack in states.items() if stack[-1]}


@settings(max_examples=60, deadline=None)
@given(actions=ACTIONS)
def test_the_latest_grade_counts_and_an_undo_restores_the_one_before(actions):
    with tempfile.TemporaryDirectory() as name:
        with Ledger(Path(name), "s", KEYS) as ledger:
            play(ledger, actions)
            assert said(ledger.standing) == expected(actions)
        assert said(read_standing(Path(name), "s", KEYS)) == expected(actions)


@settings(max_examples=60, deadline=None)
@given(actions=ACTIONS.filter(len), data=st.data())
def test_a_crash_at_any_byte_loses_at_most_the_grade_being_written(actions, data):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Ledger(folder, "s", KEYS) as ledger:
            play(ledger, actions)
        whole = (folder / FILE).read_bytes()
        cut = data.draw(st.integers(0, len(whole)))
        (folder / FILE).write_bytes(whole[:cut])
        lines = [json.loads(text) for text in whole[:cut].split(b"\n")[1:-1]]

        with Ledger(folder, "s", KEYS) as ledger:
            assert ledger.standing.lines == len(lines)
            ledger.grade(cutout_id=10, grader="eve", grade="lens", kind=None, seconds=0, key="later")

        after = read_standing(folder, "s", KEYS)
        assert after.lines == len(lines) + 1
        assert [json.loads(text) for text in (folder / FILE).read_bytes().splitlines()[1:-1]] == lines


def test_a_grade_is_on_the_disk_before_anybody_hears_of_it(tmp_path, monkeypatch):
    synced = []
    with Ledger(tmp_path, "s", KEYS) as ledger:
        monkeypatch.setattr(os, "fsync", lambda _: synced.append((tmp_path / FILE).read_bytes()))
        ledger.grade(cutout_id=10, grader="ada", grade="lens", kind=None, seconds=2, key="a")

    assert json.loads(synced[0].splitlines()[-1])["cutout_id"] == 10


def test_a_full_disk_saves_nothing_and_the_next_grade_everything(tmp_path, monkeypatch):
    write = os.pwrite

    def half_a_line(file: int, data: bytes, at: int) -> int:
        write(file, data[: len(data) // 2], at)
        raise OSError(errno.ENOSPC, "No space left on device")

    with Ledger(tmp_path, "s", KEYS) as ledger:
        monkeypatch.setattr(os, "pwrite", half_a_line)
        with pytest.raises(OSError):
            ledger.grade(cutout_id=10, grader="ada", grade="artefact", kind=None, seconds=2, key="a")
        monkeypatch.undo()
        assert ledger.standing.lines == 0
        ledger.grade(cutout_id=11, grader="ada", grade="not", kind=None, seconds=2, key="b")

    assert said(read_standing(tmp_path, "s", KEYS)) == {"ada": {11: ("not", None)}}


def test_a_press_that_is_sent_twice_is_one_line(tmp_path):
    with Ledger(tmp_path, "s", KEYS) as ledger:
        for _ in range(2):
            ledger.grade(cutout_id=10, grader="ada", grade="lens", kind=None, seconds=2, key="a")
            ledger.grade(cutout_id=11, grader="ada", grade="not", kind="ring", seconds=2, key="b")
        for _ in range(2):
            ledger.undo(grader="ada", key="c")

        assert ledger.standing.lines == 3
        assert said(ledger.standing) == {"ada": {10: ("lens", None)}}


def test_an_undo_gives_back_the_time_of_the_grade_that_counts_again(tmp_path):
    with Ledger(tmp_path, "s", KEYS) as ledger:
        ledger.grade(cutout_id=10, grader="ada", grade="lens", kind=None, seconds=7, key="a")
        ledger.grade(cutout_id=10, grader="ada", grade="not", kind=None, seconds=1, key="b")
        ledger.undo(grader="ada", key="c")
        assert ledger.standing.grades["ada"][10].seconds == 7


def test_a_full_disk_at_the_start_is_not_taken_for_another_server(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot be locked or written \(No space left on device\)"):
        Ledger(tmp_path, "s", KEYS)
    (tmp_path / "folder" / FILE).mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be opened for writing"):
        Ledger(tmp_path / "folder", "s", KEYS)


def test_two_servers_on_one_folder_are_refused(tmp_path):
    with Ledger(tmp_path, "s", KEYS), pytest.raises(InputError, match="Another vetting server is at work"):
        Ledger(tmp_path, "s", KEYS)
    with Ledger(tmp_path, "s", KEYS):
        pass


def test_the_ledger_of_another_session_is_refused(tmp_path):
    with Ledger(tmp_path, "s", KEYS):
        pass
    with pytest.raises(InputError, match="the grades of another session"):
        Ledger(tmp_path, "t", KEYS)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda lines: [*lines[:2], b"{nonsense", *lines[2:]], "line 3, is damaged"),
        (lambda lines: [*lines[:2], *lines[3:]], "sequence is 3, expected 2"),
        (lambda lines: [lines[0], lines[1].replace(b"10", b"99"), *lines[2:]], "99 is no stamp of this session"),
        (lambda lines: [lines[0], lines[1].replace(b'"lens"', b'"quasar"'), *lines[2:]], "grade is 'quasar'"),
        (lambda lines: [lines[0], b"[]", *lines[2:]], "line 2, is damaged"),
        (lambda lines: [lines[0], lines[1][:-1] + b', "more": 1}', *lines[2:]], "line 2, is damaged"),
        (lambda lines: [b"\0" * 40, *lines[1:]], "line 1, is damaged"),
    ],
)
def test_damage_in_the_middle_is_said_with_its_line(tmp_path, damage, sentence):
    with Ledger(tmp_path, "s", KEYS) as ledger:
        play(ledger, [("ada", "lens", 10), ("ada", "maybe", 11), ("bob", "artefact", 12)])
    lines = (tmp_path / FILE).read_bytes().splitlines()
    (tmp_path / FILE).write_bytes(b"\n".join(damage(lines)) + b"\n")

    with pytest.raises(InputError, match=sentence):
        Ledger(tmp_path, "s", KEYS)
    with pytest.raises(InputError, match=sentence):
        read_standing(tmp_path, "s", KEYS)


@pytest.mark.parametrize("name", ["", "a b", "<script>", "../x", "x" * 41, "jürgen", "a\n"])
def test_names_are_letters_digits_and_dashes(name):
    with pytest.raises(InputError, match="1 to 40 letters, digits and dashes"):
        check_name(name)
