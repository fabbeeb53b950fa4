"""Asking the network whether injections look like real lenses: what the gate is shown (R-E7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch

from lensdata.audit import realism
from lensdata.catalogue.strata import depth_magnitude
from lensdata.config.selection import SelectionConfig
from lensdata.hashing import second_key
from lensdata.shards.manifests import Manifest
from lensdata.simulation.selection_design import Cell
from ray_train.injecting import CellPart, Injector, pixscale_of

Floats = npt.NDArray[np.float64]

MATCHED_BY = ("theta_e", "arc_snr", "mag_r", "gr", "psf", "depth")
"""Wanted of a match; a manifest of real lenses rarely knows the first two."""
SCALES = {"theta_e": 0.25, "mag_r": 0.5, "gr": 0.2, "psf": 0.15, "depth": 0.3}
"""Differences that count alike: chosen; S/N is compared by its spread."""
COMPARED = {
    "gr": "g - r of the host [mag]",
    "colour": "g - z in the arc's annulus [mag]",
    "logit": "logit",
    "psf": "FWHM in r [arcsec]",
}
ANNULUS_ARCSEC = (0.8, 3.0)  # where arcs are (`lensdata.audit.regions`)


@dataclass(frozen=True)
class Realism:
    """What the gate found.

    Attributes
    ----------
    record
        For JSON: the probe's verdict and AUC, what was matched, how distributions compare.
    samples
        Real lenses and injections by quantity, for the figure.
    """

    record: dict[str, Any]
    samples: dict[str, tuple[Floats, Floats]] = field(default_factory=dict)


def ask(
    injector: Injector, manifest: Manifest, hosts: Manifest, cells: Sequence[Cell], rows: pd.DataFrame, config: SelectionConfig,
    thresholds: dict[float, float],
) -> Realism:  # fmt: skip
    """Match injections to the real lenses of the hosts' splits, show both to the network, and ask whether they can be told apart.

    Parameters
    ----------
    manifest
        With the splits that the run used; its plain rows of label 1 are the real lenses.
    rows
        Injections, as `selection_results.injections` gives them.
    thresholds
        The logit to exceed by false-positive rate.
    """
    lenses = real_lenses(manifest, config)
    if not len(lenses):
        reason = f"the manifest has no lens of the sky in split {', '.join(config.hosts.splits)}"
        return Realism(
            _untested(config, f"Not measured: {reason}. Nobody knows how far these numbers hold for real lenses.")
        )
    known = described(lenses.table.to_pandas())
    candidates = as_drawn(rows)
    found = realism.match(known, candidates, MATCHED_BY, SCALES, per_lens=config.realism.per_lens)
    record: dict[str, Any] = {
        "lenses": len(lenses), "pairs": len(found.real), "matched_by": list(found.columns), "not_known": list(found.absent),
        "unmatched": found.unmatched,
    }  # fmt: skip
    if not len(found.real):
        return Realism(_untested(config, "Not measured: no injection is like any of the real lenses.") | record)
    ours = lenses.where(np.isin(np.arange(len(lenses)), found.real))
    real = shown(injector, torch.from_numpy(np.array(ours.stamps())), config.batch, pixscale_of(ours))
    keys = candidates["injection_id"].to_numpy(np.int64)[found.injected]
    injected = injections_shown(injector, hosts, cells, candidates.iloc[found.injected], config)
    own = known.iloc[np.unique(found.real)].reset_index(drop=True).assign(logit=real.logits, colour=real.colours)
    theirs = candidates.set_index("injection_id").loc[keys].reset_index()
    theirs = theirs.assign(colour=injected.colours)
    on_sky = "healpix_128" in own and own["healpix_128"].notna().all() and theirs["healpix_128"].notna().all()
    groups = (own["healpix_128"], theirs["healpix_128"]) if on_sky else (own["cutout_id"], theirs["source_id"])
    probe = realism.probe(real.features, injected.features, *groups, limit=config.realism.limit, seed=config.seed)
    measured = probe["measured"]
    record = _untested(config, probe["message"]) | record | {
        "auc": {name: probe[name] for name in ("low", "high")} | {"value": probe["auc"]} if measured else None,
        "verdict": probe["verdict"], "probe": probe,
        "comparisons": realism.compare(own, theirs, list(COMPARED)).replace({np.nan: None}).to_dict("records"),
        "recovered": realism.recovered(own["logit"], theirs["logit"], thresholds),
        "message": f"{probe['message']} {_how(found, len(lenses))}",
    }  # fmt: skip
    for row in record["comparisons"]:
        row["name"] = COMPARED[row["column"]]
    samples = {title: (_values(own, name), _values(theirs, name)) for name, title in COMPARED.items()}
    return Realism(record, samples)


def as_drawn(rows: pd.DataFrame) -> pd.DataFrame:
    """Injections with the quantities of `MATCHED_BY` that they were drawn with, not the nodes that they are counted at."""
    drawn = {name: rows[f"{name}_drawn"] for name in ("theta_e", "arc_snr") if f"{name}_drawn" in rows}
    return rows.assign(gr=rows["mag_g"] - rows["mag_r"], **drawn)


def real_lenses(manifest: Manifest, config: SelectionConfig) -> Manifest:
    """Lenses of the hosts' splits, at most so many, by keyed hash; arcs that somebody injected are no lenses."""
    plain = (manifest.column("label") == 1) & (manifest.column("kind").astype(str) == "plain")
    chosen = manifest.where(plain & np.isin(manifest.column("split").astype(str), config.hosts.splits))
    if len(chosen) <= config.realism.max_lenses:
        return chosen
    order = np.argsort(second_key(chosen.column("cutout_id").astype(np.int64), config.seed, "selection-lenses"))
    keep = np.sort(order[: config.realism.max_lenses])
    return Manifest(chosen.uri, chosen.table.take(pa.array(keep)))


def described(table: pd.DataFrame) -> pd.DataFrame:
    """What a manifest's rows say of the quantities of `MATCHED_BY`."""
    out = table[[name for name in ("cutout_id", "healpix_128", "theta_e", "arc_snr", "mag_r") if name in table]].copy()
    if {"mag_g", "mag_r"} <= set(table):
        out["gr"] = table["mag_g"] - table["mag_r"]
    if "psfsize_r" in table:
        out["psf"] = table["psfsize_r"]
    if "psfdepth_r" in table:
        out["depth"] = depth_magnitude(table["psfdepth_r"])
    return out


@dataclass(frozen=True)
class Shown:
    """What was seen of n stamps: features (n, k), logits (n,), and g - z in the annulus where arcs are (n,)."""

    features: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    colours: Floats


def shown(injector: Injector, stored: torch.Tensor, batch: int, pixscale_arcsec: float) -> Shown:
    """Show stamps (n, H, W, 3) to the network."""
    parts = stored.split(batch)
    on_device = [part.to(injector.scorer.device) for part in parts]
    features = np.concatenate([injector.features(part) for part in on_device])
    logits = np.concatenate([injector.logits(part) for part in on_device])
    return Shown(features, logits, annulus_colour(stored, pixscale_arcsec))


def injections_shown(
    injector: Injector, hosts: Manifest, cells: Sequence[Cell], chosen: pd.DataFrame, config: SelectionConfig
) -> Shown:
    """Make chosen injections again, which their keys allow, and show them; in the order of ``chosen``."""
    by_index = {cell.index: cell for cell in cells}
    found: dict[int, tuple[Any, Any, Any]] = {}
    for number, part in chosen.groupby("cell", sort=True):
        keys = part["injection_id"].tolist()
        stamps = [batch.with_arc for batch in injector.batches(CellPart.of(by_index[number], hosts).of_keys(keys))]
        seen = shown(injector, torch.cat(stamps).cpu(), config.batch, pixscale_of(hosts))
        found |= dict(zip(keys, zip(seen.features, seen.logits, seen.colours, strict=True), strict=True))
    ordered = [found[key] for key in chosen["injection_id"].tolist()]
    features, logits, colours = (np.stack(values) for values in zip(*ordered, strict=True))
    return Shown(features, logits, colours)


def annulus_colour(stored: torch.Tensor, pixscale_arcsec: float) -> Floats:
    """g - z of the light in the annulus where arcs are, above the outskirts' sky, mag; NaN where a band has none."""
    x = torch.nan_to_num(stored.double())
    height, width = x.shape[1:3]
    y, across = (torch.arange(length, dtype=torch.float64) - length // 2 for length in (height, width))
    radius = torch.hypot(y[:, None], across[None, :]) * pixscale_arcsec
    ring = (radius >= ANNULUS_ARCSEC[0]) & (radius < ANNULUS_ARCSEC[1])
    sky = x[:, radius > 0.8 * min(height, width) / 2 * pixscale_arcsec].median(dim=1).values
    light = (x[:, ring] - sky[:, None]).sum(dim=1).cpu().numpy()
    good = (light[:, 0] > 0) & (light[:, 2] > 0)
    ratio = np.where(good, light[:, 0], 1.0) / np.where(good, light[:, 2], 1.0)
    return np.where(good, -2.5 * np.log10(ratio), np.nan)


def _how(found: realism.Matches, lenses: int) -> str:
    names = {
        "theta_e": "Einstein radius",
        "arc_snr": "S/N of the arc",
        "mag_r": "magnitude",
        "gr": "colour",
        "psf": "seeing",
    }
    by, absent = (", ".join(names.get(name, name) for name in columns) for columns in (found.columns, found.absent))
    text = f"{len(np.unique(found.real))} of {lenses} real lenses have injections, matched by {by}"
    return f"{text}{f'; not known of both, and perhaps different: {absent}' if absent else ''}."


def _untested(config: SelectionConfig, message: str) -> dict[str, Any]:
    return {
        "verdict": "NOT MEASURED", "auc": None, "limit": config.realism.limit, "message": message, "comparisons": [],
        "recovered": [], "probe": None,
    }  # fmt: skip


def _values(rows: pd.DataFrame, name: str) -> Floats:
    return rows[name].to_numpy(np.float64) if name in rows else np.empty(0)
