"""Stamps as pictures, whatever they hold (R-E6)."""

from __future__ import annotations

import numpy as np
import pytest

from lensdata.report.galleries import to_rgb


@pytest.mark.parametrize(
    ("planes", "unit"),
    [(1, "nanomaggy"), (1, "rgb8"), (2, "other"), (3, "other"), (3, "nanomaggy"), (6, "nanomaggy"), (3, "rgb8")],
)
def test_stamps_of_any_number_of_planes_and_any_unit_become_a_picture(planes, unit):
    stamp = np.random.default_rng(0).normal(0, 0.01, (9, 11, planes)).astype(np.float32)
    stamp[4, 5] = np.nan
    if unit == "rgb8":
        stamp = np.full((9, 11, planes), 200, np.uint8)
    picture = to_rgb(stamp, unit)
    assert picture.shape == (9, 11, 3)
    assert picture.dtype == np.uint8


def test_one_plane_is_grey_from_its_own_darkest_to_its_own_brightest():
    stamp = np.linspace(-5, 3, 400).reshape(20, 20, 1)
    picture = to_rgb(stamp, "other")
    assert (picture == picture[..., :1]).all()
    assert picture.min() == 0
    assert picture.max() == 255
    assert picture[0].mean() > picture[-1].mean()  # FITS rows start at the bottom
    assert (to_rgb(np.zeros((5, 5, 1)), "other") == 0).all()
