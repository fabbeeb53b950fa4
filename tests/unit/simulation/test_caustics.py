"""Caustics of isothermal lenses, and sources within them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lensdata.simulation import caustics
from lensdata.simulation.injection import deflection

COUNT = 6


def lenses(seed: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "theta_e": random.uniform(0.5, 3, COUNT),
        "lens_q": random.uniform(0.5, 0.97, COUNT),
        "lens_angle": random.uniform(0, np.pi, COUNT),
        "shear_1": 0.06 * random.standard_normal(COUNT),
        "shear_2": 0.06 * random.standard_normal(COUNT),
    }


def traced(lens: dict[str, np.ndarray], row: int, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Source positions of rays, by the engine."""
    wide = {name: torch.as_tensor(values[row]) for name, values in lens.items()}
    a_x, a_y = deflection(wide, torch.as_tensor(x), torch.as_tensor(y))
    return x - a_x.numpy(), y - a_y.numpy()


def images_of(lens: dict[str, np.ndarray], row: int, x: float, y: float) -> int:
    """How many images a point source has: cells of a fine grid whose corners enclose it in the source plane."""
    edge = np.linspace(-9, 9, 1201)  # an even number of cells: none has the centre inside
    grid_x, grid_y = np.meshgrid(edge, edge)
    b_x, b_y = traced(lens, row, grid_x, grid_y)
    found = 0
    for corners in (((0, 0), (0, 1), (1, 1)), ((0, 0), (1, 1), (1, 0))):
        px, py = ([values[dy : dy + 1200, dx : dx + 1200] for dy, dx in corners] for values in (b_x, b_y))
        sides = [(px[(k + 1) % 3] - px[k]) * (y - py[k]) - (py[(k + 1) % 3] - py[k]) * (x - px[k]) for k in range(3)]
        small = np.hypot(px[1] - px[0], py[1] - py[0]) < 0.5  # triangles across the centre are torn
        found += int((((sides[0] > 0) & (sides[1] > 0) & (sides[2] > 0)) & small).sum())
        found += int((((sides[0] < 0) & (sides[1] < 0) & (sides[2] < 0)) & small).sum())
    return found


def test_the_cut_is_where_rays_near_the_centre_end() -> None:
    lens = lenses()
    x, y = caustics.cut(lens["theta_e"], lens["lens_q"], lens["lens_angle"])
    phi = np.linspace(0, 2 * np.pi, caustics.POINTS, endpoint=False)
    for row in range(COUNT):
        turned = phi + lens["lens_angle"][row]
        b_x, b_y = traced(lens, row, 1e-6 * np.cos(turned), 1e-6 * np.sin(turned))
        np.testing.assert_allclose(np.hypot(x[row] - b_x, y[row] - b_y), 0, atol=2e-3)


def test_a_round_lens_without_shear_has_a_circle_and_a_point() -> None:
    one, none = np.array([1.5]), np.zeros(1)
    x, y = caustics.cut(one, np.ones(1), none)
    np.testing.assert_allclose(np.hypot(x, y), 1.5, atol=2e-3)
    x, y = caustics.tangential(one, np.ones(1), none, none, none)
    np.testing.assert_allclose(np.hypot(x, y), 0, atol=2e-3)


def test_the_jacobian_vanishes_on_the_tangential_critical_curve() -> None:
    """Two rays on either side of the caustic differ by two images."""
    lens = lenses(2)
    x, y = caustics.tangential(*(lens[name] for name in ("theta_e", "lens_q", "lens_angle", "shear_1", "shear_2")))
    for row in range(3):
        radius = np.hypot(x[row], y[row])
        place = int(np.argsort(radius)[len(radius) // 2])  # neither a cusp nor the innermost fold
        inside, outside = (
            images_of(lens, row, factor * x[row, place], factor * y[row, place]) for factor in (0.93, 1.07)
        )
        assert inside - outside == 2


def test_sources_within_have_several_images_and_sources_beyond_have_one() -> None:
    lens = lenses(3)
    uniform = np.full(COUNT, 0.3)
    near = caustics.positions_within(lens, 1.0, uniform, np.full(COUNT, 0.85**2))
    far = caustics.positions_within(lens, 1.0, uniform, np.full(COUNT, 1.05**2))
    for row in range(COUNT):
        assert images_of(lens, row, near[0][row], near[1][row]) >= 2
        assert images_of(lens, row, far[0][row], far[1][row]) == 1


def test_sources_lie_uniformly_over_the_area() -> None:
    """Halving the multiple leaves a quarter of the sources; sectors hold them as their area asks."""
    random, count = np.random.default_rng(4), 8_000
    lens = {name: np.repeat(values[:1], count) for name, values in lenses().items()}
    x, y = caustics.positions_within(lens, 1.0, random.random(count), random.random(count))
    directions, extent = caustics.reach(
        *(lens[name][:1] for name in ("theta_e", "lens_q", "lens_angle", "shear_1", "shear_2"))
    )
    allowed = np.interp(np.arctan2(y, x), directions, extent[0])
    assert (np.hypot(x, y) < 0.5 * allowed).mean() == pytest.approx(0.25, abs=0.018)
    area = np.trapezoid(extent[0] ** 2, directions)
    right = np.abs(directions) < np.pi / 2
    expected = np.trapezoid((extent[0] ** 2)[right], directions[right]) / area
    assert (np.abs(np.arctan2(y, x)) < np.pi / 2).mean() == pytest.approx(expected, abs=0.02)
