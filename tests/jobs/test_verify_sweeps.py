"""Sweep files against the release's list of checksums."""

from __future__ import annotations

import hashlib
import shutil

import pytest

from lensdata import tables
from spark_jobs import verify_sweeps
from tests.web_server import Faults, serve

NAMES = ("sweep-010m010-015m005.fits", "sweep-015m010-020m005.fits")


@pytest.fixture
def held(sky, tmp_path):
    """The two files, and the list of a release that has a third."""
    folder = shutil.copytree(sky.sweeps, tmp_path / "sweeps")
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}" for name in NAMES]
    (tmp_path / "list.sha256sum").write_text("\n".join([*lines, f"{'0' * 64} *10.1/sweep-020m010-025m005.fits"]) + "\n")
    return folder


def verify(sweeps, tmp_path, *more):
    argv = [f"inputs.sweeps={sweeps}", f"inputs.checksums={tmp_path}/list.sha256sum", "--output", str(tmp_path / "v")]
    return verify_sweeps.main([*argv, *more])


def states(folder):
    rows = tables.read_table(str(folder), tables.SWEEP_CHECKSUMS).to_pylist()
    return {row["file"]: row["state"] for row in rows}


def test_whole_files_pass_and_what_is_not_here_is_counted(held, spark, tmp_path):
    with serve(held) as url:
        (tmp_path / "web.txt").write_text(f"{url}/{NAMES[0]}\n{held}/{NAMES[1]}\n")
        assert verify(tmp_path / "web.txt", tmp_path) == 0
    assert states(tmp_path / "v") == {NAMES[0]: "same", NAMES[1]: "same", "sweep-020m010-025m005.fits": "absent"}


def test_a_file_whose_server_gives_up_is_unreadable_and_the_others_are_judged(held, spark, tmp_path, capsys):
    faults = Faults(forbid_after=3)  # two ranges tell whether the inputs changed, a third is the first file's
    with serve(held, faults) as url:
        (tmp_path / "web.txt").write_text("".join(f"{url}/{name}\n" for name in NAMES))
        assert verify(tmp_path / "web.txt", tmp_path) == 1
    assert "1 of 2 files fail" in capsys.readouterr().err
    rows = tables.read_table(str(tmp_path / "v-failed"), tables.SWEEP_CHECKSUMS).to_pylist()
    assert sorted(row["state"] for row in rows) == ["absent", "same", "unreadable"]
    assert "the server refuses it" in next(row["reason"] for row in rows if row["state"] == "unreadable")


def test_files_that_a_test_run_does_not_visit_are_not_called_absent(held, spark, tmp_path):
    assert verify(held, tmp_path, "--test-limit", "1") == 0
    assert states(tmp_path / "v") == {NAMES[0]: "same", "sweep-020m010-025m005.fits": "absent"}


def test_one_changed_byte_and_an_unknown_file_fail_by_name(held, spark, tmp_path, capsys):
    data = bytearray((held / NAMES[1]).read_bytes())
    data[-3000] ^= 1
    (held / NAMES[1]).write_bytes(bytes(data))
    (held / "sweep-333m010-335m005.fits").write_bytes(b"x")
    assert verify(held, tmp_path) == 1
    error = capsys.readouterr().err
    assert f"2 of 3 files fail: {NAMES[1]} (different), sweep-333m010-335m005.fits (not_listed)" in error
    assert "Traceback" not in error
    assert not (tmp_path / "v").exists()
    assert states(tmp_path / "v-failed")[NAMES[0]] == "same"


@pytest.mark.parametrize(("text", "sentence"), [("", "holds no checksum"), ("12ab  x.fits\n", "line 1 is not")])
def test_a_list_that_is_none_is_refused(held, tmp_path, capsys, text, sentence):
    (tmp_path / "list.sha256sum").write_text(text)
    assert verify(held, tmp_path) == 2
    assert sentence in capsys.readouterr().err
