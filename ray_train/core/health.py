"""Is this run learning? Checks over the epochs' records, each PASS, WARN or FAIL (R-T9).

They read what the loop recorded and run no model. Gates on the images and sensitivity curves belong to the audit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

Record = Mapping[str, Any]
Check = dict[str, Any]

PATIENCE_EPOCHS = 10
LARGEST_GAP = 0.1
LARGEST_GRAD_NORM = 10.0
AUC_TARGET, AUC_TARGET_EPOCH = 0.9, 20
SMALLEST_STEM_NORM = 1e-6
# R-E4 and R-E5: (up to this PASS, up to this WARN)
CORE_GATE, RADIAL_GATE = (0.60, 0.65), (0.55, 0.60)
CORE_RELIANCE, THETA_E_SPREAD = (0.03, 0.05), (0.15, 0.20)
WORST_THETA_E = (0.80, 0.70)
ARCLESS_LARGEST, BRICK_STD_LARGEST = 0.60, 0.05


def check_health(records: Sequence[Record], expected_lr: float) -> list[Check]:
    """All checks after the latest epoch.

    Parameters
    ----------
    records
        One per epoch, from epoch 0.
    expected_lr
        The rate that the schedule gives for the latest epoch.

    Returns
    -------
    list of dict
        `check, status, value, limit, message`.
    """
    now = records[-1]
    gap = now["val_loss"] - now["train_loss"]
    return [
        _validation_improves(records),
        _check("train_val_gap", gap < LARGEST_GAP, gap, LARGEST_GAP, "validation loss above training loss", "WARN"),
        _check("grad_norm", now["grad_norm_max"] < LARGEST_GRAD_NORM, now["grad_norm_max"], LARGEST_GRAD_NORM,
               "largest gradient norm of the epoch", "WARN"),
        _check("learning_rate", math.isclose(now["lr"], expected_lr, rel_tol=1e-9), now["lr"], expected_lr,
               "learning rate of the schedule"),
        _auc_by_target_epoch(records),
        _both_classes(now),
        _check("stem_gradient", now["stem_grad_norm_mean"] > SMALLEST_STEM_NORM, now["stem_grad_norm_mean"],
               SMALLEST_STEM_NORM, "mean gradient norm of the first layer", "WARN"),
        *_shortcuts(now),
        *_strata(now),
    ]  # fmt: skip


def worst(checks: Sequence[Check]) -> str:
    """The worst status."""
    return max((check["status"] for check in checks), key=("PASS", "WARN", "FAIL").index)


def _validation_improves(records: Sequence[Record]) -> Check:
    losses = [record["val_loss"] for record in records]
    since = len(losses) - 1 - losses.index(min(losses))
    return _check(
        "val_loss_improves",
        since <= PATIENCE_EPOCHS,
        since,
        PATIENCE_EPOCHS,
        "epochs since the lowest validation loss",
        "WARN",
    )


def _shortcuts(now: Record) -> list[Check]:
    """What the record says of the input and of what the network looks at, if it was measured in this epoch."""
    out = []
    for name, limits, message in (
        # against negatives drawn at random core and profile differ for good reasons: a floor to beat, not a failure
        ("core_lr_auc", CORE_GATE, "a linear classifier on the core pixels: what the network has to beat"),
        ("radial_lr_auc", RADIAL_GATE, "a linear classifier on the radial profile: what the network has to beat"),
    ):
        if name in now and "paired_lr_auc" in now:  # hosts with and without an arc: there the limits hold
            out.append(_graded(name, now[name], limits, message))
        elif name in now:
            out.append(_check(name, now[name] < limits[0], now[name], limits[0], message, "WARN"))
    if "paired_lr_auc" in now:
        out.append(
            _graded("paired_lr_auc", now["paired_lr_auc"], CORE_GATE, "a linear classifier on sums over the pair")
        )
    if "core_reliance" in now:
        out.append(
            _graded("core_reliance", now["core_reliance"], CORE_RELIANCE, "AUC lost without the central 7 pixels")
        )
    return out


def _strata(now: Record) -> list[Check]:
    out = []
    if "theta_e_auc" in now:
        figures = [stratum["auc"] for stratum in now["theta_e_auc"]]
        spread, fewest = max(figures) - min(figures), -min(figures)
        out.append(_graded("theta_e_spread", spread, THETA_E_SPREAD, "AUC of the best less the worst bin of theta_E"))
        worst_bin = _graded(
            "theta_e_worst", fewest, (-WORST_THETA_E[0], -WORST_THETA_E[1]), "AUC of the worst bin of theta_E"
        )
        out.append(worst_bin | {"value": -fewest, "limit": WORST_THETA_E[0]})
        rising = all(low <= high for low, high in pairwise(figures))
        out.append(_check("theta_e_rises", rising, spread, 0.0, "the AUC should rise with theta_E", "WARN"))
    if "arcless_called_lens" in now:
        out.append(_check("arcless", now["arcless_called_lens"] < ARCLESS_LARGEST, now["arcless_called_lens"],
                          ARCLESS_LARGEST, "lenses without arc light that are called lenses", "WARN"))  # fmt: skip
    if "brick_auc_std" in now:
        out.append(_check("brick_auc_std", now["brick_auc_std"] < BRICK_STD_LARGEST, now["brick_auc_std"],
                          BRICK_STD_LARGEST, "spread of the AUC over bricks", "WARN"))  # fmt: skip
    return out


def _graded(name: str, value: float, limits: tuple[float, float], message: str) -> Check:
    """PASS below the first limit, WARN below the second."""
    return _check(name, value < limits[0], value, limits[0], message, "WARN" if value < limits[1] else "FAIL")


def _auc_by_target_epoch(records: Sequence[Record]) -> Check:
    best = max(record["val_auc"] for record in records)
    fine = best > AUC_TARGET or records[-1]["epoch"] < AUC_TARGET_EPOCH
    early = "" if records[-1]["epoch"] >= AUC_TARGET_EPOCH or best > AUC_TARGET else " (not due yet)"
    return _check("val_auc", fine, best, AUC_TARGET, f"best validation AUC by epoch {AUC_TARGET_EPOCH}{early}")


def _both_classes(now: Record) -> Check:
    accuracies = (now["val_accuracy_negative"], now["val_accuracy_positive"])
    return _check(
        "class_accuracy",
        max(accuracies) < 1.0,
        max(accuracies),
        1.0,
        "a class that is always right hints at a one-sided network or a shortcut",
        "WARN",
    )


def _check(name: str, fine: bool, value: float, limit: float, message: str, otherwise: str = "FAIL") -> Check:
    return {"check": name, "status": "PASS" if fine else otherwise, "value": value, "limit": limit, "message": message}
