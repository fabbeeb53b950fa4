"""What a study costs beside the trainings it is made of, and what one copy of the stamps saves.

    python benchmarks/study.py [--stamps 512] [--shared-stamps 8192] [--epochs 3] [--repeat 2] [--only sharing]

First the same training by `ray_train.train` and as one and as three trials of a study, each in processes of its own: seconds per
epoch, and seconds in all. Then two trials at once that share one resident copy, and two with a copy each: memory of all processes
together while both train (proportional set size, where shared pages count once) and stamps per second, of a network so small that
stamps matter.
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
import yaml
from processes import INTERVAL_S, Measured, look, measure

SIZE = 64
TRAINING = {
    "images": {"normalisation": "per_sample_robust", "crop": 63},
    "model": {"arch": "shielded_resnet", "preset": "p4_c"},
    "batch": {"micro_batch": 64, "accumulation": 1},
    "schedule": {"name": "constant"},
    "trackers": {"tensorboard": False},
}
SMALLEST = {"arch": "timm:test_convnext"}


def stamps(folder: Path, count: int) -> Path:
    """Import noise with a bright bar in every third stamp; returns the manifest."""
    folder.mkdir()
    random = np.random.default_rng(0)
    images = random.standard_normal((count, SIZE, SIZE, 3), np.float32)
    images[::3, 20:40, 40] += 2
    np.savez(folder / "stamps.npz", images=images, label=(np.arange(count) % 3 == 0).astype(np.int8))
    line = [sys.executable, "-m", "lensdata.shards.importing", "--output", str(folder / "stamps"), "unit=other"]
    subprocess.run([*line, f"inputs.stamps={folder / 'stamps.npz'}"], check=True, capture_output=True)
    return folder / "stamps" / "manifest"


def train(folder: Path, manifest: Path, threads: int, epochs: int) -> tuple[Measured, list[dict[str, float]]]:
    """One training by its own command."""
    execution = {"runtime": "local", "threads": threads, "residency": "device"}
    (folder / "train.yaml").write_text(yaml.safe_dump(TRAINING | {"epochs": epochs, "seed": 1, "execution": execution}))
    line = ["-m", "ray_train.train", "--config", str(folder / "train.yaml"), "--output", str(folder / "run")]
    took = measure([sys.executable, *line, f"inputs.manifest={manifest}"])
    return took, records(folder / "run")


def study(
    folder: Path,
    manifest: Path,
    threads: int,
    epochs: int,
    *,
    seeds: int,
    concurrent: int = 1,
    share: bool = False,
    model: dict[str, str] | None = None,
) -> tuple[Measured, list[list[dict[str, float]]]]:
    """The same as trials of a study."""
    config = {
        "training": TRAINING
        | {"epochs": epochs, "execution": {"threads": threads, "residency": "device"}}
        | ({"model": model} if model else {}),
        "axes": {"optimizer.lr": [5e-4]},
        "seeds": list(range(1, seeds + 1)),
        "execution": {"concurrent": concurrent, "share_stamps": share, "cpus_per_trial": threads},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(config))
    line = ["-m", "ray_train.tune", "--config", str(folder / "study.yaml"), "--output", str(folder / "study")]
    command = [sys.executable, *line, f"inputs.manifest={manifest}"]
    trials = folder / "study" / "trials"
    took = measure(command) if concurrent == 1 else while_training(command, trials, epochs)
    return took, [records(path) for path in sorted(trials.iterdir())]


def while_training(command: list[str], trials: Path, epochs: int) -> Measured:
    """The command with, as its memory, the mean while all trials are between their first epoch and their last."""
    process, seen, cpu = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), [], {}
    while process.poll() is None:
        time.sleep(INTERVAL_S)
        done = [len(path.read_text().splitlines()) for path in trials.glob("*/metrics.jsonl")]
        if len(done) > 1 and all(1 <= number < epochs for number in done):
            seen.append(look(process.pid, cpu))
    if process.returncode or not seen:
        raise SystemExit(f"the study failed, or its epochs are too short to look at: {process.returncode}")
    return Measured(0.0, 0.0, int(np.mean(seen)), "")


def records(run: Path) -> list[dict[str, float]]:
    """The epochs of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def epoch_seconds(found: list[dict[str, float]]) -> float:
    """The quickest epoch with its validation: the least disturbed one."""
    return min(record["seconds"] + record["val_seconds"] for record in found)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stamps", type=int, default=512, help="of the training whose overhead is measured")
    parser.add_argument("--shared-stamps", type=int, default=8192, help="of the trials that share")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=2, help="best of so many")
    parser.add_argument("--only", choices=["overhead", "sharing"], help="one of the two tables")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if options.only != "sharing":
            overhead(root, stamps(root / "few", options.stamps), options)
        if options.only != "overhead":
            sharing(root, stamps(root / "many", options.shared_stamps), options)


def overhead(root: Path, manifest: Path, options: argparse.Namespace) -> None:
    """The same training alone, as one trial and as three."""
    best: dict[str, tuple[float, float]] = {}
    losses: dict[str, list[float]] = {}
    for attempt in range(options.repeat):
        for kind, trials in (("train", 1), ("study, 1 trial", 1), ("study, 3 trials", 3)):
            folder = root / f"{kind.replace(', ', '-').replace(' ', '-')}-{attempt}"
            folder.mkdir()
            if kind == "train":
                took, first = train(folder, manifest, 2, options.epochs)
            else:
                took, found = study(folder, manifest, 2, options.epochs, seeds=trials)
                first = found[0]
            now = (took.seconds, epoch_seconds(first))
            best[kind] = tuple(map(min, now, best.get(kind, now)))
            losses[kind] = [record["train_loss"] for record in first]
    print("                  s in all  s per epoch")
    for kind, (seconds, epoch) in best.items():
        print(f"{kind:16s}  {seconds:8.1f}  {epoch:11.2f}")
    alone, one, three = (best[kind] for kind in best)
    print(f"an epoch of a trial takes {one[1] / alone[1]:.3f} of the time of the same epoch of ray_train.train")
    print(f"a study of one trial takes {one[0] - alone[0]:.1f} s more; each further trial {(three[0] - one[0]) / 2:.1f} s, "
          f"{(three[0] - one[0]) / 2 / alone[0]:.2f} of ray_train.train")  # fmt: skip
    print(f"losses equal: {len({tuple(values) for values in losses.values()}) == 1}")


def sharing(root: Path, manifest: Path, options: argparse.Namespace) -> None:
    """Two trials at once with one copy and with two."""
    best: dict[bool, tuple[float, float]] = {}
    for attempt in range(options.repeat):
        for share in (True, False):
            folder = root / f"sharing-{share}-{attempt}"
            folder.mkdir()
            took, found = study(folder, manifest, 1, options.epochs, seeds=2, concurrent=2, share=share, model=SMALLEST)
            rate = sum(max(record["images_per_second"] for record in trial) for trial in found)
            old = best.get(share, (took.peak_bytes, rate))
            best[share] = (min(took.peak_bytes, old[0]), max(rate, old[1]))
    copy = options.shared_stamps * 63 * 63 * 3 * 4
    print(f"\nprepared stamps: {copy / 1e6:.0f} MB   all processes, MB  stamps/s of both trials")
    for share, (memory, rate) in best.items():
        print(f"{'one copy' if share else 'two copies':27s}  {memory / 1e6:18.0f}  {rate:23.0f}")
    print(
        f"memory {(best[False][0] - best[True][0]) / copy:.2f} copies less, speed {best[True][1] / best[False][1]:.2f}"
    )


if __name__ == "__main__":
    main()
