"""Differences of AUC between trainings with several seeds: what objects and what seeds leave to chance (R-A3).

With D_s the difference between two cells at seed s, the variance of its mean over S common seeds is that of Obuchowski & Rockette
1995 (Commun. Stat. Simul. Comput. 24, 285), seeds in the place of readers: the variance of the D_s, by S, plus the covariance that
having the same objects gives the D_s of two seeds. The first holds what seeds change and what objects add to one seed alone, the
second what objects add to all seeds, so nothing is counted twice. Covariances are DeLong's over the objects that two trainings
share: validation sets may be the same, overlap, or have nothing in common. Degrees of freedom by Welch and Satterthwaite, as in
Hillis 2007 (Stat. Med. 26, 596). The spread of two or three seeds is small by accident now and then: the first part is never less
than what objects alone add to single seeds. Measured coverages are in tests/unit/audit/test_differences.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
import numpy.typing as npt
from scipy import stats

from lensdata.audit.delong import components
from lensdata.audit.intervals import holm
from lensdata.audit.seeds import LEVEL
from lensdata.audit.studies import TrialResult
from lensdata.errors import InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Scores = tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]
"""cutout_id, label (1 positive) and logit of the objects that a trial was validated on; shapes (n,)."""


@dataclass(frozen=True)
class Difference:
    """AUC of a cell less that of the reference; figures are None where they cannot be had, and ``note`` says why.

    Attributes
    ----------
    seeds
        Seeds that both have.
    value, low, high
        Mean over these seeds, with its 95% interval.
    p_value, p_holm
        Two-sided, by itself and corrected for all cells of the study that are judged on the same task (Holm).
    error
        Standard error; its square is the sum of those of the two parts.
    error_common
        What all seeds have in common: their objects. Zero where the estimate of it is negative.
    error_per_seed
        What each seed has to itself: the seed, and what objects add to it alone; None with one seed, where it is not measured.
    degrees_of_freedom
        Of the t quantile; infinite is the normal one.
    shared_positive, shared_negative
        Objects that the cell and the reference were both judged on, the fewest of any seed.
    """

    cell: str
    reference: str
    seeds: tuple[int, ...] = ()
    value: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    error: float | None = None
    error_common: float | None = None
    error_per_seed: float | None = None
    degrees_of_freedom: float | None = None
    shared_positive: int | None = None
    shared_negative: int | None = None
    note: str = ""

    @property
    def same_task(self) -> bool:
        """Whether both were asked the same: without a common object of a class, AUCs are of two different tasks."""
        return 0 not in (self.shared_positive, self.shared_negative)


@dataclass(frozen=True)
class Part:
    """What the objects of one class add to an AUC: the sum of squares is their part of its variance.

    Attributes
    ----------
    ids, influence
        Of every object, by ascending id; shapes (n,).
    """

    ids: Ints
    influence: Floats


@dataclass(frozen=True)
class Judged:
    """An AUC, with the influence of either class's objects on it."""

    auc: float
    positives: Part
    negatives: Part


def judged(scores: Scores, name: str = "trial") -> Judged:
    """AUC of one training and DeLong's components, keyed by object.

    Raises
    ------
    InputError
        An object occurs twice, a class has fewer than two, or a logit is not finite.
    """
    ids, label = np.asarray(scores[0], np.int64), np.asarray(scores[1]).astype(bool)
    if len(np.unique(ids)) < len(ids):
        raise InputError(f"{name}: a cutout_id occurs twice among its validation scores; score every stamp once.")
    try:
        of_positives, of_negatives = components(label, scores[2])
    except ValueError as error:
        raise InputError(f"{name}: no AUC can be made of its validation scores: {error}.") from error
    return Judged(float(of_positives.mean()), _part(ids[label], of_positives), _part(ids[~label], of_negatives))


def _part(ids: Ints, values: Floats) -> Part:
    order = np.argsort(ids)
    count = len(ids)
    return Part(ids[order], (values[order] - values.mean()) / np.sqrt(count * (count - 1)))


def compare(trials: Iterable[TrialResult], scores: Mapping[str, Scores], reference: str) -> dict[str, Difference]:
    """Difference in validation AUC of every cell from the reference cell.

    Parameters
    ----------
    trials
        Of the study; only those done count.
    scores
        Validation scores by trial name.
    reference
        Name of the cell to compare with.

    Returns
    -------
    dict
        By cell, without the reference, in the order in which cells first occur.
    """
    by_cell: dict[str, dict[int, Judged]] = {}
    for trial in trials:
        own = by_cell.setdefault(trial.cell, {})
        if trial.status == "done" and trial.trial in scores:
            own[trial.seed] = judged(scores[trial.trial], trial.trial)
    base = by_cell.get(reference, {})
    found = {cell: difference(own, base, cell, reference) for cell, own in by_cell.items() if cell != reference}
    return _corrected(found)


def difference(ours: Mapping[int, Judged], base: Mapping[int, Judged], cell: str, reference: str) -> Difference:
    """Of two cells, each as its AUCs by seed."""
    seeds = tuple(sorted(set(ours) & set(base)))
    if not seeds:
        lacking = reference if not base else cell if not ours else ""
        note = f"no finished training of {lacking}" if lacking else f"no seed in common with {reference}"
        return Difference(cell, reference, note=note)
    pairs = [(ours[seed], base[seed]) for seed in seeds]
    differences = np.array([one.auc - two.auc for one, two in pairs])
    covariance = covariances(pairs)
    value, count = float(differences.mean()), len(seeds)
    if count == 1:
        per_seed, common, freedom = None, float(covariance[0, 0]), inf
    else:
        common = max(0.0, float((covariance.sum() - np.trace(covariance)) / (count * (count - 1))))
        spread = float(differences.var(ddof=1)) / count
        per_seed = max(spread, (float(np.trace(covariance)) / count - common) / count)
        freedom = (per_seed + common) ** 2 / (spread**2 / (count - 1)) if spread > 0 else inf
    error = float(np.sqrt((per_seed or 0.0) + common))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    p_value = 2 * float(stats.t.sf(abs(value) / error, freedom)) if error > 0 else float(value == 0)
    lenses, others = (min(len(np.intersect1d(getattr(one, kind).ids, getattr(two, kind).ids)) for one, two in pairs)
                      for kind in ("positives", "negatives"))  # fmt: skip
    return Difference(
        cell, reference, seeds, value, value - reach, value + reach, p_value, None, error,
        float(np.sqrt(common)), None if per_seed is None else float(np.sqrt(per_seed)), freedom,
        lenses, others, _note(lenses, others, count),
    )  # fmt: skip


def _note(lenses: int, others: int, count: int) -> str:
    """What keeps a difference from being read as better or worse."""
    unlike = (
        "" if lenses and others else "objects" if not lenses and not others else "negatives" if lenses else "lenses"
    )
    told = [f"other {unlike}: not the same task"] if unlike else []
    return "; ".join(told + (["one seed: its spread is not measured"] if count == 1 else []))


def covariances(pairs: Sequence[tuple[Judged, Judged]]) -> Floats:
    """Covariance that the chance of objects gives to the differences of pairs of AUCs; shape (pairs, pairs).

    Objects count as the same where their id is: with one set for all it is DeLong's covariance, with none in common zero.
    """
    total = np.zeros((len(pairs), len(pairs)))
    for kind in ("positives", "negatives"):
        parts: list[tuple[Part, Part]] = [(getattr(one, kind), getattr(two, kind)) for one, two in pairs]
        ids = np.unique(np.concatenate([part.ids for both in parts for part in both]))
        influence = np.zeros((len(pairs), len(ids)))
        for row, (one, two) in zip(influence, parts, strict=True):
            row[np.searchsorted(ids, one.ids)] += one.influence
            row[np.searchsorted(ids, two.ids)] -= two.influence
        total += influence @ influence.T
    return total


def _corrected(found: dict[str, Difference]) -> dict[str, Difference]:
    """With Holm's p-values over all differences that there are between cells with the same task."""
    tested = {cell: one.p_value for cell, one in found.items() if one.p_value is not None and one.same_task}
    corrected = dict(zip(tested, holm(list(tested.values())).tolist(), strict=True)) if tested else {}
    return {cell: replace(one, p_holm=corrected.get(cell)) for cell, one in found.items()}
