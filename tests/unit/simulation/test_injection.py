"""Batched arcs against the numpy engine, closed forms and an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lensdata.config.simulation import LensesConfig
from lensdata.simulation import conditions, lenses
from lensdata.simulation.galaxies import psf_mixture
from lensdata.simulation.injection import (
    Grid,
    as_tensors,
    deflection,
    lensed_light,
    on_stamps,
    photon_noise,
    pixel_sigma,
    unit_arcs,
)
from lensdata.simulation.randomness import KeyedDraws

COUNT = 4
HERE = torch.device("cpu")


def drawn(count: int = COUNT) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    hosts = {
        "type": np.array(["DEV"] * count),
        "shape_e1": random.normal(0, 0.2, count),
        "shape_e2": random.normal(0, 0.2, count),
    }
    return lenses.draw_lenses(KeyedDraws(1, "test", np.arange(count)), hosts, LensesConfig(theta_e_arcsec=(0.5, 3.0)))


def one(**changes: float) -> dict[str, np.ndarray]:
    """A round lens of 1.5 arcsec without shear, and a small round source."""
    values = dict.fromkeys(lenses.PARAMETERS, 0.0) | {
        "theta_e": 1.5,
        "lens_q": 1.0,
        "source_radius": 0.2,
        "source_index": 1.0,
    }
    values |= {"source_q": 1.0} | changes
    return {name: np.array([value]) for name, value in values.items()}


def seeing(count: int = COUNT) -> np.ndarray:
    return np.random.default_rng(4).uniform(0.9, 1.8, (count, 3))


@pytest.mark.parametrize("oversampling", [1, 4])
def test_arcs_are_those_of_the_simulated_sky(oversampling: int) -> None:
    columns, fwhm = drawn(), seeing()
    offsets = np.random.default_rng(5).uniform(-0.5, 0.5, (COUNT, 2))
    images, magnification = unit_arcs(columns, fwhm, Grid(oversampling=oversampling), offsets=offsets)
    for row in range(COUNT):
        values = {name: float(columns[name][row]) for name in lenses.PARAMETERS}
        psfs = tuple(psf_mixture(size) for size in fwhm[row])
        patch = lenses.arc_patch(values, 40 + offsets[row, 0], 50 + offsets[row, 1], np.ones(3), psfs, oversampling)
        np.testing.assert_allclose(images[row].numpy(), patch.image, atol=1e-13 * patch.image.max())
        assert float(magnification[row]) == pytest.approx(patch.image[0].sum(), rel=5e-3)


def test_the_size_of_a_batch_changes_nothing() -> None:
    columns, fwhm = drawn(), seeing()
    together, mu = unit_arcs(columns, fwhm, Grid(oversampling=2), memory_bytes=1 << 30)
    alone, mu_alone = unit_arcs(columns, fwhm, Grid(oversampling=2), memory_bytes=1)
    assert torch.equal(together, alone)
    assert torch.equal(mu, mu_alone)


def test_single_precision_agrees_with_double_to_its_own() -> None:
    columns, fwhm = drawn(), seeing()
    double, _ = unit_arcs(columns, fwhm, Grid(oversampling=2))
    single, _ = unit_arcs(columns, fwhm, Grid(oversampling=2), dtype=torch.float32)
    assert single.dtype == torch.float32
    assert float((single - double).abs().max() / double.max()) < 5e-6


def test_a_round_lens_without_shear_bends_every_ray_by_its_einstein_radius() -> None:
    lens = {name: values[:, None] for name, values in as_tensors(one(), HERE, torch.float64).items()}
    x, y = torch.tensor([[0.5, -2.0, 1.3]]).double(), torch.tensor([[0.1, 1.0, -3.0]]).double()
    a_x, a_y = deflection(lens, x, y)
    np.testing.assert_allclose(torch.hypot(a_x, a_y).numpy(), 1.5, atol=2e-3)


def test_a_source_on_the_axis_of_a_round_lens_becomes_a_ring() -> None:
    images, _ = unit_arcs(one(source_radius=0.1), np.full((1, 1), 0.9), Grid(oversampling=8))
    image = images[0, 0].numpy()
    y, x = np.indices(image.shape) - 36
    radius = np.hypot(x, y) * 0.262
    assert (image * radius).sum() / image.sum() == pytest.approx(1.5, abs=0.15)
    for turned in (np.rot90(image), image[::-1], image.T):
        np.testing.assert_allclose(turned, image, atol=1e-4 * image.max())  # the closed form stops at q = 1 - 1e-6


@pytest.mark.parametrize("offset", [0.2, 0.5, 0.9])
def test_the_magnification_of_a_small_source_is_twice_theta_e_over_offset(offset: float) -> None:
    columns = one(source_x=offset, source_y=0.1, source_radius=0.05, source_index=0.5)
    _, magnification = unit_arcs(columns, np.full((1, 1), 1.2), Grid(half=24, oversampling=12))
    assert float(magnification[0]) == pytest.approx(2 * 1.5 / np.hypot(offset, 0.1), rel=0.02)


def test_without_mass_the_source_keeps_its_flux() -> None:
    """Fine points miss a part of a Sersic cusp only."""
    _, magnification = unit_arcs(one(theta_e=0.0, source_radius=0.4), np.full((1, 1), 1.2), Grid(oversampling=8))
    assert float(magnification[0]) == pytest.approx(1.0, rel=5e-3)


def test_seeing_moves_light_and_keeps_it() -> None:
    columns, fwhm = drawn(), seeing()
    images, magnification = unit_arcs(columns, fwhm, Grid())
    total = images.sum(dim=(2, 3)).numpy()
    np.testing.assert_allclose(total, np.repeat(magnification.numpy()[:, None], 3, 1), rtol=2e-3)
    sharp, wide = (unit_arcs(one(source_x=0.3), np.full((1, 1), size), Grid())[0] for size in (0.9, 1.8))
    assert float(sharp.max()) > 1.4 * float(wide.max())


def test_the_pixel_scale_scales_the_sky() -> None:
    """With pixels twice as large a quarter of them hold the same light."""
    columns, fwhm = one(source_x=0.3), np.full((1, 1), 1.4)
    fine, mu = unit_arcs(columns, fwhm, Grid(half=40, oversampling=4))
    coarse, mu_coarse = unit_arcs(columns, fwhm, Grid(half=20, oversampling=8, pixscale_arcsec=0.524))
    assert float(mu) == pytest.approx(float(mu_coarse), rel=1e-3)
    assert float(coarse.sum()) == pytest.approx(float(fine.sum()), rel=2e-3)


@pytest.mark.parametrize(("height", "width"), [(101, 101), (24, 24), (63, 90)])
def test_patches_lie_with_their_centre_on_the_central_pixel(height: int, width: int) -> None:
    patches = torch.arange(73 * 73, dtype=torch.float64).reshape(1, 1, 73, 73)
    stamps = on_stamps(patches, height, width)
    assert stamps.shape == (1, 1, height, width)
    assert stamps[0, 0, height // 2, width // 2] == patches[0, 0, 36, 36]
    assert stamps[0, 0, height // 2 + 5, width // 2 - 7] == patches[0, 0, 41, 29]


def test_noise_of_a_pixel_is_that_of_the_simulated_sky() -> None:
    fwhm, depth = np.array([0.9, 1.4, 1.9]), np.array([300.0, 1000.0, 4000.0])
    expected = [conditions.pixel_sigma(size, value) for size, value in zip(fwhm, depth, strict=True)]
    np.testing.assert_allclose(pixel_sigma(fwhm, depth, 0.262), expected, rtol=1e-12)


def test_photon_noise_is_poisson_keyed_by_injection_and_absent_without_light() -> None:
    arcs = np.zeros((2, 3, 40, 40))
    arcs[:, :, 10:30] = 0.5
    gains, keys = (100.0, 200.0, 400.0), np.array([11, -12])
    noise = photon_noise(arcs, gains, keys, seed=1)
    assert (noise[arcs == 0] == 0).all()
    for band, gain in enumerate(gains):
        lit = noise[:, band, 10:30]
        assert abs(lit.mean()) < 5 * np.sqrt(0.5 / gain / lit.size)
        assert lit.var() == pytest.approx(0.5 / gain, rel=0.15)
    np.testing.assert_array_equal(photon_noise(arcs[1:], gains, keys[1:], seed=1), noise[1:])
    assert (photon_noise(arcs, gains, keys, seed=2) != noise).any()


def test_arcs_agree_with_lenstronomy() -> None:
    """An independent implementation (Birrer & Amara 2018): deflection of SIE and shear, and the lensed light."""
    pytest.importorskip("lenstronomy", reason="lenstronomy is not installed here")
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel
    from lenstronomy.Util.param_util import phi_q2_ellipticity

    columns = drawn()
    models = as_tensors(columns, HERE, torch.float64)
    grid = Grid(half=20)
    offset = torch.zeros(COUNT, dtype=torch.float64)
    light = lensed_light(models, grid, offset, offset).numpy()
    fine = ((np.arange(grid.side * 4) + 0.5) / 4 - 0.5 - grid.half) * grid.pixscale_arcsec
    x, y = (axis.ravel() for axis in np.meshgrid(fine, fine))
    for row in range(2):
        value = {name: float(values[row]) for name, values in columns.items()}
        e1, e2 = phi_q2_ellipticity(value["lens_angle"], value["lens_q"])
        mass = [
            {"theta_E": value["theta_e"], "e1": e1, "e2": e2, "center_x": 0, "center_y": 0},
            {"gamma1": value["shear_1"], "gamma2": value["shear_2"]},
        ]
        model = LensModel(["SIE", "SHEAR"])
        theirs = model.alpha(x, y, mass)
        lens = {name: values[row] for name, values in models.items()}
        ours = deflection(lens, torch.as_tensor(x), torch.as_tensor(y))
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine.numpy(), other, atol=1e-4)
        e1, e2 = phi_q2_ellipticity(value["source_angle"], value["source_q"])
        source = [
            {"amp": 1, "R_sersic": value["source_radius"], "n_sersic": value["source_index"], "e1": e1, "e2": e2,
             "center_x": value["source_x"], "center_y": value["source_y"]}
        ]  # fmt: skip
        seen = LightModel(["SERSIC_ELLIPSE"]).surface_brightness(*model.ray_shooting(x, y, mass), source)
        seen = seen.reshape(grid.side, 4, grid.side, 4).mean(axis=(1, 3))
        # lenstronomy takes b_n from a fit that is good to a few 1e-3, so shapes agree to that
        np.testing.assert_allclose(
            light[row] / light[row].sum(), seen / seen.sum(), atol=0.01 * light[row].max() / light[row].sum()
        )
