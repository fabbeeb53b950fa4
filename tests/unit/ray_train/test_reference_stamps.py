"""Preprocessing is locked: figures of reference stamps, one drawn by arithmetic, three of DR10 (R-P8).

A change of these figures is a change of every trained network. Where it is meant, `python
tests/unit/ray_train/test_reference_stamps.py` writes them anew (with LENSDATA_REAL_DATA set), and the commit says why.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lensdata.hashing import splitmix64
from ray_train.core.images import ImageRecipe, measure_statistics

FIGURES = Path(__file__).with_name("reference_stamps.json")
CASES = [
    ("raw_robust", None),
    ("raw_robust", 63),
    ("per_sample_robust", 64),
    ("residual", 63),
    ("lanusse", None),
    ("asinh", None),
]
PIXELS = [(0, 0), (31, 31), (31, 36), (20, 40), (62, 62)]
DR10 = ["0001m040_4091", "0001m060_2396", "0001m372_9677"]


def drawn() -> np.ndarray:
    """A round galaxy with an arc, and noise that no random generator's version can change; the bands differ."""
    rows, columns = np.indices((101, 101)) - 50
    radius = np.hypot(rows, columns)
    arc = (np.abs(radius - 9) < 1.5) & (np.arctan2(rows, columns) > 1.5)
    keys = np.arange(101 * 101 * 3, dtype=np.uint64)
    noise = (splitmix64(keys) >> np.uint64(40)).astype(np.float64).reshape(101, 101, 3) / 2**24 - 0.5
    colours = np.array([0.4, 1.0, 1.6])
    stamp = 0.05 * noise + np.exp(-radius / 5)[:, :, None] * colours + 0.1 * arc[:, :, None] * colours[::-1]
    stamp[:3, :7, 1] = 0
    stamp[5, 5, 2] = np.nan
    return stamp.astype(np.float32)


def stamps() -> dict[str, np.ndarray]:
    """Reference stamps at hand, by name."""
    found = {"drawn": drawn()}
    folder = os.environ.get("LENSDATA_REAL_DATA")
    if folder:
        for name in DR10:
            with np.load(Path(folder) / "cutouts_dr10" / f"{name}.npz") as archive:
                found[name] = archive["cutout"].astype(np.float32)
    return found


def figures(stamp: np.ndarray) -> dict[str, list[list[float]]]:
    """Per case and band: mean, spread, three quantiles, and single pixels."""
    out = {}
    for normalisation, crop in CASES:
        recipe = ImageRecipe(normalisation=normalisation, crop=crop)
        if recipe.needs_statistics:
            known = measure_statistics(recipe, [drawn()[None], np.roll(drawn(), 3, axis=2)[None]])
            recipe = ImageRecipe(normalisation=normalisation, crop=crop, statistics=known)
        ready = recipe.prepare(torch.from_numpy(stamp[None]))[0].double().numpy()
        out[f"{normalisation}/{crop}"] = [
            [
                float(v)
                for v in (band.mean(), band.std(), *np.quantile(band, [0.05, 0.5, 0.95]), *(band[p] for p in PIXELS))
            ]
            for band in ready
        ]
    return out


@pytest.mark.parametrize("name", ["drawn", *DR10])
def test_reference_stamps_keep_their_figures(name: str) -> None:
    at_hand = stamps()
    if name not in at_hand:
        pytest.skip("LENSDATA_REAL_DATA is not set")
    expected = json.loads(FIGURES.read_text())[name]
    found = figures(at_hand[name])
    assert found.keys() == expected.keys()
    for case, values in expected.items():
        np.testing.assert_allclose(found[case], values, rtol=2e-5, atol=2e-5, err_msg=case)


def test_the_figures_would_notice_a_change_of_bands_or_of_a_pixel() -> None:
    expected = json.loads(FIGURES.read_text())["drawn"]
    shifted, swapped = np.roll(drawn(), 1, axis=0), drawn()[:, :, ::-1].copy()
    for changed in (shifted, swapped):
        found = figures(changed)
        assert all(not np.allclose(found[case], values, rtol=2e-5, atol=2e-5) for case, values in expected.items())


if __name__ == "__main__":
    FIGURES.write_text(json.dumps({name: figures(stamp) for name, stamp in stamps().items()}, indent=1) + "\n")
