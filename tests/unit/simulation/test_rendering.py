"""Pixels: windows against bricks, flux against the catalogue, arcs against no arcs, noise against depth."""

from __future__ import annotations

import numpy as np
import pytest

from lensdata.config.simulation import MockSurveyConfig
from lensdata.simulation import lenses
from lensdata.simulation.conditions import holes, observe, pixel_sigma
from lensdata.simulation.galaxies import psf_mixture
from lensdata.simulation.rendering import Renderer, neighbours, render_window
from lensdata.simulation.sky import BANDS, brick_pixels, bricks_by_id
from lensdata.simulation.world import Survey


def _place(survey: Survey, row: int) -> tuple[int, int, int]:
    brick = int(survey.sources["brickid"][row])
    centre = bricks_by_id([brick])
    x, y = brick_pixels(survey.sources["ra"][row], survey.sources["dec"][row], centre.ra[0], centre.dec[0])
    return brick, round(float(y)), round(float(x))


def _hosts(survey: Survey) -> np.ndarray:
    return np.flatnonzero(survey.sources["origin"] == "host")


def test_any_window_is_the_cut_of_a_larger_one_bit_for_bit(tiny: Survey, renderer: Renderer) -> None:
    brick, y, x = _place(tiny, int(_hosts(tiny)[0]))
    y, x = min(max(y, 160), 3440), min(max(x, 160), 3440)
    large = renderer.render_window(brick, y - 150, x - 150, 300, 301, "grz")
    for dy, dx, height, width in ((0, 0, 300, 301), (100, 99, 101, 101), (137, 20, 40, 77), (3, 200, 1, 1)):
        window = renderer.render_window(brick, y - 150 + dy, x - 150 + dx, height, width, "grz")
        np.testing.assert_array_equal(window, large[:, dy : dy + height, dx : dx + width])


def test_bands_come_in_the_order_asked_and_do_not_depend_on_each_other(tiny: Survey, renderer: Renderer) -> None:
    brick, y, x = _place(tiny, int(_hosts(tiny)[1]))
    grz = renderer.render_window(brick, y - 30, x - 30, 61, 61, "grz")
    zg = renderer.render_window(brick, y - 30, x - 30, 61, 61, "zg")
    np.testing.assert_allclose(zg, grz[[2, 0]], rtol=1e-5, atol=1e-7)


def test_the_same_seed_gives_the_same_pixels_and_another_seed_others(tiny: Survey) -> None:
    brick, y, x = _place(tiny, int(_hosts(tiny)[0]))
    first = render_window(tiny, brick, y - 20, x - 20, 41, 41, "r")
    np.testing.assert_array_equal(first, render_window(tiny, brick, y - 20, x - 20, 41, 41, "r"))
    other = Survey.from_sources(tiny.config.model_copy(update={"seed": 7}), tiny.sources)
    assert not np.array_equal(first, render_window(other, brick, y - 20, x - 20, 41, 41, "r"))


def _bare(survey: Survey) -> Renderer:
    """The same survey with nothing but its catalogue rows."""
    galaxies = survey.config.galaxies.model_copy(update={"background_per_arcmin2": 0.0, "satellite_fraction": 0.0})
    sky = survey.config.sky.model_copy(update={"hole_fraction": 0.0})
    return Renderer(
        Survey.from_sources(survey.config.model_copy(update={"galaxies": galaxies, "sky": sky}), survey.sources)
    )


def test_pixels_of_an_isolated_galaxy_add_up_to_its_catalogue_flux(tiny: Survey) -> None:
    renderer, sources = _bare(tiny), tiny.sources
    alone = (sources["origin"] == "pool") & (sources["flux_r"] > 8) & (sources["shape_r"] < 1.5)
    checked = 0
    for row in np.flatnonzero(alone):
        brick, y, x = _place(tiny, int(row))
        scene = renderer._scene(brick)
        if (
            (np.hypot(scene.x - x, scene.y - y) < 150).sum() > 1
            or not scene.observed.all()
            or not 100 < min(y, x) < max(y, x) < 3500
        ):
            continue
        window = renderer.render_window(brick, y - 100, x - 100, 201, 201, "grz").astype(float)
        noise = scene.sigma[[0, 1, 3]] * 201
        expected = np.array([sources[f"flux_{band}"][row] for band in "grz"])
        assert (np.abs(window.sum((1, 2)) - expected) < 0.01 * expected + 4 * noise).all()
        checked += 1
        if checked == 12:
            break
    assert checked >= 5


@pytest.mark.parametrize("structure", ["ring", "clumps", "spiral", "tail"])
def test_a_drawn_structure_leaves_the_total_flux_as_it_is(structure: str, tiny: Survey) -> None:
    row = int(np.flatnonzero((tiny.sources["type"] == "SER") & (tiny.sources["shape_r"] < 1.0))[0])
    sources = {name: values.copy() for name, values in tiny.sources.items()}
    scene_psfs = tuple(psf_mixture(1.3) for _ in BANDS)
    totals = []
    for kind in ("none", structure):
        sources["structure"][row] = kind
        patches = Renderer(Survey.from_sources(tiny.config, sources))._draw_row(
            row, 500.2, 499.7, [0, 1, 3], (*scene_psfs[:3],)
        )
        totals.append(sum(patch.image.sum((1, 2)) for patch in patches))
    np.testing.assert_allclose(totals[1], totals[0], rtol=0.01)


def test_arcs_are_all_that_the_sky_without_arcs_lacks(tiny: Survey, renderer: Renderer) -> None:
    for row in _hosts(tiny)[:6]:
        brick, y, x = _place(tiny, int(row))
        scene = renderer._scene(brick)
        if not scene.observed.all() or scene.holes:
            continue
        with_arcs = renderer.render_window(brick, y - 50, x - 50, 101, 101, "grz").astype(float)
        without = renderer.render_window(brick, y - 50, x - 50, 101, 101, "grz", arcs=False).astype(float)
        flux = (
            np.array([tiny.sources[f"source_flux_{band}"][row] for band in "grz"]) * tiny.sources["magnification"][row]
        )
        np.testing.assert_allclose((with_arcs - without).sum((1, 2)), flux, rtol=0.03)
        signal = np.sqrt(((with_arcs - without)[1] ** 2).sum()) / scene.sigma[1]
        assert signal == pytest.approx(tiny.sources["arc_snr"][row], rel=0.03)


def test_fine_points_are_fine_enough_for_the_arcs(tiny: Survey) -> None:
    row = int(_hosts(tiny)[0])
    parameters = {name: float(tiny.sources[name][row]) for name in lenses.PARAMETERS}
    psf = psf_mixture(1.1)
    coarse, fine = (
        lenses.arc_patch(parameters, 0.3, 0.1, np.ones(1), (psf,), k).image for k in (tiny.config.oversampling, 9)
    )
    assert np.abs(coarse - fine).max() < 0.02 * fine.max()


def test_pixel_noise_follows_the_depth_of_the_brick(tiny: Survey) -> None:
    renderer, config = _bare(tiny), tiny.config
    brick = int(tiny.sources["brickid"][0])
    seen = observe(config.seed, config.sky, np.array([brick]))
    window = renderer.render_window(brick, 300, 300, 400, 400, "griz")
    for k in range(4):
        if seen.nobs[0, k] > 0:
            robust = 1.4826 * np.median(np.abs(window[k] - np.median(window[k])))
            assert robust == pytest.approx(pixel_sigma(seen.psfsize[0, k], seen.psfdepth[0, k]), rel=0.03)


def test_missing_pixels_are_exact_zeros(tiny: Survey, renderer: Renderer) -> None:
    config = tiny.config
    found = [(int(b), hole) for b in tiny.bricks for hole in holes(config.seed, config.sky, int(b))]
    assert found
    brick, hole = found[0]
    window = renderer.render_window(brick, hole.y0 - 20, hole.x0 - 20, 60, 60, hole.band)[0]
    assert (window[20:, 20:] == 0).all()
    assert (window[:20] != 0).mean() > 0.99 or hole.y0 < 20
    outside = renderer.render_window(brick, -30, 100, 60, 50, "r")[0]
    assert (outside[:30] == 0).all()


def test_a_brick_image_shows_the_sources_of_its_neighbours(tiny: Survey) -> None:
    brick = int(tiny.bricks[0])
    around = neighbours(brick)
    assert brick in around
    assert 8 <= len(around) <= 12


def test_overlapping_bricks_show_the_same_sky(tiny_config: MockSurveyConfig, tiny: Survey) -> None:
    """A source in the overlap has the same flux in both images (each with its own PSF and noise)."""
    renderer, sources = _bare(tiny), tiny.sources
    bright = np.flatnonzero((sources["flux_r"] > 5) & (sources["shape_r"] < 1.2) & (sources["origin"] == "pool"))
    for row in bright:
        own = int(sources["brickid"][row])
        for other in neighbours(own):
            centre = bricks_by_id([other])
            x, y = brick_pixels(sources["ra"][row], sources["dec"][row], centre.ra[0], centre.dec[0])
            if other != own and 25 < x < 3574 and 25 < y < 3574:
                scene = renderer._scene(other)
                k = np.argmin(np.hypot(scene.x - x, scene.y - y))
                assert scene.rows[k] == row
                return
    pytest.fail("no source lies in an overlap; enlarge the tiny survey")
