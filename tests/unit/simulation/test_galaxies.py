"""Profiles and PSFs as sums of Gaussians: flux, sizes, noise areas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammainc

from lensdata.simulation import galaxies
from lensdata.simulation.conditions import pixel_sigma
from lensdata.simulation.sky import PIXEL_SCALE

PSFS = tuple(galaxies.psf_mixture(fwhm) for fwhm in (1.5, 1.3, 1.1))


def _draw(x: float, y: float, n: float, radius: float, e1: float, e2: float, side: int = 401) -> np.ndarray:
    image = np.zeros((3, side, side))
    profile, shape = galaxies.sersic_mixture(n, radius), galaxies.shape_matrix(e1, e2)
    for patch in galaxies.galaxy_patches(x, y, np.array([1.0, 2.0, 3.0]), profile, shape, PSFS):
        height, width = patch.image.shape[1:]
        image[:, patch.y0 : patch.y0 + height, patch.x0 : patch.x0 + width] += patch.image
    return image


@settings(max_examples=25)
@given(st.floats(0.5, 6), st.floats(0.1, 2.5), st.floats(-0.4, 0.4), st.floats(-0.4, 0.4), st.floats(-0.5, 0.5))
def test_pixels_of_a_galaxy_add_up_to_its_flux(n: float, radius: float, e1: float, e2: float, phase: float) -> None:
    image = _draw(200 + phase, 200 - phase, n, radius, e1, e2)
    np.testing.assert_allclose(image.sum((1, 2)), [1, 2, 3], rtol=1e-3)


@pytest.mark.parametrize("n", [1.0, 2.5, 4.0])
def test_half_of_a_galaxys_light_lies_inside_its_half_light_radius(n: float) -> None:
    mixture = galaxies.sersic_mixture(n, 2.0)
    inside = (mixture.weight * (1 - np.exp(-0.5 * (2.0 / PIXEL_SCALE) ** 2 / mixture.variance))).sum()
    assert inside == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("n", [1.0, 2.0, 4.0])
def test_a_mixture_follows_the_sersic_curve_of_growth(n: float) -> None:
    radii = np.array([0.3, 0.5, 1.0, 2.0, 3.0])
    mixture = galaxies._sersic_shape(n)
    grown = (mixture.weight * (1 - np.exp(-0.5 * radii[:, None] ** 2 / mixture.variance))).sum(1)
    exact = gammainc(2 * n, galaxies.sersic_b(n) * radii ** (1 / n))
    total = gammainc(2 * n, galaxies.sersic_b(n) * 6.5 ** (1 / n))  # half-way through the fading of the profile
    np.testing.assert_allclose(grown, exact / total, atol=0.05)


@pytest.mark.parametrize("fwhm", [0.95, 1.3, 2.0])
def test_a_psf_has_the_width_that_its_row_says(fwhm: float) -> None:
    psf = galaxies.psf_mixture(fwhm)
    half = fwhm / 2 / PIXEL_SCALE
    profile = lambda r: (psf.weight / psf.variance * np.exp(-0.5 * r**2 / psf.variance)).sum()  # noqa: E731
    assert profile(half) / profile(0.0) == pytest.approx(0.5, abs=1e-6)
    assert psf.weight.sum() == pytest.approx(1)


def test_the_noise_of_a_pixel_gives_back_the_depth_of_a_point_source() -> None:
    psf, depth = galaxies.psf_mixture(1.3), 500.0
    y, x = np.mgrid[-40:41, -40:41]
    image = sum(
        w / (2 * np.pi * v) * np.exp(-0.5 * (x**2 + y**2) / v) for w, v in zip(psf.weight, psf.variance, strict=True)
    )
    sigma = pixel_sigma(1.3, depth)
    assert (image**2).sum() / sigma**2 == pytest.approx(depth, rel=1e-3)


def test_the_long_axis_points_where_the_position_angle_says() -> None:
    image = _draw(200, 200, 1.0, 2.0, 0.4, 0.0)[1]  # e2 = 0, e1 > 0: position angle 0, along north
    y, x = np.mgrid[:401, :401] - 200
    assert (image * y**2).sum() > 2 * (image * x**2).sum()
    image = _draw(200, 200, 1.0, 2.0, 0.0, 0.4)[1]  # position angle 45 degrees: north to east; x runs west
    assert (image * y * x).sum() < 0
