"""The planner: bytes against those truly read, and its rules."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensdata.config.cutouts import Prices
from lensdata.config.simulation import MockSurveyConfig
from lensdata.cutouts.coadds import coadd_files, coadd_uri, read_brick
from lensdata.cutouts.planning import RoutePlan, choose, expected_tiles, plan_routes, table
from lensdata.errors import InputError
from lensdata.simulation.bricks import brick_fits, brick_image
from lensdata.simulation.catalogue import LensList
from lensdata.simulation.cutouts import cutout_fits, parse_query
from lensdata.simulation.rendering import Renderer
from lensdata.simulation.sky import bricks_by_id
from lensdata.simulation.survey import make_survey

PRICES = Prices()
RATES = {"service_rate": 1.0, "coadds_rate": 10.0}


def plans_of(per_brick, size: int = 101, extras=(), prices: Prices = PRICES, **more) -> dict[str, RoutePlan]:
    plans = plan_routes(per_brick, "grz", size, extras, prices, **(RATES | more))
    return {plan.route: plan for plan in plans}


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    lens = LensList(np.array(["DESI-one"]), np.array([20.0]), np.array([-5.0]))
    return Renderer(make_survey(MockSurveyConfig(), lens))


@pytest.fixture(scope="module")
def brick_files(renderer: Renderer) -> tuple[int, dict[str, bytes]]:
    """Number and files of a whole brick of the simulated sky in g, r, z."""
    brick = int(renderer.survey.bricks[0])
    name = str(bricks_by_id([brick]).name[0])
    files = {
        coadd_uri("mem:/", name, "image", band): brick_fits(brick, band, brick_image(renderer, brick, band))
        for band in "grz"
    }
    return brick, files


@pytest.mark.parametrize("n", [1, 5, 120])
def test_predicted_bytes_and_requests_are_those_of_a_simulated_brick(brick_files, n):
    number, files = brick_files
    brick = bricks_by_id([number])
    name, random = str(brick.name[0]), np.random.default_rng(n)
    ra = random.uniform(brick.ra1[0], brick.ra2[0], n)
    dec = random.uniform(brick.dec1[0], brick.dec2[0], n)
    looked_at = {"image": float(np.mean([len(content) for content in files.values()]))}
    plans = plans_of([n], file_bytes=looked_at)
    for route, whole in (("bricks", True), ("tiles", False)):
        sizes = []

        def read(uri: str, start: int, stop: int | None, sizes: list[int] = sizes) -> bytes:
            sizes.append(len(files[uri][start:stop]))
            return files[uri][start:stop]

        found = read_brick(read, "mem:/", name, ra, dec, "grz", 101, whole=whole)
        assert found.reasons == [None] * n  # a stamp of a primary source lies in its own brick
        assert plans[route].bytes == pytest.approx(sum(sizes), rel=0.2)
        assert plans[route].requests == pytest.approx(len(sizes), rel=0.2)


@pytest.mark.parametrize("size", [64, 101, 200])
def test_predicted_bytes_of_the_service_are_those_it_answers_with(renderer, size):
    sky = renderer.survey.config.sky
    query = {
        "ra": str(sky.ra_min + 1),
        "dec": str(sky.dec_min + 1),
        "layer": "ls-dr10",
        "bands": "grz",
        "size": str(size),
    }
    answered = len(cutout_fits(renderer, parse_query(query)))
    assert plans_of([1, 5, 120], size)["service"].bytes == 126 * answered
    if size == 101:
        assert answered == 126_720


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 300), size=st.sampled_from([32, 64, 101, 160]), seed=st.integers(0, 1000))
def test_expected_tiles_and_ranges_are_those_of_random_stamps(n, size, seed):
    random = np.random.default_rng(seed)
    tiles, ranges = [], []
    for _ in range(max(40, 1000 // n)):
        touched = np.zeros((36, 36), bool)
        for y, x in random.integers(0, 3601 - size, (n, 2)):
            touched[y // 100 : (y + size - 1) // 100 + 1, x // 100 : (x + size - 1) // 100 + 1] = True
        tiles.append(touched.sum())
        flat = touched.ravel()  # tiles lie in the file row by row
        ranges.append((flat & ~np.r_[False, flat[:-1]]).sum())
    expected_number, expected_ranges = (float(values[0]) for values in expected_tiles(np.array([n]), size))
    assert expected_number == pytest.approx(np.mean(tiles), rel=0.08)
    assert expected_ranges == pytest.approx(np.mean(ranges), rel=0.2, abs=1)


def test_plans_grow_with_stamps_and_bricks_add_up():
    few, many = plans_of([3] * 10), plans_of({f"b{k}": 3 for k in range(20)})
    for route in few:
        for name in ("stamps", "bytes", "requests", "seconds"):
            assert getattr(many[route], name) == pytest.approx(2 * getattr(few[route], name))
    dense = plans_of([300] * 10)
    assert dense["bricks"].bytes == few["bricks"].bytes
    assert few["tiles"].bytes < dense["tiles"].bytes < dense["bricks"].bytes


def test_seconds_are_those_of_the_slowest_part():
    one = plans_of([1] * 100)
    assert one["service"].seconds == pytest.approx(100 / 0.86)
    assert plans_of([1] * 100, service_rate=0.5)["service"].seconds == pytest.approx(200)
    # 300 files of 14 MB at 30 MB/s take longer than 300 requests at 10/s
    cpu = 300 * PRICES.section_s
    assert one["bricks"].seconds == pytest.approx(300 * 14e6 / 30e6 + cpu)
    # 3 requests of 20 to 60 kB a file: here the requests are what takes long
    assert one["tiles"].seconds == pytest.approx(one["tiles"].requests / 10 + cpu)
    local = plans_of([1] * 100, coadds_rate=math.inf, cores=4)
    assert local["tiles"].seconds == pytest.approx(local["tiles"].bytes / 30e6 + cpu / 4)
    dense = plans_of([1000] * 10, coadds_rate=math.inf)
    assert dense["bricks"].seconds == pytest.approx(30 * 14e6 / 30e6 + 30 * PRICES.decompress_s)


def test_extras_and_other_pixel_scales_leave_routes_out():
    plans = plans_of([2, 3], extras=("invvar", "maskbits"))
    assert not plans["service"].possible
    assert "invvar and maskbits" in plans["service"].why
    assert len(coadd_files("grz", ("invvar", "maskbits"))) == 7
    assert plans["bricks"].requests == 14
    assert plans["bricks"].bytes == pytest.approx(2 * 6.05 * PRICES.coadd_file_bytes)
    looked_at = {"image": 10e6, "invvar": 8e6, "maskbits": 1e6}
    assert plans_of([2, 3], extras=("invvar",), file_bytes=looked_at)["bricks"].bytes == 2 * 54e6
    scaled = plans_of([2], pixscale_arcsec=0.524)
    assert [route for route, plan in scaled.items() if plan.possible] == ["service"]
    assert "0.262" in scaled["tiles"].why
    with pytest.raises(
        InputError, match="No route gives such stamps: service cannot be taken: it does not give invvar"
    ):
        choose(list(plans_of([2], extras=("invvar",), pixscale_arcsec=0.524).values()), "bytes")


def test_the_preferred_quantity_decides():
    sparse = list(plans_of(np.full(2000, 2)).values())
    assert choose(sparse, "bytes").route == "service"
    assert choose(sparse, "seconds").route in ("bricks", "tiles")
    with_extras = list(plans_of(np.full(2000, 2), extras=("invvar",)).values())
    assert choose(with_extras, "bytes").route == "tiles"
    very_dense = list(plans_of(np.full(10, 3000)).values())
    assert choose(very_dense, "bytes").route == "bricks"
    twins = [RoutePlan("tiles", 1, 5.0, 1, 9.0, ""), RoutePlan("bricks", 1, 5.0, 1, 3.0, "")]
    assert choose(twins, "bytes").route == "bricks"


def test_the_table_is_aligned_and_marks_and_hints():
    plans = list(plans_of(np.full(180_000, 120), extras=("invvar",)).values())
    text = table(plans, choose(plans, "bytes")).splitlines()
    end = text[0].index("hours") + len("hours")
    assert all(line[end - 1] != " " and line[end : end + 2] == "  " for line in text[1:4])
    assert [line[0] for line in text[1:4]].count("*") == 1
    assert "cannot be taken: it does not give invvar" in text[1]
    assert max(map(len, text)) < 132
    slow = list(plans_of(np.full(10, 1000), service_rate=0.01).values())
    hint = table(slow, slow[0]).splitlines()[-1]
    assert hint.startswith("Hint: route bricks would be ")
    assert "times faster" in hint
    alike = [RoutePlan("tiles", 1, 5e9, 1, 9e3, ""), RoutePlan("bricks", 1, 6e9, 1, 8e3, "")]
    assert "Hint" not in table(alike, alike[0])


def test_no_stamps_cost_nothing():
    plans = plans_of([])
    assert all(plan.bytes == plan.requests == plan.seconds == 0 for plan in plans.values())
    assert "Hint" not in table(list(plans.values()), plans["tiles"])
