"""Every confuser rule fires, alone and at its edge; precedence is as documented."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensdata.catalogue.confusers import BITS, CATEGORIES, close_pairs, flags_without_merger, primary
from lensdata.catalogue.strata import axis_ratio
from lensdata.config.catalogue import Confusers

PLAIN = {"type": "SER", "flux_r": 2.0, "sersic": 2.0, "ellipticity": 0.2, "gr": 1.2, "mag_r": 21.0, "shape_r": 1.0}


def flags(**changed):
    row = PLAIN | changed
    return int(flags_without_merger({name: np.array([value]) for name, value in row.items()}, Confusers())[0])


def test_a_plain_galaxy_has_no_flag():
    assert flags() == 0


@pytest.mark.parametrize(
    ("category", "change", "edge"),
    [
        ("ring", {"flux_r": 5.1, "sersic": 4.1}, {"flux_r": 5.1, "sersic": 4.0}),
        ("ring", {"flux_r": 5.1, "type": "DEV", "sersic": 4.0}, {"flux_r": 5.0, "type": "DEV"}),
        ("edge_on", {"ellipticity": 0.51}, {"ellipticity": 0.50}),
        ("blue", {"gr": 0.39, "mag_r": 20.4}, {"gr": 0.39, "mag_r": 20.5}),
        ("large", {"shape_r": 2.1, "flux_r": 3.1}, {"shape_r": 2.1, "flux_r": 3.0}),
    ],
)
def test_each_rule_fires_past_its_edge_only(category, change, edge):
    assert flags(**change) == BITS[category]
    assert flags(**edge) & BITS[category] == 0


def test_a_rex_is_never_a_ring():
    assert flags(type="REX", flux_r=50.0, sersic=6.0) & BITS["ring"] == 0


def test_missing_colours_are_not_blue():
    assert flags(gr=np.nan, mag_r=np.nan) == 0


def test_edge_on_means_axis_ratio_below_one_half():
    # |e| = (1 - b/a) / (1 + b/a): b/a = 1/2 is |e| = 1/3, not 1/2
    assert 1 - axis_ratio(1 / 3 + 1e-6, 0.0) > 0.5
    assert 1 - axis_ratio(1 / 3 - 1e-6, 0.0) < 0.5


def test_the_primary_category_follows_the_precedence():
    everything = sum(BITS.values())
    for category in CATEGORIES:
        assert primary(np.array([everything], np.int32))[0] == category
        everything &= ~BITS[category]
    assert primary(np.array([0], np.int32))[0] is None


@pytest.mark.parametrize("dec", [0.0, 60.0, 89.9])
@pytest.mark.parametrize("ra", [0.0, 180.0])
def test_close_pairs_are_found_across_ra_zero_and_near_the_pole(ra, dec):
    step = 4.9 / 3600 / np.cos(np.radians(dec))
    far = 5.1 / 3600 / np.cos(np.radians(dec))
    positions = np.array([ra - step / 2, ra + step / 2, ra + step / 2 + far])
    member = close_pairs(positions, np.full(3, dec), np.array([19.0, 19.9, 19.9]), 5.0, 1.0)
    assert member.tolist() == [True, True, False]


def test_a_pair_of_unlike_flux_is_no_merger():
    assert not close_pairs(np.array([0.0, 1e-3]), np.zeros(2), np.array([19.0, 20.01]), 5.0, 1.0).any()


@settings(max_examples=200, deadline=None)
@given(ratio=st.floats(0.0, 1.0), angle=st.floats(0.0, 2 * np.pi))
def test_edge_on_is_the_same_cut_in_axis_ratio_and_in_tractors_ellipticity(ratio, angle):
    # Tractor: |e| = (1 - b/a) / (1 + b/a); edge-on <=> b/a < 0.5 <=> |e| > 1/3
    size = (1 - ratio) / (1 + ratio)
    e1, e2 = size * np.cos(angle), size * np.sin(angle)
    found = axis_ratio(e1, e2)
    assert abs(float(found) - ratio) < 1e-12
    edge_on = flags(ellipticity=float(1 - found)) == BITS["edge_on"]
    if abs(ratio - 0.5) > 1e-9:
        assert edge_on == (ratio < 0.5)
        assert edge_on == (size > 1 / 3)
