"""Every table of the platform: its columns with unit and meaning, how it is checked, hashed and published.

A table is a folder: rows in ``dataset/*.parquet``, beside them ``_table.json`` (schema version, rows, content
identity, SHA-256 per file), ``_report.json`` and, last, ``_SUCCESS``. Types are those that also pass through
Spark 3.5 (signed integers, no fixed-size lists). The columns are declared in `lensdata.schemas`; all of them are names here, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lensdata import storage
from lensdata.errors import InputError
from lensdata.hashing import splitmix64, text_hash
from lensdata.schemas import catalogue, models, stamps
from lensdata.schemas.catalogue import *
from lensdata.schemas.columns import BANDS as BANDS
from lensdata.schemas.columns import Column as Column
from lensdata.schemas.columns import TableSpec as TableSpec
from lensdata.schemas.models import *
from lensdata.schemas.stamps import *

SCHEMA_VERSION = 3
READERS = 16
UInt64Array = npt.NDArray[np.uint64]


TABLES = {
    spec.name: spec
    for room in (catalogue, stamps, models)
    for spec in (getattr(room, name) for name in room.__all__)
    if isinstance(spec, TableSpec)
}


def validate(table: pa.Table, spec: TableSpec, source: str = "table") -> pa.Table:
    """Put the columns in declared order and type.

    Raises
    ------
    InputError
        A column is missing, cannot be cast, or the key repeats or is null.
    """
    for column in spec.columns:
        if column.name not in table.column_names:
            raise InputError(
                f"{source}: column {column.name!r} of table {spec.name} is missing; found {table.column_names}."
            )
    try:
        table = table.select(spec.names).cast(spec.schema)
    except pa.ArrowInvalid as error:
        raise InputError(f"{source}: a column does not have the type of table {spec.name}: {error}.") from error
    if spec.key and table.num_rows:
        key = table[spec.key]
        if key.null_count:
            raise InputError(f"{source}: key {spec.key!r} of table {spec.name} is null in {key.null_count} rows.")
        repeated = table.num_rows - pc.count_distinct(key).as_py()
        if repeated:
            raise InputError(f"{source}: key {spec.key!r} of table {spec.name} repeats in {repeated} rows.")
    return table


def content_hash(batches: Iterable[pa.Table | pa.RecordBatch]) -> tuple[int, str]:
    """Rows and an order-independent hash of them.

    Every value is hashed with its column name, a row is the sum of its values' hashes mixed once more, the table
    is the sum of its rows modulo 2^64: the order of rows, files and batches does not matter, duplicates do.

    Returns
    -------
    tuple
        (number of rows, 16 hex digits)
    """
    rows, total = 0, np.uint64(0)
    with np.errstate(over="ignore"):
        for batch in batches:
            if batch.num_rows == 0:
                continue
            row_hash = np.zeros(batch.num_rows, np.uint64)
            for name in batch.schema.names:
                seed = np.frombuffer(hashlib.blake2b(name.encode(), digest_size=8).digest(), np.uint64)[0]
                row_hash += splitmix64(_value_bits(batch[name]) ^ seed)
            total += splitmix64(row_hash).sum(dtype=np.uint64)
            rows += batch.num_rows
    return rows, f"{int(total):016x}"


def _value_bits(values: pa.ChunkedArray | pa.Array) -> UInt64Array:
    """64 bits per value that are equal for equal values; null has bits of its own."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    null = np.asarray(pc.is_null(values))
    kind = values.type
    if pa.types.is_floating(kind):
        wide = np.asarray(pc.fill_null(values, 0.0), dtype=np.float64) + 0.0  # -0.0 becomes 0.0
        bits = wide.view(np.uint64).copy()
        bits[np.isnan(wide)] = 0x7FF8000000000000
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        bits = (
            np.asarray(pc.fill_null(values, False if pa.types.is_boolean(kind) else 0))
            .astype(np.int64)
            .view(np.uint64)
            .copy()
        )
    elif (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    ):
        encoded = values.dictionary_encode()
        words = [item.as_py() for item in encoded.dictionary]
        digests = [hashlib.blake2b(w.encode() if isinstance(w, str) else w, digest_size=8).digest() for w in words]
        table = np.frombuffer(b"".join(digests), np.uint64) if digests else np.zeros(1, np.uint64)
        bits = table[np.asarray(pc.fill_null(encoded.indices, 0), dtype=np.int64)].copy()
    else:
        raise TypeError(f"content_hash: no rule for Arrow type {kind}")
    bits[null] = 0x6E756C6C
    return bits


ROW_GROUP_ROWS = 131_072


@dataclass(frozen=True)
class FileFacts:
    """What ``_table.json`` says of a file, and its share of the table's content hash."""

    name: str
    sha256: str
    rows: int
    content: int


def write_part(
    uri: str, spec: TableSpec, batches: Iterable[pa.RecordBatch], identity: list[str] | None = None
) -> FileFacts:
    """Write one Parquet file of a table; it is in its place when it is whole, or not at all.

    Units and meanings of the columns travel in the metadata of the file's Arrow schema; columns that are not the table's
    are left out.
    """
    schema = spec.schema.with_metadata({"lensdata.table": spec.name, "lensdata.meaning": spec.meaning})
    total, content = 0, 0
    with storage.new_file(uri) as path:
        with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
            for table in _row_groups(batches, spec.names):
                group = table.cast(schema)
                rows, share = content_hash([group if identity is None else group.select(identity)])
                total, content = total + rows, content + int(share, 16)
                writer.write_table(group, row_group_size=ROW_GROUP_ROWS)
        digest = storage.sha256(str(path))
    return FileFacts(uri, digest, total, content % (1 << 64))


def _row_groups(batches: Iterable[pa.RecordBatch], names: list[str]) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch.select(names))
        if sum(piece.num_rows for piece in waiting) >= ROW_GROUP_ROWS:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def add_to_content(folder: str, *others: str) -> str:
    """Let the identity of a finished table also cover what its rows refer to (the pixels of a manifest); returns it."""
    described = storage.join(folder, "_table.json")
    entry = storage.read_json(described)
    entry["content"] = text_hash("".join([entry["content"], *others]))
    storage.write_json(described, entry)
    return str(entry["content"])


def dataset_files(folder: str) -> list[str]:
    """The Parquet files of a table folder, sorted."""
    return [
        name
        for name in storage.list_files(storage.join(folder, "dataset"), ".parquet")
        if not name.rsplit("/", 1)[-1].startswith(("_", "."))
    ]


def iterate(folder: str, columns: list[str] | None = None, *, check: bool = True) -> Iterator[pa.Table]:
    """The row groups of a table, one after another, in file order.

    Raises
    ------
    InputError
        Not finished (where ``check``), a file that is no Parquet, or a column that is not there.
    """
    if check:
        require_success(folder)
    for name in dataset_files(folder):
        yield from _groups_of(name, columns)


def _groups_of(name: str, columns: list[str] | None) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(storage.open_arrow(name)) as file:
            absent = [column for column in columns or [] if column not in file.schema_arrow.names]
            if absent:
                raise InputError(
                    f"{name}: column {absent[0]!r} is missing; found {', '.join(file.schema_arrow.names)}."
                )
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{name} is not a readable Parquet file ({error}); run the step that wrote it again."
        ) from error


def read_table(
    folder: str, spec: TableSpec | None = None, columns: list[str] | None = None, *, check: bool = True
) -> pa.Table:
    """Read a whole table.

    Raises
    ------
    InputError
        The folder is no table, was not finished (no ``_SUCCESS``), or lacks a column.
    """
    if check and spec is not None:
        require_kind(folder, spec)
    if check:
        require_success(folder)
    with ThreadPoolExecutor(
        READERS
    ) as threads:  # a ledger has thousands of small files, each a few round trips to a store
        read = threads.map(lambda name: list(_groups_of(name, columns)), dataset_files(folder))
        pieces = [piece for groups in read for piece in groups]
    if not pieces:
        described = storage.join(folder, "_table.json")
        kind = storage.read_json(described).get("table") if storage.exists(described) else None
        if spec is None or kind != spec.name:  # a table of this kind without a file is one without rows
            names = storage.list_files(folder, "_table.json")
            inside = {name.removeprefix(folder).strip("/").split("/")[0] for name in names} - {"_table.json"}
            hint = f"; it holds the tables {', '.join(sorted(inside))}: name one of them" if inside else ""
            raise InputError(f"Input {folder} has no Parquet file under dataset/{hint}.")
        return spec.schema.empty_table() if columns is None else spec.schema.empty_table().select(columns)
    table = pa.concat_tables(pieces, promote_options="permissive")
    return validate(table, spec, folder) if spec is not None and columns is None else table


def require_success(folder: str) -> None:
    """Refuse a folder that is not there, was not finished, or holds a table of another schema version."""
    if storage.exists(storage.join(folder, "_SUCCESS")):
        return _require_version(folder)
    if not storage.exists(folder):
        raise InputError(f"Input {folder} does not exist; run the step that writes it first.")
    raise InputError(f"Input {folder} has no _SUCCESS mark, so the step that writes it did not finish; run it again.")


def _require_version(folder: str) -> None:
    """Columns may have another meaning in another version. Shards and other folders describe themselves."""
    described = storage.join(folder, "_table.json")
    found = storage.read_json(described) if storage.exists(described) else {}
    if found.get("table") is not None and found.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"Input {folder} is a table of {found['table']} in schema version {found.get('schema_version')}, this lensdata reads "
            f"{SCHEMA_VERSION}: run the step that wrote it again, or read it with the lensdata that wrote it."
        )


def require_kind(folder: str, spec: TableSpec) -> None:
    """Refuse a folder that is missing, was not finished, or is another table than ``spec``."""
    require_success(folder)
    described = storage.join(folder, "_table.json")
    found = storage.read_json(described).get("table") if storage.exists(described) else None
    if found is not None and found != spec.name:
        raise InputError(f"Input {folder} is a table of {found}, expected {spec.name}.")


def write_table(
    table: pa.Table,
    folder: str,
    spec: TableSpec,
    *,
    report: dict[str, Any] | None = None,
    identity: list[str] | None = None,
) -> tuple[int, str]:
    """Write a small table as one file and finish its folder; returns rows and content hash.

    ``identity``: the columns that make the content; all by default.
    """
    table = validate(table, spec, folder)
    part = write_part(storage.join(folder, "dataset", "part-00000.parquet"), spec, table.to_batches(), identity)
    return mark_finished(folder, spec, [part], report)


def finish_table(
    folder: str,
    spec: TableSpec | None = None,
    *,
    report: dict[str, Any] | None = None,
    identity: list[str] | None = None,
) -> tuple[int, str]:
    """Describe the Parquet files of a folder in ``_table.json`` and mark it ``_SUCCESS``.

    Parameters
    ----------
    identity
        Columns that make the content; all columns by default. The ledger leaves out fetch times.
    """
    files = [describe_file(identity, name) for name in dataset_files(folder)]
    return mark_finished(folder, spec, files, report)


def describe_file(identity: list[str] | None, name: str) -> FileFacts:
    """What a finished Parquet file is, by reading it; ``identity``: the columns that make the content, all by default."""
    with pq.ParquetFile(storage.open_arrow(name)) as file:
        rows, content = content_hash(file.iter_batches(columns=identity))
    return FileFacts(name, storage.sha256(name), rows, int(content, 16))


def mark_finished(
    folder: str, spec: TableSpec | None, files: list[FileFacts], report: dict[str, Any] | None = None
) -> tuple[int, str]:
    """Write ``_table.json``, ``_report.json`` and, last, ``_SUCCESS``; returns rows and content hash."""
    rows = sum(file.rows for file in files)
    content = f"{sum(file.content for file in files) % (1 << 64):016x}"
    prefix = storage.join(folder) + "/"
    entry = {
        "schema_version": SCHEMA_VERSION,
        "table": spec.name if spec else None,
        "rows": rows,
        "content": content,
        "files": {file.name.removeprefix(prefix): file.sha256 for file in sorted(files, key=lambda file: file.name)},
    }
    storage.write_json(storage.join(folder, "_table.json"), entry)
    storage.write_json(storage.join(folder, "_report.json"), report or {"rows": rows})
    storage.write_bytes(storage.join(folder, "_SUCCESS"), b"")
    return rows, content
