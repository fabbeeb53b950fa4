"""A stratified subsample of a manifest, for quick runs (R-S7).

    python -m lensdata.shards.subsample --output audit_10pct inputs.manifest=build_manifests/audit_70_15_15

The pixels stay where they are: the new manifest names the same shards.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lensdata import jobs, steps
from lensdata.catalogue.strata import bin_index
from lensdata.config.cutouts import SubsampleManifestConfig
from lensdata.hashing import second_key
from lensdata.shards.derived import renamed, write_manifest
from lensdata.shards.manifests import read_manifest
from lensdata.steps import JobRun, Outcome

THETA_E_EDGES_ARCSEC = (0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0)  # R-E1
Ints = npt.NDArray[np.int64]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; returns its exit code."""
    return steps.run_job(
        jobs.find("subsample_manifest"), subsample_manifest, sys.argv[1:] if argv is None else list(argv)
    )


def subsample_manifest(run: JobRun) -> Outcome:
    """Choose the rows and write them as a manifest of its own."""
    config: SubsampleManifestConfig = run.config
    uri = run.inputs["manifest"]
    whole = read_manifest(uri)
    part = replace(whole, table=whole.table.take(pa.array(subsample(whole.table, config.fraction, config.seed))))
    if run.test_limit is not None:
        part = part.head(run.test_limit)
    # what the rows refer to belongs to the identity, as in the manifest they are taken from
    _, content = write_manifest(renamed(part.table, uri, run.final), run.output, str(steps.input_identity(uri)))
    label = np.where(part.column("label") == 1, "positive", "negative")
    counts = Counter(f"{split} {name}" for split, name in zip(part.column("split"), label, strict=True))
    report = {"rows_of_the_manifest": len(whole), "rows_per_split": dict(sorted(counts.items()))}
    return Outcome(len(part), content, report)


def wanted(count: int, fraction: float) -> int:
    """Rows of ``count`` to keep: rounded, halves up, and one at least where there is any.

    The 10% of the original run's injected training set, 2,910 of 29,108 rows of which half are positive (R-S10):

    >>> [wanted(count, 0.10) for count in (0, 3, 14, 15, 29108 // 2)]
    [0, 1, 1, 2, 1455]
    """
    return 0 if count == 0 else max(1, int(np.floor(fraction * count + 0.5 + 1e-9)))


def subsample(table: pa.Table, fraction: float, seed: int, purpose: str = "subsample") -> Ints:
    """Indices of a subsample that keeps label balance and the distributions of theta_E, PSF and depth.

    Every (split, label) keeps `wanted` of its rows. They are shared among its cells (PSF bin, depth bin, theta_E bin) by
    Sainte-Lague's divisors: the r-th row of a cell of n (by keyed hash of cutout_id, r from 0) has the rank (r + 1/2) / n, and
    the smallest ranks are taken. So each cell gets its share to within a row or so, a smaller fraction is contained in a
    larger one (shares by largest remainder would not be), and the order of the rows does not matter.

    Parameters
    ----------
    table
        ``cutout_id, split, label``; ``psf_bin, depth_bin, theta_e`` where it has them, nulls in a cell of their own.
    purpose
        Name of the order: choices for different purposes are independent of each other.

    Returns
    -------
    ndarray
        Row indices, ascending.
    """
    key = second_key(table["cutout_id"].to_numpy(), seed, purpose)
    groups = _numbered([table["split"].to_numpy(zero_copy_only=False).astype(str), table["label"].to_numpy()])
    cells = _numbered([groups, *_bins(table)])
    by_cell = np.lexsort((key, cells))
    sizes = np.bincount(cells)
    place = np.empty(len(key), np.int64)
    place[by_cell] = np.arange(len(key)) - (np.cumsum(sizes) - sizes)[cells[by_cell]]
    rank = (place + 0.5) / sizes[cells]
    order = np.lexsort((key, rank, groups))
    members = np.bincount(groups)
    within = np.arange(len(key)) - (np.cumsum(members) - members)[groups[order]]
    keep = np.array([wanted(int(count), fraction) for count in members], np.int64)
    return np.sort(order[within < keep[groups[order]]])


def _bins(table: pa.Table) -> list[Ints]:
    out = [np.asarray(table[name].fill_null(-1).to_numpy(), np.int64) for name in ("psf_bin", "depth_bin")
           if name in table.column_names]  # fmt: skip
    if "theta_e" in table.column_names:
        radii = table["theta_e"].cast(pa.float64()).to_numpy(zero_copy_only=False)
        out.append(bin_index(radii.astype(np.float64), THETA_E_EDGES_ARCSEC).astype(np.int64))
    return out


def _numbered(columns: list[npt.NDArray[Any]]) -> Ints:
    """One number per distinct combination of values."""
    codes = [np.unique(values, return_inverse=True)[1].reshape(-1) for values in columns]
    return np.asarray(np.unique(np.stack(codes), axis=1, return_inverse=True)[1].reshape(-1), np.int64)


if __name__ == "__main__":
    sys.exit(main())
