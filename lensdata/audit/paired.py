"""Are two finders different, judged on the same objects? Paired bootstrap and McNemar's test (R-E1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from lensdata.audit import roc
from lensdata.audit.intervals import CHUNK_VALUES, Figures, figures, multinomial, percentiles
from lensdata.audit.roc import Roc

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Difference:
    """A metric of the first finder less that of the second, with its 95% interval.

    Attributes
    ----------
    p_value
        Two-sided, by the same resamples as the interval: it is under 0.05 where that excludes zero.
    """

    value: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class JointCounts:
    """Objects of one class by their place in both finders' rankings.

    Attributes
    ----------
    counts
        Objects in each pair of places that occurs; shape (M,).
    places
        The non-empty places of either finder, ascending; shapes (A,) and (B,).
    of_pair
        Of each pair, which of the first finder's places and which of the second's; shapes (M,). Pairs are sorted by the first.
    """

    counts: Ints
    places: tuple[Ints, Ints]
    of_pair: tuple[Ints, Ints]

    @classmethod
    def of(cls, one: Ints, two: Ints) -> JointCounts:
        """Count the pairs of places, one of either finder per object."""
        width = int(two.max()) + 1
        pairs, counts = np.unique(one.astype(np.int64) * width + two, return_counts=True)
        first, of_first = np.unique(pairs // width, return_inverse=True)
        second, of_second = np.unique(pairs % width, return_inverse=True)
        return cls(counts, (first, second), (of_first, of_second))

    def split(self, drawn: Ints) -> tuple[Ints, Ints]:
        """Counts of pairs (..., M) added up in the places of either finder; shapes (..., A) and (..., B)."""
        order = np.argsort(self.of_pair[1], kind="stable")
        starts = [np.searchsorted(np.sort(of), np.arange(of.max() + 1)) for of in self.of_pair]
        return np.add.reduceat(drawn, starts[0], axis=-1), np.add.reduceat(drawn[..., order], starts[1], axis=-1)


@dataclass(frozen=True)
class PairedSample:
    """The objects of both classes, judged by two finders."""

    positives: JointCounts
    negatives: JointCounts

    @classmethod
    def of(cls, label: npt.ArrayLike, one: npt.ArrayLike, two: npt.ArrayLike) -> PairedSample:
        """From labels (1 positive) and both finders' scores; shape (n,)."""
        first, second = (_places(label, scores) for scores in (one, two))
        return cls(JointCounts.of(first[0], second[0]), JointCounts.of(first[1], second[1]))

    def curves(self, positives: Ints, negatives: Ints) -> tuple[Roc, Roc]:
        """Both finders' curves of drawn counts of pairs; shapes (..., M)."""
        true, false = self.positives.split(positives), self.negatives.split(negatives)
        one, two = (roc.roc(true[i], false[i], self.negatives.places[i]) for i in (0, 1))
        return one, two

    def resampled(self, resamples: int, seed: int) -> Iterator[tuple[Roc, Roc]]:
        """Curves of stratified resamples, in chunks; the same objects are drawn for both finders."""
        rng = np.random.default_rng(seed)
        chunk = max(1, 2 * CHUNK_VALUES // max(len(self.positives.counts), len(self.negatives.counts)))
        for start in range(0, resamples, chunk):
            size = min(chunk, resamples - start)
            positives = multinomial(rng, self.positives.counts, size)
            yield self.curves(positives, multinomial(rng, self.negatives.counts, size))


def paired_bootstrap(
    label: npt.ArrayLike,
    one: npt.ArrayLike,
    two: npt.ArrayLike,
    wanted: Figures | tuple[float, ...],
    resamples: int,
    seed: int,
) -> dict[str, Difference]:
    """Differences of ranking metrics between two finders, each resample holding the same objects for both.

    Resampling is stratified by class; thresholds at a false-positive rate are found anew for either finder in every
    resample. Exact: objects are drawn by their pair of cells, which is all that matters of them. Intervals are percentiles.

    Parameters
    ----------
    label, one, two
        Labels (1 positive) and both finders' scores of the same objects; shape (n,).
    wanted
        Functions of curves by name; false-positive rates stand for AUC and the completeness at these rates.
    """
    if isinstance(wanted, tuple):
        wanted = {name: figure for name, figure in figures(wanted).items() if name != "average_precision"}
    sample = PairedSample.of(label, one, two)
    whole = sample.curves(sample.positives.counts, sample.negatives.counts)
    drawn: dict[str, list[Floats]] = {name: [] for name in wanted}
    for one_drawn, two_drawn in sample.resampled(resamples, seed):
        for name, figure in wanted.items():
            drawn[name].append(figure(one_drawn) - figure(two_drawn))
    return {
        name: _difference(float(figure(whole[0]) - figure(whole[1])), np.concatenate(drawn[name]))
        for name, figure in wanted.items()
    }


def _places(label: npt.ArrayLike, score: npt.ArrayLike) -> tuple[Ints, Ints]:
    """Rank of each positive among the distinct positive scores, from the top, and the cell of each negative."""
    labels, scores = roc.checked(label, score)
    ascending, rank = np.unique(scores[labels], return_inverse=True)
    return len(ascending) - 1 - rank, roc.cell_of(ascending, scores[~labels])


def _difference(value: float, drawn: Floats) -> Difference:
    # one is added to either count, so that no number of resamples can prove a p-value of zero (Davison & Hinkley 1997, 4.2)
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum()) + 1
    return Difference(value, *percentiles(drawn), min(1.0, 2 * float(tail) / (len(drawn) + 1)))


def mcnemar(one: npt.ArrayLike, two: npt.ArrayLike) -> float:
    """Exact two-sided p-value that two finders are right equally often at their fixed thresholds (McNemar 1947).

    Parameters
    ----------
    one, two
        Whether either finder is right about each object; shape (n,).

    >>> round(mcnemar([1] * 10 + [0] * 2, [1] + [0] * 9 + [1] * 2), 4)
    0.0654
    """
    first, second = np.asarray(one, bool), np.asarray(two, bool)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)
