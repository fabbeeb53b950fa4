"""A run beside Paper IV: Inchausti et al. 2025, arXiv:2508.20087 (R-E3)."""

from __future__ import annotations

import math
from typing import Any

NETWORKS = {  # the paper's network that an architecture is nearest to
    "shielded_resnet": "ResNet", "resnet18": "ResNet", "efficientnet_v2_s": "EfficientNet",
}  # fmt: skip
AUC = {"ResNet": 0.9984, "EfficientNet": 0.9987, "stacked": 0.9989}  # validation; Tables 5 and 6, section 3.4
PARAMETERS = {"ResNet": 194_433, "EfficientNet": 20_542_883}
BEST_EPOCH = {"ResNet": 126, "EfficientNet": 50}
LENSES, OTHERS = 1_372, 134_182  # before the 70/30 split
VALIDATION_SHARE = 0.30


def hanley_mcneil(auc: float, lenses: int, others: int) -> float:
    """Standard error of an AUC from its value and the counts alone (Hanley & McNeil 1982).

    >>> round(hanley_mcneil(0.9987, 412, 40255), 4)
    0.0013
    """
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (lenses - 1) * (q1 - auc**2) + (others - 1) * (q2 - auc**2)
    return math.sqrt(variance / (lenses * others))


def sampling_error() -> float:
    """Of the paper's AUCs, by Hanley & McNeil for EfficientNet's."""
    return hanley_mcneil(AUC["EfficientNet"], round(VALIDATION_SHARE * LENSES), round(VALIDATION_SHARE * OTHERS))


def comparison(auc: dict[str, Any], split: str, run: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
    """Rows of quantity, Paper IV, here, and what the difference is likely to do.

    Parameters
    ----------
    auc
        The judged AUC with ``value, low, high``.
    run, best
        ``run_info.json`` and ``best.json`` of the run.

    Returns
    -------
    dict
        ``rows`` and ``note``.
    """
    settings, counts = run.get("settings", {}), run.get("splits", {})
    network = NETWORKS.get(str(run.get("model")))
    lenses = sum(part["positive"] for part in counts.values())
    others = sum(part["rows"] - part["positive"] for part in counts.values())
    theirs = network or "no counterpart"
    optimizer, precision = settings.get("optimizer", {}).get("name"), settings.get("precision")
    rows = [
        _row("validation AUC", f"{AUC[network]:.4f} ({network})" if network else "no counterpart", f"{best['val_auc']:.4f}",
             "theirs chose the epoch on the set that is reported; ours too: compare the next row"),
        _row(f"AUC on the {split} split", "no test set", f"{auc['value']:.4f} ({auc['low']:.4f} to {auc['high']:.4f})",
             "rows that chose nothing: lower by what choosing gains" if split == "test"
             else "the rows that chose the epoch: high by what choosing gains"),
        _row("stacked validation AUC", f"{AUC['stacked']:.4f}", "see the section on stacking, where there is one",
             "0.0002 above the better member, far below the sampling error"),
        _row("lenses : others", f"{LENSES:,} : {OTHERS:,}", f"{lenses:,} : {others:,}",
             "their lenses were inspected one by one; uninspected candidates lower every figure"),
        _row("others per lens", f"{OTHERS / LENSES:.0f}", f"{others / lenses:.0f}" if lenses else "–",
             "the AUC does not depend on it, precision and calibration do"),
        _row("parameters", f"{PARAMETERS[network]:,}" if network else "no counterpart", f"{run.get('parameters', 0):,}",
             "the widths of their ResNet are not published"),
        _row("best epoch", str(BEST_EPOCH[network]) if network else "no counterpart",
             f"{best['epoch'] + 1} of {settings.get('epochs', '?')}",
             "a run that stops long before theirs peaked is no test of the protocol"),
        _row("optimizer", "not published", str(optimizer or "?"), "unknown"),
        _row("mixed precision", "not published", str(precision or "?"), "none expected: scores are made in float32"),
        _row("cleaning of negatives", "9 of about 134,000 removed by eye", "none",
             "small: 9 objects move the AUC by less than its error"),
    ]  # fmt: skip
    error = sampling_error()
    note = (
        f"Paper IV's three AUCs differ by 0.0005 at most, and each is uncertain by {error:.4f} (Hanley & McNeil 1982, "
        f"{round(VALIDATION_SHARE * LENSES)} validation lenses): they cannot be told apart, nor can a run be ranked against "
        "them by AUC."
    )
    return {"network": theirs, "rows": rows, "sampling_error": error, "note": note}


def _row(quantity: str, theirs: str, ours: str, impact: str) -> dict[str, str]:
    return {"quantity": quantity, "paper_iv": theirs, "here": ours, "impact": impact}
