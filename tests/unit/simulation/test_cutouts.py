"""The cutout service without HTTP: query rules, resampling, FITS."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st

from lensdata.simulation import cutouts
from lensdata.simulation.cutouts import CutoutRequest, cutout_fits, cutout_pixels, parse_query
from lensdata.simulation.rendering import Renderer
from lensdata.simulation.sky import brick_pixels, bricks_by_id
from lensdata.simulation.world import Survey

POSITION = {"ra": "15.5", "dec": "-3.2"}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ("ls-dr9", "grz", 0.262, 256, 256)),
        ({"layer": "ls-dr10"}, ("ls-dr10", "griz", 0.262, 256, 256)),
        ({"layer": "ls-dr10", "bands": "zg"}, ("ls-dr10", "zg", 0.262, 256, 256)),
        ({"layer": "ls-dr10", "bands": "grq"}, ("ls-dr10", "griz", 0.262, 256, 256)),
        ({"bands": "griz"}, ("ls-dr9", "grz", 0.262, 256, 256)),
        ({"size": "101"}, ("ls-dr9", "grz", 0.262, 101, 101)),
        ({"size": "3001"}, ("ls-dr9", "grz", 0.262, 3000, 3000)),
        ({"width": "50", "height": "5000"}, ("ls-dr9", "grz", 0.262, 50, 3000)),
        ({"pixscale": "0.3"}, ("ls-dr9", "grz", 0.3, 256, 256)),
    ],
)
def test_queries_are_read_as_the_service_reads_them(query: dict[str, str], expected: tuple[object, ...]) -> None:
    found = parse_query(POSITION | query)
    assert (found.layer, found.bands, found.pixscale, found.width, found.height) == expected


@pytest.mark.parametrize("missing", ["ra", "dec"])
def test_a_query_without_position_is_refused(missing: str) -> None:
    with pytest.raises(cutouts.MissingPosition):
        parse_query({key: value for key, value in POSITION.items() if key != missing})


def test_an_unknown_layer_and_a_float_size_are_errors() -> None:
    with pytest.raises(cutouts.UnknownLayer):
        parse_query(POSITION | {"layer": "ls-dr11"})
    with pytest.raises(ValueError, match="invalid literal"):
        parse_query(POSITION | {"size": "101.0"})


@given(st.floats(0, 0.999999))
def test_lanczos_weights_add_up_to_one_and_follow_the_definition(fraction: float) -> None:
    weights = cutouts.lanczos_weights(np.array([fraction]))[:, 0]
    distance = fraction - np.arange(-2, 4)
    exact = np.sinc(distance) * np.sinc(distance / 3)
    np.testing.assert_allclose(weights, exact / exact.sum(), atol=1e-9)


class _Plane:
    """Stands in for a renderer: pixel values that are a known function of brick coordinates."""

    def __init__(self, survey: Survey) -> None:
        self.survey = survey

    def render_window(
        self, brick: int, y0: int, x0: int, height: int, width: int, bands: Sequence[str], **_: object
    ) -> np.ndarray:
        y, x = np.mgrid[y0 : y0 + height, x0 : x0 + width].astype(float)
        return np.stack([np.cos(x / 7) + np.sin(y / 9) for _ in bands]).astype(np.float32)


@pytest.mark.parametrize("row", [0, 40, 400, 900])
def test_resampling_puts_every_pixel_where_the_wcs_says(tiny: Survey, row: int) -> None:
    ra, dec, brick = (tiny.sources[name][row] for name in ("ra", "dec", "brickid"))
    request = CutoutRequest(float(ra), float(dec), "ls-dr10", "r", 0.262, 101, 101)
    image = cutout_pixels(_Plane(tiny), request)[0]  # type: ignore[arg-type]
    header = fits.Header.fromstring(cutouts._header(request, (101, 101)).decode())
    columns, rows = np.meshgrid(np.arange(101), np.arange(101))
    sky = WCS(header).wcs_pix2world(np.stack([columns.ravel(), rows.ravel()], 1), 0)
    centre = bricks_by_id([int(brick)])
    x, y = brick_pixels(sky[:, 0], sky[:, 1], centre.ra[0], centre.dec[0])
    np.testing.assert_allclose(image.ravel(), np.cos(x / 7) + np.sin(y / 9), atol=6e-3)


def test_a_cutout_is_the_fits_file_of_the_service(tiny: Survey, renderer: Renderer) -> None:
    row = int(np.flatnonzero(tiny.sources["origin"] == "host")[0])
    ra, dec = float(tiny.sources["ra"][row]), float(tiny.sources["dec"][row])
    content = cutout_fits(renderer, CutoutRequest(ra, dec, "ls-dr10", "grz", 0.262, 101, 101))
    assert len(content) == 126720
    with fits.open(io.BytesIO(content)) as file:
        file.verify("exception")
        header, data = file[0].header, file[0].data
        assert data.shape == (3, 101, 101)
        assert data.dtype == np.dtype(">f4")
        assert [header[key] for key in ("BANDS", "BAND0", "BAND1", "BAND2", "CRPIX1", "CRPIX2")] == [
            "grz",
            "g",
            "r",
            "z",
            51,
            51,
        ]
        assert (header["CRVAL1"], header["CRVAL2"]) == pytest.approx((ra, dec), abs=1e-10)
        assert {"SURVEY", "VERSION", "IMAGETYP", "IMAGEW", "IMAGEH"} <= set(header)
        assert header["CD1_1"] < 0 < header["CD2_2"]


def test_the_object_lies_in_the_middle(tiny: Survey, renderer: Renderer) -> None:
    sources = tiny.sources
    bright = np.flatnonzero((sources["origin"] == "pool") & (sources["flux_z"] > 40) & (sources["maskbits"] == 0))[:5]
    for row in bright:
        request = CutoutRequest(float(sources["ra"][row]), float(sources["dec"][row]), "ls-dr10", "z", 0.262, 101, 101)
        image = cutout_pixels(renderer, request)[0, 44:57, 44:57].astype(float)
        if (image == 0).any():
            continue
        peak = np.unravel_index(image.argmax(), image.shape)
        assert np.hypot(peak[0] - 6, peak[1] - 6) <= 1.5


def test_resampling_lowers_the_noise_and_keeps_the_flux(tiny: Survey, renderer: Renderer) -> None:
    ratios = []
    for brick in tiny.bricks[:12]:
        centre = bricks_by_id([int(brick)])
        request = CutoutRequest(
            float(centre.ra[0]) + 0.0123, float(centre.dec[0]) + 0.0171, "ls-dr10", "r", 0.262, 200, 200
        )
        stamp = cutout_pixels(renderer, request)[0]
        native = renderer.render_window(int(brick), 1500, 1500, 200, 200, "r")[0]
        ratios.append(_spread(stamp) / _spread(native))
    assert 0.75 < np.nanmedian(ratios) < 0.99


def _spread(image: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(image - np.median(image)))) or np.nan


def test_cutouts_over_a_brick_edge_have_no_gap(tiny: Survey, renderer: Renderer) -> None:
    brick = bricks_by_id([int(tiny.bricks[3])])
    request = CutoutRequest(float(brick.ra2[0]) - 1e-4, float(brick.dec[0]), "ls-dr10", "r", 0.262, 400, 40)
    assert (cutout_pixels(renderer, request) != 0).mean() > 0.9


def test_the_layer_without_arcs_differs_at_lenses_only(tiny: Survey, renderer: Renderer) -> None:
    def pair(row: int) -> np.ndarray:
        place = float(tiny.sources["ra"][row]), float(tiny.sources["dec"][row])
        images = [
            cutout_pixels(renderer, CutoutRequest(*place, layer, "g", 0.262, 61, 61))
            for layer in ("ls-dr10", "ls-dr10-noarcs")
        ]
        return images[0] - images[1]

    lens = int(np.flatnonzero(tiny.sources["origin"] == "host")[2])
    assert pair(lens).max() > 0.005
    far = np.flatnonzero(
        (tiny.sources["origin"] == "pool") & (tiny.sources["brickid"] != tiny.sources["brickid"][lens])
    )
    assert all((pair(int(row)) == 0).all() for row in far[:3])
