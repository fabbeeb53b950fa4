"""The way of injected stamps: hosts in, row group by row group, shards in random order out (R-S10)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from lensdata import steps, tables
from lensdata.config.injection import InjectConfig
from lensdata.errors import InputError
from lensdata.hashing import pixel_hash
from lensdata.shards import npz
from lensdata.shards.layout import ImageLayout, Stamps
from lensdata.shards.manifests import Manifest
from lensdata.shards.reader import StampReader, open_shard
from lensdata.shards.writer import ShardWriter
from lensdata.simulation.injected_stamps import inject
from lensdata.simulation.sky import PIXEL_SCALE
from lensdata.simulation.source_images import SourceImages

PASSED_ON = ("route", "layer", *(column.name for column in tables.QUALITY))
"""Columns of a host's stamp that its copies keep."""
WRITE_ROWS = 512  # stamps handed to the writer at a time


@dataclass(frozen=True)
class HostStamps:
    """The stamps of hosts, read row group by row group."""

    manifest: Manifest
    layout: ImageLayout

    def groups(self, wanted: npt.NDArray[np.bool_]) -> Iterator[tuple[npt.NDArray[np.int64], Stamps]]:
        """Positions of the wanted hosts of a row group, and their stamps; in the order of the shards."""
        reader = StampReader(self.layout)
        for uri, group, members in self._places(np.flatnonzero(wanted)):
            within = self.manifest.column("row")[members].astype(np.int64)
            stamps = reader.read_group(uri, group)
            if within.max() >= len(stamps):
                raise InputError(f"{uri}: row group {group} has {len(stamps)} rows; row {within.max()} was asked for.")
            yield members, stamps[within]

    def file_rows(self) -> pd.DataFrame:
        """`PASSED_ON` of every host's stamp; null where its file does not say."""
        out = pd.DataFrame({name: np.full(len(self.manifest), None, object) for name in PASSED_ON})
        for uri, group, members in self._places(np.arange(len(self.manifest))):
            if npz.is_npz(uri):
                continue
            shard = open_shard(uri)
            names = [name for name in PASSED_ON if name in shard.file.schema_arrow.names]
            rows = shard.read_rows(group, names).to_pandas().iloc[self.manifest.column("row")[members].astype(np.int64)]
            for name in names:
                out.loc[members, name] = rows[name].to_numpy(object)
        return out

    def _places(self, positions: npt.NDArray[np.int64]) -> Iterator[tuple[str, int, npt.NDArray[np.int64]]]:
        places = pd.DataFrame({"uri": self.manifest.shard_uris(), "group": self.manifest.column("row_group")})
        for (uri, group), members in places.iloc[positions].groupby(["uri", "group"]).groups.items():
            yield str(uri), int(group), np.asarray(members, np.int64)


def write_stamps(
    folder: str,
    rows: pd.DataFrame,
    source: HostStamps,
    hosts: pd.DataFrame,
    config: InjectConfig,
    pictures: SourceImages | None = None,
) -> tuple[pa.Table, list[str], pd.DataFrame]:
    """Write the stamps of `unpaired_rows` or `paired_rows` as shards, in the order of the rows.

    The hosts are read in the order of their own shards, and a scratch file on disk brings the stamps into the order of the
    rows; where it may not hold all of them, the hosts are read once per part.

    Returns
    -------
    tuple
        Where each stamp went; the hash of its pixels; and a row of `tables.INJECTIONS` per arc.
    """
    layout = layout_of_set(source.layout, paired="_control" in rows)
    window = max(config.row_group_stamps, int(config.execution.scratch_gb * 1e9) // layout.nbytes)
    passed_on, hashes, records = source.file_rows(), [], []
    with (
        tempfile.TemporaryDirectory(prefix="lensdata-inject-") as scratch,
        ShardWriter(folder, layout, group_rows=config.row_group_stamps) as writer,
    ):
        for start in range(0, len(rows), window):
            part = rows.iloc[start : start + window]
            shape = (len(part), *layout.shape)
            canvas = np.memmap(Path(scratch) / "stamps", layout.dtype, "w+", shape=shape)
            records += _fill(canvas, part, source, hosts, config, pictures)
            for begin in range(0, len(part), WRITE_ROWS):
                stamps = np.array(canvas[begin : begin + WRITE_ROWS])
                digests = [pixel_hash(stamp) for stamp in stamps]
                writer.add(_file_rows(part.iloc[begin : begin + WRITE_ROWS], passed_on, digests, layout), stamps)
                hashes += digests
            del canvas
            steps.progress(start + len(part), len(rows), "stamps")
    return writer.locations, hashes, pd.concat(records, ignore_index=True)


def layout_of_set(hosts: ImageLayout, *, paired: bool) -> ImageLayout:
    """The layout of the written stamps: that of the hosts, with the controls' planes behind if paired."""
    if not paired:
        return hosts
    height, width, planes = hosts.shape
    bands = (*hosts.bands, *(f"{band}_ctrl" for band in hosts.bands))
    return ImageLayout(
        shape=(height, width, 2 * planes),
        dtype=hosts.dtype,
        bands=bands,
        unit=hosts.unit,
        pixscale_arcsec=hosts.pixscale_arcsec,
    )


@dataclass(frozen=True)
class _Asked:
    """Which rows want the stamp of a host; found without going through all rows for every row group."""

    rows: npt.NDArray[np.int64]
    hosts: npt.NDArray[np.int64]

    @classmethod
    def by(cls, rows: npt.NDArray[np.int64], hosts: npt.NDArray[np.int64]) -> _Asked:
        """``rows`` want the stamps of ``hosts``, one each."""
        order = np.argsort(hosts, kind="stable")
        return cls(rows[order], hosts[order])

    def of(self, members: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The rows that want a stamp of these hosts, and which of the hosts each wants."""
        first, last = (np.searchsorted(self.hosts, members, side) for side in ("left", "right"))
        counts = last - first
        which = np.repeat(np.arange(len(members)), counts)
        places = np.arange(len(which)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
        return self.rows[places], which


def _fill(
    canvas: npt.NDArray[Any],
    part: pd.DataFrame,
    source: HostStamps,
    hosts: pd.DataFrame,
    config: InjectConfig,
    pictures: SourceImages | None,
) -> list[pd.DataFrame]:
    """Put the stamps of these rows, and their controls, in their places."""
    planes, records = len(source.layout.bands), []
    pixscale = float(source.layout.pixscale_arcsec or PIXEL_SCALE)
    host, rows, lens = part["_host"].to_numpy(np.int64), np.arange(len(part)), part["label"].to_numpy() == 1
    with_arc, without = _Asked.by(rows[lens], host[lens]), _Asked.by(rows[~lens], host[~lens])
    control = part["_control"].to_numpy(np.int64) if "_control" in part else np.zeros(0, np.int64)
    behind = _Asked.by(rows[: len(control)], control)
    wanted = np.zeros(len(hosts), bool)
    wanted[host], wanted[control] = True, True
    for members, stamps in source.groups(wanted):
        places, which = with_arc.of(members)
        if len(which):
            drawn, record = inject(stamps[which], hosts.iloc[members[which]], config, pixscale, pictures)
            canvas[places, ..., :planes] = drawn
            records.append(record)
        for asked, offset in ((without, 0), (behind, planes)):
            places, which = asked.of(members)
            if len(which):
                canvas[places, ..., offset : offset + planes] = stamps[which]
    return records


def _file_rows(part: pd.DataFrame, passed_on: pd.DataFrame, hashes: list[str], layout: ImageLayout) -> pa.Table:
    """What a shard says of its stamps: the same of either label, so not the kind, which the manifest knows."""
    host = part["_host"].to_numpy(np.int64)
    columns: dict[str, Any] = {name: pa.array(part[name].to_numpy(np.int64)) for name in ("cutout_id", "source_id")}
    for name in ("route", "layer"):
        columns[name] = pa.array(passed_on[name].to_numpy()[host].tolist(), pa.string())
    columns["bands"] = pa.array(
        [" ".join(layout.bands) if len(layout.bands) > 3 else "".join(layout.bands)] * len(part)
    )
    columns["pixel_hash"] = pa.array(hashes, pa.string())
    for column in tables.QUALITY:
        columns[column.name] = pa.array(passed_on[column.name].to_numpy()[host].tolist(), column.type, from_pandas=True)
    return pa.table(columns)
