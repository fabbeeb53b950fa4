"""What Ray Train costs beside the bare loop: seconds to start, and per epoch.

    python benchmarks/ray_overhead.py [--stamps 1024] [--epochs 3 9] [--repeat 2]

The same command with `execution.runtime` local and ray, each in a process of its own, with few and with many epochs: the slope
is what an epoch costs, the rest what starting costs. Both train the same network on the same stamps to the same weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SETTINGS = (
    "images.normalisation=per_sample_robust", "images.crop=31", "model.arch=resnet18", "batch.micro_batch=32",
    "batch.accumulation=2", "optimizer.lr=1e-3", "schedule.name=constant", "trackers.tensorboard=false",
)  # fmt: skip


def seconds(manifest: Path, output: Path, runtime: str, epochs: int) -> float:
    """Wall time of the whole command."""
    line = [sys.executable, "-m", "ray_train.train", "--output", str(output), f"inputs.manifest={manifest}", *SETTINGS]
    started = time.perf_counter()
    subprocess.run([*line, f"execution.runtime={runtime}", f"epochs={epochs}"], check=True, capture_output=True)
    return time.perf_counter() - started


def stamps(folder: Path, count: int) -> Path:
    """Import noise with a bright bar in every third stamp; returns the manifest."""
    random = np.random.default_rng(0)
    images = random.normal(size=(count, 33, 33, 3)).astype(np.float32)
    images[::3, 10:20, 16] += 2
    np.savez(folder / "stamps.npz", images=images, label=(np.arange(count) % 3 == 0).astype(np.int8))
    line = [sys.executable, "-m", "lensdata.shards.importing", "--output", str(folder / "stamps"), "unit=other"]
    subprocess.run([*line, f"inputs.stamps={folder / 'stamps.npz'}"], check=True, capture_output=True)
    return folder / "stamps" / "manifest"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stamps", type=int, default=1024)
    parser.add_argument("--epochs", type=int, nargs=2, default=[3, 9])
    parser.add_argument("--repeat", type=int, default=2, help="best of so many")
    options = parser.parse_args()
    few, many = options.epochs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = stamps(folder, options.stamps)
        found: dict[str, dict[int, float]] = {"local": {}, "ray": {}}
        for attempt in range(options.repeat):
            for epochs in (few, many):
                for runtime, times in found.items():
                    took = seconds(manifest, folder / f"{runtime}-{epochs}-{attempt}", runtime, epochs)
                    times[epochs] = min(took, times.get(epochs, took))
        print(f"runtime  {few} epochs, s  {many} epochs, s  s per epoch  s to start and end")
        slopes = {}
        for runtime, times in found.items():
            slopes[runtime] = (times[many] - times[few]) / (many - few)
            rest = times[few] - few * slopes[runtime]
            print(f"{runtime:7s}  {times[few]:11.1f}  {times[many]:11.1f}  {slopes[runtime]:11.2f}  {rest:18.1f}")
        print(f"an epoch in Ray Train takes {slopes['ray'] / slopes['local']:.3f} of the bare loop's time")
        losses = [
            [json.loads(row)["train_loss"] for row in (folder / f"{runtime}-{many}-0" / "metrics.jsonl").open()]
            for runtime in found
        ]
        print(f"loss curves equal: {losses[0] == losses[1]}")


if __name__ == "__main__":
    main()
