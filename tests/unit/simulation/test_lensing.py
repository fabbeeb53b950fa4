"""The lens model against closed forms and an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensdata.simulation.lensing import (
    Lens,
    SersicSource,
    deflection,
    lensed_brightness,
    sersic_norm,
    source_brightness,
)

FINE = np.linspace(-8, 8, 1601)
AREA = (FINE[1] - FINE[0]) ** 2
X, Y = FINE[None, :], FINE[:, None]


@given(st.floats(0.3, 3), st.floats(-5, 5), st.floats(-5, 5))
def test_a_round_lens_bends_every_ray_by_its_einstein_radius(theta_e: float, x: float, y: float) -> None:
    if np.hypot(x, y) < 0.05:
        return
    a_x, a_y = deflection(Lens(theta_e), np.array([x]), np.array([y]))
    np.testing.assert_allclose([a_x[0], a_y[0]], theta_e * np.array([x, y]) / np.hypot(x, y), atol=2e-3 * theta_e)


@pytest.mark.parametrize("offset", [0.3, 0.6])
def test_a_round_lens_makes_two_images_at_the_radii_of_theory(offset: float) -> None:
    """For a singular isothermal sphere: images at offset + theta_E and offset - theta_E."""
    image = lensed_brightness(Lens(1.5), SersicSource(offset, 0.0, 0.02, 0.5), X, Y)[800]
    assert FINE[900:][image[900:].argmax()] == pytest.approx(1.5 + offset, abs=0.02)
    assert FINE[:790][image[:790].argmax()] == pytest.approx(offset - 1.5, abs=0.02)


@pytest.mark.parametrize("offset", [0.2, 0.5, 0.9])
def test_total_magnification_of_a_round_lens_is_twice_theta_e_over_offset(offset: float) -> None:
    total = lensed_brightness(Lens(1.5), SersicSource(offset, 0.1, 0.04, 0.5), X, Y).sum() * AREA
    assert total == pytest.approx(2 * 1.5 / np.hypot(offset, 0.1), rel=0.02)


@given(st.floats(0.4, 0.95), st.floats(0, np.pi), st.floats(-0.1, 0.1))
@settings(max_examples=20)
def test_the_deflection_field_has_no_curl(q: float, angle: float, shear: float) -> None:
    lens, h = Lens(1.2, q, angle, shear, -shear / 2), 1e-4
    x, y = np.array([0.7, -1.3, 2.1]), np.array([0.9, 0.4, -1.7])
    d_yx = (deflection(lens, x + h, y)[1] - deflection(lens, x - h, y)[1]) / (2 * h)
    d_xy = (deflection(lens, x, y + h)[0] - deflection(lens, x, y - h)[0]) / (2 * h)
    np.testing.assert_allclose(d_yx, d_xy, atol=1e-5)


@pytest.mark.parametrize("q", [0.5, 0.8])
def test_the_convergence_is_that_of_an_isothermal_ellipsoid(q: float) -> None:
    """kappa = theta_E / (2 sqrt(q x^2 + y^2 / q)), half the divergence of the deflection."""
    lens, h = Lens(1.4, q), 1e-4
    x, y = np.array([0.6, 1.5, -0.8]), np.array([0.8, -0.3, 1.9])
    divergence = (deflection(lens, x + h, y)[0] - deflection(lens, x - h, y)[0]) / (2 * h)
    divergence += (deflection(lens, x, y + h)[1] - deflection(lens, x, y - h)[1]) / (2 * h)
    np.testing.assert_allclose(divergence / 2, 1.4 / (2 * np.sqrt(q * x**2 + y**2 / q)), rtol=1e-4)


def test_the_deflection_agrees_with_caustics() -> None:
    """An independent implementation (MIT, Ciela Institute), where it is installed."""
    caustics = pytest.importorskip("caustics")
    torch = pytest.importorskip("torch")
    cosmology = caustics.FlatLambdaCDM(name="cosmo")
    sie = caustics.SIE(
        cosmology=cosmology, name="sie", z_l=0.5, z_s=1.5, x0=0.0, y0=0.0, q=0.7, phi=0.6, Rein=1.3, s=1e-6
    )
    x, y = np.meshgrid(np.linspace(-2.9, 3, 20), np.linspace(-3, 2.9, 20))
    theirs = sie.reduced_deflection_angle(torch.tensor(x), torch.tensor(y))
    ours = deflection(Lens(1.3, 0.7, 0.6), x, y)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other.numpy(), atol=1e-4)


@pytest.mark.parametrize("index", [0.7, 1.0, 2.0])
def test_a_source_has_unit_flux(index: float) -> None:
    total = source_brightness(SersicSource(0.3, -0.2, 0.6, index, 0.6, 0.4), X, Y).sum() * AREA
    assert total == pytest.approx(1, rel=0.01)
    assert sersic_norm(1.0) == pytest.approx(2 * np.pi / 1.67835**2, rel=1e-4)  # exponential: 2 pi / b^2
