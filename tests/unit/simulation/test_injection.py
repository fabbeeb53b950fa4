"""Batched arcs: PSFs, points, batches and memory, the limits of theory, the simulated sky; `test_lens_oracle` has lenstronomy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from lensdata.errors import InputError
from lensdata.simulation import conditions, injection, lenses
from lensdata.simulation.galaxies import psf_mixture
from lensdata.simulation.injection import Grid, on_stamps, photon_noise, pixel_sigma, unit_arcs
from lensdata.simulation.psfs import MoffatPsf, Psf, PsfImages
from tests.unit.simulation.lens_columns import Columns, drawn, plain, seeing

COUNT = 6
PIXEL = 0.262


def brute_force(columns: Columns, row: int, fwhm: float, half: int, points: int) -> np.ndarray:
    """One arc on (2 half + 1)^2 pixels: every fine point spreads the three Gaussians of the PSF over all pixels, in real space."""
    one = {name: values[row : row + 1] for name, values in columns.items()}
    models = {name: values[:, None, None] for name, values in injection.as_tensors(one, "cpu", torch.float64).items()}
    where = ((np.arange((2 * half + 1) * points) + 0.5) / points - 0.5 - half) * PIXEL
    x, y = torch.as_tensor(where)[None, None, :], torch.as_tensor(where)[None, :, None]
    a_x, a_y = injection.deflection(models, x, y)
    light = injection.sersic_brightness(models, x - a_x, y - a_y)[0].numpy() * (PIXEL / points) ** 2
    pixels, psf = np.arange(-half, half + 1) * PIXEL, psf_mixture(fwhm)
    image = np.zeros((2 * half + 1, 2 * half + 1))
    for weight, variance in zip(psf.weight, psf.variance * PIXEL**2, strict=True):
        spread = np.exp(-0.5 * (pixels[:, None] - where) ** 2 / variance) / np.sqrt(2 * np.pi * variance) * PIXEL
        image += weight * (spread @ light @ spread.T)
    return image


def test_arcs_are_those_of_a_convolution_in_real_space_on_a_much_finer_grid() -> None:
    """The transform leaves nothing out: what differs is the grid, and 16 x 16 points need no care for cusps."""
    columns, fwhm = drawn(4), seeing(4)
    columns["theta_e"] = columns["theta_e"].clip(max=1.2)
    images, _ = unit_arcs(columns, fwhm, Grid(half=24))
    for row in range(4):
        expected = brute_force(columns, row, fwhm[row, 1], 24, 16)
        assert np.abs(images[row, 1].numpy() - expected).max() < 6e-4 * expected.max()


def test_the_sharpest_seeing_is_not_blurred_by_the_points_of_a_pixel() -> None:
    """A source on one point: the image is the PSF itself, at its own place between pixels."""
    columns = plain(theta_e=0.0, source_radius=0.02, source_index=0.5)
    images, _ = unit_arcs(columns, np.full((1, 1), 0.7), Grid(half=12), offsets=np.array([[0.3, -0.2]]))
    y, x = np.indices((25, 25)) - 12
    psf, source = psf_mixture(0.7), (0.02 / np.sqrt(2 * np.log(2)) / PIXEL) ** 2  # an index of 0.5 is a Gaussian
    r2 = (x - 0.3) ** 2 + (y + 0.2) ** 2
    variances = psf.variance + source
    expected = sum(w / (2 * np.pi * v) * np.exp(-0.5 * r2 / v) for w, v in zip(psf.weight, variances, strict=True))
    # a PSF this sharp has a little beyond half a cycle per pixel, where an image has nothing
    np.testing.assert_allclose(images[0, 0].numpy(), expected, atol=2.5e-3 * expected.max())


def test_a_moffat_psf_is_its_profile() -> None:
    columns = plain(theta_e=0.0, source_radius=0.02, source_index=0.5)
    for beta in (2.5, 3.5, 4.765):
        images, _ = unit_arcs(columns, MoffatPsf(np.full((1, 2), 1.1), beta), Grid(half=20))
        y, x = np.indices((41, 41)) - 20
        alpha = 0.55 / np.sqrt(2 ** (1 / beta) - 1) / PIXEL
        expected = (beta - 1) / (np.pi * alpha**2) * (1 + (x**2 + y**2) / alpha**2) ** -beta
        np.testing.assert_allclose(images[0, 1].numpy(), expected, atol=2e-3 * expected.max())


@pytest.mark.parametrize("oversampling", [1, 3])
def test_a_psf_given_as_an_image_is_the_psf(oversampling: int) -> None:
    """Of any sum; on the pixels of the stamp or finer; one for all stamps."""
    columns, half = drawn(3), 26 * oversampling
    y, x = (np.indices((2 * half + 1, 2 * half + 1)) - half) / oversampling
    psf = psf_mixture(1.2)
    image = sum(w / v * np.exp(-0.5 * (x**2 + y**2) / v) for w, v in zip(psf.weight, psf.variance, strict=True))
    given, _ = unit_arcs(columns, PsfImages(7 * image[None, None], oversampling), Grid())
    expected, _ = unit_arcs(columns, np.full((3, 1), 1.2), Grid())
    assert float((given - expected).abs().max() / expected.max()) < 2e-4


def test_a_lopsided_psf_moves_light_the_way_it_leans() -> None:
    image = np.zeros((1, 1, 5, 5))
    image[0, 0, 2, 3] = 1.0  # one pixel to the right
    there, _ = unit_arcs(plain(), PsfImages(image), Grid())
    image = image.swapaxes(2, 3)  # one pixel up
    above, _ = unit_arcs(plain(), PsfImages(image), Grid())
    image = np.zeros((1, 1, 1, 1)) + 1
    here, _ = unit_arcs(plain(), PsfImages(image), Grid())
    np.testing.assert_allclose(there[..., 1:].numpy(), here[..., :-1].numpy(), atol=1e-6)
    np.testing.assert_allclose(above[..., 1:, :].numpy(), here[..., :-1, :].numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.ones((1, 3, 4, 4)), "odd side"),
        (np.ones((3, 5, 5)), "odd side"),
        (np.full((1, 1, 3, 3), np.nan), "NaN"),
        (np.zeros((1, 1, 3, 3)), "adds up to 0"),
        (np.full((1, 1, 3, 3), -1.0), "adds up to -9"),
    ],
)
def test_an_image_that_is_no_psf_is_refused(image: np.ndarray, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        PsfImages(image)


def test_a_moffat_profile_without_a_width_is_refused() -> None:
    with pytest.raises(InputError, match="FWHM above 0"):
        MoffatPsf(np.array([[1.0, 0.0]]))


def test_arcs_of_the_simulated_sky_are_those_of_the_same_engine() -> None:
    columns, fwhm = drawn(COUNT), seeing(COUNT)
    offsets = np.random.default_rng(5).uniform(-0.5, 0.5, (COUNT, 2))
    images, magnification = unit_arcs(columns, fwhm, lenses.sky_grid(3), offsets=offsets)
    for row in range(COUNT):
        values = {name: float(columns[name][row]) for name in lenses.PARAMETERS}
        psfs = tuple(psf_mixture(size) for size in fwhm[row])
        patch = lenses.arc_patch(values, 40 + offsets[row, 0], 50 + offsets[row, 1], np.ones(3), psfs, 3)
        np.testing.assert_allclose(images[row].numpy(), patch.image, atol=1e-12 * patch.image.max())
        assert float(magnification[row]) == pytest.approx(patch.image[0].sum(), rel=5e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_neither_batches_nor_threads_change_a_bit(dtype: torch.dtype) -> None:
    columns, fwhm = drawn(24), seeing(24)
    threads = torch.get_num_threads()
    together, mu = unit_arcs(columns, fwhm, Grid(oversampling=2), memory_bytes=1 << 30, dtype=dtype)
    try:
        torch.set_num_threads(1)
        alone, mu_alone = unit_arcs(columns, fwhm, Grid(oversampling=2), memory_bytes=1, dtype=dtype)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together, alone)
    assert torch.equal(mu, mu_alone)


def peak_bytes(columns: Columns, psf: np.ndarray | Psf, memory_bytes: int) -> int:
    """Most that torch's tensors held at a time, by its profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        unit_arcs(columns, psf, Grid(), memory_bytes=memory_bytes)
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return int(held.max())


@pytest.mark.parametrize("psf", ["gaussians", "moffat"])
@pytest.mark.parametrize("slope", [None, 2.2])
def test_the_work_on_a_batch_stays_within_its_memory(slope: float | None, psf: str) -> None:
    columns, fwhm = plain(24, source_x=0.2), seeing(24)  # all of a kind, so that batches are full
    columns |= {} if slope is None else {"lens_slope": np.full(24, slope)}
    seen_by = fwhm if psf == "gaussians" else MoffatPsf(fwhm)
    results = 24 * (3 * Grid().side ** 2 + 1) * 8
    held = {memory: peak_bytes(columns, seen_by, memory << 20) - results for memory in (10, 20)}
    assert held[10] <= 10 << 20
    assert 10 << 20 < held[20] <= 20 << 20


def test_memory_follows_the_device_where_none_is_given() -> None:
    assert 1 << 20 < injection.memory_for(torch.device("cpu")) < 1 << 30


def test_single_precision_agrees_with_double_to_its_own() -> None:
    columns, fwhm = drawn(COUNT), seeing(COUNT)
    double, _ = unit_arcs(columns, fwhm, Grid())
    single, _ = unit_arcs(columns, fwhm, Grid(), dtype=torch.float32)
    assert single.dtype == torch.float32
    assert float(((single - double).abs().amax((1, 2, 3)) / double.amax((1, 2, 3))).max()) < 2e-5


def test_compact_sources_get_more_points() -> None:
    columns = plain(5, source_radius=np.array([0.02, 0.05, 0.1, 0.3, 1.0]))
    assert Grid().points(columns).tolist() == [32, 16, 8, 4, 4]
    assert Grid(oversampling=7, max_oversampling=9).points(columns).tolist() == [8, 8, 8, 7, 7]
    assert Grid(oversampling=2, max_oversampling=2).points(columns).tolist() == [2] * 5


@pytest.mark.parametrize("index", [0.5, 1.0, 1.6])
@pytest.mark.parametrize("theta_e", [0.0, 1.5])
def test_the_flux_of_a_source_of_a_twentieth_of_an_arcsec_is_right_to_a_thousandth(
    theta_e: float, index: float
) -> None:
    random = np.random.default_rng(7)
    columns = plain(20, theta_e=theta_e, source_radius=0.05, source_index=index, source_x=random.uniform(0.1, 0.9, 20))
    offsets = random.uniform(-0.5, 0.5, (20, 2))
    _, found = unit_arcs(columns, np.full((20, 1), 1.2), Grid(), offsets=offsets)
    expected = torch.ones(20).double()
    if theta_e > 0:
        fine = Grid(oversampling=40, max_oversampling=40)
        _, expected = unit_arcs(columns, np.full((20, 1), 1.2), fine, offsets=offsets)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-3)


def test_two_points_per_pixel_would_not_do_for_it() -> None:
    columns = plain(20, theta_e=0.0, source_radius=0.05)
    offsets = np.random.default_rng(7).uniform(-0.5, 0.5, (20, 2))
    _, found = unit_arcs(columns, np.full((20, 1), 1.2), Grid(oversampling=2, max_oversampling=2), offsets=offsets)
    assert float((found - 1).abs().max()) > 0.01


def test_a_source_on_the_axis_of_a_round_lens_becomes_a_ring() -> None:
    images, _ = unit_arcs(plain(source_radius=0.1), np.full((1, 1), 0.9), Grid(oversampling=8))
    image = images[0, 0].numpy()
    y, x = np.indices(image.shape) - 36
    radius = np.hypot(x, y) * PIXEL
    assert (image * radius).sum() / image.sum() == pytest.approx(1.5, abs=0.15)
    for turned in (np.rot90(image), image[::-1], image.T):
        np.testing.assert_allclose(turned, image, atol=1e-4 * image.max())  # the closed form stops at q = 1 - 1e-6


@pytest.mark.parametrize("offset", [0.2, 0.5, 0.9, 1.2])
def test_a_small_source_inside_the_cut_of_a_round_lens_is_magnified_as_theory_says(offset: float) -> None:
    """Singular isothermal sphere: two images with 2 theta_E / beta together."""
    columns = plain(source_x=offset, source_y=0.1, source_radius=0.02, source_index=0.5)
    _, magnification = unit_arcs(columns, np.full((1, 1), 1.2), Grid())
    assert float(magnification[0]) == pytest.approx(2 * 1.5 / np.hypot(offset, 0.1), rel=0.005)


@pytest.mark.parametrize("offset", [1.8, 2.5])
def test_a_small_source_outside_has_one_image(offset: float) -> None:
    """And 1 + theta_E / beta."""
    columns = plain(source_x=offset, source_radius=0.02, source_index=0.5)
    images, magnification = unit_arcs(columns, np.full((1, 1), 0.9), Grid())
    assert float(magnification[0]) == pytest.approx(1 + 1.5 / offset, rel=0.005)
    assert float(images[0, 0, :, :36].sum()) < 1e-3 * float(images.sum())  # nothing across the lens


def test_without_shear_a_round_lens_is_symmetric_and_with_it_not() -> None:
    image, sheared = (
        unit_arcs(plain(shear_1=shear), np.full((1, 1), 0.9), Grid())[0][0, 0].numpy() for shear in (0.0, 0.05)
    )
    assert np.abs(image - image.T).max() < 1e-4 * image.max()
    assert np.abs(sheared - sheared.T).max() > 0.05 * sheared.max()


def test_without_mass_the_source_keeps_its_flux_and_shape() -> None:
    columns = plain(theta_e=0.0, source_radius=0.4, source_x=0.3)
    images, magnification = unit_arcs(columns, np.full((1, 1), 1.2), Grid())
    assert float(magnification[0]) == pytest.approx(1.0, rel=2e-4)
    image = images[0, 0].numpy()
    assert (image * (np.arange(73) - 36)).sum() / image.sum() * PIXEL == pytest.approx(0.3, abs=1e-3)


def test_seeing_moves_light_and_keeps_it() -> None:
    columns, fwhm = drawn(COUNT), seeing(COUNT)
    images, magnification = unit_arcs(columns, fwhm, Grid())
    total = images.sum(dim=(2, 3)).numpy()
    np.testing.assert_allclose(total, np.repeat(magnification.numpy()[:, None], 3, 1), rtol=2e-3)
    sharp, wide = (unit_arcs(plain(source_x=0.3), np.full((1, 1), size), Grid())[0] for size in (0.9, 1.8))
    assert float(sharp.max()) > 1.4 * float(wide.max())


def test_the_pixel_scale_scales_the_sky() -> None:
    """With pixels twice as large a quarter of them hold the same light."""
    columns, fwhm = plain(source_x=0.3), np.full((1, 1), 1.4)
    fine, mu = unit_arcs(columns, fwhm, Grid(half=40))
    coarse, mu_coarse = unit_arcs(columns, fwhm, Grid(half=20, oversampling=8, pixscale_arcsec=0.524))
    assert float(mu) == pytest.approx(float(mu_coarse), rel=1e-3)
    assert float(coarse.sum()) == pytest.approx(float(fine.sum()), rel=2e-3)


def test_rays_are_traced_no_further_out_than_light_can_be() -> None:
    """The light that is cut away is what may be lost; here the whole patch is traced beside it."""
    columns, fwhm = drawn(12), seeing(12)
    images, magnification = unit_arcs(columns, fwhm, Grid())
    crops, injection._CROPS = injection._CROPS, ()
    try:
        whole, everything = unit_arcs(columns, fwhm, Grid())
    finally:
        injection._CROPS = crops
    np.testing.assert_allclose(magnification.numpy(), everything.numpy(), rtol=1e-4)
    assert float((images - whole).abs().max() / whole.max()) < 1e-5


def test_a_power_law_steeper_than_isothermal_makes_thinner_arcs() -> None:
    flat, isothermal, steep = (
        float(unit_arcs(plain(source_x=0.2, lens_slope=slope), np.full((1, 1), 1.0), Grid())[1])
        for slope in (1.7, 2.0, 2.3)
    )
    assert flat > isothermal > steep > 1


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
