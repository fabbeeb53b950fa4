"""Checks of a finished sample: strata, splits, keys (R-S8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lensdata.config.catalogue import ValidateCatalogueConfig
from lensdata.sky.healpix import ang2pix
from lensdata.sky.splits import SPLITS, assign_splits


@dataclass(frozen=True)
class Check:
    """One check: passed or not, and what was found."""

    name: str
    passed: bool
    found: str


def check_sample(sample: pd.DataFrame, config: ValidateCatalogueConfig) -> list[Check]:
    """Everything that must hold of a sample whatever its size."""
    pixel = ang2pix(sample["ra"], sample["dec"])
    wanted = assign_splits(pixel, config.seed, config.train_fraction, config.val_fraction)
    wrong_pixel = int((pixel != sample["healpix_128"]).sum())
    wrong_split = int((wanted != sample["split"]).sum())
    repeated = int(sample["source_id"].duplicated().sum())
    shared = int((sample.groupby("healpix_128")["split"].nunique() > 1).sum())
    checks = [
        Check("every source_id once", repeated == 0, f"{repeated} repeated"),
        Check("pixels are those of the positions", wrong_pixel == 0, f"{wrong_pixel} differ"),
        Check("splits are the hash of the pixel", wrong_split == 0, f"{wrong_split} differ"),
        Check("no pixel in two splits", shared == 0, f"{shared} pixels shared"),
    ]
    for label, name in ((1, "positives"), (0, "negatives")):
        present = set(sample.loc[sample["label"] == label, "split"])
        absent = [split for split in SPLITS if split not in present]
        checks.append(
            Check(f"{name} in every split", not absent, f"absent from {', '.join(absent)}" if absent else "all")
        )
    return checks


def check_strata(sample: pd.DataFrame, quotas: pd.DataFrame, config: ValidateCatalogueConfig) -> list[Check]:
    """Negatives per stratum and pool are what the quota table says, and no stratum fell short where that matters."""
    totals = quotas[quotas["confuser"].isna()]
    counted = sample[sample["label"] == 0].groupby(["stratum", "pool"]).size()
    differing = [
        f"{row.stratum} {row.pool}: {counted.get((row.stratum, row.pool), 0)} of {row.taken}"
        for row in totals.itertuples()
        if counted.get((row.stratum, row.pool), 0) != row.taken
    ]
    short = [
        f"{row.stratum} {row.pool}: {row.shortfall} of {row.wanted}" for row in totals.itertuples() if row.shortfall > 0
    ]
    return [
        Check("negatives per stratum as drawn", not differing, "; ".join(differing) or "all"),
        Check("no stratum fell short", config.allow_shortfall or not short, "; ".join(short) or "none"),
    ]


def check_manifests(
    sample: pd.DataFrame, manifests: dict[str, pd.DataFrame], config: ValidateCatalogueConfig
) -> list[Check]:
    """Manifests refer to stamps that exist, of objects of the sample, in the sample's split; excluded bricks are absent."""
    checks = []
    for name, manifest in manifests.items():
        joined = manifest.merge(
            sample[["source_id", "split", "label"]], on="source_id", how="left", suffixes=("", "_sample")
        )
        wanted = joined["split_sample"].replace("test", "val") if name == "parity_70_30" else joined["split_sample"]
        wrong = int((wanted != joined["split"]).sum() + (joined["label"] != joined["label_sample"]).sum())
        null = int(manifest[["cutout_id", "shard", "row_group", "row"]].isna().any(axis=1).sum())
        checks.append(Check(f"{name}: split and label of the sample", wrong == 0, f"{wrong} differ"))
        checks.append(Check(f"{name}: no null stamp reference", null == 0, f"{null} null"))
        bricks = sorted(set(manifest["brickname"]) & set(config.excluded_bricks))
        checks.append(Check(f"{name}: excluded bricks are absent", not bricks, ", ".join(bricks) or "none present"))
    return checks


def counts(sample: pd.DataFrame) -> dict[str, Any]:
    """Sizes for the report: per split and label, per stratum, per confuser."""
    named = sample.assign(label=np.where(sample["label"] == 1, "positive", "negative"))
    per_stratum = named.assign(stratum=named["stratum"].fillna("outside"))
    return {
        "per_split": {f"{a} {b}": int(n) for (a, b), n in named.groupby(["split", "label"]).size().items()},
        "per_stratum": {f"{a} {b}": int(n) for (a, b), n in per_stratum.groupby(["stratum", "label"]).size().items()},
        "per_confuser": {str(k): int(n) for k, n in named["confuser"].value_counts().items()},
        "per_pool": {str(k): int(n) for k, n in named["pool"].value_counts().items()},
    }
