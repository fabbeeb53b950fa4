"""A small imported data set, made once per test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lensdata.shards import importing

Import = Callable[..., str]


@pytest.fixture
def import_stamps(tmp_path: Path) -> Import:
    """Writes an NPZ of stamps and labels, runs the import job, returns the manifest's folder."""

    def run(images: np.ndarray, labels: np.ndarray, *settings: str, expect: int = 0) -> str:
        source = tmp_path / "stamps.npz"
        np.savez(source, images=images, label=labels)
        output = tmp_path / "imported"
        code = importing.main(["--output", str(output), f"inputs.stamps={source}", *settings])
        assert code == expect
        return str(output / "manifest")

    return run
