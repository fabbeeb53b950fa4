"""Can anything simpler than an arc tell the classes apart? Gates on what a network could see (R-E4).

Two kinds of gates. What has nothing to do with lenses (observing conditions, sky, odd pixels, noise, files) must not tell the
classes apart in any sample. What differs for physical reasons (a lens has a luminous, red host) is a floor that a network
must beat where negatives were drawn at random; limits hold where the hosts are alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn's own dependency

from lensdata.audit import intervals
from lensdata.audit.baseline import classifier
from lensdata.audit.intervals import Interval

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]
Learner = Literal["logistic", "trees"]
Sample = Literal["random", "host_matched"]

FOLDS = 5
PENALTY = 0.01  # inverse strength: hundreds of pixels against two thousand stamps need a strong one
LEARNERS: tuple[Learner, ...] = ("logistic", "trees")
TREES, TREE_RATE = 40, 0.1  # shallow and few: what two thousand stamps can carry
MIN_OBJECTS = 20  # of each class
SEVERITY = ("PASS", "NOT MEASURED", "WARN", "FAIL")  # of an overall verdict, from harmless to bad


@dataclass(frozen=True)
class Limits:
    """AUC below which a gate passes, below which it warns, and what is held against them.

    `value`: the AUC itself, as R-E4 writes it; a FAIL then also needs an interval clear of 0.5.
    `low`: the lower end of its 95% interval, so that a small sample does not fail by chance; this project's own.
    """

    passes: float
    warns: float
    judged: Literal["value", "low"]


CORE = Limits(0.60, 0.65, "value")  # R-E4
PROFILE = Limits(0.55, 0.60, "value")  # R-E4
NUISANCE = Limits(0.55, 0.60, "low")  # this project's own: the numbers of R-E4's profile, on the lower bound
# R-E4's numbers are for logistic regression. Trees also see the depth a little, as scatter of the colours of faint light.
LIGHT_TREES = Limits(0.60, 0.65, "low")


@dataclass(frozen=True)
class Gate:
    """A question to the data.

    Attributes
    ----------
    physical
        The classes may differ here because lenses are what they are: a floor unless the hosts are alike.
    """

    title: str
    limits: Limits
    physical: bool
    seen: str
    trees: Limits | None = None  # where they differ

    def limits_for(self, learner: Learner) -> Limits:
        """The limits that a learner is held to."""
        return self.trees if learner == "trees" and self.trees else self.limits


GATES = {
    "metadata": Gate("Observing conditions", NUISANCE, False, "exposures, seeing, depth, reddening and declination"),
    "background": Gate("Background", NUISANCE, False, "level, noise and quantiles of the sky beyond 8 arcsec"),
    "pixel_statistics": Gate("Pixel statistics", NUISANCE, False, "missing, repeated and saturated pixels and seams"),
    "high_frequencies": Gate("High frequencies", NUISANCE, False, "the texture of the sky's noise"),
    "files": Gate("File properties", NUISANCE, False, "route, layer and quality of the files"),
    "pair": Gate("Pairs", CORE, False, "variances of a stamp and its control, mean and scatter of their difference"),
    "catalogue": Gate("Catalogue", CORE, True, "magnitudes, colours, shape and type"),
    "core": Gate("Core", CORE, True, "the pixels with r < 5", LIGHT_TREES),
    "profile": Gate("Radial profile", PROFILE, True, "the azimuthal mean from the core to 8 arcsec", LIGHT_TREES),
    "annulus": Gate("Arc annulus", CORE, True, "the light at 0.8 to 3 arcsec, coarsely", LIGHT_TREES),
    "blueness": Gate("Blueness", CORE, True, "the colour of the annulus against the core"),
    "fine_structure": Gate("Fine structure", CORE, True, "the roughness of the annulus against the sky"),
}


def linear_auc(features: Floats, labels: Labels, groups: npt.NDArray[np.integer] | None, seed: int) -> float:
    """AUC of a logistic regression, each stamp judged by a fit to the other folds; NaN where a class is too small.

    Parameters
    ----------
    groups
        Of the stamps, e.g. HEALPix pixels; members of one group stay in one fold. None lets all fall freely.
    """
    smallest = int(np.bincount(labels, minlength=2).min())
    if smallest < FOLDS:
        return float("nan")
    scores = out_of_fold(features, labels, make_folds(labels, groups, seed), "logistic", seed)
    judged = np.isfinite(scores)
    return float(roc_auc_score(labels[judged], scores[judged])) if len(set(labels[judged])) == 2 else float("nan")


def make_folds(labels: Labels, groups: npt.NDArray[Any] | None, seed: int) -> npt.NDArray[np.int64]:
    """Numbers 0 to `FOLDS` - 1 with alike shares of both classes; members of a group share one. None: no groups."""
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    folds = np.empty(len(labels), np.int64)
    blank = np.zeros(len(labels))
    with warnings.catch_warnings():  # of a class with fewer members than folds; out_of_fold leaves such folds out
        warnings.simplefilter("ignore", UserWarning)
        for number, (_, held) in enumerate(kind(FOLDS, shuffle=True, random_state=seed).split(blank, labels, groups)):
            folds[held] = number
    return folds


def out_of_fold(
    features: Floats, labels: Labels, folds: npt.NDArray[Any], learner: Learner, seed: int
) -> npt.NDArray[np.float64]:
    """Score of each stamp by a model that saw no stamp of its fold; NaN in folds whose complement lacks a class.

    Scores are as if both classes were equally frequent: the share of positives differs between folds, and must not shift the scores
    of one against another's. Features that do not vary are left out.
    """
    values = _usable(features, fill=learner == "logistic")
    scores = np.full(len(labels), np.nan)
    # One thread: the models are too small for several, and on a busy machine those wait for each other
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the order of the scores is settled long before
        for fold in np.unique(folds):
            held = folds == fold
            if len(np.unique(labels[~held])) < 2:
                continue
            if not values.shape[1]:
                scores[held] = 0.0
            elif learner == "logistic":
                model = LogisticRegression(C=PENALTY, max_iter=200, class_weight="balanced")
                fitted = make_pipeline(StandardScaler(), model).fit(values[~held], labels[~held])
                scores[held] = fitted.decision_function(values[held])
            else:
                # class weights would make scikit-learn bin by weighted percentiles, 20 times slower than all else
                trees = classifier(seed, trees=TREES, learning_rate=TREE_RATE).fit(values[~held], labels[~held])
                share = np.mean(labels[~held])
                scores[held] = trees.decision_function(values[held]) - np.log(share / (1 - share))
    return scores


def balanced_sample(labels: Labels, size: int, seed: int) -> npt.NDArray[np.int64]:
    """Sorted indices of up to ``size`` stamps, as many of either class as there are, up to half each."""
    random = np.random.default_rng(seed)
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[: size // 2] for label in (0, 1)
    ]  # at most half of each, so that a rare class is not lost among the other
    return np.sort(np.concatenate(chosen))


def judge(
    name: str,
    given: str,
    features: Floats | str,
    labels: Labels,
    folds: npt.NDArray[Any],
    *,
    sample: Sample,
    resamples: int,
    seed: int,
    for_trees: Floats | None = None,
) -> list[dict[str, Any]]:
    """A gate's entries, one per learner.

    Parameters
    ----------
    name
        Of `GATES`.
    given
        "model" (the tensors that a network sees), "stored" (stamps and what the files say of them) or "catalogue".
    features
        (n, k), or the reason why there are none.
    folds
        (n,), fold of each stamp.
    sample
        "random": a physical gate is a floor; "host_matched": its limits hold.
    resamples
        Of the stratified bootstrap.
    for_trees
        (n, j), other features for the trees.
    """
    gate = GATES[name]
    graded = not gate.physical or sample == "host_matched"
    reason = features if isinstance(features, str) else _too_little(features, labels)
    entries = []
    for learner in LEARNERS:
        limits = gate.limits_for(learner)
        if learner == "trees" and for_trees is not None and not reason:
            features = for_trees
        entry = {
            "gate": name, "title": gate.title, "learner": learner, "sample": sample, "input": given,
            "n_features": 0 if isinstance(features, str) else int(features.shape[1]),
            "limits": {"pass": limits.passes, "warn": limits.warns, "judged": limits.judged} if graded else None,
        }  # fmt: skip
        if reason or isinstance(features, str):
            entries.append(entry | {"auc": None, "verdict": "NOT MEASURED", "message": f"Not measured: {reason}."})
            continue
        scores = out_of_fold(features, labels, folds, learner, seed)
        judged = np.isfinite(scores)
        if len(np.unique(labels[judged])) < 2:
            message = "Not measured: all stamps of a class are in one fold."
            entries.append(entry | {"auc": None, "verdict": "NOT MEASURED", "message": message})
            continue
        # equal features score equal but for rounding, which is not an order
        counts = intervals.compress(labels[judged], np.round(scores[judged], 9))
        found = intervals.bootstrap(counts, (), resamples, seed)["auc"]
        verdict = verdict_of(found, limits) if graded else "FLOOR"
        auc = {
            "value": found.value, "low": found.low, "high": found.high,
            "n_positive": counts.n_positive, "n_negative": counts.n_negative,
        }  # fmt: skip
        entries.append(entry | {"auc": auc, "verdict": verdict, "message": message_of(gate, found, verdict)})
    return entries


def verdict_of(found: Interval, limits: Limits) -> str:
    """PASS, WARN or FAIL of a measured AUC.

    An interval wholly below 0.5 is mirrored and held to the same limits, but is no FAIL: a sample that is balanced more closely
    than chance (quotas, matched pairs) ranks unseen folds the wrong way round, and so does a difference that turns over the sky.

    >>> verdict_of(Interval(0.62, 0.49, 0.75), PROFILE), verdict_of(Interval(0.62, 0.60, 0.64), PROFILE)
    ('WARN', 'FAIL')
    >>> verdict_of(Interval(0.30, 0.28, 0.32), PROFILE)
    'WARN'
    """
    reverse = found.high < 0.5
    value, low = (1 - found.value, 1 - found.high) if reverse else (found.value, found.low)
    figure = value if limits.judged == "value" else low
    if figure < limits.passes:
        return "PASS"
    return "WARN" if figure < limits.warns or low <= 0.5 or reverse else "FAIL"


def message_of(gate: Gate, found: Interval, verdict: str) -> str:
    """One sentence on what a verdict means."""
    seen = gate.seen[:1].upper() + gate.seen[1:]
    if verdict == "FLOOR":
        return f"{seen}: what they alone reach against negatives drawn at random, and a network must beat."
    if found.high < 0.5:
        return (
            f"{seen}: they rank unseen folds the wrong way round, as in a sample balanced more closely than chance, or where a "
            "difference turns over the sky."
        )
    if verdict == "PASS":
        return f"{seen}: they do not tell the classes apart beyond the limit."
    if found.low <= 0.5:
        return f"{seen}: they may tell the classes apart; the sample is too small to say."
    begin = "they tell" if verdict == "FAIL" else "they begin to tell"
    if gate.physical:
        return f"{seen}: {begin} alike hosts with and without arcs apart; bright arcs do that, and so does a shortcut in the hosts."
    return f"{seen}: {begin} the classes apart, and a network can learn that in place of arcs."


def overall(entries: Iterable[dict[str, Any]]) -> str:
    """The worst verdict of what was held to limits; no PASS where that leaves a physical gate out (`not_judged`)."""
    known = list(entries)
    worst = max((entry["verdict"] for entry in known if _is_judged(entry)), key=SEVERITY.index, default="NOT MEASURED")
    return "NOT MEASURED" if worst == "PASS" and not_judged(known) else worst


def not_judged(entries: Iterable[dict[str, Any]]) -> list[str]:
    """Titles of the physical gates that are a floor or not measured in every entry: no alike hosts, or stamps that cannot say.

    >>> floor = {"gate": "core", "title": "Core", "verdict": "FLOOR"}
    >>> not_judged([floor]), not_judged([floor, floor | {"verdict": "PASS"}])
    (['Core'], [])
    """
    known = [entry for entry in entries if GATES[entry["gate"]].physical]
    judged = {entry["gate"] for entry in known if _is_judged(entry)}
    return list(dict.fromkeys(entry["title"] for entry in known if entry["gate"] not in judged))


def table_lines(entries: Sequence[dict[str, Any]]) -> list[str]:
    """The entries as lines of text."""
    lines = [
        f"{'gate':18s} {'input':9s} {'sample':12s} {'learner':8s} {'k':>4s}  {'AUC':5s}  {'95% interval':14s}  limit  verdict"
    ]
    for entry in entries:
        auc, limits = entry["auc"], entry["limits"]
        figures = f"{auc['value']:.3f}  {auc['low']:.3f} to {auc['high']:.3f}" if auc else f"{'-':5s}  {'':14s}"
        limit = f"{limits['pass']:.2f}" if limits else "-"
        names = f"{entry['gate']:18s} {entry['input']:9s} {entry['sample']:12s} {entry['learner']:8s}"
        lines.append(f"{names} {entry['n_features']:4d}  {figures}  {limit:5s}  {entry['verdict']}")
    return lines


def _is_judged(entry: dict[str, Any]) -> bool:
    return entry["verdict"] in ("PASS", "WARN", "FAIL")


def _too_little(features: Floats, labels: Labels) -> str:
    counts = np.bincount(labels, minlength=2)
    if counts.min() < MIN_OBJECTS:
        return f"{int(counts[1])} positives and {int(counts[0])} negatives, of each {MIN_OBJECTS} are needed"
    return "" if features.shape[1] else "the set has no column for it"


def _usable(features: Floats, *, fill: bool) -> npt.NDArray[np.float64]:
    """Columns that vary, what is not finite as NaN; ``fill``: as the column's median, with a column that says so."""
    values = np.where(np.isfinite(features), features, np.nan).astype(np.float64)
    known = np.isfinite(values)
    values, known = values[:, known.any(axis=0)], known[:, known.any(axis=0)]
    if fill:
        absent = ~known
        values = np.where(known, values, np.nanmedian(values, axis=0) if values.size else 0.0)
        values = np.concatenate([values, absent[:, absent.any(axis=0)]], axis=1)
        return values[:, np.ptp(values, axis=0) > 0] if len(values) else values
    varies = (np.nanmax(values, axis=0) > np.nanmin(values, axis=0)) | ~known.all(axis=0)
    return values[:, varies]
