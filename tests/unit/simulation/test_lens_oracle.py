"""The engine of arcs against lenstronomy (Birrer & Amara 2018), an independent implementation, on 200 random systems."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lenstronomy.Data.imaging_data import ImageData
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LensModel.Profiles.sersic_utils import SersicUtil
from lenstronomy.LensModel.Solver.lens_equation_solver import LensEquationSolver
from lenstronomy.LightModel.light_model import LightModel
from lenstronomy.Util.param_util import phi_q2_ellipticity

from lensdata.simulation.injection import Grid, magnification_map, unit_arcs
from lensdata.simulation.lensing import as_tensors, deflection, series_terms
from lensdata.simulation.psfs import MoffatPsf, PsfImages
from tests.unit.simulation.lens_columns import Columns

pytestmark = pytest.mark.slow
COUNT = 200
HALF = 13
FINE = 7
"""Points per pixel of the other engine: odd, so that one lies in the middle of each pixel."""
KERNEL_HALF = 14
PIXEL = 0.262


def systems(power_law: bool) -> Columns:
    """Half of the random systems: sources that a grid of `FINE` points samples, for the other engine resolves no cusps."""
    random, n = np.random.default_rng(2 + power_law), COUNT // 2
    theta_e, direction = random.uniform(0.7, 1.6, n), random.uniform(0, 2 * np.pi, n)
    offset = theta_e * random.uniform(0, 0.4, n)
    columns = {
        "theta_e": theta_e, "lens_q": random.uniform(0.5, 0.98, n), "lens_angle": random.uniform(0, np.pi, n),
        "shear_1": random.normal(0, 0.04, n), "shear_2": random.normal(0, 0.04, n),
        "source_x": offset * np.cos(direction), "source_y": offset * np.sin(direction),
        "source_radius": random.uniform(0.25, 0.35, n), "source_index": random.uniform(0.5, 1.0, n),
        "source_q": random.uniform(0.7, 1.0, n), "source_angle": random.uniform(0, np.pi, n),
    }  # fmt: skip
    return columns | ({"lens_slope": random.uniform(1.6, 2.5, n)} if power_law else {})


def offsets(count: int) -> np.ndarray:
    """Of the lenses from the middle of a pixel, pixels: no ray of the other engine goes through the middle of a mass."""
    return np.random.default_rng(8).uniform(-0.5, 0.5, (count, 2))


def their_lens(columns: Columns, row: int, power_law: str = "EPL") -> tuple[LensModel, list[dict[str, float]]]:
    """The mass of one system; images take a power law that is compiled, for many rays."""
    value = {name: float(values[row]) for name, values in columns.items()}
    e1, e2 = phi_q2_ellipticity(value["lens_angle"], value["lens_q"])
    mass = {"theta_E": value["theta_e"], "e1": e1, "e2": e2, "center_x": 0.0, "center_y": 0.0}
    kind = power_law if "lens_slope" in columns else "SIE"
    mass |= {"gamma": value["lens_slope"]} if "lens_slope" in columns else {}
    return LensModel([kind, "SHEAR"]), [mass, {"gamma1": value["shear_1"], "gamma2": value["shear_2"]}]


def their_source(columns: Columns, row: int) -> list[dict[str, float]]:
    """The source of one system; their b_n is a fit, so the radius is stretched to that of the right one."""
    value = {name: float(values[row : row + 1].item()) for name, values in columns.items()}
    model = {
        name: float(values[0])
        for name, values in as_tensors({k: v[row : row + 1] for k, v in columns.items()}, "cpu", torch.float64).items()
    }
    index, theirs = value["source_index"], SersicUtil().b_n(value["source_index"])
    e1, e2 = phi_q2_ellipticity(value["source_angle"], value["source_q"])
    peak = 1 / (model["source_norm"] * value["source_radius"] ** 2)
    return [
        {
            "amp": peak * np.exp(-theirs), "R_sersic": value["source_radius"] * (theirs / model["source_b"]) ** index,
            "n_sersic": index, "e1": e1, "e2": e2, "center_x": value["source_x"], "center_y": value["source_y"],
        }
    ]  # fmt: skip


def their_image(columns: Columns, row: int, side: int, scale: float, psf: PSF, numerics: dict[str, Any]) -> np.ndarray:
    """Light per arcsec squared on side x side pixels, the lens near the middle (`offsets`)."""
    lens, mass = their_lens(columns, row, "EPL_NUMBA")
    corner_x, corner_y = -(side // 2) * scale - offsets(COUNT // 2)[row] * PIXEL
    data = ImageData(
        image_data=np.zeros((side, side)), ra_at_xy_0=corner_x, dec_at_xy_0=corner_y, transform_pix2angle=np.eye(2) * scale,
        background_rms=1.0, exposure_time=1.0,
    )  # fmt: skip
    model = ImageModel(data, psf, lens, LightModel(["SERSIC_ELLIPSE"]), kwargs_numerics=numerics)
    return np.asarray(model.image(mass, their_source(columns, row), None, None)) / scale**2


def moffat_kernel(fwhm: float, beta: float) -> np.ndarray:
    """Flux per fine point."""
    half = KERNEL_HALF * FINE
    y, x = (np.indices((2 * half + 1, 2 * half + 1)) - half) * PIXEL / FINE
    alpha = 0.5 * fwhm / np.sqrt(2 ** (1 / beta) - 1)
    return np.asarray((beta - 1) / (np.pi * alpha**2) * (1 + (x**2 + y**2) / alpha**2) ** -beta * (PIXEL / FINE) ** 2)


@pytest.mark.parametrize("power_law", [False, True])
def test_deflections_and_magnifications_agree(power_law: bool) -> None:
    columns = systems(power_law)
    x, y = np.random.default_rng(5).uniform(-5, 5, (2, 100))
    models = {name: values[:, None] for name, values in as_tensors(columns, "cpu", torch.float64).items()}
    terms = int(series_terms(columns["lens_q"]).max()) if power_law else 0
    ours = deflection(models, torch.as_tensor(x)[None], torch.as_tensor(y)[None], terms)
    inverse = 1 / magnification_map(columns, x, y)
    for row in range(COUNT // 2):
        lens, mass = their_lens(columns, row)
        for mine, theirs in zip(ours, lens.alpha(x, y, mass), strict=True):
            np.testing.assert_allclose(mine[row].numpy(), theirs, atol=1e-6)
        np.testing.assert_allclose(inverse[row], 1 / lens.magnification(x, y, mass), atol=1e-4)


@pytest.mark.parametrize("power_law", [False, True])
def test_images_through_a_moffat_psf_agree_to_a_thousandth_of_the_peak(power_law: bool) -> None:
    """Theirs: convolved on a grid of 7 x 7 points per pixel, and read off in the middle of each pixel."""
    columns, random = systems(power_law), np.random.default_rng(11)
    fwhm, betas = random.uniform(0.9, 1.4, COUNT // 2), (3.5, 4.0, 4.765)
    worst = []
    for number, beta in enumerate(betas):
        rows = np.arange(number, COUNT // 2, len(betas))
        images, _ = unit_arcs(
            {name: values[rows] for name, values in columns.items()}, MoffatPsf(fwhm[rows, None], beta), Grid(half=HALF),
            offsets=offsets(COUNT // 2)[rows],
        )  # fmt: skip
        for place, row in enumerate(rows):
            psf = PSF(
                "PIXEL", kernel_point_source=moffat_kernel(fwhm[row], beta), kernel_point_source_normalisation=False
            )
            side = (2 * HALF + 1) * FINE
            fine = their_image(columns, int(row), side, PIXEL / FINE, psf, {"supersampling_factor": 1})
            theirs = fine[FINE // 2 :: FINE, FINE // 2 :: FINE] * PIXEL**2
            worst.append(np.abs(images[place, 0].numpy() - theirs).max() / theirs.max())
    assert len(worst) == COUNT // 2
    assert max(worst) < 1e-3


def test_images_agree_with_their_supersampled_convolution() -> None:
    """Where the pixel is no part of the PSF: theirs averages over it, and ours takes the average of the kernel."""
    columns, points = systems(False), 7
    half = 14 * points
    y, x = (np.indices((2 * half + 1, 2 * half + 1)) - half) * PIXEL / points
    kernel = (1 + (x**2 + y**2) / 0.8**2) ** -4.0
    kernel /= kernel.sum()
    padded = np.pad(kernel, points // 2)
    seen = sum(np.roll(padded, (dy, dx), (0, 1)) for dy in range(-3, 4) for dx in range(-3, 4))
    rows = np.arange(12)
    images, _ = unit_arcs(
        {name: values[rows] for name, values in columns.items()}, PsfImages(seen[None, None], points), Grid(half=HALF),
        offsets=offsets(COUNT // 2)[rows],
    )  # fmt: skip
    numerics = {"supersampling_factor": points, "supersampling_convolution": True, "supersampling_kernel_size": None}
    for row in rows:
        psf = PSF("PIXEL", kernel_point_source=kernel, point_source_supersampling_factor=points)
        theirs = their_image(columns, int(row), 2 * HALF + 1, PIXEL, psf, numerics) * PIXEL**2
        assert np.abs(images[row, 0].numpy() - theirs).max() < 1e-3 * theirs.max()


@pytest.mark.parametrize("power_law", [False, True])
def test_the_light_of_a_small_source_is_its_flux_times_the_magnification_of_all_images(power_law: bool) -> None:
    """Two images each: the sources lie between the caustics, where the size of a source does not count."""
    rows = np.arange(3)
    columns = {name: values[rows] for name, values in systems(power_law).items()}
    columns |= {"source_radius": np.full(3, 0.03), "source_index": np.full(3, 0.5), "source_q": np.ones(3)}
    columns |= {"lens_q": columns["lens_q"].clip(0.85), "source_x": 0.6 * columns["theta_e"], "source_y": np.zeros(3)}
    _, found = unit_arcs(columns, np.full((3, 1), 1.2), Grid())
    for row in rows:
        lens, mass = their_lens(columns, int(row))
        images = LensEquationSolver(lens).image_position_from_source(
            float(columns["source_x"][row]), 0.0, mass, min_distance=0.1, search_window=8, precision_limit=1e-10
        )
        assert float(found[row]) == pytest.approx(np.abs(lens.magnification(*images, mass)).sum(), rel=0.01)
