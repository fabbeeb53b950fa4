"""Many small parts of a fetch, or small shards, become few files of a size that reads well (R-C3)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lensdata import storage, tables
from lensdata.cutouts.outcome import STORED
from lensdata.errors import InputError
from lensdata.hashing import pixel_hash
from lensdata.shards.folders import Batch, StampFolder, batches
from lensdata.shards.layout import ImageLayout
from lensdata.shards.maintenance import new_folder
from lensdata.shards.reader import open_shard
from lensdata.shards.writer import DEFAULT_GROUP_ROWS, DEFAULT_TARGET_BYTES, ShardInfo, ShardWriter

IDENTITY = ("cutout_id", "request_hash", "pixel_hash")  # what makes the content of a table of stamps
LEDGER_GROUP_ROWS = 131_072
LEDGER_FILE = "part-00000-packed.parquet"  # a number and a word of its run, as fetch_cutouts names and counts them
COPIED = (
    "_config.json",
    "_table.json",
    "_plan.json",
)  # of a fetch: what it is does not change, so steps over it stay done


@dataclass(frozen=True)
class Compaction:
    """What was packed: files and bytes before, shards after."""

    stamps: int
    files_before: int
    bytes_before: int
    shards: list[ShardInfo]

    @property
    def bytes_after(self) -> int:
        """Bytes of the shards."""
        return sum(info.bytes for info in self.shards)


def compact(
    folder: StampFolder, out: str, *, target_bytes: int = DEFAULT_TARGET_BYTES, group_rows: int = DEFAULT_GROUP_ROWS
) -> Compaction:
    """Pack a folder's stamps into larger files, in the order of its ledger's files (of a fetch) or of its files.

    A fetch becomes a fetch: its ledger keeps all lines, failed ones too, and those of stored stamps name the new files; stamps
    that lay in another fetch's folder lie in this one afterwards. Columns pass through as they are. Every stamp is compared
    with its pixel_hash on the way. ``out`` is there when all of it is, ``_SUCCESS`` last.

    Parameters
    ----------
    folder
        A finished fetch, or plain shards.
    out
        Where to.
    target_bytes, group_rows
        Size of a file, all binary columns together, and stamps per row group.

    Raises
    ------
    InputError
        ``out`` is not empty; the folder is unfinished or holds manifests, whose rows would point to nothing; its files do not
        fit together; a stamp is not what its hash or its ledger line says.
    """
    if folder.kind == "manifests":
        raise InputError(
            f"{folder.uri} holds manifests that name rows of its shards; compact the fetch that they were built from."
        )
    if folder.kind == "fetch":
        tables.require_success(folder.uri)
    sources = list(folder.lines) if folder.kind == "fetch" else list(folder.files)
    if not sources:
        raise InputError(f"{folder.uri} holds no stamps: every request failed or was excluded; see its ledger.")
    first = open_shard(sources[0])
    size = target_bytes * first.layout.nbytes // _binary_bytes(first.file.schema_arrow)
    with new_folder(out) as work:
        table, prefix = (storage.join(work, "parts"), "part") if folder.kind == "fetch" else (work, "shard")
        target = storage.join(table, "dataset")
        with ShardWriter(
            target, first.layout, target_bytes=max(1, size), group_rows=group_rows, prefix=prefix
        ) as writer:
            for batch in batches(folder):
                _check(folder, batch, first.layout)
                writer.add(batch.rows, batch.stamps)
        identity = [name for name in IDENTITY if name in first.file.schema_arrow.names]
        rows, _ = tables.finish_table(table, identity=identity)
        report = Compaction(rows, len(sources), sum(map(storage.size, sources)), writer.shards)
        if folder.kind == "fetch":
            _finish_fetch(folder, work, writer.locations, group_rows, report)
    return report


def _check(folder: StampFolder, batch: Batch, layout: ImageLayout) -> None:
    """Pixels against their hash, rows against the ledger, layout against the first file's."""
    name = folder.name_of(batch.uri)
    if batch.layout != layout:
        raise InputError(
            f"{name} holds stamps of {batch.layout}, the files before it of {layout}; they do not go together."
        )
    keys = batch.rows["cutout_id"].to_pylist()
    found = [pixel_hash(stamp) for stamp in batch.stamps]
    said = [("its row", batch.rows["pixel_hash"].to_pylist())] if "pixel_hash" in batch.rows.column_names else []
    if folder.ledger is not None:
        lines = folder.lines[batch.uri].set_index("row").loc[batch.numbers]
        if len(lines) > len(keys):
            raise InputError(f"{name}: the ledger names a row twice; see lensdata shards verify.")
        wrong = np.flatnonzero(lines["cutout_id"].to_numpy() != np.array(keys, np.int64))
        if wrong.size:
            at = wrong[0]
            raise InputError(
                f"{name}: row {batch.numbers[at]} is stamp {keys[at]}, but the ledger says {lines['cutout_id'].iloc[at]}; "
                "see lensdata shards verify."
            )
        said.append(("the ledger", lines["pixel_hash"].tolist()))
    for who, hashes in said:
        for key, expected, digest in zip(keys, hashes, found, strict=True):
            if expected != digest:
                raise InputError(
                    f"{name}: the pixels of stamp {key} have the hash {digest}, but {who} says {expected}; "
                    "see lensdata shards verify."
                )


def _finish_fetch(folder: StampFolder, work: str, places: pa.Table, group_rows: int, report: Compaction) -> None:
    """The ledger with the new places, then the marks of the whole folder."""
    source = storage.join(folder.uri, "ledger")
    ledger = _with_places(
        pa.concat_tables(tables.iterate(source), promote_options="permissive"), places, group_rows, folder
    )
    name = storage.join(work, "ledger", "dataset", LEDGER_FILE)
    with storage.new_file(name) as path:
        pq.write_table(ledger, path, compression="zstd", row_group_size=LEDGER_GROUP_ROWS)
        digest = storage.sha256(str(path))
    # The identity of a ledger covers what came, not where it lies (docs/architecture.md, section 3): it stays.
    content = int(storage.read_json(storage.join(source, "_table.json"))["content"], 16)
    tables.mark_finished(
        storage.join(work, "ledger"), tables.LEDGER, [tables.FileFacts(name, digest, ledger.num_rows, content)]
    )
    for copied in COPIED:
        if storage.exists(storage.join(folder.uri, copied)):
            storage.write_bytes(storage.join(work, copied), storage.read_bytes(storage.join(folder.uri, copied)))
    described = storage.join(folder.uri, "_report.json")
    before = storage.read_json(described) if storage.exists(described) else {}
    storage.write_json(storage.join(work, "_report.json"), before | {"compacted_from": folder.uri} | asdict(report))
    storage.write_bytes(storage.join(work, "_SUCCESS"), b"")


def _with_places(ledger: pa.Table, places: pa.Table, group_rows: int, folder: StampFolder) -> pa.Table:
    """The ledger with ``part`` and ``row`` of the new files.

    Parameters
    ----------
    ledger
        All lines.
    places
        `ShardWriter.locations`; every row group but a file's last holds ``group_rows``.
    """
    row = places["row_group"].to_numpy().astype(np.int64) * group_rows + places["row"].to_numpy()
    new = pd.DataFrame({"part": places["shard"].to_pylist(), "row": row}, index=places["cutout_id"].to_numpy())
    stored = np.asarray(ledger["outcome"].to_numpy(zero_copy_only=False) == STORED)
    keys = ledger["cutout_id"].to_numpy()
    if not new.index.is_unique or set(new.index) != set(keys[stored]) or stored.sum() != len(new):
        raise InputError(
            f"{folder.uri}: its ledger has {stored.sum()} stored lines, its parts {len(new)} rows of them; "
            "see lensdata shards verify."
        )
    found = new.reindex(keys)
    part = pa.array(found["part"].where(stored, None), pa.string(), from_pandas=True)
    number = pa.array(found["row"].where(stored), pa.int32(), from_pandas=True)
    for name, values in (("part", part), ("row", number)):
        index = ledger.schema.get_field_index(name)
        ledger = ledger.set_column(index, ledger.schema.field(index), values)
    return ledger


def _binary_bytes(schema: pa.Schema) -> int:
    """Bytes of one row in its columns of fixed size, such as image, invvar and maskbits."""
    return sum(kind.byte_width for kind in schema.types if pa.types.is_fixed_size_binary(kind))
