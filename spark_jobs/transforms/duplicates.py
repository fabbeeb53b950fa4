"""Noise hashes of stored stamps, on the executors: 450,000 stamps are 55 GB."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import SparkSession

from lensdata import tables
from lensdata.cutouts.duplicates import MIN_SIDE, near_duplicates, noise_hash
from lensdata.errors import InputError
from lensdata.shards.reader import open_shard, read_layout


def hashes_of_file(uri: str) -> Iterator[tuple[int, bytes]]:
    """(cutout_id, noise hash) of every stamp of a part."""
    shard = open_shard(uri)
    for group in range(shard.num_row_groups):
        keys = shard.read_rows(group, ["cutout_id"])["cutout_id"].to_pylist()
        for key, value in zip(keys, noise_hash(shard.read_group(group)), strict=True):
            yield key, value.tobytes()


def search_near_duplicates(spark: SparkSession, parts: str, stamps: pd.DataFrame, max_bits: int) -> dict[str, Any]:
    """`near_duplicates` of the stamps whose pixels lie in ``parts``; ``searched`` false where they are too small for it.

    Raises
    ------
    InputError
        A stamp is not in the parts.
    """
    files = tables.dataset_files(parts) if len(stamps) else []
    _refuse_absent(~stamps["part"].isin([uri.rsplit("/", 1)[-1] for uri in files]), parts)
    side = min(read_layout(files[0]).shape[:2]) if files else 0
    if side < MIN_SIDE:
        return {"searched": False, "reason": f"stamps of {side} pixels have too little sky" if files else "no stamps"}
    slices = min(len(files), 4 * spark.sparkContext.defaultParallelism)
    found = dict(spark.sparkContext.parallelize(files, slices).flatMap(hashes_of_file).collect())
    _refuse_absent(~stamps["cutout_id"].isin(list(found)), parts)
    hashes = np.frombuffer(b"".join(found[key] for key in stamps["cutout_id"]), np.uint8).reshape(len(stamps), -1)
    return near_duplicates(stamps, hashes, max_bits)


def _refuse_absent(absent: pd.Series, parts: str) -> None:
    if absent.any():
        raise InputError(
            f"{int(absent.sum()):,} stamps of the ledger are not in {parts}/, which lacks files or rows: fetch them again."
        )
