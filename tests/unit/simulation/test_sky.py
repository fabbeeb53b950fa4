"""Bricks and projection against the survey's own numbers and astropy."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st

from lensdata.errors import InputError
from lensdata.simulation import sky
from lensdata.simulation.bricks import brick_header
from lensdata.simulation.world import brickid_of_name

positions = st.tuples(st.floats(0, 359.999), st.floats(-88, 88))


@pytest.mark.parametrize(
    ("ra", "dec", "brickid", "name"),
    [
        (95.95041322, 80.5, 657438, "0959p805"),  # survey-bricks.fits.gz of DR6
        (179.68492470351043, 30.092242116684066, 496305, "1795p300"),  # a row of a DR9 sweep
    ],
)
def test_brick_numbers_and_names_are_those_of_the_survey(ra: float, dec: float, brickid: int, name: str) -> None:
    brick = sky.bricks_at(ra, dec)
    assert (brick.brickid[0], brick.name[0]) == (brickid, name)


def test_the_sky_has_662174_bricks() -> None:
    assert sky.bricks_at(0.0, 90.0).brickid[0] == 662174  # legacysurvey.org/dr10/files


@given(positions)
def test_a_position_lies_in_the_unique_area_of_its_brick(position: tuple[float, float]) -> None:
    ra, dec = position
    brick = sky.bricks_at(ra, dec)
    assert brick.ra1[0] - 1e-9 <= ra < brick.ra2[0] + 1e-9
    assert brick.dec1[0] - 1e-9 <= dec < brick.dec2[0] + 1e-9
    assert sky.bricks_by_id(brick.brickid).ra[0] == brick.ra[0]


@given(positions)
def test_a_brick_name_leads_back_to_its_number(position: tuple[float, float]) -> None:
    brick = sky.bricks_at(*position)
    assert brickid_of_name(str(brick.name[0])) == brick.brickid[0]


@pytest.mark.parametrize("name", ["", "0959p8", "9999p999", "abcdp805", "0001p805"])
def test_a_wrong_brick_name_is_refused(name: str) -> None:
    with pytest.raises(InputError):
        brickid_of_name(name)


def test_brick_pixels_agree_with_astropy_wcs() -> None:
    brick = sky.bricks_at(17.0, -29.4)
    wcs = WCS(brick_header(brick, "r"))
    random = np.random.default_rng(0)
    ra, dec = brick.ra[0] + random.uniform(-0.13, 0.13, 50), brick.dec[0] + random.uniform(-0.12, 0.12, 50)
    x, y = sky.brick_pixels(ra, dec, brick.ra[0], brick.dec[0])
    expected = wcs.wcs_world2pix(np.stack([ra, dec], 1), 0)
    np.testing.assert_allclose(np.stack([x, y], 1), expected, atol=1e-6)


@given(positions, st.floats(-0.2, 0.2), st.floats(-0.2, 0.2))
def test_the_projection_is_undone_by_its_inverse(position: tuple[float, float], xi: float, eta: float) -> None:
    back = sky.sky_to_plane(*sky.plane_to_sky(xi, eta, *position), *position)
    np.testing.assert_allclose(back, (xi, eta), atol=1e-9)


@given(st.floats(0, 359.99), st.floats(-33, 33))
def test_a_101_pixel_stamp_of_a_primary_source_lies_in_its_own_brick(ra: float, dec: float) -> None:
    brick = sky.bricks_at(ra, dec)
    x, y = sky.brick_pixels(ra, dec, brick.ra[0], brick.dec[0])
    assert min(x, y) > 53
    assert max(x, y) < sky.BRICK_PIXELS - 54
