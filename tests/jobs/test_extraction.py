"""Pool extraction from files as they come: packed, remote, damaged, out of the footprint, in any order."""

from __future__ import annotations

import gzip
import json
import shutil

import numpy as np
import pytest

from lensdata import tables
from spark_jobs import extract_pool, match_positives
from tests.sweeps import galaxies, write_sweep
from tests.web_server import Faults, serve

NAMES = ("sweep-010m010-015m005.fits", "sweep-015m010-020m005.fits")
TABLES = ("", "near_lenses", "rejected")


def contents(folder):
    """The identity of the pool and the tables beside it."""
    return {name: json.loads((folder / name / "_table.json").read_text())["content"] for name in TABLES}


def report(folder):
    return json.loads((folder / "_report.json").read_text())


def extract(sky, sweeps, output, *more):
    return extract_pool.main(
        [f"inputs.sweeps={sweeps}", f"inputs.lenses={sky.lens_csv}", "--output", str(output), *more]
    )


@pytest.fixture
def copied(sky, tmp_path):
    """The two crafted files in a folder of one's own."""
    return shutil.copytree(sky.sweeps, tmp_path / "sweeps")


def test_packed_files_give_the_same_pool(chain, sky, copied, tmp_path):
    for name in NAMES:
        (copied / f"{name}.gz").write_bytes(gzip.compress((copied / name).read_bytes()))
        (copied / name).unlink()
    assert extract(sky, copied, tmp_path / "pool") == 0
    assert contents(tmp_path / "pool") == contents(chain / "pool")


def test_a_list_of_web_addresses_in_any_order_gives_the_same_pool(chain, sky, spark, tmp_path):
    faults = Faults(refusals=3, cut_short=2)
    with serve(sky.sweeps, faults) as url:
        (tmp_path / "list.txt").write_text("".join(f"{url}/{name}\n" for name in reversed(NAMES)))
        assert extract(sky, tmp_path / "list.txt", tmp_path / "pool") == 0
        asked = len(faults.requests)
        assert extract(sky, tmp_path / "list.txt", tmp_path / "pool") == 0  # finished: only versions are asked for
        assert len(faults.requests) < asked + 20
    assert contents(tmp_path / "pool") == contents(chain / "pool")


def test_files_outside_the_footprint_are_counted_and_not_opened(chain, sky, copied, tmp_path):
    (copied / "sweep-010m025-015m020.fits").write_bytes(b"not opened, so nobody sees that this is no FITS file")
    assert extract(sky, copied, tmp_path / "pool") == 0
    assert contents(tmp_path / "pool") == contents(chain / "pool")
    assert report(tmp_path / "pool")["files_outside_footprint"] == 1
    files = tables.read_table(str(tmp_path / "pool" / "sweep_files"), tables.SWEEP_FILES).to_pylist()
    assert [(row["file"], row["state"]) for row in files] == [
        ("sweep-010m010-015m005.fits", "read"),
        ("sweep-010m025-015m020.fits", "outside_footprint"),
        ("sweep-015m010-020m005.fits", "read"),
    ]


def test_lenses_outside_the_footprint_need_its_files_read(sky, spark, tmp_path, capsys):
    inside = write_sweep(tmp_path / "sweeps" / "sweep-010m010-015m005.fits", galaxies(50))
    far = galaxies(40, seed=2, RELEASE=10002, DEC=np.linspace(-24, -21, 40))
    write_sweep(inside.with_name("sweep-010m025-015m020.fits"), far)
    lens = f"name,ra,dec,grading\nDESI-far,{far['RA'][3]},{far['DEC'][3]},confident\n"
    (tmp_path / "lenses.csv").write_text(lens)
    sky = type(sky)(lens_csv=tmp_path / "lenses.csv")
    match = [f"inputs.lenses={sky.lens_csv}", "outside_footprint=keep"]
    assert extract(sky, inside.parent, tmp_path / "skipped") == 0
    argv = [*match, f"inputs.near_lenses={tmp_path}/skipped/near_lenses", "--output", str(tmp_path / "a")]
    assert match_positives.main(argv) == 2
    assert "files_outside_footprint=read" in capsys.readouterr().err
    assert extract(sky, inside.parent, tmp_path / "read", "files_outside_footprint=read") == 0
    argv = [*match, f"inputs.near_lenses={tmp_path}/read/near_lenses", "--output", str(tmp_path / "a")]
    assert match_positives.main(argv) == 0
    assert tables.read_table(str(tmp_path / "a"), tables.POSITIVES)["objid"].to_pylist() == [3]
    assert report(tmp_path / "read")["rows_per_reason"]["footprint"] == 40


def damage(path, how):
    data = bytearray(path.read_bytes())
    header = data.index(b"XTENSION")
    start = -(-(header + data[header:].index(b"END" + b" " * 77) + 80) // 2880) * 2880
    row_bytes = (len(data) - start) // 4000
    if how == "truncated":
        del data[start + 2000 * row_bytes :]
    elif how == "overwritten":  # 0xFF: positions that are no numbers
        data[start + 2500 * row_bytes : start + 2600 * row_bytes] = b"\xff" * (100 * row_bytes)
    path.write_bytes(bytes(data))
    return start, row_bytes


@pytest.mark.parametrize(("how", "row"), [("truncated", 2000), ("overwritten", 2500)])
def test_a_damaged_file_stops_the_job_or_is_set_aside_with_its_name_and_offset(
    sky, copied, tmp_path, capsys, caplog, how, row
):
    start, row_bytes = damage(copied / NAMES[0], how)
    assert extract(sky, copied, tmp_path / "pool", "execution.rows_per_split=1000") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert NAMES[0] in error
    assert "max_bad_files" in error
    assert not (tmp_path / "pool").exists()
    assert extract(sky, copied, tmp_path / "pool", "execution.rows_per_split=1000", "--max-bad-files", "1") == 0
    assert list(report(tmp_path / "pool")["files_set_aside"]) == [NAMES[0]]
    assert f"file={NAMES[0]} set aside" in caplog.text
    files = tables.read_table(str(tmp_path / "pool" / "sweep_files"), tables.SWEEP_FILES).to_pylist()
    bad = next(entry for entry in files if entry["file"] == NAMES[0])
    assert bad["state"] == "set_aside"
    assert start + row * row_bytes <= bad["offset"] < start + (row + 1) * row_bytes + 2880
    # not one of its rows is used: the result is that of the other file alone
    (copied / NAMES[0]).unlink()
    assert extract(sky, copied, tmp_path / "other") == 0
    assert contents(tmp_path / "pool") == contents(tmp_path / "other")


def test_more_bad_files_than_allowed_are_refused_and_one_is_named(sky, copied, tmp_path, capsys):
    for name in NAMES:
        damage(copied / name, "truncated")
    write_sweep(copied / "sweep-000m010-005m005.fits", galaxies(20, RELEASE=10002))
    assert extract(sky, copied, tmp_path / "pool", "max_bad_files=1") == 2
    error = capsys.readouterr().err
    assert "1 more cannot be used either" in error
    assert "Traceback" not in error


def test_files_that_all_lie_outside_are_refused_with_the_reason(sky, tmp_path, capsys):
    write_sweep(tmp_path / "sweeps" / "sweep-010p040-015p045.fits", galaxies(5))
    assert extract(sky, tmp_path / "sweeps", tmp_path / "pool") == 2
    assert "1 lie outside the footprint" in capsys.readouterr().err
