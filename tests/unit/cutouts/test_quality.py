"""Quality values and exclusion on stamps made for the purpose."""

from __future__ import annotations

import numpy as np
import pytest

from lensdata.config.cutouts import Quality
from lensdata.cutouts.quality import exclusion_reason, measure


@pytest.fixture
def stamp():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-50:51, -50:51]
    galaxy = 5 * np.exp(-np.hypot(x, y) / 4)
    return (galaxy[:, :, None] * [0.5, 1.0, 1.5] + rng.normal(0, 0.02, (101, 101, 3))).astype(np.float32)


def reason(stamp):
    return exclusion_reason(measure(stamp, Quality()), "grz", Quality())


def test_a_galaxy_on_noise_is_kept(stamp):
    assert reason(stamp) is None
    found = measure(stamp, Quality())
    assert found.missing_frac == (0.0, 0.0, 0.0)
    assert found.edge_score < 0.2


@pytest.mark.parametrize("missing", [0.0, np.nan])
def test_missing_pixels_are_zeros_as_well_as_nan(stamp, missing):
    stamp[:, :6, 1] = missing
    assert measure(stamp, Quality()).missing_frac[1] == pytest.approx(6 / 101)
    assert reason(stamp) == "missing_pixels_r"


def test_five_per_cent_is_still_kept(stamp):
    stamp[:, :5, 1] = 0
    assert measure(stamp, Quality()).missing_frac[1] < 0.05
    assert exclusion_reason(measure(stamp, Quality(edge_score_max=2.0)), "grz", Quality(edge_score_max=2.0)) is None


def test_an_empty_band_is_named_before_a_partly_missing_one(stamp):
    stamp[:, :20, 0] = 0
    stamp[:, :, 2] = 0
    assert reason(stamp) == "empty_band_z"


def test_extreme_pixels_and_infinities_are_saturated(stamp):
    stamp[40:60, 40:60, 0] = 1e4
    stamp[0, 0, 0] = np.inf
    assert measure(stamp, Quality()).saturated_frac == pytest.approx(401 / 101**2)
    assert reason(stamp) == "saturated"


def test_a_seam_between_exposures_is_an_edge_artefact(stamp):
    stamp[:, 60:, :] += 0.5
    assert measure(stamp, Quality()).edge_score > 0.8
    assert reason(stamp) == "edge_artefact"


def test_a_constant_stamp_is_no_division_by_zero():
    assert measure(np.ones((101, 101, 3), np.float32), Quality()).edge_score == 0.0
