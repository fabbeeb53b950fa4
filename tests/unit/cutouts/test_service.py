"""Answers of the service: what is believed and what is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from io import BytesIO
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
from astropy.io import fits

from lensdata.config.cutouts import FetchCutoutsConfig
from lensdata.cutouts.client import retry_after_s
from lensdata.cutouts.outcome import Rejected
from lensdata.cutouts.request import make_request
from lensdata.cutouts.service import read_cards, read_stamp

REQUEST = make_request(7, 7, 10.0, -5.0, FetchCutoutsConfig(), "service")
WCS = {"CRVAL1": 10.0, "CRVAL2": -5.0, "CD1_1": -0.262 / 3600, "CD2_2": 0.262 / 3600}


def answer(shape=(3, 101, 101), bands="grz", **cards):
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    hdu = fits.PrimaryHDU(data)
    hdu.header["BANDS"] = bands
    for key, value in (WCS | cards).items():
        hdu.header[key] = value
    sink = BytesIO()
    hdu.writeto(sink)
    return data, sink.getvalue()


def test_planes_become_the_last_axis_in_band_order():
    data, body = answer(SURVEY="LegacySurvey", VERSION="DR10")
    stamp, survey, version = read_stamp(body, REQUEST)
    assert stamp.shape == (101, 101, 3)
    assert stamp.dtype == np.dtype("float32")  # native byte order
    for band in range(3):
        assert np.array_equal(stamp[:, :, band], data[band])
    assert (survey, version) == ("LegacySurvey", "DR10")


@pytest.mark.parametrize(
    ("body", "reason", "permanent"),
    [
        (b"no such layer", "no_such_layer", True),
        (b"<html>busy</html>", "not_fits", False),
        (b"", "not_fits", False),
        (answer()[1][:-100], "truncated", False),
        (answer()[1][: 2880 * 10], "truncated", False),
        (answer((4, 101, 101), "griz")[1], "wrong_bands_griz", True),
        (answer((3, 101, 101), "zrg")[1], "wrong_bands_zrg", True),
        (answer((3, 100, 100))[1], "wrong_size", True),
        (answer(CRVAL1=10.01)[1], "wrong_position_or_scale", True),
        (answer(CD2_2=0.524 / 3600)[1], "wrong_position_or_scale", True),
        (answer()[1] + b"\0" * 2880, "truncated", False),
        (b"SIMPLE  =                    T", "truncated", False),
    ],
)
def test_an_http_200_is_not_believed(body, reason, permanent):
    with pytest.raises(Rejected) as found:
        read_stamp(body, REQUEST)
    assert (found.value.reason, found.value.permanent) == (reason, permanent)


def test_the_layer_and_the_grid_are_always_sent():
    query = parse_qs(urlparse(REQUEST.url("http://x/y")).query)
    assert query == {
        "ra": ["10.0000000"],
        "dec": ["-5.0000000"],
        "layer": ["ls-dr10"],
        "pixscale": ["0.262"],
        "bands": ["grz"],
        "size": ["101"],
    }


def test_the_request_hash_sees_every_field_that_changes_pixels():
    base = FetchCutoutsConfig()
    variants = [
        base.model_copy(update=change)
        for change in ({"layer": "ls-dr9"}, {"size": 64}, {"bands": "gr"}, {"pixscale_arcsec": 0.3})
    ]
    hashes = {make_request(7, 7, 10.0, -5.0, config, "service").hash for config in [base, *variants]} | {
        make_request(7, 7, 10.001, -5.0, base, "service").hash,
        make_request(7, 7, 10.0, -5.0, base, "tiles").hash,
    }
    assert len(hashes) == 7


def test_retry_after_is_understood_in_both_forms():
    assert retry_after_s("2.5", 9.0) == 2.5
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 27 < retry_after_s(later, 9.0) <= 30
    assert retry_after_s(None, 9.0) == 9.0
    assert retry_after_s("soon", 9.0) == 9.0


def test_cards_are_those_that_astropy_reads():
    _, body = answer(SURVEY="LegacySurvey", VERSION="DR10", TELESCOP="it's / a test", EPOCH=2000.5, FLAG=True, COUNT=-7)
    cards, start = read_cards(body)
    header = fits.Header.fromstring(body[:start])
    assert len(header) < start // 80 <= len(body) // 80
    for name in ("NAXIS", "NAXIS3", "BITPIX", "COUNT"):
        assert int(cards[name]) == header[name]
    for name in ("CRVAL1", "CRVAL2", "CD1_1", "CD2_2", "EPOCH"):
        assert float(cards[name]) == header[name]
    for name in ("BANDS", "SURVEY", "VERSION"):
        assert cards[name] == header[name]
    with pytest.raises(ValueError, match="no END card"):
        read_cards(body[:160])
