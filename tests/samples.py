"""A sample of positives and negatives made from random numbers alone, for what reads a finished sample."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lensdata import tables
from lensdata.catalogue.confusers import CATEGORIES
from lensdata.catalogue.strata import STRATA
from lensdata.sky import splits
from lensdata.sky.healpix import ang2pix


def random_sample(positives: int, negatives: int, seed: int = 0) -> pd.DataFrame:
    """Objects over 20 x 10 degrees, label and everything else independent; the columns of the sample."""
    rng = np.random.default_rng(seed)
    count = positives + negatives
    label = np.r_[np.ones(positives, np.int8), np.zeros(negatives, np.int8)]
    ra, dec = rng.uniform(350, 370, count) % 360, rng.uniform(-12, -2, count)
    pixel = ang2pix(ra, dec)
    n2 = (label == 0) & (rng.random(count) < 0.15)
    stratum = rng.choice(STRATA, count)
    columns = {
        "label": label, "source_id": rng.choice(2**50, count, replace=False), "ra": ra, "dec": dec, "healpix_128": pixel,
        "split": splits.assign_splits(pixel), "fold": splits.assign_folds(pixel), "stratum": stratum,
        "type": [name.split("/")[0] for name in stratum], "nobs_z_bin": [name.split("/")[1] for name in stratum],
        "pool": np.where(label == 1, None, np.where(n2, "N2", "N1")),
        "confuser": np.where(n2, rng.choice(CATEGORIES, count), None), "tier": np.where(label == 1, "B", None),
        "brickname": "0000m050", "sersic": rng.uniform(0.5, 6, count), "shape_r": rng.uniform(0.3, 3, count),
        "ellipticity": rng.uniform(0, 0.8, count), "ebv": rng.uniform(0, 0.1, count), "gr": rng.normal(1, 0.3, count),
        "rz": rng.normal(0.7, 0.2, count),
    }  # fmt: skip
    for band in tables.BANDS:
        columns[f"mag_{band}"] = rng.uniform(18, 21, count)
        columns[f"nobs_{band}"] = rng.integers(3, 15, count)
        columns[f"psfsize_{band}"] = rng.uniform(0.9, 1.8, count)
        columns[f"psfdepth_{band}"] = rng.uniform(200, 3000, count)
        columns[f"galdepth_{band}"] = rng.uniform(100, 2000, count)
    frame = pd.DataFrame(columns)
    frame["group_id"] = frame["source_id"]
    return frame.reindex(columns=tables.SAMPLE.names)
