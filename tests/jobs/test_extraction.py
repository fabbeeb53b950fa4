"""Pool extraction from files as they come: packed, remote, damaged, out of the footprint, in any order."""

from __future__ import annotations

import gzip
import json
import shutil

import numpy as np
import pytest
from astropy.io import fits

from lensdata import tables
from lensdata.catalogue import sweeps
from lensdata.config.catalogue import ExtractPoolConfig
from lensdata.errors import InputError
from lensdata.sky.nearby import Neighbourhood
from spark_jobs import datasets, extract_pool, match_positives
from spark_jobs.transforms.extraction import read_split
from tests.sweeps import FORMATS, galaxies, write_sweep
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


@pytest.mark.slow
def test_packed_files_give_the_same_pool(chain, sky, copied, tmp_path):
    for name in NAMES:
        (copied / f"{name}.gz").write_bytes(gzip.compress((copied / name).read_bytes()))
        (copied / name).unlink()
    assert extract(sky, copied, tmp_path / "pool") == 0
    assert contents(tmp_path / "pool") == contents(chain / "pool")


@pytest.mark.slow
def test_a_list_of_web_addresses_in_any_order_gives_the_same_pool(chain, sky, spark, tmp_path):
    faults = Faults(refusals=1, cut_short=1)
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def rows_of_the_pass(sweep, first=0):
    """What a task makes of a file's rows, with one lens far away; by table."""
    lenses = {"name": np.array(["x"]), "ra": np.array([200.0]), "dec": np.array([0.0]), "grading": np.array(["A"])}
    near = Neighbourhood(lenses["ra"], lenses["dec"], 11.0)
    batches = read_split(sweep, first, sweep.num_rows - first, near, lenses, ExtractPoolConfig())
    return [row for batch in batches for row in batch.to_pylist()]


def set_aside(sweep, first=0):
    """The row that sets a file aside."""
    found = rows_of_the_pass(sweep, first)
    assert not [row for row in found if row["kind"] == "sweep_splits"]
    entry = found[-1]
    assert (entry["kind"], entry["state"], entry["uri"]) == ("sweep_files", "set_aside", sweep.uri)
    return entry


@pytest.mark.parametrize(("row", "rows"), [(0, 1), (700, 1), (999, 1), (100, 800)])
def test_zeros_where_rows_should_be_set_a_file_aside(tmp_path, row, rows):
    path = write_sweep(tmp_path / "x.fits", galaxies(1000))
    sweep = sweeps.open_sweep(str(path))
    data = bytearray(path.read_bytes())
    at = sweep.offset + row * sweep.row_bytes
    data[at : at + rows * sweep.row_bytes] = bytes(rows * sweep.row_bytes)
    path.write_bytes(bytes(data))
    entry = set_aside(sweep)
    assert entry["offset"] == at
    assert f"row {row} has RA 0, Dec 0 and RELEASE 0" in entry["reason"]


def test_a_source_at_the_origin_of_the_sky_is_a_source(tmp_path):
    table = galaxies(10)
    table["RA"][3] = table["DEC"][3] = 0.0
    found = rows_of_the_pass(sweeps.open_sweep(str(write_sweep(tmp_path / "x.fits", table))))
    assert sum(row["kind"] == "pool" for row in found) == 10


@pytest.mark.parametrize(
    ("name", "form", "value"),
    [
        ("BRICKNAME", "8A", b"0100m\xff50"),
        ("MASKBITS", "K", 1 << 40),
        ("RELEASE", "J", 40_000),
        ("NOBS_R", "D", np.inf),
        ("NOBS_G", "E", 3.5),
        ("OBJID", "J", -1),
    ],
)
def test_a_value_that_no_survey_gives_sets_a_file_aside_with_its_place(tmp_path, monkeypatch, name, form, value):
    table = galaxies(1000)
    table[name] = table[name].astype({"8A": "S8", "K": "i8", "J": "i4", "D": "f8", "E": "f4"}[form])
    table[name][600] = value
    monkeypatch.setitem(FORMATS, name, form)
    sweep = sweeps.open_sweep(str(write_sweep(tmp_path / "y.fits", table)))
    entry = set_aside(sweep, first=500)
    assert entry["offset"] == sweep.offset + 500 * sweep.row_bytes
    assert "y.fits: a value after row 500 is impossible" in entry["reason"]


def test_a_file_that_a_disk_no_longer_gives_is_set_aside_and_one_behind_a_network_is_tried_again(tmp_path, monkeypatch):
    path = write_sweep(tmp_path / "x.fits", galaxies(100))
    sweep = sweeps.open_sweep(str(path))
    path.unlink()
    assert "x.fits cannot be read" in set_aside(sweep)["reason"]
    write_sweep(path, galaxies(100))
    with serve(tmp_path, Faults(forbid_after=1)) as url:
        sweep = sweeps.open_sweep(f"{url}/x.fits")
        with pytest.raises(OSError, match="the server refuses it"):
            rows_of_the_pass(sweep)


def test_a_server_that_fails_at_a_header_stops_the_job_whatever_may_be_set_aside(sky, tmp_path, capsys):
    with serve(sky.sweeps, Faults(forbid_after=2)) as url:  # two ranges tell whether the inputs changed
        (tmp_path / "list.txt").write_text("".join(f"{url}/{name}\n" for name in NAMES))
        assert extract(sky, tmp_path / "list.txt", tmp_path / "pool", "max_bad_files=2") == 1
    error = capsys.readouterr().err
    assert "cannot be read: " in error
    assert "the server refuses it (status 403)" in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_a_file_that_a_test_run_reads_in_part_is_not_called_read(sky, spark, tmp_path):
    more = ("execution.rows_per_split=1000", "--test-limit", "5")
    assert extract(sky, sky.sweeps, tmp_path / "pool", *more) == 0
    files = tables.read_table(str(tmp_path / "pool" / "sweep_files"), tables.SWEEP_FILES).to_pylist()
    assert [(row["file"], row["state"]) for row in files] == [(NAMES[0], "read"), (NAMES[1], "partly_read")]
    found = report(tmp_path / "pool")
    assert (found["rows_read"], found["files"], found["files_partly_read"]) == (5000, 1, 1)


@pytest.mark.parametrize("name", ["image.fits", "cut.csv.gz", "zeros.csv.gz", "empty.cat"])
def test_a_lens_table_that_cannot_be_read_is_refused_by_name(sky, tmp_path, capsys, name):
    packed = gzip.compress(b"ra,dec\n" + b"".join(b"%d,%d\n" % (row * row, row) for row in range(5000)))
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros((3, 3)))]).writeto(tmp_path / "image.fits")
    (tmp_path / "cut.csv.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "zeros.csv.gz").write_bytes(packed[:500] + bytes(500) + packed[1000:])
    (tmp_path / "empty.cat").write_bytes(b"")
    assert extract(type(sky)(lens_csv=tmp_path / name), sky.sweeps, tmp_path / "pool") == 2
    error = capsys.readouterr().err
    assert f"{name} cannot be read" in error
    assert "Traceback" not in error


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


def test_an_output_that_this_spark_cannot_write_is_refused_before_a_row_is_read(sky, spark):
    with pytest.raises(InputError, match=r"has no file system for s3://"):
        datasets.require_filesystem(spark, "s3://bucket/run/pool")
    datasets.require_filesystem(spark, str(sky.folder))
