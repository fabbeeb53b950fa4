"""What a trial is compared by: its dependence on the core, its strata, and what a line can see in its input (R-A3, R-E4, R-E5)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lensdata.audit import features, gates, intervals
from lensdata.config.training import TrainingConfig
from lensdata.shards.manifests import Manifest
from ray_train.context import choose_device
from ray_train.core import metrics
from ray_train.core.augment import augment
from ray_train.core.predict import predict
from ray_train.diagnostics import Masked, theta_e_figures
from ray_train.scoring import Scorer, load_scorer
from ray_train.stamps import cache_folder, prepared_file, stamp_source
from ray_train.training import pixels_of, training_manifest, views_of

RADII = (0.0, 3.0, 5.0, 7.0, 10.0, 15.0)  # pixels; R-E5
RELIANCE = 7.0
RESAMPLES = 500  # R-E4


@dataclass(frozen=True)
class Measured:
    """A trained run, the manifest and configuration of its training."""

    run: str
    manifest: str
    config: TrainingConfig
    test_limit: int | None = None

    def rows(self) -> Manifest:
        """The manifest as the run used it."""
        return training_manifest(self.config, self.manifest, self.test_limit)

    def scorer(self) -> Scorer:
        """Its best network."""
        return load_scorer(self.run, "best", choose_device(self.config.execution.device))


def network_figures(what: Measured, split: str) -> dict[str, Any]:
    """How the best network does on a split, as a whole, by Einstein radius, and with its core hidden (R-E5).

    Returns
    -------
    dict
        ``auroc, core_sensitivity, core_reliance, auroc_by_thetae, theta_e_spread, worst_theta_e_auc``; None where the split cannot
        tell.
    """
    config, rows, scorer = what.config, what.rows().split(split), what.scorer()
    layout = rows.layout()
    recipe = scorer.images(layout)
    cache = cache_folder(config.execution.cache, what.run)
    residency = "host" if prepared_file(rows, layout, recipe, scorer.device, cache).exists() else "device"
    source = stamp_source(rows, layout, recipe, scorer.device, residency, cache)
    side = min(recipe.prepared_shape(layout.shape)[:2])
    logits = {
        radius: predict(
            scorer.model,
            Masked(source, radius) if radius else source,
            batch=config.batch.evaluation,
            device=scorer.device,
        )
        for radius in RADII
        if 2 * radius < side
    }
    aucs = {radius: metrics.auc(source.table.labels, found) for radius, found in logits.items()}
    bins = theta_e_figures(rows, logits[0.0]).get("theta_e_auc")
    per_bin = [entry["auc"] for entry in bins or []]
    return {
        "auroc": aucs[0.0],
        "core_sensitivity": [{"radius": radius, "auc": auc} for radius, auc in aucs.items()],
        "core_reliance": aucs[0.0] - aucs[RELIANCE] if RELIANCE in aucs else None,
        "auroc_by_thetae": bins,
        "theta_e_spread": max(per_bin) - min(per_bin) if len(per_bin) > 1 else None,
        "worst_theta_e_auc": min(per_bin, default=None),
    }


def gate_figures(what: Measured, size: int, epoch: int) -> dict[str, Any]:
    """Gates on what the network is trained on in an epoch, its best one, but unturned: normalised, cropped, masked (R-E4).

    Up to `size` stamps of train and val, half of either class. Folds keep pixels of the sky together: a host with an arc
    and the same without are never on both sides.
    """
    config, rows = what.config, what.rows()
    rows = rows.where(rows.column("split").astype(str) != "test")
    keep = np.zeros(len(rows), bool)
    keep[gates.balanced_sample(rows.column("label").astype(np.int64), size, config.seed)] = True
    rows = rows.where(keep)
    seen, labels, pixels = masked_stamps(what, rows, epoch), rows.column("label").astype(np.int64), pixels_of(rows)
    found: dict[str, Any] = {"gate_n_samples": len(rows)}
    for name, values in (("core", features.core_pixels(seen)), ("radial", features.radial_profile(seen))):
        auc = linear_gate(values, labels, pixels, config.seed)
        for key, of in (("", "value"), ("_low", "low"), ("_high", "high")):
            found[f"final_{name}_lr_auc{key}"] = None if auc is None else getattr(auc, of)
    return found


def masked_stamps(what: Measured, rows: Manifest, epoch: int) -> npt.NDArray[np.float32]:
    """Stamps (n, h, w, C) as the network's input, with the mask of an epoch."""
    scorer, layout, config = what.scorer(), rows.layout(), what.config
    source = stamp_source(rows, layout, scorer.images(layout), scorer.device, "stream")
    views, order, taken = replace(views_of(config), view="none"), source.table.in_order(), []
    slices = [(start, stop) for _, start, stop in order.windows]
    ids = torch.from_numpy(source.table.cutout_ids).to(scorer.device)
    for (start, stop), stamps in zip(slices, source.batches(order, slices), strict=True):
        own = ids[start:stop]
        view = augment(stamps, views, seed=config.seed, epoch=epoch, cutout_ids=own, indices=own)
        taken.append(view.float().permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(taken)


def linear_gate(
    values: npt.NDArray[np.floating], labels: npt.NDArray[np.int64], groups: npt.NDArray[np.int64] | None, seed: int
) -> intervals.Interval | None:
    """AUC of a logistic regression out of fold, with its bootstrap interval; None where a class is too small."""
    if np.bincount(labels, minlength=2).min() < gates.FOLDS:
        return None
    scores = gates.out_of_fold(values, labels, gates.make_folds(labels, groups, seed), "logistic", seed)
    judged = np.isfinite(scores)
    if len(np.unique(labels[judged])) < 2:
        return None
    # equal features score equal but for rounding, which is not an order
    counts = intervals.compress(labels[judged], np.round(scores[judged], 9))
    return intervals.bootstrap(counts, (), RESAMPLES, seed)["auc"]
