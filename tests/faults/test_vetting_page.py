"""The page of `lensdata vet` as two people use it, by keyboard alone, while its server is killed under their hands."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from infra import cli
from lensdata import tables
from lensdata.vetting.session import read_session
from tests import browser
from tests.vetting_folders import FIRST_ID, LENSES, write_list, write_manifest

pytestmark = [
    pytest.mark.faults,
    pytest.mark.browser,
    pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium"),
]
LISTED, CONTROLS = 8, 3
STAMPS = LISTED + 2 * CONTROLS
SAVED = "document.getElementById('status').textContent === 'All grades are saved.'"
CAPTION = "document.getElementById('caption').textContent"
SHOWN = "document.getElementById('picture').complete && document.getElementById('picture').naturalWidth > 0"
REFUSED = "Failed to load resource: net::ERR_"  # what a browser says while the server is away
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
FOCUS_IS_SEEN = """(here => here === document.body || (here.matches(':focus-visible')
    && getComputedStyle(here).outlineStyle === 'solid'))(document.activeElement)"""
NAMELESS = """[...document.querySelectorAll('button, input, img')].filter(e => e.offsetParent && !(e.textContent.trim() || e.alt
    || e.getAttribute('aria-label') || e.labels?.length || e.closest('button[aria-label]'))).length"""
SMALL = """[...document.querySelectorAll('button')].filter(
    e => e.offsetParent && Math.min(e.offsetWidth, e.offsetHeight) < 44).map(e => e.id)"""


class Server:
    """`lensdata vet` as a process; `kill` is kill -9."""

    def __init__(self, folder: Path, *options: str, output: str = "vetting", port: int = 0) -> None:
        with closing(socket.create_server(("127.0.0.1", port))) as free:
            self.port = free.getsockname()[1]
        self._command = [
            sys.executable, "-m", "infra.cli", "vet", str(folder / "list.csv"), "--manifest", str(folder / "manifest"),
            "--output", str(folder / output), "--port", str(self.port), *options,
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.search(r"http://\S+", line):
                self.address = found[0]
                return
        raise AssertionError("the server did not say where it is")

    def kill(self) -> None:
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.communicate()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    write_manifest(tmp_path)
    write_list(tmp_path / "list.csv", list(range(FIRST_ID + LENSES, FIRST_ID + LENSES + LISTED)))
    running: list[Server] = []

    def begin(*options: str, **where: Any) -> Server:
        running.append(Server(tmp_path, "--controls", f"lenses={CONTROLS},random={CONTROLS}", *options, **where))
        return running[-1]

    yield begin
    for server in running:
        server.kill()


def enter(tab: browser.Tab, address: str, name: str) -> None:
    tab.open(address)
    tab.wait("!document.getElementById('welcome').hidden && document.activeElement.id === 'name'")
    tab.read("document.getElementById('name').select()")
    tab.press(*name, "Enter")
    tab.wait(SHOWN)


def stamp(number: int, said: str) -> str:
    return f"{CAPTION} === 'Stamp {number} · {said}'"


def grades_of(folder: Path, grader: str) -> list[tuple[str | None, str | None]]:
    """What counts of a grader by the ledger's text alone, in the order that the grader saw."""
    latest = {}
    for text in (folder / "grades.jsonl").read_text().splitlines()[1:]:
        line = json.loads(text)
        if line["grader"] == grader:
            latest[line["cutout_id"]] = (line["grade"], line["kind"])
    session = read_session(str(folder))
    return [latest.get(key, (None, None)) for key in session.cutout_ids[session.order(grader)].tolist()]


def test_two_people_grade_by_keyboard_and_a_killed_server_loses_no_grade(serve, tmp_path):
    server, folder = serve(), tmp_path / "vetting"
    with browser.open_tab() as tab:
        enter(tab, server.address, "ada")
        assert "token" not in tab.read("location.href")
        tab.press("1")
        tab.wait(stamp(2, "not graded"))
        tab.press("2")
        tab.wait(stamp(3, "not graded"))
        tab.press("i")  # not a lens, but a ring
        tab.wait(stamp(4, "not graded"))
        tab.press("u")
        tab.wait(stamp(3, "not graded"))
        tab.press("e")
        tab.press("ArrowLeft")
        tab.wait(stamp(3, "not, edge-on"))
        tab.press(" ", "4")
        tab.wait(SAVED)
        expected = [("lens", None), ("maybe", None), ("not", "edge_on"), ("artefact", None)]
        assert grades_of(folder, "ada")[:5] == [*expected, (None, None)]

        tab.open(tab.read("location.href"))  # reload: goes on where it was
        tab.wait(stamp(5, "not graded"))

        server.kill()
        tab.press("3", "1", "p")  # what is pressed now waits in the browser
        tab.wait("document.getElementById('status').classList.contains('bad')")
        assert "3 not saved yet" in tab.read("document.getElementById('status').textContent")
        assert len([each for each in grades_of(folder, "ada") if each[0]]) == 4
        server.start()
        tab.wait(SAVED)
        expected += [("not", None), ("lens", None), ("not", "spiral")]
        assert grades_of(folder, "ada")[:8] == [*expected, (None, None)]

        tab.press(*"g")
        tab.wait("document.querySelectorAll('.tile').length")
        assert tab.read("document.activeElement.dataset.number") == "8"
        tab.press("ArrowRight", "1", "ArrowLeft")  # the ninth, then the tenth is next, then back
        tab.wait("document.activeElement.dataset.number === '9'")
        tab.press("Enter")
        tab.wait(stamp(9, "lens"))
        tab.press("End")
        tab.wait(stamp(10, "not graded"))
        tab.press(*"3" * (STAMPS - 8))  # to the last, and then the eighth, which was left out
        tab.wait("document.querySelector('#end h1')?.textContent === 'All 14 stamps are graded'")
        assert "One grader so far" in tab.read("document.getElementById('end').innerText")
        assert [each[0] for each in grades_of(folder, "ada")].count(None) == 0
        complaints = [text for text in tab.complaints if not text.startswith(REFUSED)]

    with browser.open_tab(390, 844) as tab:
        enter(tab, server.address, "bob")
        for number in range(1, STAMPS + 1):
            if number in (5, STAMPS):
                server.kill()
            tab.press("3" if number % 2 else "1")
            if number == STAMPS:
                tab.wait("document.querySelector('#end h1')?.textContent.includes('not saved yet')")
            if number in (5, STAMPS):
                server.start()
        tab.wait("document.querySelector('#end h1')?.textContent === 'All 14 stamps are graded'")
        text = tab.wait(
            "document.getElementById('end').innerText.includes('ada and bob') && document.getElementById('end').innerText"
        )
        for word in ("known lenses and 3 random negatives were mixed in", "Cohen’s kappa", "lensdata vet export"):
            assert word in text
        complaints += [text for text in tab.complaints if not text.startswith(REFUSED)]
        assert all(address.startswith("http://127.0.0.1:") for address in tab.fetched)
    assert complaints == []
    assert [grade for grade, _ in grades_of(folder, "bob")] == ["not", "lens"] * (STAMPS // 2)

    server.kill()
    assert cli.main(["vet", "export", str(folder), "--output", str(tmp_path / "grades")]) == 0
    assert tables.read_table(str(tmp_path / "grades"), tables.GRADES)["n_graders"].to_pylist() == [2] * STAMPS


def test_what_waits_for_one_folder_never_reaches_another_one_at_the_same_port(serve, tmp_path):
    one = serve()
    with browser.open_tab() as tab:
        enter(tab, one.address, "ada")
        one.kill()
        tab.press("1", "2")
        tab.wait("document.getElementById('status').classList.contains('bad')")
        two = serve(output="other", port=one.port)
        token = two.address.partition("?")[2]
        tab.read(
            f"fetch('/?{token}', {{credentials: 'same-origin'}}).then(answer => answer.status)"
        )  # in another tab, say
        tab.wait("document.getElementById('status').textContent.includes('belongs to another session')")
        assert "2 not saved yet" in tab.read("document.getElementById('status').textContent")
        enter(tab, two.address, "ada")
        tab.wait(stamp(1, "not graded"))
        two.kill()
        one.start()
        tab.open(one.address)
        tab.wait("!document.getElementById('welcome').hidden")
        tab.press("Enter")
        tab.wait(SAVED)
    assert [grade for grade, _ in grades_of(tmp_path / "vetting", "ada")][:3] == ["lens", "maybe", None]
    assert len((tmp_path / "other" / "grades.jsonl").read_text().splitlines()) == 1


def test_what_the_server_refuses_does_not_hold_up_the_rest(serve, tmp_path):
    server = serve()
    with browser.open_tab() as tab:
        enter(tab, server.address, "ada")
        server.kill()
        tab.press("1", "2")
        tab.wait("document.getElementById('status').textContent.startsWith('2 not saved yet')")
        first = "Object.keys(localStorage).filter(key => key.includes(' ada ')).sort()[0]"
        tab.read(f"(key => localStorage.setItem(key, localStorage.getItem(key).replace('lens', 'quasar')))({first})")
        server.start()
        tab.wait("document.getElementById('status').textContent.startsWith('A grade is one of')")
        tab.wait("Object.keys(localStorage).every(key => !key.includes(' ada '))")
    assert [grade for grade, _ in grades_of(tmp_path / "vetting", "ada")][:3] == [None, "maybe", None]


@pytest.mark.parametrize(
    ("width", "height", "dark"), [(390, 844, False), (390, 844, True), (1440, 900, False), (1440, 900, True)]
)
def test_every_view_fits_the_screen_and_can_be_reached_by_tab(serve, width, height, dark):
    server = serve()
    with browser.open_tab(width, height, dark=dark) as tab:
        enter(tab, server.address, "ada")
        for keys in ("", "g", "g?", "?f"):
            tab.press(*keys)
            assert tab.read(OVERFLOW) == 0, keys
            assert tab.read(NAMELESS) == 0, keys
            assert tab.read(SMALL) == [], keys
        tab.press("f")
        tab.wait(SHOWN)
        reached = set()
        for _ in range(40):
            tab.press("Tab")
            reached.add(tab.read("document.activeElement.id"))
            assert tab.read(FOCUS_IS_SEEN)
        assert {
            "grade-lens",
            "grade-artefact",
            "kind-ring",
            "undo",
            "next",
            "stretch",
            "channel",
            "residual",
            "larger",
        } <= reached
        tab.read("document.getElementById('grade-maybe').focus()")
        tab.press("Enter")
        tab.wait(stamp(2, "not graded"))
        assert tab.read("document.activeElement.id") == "grade-maybe"
        assert tab.complaints == []


def test_stretch_band_residual_and_zoom_change_the_picture(serve):
    server = serve("--no-blind")
    with browser.open_tab() as tab:
        enter(tab, server.address, "ada")
        source = "document.getElementById('picture').src"
        seen = [tab.read(source)]
        for key in "ssbbbbr":
            tab.press(key)
            tab.wait(SHOWN)
            seen.append(tab.read(source))
        assert len(set(seen)) == len(seen) - 1  # four bands later the colours are back
        bar = "parseFloat(document.getElementById('bar').style.width)"
        narrow = tab.read(bar)
        tab.press("+", "+")
        assert tab.read(bar) == pytest.approx(2 * narrow)
        tab.wait("document.getElementById('facts').innerText.includes('sky viewer')")
