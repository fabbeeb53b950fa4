"""Brick files: names, layout, compression, and that a window of pixels is a cut of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from lensdata.simulation.bricks import QUANTUM, brick_image, write_brick
from lensdata.simulation.conditions import holes
from lensdata.simulation.rendering import Renderer
from lensdata.simulation.world import Survey


@pytest.fixture(scope="module")
def brick(tiny: Survey) -> int:
    """A brick with a hole in its coadd."""
    return next(int(b) for b in tiny.bricks if holes(tiny.config.seed, tiny.config.sky, int(b)))


@pytest.fixture(scope="module")
def written(brick: int, renderer: Renderer, tiny: Survey, tmp_path_factory: pytest.TempPathFactory) -> Path:
    band = holes(tiny.config.seed, tiny.config.sky, brick)[0].band
    return Path(write_brick(renderer, brick, band, str(tmp_path_factory.mktemp("bricks"))))


def test_a_brick_file_has_the_name_and_layout_of_the_survey(written: Path) -> None:
    name = written.parent.name
    assert written.parts[-4:-1] == ("coadd", name[:3], name)
    with fits.open(written, disable_image_compression=True) as file:
        header = file[1].header
        assert len(file) == 2
        assert file[0].header["NAXIS"] == 0
        expected = {
            "ZTILE1": 100,
            "ZTILE2": 100,
            "ZNAXIS1": 3600,
            "ZNAXIS2": 3600,
            "ZQUANTIZ": "SUBTRACTIVE_DITHER_2",
            "CRPIX1": 1800.5,
        }
        assert {key: header[key] for key in expected} == expected
        assert header["ZCMPTYPE"] in ("RICE_1", "RICE_ONE")
        assert len(file[1].data) == 36 * 36
        scale = np.asarray(file[1].data["ZSCALE"])
        np.testing.assert_allclose(scale[scale > 0], QUANTUM, rtol=1e-6)


def test_a_brick_file_gives_back_the_pixels_and_keeps_zeros(written: Path, brick: int, renderer: Renderer) -> None:
    band = written.name.split("-image-")[1][0]
    image = brick_image(renderer, brick, band)
    read = fits.getdata(written, 1)
    assert np.abs(read - image).max() <= QUANTUM
    assert (image == 0).any()
    np.testing.assert_array_equal(read == 0, image == 0)
    window = renderer.render_window(brick, 1234, 777, 101, 101, band)[0]
    np.testing.assert_array_equal(window, image[1234:1335, 777:878])
