"""The first step of a cluster: versions, golden pixels and splits on every executor (R-I1)."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import Latitude, Longitude
from cdshealpix.nested import lonlat_to_healpix

from lensdata.steps import JobFailed
from spark_jobs import preflight


def test_the_golden_values_agree_with_another_implementation_and_with_sha256_by_hand():
    for (ra, dec), pixel, split in preflight.GOLDEN:
        assert int(lonlat_to_healpix(Longitude(ra * u.deg), Latitude(dec * u.deg), depth=7)[0]) == pixel
        share = int.from_bytes(hashlib.sha256(f"{pixel}_42".encode()).digest()[:4], "big") / 2**32
        assert split == ("train" if share < 0.70 else "val" if share < 0.85 else "test")
    assert {split for _, _, split in preflight.GOLDEN} == {"train", "val", "test"}


def test_every_task_reports_its_versions_and_the_step_says_so(spark, tmp_path, capsys):
    out = tmp_path / "out"
    assert preflight.main(["--output", str(out), "packages=[numpy, healpy, lensdata]", "tasks=4"]) == 0
    shown = capsys.readouterr().out
    assert f"preflight numpy {np.__version__}" in shown
    assert "golden pixels and splits agree" in shown
    assert len(json.loads((out / "executors.json").read_text())) == 4


def test_a_package_that_is_missing_on_the_executors_fails_the_step(spark, tmp_path, capsys):
    assert preflight.main(["--output", str(tmp_path / "out"), "packages=[numpy, not_there_at_all]", "tasks=1"]) == 1
    assert "not_there_at_all does not import" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["pixels", "splits", "versions"])
def test_a_machine_that_differs_is_named_and_nothing_falls_back(key):
    good = next(preflight.examine(("numpy",), ()))
    other = {**good, "host": "ip-10-0-0-7", key: [0] if key != "versions" else {"numpy": "1.26"}}
    preflight.refuse_differences([good, good])
    with pytest.raises(JobFailed, match=f"ip-10-0-0-7 has {key}"):
        preflight.refuse_differences([good, other])
