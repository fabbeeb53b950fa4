"""Real stamps and pictures through quality checks, shards and normalisation."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lensdata import tables
from lensdata.shards import importing
from lensdata.shards.manifests import read_manifest


@pytest.fixture
def imported(real_data, tmp_path):
    def run(folder, *settings):
        out = tmp_path / "imported"
        argv = [f"inputs.stamps={real_data / folder}", "--output", str(out), "default_label=0", *settings]
        assert importing.main(argv) == 0
        report = json.loads((out / "_report.json").read_text())
        rejected = tables.read_table(str(out / "rejected"), tables.REJECTED_STAMPS).to_pandas()
        return read_manifest(str(out / "manifest")), rejected, report

    return run


def test_dr10_stamps_come_back_bit_for_bit(real_data, imported):
    manifest, rejected, _ = imported("cutouts_dr10")
    assert rejected.empty
    originals = [np.load(path)["cutout"] for path in sorted((real_data / "cutouts_dr10").glob("*.npz"))]
    stamps = manifest.stamps()[np.argsort(manifest.column("cutout_id"))]
    assert len(originals) == 3
    for ours, original in zip(stamps, originals, strict=True):
        assert np.array_equal(ours, original)
    assert manifest.layout().bands == ("g", "r", "z")


def test_a_truncated_file_and_uncovered_bands_are_rejected_by_name(imported):
    manifest, rejected, report = imported("cutouts_decals_fits", "size=101")
    reasons = dict(zip(rejected["name"], rejected["reason"], strict=True))
    assert reasons["example_incomplete_83e22c.fits"] == "unreadable"
    assert set(rejected.loc[rejected["name"] == "example_bad_pix_09782d", "reason"]) == {
        "empty_band_g",
        "missing_pixels_g",
    }
    assert len(manifest) + len(rejected) == 13
    assert sum(report["reasons"].values()) == len(rejected) == 3


def test_bleed_trails_with_nan_are_rejected_and_other_sky_is_kept(imported):
    manifest, rejected, _ = imported("ccd_patches", "size=101")
    assert {name.split("_00")[0] for name in rejected["name"]} == {"decam_1103p239"}
    assert (rejected["missing_frac_g"] > 0.1).all()
    assert len(manifest) == 7


def test_pictures_of_other_sizes_need_a_crop(real_data, tmp_path, capsys):
    argv = [f"inputs.stamps={real_data}/cutouts_decals_fits", "--output", str(tmp_path / "o"), "default_label=0"]
    assert importing.main(argv) == 2
    assert "give size=N to crop them alike" in capsys.readouterr().err


def test_real_stamps_normalise_to_finite_values_with_the_galaxy_in_the_middle(imported):
    import torch

    from ray_train.core import images

    manifest, _, _ = imported("cutouts_dr10")
    stamps = torch.from_numpy(np.ascontiguousarray(manifest.stamps())).permute(0, 3, 1, 2)
    out = images.raw_robust(stamps)
    assert torch.isfinite(out).all()
    assert out.min() >= -10
    assert out.max() <= 10
    assert (out[:, :, 45:56, 45:56].mean(dim=(2, 3)) > out[:, :, :20, :20].mean(dim=(2, 3))).all()
