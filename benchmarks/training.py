"""Images/s of training: compute alone, fed from each residency, and what was tried to make it faster.

    python benchmarks/training.py [--device auto] [--arch resnet18] [--recipe parity|wide|laptop] [--seconds 20]
    python benchmarks/training.py --profile --arch efficientnet_v2_s        # a table of one window's kernels
    python benchmarks/training.py --epoch                                  # seconds per epoch of 316,100 stamps

It needs `ray_train/core`, torch and torchvision, nothing else: stamps are drawn on the device. Rates of one run compare;
those of different runs on a shared machine do not. Compute alone trains on one batch that is on the device already, with the
same window, precision and optimizer; fed runs the same windows over a source, augmentation included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch

from ray_train.core.augment import Views, augment
from ray_train.core.data import HostStamps, ResidentStamps, StampSource, StampTable, StreamedStamps
from ray_train.core.images import ImageRecipe
from ray_train.core.models import build_model, stem_of
from ray_train.core.optimizer import build_optimizer
from ray_train.core.order import epoch_order, micro_batches
from ray_train.core.window import MicroBatch, Stepper

RECIPES = {  # (micro-batch, accumulation): the published windows (R-T2), the same in one piece, and one for a laptop
    "parity": {"resnet18": (128, 16), "efficientnet_v2_s": (64, 8), "shielded_resnet": (128, 16)},
    "wide": {"resnet18": (2048, 1), "efficientnet_v2_s": (512, 1), "shielded_resnet": (2048, 1)},
    "laptop": {"resnet18": (32, 2), "efficientnet_v2_s": (32, 2), "shielded_resnet": (32, 2)},
}
GROUP = 128
SURVEY_ROWS = 316_100  # training stamps of the 70/30 manifest
# Of such an epoch, on a GH200 whose loader gave 500 to 640 images/s: what waiting for data costs.
LOADER_BOUND_SECONDS = {"efficientnet_v2_s": 495.0, "resnet18": 628.0}


@dataclass(frozen=True)
class Setup:
    """One way of training."""

    arch: str
    micro_batch: int
    accumulation: int
    precision: str
    compile: str
    size: int
    dtype: str
    device: torch.device

    @property
    def window(self) -> int:
        """Stamps of an optimizer step."""
        return self.micro_batch * self.accumulation


def stepper(setup: Setup) -> Stepper:
    """A network and its optimizer, as the training loop puts them together."""
    torch.manual_seed(0)
    model = build_model(setup.arch).to(setup.device, memory_format=torch.channels_last).train()
    optimizer = build_optimizer(model, "adamw", lr=5e-4, weight_decay=1e-4, momentum=0.9)
    wrapped = model if setup.compile == "none" else torch.compile(model, mode=setup.compile)
    return Stepper(
        model=wrapped, stem=model.get_submodule(stem_of(model)), optimizer=optimizer,
        scaler=torch.amp.GradScaler(setup.device.type, enabled=False), world=1, precision=setup.precision, clip_norm=0.0,
        blank=torch.zeros(1, 3, setup.size, setup.size, device=setup.device),
    )  # fmt: skip


def rate(steps: Callable[[], int], device: torch.device, seconds: float) -> float:
    """Stamps per second: the first step warms up, then steps are made for so long."""
    steps()
    _wait(device)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        done += steps()
    _wait(device)
    return done / (time.perf_counter() - started)


def compute_only(setup: Setup, seconds: float) -> float:
    """One batch, again and again."""
    parts = stepper(setup)
    shape = (setup.micro_batch, 3, setup.size, setup.size)
    images = torch.randn(shape, device=setup.device).contiguous(memory_format=torch.channels_last)
    targets = (torch.arange(setup.micro_batch, device=setup.device) % 2).float()
    batch = MicroBatch(images, targets, torch.ones_like(targets))

    def step() -> int:
        parts.step(
            islice(cycle([batch]), setup.accumulation), setup.accumulation, float(setup.window), freeze_stem=False
        )
        return setup.window

    return rate(step, setup.device, seconds)


def fed(setup: Setup, source: StampSource, seconds: float) -> float:
    """The windows of endless epochs over a source, augmented as in training."""
    parts, stream = stepper(setup), _micro(setup, source)

    def step() -> int:
        parts.step(islice(stream, setup.accumulation), setup.accumulation, float(setup.window), freeze_stem=False)
        return setup.window

    return rate(step, setup.device, seconds)


def _micro(setup: Setup, source: StampSource) -> Iterator[MicroBatch]:
    table, device, views = source.table, setup.device, Views(view="d4")
    labels, ids = torch.from_numpy(table.labels).to(device), torch.from_numpy(table.cutout_ids).to(device)
    for epoch in range(10**6):
        order = epoch_order(table.group_sizes, seed=1, epoch=epoch, shuffle_rows=4096)
        steps = micro_batches(
            len(table), micro_batch=setup.micro_batch, accumulation=setup.accumulation, drop_last=True
        )
        slices, rows = [piece for step in steps for piece in step], torch.from_numpy(order.rows).to(device)
        for (start, stop), images in zip(slices, source.batches(order, slices), strict=True):
            index = rows[start:stop]
            view = augment(images, views, seed=1, epoch=epoch, cutout_ids=ids[index], indices=index)
            targets = labels[index]
            yield MicroBatch(
                view.float().contiguous(memory_format=torch.channels_last), targets, torch.ones_like(targets)
            )


def stamps(rows: int, device: torch.device, *, keep: bool = True) -> tuple[StampTable, Callable[[int], np.ndarray]]:
    """Sky noise with a galaxy, in nanomaggies, drawn on the device; row groups of 128, kept in memory or drawn anew."""
    ring = torch.arange(101.0, device=device) - 50
    galaxy = torch.exp(-torch.hypot(*torch.meshgrid(ring, ring, indexing="ij")) / 4)[None, :, :, None]

    def draw(group: int) -> np.ndarray:
        generator = torch.Generator(device).manual_seed(group)
        count = min(GROUP, rows - group * GROUP)
        noise = torch.randn((count, 101, 101, 3), generator=generator, device=device)
        return (0.02 * noise + galaxy).cpu().numpy()

    kept = [draw(group) for group in range(-(-rows // GROUP))] if keep else []
    row = np.arange(rows)
    table = StampTable(row, (row % 2).astype(np.float32), np.ones(rows, np.float32), row // GROUP, row % GROUP)
    return table, kept.__getitem__ if keep else draw


def sources(setup: Setup, rows: int, folder: Path) -> dict[str, Callable[[], StampSource]]:
    """Each residency over the same stamps; streaming here has no disk to wait for (see benchmarks/loading.py)."""
    table, read = stamps(rows, setup.device)
    recipe = ImageRecipe(normalisation="raw_robust", crop=None if setup.size == 101 else setup.size, dtype=setup.dtype)
    return {
        "device": lambda: ResidentStamps(table, read, recipe, setup.device),
        "host": lambda: HostStamps(table, read, recipe, setup.device, folder / "stamps.npy"),
        "stream": lambda: StreamedStamps(table, read, recipe, setup.device),
    }


def profile(setup: Setup) -> None:
    """Where the time of one window goes."""
    parts = stepper(setup)
    images = torch.randn((setup.micro_batch, 3, setup.size, setup.size), device=setup.device)
    batch = MicroBatch(
        images.contiguous(memory_format=torch.channels_last),
        torch.zeros(setup.micro_batch, device=setup.device),
        torch.ones(setup.micro_batch, device=setup.device),
    )
    activities = [torch.profiler.ProfilerActivity.CPU]
    if setup.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    for measured in (False, True):
        with torch.profiler.profile(activities=activities) as result:
            micro = islice(cycle([batch]), setup.accumulation)
            parts.step(micro, setup.accumulation, float(setup.window), freeze_stem=False)
            _wait(setup.device)
        if measured:
            by = "self_cuda_time_total" if setup.device.type == "cuda" else "self_cpu_time_total"
            print(result.key_averages().table(sort_by=by, row_limit=20, max_name_column_width=50))


def one_epoch(setup: Setup) -> None:
    """The whole windows of an epoch of the survey's size, from the device's memory; validation is not in it."""
    table, read = stamps(SURVEY_ROWS, setup.device, keep=False)
    crop = None if setup.size == 101 else setup.size
    recipe = ImageRecipe(normalisation="raw_robust", crop=crop, dtype=setup.dtype)
    source = ResidentStamps(table, read, recipe, setup.device)
    parts, stream = stepper(setup), _micro(setup, source)
    num_steps = SURVEY_ROWS // setup.window
    started = 0.0
    for step in range(num_steps + 1):
        parts.step(islice(stream, setup.accumulation), setup.accumulation, float(setup.window), freeze_stem=False)
        if step == 0:  # compiled, warmed up
            _wait(setup.device)
            started = time.perf_counter()
    _wait(setup.device)
    seconds = time.perf_counter() - started
    bound = LOADER_BOUND_SECONDS.get(setup.arch)
    beside = f"; loader-bound {bound:.0f} s, {bound / seconds:.0f}x" if bound else ""
    print(f"{setup.arch}: {num_steps * setup.window:,} stamps in {seconds:.1f} s{beside}")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--arch", nargs="*", default=["resnet18", "efficientnet_v2_s", "shielded_resnet"])
    parser.add_argument(
        "--recipe", nargs="*", choices=list(RECIPES), help="default: parity and wide on a GPU, else laptop"
    )
    parser.add_argument(
        "--precision", nargs="*", choices=["fp32", "bf16", "fp16"], help="default: bf16 on a GPU, else fp32"
    )
    parser.add_argument(
        "--compile", nargs="*", default=["none"], choices=["none", "default", "reduce-overhead", "max-autotune"]
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16"], help="of waiting stamps")
    parser.add_argument("--size", type=int, default=101)
    parser.add_argument("--rows", type=int, help="default: 32,768 on a GPU, else 1,024")
    parser.add_argument("--seconds", type=float, default=10.0, help="per figure")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--epoch", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    options = _parsed()
    cuda = torch.cuda.is_available() and options.device != "cpu"
    device = torch.device("cuda" if cuda else "cpu")
    if cuda:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.cudnn.benchmark = True
    where = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, torch {torch.__version__}, {options.size} pixels, stamps wait as {options.dtype}")
    print(
        "network            micro x acc.  type  compile           compute   device  of it    host  of it  stream  of it"
    )
    for arch in options.arch:
        for recipe in options.recipe or (["parity", "wide"] if cuda else ["laptop"]):
            for precision in options.precision or (["bf16"] if cuda else ["fp32"]):
                for mode in options.compile:
                    setup = Setup(arch, *RECIPES[recipe][arch], precision, mode, options.size, options.dtype, device)
                    with tempfile.TemporaryDirectory() as folder:
                        if options.profile:
                            profile(setup)
                        elif options.epoch:
                            one_epoch(setup)
                        else:
                            row(setup, options.rows or (32_768 if cuda else 1_024), options.seconds, Path(folder))


def row(setup: Setup, rows: int, seconds: float, folder: Path) -> None:
    """One line: images/s of compute alone and fed, and their ratio."""
    alone = compute_only(setup, seconds)
    figures = ""
    for make in sources(setup, rows, folder).values():
        found = fed(setup, make(), seconds)
        figures += f" {found:8.0f} {found / alone:6.2f}"
    window = f"{setup.micro_batch} x {setup.accumulation}"
    print(f"{setup.arch:18s} {window:12s}  {setup.precision:5s} {setup.compile:15s} {alone:9.0f}{figures}", flush=True)


if __name__ == "__main__":
    main()
