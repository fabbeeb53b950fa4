"""Rows near a few positions, against all distances by astropy."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord, angular_separation
from hypothesis import given, settings
from hypothesis import strategies as st

from lensdata.sky.nearby import Box, Neighbourhood

CENTRES = st.tuples(
    st.sampled_from([0.0, 1e-4, 359.9999, 180.0, 37.3]),
    st.sampled_from([-90.0, -89.999, -30.0, 0.0, 31.99, 89.9995, 90.0]),
)


@settings(max_examples=60, deadline=None)
@given(centre=CENTRES, spread=st.sampled_from([0.003, 0.02, 0.3]), seed=st.integers(0, 2**32 - 1))
def test_the_rows_found_are_those_of_all_distances(centre, spread, seed):
    rng = np.random.default_rng(seed)
    sky = SkyCoord(*centre, unit="deg")
    rows = sky.directional_offset_by(rng.uniform(0, 360, 400) * u.deg, rng.uniform(0, spread, 400) * u.deg)
    lenses = sky.directional_offset_by(rng.uniform(0, 360, 30) * u.deg, rng.uniform(0, spread, 30) * u.deg)
    ra, dec = rows.ra.deg % 360, np.clip(rows.dec.deg, -90, 90)
    lens_ra, lens_dec = lenses.ra.deg % 360, np.clip(lenses.dec.deg, -90, 90)
    found, nearest, separation = Neighbourhood(lens_ra, lens_dec, 11.0).near(ra, dec, Box.around(ra, dec))
    radians = (np.radians(x) for x in (ra[:, None], dec[:, None], lens_ra[None], lens_dec[None]))
    distance = np.degrees(angular_separation(*radians)) * 3600
    assert np.array_equal(found, np.flatnonzero(distance.min(axis=1) <= 11.0))
    assert np.allclose(distance[found, nearest], distance[found].min(axis=1), atol=1e-6)
    assert np.allclose(separation, distance[found].min(axis=1), atol=1e-6)


def test_a_block_without_a_lens_asks_no_tree():
    near = Neighbourhood([10.0], [5.0], 11.0)
    ra, dec = np.array([20.0, 21.0]), np.array([4.0, 6.0])
    found, _, _ = near.near(ra, dec, Box.around(ra, dec))
    assert found.size == 0
    assert near._index is None


@pytest.mark.parametrize(("ra", "dec"), [(np.nan, 0.0), (10.0, np.inf), (-0.1, 0.0), (360.5, 0.0), (5.0, 90.1)])
def test_what_is_no_position_is_seen(ra, dec):
    assert not Box.around(np.array([1.0, ra]), np.array([2.0, dec])).on_sky
    assert Box.around(np.array([0.0, 360.0]), np.array([-90.0, 90.0])).on_sky
