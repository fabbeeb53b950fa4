"""How much of the bare forward pass does scoring a survey's shards reach, does its memory grow, and would Ray Data be faster?

    python benchmarks/scoring.py [--stamps 2048] [--factor 4] [--repeat 3] [--arch resnet18] [--crop 63] [--precision fp32]

Side by side in one run, repetitions interleaved: the network on stamps that wait prepared in memory; preparation (normalisation
and crop) and the network on stored stamps in memory, which is what the device has to do; `ray_train.score` with
``keep=top`` over shards on disk, from the first byte read to the last file written, in this process and by a worker of Ray; and
Ray Data reading the same shards into the same network. Starting an engine is timed apart. Memory: the peak of a process that
scores ``--stamps`` stamps and of one that scores ``--factor`` times as many.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from lensdata.audit.histogram import merged
from lensdata.config.base import load_config
from lensdata.config.scoring import ScoreConfig
from lensdata.shards import ImageLayout, ShardWriter
from lensdata.shards.layout import IMAGE_COLUMN
from ray_train import train
from ray_train.scoring import Assignment, Part, Scorer, Worker, load_scorer

SIZE, PER_SHARD = 101, 512
LAYOUT = ImageLayout(shape=(SIZE, SIZE, 3), dtype="float32", bands=("g", "r", "z"), unit="nanomaggy")


class Sum:
    """Stands for the tally of a step: counts, and keeps no floor."""

    def __init__(self) -> None:
        self.rows, self.floor, self.histogram = 0, float("-inf"), merged([])

    def add(self, facts: dict[str, Any]) -> None:
        """Count a part."""
        self.rows += facts["rows"]


def write_shards(folder: Path, count: int) -> list[str]:
    """Shards of noise; returns their names."""
    rng = np.random.default_rng(0)
    size = PER_SHARD * LAYOUT.nbytes
    with ShardWriter(str(folder), LAYOUT, target_bytes=size) as writer:
        for first in range(0, count, 256):
            stamps = rng.standard_normal((min(256, count - first), *LAYOUT.shape), np.float32)
            writer.add(pa.table({"cutout_id": np.arange(first, first + len(stamps), dtype=np.int64)}), stamps)
    return sorted(path.name for path in folder.glob("*.parquet"))


def make_run(folder: Path, args: argparse.Namespace) -> str:
    """A run of one epoch on a few stamps: the weights do not matter."""
    from lensdata.shards import importing

    rng = np.random.default_rng(1)
    np.savez(folder / "few.npz", images=rng.standard_normal((60, SIZE, SIZE, 3), np.float32), label=np.arange(60) % 2)
    stored = ["--output", str(folder / "few"), f"inputs.stamps={folder / 'few.npz'}", "unit=nanomaggy"]
    line = ["--output", str(folder / "run"), f"inputs.manifest={folder / 'few' / 'manifest'}", "epochs=1", "batch.micro_batch=16",
            "execution.runtime=local", f"model.arch={args.arch}", f"images.crop={args.crop}", "trackers.tensorboard=false",
            "batch.accumulation=1"]  # fmt: skip
    if importing.main(stored) or train.main(line):
        raise SystemExit("no run")
    return str(folder / "run")


def bare(scorer: Scorer, batch: int, count: int, precision: str) -> float:
    """Stamps per second of the network alone."""
    planes = scorer.network["in_channels"]
    size = scorer.images(LAYOUT).prepared_shape(LAYOUT.shape)[0]
    images = torch.randn(batch, planes, size, size, device=scorer.device).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast(scorer.device.type, torch.bfloat16, enabled=precision == "bf16"):
        scorer.model(images)
        _wait(scorer.device)
        started = time.perf_counter()
        for _ in range(max(1, count // batch)):
            scorer.model(images)
        _wait(scorer.device)
    return batch * max(1, count // batch) / (time.perf_counter() - started)


def with_preparation(scorer: Scorer, batch: int, count: int, precision: str) -> float:
    """Stamps per second of normalisation, crop and network, on stamps that wait in the device's memory as they are stored."""
    recipe, stamps = scorer.images(LAYOUT), torch.randn(batch, *LAYOUT.shape, device=scorer.device)
    with torch.inference_mode(), torch.autocast(scorer.device.type, torch.bfloat16, enabled=precision == "bf16"):
        scorer.model(recipe.prepare(stamps))
        _wait(scorer.device)
        started = time.perf_counter()
        for _ in range(max(1, count // batch)):
            scorer.model(recipe.prepare(stamps))
        _wait(scorer.device)
    return batch * max(1, count // batch) / (time.perf_counter() - started)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def here(worker: Worker, parts: list[Part]) -> float:
    """Stamps per second of this process over all shards, files written."""
    tally, started = Sum(), time.perf_counter()
    for part in parts:
        tally.add(worker.score(part, tally.floor))
    return tally.rows / (time.perf_counter() - started)


def by_ray(task: Assignment, config: ScoreConfig, parts: list[Part]) -> tuple[float, float]:
    """Stamps per second of a worker of Ray that is ready, and the seconds until it was."""
    from ray_train import ray_environment

    ray_environment.prepare()
    from ray_train.score_backend import RayCrew

    started = time.perf_counter()
    with RayCrew(task, config.execution) as crew:
        crew.score(iter(parts[:1]), Sum())
        ready, tally = time.perf_counter(), Sum()
        crew.score(iter(parts), tally)
        return tally.rows / (time.perf_counter() - ready), ready - started


def by_ray_data(run: str, folder: Path, batch: int, device: str) -> tuple[float, float]:
    """Stamps per second of Ray Data with the same network in one actor, and the seconds to start and end it."""
    import ray

    class Network:
        def __init__(self) -> None:
            torch.set_num_threads(os.cpu_count() or 1)
            self.scorer = load_scorer(run, "best", torch.device(device))
            self.recipe = self.scorer.images(LAYOUT)

        def __call__(self, rows: pa.Table) -> dict[str, np.ndarray]:
            flat = np.frombuffer(rows[IMAGE_COLUMN].combine_chunks().buffers()[-1], np.float32)
            offset = rows[IMAGE_COLUMN].combine_chunks().offset * LAYOUT.nbytes // 4
            stamps = flat[offset : offset + len(rows) * LAYOUT.nbytes // 4].reshape(len(rows), *LAYOUT.shape)
            with torch.inference_mode():
                logits = self.scorer.model(self.recipe.prepare(torch.from_numpy(stamps.copy()).to(self.scorer.device)))
            return {"cutout_id": rows["cutout_id"].to_numpy(), "logit": logits.squeeze(1).cpu().numpy()}

    ray.init(
        num_cpus=max(2, os.cpu_count() or 2), include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1"
    )
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        seconds, rows = [], 0
        for copies in (1, 3):  # what two more copies take, so that starting and ending are left out
            started = time.perf_counter()
            found = ray.data.read_parquet([str(path) for path in sorted(folder.glob("*.parquet"))] * copies)
            found = found.select_columns(["cutout_id", IMAGE_COLUMN]).map_batches(
                Network, batch_size=batch, batch_format="pyarrow", concurrency=1, num_gpus=1 if device == "cuda" else 0
            )
            rows = sum(len(piece["logit"]) for piece in found.iter_batches(batch_size=None))
            seconds.append(time.perf_counter() - started)
        per_copy = (seconds[1] - seconds[0]) / 2
        return rows / 3 / per_copy, seconds[0] - per_copy
    finally:
        ray.shutdown()


def peak_mib(run: str, folder: Path, output: Path, args: argparse.Namespace) -> float:
    """Peak memory of a process that scores a folder of shards."""
    code = (
        "import json, resource, sys; from ray_train import score; code = score.main(sys.argv[1:]); "
        "print(json.dumps([code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))"
    )
    line = [
        "--output",
        str(output),
        f"inputs.shards={folder}",
        f"inputs.run={run}",
        "keep=top",
        "top_k=200",
        "execution.runtime=local",
    ]
    told = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True, check=True).stdout
    status, peak = json.loads(told.splitlines()[-1])
    if status:
        raise SystemExit(status)
    return float(peak)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("stamps", 2048), ("factor", 4), ("repeat", 3), ("crop", 63), ("batch", 256)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--without-ray", action="store_true", help="neither a worker of Ray nor Ray Data")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = make_run(folder, args)
        names = write_shards(folder / "shards", args.stamps)
        config = load_config(
            ScoreConfig, None, ["keep=top", "top_k=200", f"batch={args.batch}", f"precision={args.precision}"]
        )
        task = Assignment(run, str(folder / "scores"), config.model_dump(mode="json"))
        parts = [Part(place, str(folder / "shards"), shard=name) for place, name in enumerate(names)]
        worker = Worker(task)
        scorer = load_scorer(run, "best", torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        ways: dict[str, Callable[[], float | tuple[float, float]]] = {
            "network alone, stamps in memory": lambda: bare(scorer, args.batch, args.stamps, args.precision),
            "preparation and network, in memory": lambda: with_preparation(
                scorer, args.batch, args.stamps, args.precision
            ),
            "score, this process": lambda: here(worker, parts),
        }
        if not args.without_ray:
            ways["score, a worker of Ray"] = lambda: by_ray(task, config, parts)
            ways["Ray Data"] = lambda: by_ray_data(run, folder / "shards", args.batch, scorer.device.type)
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        starts: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.repeat):
            for name, way in ways.items():
                found = way()
                speed, start = found if isinstance(found, tuple) else (found, 0.0)
                speeds[name].append(speed)
                starts[name].append(start)
        print(f"{args.arch}, {args.crop} pixels, {args.precision}, {scorer.device.type}, {torch.get_num_threads()} threads, "
              f"{args.stamps} stamps in {len(names)} shards, medians of {args.repeat}")  # fmt: skip
        base = statistics.median(speeds["network alone, stamps in memory"])
        print(f"{'way':34s} stamps/s   of the network alone   start [s]")
        for name, values in speeds.items():
            ratios = [one / whole for one, whole in zip(values, speeds["network alone, stamps in memory"], strict=True)]
            print(f"{name:34s} {statistics.median(values):8.0f}   {statistics.median(values) / base:5.2f} "
                  f"({min(ratios):.2f} to {max(ratios):.2f})   {statistics.median(starts[name]):9.1f}")  # fmt: skip
        write_shards(folder / "more", args.stamps * args.factor)
        few = peak_mib(run, folder / "shards", folder / "few_scores", args)
        many = peak_mib(run, folder / "more", folder / "many_scores", args)
        print(
            f"peak memory: {few:.0f} MiB for {args.stamps} stamps, {many:.0f} MiB for {args.factor} times as many: {many / few:.2f}"
        )
        print(f"(this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB)")


if __name__ == "__main__":
    main()
