"""Which stamp goes to which row of which shard, and the manifests over them (R-S7)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from lensdata.config.cutouts import BuildManifestsConfig
from lensdata.hashing import cutout_id, second_key

MANIFESTS = ("parity_70_30", "audit_70_15_15")


def place_stamps(ledger: pd.DataFrame, config: BuildManifestsConfig, stamp_bytes: int) -> pd.DataFrame:
    """Position of every stored stamp in a seeded random order.

    Parameters
    ----------
    ledger
        ``cutout_id, outcome`` of all requests.
    stamp_bytes
        Bytes of one stamp.

    Returns
    -------
    DataFrame
        ``cutout_id, shard_index, position`` (in the shard) of the stored ones, in that order.
    """
    stored = ledger.loc[ledger["outcome"] == "stored", "cutout_id"].to_numpy(np.int64)
    order = np.lexsort((stored, second_key(stored, config.seed, "shards")))
    groups = max(1, round(config.execution.shard_bytes / (stamp_bytes * config.row_group_stamps)))
    per_shard = groups * config.row_group_stamps
    place = np.arange(stored.size)
    return pd.DataFrame({"cutout_id": stored[order], "shard_index": place // per_shard, "position": place % per_shard})


def join_manifest(
    sample: pd.DataFrame, ledger: pd.DataFrame, placed: pd.DataFrame, config: BuildManifestsConfig
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sample rows with the place of their stamp, and those without one with the reason.

    Returns
    -------
    tuple
        (rows with ``shard_index, position``, dropped rows with ``reason``); together they are the sample's rows of the
        kinds that were asked for.
    """
    frame = sample.assign(cutout_id=cutout_id(sample["source_id"].to_numpy(), config.kind), kind=config.kind)
    frame = frame.merge(ledger[["cutout_id", "outcome", "reason"]], on="cutout_id", how="left", validate="one_to_one")
    frame = frame.merge(placed, on="cutout_id", how="left", validate="one_to_one")
    frame.loc[frame["outcome"].isna(), "reason"] = "not_requested"
    if config.excluded_bricks:
        frame.loc[frame["brickname"].isin(config.excluded_bricks), "reason"] = "excluded_brick"
    usable = frame["reason"].isna()
    return frame[usable].reset_index(drop=True), frame[~usable].reset_index(drop=True)


def manifest_rows(frame: pd.DataFrame, name: str, config: BuildManifestsConfig) -> pd.DataFrame:
    """The rows of one manifest: ``parity_70_30`` merges test into val and weighs all alike; ``audit_70_15_15`` weighs tiers."""
    rows = frame.copy()
    if name == "parity_70_30":
        rows["split"] = rows["split"].replace("test", "val")
        rows["sample_weight"] = np.float32(1.0)
    else:
        weights = rows["tier"].map(config.tier_weights.model_dump())
        rows["sample_weight"] = weights.where(rows["tier"].notna(), 1.0).astype(np.float32)
    return rows.sort_values(["shard_index", "position"], kind="stable")


def drop_report(dropped: pd.DataFrame) -> dict[str, Any]:
    """Dropped objects per reason, and per label and stratum."""
    cells = Counter(
        f"{'positive' if label == 1 else 'negative'} {stratum if isinstance(stratum, str) else 'outside strata'}"
        for label, stratum in zip(dropped["label"], dropped["stratum"], strict=True)
    )
    return {
        "dropped": len(dropped),
        "dropped_per_reason": dict(Counter(dropped["reason"])),
        "dropped_per_stratum": dict(sorted(cells.items())),
    }
