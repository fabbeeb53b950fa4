"""Manifests made from other manifests: the pixels stay where they are, the new one names the same shards."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.parquet as pq

from lensdata import storage, tables
from lensdata.shards.manifests import resolve


def renamed(rows: pa.Table, uri: str, folder: str) -> pa.Table:
    """The rows of manifest ``uri`` with their shards named as a manifest in ``folder`` names them."""
    names = rows["shard"].to_pylist()
    moved = {name: _address(resolve(uri, name), folder) for name in set(names)}
    index = rows.schema.get_field_index("shard")
    return rows.set_column(index, rows.schema.field(index), pa.array([moved[name] for name in names], pa.string()))


def write_manifest(rows: pa.Table, folder: str, *of: str) -> tuple[int, str]:
    """Write rows as a manifest, with all columns they have, also those that not every manifest has.

    Parameters
    ----------
    of
        Identities of what the rows refer to: the manifests they are taken from.

    Returns
    -------
    tuple
        Rows, and the identity, which covers the rows and ``of``.
    """
    storage.make_folder(storage.join(folder, "dataset"))
    filesystem, path = storage.filesystem(storage.join(folder, "dataset", "part-00000.parquet"))
    pq.write_table(rows, path, filesystem=filesystem)
    names = [name for name in rows.column_names if name != "shard"]  # an address is no content
    count, _ = tables.finish_table(folder, tables.MANIFEST, identity=names)
    return count, tables.add_to_content(folder, *of)


def _address(shard: str, folder: str) -> str:
    """A shard as a manifest in ``folder`` names it: relative on disk, so that both can be moved together; whole on S3."""
    if "://" in shard or "://" in folder:
        return shard
    return os.path.relpath(shard, folder)
