"""Folders of stamps: which files they are made of, and where a stamp lies (R-C3).

A folder is one of three kinds: that of a fetch (``ledger/``, ``parts/``), one with manifests (``shards/``, or the shards that
the manifests name), or Parquet shards alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lensdata import storage, tables
from lensdata.cutouts.outcome import STORED
from lensdata.errors import InputError
from lensdata.shards import npz
from lensdata.shards.layout import METADATA_KEY, ImageLayout, Stamps
from lensdata.shards.manifests import resolve
from lensdata.shards.reader import Shard, open_shard

Kind = Literal["fetch", "manifests", "shards"]
Ints = npt.NDArray[np.int64]

LEDGER_COLUMNS = ["cutout_id", "outcome", "reason", "part", "row", "pixel_hash"]
MAD_TO_SIGMA = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class StampFolder:
    """A folder with stamps.

    Attributes
    ----------
    uri
        Where it is, without a slash at the end.
    kind
        ``fetch``, ``manifests`` or ``shards``.
    own
        Shard files that lie in it, sorted.
    files
        All shard files with stamps of it: its own, then those that its ledger or manifests name elsewhere.
    ledger
        Lines of a fetch (`LEDGER_COLUMNS`), in the order of its files; None for the other kinds.
    manifests
        Folders of its manifests.
    unreadable
        Ledger files that cannot be read, with why, where that was asked to be tolerated.
    """

    uri: str
    kind: Kind
    own: tuple[str, ...]
    files: tuple[str, ...]
    ledger: pd.DataFrame | None = None
    manifests: tuple[str, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()

    def name_of(self, uri: str) -> str:
        """A file as the folder's user calls it: relative where it lies inside."""
        return uri.removeprefix(self.uri.rstrip("/") + "/") if uri != self.uri else uri.rsplit("/", 1)[-1]

    @cached_property
    def lines(self) -> dict[str, pd.DataFrame]:
        """Stored ledger lines per file (``cutout_id, row, pixel_hash``), by row; the files in the order of the ledger."""
        if self.ledger is None:
            return {}
        stored = self.ledger[self.ledger["outcome"] == STORED].dropna(subset=["part", "row"]).astype({"row": np.int64})
        address = {part: part_address(self.uri, part) for part in stored["part"].unique()}
        grouped = stored.groupby(stored["part"].map(address), sort=False)
        return {str(uri): lines.sort_values("row", kind="stable") for uri, lines in grouped}


@dataclass(frozen=True)
class Batch:
    """Stamps of one row group.

    Attributes
    ----------
    uri, group, layout
        File, row group, and how the file stores stamps.
    numbers
        (n,), row numbers in the file.
    rows
        Their columns without the image.
    stamps
        (n, H, W, bands).
    """

    uri: str
    group: int
    layout: ImageLayout
    numbers: Ints
    rows: pa.Table
    stamps: Stamps


@dataclass(frozen=True)
class FileSummary:
    """One line of a listing; ``bytes`` of the file."""

    file: str
    stamps: int
    row_groups: int
    bytes: int
    shape: tuple[int, int, int]
    dtype: str
    bands: tuple[str, ...]


@dataclass(frozen=True)
class BandSummary:
    """Pixels of one band in the stamp's unit: extremes and median of the finite ones, noise as 1.4826 times their MAD."""

    band: str
    minimum: float
    median: float
    maximum: float
    noise: float
    finite: float


@dataclass(frozen=True)
class FoundStamp:
    """One stamp: its place (``row`` in the row group), columns, layout and pixels (H, W, bands)."""

    file: str
    row_group: int
    row: int
    columns: dict[str, Any]
    layout: ImageLayout
    pixels: Stamps

    def bands(self) -> list[BandSummary]:
        """What its pixels are, per band."""
        return [summarise(name, self.pixels[:, :, index]) for index, name in enumerate(self.layout.bands)]


def open_folder(uri: str, *, damaged: bool = False) -> StampFolder:
    """Find out what a folder is.

    Parameters
    ----------
    uri
        Folder, or one shard file; local or ``s3://``.
    damaged
        Go on without ledger files that cannot be read.

    Raises
    ------
    InputError
        Nothing there, no stamps in it, or a ledger without the columns of one.
    """
    if not storage.exists(uri):
        raise InputError(f"Folder {uri} does not exist.")
    uri = absolute(uri)
    if storage.exists(storage.join(uri, "ledger", "dataset")):
        return _open_fetch(uri, damaged)
    known = _tables_inside(uri)
    manifests = [folder for folder, kind in known.items() if kind == tables.MANIFEST.name]
    own = [name for name in storage.list_files(uri, ".parquet") if _is_data(name) and not _inside(name, known)]
    named = {resolve(folder, name) for folder in manifests for name in _shards_of(folder)}
    if not own and not named:
        raise InputError(f"{uri} holds no Parquet shards of stamps; give a folder of fetch_cutouts or build_manifests.")
    if not manifests and not any(_may_be_shard(name) for name in own):
        raise InputError(
            f"{uri} holds {len(own)} Parquet files, but no shard of stamps ({own[0]} has no image layout)."
        )
    files = (*own, *sorted(named.difference(own)))
    return StampFolder(uri, "manifests" if manifests else "shards", tuple(own), files, None, tuple(manifests))


def absolute(uri: str) -> str:
    """A folder's address as `storage.list_files` begins those of its files: absolute, without ``..`` or a slash at the end."""
    return storage.join(uri if storage.is_s3(uri) else str(storage.local_path(uri).absolute()))


def part_address(folder: str, part: str) -> str:
    """The file of a ledger's ``part``: a name in ``parts/dataset``, a path from there, or an absolute address."""
    return storage.join(folder, "parts", "dataset", part)


def batches(folder: StampFolder, wanted: Collection[int] | None = None) -> Iterator[Batch]:
    """The folder's stamps, row group after row group; of a fetch those that its ledger calls stored.

    Parameters
    ----------
    folder
        What `open_folder` returned.
    wanted
        Keys of the stamps to read; all by default.
    """
    keys = None if wanted is None else pa.array(sorted(wanted), pa.int64())
    for uri in folder.lines if folder.kind == "fetch" else folder.files:
        shard, start = open_shard(uri), 0
        listed = None if folder.ledger is None else folder.lines[uri]["row"].to_numpy(np.int64)
        for group in range(shard.num_row_groups):
            rows = shard.read_rows(group)
            numbers = np.arange(start, start + rows.num_rows)
            start += rows.num_rows
            keep = np.ones(len(numbers), bool) if listed is None else np.isin(numbers, listed)
            if keys is not None:
                keep &= np.asarray(pc.is_in(rows["cutout_id"], keys))
            if keep.all() and len(keep):
                yield Batch(uri, group, shard.layout, numbers, rows, shard.read_group(group))
            elif keep.any():
                rows, stamps = rows.filter(pa.array(keep)), shard.read_group(group)[keep]
                yield Batch(uri, group, shard.layout, numbers[keep], rows, stamps)


def summaries(folder: StampFolder) -> list[FileSummary]:
    """One line per file."""
    return [_summary(folder, open_shard(uri)) for uri in folder.files]


def count_stamps(folder: StampFolder) -> int:
    """Stamps of the folder: stored lines of a ledger, else rows of the files."""
    if folder.ledger is not None:
        return sum(len(lines) for lines in folder.lines.values())
    return sum(open_shard(uri).num_rows for uri in folder.files)


def find_stamp(folder: StampFolder, cutout_id: int) -> FoundStamp:
    """Look for one stamp.

    Raises
    ------
    InputError
        The folder has no such stamp: says how many it has, or what became of the request.
    """
    place = _search(folder, cutout_id) if folder.ledger is None else _look_up(folder, cutout_id)
    if place is None:
        raise InputError(_not_there(folder, cutout_id))
    shard, group, row = place
    columns = {name: values[0] for name, values in shard.read_rows(group).slice(row, 1).to_pydict().items()}
    return FoundStamp(folder.name_of(shard.uri), group, row, columns, shard.layout, shard.read_group(group)[row])


def summarise(band: str, pixels: npt.NDArray[Any]) -> BandSummary:
    """Statistics of one band (H, W).

    >>> summarise("r", np.array([[0.0, 1.0], [2.0, np.nan]])).noise
    1.4826
    """
    values = pixels[np.isfinite(pixels)].astype(np.float64)
    if not values.size:
        return BandSummary(band, np.nan, np.nan, np.nan, np.nan, 0.0)
    middle = float(np.median(values))
    noise = MAD_TO_SIGMA * float(np.median(np.abs(values - middle)))
    return BandSummary(band, float(values.min()), middle, float(values.max()), noise, values.size / pixels.size)


def _open_fetch(uri: str, damaged: bool) -> StampFolder:
    pieces, unreadable = [], []
    for name in tables.dataset_files(storage.join(uri, "ledger")):
        try:
            pieces.append(_read_ledger(name))
        except InputError as error:
            if not damaged:
                raise
            unreadable.append((name, str(error)))
    if not pieces and not unreadable:
        raise InputError(f"{uri} has an empty ledger: nothing was fetched into it yet.")
    pieces = pieces or [tables.LEDGER.schema.empty_table().select(LEDGER_COLUMNS)]
    ledger = pa.concat_tables(pieces, promote_options="permissive").to_pandas()
    own = tables.dataset_files(storage.join(uri, "parts"))
    lines = StampFolder(uri, "fetch", (), (), ledger).lines
    files = (*own, *(name for name in lines if name not in set(own)))
    return StampFolder(uri, "fetch", tuple(own), files, ledger, (), tuple(unreadable))


def _read_ledger(uri: str) -> pa.Table:
    try:
        with storage.open_arrow(uri) as handle:
            file = pq.ParquetFile(handle)
            absent = [name for name in LEDGER_COLUMNS if name not in file.schema_arrow.names]
            if absent:
                raise InputError(f"{uri} has no column {absent[0]!r}, so it is no ledger of a fetch.")
            return file.read(columns=LEDGER_COLUMNS)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{uri} is not a readable Parquet file ({error}).") from error


def _tables_inside(uri: str) -> dict[str, str]:
    """Folders of tables, this one or inside it, that are of a declared kind and so hold no stamps, with that kind."""
    folders = [name.rsplit("/", 1)[0] for name in storage.list_files(uri, "/_table.json")]
    kinds = {folder: storage.read_json(storage.join(folder, "_table.json")).get("table") for folder in folders}
    return {folder: str(kind) for folder, kind in kinds.items() if kind is not None}


def _shards_of(manifest: str) -> list[str]:
    """The Parquet shards that a manifest names; NPZ objects are no shards."""
    pieces = [pc.unique(piece["shard"]) for piece in tables.iterate(manifest, ["shard"], check=False)]
    names = {name for piece in pieces for name in piece.to_pylist()}
    return [name for name in sorted(names) if not npz.is_npz(name)]


def _inside(name: str, folders: Collection[str]) -> bool:
    return any(name.startswith(folder.rstrip("/") + "/dataset/") for folder in folders)


def _is_data(name: str) -> bool:
    return not name.rsplit("/", 1)[-1].startswith(("_", "."))


def _may_be_shard(uri: str) -> bool:
    """True for a shard, and for a file that cannot be read: it may have been one."""
    try:
        return METADATA_KEY in (pq.read_schema(storage.open_arrow(uri)).metadata or {})
    except (pa.ArrowInvalid, OSError):
        return True


def _summary(folder: StampFolder, shard: Shard) -> FileSummary:
    layout = shard.layout
    return FileSummary(
        file=folder.name_of(shard.uri),
        stamps=shard.num_rows,
        row_groups=shard.num_row_groups,
        bytes=storage.size(shard.uri),
        shape=layout.shape,
        dtype=layout.dtype,
        bands=layout.bands,
    )


def _search(folder: StampFolder, cutout_id: int) -> tuple[Shard, int, int] | None:
    """Shard, row group and row of a stamp, by reading the keys of all files."""
    for shard in map(open_shard, folder.files):
        for group in range(shard.num_row_groups):
            ids = shard.read_rows(group, ["cutout_id"])["cutout_id"]
            row = pc.index(ids, pa.scalar(cutout_id, pa.int64())).as_py()
            if row >= 0:
                return shard, group, row
    return None


def _look_up(folder: StampFolder, cutout_id: int) -> tuple[Shard, int, int] | None:
    """The same by the ledger's line."""
    for uri, lines in folder.lines.items():
        rows = lines.loc[lines["cutout_id"] == cutout_id, "row"]
        if len(rows):
            shard, row = open_shard(uri), int(rows.iloc[0])
            for group in range(shard.num_row_groups):
                ids = shard.read_rows(group, ["cutout_id"])["cutout_id"]
                if row < len(ids):
                    if ids[row].as_py() != cutout_id:
                        break
                    return shard, group, row
                row -= len(ids)
            raise InputError(
                f"{folder.name_of(uri)} does not hold stamp {cutout_id} where the ledger says; run shards verify."
            )
    return None


def _not_there(folder: StampFolder, cutout_id: int) -> str:
    if folder.ledger is not None:
        line = folder.ledger[folder.ledger["cutout_id"] == cutout_id]
        if len(line):
            outcome, reason = line.iloc[0][["outcome", "reason"]]
            return f"{folder.uri} has no pixels of {cutout_id}: its ledger says {outcome} ({reason})."
    return f"{folder.uri} has no stamp {cutout_id}; it has {count_stamps(folder):,} stamps."
