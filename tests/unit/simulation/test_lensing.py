"""The lens model against closed forms: isothermal and power-law masses, shear, magnification, Sersic sources."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensdata.simulation.lensing import (
    as_tensors,
    deflection,
    image_reach,
    inverse_magnification,
    series_terms,
    sersic_brightness,
    sersic_cusp,
    sersic_reach,
)
from tests.unit.simulation.lens_columns import Columns, drawn, plain

FINE = np.linspace(-8, 8, 1601)
AREA = (FINE[1] - FINE[0]) ** 2
X, Y = (torch.as_tensor(FINE)[None, None, :], torch.as_tensor(FINE)[None, :, None])


def models(columns: Columns, dimensions: int = 1) -> dict[str, torch.Tensor]:
    """Lenses along the first of so many more dimensions."""
    tensors = as_tensors(columns, "cpu", torch.float64)
    return {name: values.reshape(-1, *[1] * dimensions) for name, values in tensors.items()}


def bent(columns: Columns, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Deflection of every lens at positions (p,); two arrays (n, p)."""
    terms = int(series_terms(columns["lens_q"]).max()) if "lens_slope" in columns else 0
    a_x, a_y = deflection(models(columns), torch.as_tensor(x)[None], torch.as_tensor(y)[None], terms)
    return a_x.numpy(), a_y.numpy()


def lensed(columns: Columns) -> np.ndarray:
    """Surface brightness (1601, 1601) of one lensed source."""
    model = models(columns, 2)
    a_x, a_y = deflection(model, X, Y)
    return sersic_brightness(model, X - a_x, Y - a_y)[0].numpy()


@given(st.floats(0.3, 3), st.floats(-5, 5), st.floats(-5, 5))
def test_a_round_lens_bends_every_ray_by_its_einstein_radius(theta_e: float, x: float, y: float) -> None:
    if np.hypot(x, y) < 0.05:
        return
    a_x, a_y = bent(plain(theta_e=theta_e), np.array([x]), np.array([y]))
    np.testing.assert_allclose([a_x[0, 0], a_y[0, 0]], theta_e * np.array([x, y]) / np.hypot(x, y), atol=2e-3 * theta_e)


@given(st.floats(1.3, 2.7), st.floats(0.2, 4))
def test_a_round_power_law_bends_by_its_enclosed_mass(slope: float, radius: float) -> None:
    """alpha = theta_E (r / theta_E)^(2 - gamma)."""
    a_x, a_y = bent(plain(lens_slope=slope), np.array([radius]), np.array([0.0]))
    assert a_x[0, 0] == pytest.approx(1.5 * (radius / 1.5) ** (2 - slope), rel=1e-5)
    assert a_y[0, 0] == pytest.approx(0, abs=1e-9)


def test_a_power_law_of_slope_2_is_the_isothermal_ellipsoid() -> None:
    columns = drawn(20)
    x, y = np.random.default_rng(0).uniform(-5, 5, (2, 200))
    for series, closed in zip(bent(columns | {"lens_slope": np.full(20, 2.0)}, x, y), bent(columns, x, y), strict=True):
        np.testing.assert_allclose(series, closed, atol=1e-8)


def test_rays_through_the_centre_are_bent_like_those_around_it() -> None:
    for columns in (plain(), plain(lens_q=0.6), plain(lens_q=0.6, lens_slope=2.2)):
        a_x, a_y = bent(columns, np.zeros(1), np.zeros(1))
        assert np.hypot(a_x, a_y)[0, 0] > 1


@pytest.mark.parametrize("offset", [0.3, 0.6])
def test_a_round_lens_makes_two_images_at_the_radii_of_theory(offset: float) -> None:
    """For a singular isothermal sphere: images at offset + theta_E and offset - theta_E."""
    image = lensed(plain(source_x=offset, source_radius=0.02, source_index=0.5))[800]
    assert FINE[900:][image[900:].argmax()] == pytest.approx(1.5 + offset, abs=0.02)
    assert FINE[:790][image[:790].argmax()] == pytest.approx(offset - 1.5, abs=0.02)


@given(st.floats(0.4, 0.95), st.floats(0, np.pi), st.floats(-0.1, 0.1), st.sampled_from([1.6, 2.0, 2.3]))
@settings(max_examples=20)
def test_the_deflection_field_has_no_curl(q: float, angle: float, shear: float, slope: float) -> None:
    columns = plain(theta_e=1.2, lens_q=q, lens_angle=angle, shear_1=shear, shear_2=-shear / 2, lens_slope=slope)
    h = 1e-4
    x, y = np.array([0.7, -1.3, 2.1]), np.array([0.9, 0.4, -1.7])
    d_yx = (bent(columns, x + h, y)[1] - bent(columns, x - h, y)[1]) / (2 * h)
    d_xy = (bent(columns, x, y + h)[0] - bent(columns, x, y - h)[0]) / (2 * h)
    np.testing.assert_allclose(d_yx, d_xy, atol=1e-5)


@pytest.mark.parametrize("q", [0.5, 0.8])
@pytest.mark.parametrize("slope", [1.7, 2.0, 2.4])
def test_the_convergence_is_that_of_a_power_law_ellipsoid(q: float, slope: float) -> None:
    """kappa = (3 - gamma) / 2 (theta_E / sqrt(q x^2 + y^2 / q))^(gamma - 1), half the divergence of the deflection."""
    columns, h = plain(theta_e=1.4, lens_q=q, lens_slope=slope), 1e-4
    x, y = np.array([0.6, 1.5, -0.8]), np.array([0.8, -0.3, 1.9])
    divergence = (bent(columns, x + h, y)[0] - bent(columns, x - h, y)[0]) / (2 * h)
    divergence += (bent(columns, x, y + h)[1] - bent(columns, x, y - h)[1]) / (2 * h)
    expected = (3 - slope) / 2 * (1.4 / np.sqrt(q * x**2 + y**2 / q)) ** (slope - 1)
    np.testing.assert_allclose(divergence[0] / 2, expected, rtol=1e-4)


def test_the_magnification_is_the_jacobian_of_the_mapping() -> None:
    columns, h = drawn(30), 1e-5
    x, y = np.random.default_rng(0).uniform(0.3, 3, (2, 100))
    for slope in (None, np.linspace(1.6, 2.5, 30)):
        tried = columns if slope is None else columns | {"lens_slope": slope}
        terms = 0 if slope is None else int(series_terms(columns["lens_q"]).max())
        found = inverse_magnification(models(tried), torch.as_tensor(x)[None], torch.as_tensor(y)[None], terms)
        (xx, yx), (xy, yy) = (
            [(high - low) / (2 * h) for high, low in zip(bent(tried, *ahead), bent(tried, *behind), strict=True)]
            for ahead, behind in (((x + h, y), (x - h, y)), ((x, y + h), (x, y - h)))
        )
        np.testing.assert_allclose(found.numpy(), (1 - xx) * (1 - yy) - xy * yx, atol=1e-6)


def test_the_critical_curve_of_an_isothermal_ellipsoid_encloses_the_area_of_theta_e() -> None:
    """What the Einstein radius means (intermediate axis)."""
    inverse = inverse_magnification(models(plain(lens_q=0.6, lens_angle=0.3), 2), X, Y)[0].numpy()
    assert (inverse < 0).sum() * AREA == pytest.approx(np.pi * 1.5**2, rel=2e-3)


@pytest.mark.parametrize("index", [0.7, 1.0, 2.0])
def test_a_source_has_unit_flux(index: float) -> None:
    columns = plain(source_x=0.3, source_y=-0.2, source_radius=0.6, source_index=index, source_q=0.6, source_angle=0.4)
    total = sersic_brightness(models(columns, 2), X, Y).sum() * AREA
    assert float(total) == pytest.approx(1, rel=0.01)
    norm = as_tensors(plain(), "cpu", torch.float64)["source_norm"]
    assert float(norm) == pytest.approx(2 * np.pi / 1.67835**2, rel=1e-4)  # exponential: 2 pi / b^2


def test_what_a_cusp_has_over_a_smooth_profile_fades_at_its_edge() -> None:
    source, edge2 = models(plain(source_index=1.3)), torch.full((1, 1), 0.25, dtype=torch.float64)
    radius2 = torch.linspace(0, 1, 1001).double()[None]
    cusp = sersic_cusp(source, radius2, edge2)[0].numpy()
    assert (cusp[251:] == 0).all()
    assert cusp[0] > 0.1
    assert np.abs(np.gradient(cusp)[240:]).max() < 1e-3 * np.abs(np.gradient(cusp)).max()


def test_half_of_a_sources_light_is_within_its_half_light_radius() -> None:
    np.testing.assert_allclose(sersic_reach(np.array([0.5, 1.0, 4.0]), 0.5), 1)
    assert (np.diff(sersic_reach(np.array([1.0]), np.array([1e-2, 1e-4, 1e-6]))) > 0).all()


def test_no_ray_from_outside_the_reach_ends_at_the_source() -> None:
    """And some from just inside do, or the reach would be too generous to be of use."""
    columns = drawn(40)
    for slope in (None, np.random.default_rng(1).uniform(1.5, 2.6, 40)):
        tried = columns if slope is None else columns | {"lens_slope": slope}
        reach = image_reach(tried, np.full(40, 0.8))
        angle = np.linspace(0, 2 * np.pi, 200)
        closest = []
        for factor in (0.8, 1.0, 1.3, 2.0):
            x, y = factor * reach[:, None] * np.cos(angle), factor * reach[:, None] * np.sin(angle)
            terms = 0 if slope is None else int(series_terms(columns["lens_q"]).max())
            a_x, a_y = deflection(models(tried), torch.as_tensor(x), torch.as_tensor(y), terms)
            from_source = np.hypot(
                x - a_x.numpy() - columns["source_x"][:, None], y - a_y.numpy() - columns["source_y"][:, None]
            )
            closest.append(from_source.min(axis=1))
        assert (np.array(closest[1:]) >= 0.8).all()
        assert np.median(closest[0]) < 0.8
