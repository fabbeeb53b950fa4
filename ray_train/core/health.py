"""Is this run learning? Checks over the epochs' records, each PASS, WARN or FAIL (R-T9).

They read what the loop recorded and run no model. Gates on the images and sensitivity curves belong to the audit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
Check = dict[str, Any]

PATIENCE_EPOCHS = 10
LARGEST_GAP = 0.1
LARGEST_GRAD_NORM = 10.0
AUC_TARGET, AUC_TARGET_EPOCH = 0.9, 20
SMALLEST_STEM_NORM = 1e-6


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


def _auc_by_target_epoch(records: Sequence[Record]) -> Check:
    best = max(record["val_auc"] for record in records)
    fine = best > AUC_TARGET or records[-1]["epoch"] < AUC_TARGET_EPOCH
    return _check("val_auc", fine, best, AUC_TARGET, f"best validation AUC by epoch {AUC_TARGET_EPOCH}")


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
