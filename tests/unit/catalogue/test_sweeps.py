"""The fixed-width reader against astropy, and what it refuses."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from lensdata import storage
from lensdata.catalogue import sweeps
from lensdata.errors import InputError
from tests.sweeps import galaxies, write_sweep
from tests.web_server import Faults, serve

CODES = {"L": bool, "B": np.uint8, "I": np.int16, "J": np.int32, "K": np.int64, "E": np.float32, "D": np.float64}


@settings(max_examples=30, deadline=None)
@given(
    forms=st.lists(st.tuples(st.sampled_from("BIJKED"), st.integers(1, 4)), min_size=1, max_size=8),
    rows=st.integers(0, 50),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_table_of_numbers_reads_as_astropy_reads_it(tmp_path_factory, forms, rows, seed):
    rng = np.random.default_rng(seed)
    columns = []
    for index, (code, repeat) in enumerate(forms):
        shape = (rows,) if repeat == 1 else (rows, repeat)
        values = rng.integers(0, 100, shape).astype(CODES[code])
        columns.append(fits.Column(name=f"c{index}", format=f"{repeat}{code}", array=values))
    path = tmp_path_factory.mktemp("any") / "t.fits"
    fits.BinTableHDU.from_columns(columns).writeto(path)
    sweep = sweeps.open_sweep(str(path), required=[])
    assert sweep.num_rows == rows
    blocks = [block.copy() for block in sweeps.read_blocks(sweep)]
    assert sum(len(block) for block in blocks) == rows
    with fits.open(path) as hdus:
        for index in range(len(forms) if rows else 0):
            ours = np.concatenate([block[f"C{index}"] for block in blocks])
            assert np.array_equal(ours, hdus[1].data[f"c{index}"])


def test_row_ranges_cover_every_row_once(tmp_path):
    path = write_sweep(tmp_path / "sweep-010m010-015m005.fits", galaxies(1234))
    sweep = sweeps.open_sweep(str(path))
    ranges = sweeps.plan_splits([sweep], 100)
    ids = [block["OBJID"].copy() for uri, first, rows in ranges for block in sweeps.read_blocks(sweep, first, rows)]
    assert np.array_equal(np.concatenate(ids), np.arange(1234))


def test_a_missing_column_is_refused_by_name(tmp_path):
    path = write_sweep(tmp_path / "old.fits", galaxies(3), drop=("MASKBITS",))
    with pytest.raises(InputError, match="MASKBITS is missing"):
        sweeps.open_sweep(str(path))


def test_a_column_of_another_name_is_read_under_ours(tmp_path):
    path = write_sweep(tmp_path / "other.fits", galaxies(30))
    path.write_bytes(path.read_bytes().replace(b"'FLUX_Z  '", b"'FZ      '"))
    with pytest.raises(InputError, match="FLUX_Z is missing"):
        sweeps.open_sweep(str(path))
    block = next(sweeps.read_blocks(sweeps.open_sweep(str(path), columns={"FLUX_Z": "fz"})))
    assert np.array_equal(block["FLUX_Z"], galaxies(30)["FLUX_Z"])


def test_a_truncated_file_is_refused_with_its_name(tmp_path):
    path = write_sweep(tmp_path / "short.fits", galaxies(500))
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(
        sweeps.CorruptSweep, match=r"short\.fits: the file is truncated after 374 of 500 rows"
    ) as caught:
        sweeps.open_sweep(str(path))
    assert caught.value.offset == path.stat().st_size


@pytest.mark.parametrize("content", [b"", b"no fits at all", b"SIMPLE  =                    T"])
def test_what_is_no_fits_file_is_refused(tmp_path, content):
    path = tmp_path / "x.fits"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a FITS file"):
        sweeps.open_sweep(str(path))


def card(key, value):
    return f"{key:8}= {value:>20}".encode()


def changed(path, *pairs):
    """Header cards replaced by others of the same length."""
    data = path.read_bytes()
    for old, new in pairs:
        assert len(old) == len(new)
        assert data.count(old) >= 1
        data = data.replace(old, new)
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"TTYPE5  =", b"XTYPE5  ="),
        (b"TFORM5  =", b"XFORM5  ="),
        (card("TFIELDS", len(sweeps.REQUIRED)), card("TFIELDS", 900)),
        (card("TFIELDS", len(sweeps.REQUIRED)), card("TFIELDS", "'many'")),
        (b"NAXIS1  = ", b"NAXIS1  @ "),
        (b"NAXIS1  =   ", b"NAXIS1  = 1 2"[:12]),
        (card("NAXIS2", 30), card("NAXIS2", "'ten'")),
        (card("NAXIS2", 30), card("NAXIS2", "ten")),
        (card("NAXIS2", 30), card("NAXIS2", -5)),
        (card("NAXIS2", 30), card("NAXIS2", 10.5)),
        (card("NAXIS2", 30), card("NAXIS2", "T")),
        (b"TTYPE5  =", b"TTYP\xe95  ="),
        (b"XTENSION=", b"YTENSION="),
        (b"'BINTABLE'", b"'IMAGE   '"),
        (b"'FLUX_Z  '", b"'FLUX_R  '"),
        (b"END" + b" " * 77, b"DNE" + b" " * 77),
    ],
)
def test_a_damaged_header_is_refused_in_a_sentence(tmp_path, old, new):
    path = changed(write_sweep(tmp_path / "x.fits", galaxies(30)), (old, new))
    with pytest.raises(InputError, match=r"x\.fits") as caught:
        sweeps.open_sweep(path)
    assert str(sweeps.open_sweeps([path])[1][path]) == str(caught.value)


@pytest.mark.parametrize(
    ("name", "form", "values"),
    [
        ("FLUX_G", "2E", np.ones((30, 2))),
        ("FLUX_Z", "5A", np.full(30, "1.0")),
        ("TYPE", "E", np.ones(30)),
        ("RA", "L", np.ones(30, bool)),
    ],
)
def test_a_column_of_another_kind_is_refused_by_name(tmp_path, name, form, values):
    with fits.open(write_sweep(tmp_path / "x.fits", galaxies(30))) as hdus:
        columns = [column for column in hdus[1].columns if column.name != name]
        fits.BinTableHDU.from_columns([*columns, fits.Column(name, form, array=values)]).writeto(tmp_path / "y.fits")
    with pytest.raises(InputError, match=rf"column {name} has format '{form}', expected"):
        sweeps.open_sweep(str(tmp_path / "y.fits"))


def test_a_column_is_renamed_though_the_file_has_one_of_that_name(tmp_path):
    table = galaxies(30)
    path = changed(
        write_sweep(tmp_path / "x.fits", table), (b"'EBV     '", b"'RA2     '"), (b"'SERSIC  '", b"'EBV     '")
    )
    with pytest.raises(InputError, match="SERSIC is missing"):
        sweeps.open_sweep(path)
    columns = {"EBV": "ra2", "SERSIC": "SHAPE_R", "SHAPE_R": "EBV"}
    block = next(sweeps.read_blocks(sweeps.open_sweep(path, columns=columns)))
    assert np.array_equal(block["EBV"], table["EBV"])
    assert np.array_equal(block["SERSIC"], table["SHAPE_R"])
    block = next(sweeps.read_blocks(sweeps.open_sweep(path, columns={"FLUX_Z": "PSFDEPTH_Z"}, required=["FLUX_Z"])))
    assert np.array_equal(block["FLUX_Z"], table["PSFDEPTH_Z"])


def test_a_server_that_fails_says_nothing_about_the_file(tmp_path):
    path = write_sweep(tmp_path / "x.fits", galaxies(30))
    with serve(tmp_path, Faults(forbid_after=0)) as url:
        with pytest.raises(OSError, match=r"x\.fits cannot be read: .* refuses it"):
            sweeps.open_sweeps([f"{url}/{path.name}"])
        _, errors = sweeps.open_sweeps([f"{url}/absent.fits"])
    assert "does not exist" in str(errors[f"{url}/absent.fits"])


def test_declinations_are_read_from_the_file_name():
    assert sweeps.declination_range("sweep-355m085-000m080.fits") == (-85.0, -80.0)
    assert sweeps.declination_range(str(Path("a") / "other.fits")) is None


@pytest.fixture
def many(tmp_path, monkeypatch):
    """A file of several blocks, and its object numbers."""
    monkeypatch.setattr(sweeps, "BLOCK_ROWS", 100)
    return write_sweep(tmp_path / "sweep-010m010-015m005.fits", galaxies(1234))


def object_numbers(uri, first=0, rows=None):
    sweep = sweeps.open_sweep(uri)
    return np.concatenate([block["OBJID"].copy() for block in sweeps.read_blocks(sweep, first, rows)])


def test_a_compressed_file_is_one_range_with_the_same_rows(many):
    packed = many.with_name(many.name + ".gz")
    packed.write_bytes(gzip.compress(many.read_bytes()))
    sweep = sweeps.open_sweep(str(packed))
    assert sweeps.plan_splits([sweep], 100) == [(str(packed), 0, 1234)]
    assert np.array_equal(object_numbers(str(packed)), np.arange(1234))
    assert np.array_equal(object_numbers(str(packed), 1200, 20), np.arange(1200, 1220))


def test_a_file_on_a_web_server_reads_by_ranges_like_one_on_disk(many):
    faults = Faults(refusals=1, cut_short=1)
    with serve(many.parent, faults) as url:
        assert np.array_equal(object_numbers(f"{url}/{many.name}", 150, 700), np.arange(150, 850))
    asked = [range_ for _, range_ in faults.requests if range_]
    assert asked
    assert all(int(range_.split("-")[1]) < many.stat().st_size for range_ in asked)


def test_a_file_on_s3_reads_by_ranges_like_one_on_disk(many, bucket):
    storage.write_bytes(f"{bucket}/sweeps/{many.name}", many.read_bytes())
    assert sweeps.list_sweeps(f"{bucket}/sweeps") == [f"{bucket}/sweeps/{many.name}"]
    assert np.array_equal(object_numbers(f"{bucket}/sweeps/{many.name}", 150, 700), np.arange(150, 850))


def test_a_small_compressed_file_on_s3_reads_like_one_on_disk(tmp_path, bucket):
    packed = gzip.compress(write_sweep(tmp_path / "x.fits", galaxies(30)).read_bytes())
    storage.write_bytes(f"{bucket}/packed/x.fits.gz", packed)
    assert np.array_equal(object_numbers(f"{bucket}/packed/x.fits.gz"), np.arange(30))


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_file_on_a_web_server_that_is_replaced_while_it_is_read_is_corrupt(many, ending):
    path = many.with_name(many.name + ending)
    pack = gzip.compress if ending else bytes
    path.write_bytes(pack(many.read_bytes()))
    with serve(many.parent) as url:
        sweep = sweeps.open_sweep(f"{url}/{path.name}")
        write_sweep(many, galaxies(2345, seed=2))
        path.write_bytes(pack(many.read_bytes()))
        with pytest.raises(sweeps.CorruptSweep, match="it changed while it was read in row 0 of 1234"):
            list(sweeps.read_blocks(sweep))


def test_a_file_that_shrinks_after_its_header_was_read_is_corrupt_at_a_row(many):
    sweep = sweeps.open_sweep(str(many))
    many.write_bytes(many.read_bytes()[: sweep.offset + 777 * sweep.row_bytes + 5])
    with pytest.raises(sweeps.CorruptSweep, match="in row 777 of 1234") as caught:
        list(sweeps.read_blocks(sweep))
    assert caught.value.offset == sweep.offset + 777 * sweep.row_bytes


@pytest.mark.parametrize("damage", ["cut", "overwritten", "flipped bit"])
def test_a_damaged_compressed_file_is_corrupt(many, damage):
    packed = many.with_name(many.name + ".gz")
    data = bytearray(gzip.compress(many.read_bytes()))
    if damage == "cut":
        del data[-len(data) // 3 :]
    elif damage == "overwritten":
        data[len(data) // 2 : len(data) // 2 + 50] = bytes(50)
    else:  # of the checksum: every row unpacks
        data[-8] ^= 1
    packed.write_bytes(bytes(data))
    with pytest.raises(sweeps.CorruptSweep, match=r"cannot be unpacked .* in row"):
        object_numbers(str(packed))


def test_files_are_listed_once_from_folders_and_lists(many, tmp_path):
    assert sweeps.list_sweeps(str(tmp_path)) == [str(many)]
    (tmp_path / "sweeps.txt").write_text(f"{many.name}\n")
    assert sweeps.list_sweeps(str(tmp_path / "sweeps.txt")) == [str(many)]
    (tmp_path / "other.txt").write_text(f"{many.name}\nother.sha256sum\n")
    with pytest.raises(InputError, match=r"other\.txt names .*other\.sha256sum, expected \.fits"):
        sweeps.list_sweeps(str(tmp_path / "other.txt"))
    many.with_name(many.name + ".gz").write_bytes(b"")
    with pytest.raises(InputError, match="holds one file twice"):
        sweeps.list_sweeps(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "outside"),
    [
        ("sweep-000m025-005m020.fits", True),
        ("sweep-000m020-005m015.fits", False),
        ("sweep-000p030-005p035.fits.gz", False),
        ("https://host/10.1/sweep-000p035-005p040.fits", True),
        ("anything.fits", False),
    ],
)
def test_only_files_that_cannot_hold_a_row_of_the_footprint_lie_outside(name, outside):
    assert sweeps.outside_declinations(name, (-18.0, 32.0)) is outside
