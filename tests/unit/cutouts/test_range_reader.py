"""Ranges of coadds: what a server answers, and what of it is believed."""

from __future__ import annotations

import time

import pytest

from lensdata.config.cutouts import Coadds
from lensdata.cutouts.client import PoliteClient
from lensdata.cutouts.coordinator import LocalTurns, Stopped
from lensdata.cutouts.outcome import Rejected
from lensdata.cutouts.pace import Pace
from spark_jobs.transforms.fetching import RangeReader

CONTENT = b"SIMPLE  =                    T" + bytes(range(256)) * 40


def reader(deadline_s=30.0):
    client = PoliteClient(Coadds(backoff_s=0.01), LocalTurns(Pace(1000.0, 60.0, 600.0, 30.0, now=time.monotonic())))
    return RangeReader(client, time.monotonic() + deadline_s)


def ranged(start, stop):
    return 206, {"Content-Range": f"bytes {start}-{stop - 1}/{len(CONTENT)}"}, CONTENT[start:stop]


def test_a_page_that_says_maintenance_is_asked_past(serve):
    page = (200, {}, b"<html>back in an hour</html>")
    url, seen = serve(page, page, ranged(0, 100))
    read = reader()
    assert read(url, 0, 100) == CONTENT[:100]
    assert len(seen) == read.tally.attempts == 3


@pytest.mark.parametrize(
    ("answer", "start", "reason"),
    [
        ((200, {}, CONTENT), 0, "no_ranges"),
        ((200, {}, CONTENT), 50, "no_ranges"),
        (ranged(7, 57), 50, "wrong_range"),
        ((404, {}, b""), 0, "no_such_file"),
    ],
)
def test_other_bytes_than_those_asked_for_are_not_believed(serve, answer, start, reason):
    url, _ = serve(answer)
    with pytest.raises(Rejected, match=reason):
        reader()(url, start, start + 50)


def test_files_on_a_disk_are_read_and_counted_the_same_way(tmp_path):
    (tmp_path / "f").write_bytes(CONTENT)
    read = reader()
    assert read(str(tmp_path / "f"), 0, None) == CONTENT
    assert read(str(tmp_path / "f"), 10, 20) == CONTENT[10:20]
    assert (read.tally.attempts, read.tally.bytes) == (2, len(CONTENT) + 10)
    with pytest.raises(Rejected, match="no_such_file"):
        read(str(tmp_path / "absent"), 0, 10)


def test_no_range_is_read_after_the_deadline(tmp_path):
    (tmp_path / "f").write_bytes(CONTENT)
    with pytest.raises(Stopped):
        reader(deadline_s=-1.0)(str(tmp_path / "f"), 0, 10)
