"""The fixed-width reader against astropy, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from lensdata.catalogue import sweeps
from lensdata.errors import InputError
from tests.sweeps import galaxies, write_sweep

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
    blocks = list(sweeps.read_blocks(sweep))
    assert sum(len(block) for block in blocks) == rows
    with fits.open(path) as hdus:
        for index in range(len(forms) if rows else 0):
            ours = np.concatenate([block[f"C{index}"] for block in blocks])
            assert np.array_equal(ours, hdus[1].data[f"c{index}"])


def test_row_ranges_cover_every_row_once(tmp_path):
    path = write_sweep(tmp_path / "sweep-010m010-015m005.fits", galaxies(1234))
    sweep = sweeps.open_sweep(str(path))
    ranges = sweeps.plan_splits([sweep], 100)
    ids = [block["OBJID"] for uri, first, rows in ranges for block in sweeps.read_blocks(sweep, first, rows)]
    assert np.array_equal(np.concatenate(ids), np.arange(1234))


def test_a_missing_column_is_refused_by_name(tmp_path):
    path = write_sweep(tmp_path / "old.fits", galaxies(3), drop=("MASKBITS",))
    with pytest.raises(InputError, match="MASKBITS is missing"):
        sweeps.open_sweep(str(path))


def test_a_truncated_file_is_refused_with_its_name(tmp_path):
    path = write_sweep(tmp_path / "short.fits", galaxies(500))
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(InputError, match=r"short\.fits is truncated"):
        sweeps.open_sweep(str(path))


@pytest.mark.parametrize("content", [b"", b"no fits at all", b"SIMPLE  =                    T"])
def test_what_is_no_fits_file_is_refused(tmp_path, content):
    path = tmp_path / "x.fits"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a FITS file"):
        sweeps.open_sweep(str(path))


def test_declinations_are_read_from_the_file_name():
    assert sweeps.declination_range("sweep-355m085-000m080.fits") == (-85.0, -80.0)
    assert sweeps.declination_range(str(Path("a") / "other.fits")) is None
