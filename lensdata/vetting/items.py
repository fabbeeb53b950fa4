"""What is shown: the stamps of a list with their places in the shards, and controls in seeded places among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lensdata import steps
from lensdata.errors import InputError
from lensdata.hashing import second_key
from lensdata.shards.layout import ImageLayout
from lensdata.shards.manifests import Manifest, read_manifest
from lensdata.vetting.listing import NUMBERS, read_list

CONTROLS = ("lens", "random")
_ITEM_SCHEMA = pa.schema(
    [
        ("cutout_id", pa.int64()), ("control", pa.string()), ("manifest", pa.int32()), ("shard", pa.string()),
        ("row_group", pa.int32()), ("row", pa.int32()), *((name, pa.float64()) for name in NUMBERS),
        ("label", pa.int8()), ("lens_name", pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a command line asks for.

    Attributes
    ----------
    lenses, random
        Controls to mix in: known lenses (label 1 of the manifests), and stamps of label 0.
    strict
        Refuse where the manifests have fewer controls than that; else take what there is.
    """

    listed: str
    manifests: tuple[str, ...]
    top: int | None = None
    blind: bool = True
    lenses: int = 20
    random: int = 20
    strict: bool = False
    seed: int = 0

    def identity(self) -> dict[str, Any]:
        """What a folder that is begun must agree with; content counts, not where it lies."""
        return {
            "list": steps.input_identity(self.listed),
            "manifests": [steps.input_identity(uri) for uri in self.manifests],
            "--top": self.top,
            "--blind": self.blind,
            "--controls": {"lenses": self.lenses, "random": self.random},
            "--seed": self.seed,
        }


def make_items(request: Request) -> pa.Table:
    """The stamps of the list with their places in the shards, the controls among them."""
    listed = read_list(request.listed, request.top)
    manifests = [read_manifest(uri) for uri in request.manifests]
    _check_layouts(manifests)
    known = _places(manifests)
    keys = known["cutout_id"].to_numpy()
    wanted = listed["cutout_id"].to_numpy()
    found = np.clip(np.searchsorted(keys, wanted), 0, len(keys) - 1)
    missing = wanted[keys[found] != wanted]
    if len(missing):
        raise InputError(
            f"{request.listed} lists cutout_id {missing[0]}, which is in none of the manifests {', '.join(request.manifests)} "
            f"({len(missing)} missing in all); give the manifest that has it by one more --manifest."
        )
    rows = known.take(pa.array(found)).drop_columns(["place"])
    for name in NUMBERS:  # what the list says goes before what the manifest says
        own = listed[name] if name not in rows.column_names else pc.coalesce(listed[name], rows[name])
        rows = rows.drop_columns([name]) if name in rows.column_names else rows
        rows = rows.append_column(name, own)
    rows = rows.append_column("control", pa.nulls(len(rows), pa.string()))
    rest = known.filter(pc.invert(pc.is_in(known["cutout_id"], pa.array(wanted)))).drop_columns(["place"])
    controls = _controls(rest, request)
    return _mixed(rows.select(_ITEM_SCHEMA.names).cast(_ITEM_SCHEMA), controls, request.seed)


def _places(manifests: list[Manifest]) -> pa.Table:
    """Every stamp of the manifests once, the first that has it, by key."""
    pieces = []
    for number, manifest in enumerate(manifests):
        table = manifest.table
        columns = {name: table[name] for name in ("cutout_id", "shard", "row_group", "row", "label")}
        for name, kind in (("ra", pa.float64()), ("dec", pa.float64()), ("lens_name", pa.string())):
            columns[name] = table[name].cast(kind) if name in table.column_names else pa.nulls(len(table), kind)
        columns["manifest"] = pa.array(np.full(len(table), number, np.int32))
        pieces.append(pa.table(columns).cast(_place_schema()))
    merged = pa.concat_tables(pieces)
    merged = merged.append_column("place", pa.array(np.arange(len(merged))))
    merged = merged.sort_by([("cutout_id", "ascending"), ("place", "ascending")])
    keys = merged["cutout_id"].to_numpy()
    return merged.filter(pa.array(np.r_[True, keys[1:] != keys[:-1]]))


def _place_schema() -> pa.Schema:
    names = ["cutout_id", "shard", "row_group", "row", "label", "ra", "dec", "lens_name", "manifest"]
    return pa.schema([_ITEM_SCHEMA.field(name) for name in names])


def _controls(rest: pa.Table, request: Request) -> pa.Table:
    """The controls: of each sort the stamps with the smallest keys of this seed, whatever the order of the manifests."""
    chosen = []
    for sort, label, count in (("lens", 1, request.lenses), ("random", 0, request.random)):
        those = rest.filter(pc.equal(rest["label"], label))
        if request.strict and len(those) < count:
            raise InputError(
                f"--controls asks for {count} of {'lenses' if sort == 'lens' else 'random'}, and the manifests have {len(those)} "
                f"stamps of label {label} that are not in the list; ask for fewer, or give one more --manifest."
            )
        order = np.argsort(second_key(those["cutout_id"].to_numpy(), request.seed, f"vetting control {sort}"))[:count]
        those = those.take(pa.array(order))
        those = those.append_column("control", pa.array([sort] * len(those), pa.string()))
        for name in NUMBERS:
            if name not in those.column_names:
                those = those.append_column(name, pa.nulls(len(those), pa.float64()))
        chosen.append(those.select(_ITEM_SCHEMA.names).cast(_ITEM_SCHEMA))
    return pa.concat_tables(chosen)


def _mixed(rows: pa.Table, controls: pa.Table, seed: int) -> pa.Table:
    """The controls at seeded places of the list, one in each of as many equal stretches."""
    count = len(controls)
    keys = second_key(controls["cutout_id"].to_numpy(), seed, "vetting mix")
    rank = np.argsort(np.argsort(keys))
    within = np.random.default_rng([seed, count]).random(count)
    before = (rank + within) / max(count, 1) * len(rows) - 0.5
    order = np.argsort(np.r_[np.arange(len(rows)), before], kind="stable")
    return pa.concat_tables([rows, controls]).take(pa.array(order)).combine_chunks()


def _check_layouts(manifests: list[Manifest]) -> None:
    layouts = [manifest.layout() for manifest in manifests]
    for manifest, layout in zip(manifests, layouts, strict=True):
        if _look(layout) != _look(layouts[0]):
            raise InputError(
                f"The stamps of {manifest.uri} and {manifests[0].uri} differ in size, bands, unit or pixel scale, by which a "
                "grader would know where one comes from; look at them in two folders."
            )


def _look(layout: ImageLayout) -> tuple[Any, ...]:
    return layout.shape, layout.bands, layout.unit, layout.pixscale_arcsec
