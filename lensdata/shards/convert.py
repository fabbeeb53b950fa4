"""From shards to NPZ per object and back (R-C3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from lensdata import storage
from lensdata.errors import InputError
from lensdata.shards import npz
from lensdata.shards.layout import ImageLayout, Stamps
from lensdata.shards.reader import open_shard
from lensdata.shards.writer import DEFAULT_GROUP_ROWS, DEFAULT_TARGET_BYTES, ShardInfo, ShardWriter

BATCH_ROWS = 256


def shard_batches(uris: Sequence[str]) -> Iterator[tuple[pa.Table, Stamps]]:
    """The row groups of shards, one after another: scalar columns and stamps (n, H, W, C)."""
    for uri in uris:
        shard = open_shard(uri)
        for group in range(shard.num_row_groups):
            yield shard.read_rows(group), shard.read_group(group)


def export_npz(uris: Sequence[str], folder: str) -> int:
    """Write every stamp of some shards as ``<folder>/<cutout_id>.npz``; returns how many."""
    count = 0
    for rows, stamps in shard_batches(uris):
        for cutout_id, stamp in zip(rows["cutout_id"].to_pylist(), stamps, strict=True):
            npz.write_stamp(storage.join(folder, f"{cutout_id}.npz"), stamp)
        count += len(stamps)
    return count


def pack_npz(
    uris: Sequence[str],
    cutout_ids: Sequence[int],
    folder: str,
    layout: ImageLayout | None = None,
    *,
    target_bytes: int = DEFAULT_TARGET_BYTES,
    group_rows: int = DEFAULT_GROUP_ROWS,
) -> list[ShardInfo]:
    """Pack NPZ objects into shards.

    Parameters
    ----------
    uris, cutout_ids
        The objects and their keys, in the order in which they shall be stored.
    layout
        What every object must hold; by default that of the first object, as survey stamps.
    target_bytes, group_rows
        As for `ShardWriter`.
    """
    if not uris or len(uris) != len(cutout_ids):
        raise InputError(f"Packing needs one key per NPZ object, found {len(uris)} objects and {len(cutout_ids)} keys.")
    layout = layout or npz.read_layout(uris[0])
    with ShardWriter(folder, layout, target_bytes=target_bytes, group_rows=group_rows) as writer:
        for start in range(0, len(uris), BATCH_ROWS):
            part = slice(start, start + BATCH_ROWS)
            stamps = np.stack([npz.read_stamp(uri, layout) for uri in uris[part]])
            writer.add(pa.table({"cutout_id": pa.array(cutout_ids[part], pa.int64())}), stamps)
    return writer.shards
