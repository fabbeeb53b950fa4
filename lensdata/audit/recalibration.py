"""Maps from a finder's logit to a better probability, and from a sample's share of lenses to a survey's (R-E2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from lensdata.audit import calibration

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.integer]
# Inverse strength of the penalty of the fits: it acts only where the classes separate and the likelihood has no maximum
PENALTY = 1e6


@dataclass(frozen=True)
class Recalibration:
    """A fitted map.

    Attributes
    ----------
    parameters
        Its numbers by name.
    logits
        From logits to recalibrated logits; None for a map that gives probabilities of 0 and 1.
    probabilities
        From logits to recalibrated probabilities.
    """

    parameters: Mapping[str, float]
    logits: Callable[[Floats], Floats] | None
    probabilities: Callable[[Floats], Floats]


def identity(logit: Floats, label: Labels) -> Recalibration:
    """The scores as they are."""
    return restored("none", {})


def platt(logit: Floats, label: Labels) -> Recalibration:
    """A line in the logit, sigma(a l + b) (Platt 1999, by maximum likelihood)."""
    (slope,), offset = _fit(logit[:, None], label, intercept=True)
    return restored("platt", {"slope": slope, "offset": offset})


def temperature(logit: Floats, label: Labels) -> Recalibration:
    """One factor, sigma(l / T) (Guo et al. 2017). It cannot correct a wrong share of lenses."""
    (slope,), _ = _fit(logit[:, None], label, intercept=False)
    return restored("temperature", {"inverse_temperature": slope})


def beta(logit: Floats, label: Labels) -> Recalibration:
    """sigma(a ln p - b ln(1 - p) + c) with a, b >= 0 (Kull, Silva Filho & Flach 2017); a negative one is set to zero."""
    features = _beta_features(logit)
    used = np.array([True, True])
    weights, offset = _fit(features, label, intercept=True)
    if min(weights) < 0:
        used[int(np.argmin(weights))] = False
        kept, offset = _fit(features[:, used], label, intercept=True)
        weights = [max(kept[0], 0.0) if use else 0.0 for use in used]
    return restored("beta", {"a": weights[0], "b": weights[1], "c": offset})


def isotonic(logit: Floats, label: Labels) -> Recalibration:
    """The best monotone steps. It ties scores: for reading probabilities, never for ranking."""
    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(logit, label)
    return Recalibration(
        {"steps": float(len(model.X_thresholds_))}, None, lambda values: np.asarray(model.predict(values))
    )


METHODS = {"none": identity, "platt": platt, "temperature": temperature, "beta": beta, "isotonic": isotonic}


PARAMETERS = {
    "none": (),
    "platt": ("slope", "offset"),
    "temperature": ("inverse_temperature",),
    "beta": ("a", "b", "c"),
}
"""Of the methods that are a formula of the logit, and can be kept as numbers."""


def restored(method: str, parameters: Mapping[str, float]) -> Recalibration:
    """A fitted map from its `PARAMETERS`, as somebody kept them.

    Raises
    ------
    ValueError
        Another method, or other parameters than its own.

    >>> restored("platt", {"slope": 2.0, "offset": 1.0}).probabilities(np.array([-0.5])).tolist()
    [0.5]
    """
    if method not in PARAMETERS or set(parameters) != set(PARAMETERS[method]):
        raise ValueError(f"no recalibration {method!r} with parameters {', '.join(parameters) or 'none'}")
    known = [float(parameters[name]) for name in PARAMETERS[method]]

    def logits(values: Floats) -> Floats:
        if method == "platt":
            return known[0] * values + known[1]
        if method == "temperature":
            return known[0] * values
        if method == "beta":
            return np.asarray(_beta_features(values) @ np.array(known[:2]) + known[2])
        return values

    return Recalibration(dict(parameters), logits, lambda values: expit(logits(values)))


def _fit(features: Floats, label: Labels, *, intercept: bool) -> tuple[list[float], float]:
    # Newton steps: two or three parameters, and logits of any scale need no standardisation
    model = LogisticRegression(C=PENALTY, fit_intercept=intercept, solver="newton-cholesky", max_iter=1000)
    model.fit(features, label)
    return [float(value) for value in model.coef_[0]], float(model.intercept_[0]) if intercept else 0.0


def _beta_features(logit: Floats) -> Floats:
    """ln p and -ln(1 - p) from logits, without passing through p; shape (n, 2)."""
    return np.stack([-np.logaddexp(0.0, -logit), np.logaddexp(0.0, logit)], axis=1)


def compare(
    fit_logit: npt.ArrayLike, fit_label: npt.ArrayLike, logit: npt.ArrayLike, label: npt.ArrayLike, bins: int
) -> dict[str, dict[str, Any]]:
    """Fit every method to some objects and judge it on others: skills, calibration error and miscalibration by name.

    Parameters
    ----------
    fit_logit, fit_label
        What the maps are fitted to; both classes are needed.
    logit, label
        What they are judged on.
    """
    fit_on = np.asarray(fit_logit, np.float64), np.asarray(fit_label, np.int64)
    values, labels = np.asarray(logit, np.float64), np.asarray(label, np.int64)
    found = {}
    for name, method in METHODS.items():
        fitted = method(*fit_on)
        found[name] = {"parameters": dict(fitted.parameters)} | _judged(fitted, values, labels, bins)
    return found


def _judged(fitted: Recalibration, logit: Floats, label: Labels, bins: int) -> dict[str, Any]:
    p = fitted.probabilities(logit)
    if fitted.logits is not None:
        loss = calibration.log_loss(label, fitted.logits(logit))
    else:
        loss = calibration.log_loss_of_probabilities(label, p)
    found: dict[str, Any] = {
        "brier_skill": calibration.brier_skill(label, p),
        "log_loss_skill": calibration.log_loss_skill(label, loss),
        "ece": calibration.expected_calibration_error(calibration.reliability(label, p, bins)),
        "mcb": calibration.corp(label, p, logit if fitted.logits is not None else None).mcb,
    }
    if not np.isfinite(loss):
        found["log_loss_skill"] = None
        found["log_loss_reason"] = "a probability of exactly 0 or 1 is a miss, which costs infinitely much"
    return found


def shift_logit(prior: float, new_prior: float) -> float:
    """What is added to every logit when the share of lenses changes and nothing else (Elkan 2001; Saerens et al. 2002).

    Valid only where the lenses and the others each look the same in both, and the probabilities hold for the first share.

    >>> shift = shift_logit(1 / 94.3, 1e-4)  # 93.3 others to a lens; a survey has 9,999
    >>> round(shift, 3), round(float(np.exp(shift)), 5)
    (-4.674, 0.00933)
    >>> shifted(np.array([0.4, 0.5, 0.9, 0.9867, 0.99, 0.999, 0.9999]), shift).round(4).tolist()
    [0.0062, 0.0092, 0.0775, 0.4091, 0.4802, 0.9031, 0.9894]
    """
    return float(np.log(new_prior) - np.log1p(-new_prior) - np.log(prior) + np.log1p(-prior))


def shifted(probability: npt.ArrayLike, shift: float) -> Floats:
    """Probabilities after a shift of their logits."""
    p = np.asarray(probability, np.float64)
    return np.asarray(expit(np.log(p) - np.log1p(-p) + shift))
