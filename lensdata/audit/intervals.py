"""Intervals of ranking metrics by an exact stratified bootstrap, of fractions by the beta distribution (R-E1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from lensdata.audit import roc
from lensdata.audit.roc import GapCounts, Roc, compress, threshold_at_fpr

__all__ = [
    "Interval", "binomial", "bootstrap", "compress", "figures", "holm", "multinomial", "percentiles", "resampled", "studentised",
    "summarised", "threshold_at_fpr", "widened", "with_floor",
]  # fmt: skip

Floats = npt.NDArray[np.float64]
Figures = Mapping[str, Callable[[Roc], Floats]]
BinomialMethod = Literal["jeffreys", "wilson", "clopper-pearson"]
CHUNK_VALUES = 500_000  # counts of a chunk of resamples: a few MB, so that the passes over it stay in the cache
ONE_BY_ONE = 12  # objects of a cell up to which drawing them takes less time than a binomial draw of their number


@dataclass(frozen=True)
class Interval:
    """A value with the limits of its 95% interval."""

    value: float
    low: float
    high: float


def figures(fpr_levels: tuple[float, ...] = ()) -> dict[str, Callable[[Roc], Floats]]:
    """The figures of every report: AUC, average precision and completeness at fixed false-positive rates."""
    found: dict[str, Callable[[Roc], Floats]] = {"auc": roc.auc, "average_precision": roc.average_precision}
    for level in fpr_levels:
        found[f"tpr_at_fpr_{level:g}"] = partial(roc.tpr_at_fpr, level=level)
    return found


def bootstrap(counts: GapCounts, wanted: Figures | tuple[float, ...], resamples: int, seed: int) -> dict[str, Interval]:
    """Ranking metrics with 95% bootstrap intervals.

    Positives and negatives are resampled separately (stratified), all metrics on the same resamples. Intervals are percentiles
    of these, but that of the AUC, named ``auc``, is `studentised`.

    Parameters
    ----------
    wanted
        Functions of curves by name; false-positive rates stand for `figures` at these rates.

    Notes
    -----
    A resample cannot show what the sample never did, so two limits are widened: see `with_floor`. Measured coverages are in
    tests/unit/audit/test_coverage.py.
    """
    return summarised(
        counts, resampled(counts, resamples, seed), figures(wanted) if isinstance(wanted, tuple) else wanted
    )


def summarised(counts: GapCounts, curves: Iterator[Roc], wanted: Figures) -> dict[str, Interval]:
    """The figures of a sample with the intervals that its resamples, drawn in whatever way, give them."""
    errors = {"_error": roc.auc_error} if "auc" in wanted else {}
    drawn = evaluate(curves, {**wanted, **errors})
    curve, found = counts.roc(), {}
    for name, figure in wanted.items():
        value = float(figure(curve))
        if name == "auc":
            pairs = min(counts.n_positive, counts.n_negative)
            limits = studentised(value, float(roc.auc_error(curve)), drawn[name], drawn["_error"], pairs)
        else:
            limits = percentiles(drawn[name])
        found[name] = with_floor(name, Interval(value, *limits), counts.n_positive, counts.n_negative)
    return found


def evaluate(curves: Iterator[Roc], wanted: Figures) -> dict[str, Floats]:
    """Every figure on every resample, by name; shape (resamples,)."""
    drawn: dict[str, list[Floats]] = {name: [] for name in wanted}
    for part in curves:
        for name, figure in wanted.items():
            drawn[name].append(figure(part))
    return {name: np.concatenate(parts) for name, parts in drawn.items()}


def studentised(value: float, error: float, drawn: Floats, errors: Floats, pairs: int) -> tuple[float, float]:
    """95% limits of a value in [0, 1] from its resampled distance to the sample's in units of its own standard error.

    Near 1 an AUC rests on the few lenses that lie among the others: a resample without them has a high AUC and a small error
    alike, and percentiles, which see only the first, are too optimistic. See Davison & Hinkley 1997, section 5.2.1.
    Still, no resample shows lenses of a kind that the sample lacks. The truth was inside in 93% of samples of 150 lenses at an
    AUC of 0.983; at 0.998 in 94% with 1,432 lenses and 89% with 400; at 0.9996 in 69% with 100
    (tests/unit/audit/test_coverage.py).
    Where objects come in blocks the error is too small by a factor, the same for sample and resamples, and drops out.
    Where most resamples rank perfectly and have no error, the sample counts as so many independent ``pairs``.
    """
    used = errors > 0
    if error == 0 or used.mean() < 0.5:
        found = widened(Interval(value, *percentiles(drawn)), binomial(round(value * pairs), pairs))
        return found.low, found.high
    low, high = percentiles((drawn[used] - value) / errors[used])
    return max(0.0, min(value, value - high * error)), min(1.0, max(value, value - low * error))


def resampled(counts: GapCounts, resamples: int, seed: int) -> Iterator[Roc]:
    """Curves of stratified bootstrap resamples, in chunks: exact multinomial draws over the cells."""
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK_VALUES // max(len(counts.positives), len(counts.negatives), 1))
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        positives = multinomial(rng, counts.positives, size)
        yield roc.roc(positives, multinomial(rng, counts.negatives, size), counts.cells)


def multinomial(rng: np.random.Generator, counts: npt.NDArray[np.integer], size: int) -> npt.NDArray[np.integer]:
    """Counts per cell of ``size`` resamples, with replacement, of the objects that ``counts`` counts; shape (size, cells).

    Large cells are drawn as counts, and how many objects fall in all small ones together; these are then drawn one by one,
    which is quicker where a cell holds few. The distribution is that of one multinomial draw.
    """
    cells, large = len(counts), counts > ONE_BY_ONE
    rest = int(counts[~large].sum())
    share = np.append(counts[large], rest) / counts.sum()
    drawn = rng.multinomial(int(counts.sum()), share, size)
    out = np.zeros((size, cells), np.int64)
    if rest:
        members = np.repeat(np.flatnonzero(~large), counts[~large])
        row = np.repeat(np.arange(size) * cells, drawn[:, -1])
        place = row + members[rng.integers(0, rest, len(row), dtype=np.int32)]
        out = np.bincount(place, minlength=size * cells).reshape(size, cells)
    out[:, large] = drawn[:, :-1]
    return out


def percentiles(values: Floats) -> tuple[float, float]:
    """The central 95% of resampled values."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def with_floor(name: str, found: Interval, n_positive: int, n_negative: int) -> Interval:
    """Widen an interval where resampling by construction shows too little.

    A completeness: at least the Jeffreys interval at a fixed threshold, as resampling none (or all) of the positives found
    always gives the same. An AUC of exactly 0 or 1: any min(n1, n0) disjoint pairs of a positive and a negative are
    independent trials, all with the same outcome, so at least the Jeffreys interval of these.
    """
    if name.startswith(("tpr", "recall")):
        return widened(found, binomial(round(found.value * n_positive), n_positive))
    if name == "auc" and found.value in (0.0, 1.0):
        pairs = min(n_positive, n_negative)
        return widened(found, binomial(round(found.value * pairs), pairs))
    return found


def widened(found: Interval, other: Interval) -> Interval:
    """The value with the outer limits of both intervals."""
    return Interval(found.value, min(found.low, other.low), max(found.high, other.high))


def binomial(successes: int, trials: int, method: BinomialMethod = "jeffreys") -> Interval:
    """A fraction with its 95% interval; (nan, 0, 1) without trials.

    Parameters
    ----------
    method
        ``jeffreys``: equal tails of the posterior under a Beta(1/2, 1/2) prior, limits 0 and 1 where none or all succeed
        (Brown, Cai & DasGupta 2001); ``wilson``: the score interval; ``clopper-pearson``: never under 95%, wider.

    >>> round(binomial(0, 10).high, 3)
    0.217
    >>> round(binomial(13, 134_149, "clopper-pearson").high, 6)
    0.000166
    """
    if trials == 0:
        return Interval(float("nan"), 0.0, 1.0)
    if method != "jeffreys":
        limits = stats.binomtest(int(successes), int(trials)).proportion_ci(
            method="wilson" if method == "wilson" else "exact"
        )
        return Interval(successes / trials, float(limits.low), float(limits.high))
    # not astropy's binom_conf_interval: it takes ten times as long, and a report asks for hundreds
    low, high = stats.beta.ppf([0.025, 0.975], successes + 0.5, trials - successes + 0.5)
    return Interval(
        successes / trials, 0.0 if successes == 0 else float(low), 1.0 if successes == trials else float(high)
    )


def holm(p_values: npt.ArrayLike) -> Floats:
    """p-values of several tests, corrected so that one false alarm among them all stays as rare (Holm 1979).

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    out = np.empty_like(p)
    out[order] = np.minimum(stepped, 1.0)
    return out
