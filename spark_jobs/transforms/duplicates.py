"""Noise hashes of stored stamps, on the executors: 450,000 stamps are 55 GB."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import SparkSession

from lensdata import storage
from lensdata.cutouts.duplicates import MIN_SIDE, near_duplicates, noise_hash
from lensdata.errors import InputError
from lensdata.shards.reader import open_shard, read_layout


def hashes_of_file(uri: str) -> Iterator[tuple[tuple[str, int], bytes]]:
    """Place (file, row) and noise hash of every stamp of a part."""
    shard, row = open_shard(uri), 0
    for group in range(shard.num_row_groups):
        for value in noise_hash(shard.read_group(group)):
            yield (uri, row), value.tobytes()
            row += 1


def search_near_duplicates(spark: SparkSession, cutouts: str, stamps: pd.DataFrame, max_bits: int) -> dict[str, Any]:
    """`near_duplicates` of the stamps of a fetch, those of earlier batches included; ``searched`` false if they are too small.

    Raises
    ------
    InputError
        A stamp is not where the ledger says.
    """
    uris = stamps["part"].map(lambda name: storage.join(cutouts, "parts", "dataset", name))
    files = sorted(set(uris))
    there = {uri for folder in {name.rpartition("/")[0] for name in files} for uri in storage.list_files(folder)}
    _refuse_absent(~uris.isin(list(there)), cutouts)
    side = min(read_layout(files[0]).shape[:2]) if files else 0
    if side < MIN_SIDE:
        return {"searched": False, "reason": f"stamps of {side} pixels have too little sky" if files else "no stamps"}
    slices = min(len(files), 4 * spark.sparkContext.defaultParallelism)
    found = dict(spark.sparkContext.parallelize(files, slices).flatMap(hashes_of_file).collect())
    places = list(zip(uris, stamps["row"].astype(int), strict=True))
    _refuse_absent(pd.Series([place not in found for place in places], dtype=bool), cutouts)
    hashes = np.frombuffer(b"".join(found[place] for place in places), np.uint8).reshape(len(stamps), -1)
    return near_duplicates(stamps, hashes, max_bits)


def _refuse_absent(absent: pd.Series, cutouts: str) -> None:
    if absent.any():
        raise InputError(
            f"{int(absent.sum()):,} stamps of the ledger of {cutouts} are not in its parts, which lack files or rows: "
            "fetch them again."
        )
