"""A small manifest of hosts without lenses, and the injected training set made from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from lensdata.simulation import inject
from tests import planted

QUICK = ("oversampling=2", "execution.gallery_stamps=0", "row_group_stamps=32", "execution.threads=1")


def host_manifest(folder: Path, count: int = 96, size: int = 63, **columns: object) -> str:
    """Galaxies of label 0, two thirds of them DEV or SER; columns replace those of the catalogue."""
    found = planted.clean_set(count, seed=5, size=size, arc_share=0.0)
    random = np.random.default_rng(6)
    catalogue = {
        "source_id": np.arange(count, dtype=np.int64), "brickname": random.choice(["0460m800", "0001p000", "0002p000"], count),
        "psf_bin": random.integers(1, 3, count).astype(np.int8), "depth_bin": random.integers(3, 5, count).astype(np.int8),
        "healpix_128": np.arange(count, dtype=np.int64) // 2,
    }  # fmt: skip
    return planted.write_manifest(
        str(folder), replace(found, labels=np.zeros(count, np.int64)), **(catalogue | columns)
    )


def injected_set(folder: Path, *settings: str, count: int = 96, size: int = 63) -> Path:
    """Runs the step ``inject`` on such a manifest; returns its output, with ``unpaired`` and ``paired`` in it."""
    out = folder / "inject"
    code = inject.main(
        ["--output", str(out), f"inputs.manifest={host_manifest(folder / 'hosts', count, size)}", *QUICK, *settings]
    )
    assert code == 0
    return out
