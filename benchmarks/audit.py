"""Seconds that the statistics of an audit take on one core, beside the obvious way to compute them.

    python benchmarks/audit.py [--positives 1432] [--negatives 134149] [--resamples 10000] [--only bootstrap paired blocks ...]

Scores are drawn: negatives normal, positives mostly above them. Rates of one run compare; those of different runs on a shared
machine do not. The loop over scikit-learn is timed for a few resamples and multiplied up.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve
from threadpoolctl import threadpool_limits

from lensdata.audit import intervals, roc
from lensdata.audit.blocks import block_bootstrap
from lensdata.audit.delong import delong
from lensdata.audit.paired import paired_bootstrap

FPR_LEVELS = (1e-2, 1e-3, 1e-4)
PIXELS = 60_000  # of nside 128 in the footprint
LOOPED = 20  # resamples of the naive loop


@dataclass(frozen=True)
class Sample:
    """Labels, scores of two finders, and pixels; each of shape (n,)."""

    label: np.ndarray
    one: np.ndarray
    two: np.ndarray
    pixel: np.ndarray

    @classmethod
    def drawn(cls, positives: int, negatives: int) -> Sample:
        """Two finders that agree as two networks on the same images do."""
        rng = np.random.default_rng(0)
        label = np.r_[np.ones(positives, bool), np.zeros(negatives, bool)]
        shared, width = rng.normal(size=len(label)), np.where(label, 1.6, 1.0)
        one, two = (
            np.where(label, 5.0, 0.0) + width * (0.8 * shared + 0.6 * rng.normal(size=len(label))) for _ in range(2)
        )
        return cls(label, one, two, rng.integers(0, PIXELS, len(label)))


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result."""
    started = time.perf_counter()
    found = call()
    return time.perf_counter() - started, found


def without_average_precision() -> dict[str, Any]:
    """AUC and completeness at the three false-positive rates: what the loop computes too."""
    return {name: figure for name, figure in intervals.figures(FPR_LEVELS).items() if name != "average_precision"}


def loop(sample: Sample, resamples: int) -> None:
    """Draw objects, call scikit-learn."""
    rng = np.random.default_rng(0)
    classes = [np.flatnonzero(sample.label == value) for value in (True, False)]
    for _ in range(resamples):
        rows = np.concatenate([rng.choice(members, len(members)) for members in classes])
        label, score = sample.label[rows], sample.one[rows]
        roc_auc_score(label, score)
        fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
        for level in FPR_LEVELS:
            tpr[fpr <= level].max()


def bootstrap(sample: Sample, resamples: int) -> None:
    """The stratified bootstrap against the loop."""
    counts = roc.compress(sample.label, sample.one)
    ours, found = timed(lambda: intervals.bootstrap(counts, without_average_precision(), resamples, 0))
    theirs = timed(lambda: loop(sample, LOOPED))[0] * resamples / LOOPED
    everything = intervals.figures(FPR_LEVELS) | {"partial_auc": lambda curve: roc.partial_auc(curve, 1e-2)}
    more, _ = timed(lambda: intervals.bootstrap(counts, everything, resamples, 0))
    area = found["auc"]
    print(f"bootstrap of AUC and completeness at {len(FPR_LEVELS)} rates: {ours:.2f} s")
    print(f"  with average precision and partial AUC: {more:.2f} s")
    print(f"  loop over scikit-learn, from {LOOPED} resamples: {theirs:.0f} s, {theirs / ours:.0f} times as long")
    print(f"  AUC {area.value:.5f} ({area.low:.5f} to {area.high:.5f})")


def paired(sample: Sample, resamples: int) -> None:
    """The paired bootstrap of two finders, and DeLong's test."""
    ours, found = timed(lambda: paired_bootstrap(sample.label, sample.one, sample.two, FPR_LEVELS, resamples, 0))
    quick, test = timed(lambda: delong(sample.label, sample.one, sample.two).difference())
    print(f"paired bootstrap of two finders: {ours:.2f} s; p of the AUC {found['auc'].p_value:.4f}")
    print(f"  DeLong's test: {quick:.3f} s; p {test.p_value:.4f}")


def blocks(sample: Sample, resamples: int) -> None:
    """The bootstrap of whole pixels."""
    wanted = without_average_precision()
    ours, found = timed(lambda: block_bootstrap(sample.label, sample.one, sample.pixel, wanted, resamples, 0)["auc"])
    print(f"block bootstrap over {PIXELS} pixels: {ours:.2f} s; AUC {found.low:.5f} to {found.high:.5f}")


def gates(*_: Any) -> None:
    """All shortcut gates on 2,000 stamps, on all cores (gates.py)."""
    subprocess.run([sys.executable, str(Path(__file__).with_name("gates.py"))], check=True)


SECTIONS = {"bootstrap": bootstrap, "paired": paired, "blocks": blocks, "gates": gates}


def main() -> None:
    """Print every section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positives", type=int, default=1432)
    parser.add_argument("--negatives", type=int, default=134_149)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    args = parser.parse_args()
    sample = Sample.drawn(args.positives, args.negatives)
    print(
        f"{args.positives} positives, {args.negatives} negatives, {args.resamples} resamples, one thread but for the gates",
        flush=True,
    )
    with threadpool_limits(1):
        for name in args.only:
            SECTIONS[name](sample, args.resamples)


if __name__ == "__main__":
    main()
