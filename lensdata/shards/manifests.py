"""Reading a manifest: which stamps, where they are, their labels and splits (R-S7)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lensdata import storage, tables
from lensdata.errors import InputError
from lensdata.shards.layout import ImageLayout, Stamps
from lensdata.shards.reader import read_layout, read_stamps

SPLITS = ("train", "val", "test")
REQUIRED = ("cutout_id", "shard", "row_group", "row", "label", "split")


@dataclass(frozen=True)
class Manifest:
    """A manifest in memory.

    Attributes
    ----------
    uri
        Its folder; relative shard paths start from it.
    table
        Rows sorted by (shard, row_group, row), so that the order of the files does not matter.
    """

    uri: str
    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def column(self, name: str) -> npt.NDArray[np.generic]:
        """A column as numpy."""
        return np.asarray(self.table[name].to_numpy(zero_copy_only=False))

    def where(self, mask: npt.NDArray[np.bool_]) -> Manifest:
        """The rows of a mask."""
        return replace(self, table=self.table.filter(pa.array(mask)))

    def split(self, name: str) -> Manifest:
        """The rows of one split."""
        return replace(self, table=self.table.filter(pc.equal(self.table["split"], name)))

    def head(self, limit: int) -> Manifest:
        """About `limit` rows, spread evenly over splits and labels so that each keeps its share (`--test-limit`)."""
        if limit >= len(self):
            return self
        keys = [f"{split}/{label}" for split, label in zip(self.column("split"), self.column("label"), strict=True)]
        order = np.argsort(np.asarray(keys), kind="stable")
        chosen = np.sort(order[np.linspace(0, len(order) - 1, limit).astype(np.int64)])
        return replace(self, table=self.table.take(pa.array(chosen)))

    def shard_uris(self) -> list[str]:
        """The full address of every row's shard."""
        resolved = {name: resolve(self.uri, name) for name in pc.unique(self.table["shard"]).to_pylist()}
        return [resolved[name] for name in self.table["shard"].to_pylist()]

    def layout(self) -> ImageLayout:
        """Shape, type, bands and unit of the stamps, from the first shard."""
        return read_layout(resolve(self.uri, self.table["shard"][0].as_py()))

    def stamps(self, cutout_ids: Sequence[int] | None = None) -> Stamps:
        """The stamps of all rows, or of the given ones in the order asked: (n, H, W, C), in nanomaggies unless the layout differs.

        Raises
        ------
        InputError
            A key that the manifest does not have.
        """
        if cutout_ids is not None:
            return self.take_ids([int(key) for key in cutout_ids]).stamps()
        return read_stamps(self.shard_uris(), self.column("row_group"), self.column("row"))

    def take_ids(self, cutout_ids: Sequence[int]) -> Manifest:
        """The rows of the given stamps, in the order asked.

        Raises
        ------
        InputError
            A key that the manifest does not have.
        """
        place = {key: index for index, key in enumerate(self.table["cutout_id"].to_pylist())}
        missing = [key for key in cutout_ids if key not in place]
        if missing:
            raise InputError(f"Manifest {self.uri} has no cutout_id {missing[0]} ({len(missing)} missing in all).")
        return replace(self, table=self.table.take(pa.array([place[key] for key in cutout_ids], pa.int64())))


def resolve(manifest_uri: str, shard: str) -> str:
    """The address of a shard named in a manifest: relative to the manifest's folder, absolute or ``s3://``."""
    return storage.join(manifest_uri, shard)


def read_manifest(uri: str, *, allow_unfinished: bool = False) -> Manifest:
    """Read and check a manifest.

    Parameters
    ----------
    uri
        Folder with ``dataset/*.parquet``, local or ``s3://``.
    allow_unfinished
        Accept a folder without ``_SUCCESS``.

    Raises
    ------
    InputError
        The folder is missing, unfinished or empty; a column is missing; a stamp is listed twice (which would
        also put it in two splits); a value is null or outside what it may be; a shard does not exist.
    """
    table = tables.read_table(uri, check=not allow_unfinished)
    for name in REQUIRED:
        if name not in table.column_names:
            raise InputError(f"Manifest {uri} has no column {name!r}; it has {', '.join(table.column_names)}.")
        if table[name].null_count:
            raise InputError(f"Manifest {uri}: column {name!r} is null in {table[name].null_count} rows.")
    if not table.num_rows:
        raise InputError(f"Manifest {uri} has no rows.")
    if "sample_weight" not in table.column_names:
        table = table.append_column("sample_weight", pa.array(np.ones(table.num_rows, np.float32)))
    table = table.sort_by([(name, "ascending") for name in ("shard", "row_group", "row", "cutout_id")])
    manifest = Manifest(uri, table)
    _check_values(manifest)
    _check_shards(manifest)
    return manifest


def require_classes(manifest: Manifest, splits: Iterable[str], labels: Sequence[int] = (0, 1)) -> None:
    """Refuse a manifest that lacks a class in a split where it is needed.

    Raises
    ------
    InputError
        Names the manifest, the split and the label.
    """
    for split in splits:
        part = manifest.split(split).table
        if not part.num_rows:
            found = ", ".join(sorted(pc.unique(manifest.table["split"]).to_pylist()))
            raise InputError(f"Manifest {manifest.uri} has no rows in split {split!r}; it has {found}.")
        present = set(pc.unique(part["label"]).to_pylist())
        for label in labels:
            if label not in present:
                raise InputError(
                    f"Manifest {manifest.uri} has no rows of label {label} in split {split!r}, so that class cannot "
                    "be trained or judged."
                )


def _check_values(manifest: Manifest) -> None:
    table, uri = manifest.table, manifest.uri
    repeated = table.num_rows - pc.count_distinct(table["cutout_id"]).as_py()
    if repeated:
        raise InputError(f"Manifest {uri} lists {repeated} stamps more than once; a stamp belongs to one split.")
    for name, allowed in (("split", set(SPLITS)), ("label", {0, 1})):
        odd = set(pc.unique(table[name]).to_pylist()) - allowed
        if odd:
            raise InputError(f"Manifest {uri}: {name} holds {sorted(odd)[0]!r}, expected one of {sorted(allowed)}.")
    weight = manifest.column("sample_weight").astype(np.float64)
    if not np.all(np.isfinite(weight) & (weight >= 0)):
        raise InputError(f"Manifest {uri}: sample_weight must be finite and at least 0.")


def _check_shards(manifest: Manifest) -> None:
    for name in pc.unique(manifest.table["shard"]).to_pylist():
        address = resolve(manifest.uri, name)
        if not storage.exists(address):
            raise InputError(f"Manifest {manifest.uri} names shard {address}, which does not exist.")
