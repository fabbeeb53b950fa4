"""Combinations of the predictions of several networks: means, a regression, and networks that learn weights (R-M3).

`MlpCombiner` is Paper IV's: probabilities in, one hidden layer of 300, a logit out; 1,201 parameters for two members. The
feature-weighted ones are those of Coscrato, Inacio & Izbicki 2020 (arXiv:1906.09735) on logits: their weights depend on the
observing conditions m. They begin as the mean logit and leave it only for what helps on a part of the rows set aside.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from torch import nn
from torch.nn import functional

from lensdata.audit import intervals, roc
from lensdata.errors import InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
HIDDEN = 300
LOGIT_LIMIT = 15.0  # beyond, a logit says no more than that the member is sure
RIDGE = 1e-3
STEPS, ROWS, RATE, DECAY = 300, 4096, 0.01, 0.1  # optimizer steps, rows of each at most
PARTS = 5  # one of so many is set aside to choose the step
LOOK, PATIENCE = 5, 60  # steps between looks at that part, and without a better one
CLEARLY = 2.0  # standard errors by which the best step has to be better than none
LEAST_SLOPE = 0.01  # of the mean logit's calibration: no member's logit may count against a lens


@dataclass(frozen=True)
class Sample:
    """Members' logits (N, k), standardised features (N, F), labels (N,), and what must stay together in a split (N,)."""

    logits: Floats
    features: Floats
    labels: Ints
    groups: Ints

    def of(self, rows: npt.NDArray[Any]) -> Sample:
        """Some of the rows."""
        return Sample(self.logits[rows], self.features[rows], self.labels[rows], self.groups[rows])


@dataclass(frozen=True)
class Options:
    """Of the forms that are fitted: seed of their first weights, and whether `FreeCombiner` has its offset."""

    seed: int = 42
    offset: bool = False


Predictor = Callable[[Sample], Floats]
Form = Callable[[Sample, Options], Predictor]


def fold_numbers(sample: Sample, folds: int, seed: int) -> Ints:
    """Fold of every row, alike in their share of lenses; what belongs together is in one.

    Raises
    ------
    InputError
        A class has fewer objects than there are folds, or is whole in one fold.
    """
    smallest = int(np.bincount(sample.labels, minlength=2).min())
    if smallest < max(folds, 2):
        raise InputError(
            f"{folds} folds need {folds} of either class, found {smallest}; take fewer folds or more rows."
        )
    fold = np.empty(len(sample.labels), np.int64)
    cut = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for number, (_, left_out) in enumerate(cut.split(sample.features, sample.labels, sample.groups)):
        fold[left_out] = number
    if any(len(np.unique(fold[sample.labels == label])) < 2 for label in (0, 1)):
        raise InputError(f"All objects of a class are in one of {folds} folds: they lie in one patch of sky.")
    return fold


# --- networks ----------------------------------------------------------------------------------------------------------


class MlpCombiner(nn.Module):
    """P = sigmoid(w2' relu(W1 p + b1) + b2) of the members' probabilities p.

    >>> sum(weight.numel() for weight in MlpCombiner(2).parameters())
    1201
    """

    def __init__(self, members: int, features: int = 0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(members, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, logits: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """(N, members) logits to (N,) logits; features are not used."""
        return self.layers(torch.sigmoid(logits))[:, 0]


class FreeCombiner(nn.Module):
    """z = sum_j theta_j(m) l_j with theta_j >= 0: what m says of the class itself does not enter.

    With ``offset`` it is Coscrato's unconstrained form, z = sum_j theta_j(m) l_j + phi(m) with weights of either sign, which
    can tell the classes apart by m alone.
    """

    def __init__(self, members: int, features: int, *, offset: bool = False) -> None:
        super().__init__()
        self.members, self.signed = members, offset
        self.layers = _body(features, members + offset)

    def weights(self, features: torch.Tensor) -> torch.Tensor:
        """(N, members) theta."""
        return self._weights(self.layers(features))

    def forward(self, logits: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """(N, members) logits and (N, F) features to (N,) logits."""
        out = self.layers(features)
        combined = (self._weights(out) * logits).sum(dim=1)
        return combined + out[:, -1] if self.signed else combined

    def _weights(self, out: torch.Tensor) -> torch.Tensor:
        equal = 1 / self.members
        if self.signed:
            return out[:, : self.members] + equal
        return functional.softplus(out + math.log(math.expm1(equal)))


class ConstrainedCombiner(nn.Module):
    """z = a sum_j theta_j(m) l_j + b with sum_j theta_j = 1 (Coscrato's constrained form), and a > 0, b to recalibrate.

    The layers give a lower triangle L; P = L L' + ridge stands for the inverse of the members' error matrix, and
    theta = P e / (e' P e). As published, weights may be negative.
    """

    def __init__(self, members: int, features: int) -> None:
        super().__init__()
        self.members = members
        self.layers = _body(features, members * (members + 1) // 2)
        self.log_scale, self.offset = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def weights(self, features: torch.Tensor) -> torch.Tensor:
        """(N, members) theta, which add up to 1."""
        rows, columns = torch.tril_indices(self.members, self.members)
        flat = self.layers(features)
        lower = flat.new_zeros(len(flat), self.members, self.members)
        lower[:, rows, columns] = torch.where(rows == columns, functional.softplus(flat), flat)
        precision = lower @ lower.mT + RIDGE * torch.eye(self.members, dtype=flat.dtype)
        sums = precision.sum(dim=2)
        return sums / sums.sum(dim=1, keepdim=True)

    def forward(self, logits: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """(N, members) logits and (N, F) features to (N,) logits."""
        return self.log_scale.exp() * (self.weights(features) * logits).sum(dim=1) + self.offset


def _body(features: int, outputs: int) -> nn.Sequential:
    """One hidden layer of the features, or a constant without any; puts out zeros at first."""
    hidden = [nn.Linear(features, HIDDEN), nn.ReLU()] if features else [_Constant()]
    last = nn.Linear(HIDDEN if features else 1, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*hidden, last)


class _Constant(nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """A column of zeros: what follows is its bias."""
        return features.new_zeros(len(features), 1)


def fit(make: Callable[[int, int], nn.Module], fitted: Sample, seed: int) -> nn.Module:
    """A combiner fitted by binary cross-entropy, in float64, as it was at its best step on a fifth of the rows set aside.

    It stays as it began unless that step is better there by more than twice the standard error of the difference.

    Parameters
    ----------
    make
        From members and features to the module.
    """
    aside = _aside(fitted, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make(fitted.logits.shape[1], fitted.features.shape[1]).double()
    logits, features, labels = tensors(fitted.of(~aside))
    random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / STEPS)))
    judged = tensors(fitted.of(aside))
    first = lowest = _losses(model, judged)
    begun = best = copy.deepcopy(model.state_dict())
    best_step = 0
    for step in range(1, STEPS + 1):
        rows = torch.randperm(len(labels), generator=random)[:ROWS] if len(labels) > ROWS else slice(None)
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(model(logits[rows], features[rows]), labels[rows]).backward()
        optimizer.step()
        schedule.step()
        if step % LOOK:
            continue
        losses = _losses(model, judged)
        if losses.mean() < lowest.mean():
            lowest, best, best_step = losses, copy.deepcopy(model.state_dict()), step
        elif step - best_step >= PATIENCE:
            break
    gain = first - lowest
    model.load_state_dict(best if gain.mean() > CLEARLY * gain.std() / math.sqrt(len(gain)) else begun)
    return model.eval()


def tensors(sample: Sample) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, features and labels for a combiner."""
    return torch.from_numpy(sample.logits), torch.from_numpy(sample.features), torch.from_numpy(sample.labels).double()


def _aside(fitted: Sample, seed: int) -> npt.NDArray[np.bool_]:
    """The rows that choose the step: a fold with both classes."""
    smallest = int(np.bincount(fitted.labels, minlength=2).min())
    fold = fold_numbers(fitted, min(PARTS, smallest), seed)
    both = np.intersect1d(fold[fitted.labels == 1], fold[fitted.labels == 0])
    if not both.size:
        raise InputError("Lenses and others lie in different patches of sky: leave out the forms that are networks.")
    return np.asarray(fold == both[0])


def _losses(model: nn.Module, judged: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    logits, features, labels = judged
    with torch.no_grad():
        return functional.binary_cross_entropy_with_logits(model(logits, features), labels, reduction="none")


# --- forms -------------------------------------------------------------------------------------------------------------


def best_member(fitted: Sample) -> int:
    """The member of the highest AUC."""
    return int(np.argmax([roc_auc_score(fitted.labels, logits) for logits in fitted.logits.T]))


def _best_member(fitted: Sample, _: Options) -> Predictor:
    best = best_member(fitted)
    return lambda sample: sample.logits[:, best].copy()


def _mean_logit(_: Sample, __: Options) -> Predictor:
    return lambda sample: np.asarray(sample.logits.mean(axis=1))


def _mean_probability(_: Sample, __: Options) -> Predictor:
    """As a logit, from sums of logarithms: probabilities near 1 would tie."""

    def predict(sample: Sample) -> Floats:
        one, other = (special.logsumexp(special.log_expit(sign * sample.logits), axis=1) for sign in (1, -1))
        return np.asarray(one - other)

    return predict


def _mean_rank(fitted: Sample, _: Options) -> Predictor:
    """The mean share of the fitted rows that each member ranks below, as a logit."""
    ordered = np.sort(fitted.logits, axis=0)

    def predict(sample: Sample) -> Floats:
        size = len(ordered)
        below = [
            (np.searchsorted(known, values, "left") + np.searchsorted(known, values, "right") + 1) / (2 * size + 2)
            for known, values in zip(ordered.T, sample.logits.T, strict=True)
        ]
        return np.asarray(special.logit(np.mean(below, axis=0)))

    return predict


def _logistic(fitted: Sample, _: Options) -> Predictor:
    model = LogisticRegression(max_iter=1000).fit(_clipped(fitted), fitted.labels)
    return lambda sample: np.asarray(model.decision_function(_clipped(sample)))


def _mlp(fitted: Sample, options: Options) -> Predictor:
    return _outputs(fit(MlpCombiner, fitted, options.seed))


def _weighted(make: Callable[[int, int], nn.Module], fitted: Sample, options: Options) -> Predictor:
    """Weights of the members' logits, which are all scaled and shifted alike before, so that their mean is calibrated."""
    mean = _clipped(fitted).mean(axis=1, keepdims=True)
    platt = LogisticRegression(max_iter=1000).fit(mean, fitted.labels)
    slope, shift = max(float(platt.coef_[0, 0]), LEAST_SLOPE), float(platt.intercept_[0])

    def calibrated(sample: Sample) -> Sample:
        return replace(sample, logits=slope * _clipped(sample) + shift)

    predict = _outputs(fit(make, calibrated(fitted), options.seed))
    return lambda sample: predict(calibrated(sample))


def _free(fitted: Sample, options: Options) -> Predictor:
    return _weighted(partial(FreeCombiner, offset=options.offset), fitted, options)


def _clipped(sample: Sample) -> Floats:
    return np.asarray(sample.logits.clip(-LOGIT_LIMIT, LOGIT_LIMIT))


def _outputs(model: nn.Module) -> Predictor:
    def predict(sample: Sample) -> Floats:
        with torch.no_grad():
            return np.asarray(model(*tensors(sample)[:2]).numpy())

    return predict


FORMS: dict[str, Form] = {
    "best_member": _best_member,
    "mean_probability": _mean_probability,
    "mean_logit": _mean_logit,
    "mean_rank": _mean_rank,
    "logistic": _logistic,
    "mlp": _mlp,
    "weighted_free": _free,
    "weighted_constrained": partial(_weighted, ConstrainedCombiner),
}
UNFITTED = ("best_member", "mean_probability", "mean_logit")  # a row's score does not depend on who else was fitted
FEATURE_WEIGHTED = ("weighted_free", "weighted_constrained")


def combined(form: str, sample: Sample, fitted: npt.NDArray[np.bool_], fold: Ints | None, options: Options) -> Floats:
    """Logits of all rows: of fitted ones by fits to the other folds where there are any, of the others by a fit to all of them.

    The fits to folds differ in scale, and rows of different folds are ranked together: each is shifted and scaled to have, over
    all fitted rows, mean and spread of the fit to all. A form that learned nothing then ranks like the mean logit.

    Parameters
    ----------
    fitted, fold
        Which rows are fitted; fold of each, -1 for those that are not. Shapes (N,).
    """
    out = FORMS[form](sample.of(fitted), options)(sample)
    if fold is None or form in UNFITTED:
        return out
    mean, spread = out[fitted].mean(), out[fitted].std()
    for number in range(fold.max() + 1):
        own = FORMS[form](sample.of(fitted & (fold != number)), options)(sample)
        scale = spread / (own[fitted].std() or 1.0)
        out[fold == number] = ((own - own[fitted].mean()) * scale + mean)[fold == number]
    return out


def features_alone(judged: Sample, folds: int, resamples: int, seed: int) -> dict[str, Any]:
    """AUC, with its interval, of a cross-fitted logistic regression on the features: what they say of the class by themselves."""
    folds = min(folds, int(np.bincount(judged.labels, minlength=2).min()))
    if not judged.features.shape[1] or folds < 2:
        return {"value": None, "low": None, "high": None, "reason": "no features, or fewer than two objects of a class"}
    fold = fold_numbers(judged, folds, seed)
    score = np.empty(len(fold))
    for number in range(folds):
        known = judged.of(fold != number)
        model = LogisticRegression(max_iter=1000).fit(known.features, known.labels)
        # the share of lenses differs between folds, and must not shift the scores of one against another's
        prior = special.logit(known.labels.mean())
        score[fold == number] = model.decision_function(judged.features[fold == number]) - prior
    found = intervals.bootstrap(roc.compress(judged.labels, score), {"auc": roc.auc}, resamples, seed)["auc"]
    return {"value": found.value, "low": found.low, "high": found.high}
