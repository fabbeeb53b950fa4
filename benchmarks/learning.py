"""Does every network learn? AUC on the test split for several seeds, with intervals.

    python benchmarks/learning.py MANIFEST [--arch resnet18 ...] [--seeds 1 2 3] [KEY=VALUE ...]

MANIFEST is a folder of a manifest, for example `runs/demo/build_manifests/audit_70_15_15` after `make demo`. Each run is
`ray_train.train` with `configs/training/demo.yaml` and the seed. Intervals are percentiles of 10,000 stratified resamples of the
stamps; the spread over seeds is what another start makes of the same data.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from lensdata import tables
from lensdata.audit import intervals, roc
from ray_train import train

DEMO = Path(__file__).parents[1] / "configs" / "training" / "demo.yaml"


def trained(manifest: str, arch: str, seed: int, settings: list[str], folder: Path) -> dict[str, float]:
    """Train once; AUC of the test split with its interval, best epoch, seconds."""
    output, started = folder / f"{arch}-{seed}", time.perf_counter()
    line = ["--config", str(DEMO), "--output", str(output), f"inputs.manifest={manifest}", f"model.arch={arch}"]
    code = train.main([*line, f"seed={seed}", "execution.runtime=local", "trackers.tensorboard=false", *settings])
    if code:
        raise SystemExit(code)
    scores = tables.read_table(str(output / "scores"), tables.SCORES).to_pandas()
    test = scores[scores["split"] == "test"]
    counts = roc.compress(test["label"], test["logit"])
    low, high = intervals.percentiles(
        intervals.evaluate(intervals.resampled(counts, 10_000, seed=0), {"auc": roc.auc})["auc"]
    )
    best = json.loads((output / "best.json").read_text())
    return {
        "auc": float(roc.auc(counts.roc())), "low": low, "high": high, "n": int(test["label"].sum()),
        "val_auc": best["val_auc"], "epoch": best["epoch"], "seconds": time.perf_counter() - started,
    }  # fmt: skip


def main() -> None:
    """Print one line per run, and the mean and spread per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest")
    parser.add_argument("--arch", nargs="*", default=["resnet18", "shielded_resnet", "efficientnet_v2_s"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("settings", nargs="*", default=[], help="dotted overrides, e.g. epochs=6")
    options = parser.parse_intermixed_args()
    print("network              seed  test AUC  95% interval       lenses  best epoch  its val AUC  seconds")
    with tempfile.TemporaryDirectory() as folder:
        for arch in options.arch:
            runs = []
            for seed in options.seeds:
                run = trained(options.manifest, arch, seed, options.settings, Path(folder))
                runs.append(run["auc"])
                print(
                    f"{arch:20s} {seed:4d}  {run['auc']:8.4f}  {run['low']:.4f} to {run['high']:.4f}  {run['n']:6d}  "
                    f"{run['epoch']:10d}  {run['val_auc']:11.4f}  {run['seconds']:7.0f}",
                    flush=True,
                )
            print(f"{arch:20s} mean  {np.mean(runs):8.4f}  spread {np.std(runs, ddof=1) if len(runs) > 1 else 0:.4f}")


if __name__ == "__main__":
    main()
