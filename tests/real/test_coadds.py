"""Stamps from a real brick coadd: little of g is covered, next to nothing of z, and r does not exist."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from lensdata.config.cutouts import Quality
from lensdata.cutouts import quality
from lensdata.cutouts.coadds import coadd_uri, read_brick
from lensdata.cutouts.outcome import Rejected

NAME = "0959p805"


@pytest.fixture
def brick(real_data):
    """The reader, what it read, and the image in g with its projection."""
    folder, asked = real_data / "brick_coadd_dr6", []

    def read(uri: str, start: int, stop: int | None) -> bytes:
        path = folder / uri.rpartition("/")[2]
        if not path.is_file():
            raise Rejected("no_such_file", permanent=True)
        piece = path.read_bytes()[start:stop]
        asked.append((path.name, len(piece)))
        return piece

    path = folder / coadd_uri("", NAME, "image", "g").rpartition("/")[2]
    with fits.open(path) as hdus:
        return read, asked, np.array(hdus[1].data), WCS(hdus[1].header)


@pytest.mark.parametrize("whole", [True, False])
def test_a_band_without_a_file_is_named(brick, whole):
    read, *_ = brick
    found = read_brick(read, "", NAME, [95.95, 95.9], [80.5, 80.5], "grz", 101, whole=whole)
    assert found.reasons == ["no_coadd_r"] * 2


@pytest.mark.parametrize("whole", [True, False])
def test_stamps_are_cuts_of_the_image_and_empty_bands_are_seen(brick, whole):
    read, _, image, wcs = brick
    covered = np.argwhere(image != 0)
    random = np.random.default_rng(1)
    places = covered[random.choice(len(covered), 12)]
    places = places[((places > 60) & (places < 3540)).all(1)]
    ra, dec = wcs.wcs_pix2world(places[:, ::-1], 0).T
    found = read_brick(read, "", NAME, ra, dec, "gz", 101, whole=whole, extras=("invvar",))
    assert found.reasons == [None] * len(places)
    assert (found.survey, found.version) == ("DECaLS", "6000")
    np.testing.assert_allclose(found.offsets, 0, atol=1e-4)
    for (y, x), stamp, invvar in zip(places, found.stamps, found.invvar, strict=True):
        np.testing.assert_array_equal(stamp[:, :, 0], image[y - 50 : y + 51, x - 50 : x + 51])
        assert (stamp[:, :, 0] != 0).any()
        # no weight without a pixel; 2% of the pixels of this brick have a value and no weight
        assert not invvar[:, :, 0][stamp[:, :, 0] == 0].any()
    empty = [not stamp[:, :, 1].any() for stamp in found.stamps]
    assert np.mean(empty) > 0.5
    for stamp in found.stamps[empty]:
        measured = quality.measure(stamp, Quality())
        full_g = measured.missing_frac[0] < 1
        assert full_g
        assert quality.exclusion_reason(measured, "gz", Quality()) == "empty_band_z"


def test_both_routes_agree_and_tiles_read_less(brick):
    read, asked, _, wcs = brick
    random = np.random.default_rng(2)
    ra, dec = wcs.wcs_pix2world(random.uniform(100, 3500, (30, 2)), 0).T
    results, sizes = [], []
    for whole in (True, False):
        asked.clear()
        results.append(read_brick(read, "", NAME, ra, dec, "zg", 101, whole=whole, extras=("invvar",)))
        sizes.append(sum(size for _, size in asked))
    for name in ("stamps", "invvar", "offsets"):
        assert getattr(results[0], name).tobytes() == getattr(results[1], name).tobytes()
    assert sizes[1] < sizes[0] / 3
