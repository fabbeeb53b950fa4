"""In which order the rows of an epoch come: pure functions of (seed, epoch, row groups), no state.

Row groups are shuffled, taken in windows of about `shuffle_rows` rows, and the rows of a window are shuffled. A
window is what a streaming reader has to hold; stamps that lie on the device use the same order, so that both train
the same network. Nothing depends on the number of workers: they deal the micro-batches of each window of the
optimizer among them, whole, so that BatchNorm sees the same batches too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EpochOrder:
    """The order of one epoch.

    Attributes
    ----------
    rows
        Permutation of 0..N-1.
    windows
        (groups, start, stop): the row groups that make up rows[start:stop].
    """

    rows: Indices
    windows: list[tuple[Indices, int, int]]


def epoch_order(group_sizes: npt.ArrayLike, *, seed: int, epoch: int, shuffle_rows: int) -> EpochOrder:
    """Shuffle the rows of an epoch.

    Parameters
    ----------
    group_sizes
        Rows per row group; the rows of group g are numbered after those of the groups before it.
    seed, epoch
        What the order depends on.
    shuffle_rows
        Smallest number of rows in a window (the last one may be smaller).
    """
    sizes = np.asarray(group_sizes, np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    pieces: list[Indices] = []
    windows: list[tuple[Indices, int, int]] = []
    done = 0
    for groups in _windows(random.permutation(len(sizes)), sizes, shuffle_rows):
        rows = np.concatenate([np.arange(starts[g], starts[g + 1]) for g in groups])
        random.shuffle(rows)
        pieces.append(rows)
        windows.append((groups, done, done + len(rows)))
        done += len(rows)
    return EpochOrder(np.concatenate(pieces) if pieces else np.empty(0, np.int64), windows)


def _windows(groups: Indices, sizes: Indices, shuffle_rows: int) -> list[Indices]:
    filled = np.cumsum(sizes[groups])
    cuts, base = [], 0
    for position, total in enumerate(filled):
        if total - base >= shuffle_rows:
            cuts.append(position + 1)
            base = int(total)
    return [part for part in np.split(groups, cuts) if len(part)]


def num_steps(num_rows: int, window_rows: int, *, drop_last: bool) -> int:
    """Optimizer steps per epoch."""
    return num_rows // window_rows if drop_last else -(-num_rows // window_rows)


def micro_batches(
    num_rows: int, *, micro_batch: int, accumulation: int, drop_last: bool, rank: int = 0, world: int = 1
) -> list[list[tuple[int, int]]]:
    """Which slices of the epoch's order a worker takes, step by step.

    Micro-batch m of a step goes to worker m modulo `world`. A worker may get none of a last, partial window.

    Returns
    -------
    list of list of (start, stop)
        Per step, the worker's micro-batches as slices of `EpochOrder.rows`.

    Examples
    --------
    >>> micro_batches(10, micro_batch=2, accumulation=2, drop_last=False, rank=1, world=2)
    [[(2, 4)], [(6, 8)], []]
    """
    window = micro_batch * accumulation
    steps = []
    for step in range(num_steps(num_rows, window, drop_last=drop_last)):
        end = min((step + 1) * window, num_rows)
        starts = range(step * window, end, micro_batch)
        steps.append([(start, min(start + micro_batch, end)) for start in starts[rank::world]])
    return steps
