"""Every cut drops the rows it is meant to drop, and only those; counts add up."""

from __future__ import annotations

import numpy as np
import pytest

from lensdata.catalogue import strata, sweeps
from lensdata.catalogue.cuts import REASONS, apply_cuts
from lensdata.config.base import load_config
from lensdata.config.catalogue import Cuts, ExtractPoolConfig, Footprint
from lensdata.errors import InputError
from tests.sweeps import galaxies, write_sweep

VIOLATIONS = {
    "type": {"TYPE": "PSF"},
    "footprint": {"DEC": -18.0},
    "nobs_g": {"NOBS_G": 2},
    "nobs_r": {"NOBS_R": 2},
    "nobs_z": {"NOBS_Z": 0},
    "maskbits": {"MASKBITS": 1 << 12},
    "flux_z_not_positive": {"FLUX_Z": -1.0},
    "mag_z": {"FLUX_Z": 10.0},  # exactly z = 20.0: the limit is exclusive
}


def block_of(tmp_path, table):
    return next(sweeps.read_blocks(sweeps.open_sweep(str(write_sweep(tmp_path / "t.fits", table)))))


def test_every_rule_is_exercised_here():
    assert set(VIOLATIONS) == set(REASONS)


@pytest.mark.parametrize("reason", REASONS)
def test_a_row_that_fails_one_cut_is_counted_under_it(tmp_path, reason):
    table = galaxies(10)
    for name, value in VIOLATIONS[reason].items():
        table[name][3] = value
    kept, dropped = apply_cuts(block_of(tmp_path, table), Cuts())
    assert kept.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert dropped == {name: int(name == reason) for name in REASONS}


def test_nan_flux_has_no_magnitude(tmp_path):
    kept, dropped = apply_cuts(block_of(tmp_path, galaxies(4, FLUX_Z=np.nan)), Cuts())
    assert kept.size == 0
    assert dropped["flux_z_not_positive"] == 4


def test_infinite_flux_has_no_magnitude(tmp_path):
    block = block_of(tmp_path, galaxies(4, FLUX_Z=np.inf))
    assert apply_cuts(block, Cuts())[1]["flux_z_not_positive"] == 4


@pytest.mark.parametrize("transmission", [0.0, -0.5, np.nan, 1e-45])
def test_dereddening_by_no_transmission_makes_nothing_bright(tmp_path, transmission):
    block = block_of(tmp_path, galaxies(4, FLUX_Z=np.float32(1e30), MW_TRANSMISSION_Z=transmission))
    expected = 0 if transmission == 1e-45 else 4  # a float64 holds that quotient
    assert apply_cuts(block, Cuts(dereddened=True))[1]["mag_z"] == expected


def test_mask_bits_of_other_types_are_compared_all_the_same(tmp_path):
    dtype = [(name, "S3" if name == "TYPE" else "f8") for name in sweeps.REQUIRED]
    block = np.zeros(2, dtype)
    for name, values in galaxies(2).items():
        block[name] = values if name != "BRICKNAME" else 0
    block["MASKBITS"] = [0, 1 << 12]
    assert apply_cuts(block, Cuts())[0].tolist() == [0]


@pytest.mark.parametrize("bit", range(17))
def test_the_rejected_mask_bits_are_those_of_the_specification(tmp_path, bit):
    kept, _ = apply_cuts(block_of(tmp_path, galaxies(2, MASKBITS=1 << bit)), Cuts())
    assert (kept.size == 0) == (bit in {1, 5, 6, 7, 11, 12, 13})


def test_padded_types_are_not_lost(tmp_path):
    table = galaxies(5, TYPE="SER")
    kept, _ = apply_cuts(block_of(tmp_path, table), Cuts())
    assert kept.size == 5


def test_footprints_differ_in_the_south(tmp_path):
    block = block_of(tmp_path, galaxies(3, DEC=-30.0))
    assert apply_cuts(block, Cuts())[0].size == 0
    assert apply_cuts(block, Cuts(footprint=Footprint(name="paper_iv")))[0].size == 3


def test_dereddening_lets_a_reddened_galaxy_in(tmp_path):
    block = block_of(tmp_path, galaxies(3, FLUX_Z=9.5, MW_TRANSMISSION_Z=0.9))
    assert apply_cuts(block, Cuts())[0].size == 0
    assert apply_cuts(block, Cuts(dereddened=True))[0].size == 3


def test_a_custom_footprint_needs_ordered_limits():
    with pytest.raises(InputError, match="dec_min_deg < dec_max_deg"):
        load_config(
            ExtractPoolConfig,
            None,
            ["cuts.footprint.name=custom", "cuts.footprint.dec_min_deg=5", "cuts.footprint.dec_max_deg=1"],
        )


def test_depth_magnitude_matches_the_definition():
    # 5 sigma at 1/sqrt(ivar): ivar = 1 nMgy^-2 is 22.5 - 2.5 log10(5)
    assert strata.depth_magnitude(1.0) == pytest.approx(22.5 - 2.5 * np.log10(5.0))
    assert np.isnan(strata.depth_magnitude(0.0))


@pytest.mark.parametrize(
    ("nobs", "name"),
    [(0, "none"), (1, "1-2"), (2, "1-2"), (3, "3-5"), (5, "3-5"), (6, "6-10"), (10, "6-10"), (11, "11+"), (99, "11+")],
)
def test_exposure_bins(nobs, name):
    assert strata.nobs_bin([nobs])[0] == name


def test_strata_are_nine_and_others_have_none():
    assert len(strata.STRATA) == 9
    assert strata.stratum(np.array(["SER", "EXP", "DEV"]), np.array(["3-5", "3-5", "1-2"])).tolist() == [
        "SER/3-5",
        None,
        None,
    ]
