"""The sections on calibration of ``metrics.json`` (R-E2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit
from sklearn.metrics import brier_score_loss

from lensdata.audit import calibration, recalibration, strata
from lensdata.audit.calibration import Bin
from lensdata.audit.metrics import blocks_of
from lensdata.audit.smooth_ece import smooth_ece, smooth_ece_of_logits
from lensdata.config.evaluation import EvaluateConfig
from lensdata.hashing import second_key

Floats = npt.NDArray[np.float64]
CHANCE_DRAWS = 100  # of labels from the scores: what a perfectly calibrated finder would show
SHIFTED_SCORES = (0.4, 0.5, 0.9, 0.9867, 0.99, 0.999, 0.9999)  # 0.9867 is the threshold of Paper IV


def calibrated(rows: pd.DataFrame, config: EvaluateConfig) -> dict[str, Any]:
    """Calibration errors, skills, the decomposed Brier score, and the bins of the reliability diagram and of its tail.

    Everything starts from logits in float64, where scores that read 1.0 are still told apart. ``by_chance`` says what each
    error would be, in the mean and in 95% of samples at most, if the scores were perfectly calibrated (Brocker & Smith 2007):
    no error of binned or smoothed data is zero then.
    """
    label, logit = rows["label"].to_numpy(np.float64), rows["logit"].to_numpy(np.float64)
    p = expit(logit)
    bins = calibration.reliability(label, p, config.calibration_bins)
    loss = calibration.log_loss(label, logit)
    corp = calibration.corp(label, p, logit)
    debiased = calibration.debiased_squared_error(calibration.equal_mass(label, p, config.calibration_bins))
    errors = _errors(logit, p, config)
    found: dict[str, Any] = {name: error(label) for name, error in errors.items()}
    if found["mce"] is None:
        found["mce_reason"] = f"no bin has {config.calibration_smallest_bin} members"
    return found | {
        "mce_smallest_bin": config.calibration_smallest_bin,
        "squared_error_debiased": debiased,
        "rms_error_debiased": float(np.sqrt(max(0.0, debiased))),
        "by_chance": _by_chance(errors, p, config.seed),
        "brier": float(brier_score_loss(label, p)),
        "brier_skill": calibration.brier_skill(label, p),
        "log_loss": loss,
        "log_loss_skill": calibration.log_loss_skill(label, loss),
        "corp": {"mcb": corp.mcb, "dsc": corp.dsc, "unc": corp.unc},
        "bins": [_bin(entry) for entry in bins],
        "tail": [
            {"top_fraction": fraction, "reason": "less than one object"} if entry is None
            else {"top_fraction": fraction, **_bin(entry)}
            for fraction, entry in calibration.tail(label, logit)
        ],
        "strata": _per_stratum(rows, label, p, config),
        "survey": _at_survey(float(label.mean()), config.survey_prevalence),
    }  # fmt: skip


def _errors(logit: Floats, p: Floats, config: EvaluateConfig) -> dict[str, Callable[[Floats], float | None]]:
    """Calibration errors as functions of the labels."""
    count, smallest = config.calibration_bins, config.calibration_smallest_bin
    return {
        "ece": lambda y: calibration.expected_calibration_error(calibration.reliability(y, p, count)),
        "ece_equal_mass": lambda y: calibration.expected_calibration_error(calibration.equal_mass(y, p, count)),
        "mce": lambda y: calibration.maximum_calibration_error(calibration.reliability(y, p, count), smallest),
        "smooth_ece": lambda y: smooth_ece(y, p),
        "smooth_ece_logit": lambda y: smooth_ece_of_logits(y, logit),
    }


def _by_chance(errors: dict[str, Callable[[Floats], float | None]], p: Floats, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in errors}
    for _ in range(CHANCE_DRAWS):
        label = (rng.random(len(p)) < p).astype(np.float64)
        for name, error in errors.items():
            value = error(label)
            if value is not None:
                drawn[name].append(value)
    return {
        name: {"mean": float(np.mean(values)), "high": float(np.percentile(values, 95))} if values else None
        for name, values in drawn.items()
    }


def _bin(entry: Bin) -> dict[str, Any]:
    return {"mean_score": entry.mean_score, "observed": entry.observed.value, "low": entry.observed.low,
            "high": entry.observed.high, "members": entry.members}  # fmt: skip


def _per_stratum(
    rows: pd.DataFrame, label: Floats, p: Floats, config: EvaluateConfig
) -> dict[str, list[dict[str, Any]]]:
    """Mean score against observed fraction, and ECE, per bin of PSF and depth."""
    found: dict[str, list[dict[str, Any]]] = {"psf": [], "depth": []}
    for stratum in strata.strata_of(rows):
        if stratum.kind in found:
            y, scores = label[stratum.members], p[stratum.members]
            told: dict[str, Any] = {"name": stratum.name, "members": len(y), "n_positive": int(y.sum())}
            if min(y.sum(), len(y) - y.sum()) < config.smallest_stratum:
                told["too_few"] = True
            else:
                (whole,) = calibration.reliability(y, scores, 1)
                bins = calibration.reliability(y, scores, config.calibration_bins)
                told |= _bin(whole) | {"ece": calibration.expected_calibration_error(bins)}
            found[stratum.kind].append(told)
    return found


def _at_survey(prior: float, prevalence: float) -> dict[str, Any]:
    """What scores become where lenses are as rare as in a survey."""
    shift = recalibration.shift_logit(prior, prevalence)
    scores = recalibration.shifted(SHIFTED_SCORES, shift)
    table = [{"score": score, "at_survey": float(then)} for score, then in zip(SHIFTED_SCORES, scores, strict=True)]
    return {"prior": prior, "prevalence": prevalence, "logit_shift": shift, "scores": table,
            "valid": "if lenses and others each look like the sample's and the scores are calibrated there"}  # fmt: skip


def recalibrated(rows: pd.DataFrame, validation: pd.DataFrame | None, config: EvaluateConfig) -> dict[str, Any]:
    """Recalibrations fitted on other rows than those they are judged on.

    Parameters
    ----------
    validation
        Scored rows of the validation split; None where that is the judged one. Then, and where it lacks a class, the judged
        rows are halved by patches of sky: one half to fit, one to judge.
    """
    told: dict[str, Any]
    if validation is not None and _enough(validation, config):
        fit, judged = validation, rows
        told = {"fitted_on": "validation split", "judged_on": f"{config.split} split"}
    else:
        second, unit = _second_half(rows, config.seed)
        fit, judged = rows[~second], rows[second]
        half = f"half of the {config.split} split, by {unit}"
        told = {"fitted_on": f"one {half}", "judged_on": f"the other {half}"}
    for name, part in (("fit", fit), ("judged", judged)):
        told[f"n_{name}_positive"] = int((part["label"] == 1).sum())
        told[f"n_{name}_negative"] = int((part["label"] == 0).sum())
    if not (_enough(fit, config) and _enough(judged, config)):
        reason = f"fewer than {config.smallest_stratum} lenses or others to fit or to judge"
        return told | {"measured": False, "reason": reason}
    methods = recalibration.compare(
        fit["logit"], fit["label"], judged["logit"], judged["label"], config.calibration_bins
    )
    return told | {"measured": True, "methods": methods}


def _enough(rows: pd.DataFrame, config: EvaluateConfig) -> bool:
    positives = int((rows["label"] == 1).sum())
    return min(positives, len(rows) - positives) >= config.smallest_stratum


def _second_half(rows: pd.DataFrame, seed: int) -> tuple[npt.NDArray[np.bool_], str]:
    """Which rows are in the second half, and what was halved."""
    block = blocks_of(rows)
    key = rows["cutout_id"].to_numpy() if block is None else block
    return second_key(key, seed, "recalibration") % 2 == 1, "stamp" if block is None else "patch of sky"
