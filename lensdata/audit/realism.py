"""Are injected lenses like real ones, to the network? Asked before any completeness is quoted (R-E7).

A completeness of injections is one of lenses only as far as the network takes them for lenses of the sky. Three questions: can a
linear probe tell both apart in the features that the network judges by; do colours, S/N and scores agree between real lenses
and injections matched to them; and is a matched injection found as often as its real lens?
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from scipy.spatial import cKDTree
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn's own dependency

from lensdata.audit import gates, intervals, roc
from lensdata.audit.blocks import TooFewBlocks, block_bootstrap
from lensdata.audit.intervals import Interval, binomial, holm
from lensdata.audit.recovery import gap
from lensdata.errors import InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Labels = npt.NDArray[np.integer]

LIMIT = 0.7  # AUC below whose whole interval injections pass
STRENGTHS = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]  # inverse penalties of the probe, chosen by inner folds
ROWS_PER_FEATURE = 5  # with fewer, the features are first reduced to as many as that leaves
INNER_FOLDS = 3
CONTROLS = 3  # splits into random halves, of either kind
NEIGHBOURS = 200  # candidates of each real lens


def probe(
    real: npt.ArrayLike,
    injected: npt.ArrayLike,
    real_groups: npt.ArrayLike,
    injected_groups: npt.ArrayLike,
    *,
    limit: float = LIMIT,
    controls: int = CONTROLS,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """AUC of a linear probe, real against injected, with what the sample's own noise gives.

    Logistic regression on standardised features, each row judged by a fit without its group; its strength, and the components
    of features that are many, are of the rows fitted alone.

    Parameters
    ----------
    real, injected
        Features of the network's last hidden layer, (n, k) and (m, k).
    real_groups, injected_groups
        What must not be on both sides of a fold: the host or its patch of sky, (n,) and (m,). The same value means the same
        group in both.
    limit
        The gate passes where the whole interval lies below it, and above its mirror, and fails where the whole interval lies above.
    controls
        Splits of either kind into random halves (`control`).

    Returns
    -------
    dict
        ``measured`` false with a ``reason``; or ``auc, low, high`` (``over`` resampled groups where there are enough, else
        rows), ``limit``, ``verdict`` (PASS, FAIL, or WARN: the sample is too small to say), ``message``, ``n_real, n_injected,
        n_groups, n_features, n_components``, and ``controls`` (`control`).

    Raises
    ------
    InputError
        Features are not finite, or not of the same number.
    """
    ours, theirs = np.asarray(real, np.float64), np.asarray(injected, np.float64)
    if ours.ndim != 2 or theirs.ndim != 2 or ours.shape[1] != theirs.shape[1]:
        raise InputError(f"Features are (rows, k) with the same k for both, found {ours.shape} and {theirs.shape}.")
    features = np.concatenate([ours, theirs])
    if not np.isfinite(features).all():
        raise InputError(f"{int((~np.isfinite(features)).any(axis=1).sum())} rows of features are not finite.")
    labels = np.r_[np.zeros(len(ours), np.int64), np.ones(len(theirs), np.int64)]
    groups = _numbered(np.concatenate([np.asarray(real_groups), np.asarray(injected_groups)]))
    sizes = {"n_real": len(ours), "n_injected": len(theirs), "n_groups": int(groups.max(initial=-1)) + 1}
    sizes |= {"n_features": features.shape[1], "n_components": _components(len(features), features.shape[1])}
    few = _too_few(sizes)
    if few:
        return _not_measured(few, sizes)
    scores = _out_of_fold(features, labels, groups, seed)
    judged = np.isfinite(scores)
    if len(np.unique(labels[judged])) < 2:
        return _not_measured("all real lenses, or all injections, are in one fold of groups", sizes)
    found, over = _auc(labels[judged], scores[judged], groups[judged], resamples, seed)
    verdict = _verdict(found, limit)
    figures = f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
    said = {"PASS": "below", "WARN": "on this sample too uncertain for", "FAIL": "above"}[verdict]
    return {
        "measured": True, "auc": found.value, "low": found.low, "high": found.high, "over": over, "limit": limit,
        "verdict": verdict, **sizes,
        "message": f"A linear probe tells injections from real lenses with an AUC of {figures}, {said} the limit of {limit:g}.",
        "controls": [
            control("real", ours, groups[: len(ours)], repeats=controls, seed=seed),
            control("injected", theirs, groups[len(ours) :], repeats=controls, seed=seed),
        ],
    }  # fmt: skip


def _verdict(found: Interval, limit: float) -> str:
    """What the whole interval says: an AUC below the limit on a handful of lenses passes nothing.

    >>> [_verdict(Interval(*auc), 0.7) for auc in ((0.55, 0.45, 0.65), (0.64, 0.57, 0.71), (0.75, 0.68, 0.82), (0.8, 0.74, 0.86))]
    ['PASS', 'WARN', 'WARN', 'FAIL']
    """
    if found.low >= limit:
        return "FAIL"
    # far below a half the folds are ranked the wrong way round, which is to tell them apart as well
    return "PASS" if 1 - limit < found.low and found.high < limit else "WARN"


def control(
    of: Literal["real", "injected"], features: Floats, groups: npt.ArrayLike, *, repeats: int = CONTROLS, seed: int = 0
) -> dict[str, Any]:
    """The same probe between random halves of one kind: what an AUC is worth where there is nothing to tell.

    Groups are halved, not rows.

    Returns
    -------
    dict
        ``of, n``, ``aucs`` of the splits (empty where the sample is too small), and their ``mean, least, largest`` or None.
    """
    numbers, aucs = _numbered(np.asarray(groups)), []
    rng = np.random.default_rng(seed)
    for repeat in range(repeats):
        total = int(numbers.max(initial=-1)) + 1
        labels = (rng.permutation(total) % 2)[numbers].astype(np.int64)
        if total >= gates.FOLDS and np.bincount(labels, minlength=2).min() >= gates.MIN_OBJECTS:
            scores = _out_of_fold(features, labels, numbers, seed + repeat)
            judged = np.isfinite(scores)
            curve = intervals.compress(labels[judged], np.round(scores[judged], 9)).roc()
            aucs.append(float(roc.auc(curve)))
    figures = (float(np.mean(aucs)), min(aucs), max(aucs)) if aucs else (None, None, None)
    return {"of": of, "n": len(numbers), "aucs": aucs, **dict(zip(("mean", "least", "largest"), figures, strict=True))}


def _too_few(sizes: Mapping[str, int]) -> str:
    """Why a probe cannot be asked; empty where it can."""
    if min(sizes["n_real"], sizes["n_injected"]) < gates.MIN_OBJECTS:
        return f"{sizes['n_real']} real lenses and {sizes['n_injected']} injections, of each {gates.MIN_OBJECTS} are needed"
    return "" if sizes["n_groups"] >= gates.FOLDS else f"{sizes['n_groups']} groups, {gates.FOLDS} are needed"


def _not_measured(reason: str, sizes: Mapping[str, int]) -> dict[str, Any]:
    message = f"Not measured: {reason}."
    return {"measured": False, "reason": reason, "verdict": "NOT MEASURED", "message": message, **sizes}


def _numbered(groups: npt.NDArray[Any]) -> Ints:
    return np.asarray(np.unique(groups, return_inverse=True)[1], np.int64)


def _components(rows: int, features: int) -> int:
    """Components that so many rows carry."""
    return features if features <= rows / ROWS_PER_FEATURE else max(1, rows // ROWS_PER_FEATURE)


def _out_of_fold(features: Floats, labels: Labels, groups: Ints, seed: int) -> Floats:
    """Score of each row by a probe that saw no row of its group; NaN in folds whose complement lacks a class."""
    folds, scores = gates.make_folds(labels, groups, seed), np.full(len(labels), np.nan)
    with threadpool_limits(1), warnings.catch_warnings():  # the fits are too small for several threads
        warnings.simplefilter("ignore", ConvergenceWarning)  # the order of the scores is settled long before
        warnings.simplefilter("ignore", FutureWarning)  # of attributes that are not read here
        warnings.simplefilter("ignore", UserWarning)  # of a class with fewer members than folds
        for fold in np.unique(folds):
            held = folds == fold
            ours, blank = labels[~held], np.zeros(int((~held).sum()))
            inner = StratifiedGroupKFold(INNER_FOLDS, shuffle=True, random_state=seed)
            # a fold without a class has no loss to compare
            splits = [
                pair
                for pair in inner.split(blank, ours, groups[~held])
                if all(len(np.unique(ours[part])) == 2 for part in pair)
            ]
            if len(splits) < 2:
                continue
            model = LogisticRegressionCV(
                Cs=STRENGTHS, cv=splits, scoring="neg_log_loss", class_weight="balanced", solver="newton-cholesky"
            )
            steps = [StandardScaler(), model]
            components = _components(int((~held).sum()), features.shape[1])
            if components < features.shape[1]:
                steps.insert(1, PCA(components, random_state=seed))
            fitted = make_pipeline(*steps).fit(features[~held], ours)
            scores[held] = fitted.decision_function(features[held])
    return scores


def _auc(labels: Labels, scores: Floats, groups: Ints, resamples: int, seed: int) -> tuple[Interval, str]:
    """AUC with its interval, and over what it was resampled."""
    rounded = np.round(scores, 9)  # equal features score equal but for rounding, which is not an order
    try:
        return block_bootstrap(labels, rounded, groups, (), resamples, seed)["auc"], "groups"
    except TooFewBlocks:
        return intervals.bootstrap(intervals.compress(labels, rounded), (), resamples, seed)["auc"], "rows"


@dataclass(frozen=True)
class Matches:
    """Injections matched to real lenses.

    Attributes
    ----------
    real, injected
        Row numbers of the pairs, (m,) each; a real lens is in several, an injection in one.
    distances
        Of each pair: root mean square over the columns, in units of their scales, (m,).
    columns
        Columns that were matched: those wanted that both have.
    absent
        Columns wanted that one of them lacks.
    unmatched
        Why real lenses have no injection, and how many.
    """

    real: Ints
    injected: Ints
    distances: Floats
    columns: tuple[str, ...]
    absent: tuple[str, ...]
    unmatched: dict[str, int]


def match(
    real: pd.DataFrame,
    injected: pd.DataFrame,
    columns: Sequence[str],
    scales: Mapping[str, float] | None = None,
    *,
    caliper: float = 1.0,
    per_lens: int = 2,
) -> Matches:
    """Give each real lens its nearest injections, nearest pairs first; an injection is given once.

    Parameters
    ----------
    columns
        Wanted: Einstein radius, magnitude of the arc, magnitude, colour and seeing of the host.
    scales
        Of a column, a difference that counts as 1; the standard deviation over the real lenses where not given.
    caliper
        Largest root mean square difference over the columns.
    per_lens
        Injections of a real lens, at most.

    Raises
    ------
    InputError
        There is no column in common.
    """
    named = tuple(
        name for name in columns if all(name in rows and rows[name].notna().any() for rows in (real, injected))
    )
    if not named:
        raise InputError(f"Real lenses and injections share none of the columns {', '.join(columns)} to match them by.")
    ours, theirs = (rows[list(named)].to_numpy(np.float64, na_value=np.nan) for rows in (real, injected))
    spread = np.array(
        [(scales or {}).get(name) or float(np.nanstd(ours[:, at])) or 1.0 for at, name in enumerate(named)]
    )
    points = [values / spread / np.sqrt(len(named)) for values in (ours, theirs)]
    whole = [np.flatnonzero(np.isfinite(values).all(axis=1)) for values in points]
    edges = np.empty((0, 3))
    if all(len(rows) for rows in whole):
        reach = np.arange(1, min(max(NEIGHBOURS, per_lens), len(whole[1])) + 1)
        tree = cKDTree(points[1][whole[1]])
        distance, place = tree.query(points[0][whole[0]], k=reach, distance_upper_bound=caliper)
        near = np.isfinite(distance)
        who = np.broadcast_to(whole[0][:, None], distance.shape)
        edges = np.stack([distance[near], who[near], whole[1][place[near]]], axis=1)
    taken = _greedy(edges, len(real), len(injected), per_lens)
    pairs = edges[taken]
    close, given = len(np.unique(edges[:, 1])), len(np.unique(pairs[:, 1]))
    unmatched = {
        "a column is missing": len(real) - len(whole[0]),
        "none within the caliper": len(whole[0]) - close,
        "all within the caliper taken": close - given,
    }
    return Matches(
        pairs[:, 1].astype(np.int64), pairs[:, 2].astype(np.int64), pairs[:, 0], named,
        tuple(name for name in columns if name not in named),
        {reason: count for reason, count in unmatched.items() if count},
    )  # fmt: skip


def _greedy(edges: Floats, num_real: int, num_injected: int, per_lens: int) -> Ints:
    """Numbers of the edges (distance, real, injected) that are taken, nearest first."""
    room, free, taken = np.full(num_real, per_lens), np.ones(num_injected, bool), []
    for number in np.lexsort((edges[:, 2], edges[:, 1], edges[:, 0])):
        one, two = int(edges[number, 1]), int(edges[number, 2])
        if room[one] and free[two]:
            room[one] -= 1
            free[two] = False
            taken.append(number)
    return np.asarray(taken, np.int64)


def compare(real: pd.DataFrame, injected: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Are two samples alike, column by column?

    Parameters
    ----------
    columns
        Colours, S/N, scores; nulls are left out and a column that either lacks is skipped.

    Returns
    -------
    pandas.DataFrame
        ``column, n_real, n_injected, median_real, median_injected``; ``difference``: of the means, injected less real, in units
        of the root of the mean variance (NaN where nothing varies); ``ks, p`` of the two-sample Kolmogorov-Smirnov test, and
        ``p_holm``, corrected over the columns (`intervals.holm`). Several injections on one host make p too small.
    """
    records = []
    for name in columns:
        if name not in real or name not in injected:
            continue
        ours, theirs = (rows[name].to_numpy(np.float64, na_value=np.nan) for rows in (real, injected))
        ours, theirs = ours[np.isfinite(ours)], theirs[np.isfinite(theirs)]
        if min(len(ours), len(theirs)) < 2:
            continue
        spread = float(np.sqrt((np.var(ours, ddof=1) + np.var(theirs, ddof=1)) / 2))
        test = stats.ks_2samp(ours, theirs)
        records.append({
            "column": name, "n_real": len(ours), "n_injected": len(theirs),
            "median_real": float(np.median(ours)), "median_injected": float(np.median(theirs)),
            "difference": float(theirs.mean() - ours.mean()) / spread if spread > 0 else float("nan"),
            "ks": float(test.statistic), "p": float(test.pvalue),
        })  # fmt: skip
    found = pd.DataFrame(records)
    return found.assign(p_holm=holm(found["p"].to_numpy())) if len(found) else found


def recovered(
    real_logits: npt.ArrayLike, injected_logits: npt.ArrayLike, thresholds: Mapping[float, float]
) -> list[dict[str, Any]]:
    """How often real lenses and the injections matched to them exceed each threshold.

    Parameters
    ----------
    real_logits, injected_logits
        Of the pairs, or each once: (n,) and (m,).
    thresholds
        The logit to exceed by false-positive rate.

    Returns
    -------
    list of dict
        ``fpr``; ``real``, ``injected``: ``value, low, high, hits, n``; ``gap``: real less injected (`recovery.gap`).
    """
    out = []
    for fpr, above in thresholds.items():
        shares = {}
        for name, logits in (("real", real_logits), ("injected", injected_logits)):
            hits = np.asarray(logits, np.float64) > above
            found = binomial(int(hits.sum()), len(hits))
            value = found.value if len(hits) else None
            shares[name] = {
                "value": value,
                "low": found.low,
                "high": found.high,
                "hits": int(hits.sum()),
                "n": len(hits),
            }
        out.append({"fpr": fpr, **shares, "gap": gap(shares["real"], shares["injected"])})
    return out
