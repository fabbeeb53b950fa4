"""What a score loses where the object is not in the centre of its stamp, as with positions from another catalogue.

    python benchmarks/off_centre.py BUNDLE MANIFEST [--split val]

Stamps are moved by whole pixels along rows and columns before the bundle prepares them; what leaves at one edge comes in at the
other, outside of the crop that most recipes take.
"""

from __future__ import annotations

import argparse

import numpy as np

from lensdata.audit.intervals import binomial
from lensdata.shards.manifests import read_manifest
from ray_train import bundle as bundles

SHIFTS = (0, 1, 2, 4, 8)
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("manifest")
    parser.add_argument("--split", default="val", choices=("train", "val", "test"))
    args = parser.parse_args()
    bundle, manifest = bundles.load(args.bundle), read_manifest(args.manifest).split(args.split)
    layout, stamps = manifest.layout(), manifest.stamps()
    lens = manifest.column("label").astype(bool)
    limit, scale = bundle.threshold(1e-2), layout.pixscale_arcsec or float("nan")
    centred = bundle.score(stamps, layout)
    print(f"{args.split} split: {lens.sum()} lenses, {(~lens).sum()} others; four directions each\n")
    print("| pixels | arcsec | mean change of logit, lenses | others | lenses that pass FPR 0.01 | others |")
    print("|---:|---:|---:|---:|---|---|")
    for shift in SHIFTS:
        moved = [np.roll(stamps, (shift * down, shift * right), axis=(1, 2)) for down, right in DIRECTIONS]
        logits = np.stack([bundle.score(part, layout) for part in (moved if shift else moved[:1])])
        change = (logits - centred).mean(axis=0)
        spread = [values.std(ddof=1) / np.sqrt(len(values)) for values in (change[lens], change[~lens])]
        passed = ["not measured" if limit is None else share(logits[:, part] >= limit) for part in (lens, ~lens)]
        print(
            f"| {shift} | {shift * scale:.2f} | {change[lens].mean():+.2f} ± {spread[0]:.2f} | {change[~lens].mean():+.2f} ± "
            f"{spread[1]:.2f} | {passed[0]} | {passed[1]} |"
        )


def share(passes: np.ndarray) -> str:
    """Share of objects (directions, n) that pass, in the mean over directions, with the 95% interval of one direction."""
    mean, count = passes.mean(), passes.shape[1]
    found = binomial(round(mean * count), count)
    return f"{mean:.3f} ({found.low:.3f} to {found.high:.3f})"


if __name__ == "__main__":
    main()
