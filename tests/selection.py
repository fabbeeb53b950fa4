"""A set of galaxies, half of them with arcs, a run trained on it, and the settings of a small selection function."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ray_train import train
from tests import planted

STAMPS = 720
TRAINING = (
    "images.crop=41", "model.arch=shielded_resnet", "model.preset=h21", "epochs=4", "batch.micro_batch=32",
    "batch.accumulation=1", "schedule.name=constant", "optimizer.lr=0.001", "execution.runtime=local", "execution.threads=1",
    "precision=fp32", "trackers.tensorboard=false",
)  # fmt: skip
SMALL = (
    "grid.theta_e_arcsec=[0.75,1.5,2.5]", "grid.arc_snr=[10,30,100]", "grid.per_cell=40", "grid.per_host=30",
    "fpr_levels=[0.1,0.02,0.0001]", "resamples=60", "execution.threads=1", "execution.device=cpu", "oversampling=2",
    "hosts.gr_min=null",
)  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """A manifest and a run."""

    manifest: str
    run: str

    def words(self, output: Path, *more: str) -> list[str]:
        """The command line of a small selection function."""
        return ["--output", str(output), f"inputs.manifest={self.manifest}", f"inputs.run={self.run}", *SMALL, *more]


def trained_on(place: Path, **columns: object) -> Trained:
    """Train a small network for a few epochs; columns replace those of the catalogue."""
    found = planted.clean_set(STAMPS, seed=5, size=63, arc_share=0.06)
    random = np.random.default_rng(6)
    catalogue = {
        "source_id": np.arange(STAMPS, dtype=np.int64), "brickname": "0001p000",
        "split": np.array(["train", "val", "test"])[np.searchsorted([0.5, 0.7], random.random(STAMPS))],
        "psf_bin": np.searchsorted([1.4], found.rows["psfsize_r"]).astype(np.int8) + 1, "depth_bin": np.full(STAMPS, 2, np.int8),
        "healpix_128": np.arange(STAMPS, dtype=np.int64) // 3, "nobs_z_bin": random.choice(["3-5", "6-10"], STAMPS),
    }  # fmt: skip
    manifest, run = planted.write_manifest(str(place / "set"), found, **(catalogue | columns)), str(place / "run")
    assert train.main(["--output", run, f"inputs.manifest={manifest}", *TRAINING]) == 0
    return Trained(manifest, run)
