"""What else is looked at while a network learns: shortcuts in its input, its dependence on the core, its strata (R-T9)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lensdata.audit import features, gates
from lensdata.audit.strata import THETA_E_EDGES
from lensdata.errors import InputError
from lensdata.shards.manifests import Manifest
from ray_train.core import metrics
from ray_train.core.augment import augment, mask_core
from ray_train.core.data import Slices, StampSource, StampTable
from ray_train.core.epoch import Record
from ray_train.core.order import EpochOrder
from ray_train.core.predict import predict
from ray_train.core.recipe import Recipe

log = logging.getLogger(__name__)

GATE_SAMPLES = 2000  # R-E4
RELIANCE_RADIUS = 7.0  # pixels; R-E5
SMALLEST_STRATUM = 5  # lenses or others, for an AUC of their own
OFTEN, SELDOM = 5, 10  # epochs between looks


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Adds figures to the records of a run; one per worker, all with the same result.

    Parameters
    ----------
    train, val
        What is trained and validated on.
    rows
        The validation split of the manifest, for its strata.
    groups
        HEALPix pixels of the training stamps, which the gates' folds keep together; None if unknown.
    pairs
        Planes that are a stamp and its control.
    """

    recipe: Recipe
    train: StampSource
    val: StampSource
    rows: Manifest
    groups: npt.NDArray[np.int64] | None
    pairs: list[tuple[int, int]]
    device: torch.device
    rank: int
    world: int

    def before(self, epoch: int) -> Record:
        """The gates, before the first epoch and where a stage of masking begins."""
        if epoch and all(stage.from_epoch != epoch for stage in self.recipe.views.masking):
            return {}
        found = self.gates(epoch)
        if self.rank == 0:
            log.info("gates epoch=%d %s", epoch, " ".join(f"{name}={value:.4g}" for name, value in found.items()))
        return found

    def after(self, epoch: int, model: nn.Module, logits: npt.NDArray[np.float32]) -> Record:
        """What is measured every 5 and every 10 epochs."""
        found: Record = {}
        if (epoch + 1) % OFTEN == 0:
            found |= self._core_reliance(model, logits) | theta_e_figures(self.rows, logits)
        if (epoch + 1) % SELDOM == 0:
            found |= stratum_figures(self.rows, logits)
        return found

    def gates(self, epoch: int) -> Record:
        """AUC of linear classifiers on the core and the radial profile of what the network sees in an epoch (R-E4)."""
        table = self.train.table
        chosen = _fair_prefix(table, GATE_SAMPLES)
        stamps = np.concatenate(list(self._seen(chosen, epoch)))
        labels = table.labels[chosen].astype(np.int64)
        groups = None if self.groups is None else self.groups[chosen]
        core, radial = (
            gates.linear_auc(seen(stamps), labels, groups, self.recipe.seed)
            for seen in (features.core_pixels, features.radial_profile)
        )
        found = {"core_lr_auc": core, "radial_lr_auc": radial, "gate_n_samples": len(chosen)}
        if self.pairs:
            found["paired_lr_auc"] = gates.linear_auc(
                features.pair_differences(stamps, self.pairs), labels, groups, self.recipe.seed
            )
            self._require_own_controls(stamps[labels == 0])
        return {name: value for name, value in found.items() if value == value}  # no figure for a class of a few stamps

    def _require_own_controls(self, negatives: npt.NDArray[np.float32]) -> None:
        """Refuse pairs of which all of label 0 are twice the same stamp: any difference would be the label (R-P6)."""
        if len(negatives) and all(np.array_equal(negatives[..., one], negatives[..., two]) for one, two in self.pairs):
            raise InputError(
                f"All {len(negatives)} stamps of label 0 in the sample are equal to their controls, so a network need only see "
                "whether the two differ; give hosts without a lens a second, matched stamp as control."
            )

    def _seen(self, chosen: npt.NDArray[np.int64], epoch: int) -> Iterator[npt.NDArray[np.float32]]:
        """The chosen training stamps (n, h, w, C) as the network sees them, group by group."""
        table = self.train.table
        stops = np.cumsum(table.group_sizes)
        needed = np.unique(np.searchsorted(stops, chosen, side="right"))
        slices = [(int(stops[g] - table.group_sizes[g]), int(stops[g])) for g in needed]
        for (start, stop), stamps in zip(slices, self.train.batches(table.in_order(), slices), strict=True):
            rows = torch.from_numpy(chosen[(chosen >= start) & (chosen < stop)]).to(self.device)
            ids = torch.from_numpy(table.cutout_ids).to(self.device)[rows]
            view = augment(
                stamps[rows - start],
                self.recipe.views,
                seed=self.recipe.seed,
                epoch=epoch,
                cutout_ids=ids,
                indices=rows,
            )
            yield view.float().permute(0, 2, 3, 1).cpu().numpy()

    def _core_reliance(self, model: nn.Module, logits: npt.NDArray[np.float32]) -> Record:
        """How much of the AUC is lost when the central pixels are hidden (R-E5)."""
        hidden = predict(
            model,
            Masked(self.val, RELIANCE_RADIUS),
            batch=self.recipe.evaluation_batch,
            device=self.device,
            rank=self.rank,
            world=self.world,
        )
        labels = self.val.table.labels
        return {"core_reliance": metrics.auc(labels, logits) - metrics.auc(labels, hidden)}


@dataclass(frozen=True)
class Masked:
    """A source whose stamps have their core hidden."""

    source: StampSource
    radius: float

    @property
    def table(self) -> StampTable:
        return self.source.table

    def batches(self, order: EpochOrder, slices: Slices) -> Iterator[torch.Tensor]:
        for stamps in self.source.batches(order, slices):
            yield mask_core(stamps, self.radius, torch.ones(len(stamps), dtype=torch.bool, device=stamps.device))


def theta_e_figures(rows: Manifest, logits: npt.NDArray[np.float32]) -> Record:
    """AUC of the lenses of each bin of Einstein radius against all others; nothing where the radii are unknown (R-E1)."""
    theta, labels = _numbers(rows, "theta_e"), rows.column("label").astype(np.int64)
    if theta is None:
        return {}
    bins = []
    for low, high in pairwise(THETA_E_EDGES):
        inside = (labels == 1) & (theta >= low) & (theta < high)
        if inside.sum() >= SMALLEST_STRATUM:
            used = inside | (labels == 0)
            bins.append(
                {"low": low, "high": high, "n": int(inside.sum()), "auc": metrics.auc(labels[used], logits[used])}
            )
    return {"theta_e_auc": bins} if bins else {}


def stratum_figures(rows: Manifest, logits: npt.NDArray[np.float32]) -> Record:
    """Confusion at p = 0.5; spread of the AUC over bricks; what lenses without arc light are taken for (R-T9)."""
    labels, called = rows.column("label").astype(np.int64), logits > 0
    found: Record = {
        "confusion": [[int(np.sum((labels == truth) & (called == answer))) for answer in (0, 1)] for truth in (0, 1)]
    }
    arcs = _numbers(rows, "arc_snr")
    arcless = None if arcs is None else (labels == 1) & (arcs == 0)
    if arcless is not None and arcless.any():
        found["arcless_called_lens"] = float(called[arcless].mean())
    if "brickname" in rows.table.column_names:
        bricks = rows.column("brickname").astype(str)
        figures = [metrics.auc(labels[bricks == brick], logits[bricks == brick]) for brick in _judged(bricks, labels)]
        if len(figures) > 1:
            found |= {"brick_auc_std": float(np.std(figures, ddof=1)), "bricks_judged": len(figures)}
    return found


def _judged(strata: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> list[Any]:
    """Strata with enough of either class."""
    names, place = np.unique(strata, return_inverse=True)
    counts = np.stack([np.bincount(place[labels == label], minlength=len(names)) for label in (0, 1)])
    return list(names[counts.min(axis=0) >= SMALLEST_STRATUM])


def _numbers(rows: Manifest, name: str) -> npt.NDArray[np.float64] | None:
    """A column as float64, null as NaN; None where there is none or it is all null."""
    if name not in rows.table.column_names:
        return None
    values = np.asarray(rows.table[name].to_pandas(), dtype=np.float64)
    return None if np.isnan(values).all() else values


def _fair_prefix(table: StampTable, size: int) -> npt.NDArray[np.int64]:
    """Rows of the first row groups, lying in random order already, with up to half of ``size`` from either class."""
    enough = np.flatnonzero(np.minimum(np.cumsum(table.labels == 1), np.cumsum(table.labels == 0)) >= size // 2)
    stop = int(enough[0]) + 1 if len(enough) else len(table)
    return gates.balanced_sample(table.labels[:stop].astype(np.int64), size, seed=0)
