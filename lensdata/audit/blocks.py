"""Bootstrap of whole patches of sky: neighbours share depth, seeing and brick, and are not independent (R-E1)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

from lensdata.audit import roc
from lensdata.audit.intervals import CHUNK_VALUES, Figures, Interval, figures, multinomial, summarised
from lensdata.audit.roc import Roc

Ints = npt.NDArray[np.integer]
SMALLEST_NUMBER = 10  # blocks; fewer say nothing about their spread


class TooFewBlocks(ValueError):
    """The sample does not lie in enough blocks to resample them."""


def sky_blocks(pixel: npt.ArrayLike, group_id: npt.ArrayLike | None = None) -> npt.NDArray[np.int64]:
    """Number of each object's block: its HEALPix pixel, pixels joined where a group of duplicates spans them.

    >>> sky_blocks([7, 7, 8, 9], [1, 2, 2, 3]).tolist()
    [0, 0, 0, 1]
    """
    _, place = np.unique(np.asarray(pixel), return_inverse=True)
    if group_id is None:
        return place.astype(np.int64)
    _, group = np.unique(np.asarray(group_id), return_inverse=True)
    pixels, size = int(place.max()) + 1, int(place.max() + group.max()) + 2
    links = coo_matrix((np.ones(len(place), np.int8), (place, pixels + group)), shape=(size, size))
    component = connected_components(links, directed=False)[1][place]
    return np.asarray(np.unique(component, return_inverse=True)[1], np.int64)


def block_bootstrap(
    label: npt.ArrayLike,
    score: npt.ArrayLike,
    block: npt.ArrayLike,
    wanted: Figures | tuple[float, ...],
    resamples: int,
    seed: int,
) -> dict[str, Interval]:
    """Ranking metrics with 95% intervals over resampled blocks, each with all its objects.

    The numbers of positives and negatives vary between resamples, unlike in the stratified `intervals.bootstrap`. A resample
    without one class has no curve and is drawn again.

    Parameters
    ----------
    label, score, block
        Labels (1 positive), scores and blocks of the objects; shape (n,).

    Raises
    ------
    TooFewBlocks
        There are fewer than `SMALLEST_NUMBER` blocks, or a class is in one block only.
    """
    labels, scores = roc.checked(label, score)
    blocks = np.asarray(block)
    if len(np.unique(blocks)) < SMALLEST_NUMBER or min(len(np.unique(blocks[labels == c])) for c in (True, False)) < 2:
        raise TooFewBlocks(f"fewer than {SMALLEST_NUMBER} blocks, or a class in one block only")
    return summarised(
        roc.compress(labels, scores),
        _resampled(labels, scores, blocks, resamples, seed),
        figures(wanted) if isinstance(wanted, tuple) else wanted,
    )


def _resampled(
    labels: npt.NDArray[np.bool_], scores: roc.Floats, blocks: Ints, resamples: int, seed: int
) -> Iterator[Roc]:
    counts = roc.compress(labels, scores)
    kinds, contents = block_kinds(_columns(labels, scores, counts), blocks)
    rng = np.random.default_rng(seed)
    ranks = len(counts.positives)
    chunk = max(1, 4 * CHUNK_VALUES // max(contents.shape))
    left = resamples
    while left:
        weights = multinomial(rng, kinds, min(chunk, left))
        drawn = np.asarray(contents @ weights.T.astype(np.int32)).T
        both = (drawn[:, :ranks].sum(axis=1) > 0) & (drawn[:, ranks:].sum(axis=1) > 0)
        left -= int(both.sum())
        yield roc.roc(drawn[both, :ranks], drawn[both, ranks:], counts.cells)


def _columns(labels: npt.NDArray[np.bool_], scores: roc.Floats, counts: roc.GapCounts) -> Ints:
    """What an object counts as: rank of its score for positives, K + place of its cell for negatives; shape (n,)."""
    ascending = counts.scores[::-1]
    columns = np.empty(len(labels), np.int64)
    columns[labels] = len(ascending) - 1 - np.searchsorted(ascending, scores[labels])
    columns[~labels] = len(ascending) + np.searchsorted(counts.cells, roc.cell_of(ascending, scores[~labels]))
    return columns


def block_kinds(columns: Ints, blocks: Ints) -> tuple[Ints, csr_matrix]:
    """Blocks that hold the same are interchangeable: how many there are of each kind, and what a kind holds.

    Most blocks of a rare class hold a few negatives that rank below all positives, so that there are far fewer kinds than
    blocks, and a resample of blocks is exactly a multinomial draw over the kinds.

    Returns
    -------
    tuple
        Blocks of each kind, shape (k,), and objects by column and kind, a sparse matrix (columns, k).
    """
    order = np.lexsort((columns, blocks))
    sorted_columns = columns[order]
    stops = np.append(np.flatnonzero(np.diff(blocks[order])) + 1, len(order))
    kinds: dict[bytes, int] = {}
    start = 0
    for stop in stops:
        content = sorted_columns[start:stop].tobytes()
        kinds[content] = kinds.get(content, 0) + 1
        start = stop
    held = [np.frombuffer(content, np.int64) for content in kinds]
    place = np.repeat(np.arange(len(held)), [len(content) for content in held])
    shape = (int(columns.max()) + 1, len(held))
    entries = (np.ones(len(place), np.int32), (np.concatenate(held), place))
    return np.fromiter(kinds.values(), np.int64), coo_matrix(entries, shape=shape).tocsr()
