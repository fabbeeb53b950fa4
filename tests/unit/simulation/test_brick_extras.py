"""Inverse variance and mask bits that go with the simulated bricks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import requests
from astropy.io import fits

from lensdata.cutouts.coadds import coadd_path
from lensdata.simulation.bricks import ALLMASK, brick_image, brick_invvar, brick_maskbits, write_extra
from lensdata.simulation.conditions import MASK_BITS, holes
from lensdata.simulation.rendering import Renderer
from lensdata.simulation.sky import brick_pixels, bricks_by_id
from lensdata.simulation.world import Survey
from tests.unit.simulation.conftest import ServerFactory


@pytest.fixture(scope="module")
def brick(tiny: Survey) -> int:
    """A brick with a hole in its coadd and sources in masked circles."""
    masked = set(tiny.sources["brickid"][tiny.sources["maskbits"] != 0])
    seed, sky = tiny.config.seed, tiny.config.sky
    return next(int(b) for b in tiny.bricks if b in masked and holes(seed, sky, int(b)))


def test_invvar_is_that_of_the_noise_and_zero_where_there_are_no_data(
    tiny: Survey, renderer: Renderer, brick: int
) -> None:
    band = holes(tiny.config.seed, tiny.config.sky, brick)[0].band
    invvar, image = brick_invvar(renderer, brick, band), brick_image(renderer, brick, band)
    np.testing.assert_array_equal(invvar == 0, image == 0)
    sky = image[(image != 0) & (image < np.median(image))]  # below the median there are few sources
    sigma = np.sqrt(np.mean((sky - np.median(image)) ** 2))
    assert invvar.max() ** -0.5 == pytest.approx(sigma, rel=0.03)


def test_maskbits_are_those_of_the_catalogue_and_of_missing_pixels(
    tiny: Survey, renderer: Renderer, brick: int
) -> None:
    bits = brick_maskbits(renderer, brick)
    rows, centre = tiny.of_brick(brick), bricks_by_id([brick])
    x, y = brick_pixels(tiny.sources["ra"][rows], tiny.sources["dec"][rows], float(centre.ra[0]), float(centre.dec[0]))
    at_source = bits[np.rint(y).astype(int), np.rint(x).astype(int)]
    hole = holes(tiny.config.seed, tiny.config.sky, brick)[0]
    missing = 1 << ALLMASK[hole.band]
    assert (bits[hole.y0 : hole.y1, hole.x0 : hole.x1] & missing).all()
    in_hole = (hole.y0 <= y) & (y < hole.y1) & (hole.x0 <= x) & (x < hole.x1)
    expected = tiny.sources["maskbits"][rows]
    assert expected.any()
    np.testing.assert_array_equal(at_source[~in_hole], expected[~in_hole])
    known = sum({1 << bit for bit, *_ in MASK_BITS.values()} | {1 << bit for bit in ALLMASK.values()})
    assert not np.bitwise_or.reduce(bits, axis=None) & ~known


def test_extras_are_compressed_as_the_survey_does(renderer: Renderer, brick: int, tiny: Survey, tmp_path: Path) -> None:
    band = holes(tiny.config.seed, tiny.config.sky, brick)[0].band
    for kind, made, method in (
        ("invvar", brick_invvar(renderer, brick, band), "RICE"),
        ("maskbits", brick_maskbits(renderer, brick), "HCOMPRESS"),
    ):
        path = write_extra(renderer, brick, kind, band if kind == "invvar" else "", str(tmp_path))  # type: ignore[arg-type]
        with fits.open(path, disable_image_compression=True) as file:
            header = file[1].header
            assert header["ZCMPTYPE"].startswith(method)
            assert (header["ZTILE1"], header["ZTILE2"], header["IMTYPE"]) == (100, 100, kind)
            assert "DITHER" not in header.get("ZQUANTIZ", "").replace("NO_DITHER", "")
        read = fits.getdata(path, 1)
        assert read.dtype.itemsize == 4
        np.testing.assert_array_equal(read == 0, made == 0)
        # tiles at the rim of a hole are quantised; the survey's invvar is no more exact
        np.testing.assert_allclose(read, made, rtol=0.01 if kind == "invvar" else 0)


def test_the_server_makes_extras_when_asked_for(
    serve: ServerFactory, tiny: Survey, brick: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def small(renderer: object, brick: int, kind: str, band: str, folder: str) -> None:
        made.append((kind, band))
        path = Path(folder) / coadd_path(str(bricks_by_id([brick]).name[0]), kind, band)  # type: ignore[arg-type]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(kind.encode())

    monkeypatch.setattr("lensdata.simulation.service.write_extra", small)
    url, name = f"{serve().url}/dr10/south/", str(bricks_by_id([brick]).name[0])
    for kind, band in (("invvar", "z"), ("maskbits", ""), ("invvar", "z")):
        assert requests.get(url + coadd_path(name, kind, band), timeout=60).content == kind.encode()  # type: ignore[arg-type]
    assert made == [("invvar", "z"), ("maskbits", "")]
    for wrong in (coadd_path(name, "invvar", "y"), coadd_path(name, "maskbits").replace("maskbits", "maskbits-g")):
        assert requests.get(url + wrong, timeout=60).status_code == 404
