"""Judged rows as the evaluation sees them: columns of a manifest, logits of a finder that is neither perfect nor calibrated."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import expit


def scored_rows(lenses: int = 80, others: int = 1200, split: str = "test", seed: int = 0) -> pd.DataFrame:
    """Rows with every column that an audit divides by."""
    rng = np.random.default_rng(seed)
    size = lenses + others
    label = np.r_[np.ones(lenses, int), np.zeros(others, int)]
    logit = rng.normal(np.where(label == 1, 3.0, -5.0), 2.5).astype(np.float32)
    lens, pixel = label == 1, rng.integers(0, 300, size)
    confuser = np.where(rng.random(size) < 0.3, rng.choice(["ring", "merger"], size), None)
    return pd.DataFrame({
        "cutout_id": 100_000 * seed + np.arange(size), "source_id": 100_000 * seed + np.arange(size), "label": label,
        "split": split, "logit": logit, "score": expit(logit.astype(float)).astype(np.float32),
        "type": rng.choice(["SER", "DEV", "REX"], size), "nobs_z_bin": rng.choice(["3-5", "6-10", "11+"], size),
        "psf_bin": rng.integers(0, 5, size), "depth_bin": rng.integers(-1, 5, size),
        "tier": np.where(lens, rng.choice(["A", "B"], size), None), "confuser": np.where(lens, None, confuser),
        "theta_e": np.where(lens, rng.uniform(0.3, 3.0, size), np.nan),
        "arc_snr": np.where(lens, rng.integers(0, 3, size), np.nan),
        "healpix_128": pixel, "group_id": np.arange(size) - (np.arange(size) % 50 == 1),
        "brickname": rng.choice(["0001p010", "0002p010"], size),
    })  # fmt: skip
