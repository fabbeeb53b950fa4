"""Trials of a study as a training leaves them, made up."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.stats import norm

from lensdata.audit.differences import Scores
from lensdata.audit.studies import TrialResult

RADII = (0, 3, 5, 7, 10, 15)
EDGES = (0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0)
COST = {"seconds": 41.25, "images_per_second": 120.0, "device": "cpu", "threads": 2, "gpu_hours": 0.0, "cpu_hours": 0.02,
        "peak_memory_bytes": 1_200_000_000}  # fmt: skip


def _word(axis: str, label: Any) -> str:
    return label if isinstance(label, str) else f"{axis.rpartition('.')[2]}{label:.4g}"


def trial_json(
    variants: str | dict[str, Any], seed: int, auc: float = 0.93, core: float = 0.58, reliance: float = 0.02,
    spread: float = 0.1, status: str = "done", **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """``metrics.json`` of a trial; a text is its variant of masking."""
    own = {"masking": variants} if isinstance(variants, str) else variants
    cell = re.sub(r"[^A-Za-z0-9.+_-]+", "-", "_".join(_word(axis, label) for axis, label in own.items()))
    out: dict[str, Any] = {
        "schema_version": 1, "trial": f"{cell}-s{seed}", "cell": cell, "variants": own, "seed": seed, "status": status,
        "reason": None, "overrides": {"images.masking": own.get("masking")}, "cost": COST,
    }  # fmt: skip
    if status != "failed":
        gate = {"final_core_lr_auc": core, "final_core_lr_auc_low": core - 0.02, "final_core_lr_auc_high": core + 0.02}
        bins = [{"low": low, "high": high, "n": 12, "auc": auc - spread * (1 - place / 5)}
                for place, (low, high) in enumerate(pairwise(EDGES))]  # fmt: skip
        out |= gate | {
            "epochs": 6, "best_epoch": 4, "best_val_auroc": auc, "final_radial_lr_auc": core - 0.03, "gate_n_samples": 300,
            "core_sensitivity": [{"radius": radius, "auc": auc - reliance * radius / 7} for radius in RADII],
            "core_reliance": reliance, "auroc_by_thetae": bins, "theta_e_spread": spread, "worst_theta_e_auc": auc - spread,
        }  # fmt: skip
    return out | more


def trial(variants: str | dict[str, Any], seed: int, **more: Any) -> TrialResult:
    """A trial that was read."""
    return TrialResult.model_validate(trial_json(variants, seed, **more))


def validation_scores(trials: list[TrialResult], lenses: int = 60, others: int = 120) -> dict[str, Scores]:
    """Scores of the same objects by every trial that has an AUC, so that they have about that AUC."""
    rng = np.random.default_rng(5)
    label = np.r_[np.ones(lenses), np.zeros(others)]
    ids, galaxy = 2**50 + 7 * np.arange(len(label)), rng.normal(size=len(label))
    out: dict[str, Scores] = {}
    for one in trials:
        if one.best_val_auroc is not None:
            mean = norm.ppf(one.best_val_auroc) * np.sqrt(2)
            out[one.trial] = (ids, label, mean * label + np.sqrt(0.5) * (galaxy + rng.normal(size=len(label))))
    return out
