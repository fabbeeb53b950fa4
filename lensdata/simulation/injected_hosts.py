"""Which galaxies carry an injected arc, which stay without, and which stamp is whose control (R-S10, R-P6).

All choices are keyed by galaxy: the order of the manifest's rows does not matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from scipy.spatial import cKDTree

from lensdata import tables
from lensdata.config.injection import HostCuts, InjectConfig
from lensdata.errors import InputError
from lensdata.hashing import cutout_id, second_key
from lensdata.shards.manifests import Manifest
from lensdata.shards.subsample import subsample

Ints = npt.NDArray[np.int64]

NEEDED = (
    "source_id", "kind", "type", "brickname", "psf_bin", "depth_bin", "shape_r", "axis_ratio",
    *(f"{name}_{band}" for name in ("mag", "psfsize", "psfdepth") for band in tables.BANDS),
)  # fmt: skip
"""Columns of a manifest that injection asks for, beyond those of every manifest."""
LEVELS = (("psf_bin", "depth_bin", "type"), ("psf_bin", "depth_bin"), ("psf_bin",), ())
"""What a host and its control have in common besides the split, the closest first."""
MAG_SCALE, LN_RADIUS_SCALE = 0.5, 0.3
"""Differences in r (mag) and ln(half-light radius) that count alike in matching: chosen."""
LEAST_HOSTS = 4  # of a split: one with an arc, and two without that are each other's control


def choose_hosts(manifest: Manifest, config: InjectConfig) -> tuple[Manifest, dict[str, int]]:
    """The hosts, and how many rows were dropped for which reason.

    Raises
    ------
    InputError
        A column is missing, a galaxy is in two splits, or listed twice; no host is left.
    """
    for name in NEEDED:
        if name not in manifest.table.column_names:
            raise InputError(f"Manifest {manifest.uri} has no column {name!r}, which injection needs of its hosts.")
    frame = manifest.table.select([*NEEDED, "label", "split"]).to_pandas()
    _require_one_split(frame, manifest.uri)
    reason = drop_reasons(frame, config.hosts)
    hosts = manifest.where(reason == "")
    dropped = Counter(reason[reason != ""].tolist())
    if not len(hosts):
        raise InputError(f"Manifest {manifest.uri} has no host that passes the cuts; dropped: {dict(dropped)}.")
    repeated = frame.loc[reason == "", "source_id"]
    if repeated.duplicated().any():
        raise InputError(
            f"Manifest {manifest.uri} lists host {repeated[repeated.duplicated()].iloc[0]} twice; a host has one plain stamp."
        )
    if config.max_hosts is not None and config.max_hosts < len(hosts):
        kept = subsample(hosts.table, config.max_hosts / len(hosts), config.seed, "inject-hosts")
        dropped["beyond max_hosts"] = len(hosts) - len(kept)
        hosts = replace(hosts, table=hosts.table.take(pa.array(kept)))
    return hosts, dict(sorted(dropped.items()))


def drop_reasons(rows: pd.DataFrame, cuts: HostCuts) -> npt.NDArray[np.str_]:
    """Why each row is no host, the first reason that holds; empty for hosts.

    >>> row = {name: 1.0 for name in NEEDED} | {"kind": "plain", "type": "REX", "brickname": "0000p000", "label": 0}
    >>> [str(reason) for reason in drop_reasons(pd.DataFrame([row]), HostCuts())]
    ['type']
    """
    mags, sizes, depths = (
        rows[[f"{name}_{band}" for band in tables.BANDS]].to_numpy(np.float64)
        for name in ("mag", "psfsize", "psfdepth")
    )
    bright, faint = cuts.mag_r
    checks = {
        "label 1": rows["label"] != 0,
        "kind": rows["kind"] != "plain",
        "excluded brick": rows["brickname"].isin(cuts.excluded_bricks),
        "type": ~rows["type"].isin(cuts.types),
        "magnitude": ~(np.isfinite(mags).all(1) & (mags[:, 1] >= bright) & (mags[:, 1] <= faint)),
        "colour": np.zeros(len(rows), bool) if cuts.gr_min is None else ~(mags[:, 0] - mags[:, 1] >= cuts.gr_min),
        "no psfsize": ~(np.isfinite(sizes) & (sizes > 0)).all(1),
        "no psfdepth": ~(np.isfinite(depths) & (depths > 0)).all(1),
    }
    return np.asarray(np.select([np.asarray(check) for check in checks.values()], list(checks), ""), dtype=np.str_)


def share_hosts(hosts: Manifest, config: InjectConfig, dropped: Mapping[str, int]) -> npt.NDArray[np.bool_]:
    """Which hosts get an arc: a share of every split, spread over its PSF and depth bins to within a row or so.

    Parameters
    ----------
    dropped
        Rows that are no hosts, by reason: where a limit took them, it is named as the cause of too few.

    Raises
    ------
    InputError
        A split has too few hosts.
    """
    injected = np.zeros(len(hosts), bool)
    injected[subsample(hosts.table, config.injected_fraction, config.seed, "inject")] = True
    split = hosts.column("split").astype(str)
    limits = [name for name in ("--test-limit", "max_hosts") if dropped.get(f"beyond {name}")]
    remedy = f"raise {' or '.join(limits)}" if limits else "widen hosts.types and hosts.mag_r"
    for name in np.unique(split).tolist():
        inside = split == name
        if inside.sum() < LEAST_HOSTS or (inside & ~injected).sum() < 2:
            raise InputError(
                f"Manifest {hosts.uri} leaves {inside.sum()} hosts in split {name!r}, {(inside & ~injected).sum()} of them without "
                f"an arc; {LEAST_HOSTS} and 2 are needed: {remedy}, or lower injected_fraction."
            )
    return injected


def match_controls(rows: pd.DataFrame) -> tuple[Ints, Ints]:
    """For every host another one as like it as there is, of the same split.

    Parameters
    ----------
    rows
        ``source_id, split, psf_bin, depth_bin, type, mag_r, shape_r`` of hosts without an arc, two per split at least.

    Returns
    -------
    tuple
        Position of each row's control; and the place in `LEVELS` of what they have in common.
    """
    ordered = rows.reset_index(drop=True).sort_values("source_id")  # ties go to the smaller key, whatever the order
    radius = np.log(np.maximum(ordered["shape_r"].fillna(0.1).to_numpy(np.float64), 0.05))
    points = np.stack([ordered["mag_r"].to_numpy(np.float64) / MAG_SCALE, radius / LN_RADIUS_SCALE], 1)
    place = ordered.index.to_numpy()
    control, level = np.full(len(rows), -1, np.int64), np.full(len(rows), -1, np.int64)
    for number, names in enumerate(LEVELS):
        for members in ordered.reset_index().groupby(["split", *names], dropna=False).indices.values():
            open_ = members[control[place[members]] < 0]
            if len(members) < 2 or not len(open_):
                continue
            _, near = cKDTree(points[members]).query(points[open_], k=2)
            found = members[near]
            chosen = np.where(found[:, 0] == open_, found[:, 1], found[:, 0])
            control[place[open_]], level[place[open_]] = place[chosen], number
    return control, level


def unpaired_rows(hosts: pd.DataFrame, injected: npt.NDArray[np.bool_], seed: int) -> pd.DataFrame:
    """Every injected host twice: with its arc (label 1) and without (label 0), in seeded random order.

    The columns of the hosts, and ``_host``, the position of the stamp's host.
    """
    base = hosts.assign(_host=np.arange(len(hosts)))[injected]
    pieces = [_keyed(base, "injection", 1), _keyed(base, "control", 0)]
    return _in_random_order(pd.concat(pieces, ignore_index=True), seed, "unpaired")


def paired_rows(hosts: pd.DataFrame, injected: npt.NDArray[np.bool_], config: InjectConfig) -> pd.DataFrame:
    """Stamps with controls: arcs with their own host (label 1), other hosts with a host like them (label 0).

    Beside ``_host`` there are ``_control``, the position of the control's host, ``control_source_id``, and ``control_match``:
    own, identical, or what the two hosts have in common.
    """
    everything = hosts.assign(_host=np.arange(len(hosts)))
    arcs, plain = _keyed(everything[injected], "injection", 1), _keyed(everything[~injected], "plain", 0)
    control, level = match_controls(plain)
    names = np.array([" ".join(("split", *common)) for common in LEVELS])
    arcs = arcs.assign(_control=arcs["_host"], control_match="own")
    matched = plain.assign(_control=plain["_host"].to_numpy()[control], control_match=names[level])
    pieces = [arcs, matched]
    if config.paired_negatives == "matched_and_identical":
        pieces.append(_keyed(plain, "control", 0).assign(_control=plain["_host"].to_numpy(), control_match="identical"))
    rows = pd.concat(pieces, ignore_index=True)
    rows["control_source_id"] = hosts["source_id"].to_numpy()[rows["_control"]]
    return _in_random_order(rows, config.seed, "paired")


def _keyed(rows: pd.DataFrame, kind: str, label: int) -> pd.DataFrame:
    keys = cutout_id(rows["source_id"].to_numpy(np.int64), kind)
    return rows.assign(cutout_id=keys, kind=kind, label=np.int8(label), sample_weight=np.float32(1)).reset_index(
        drop=True
    )


def _in_random_order(rows: pd.DataFrame, seed: int, purpose: str) -> pd.DataFrame:
    order = np.argsort(second_key(rows["cutout_id"].to_numpy(np.int64), seed, f"inject-{purpose}"))
    return rows.iloc[order].reset_index(drop=True)


def _require_one_split(frame: pd.DataFrame, uri: str) -> None:
    splits = frame.groupby("source_id")["split"].nunique()
    if (splits > 1).any():
        raise InputError(
            f"Manifest {uri} has galaxy {splits.index[splits > 1][0]} in {splits.max()} splits "
            f"({(splits > 1).sum()} such galaxies); a host belongs to one split."
        )
