"""Stamps per core-second as shuffled batches in a staging buffer: our shards and reader beside other loaders.

    python benchmarks/loading.py [--stamps 4096] [--competitors PYTHON] [--dtypes float32 float16]

Every loader reads the same stamps from a warm disk in a process of its own, shuffled, in batches of 128 that end in a staging
buffer, which a GPU needs pinned. `stream` and `host` gather every batch straight into one; the batches of the others are arrays of
their own and are copied into it. PYTHON is the interpreter of an environment that has the packages of
competitors.txt (Ray Data runs in ours). A core-second is CPU time of all threads and child processes of the loader; the start
of the process, imports and Ray's start do not count. Each is read `--repeats` times, with another shuffle each time, and the
best CPU and wall times are shown. That every stamp came exactly once, and not in the stored order, is checked.

Shuffle window or buffer: 1,024 stamps (ours, WebDataset, Ray Data), all stamps (NPZ, MosaicML), LitData's own. No loader has
worker processes unless it cannot do without (Ray Data). `stream` checks the checksum of every page in its first repeat, as in a
run's first epoch (its time is shown apart); `host` read all pages so when it made its file, which is not timed, as the writing
of the other loaders' files is not. MosaicML, LitData, Ray Data and WebDataset check none here; NPZ has a CRC-32 of its own,
which is checked.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import torch
from competitors import LOADERS, time_epochs

from lensdata.shards.layout import SURVEY_LAYOUT, ImageLayout
from lensdata.shards.manifests import Manifest
from lensdata.shards.writer import ShardWriter
from ray_train.core.data import StampSource
from ray_train.core.images import ImageRecipe
from ray_train.core.order import epoch_order, micro_batches
from ray_train.stamps import stamp_source

HERE = Path(__file__).parent
BATCH, SHUFFLE_ROWS, TAR_ROWS, SHARD_BYTES = 128, 1024, 512, 64 << 20
PATIENCE_S = 300  # with one loader
SKY_SIGMA = 0.01  # nanomaggy per pixel, about that of the survey in g
NAMES = {
    "stream": "stream",
    "stream_first": "stream, first epoch",
    "host": "host",
    "raw_robust": "stream, raw_robust on the CPU",
    "npz": "NPZ per stamp, np.load",
    "webdataset": "WebDataset, tar, decode()",
    "webdataset_bytes": "WebDataset, tar, bytes as they are",
    "mosaicml": "MosaicML streaming, MDS",
    "litdata": "LitData, as it comes",
    "litdata_tuned": "LitData, LITDATA_BATCH_DECODE=0",
    "ray_data": "Ray Data, our shards",
}
OWN = ("stream", "stream_first", "host", "raw_robust")


@dataclass(frozen=True)
class Result:
    """Best times of one loader, and what it delivered (checksums of the stamps' first pixels, sorted and as they came)."""

    cpu: float
    wall: float
    rows: int
    content: int
    order: int


class AsStored(ImageRecipe):
    """No normalisation: the stored pixels."""

    def prepare(self, stamps_NHWC: torch.Tensor) -> torch.Tensor:
        """The same stamps."""
        return stamps_NHWC


# --- data --------------------------------------------------------------------------------------------------------------


def layout_for(dtype: str) -> ImageLayout:
    """Survey stamps of a number type."""
    survey = SURVEY_LAYOUT
    return ImageLayout(shape=survey.shape, dtype=dtype, bands=survey.bands, unit=survey.unit)


def write_all(folder: Path, count: int, dtype: str) -> np.ndarray[Any, Any]:
    """The same stamps as one array, shards, NPZ files and tar files."""
    folder.mkdir()
    shape = SURVEY_LAYOUT.shape
    stamps = np.random.default_rng(0).normal(0, SKY_SIGMA, (count, *shape)).astype(dtype)
    np.save(folder / "stamps.npy", stamps)
    with ShardWriter(str(folder / "shards"), layout_for(dtype), target_bytes=SHARD_BYTES) as writer:
        for start in range(0, count, BATCH):
            part = stamps[start : start + BATCH]
            writer.add(pa.table({"cutout_id": pa.array(np.arange(start, start + len(part)))}), part)
    write_manifest(folder, writer.locations)
    (folder / "npz").mkdir()
    (folder / "tar").mkdir()
    for number, stamp in enumerate(stamps):
        np.savez(folder / "npz" / f"{number:07d}.npz", cutout=stamp)
    for start in range(0, count, TAR_ROWS):
        with tarfile.open(folder / "tar" / f"{start:07d}.tar", "w") as out:
            for number, stamp in enumerate(stamps[start : start + TAR_ROWS], start):
                buffer = io.BytesIO()
                np.save(buffer, stamp)
                member = tarfile.TarInfo(f"{number:07d}.npy")
                member.size = buffer.tell()
                buffer.seek(0)
                out.addfile(member, buffer)
    return stamps


def write_manifest(folder: Path, places: pa.Table) -> None:
    """Where the stamps lie, for the reader's process."""
    shards = [str(folder / "shards" / name) for name in places["shard"].to_pylist()]
    table = places.set_column(places.column_names.index("shard"), "shard", pa.array(shards))
    label = pa.array(np.arange(len(table)) % 2)
    table = table.append_column("label", label).append_column("sample_weight", pa.array(np.ones(len(table))))
    with pa.OSFile(str(folder / "manifest.arrow"), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)


# --- loaders that need nothing but this project ------------------------------------------------------------------------


def with_ours(recipe: ImageRecipe, residency: str, fresh: bool, folder: Path, dtype: str, repeats: int) -> str:
    """A source of the training loop, in its own order; ``fresh``: a new one for every epoch."""
    torch.set_num_threads(1)
    with pa.memory_map(str(folder / "manifest.arrow")) as source:
        manifest = Manifest(str(folder), pa.ipc.open_file(source).read_all())
    layout = layout_for(dtype)
    if residency == "host":
        recipe = replace(recipe, dtype=dtype)

    def opened() -> StampSource:
        return stamp_source(manifest, layout, recipe, torch.device("cpu"), residency, folder / "cache")

    stamps = opened()
    steps = micro_batches(len(manifest), micro_batch=BATCH, accumulation=1, drop_last=False)
    slices = [piece for step in steps for piece in step]

    def read(epoch: int) -> Iterable[Any]:
        order = epoch_order(stamps.table.group_sizes, seed=0, epoch=epoch, shuffle_rows=SHUFFLE_ROWS)
        for batch in (opened() if fresh else stamps).batches(order, slices):
            # What `prepare` makes is NCHW over memory in NHWC order, and the buffer takes that memory.
            yield (batch if isinstance(recipe, AsStored) else batch.permute(0, 2, 3, 1)).numpy()

    delivered = dtype if isinstance(recipe, AsStored) else recipe.dtype
    return time_epochs(
        read, (BATCH, *layout.shape), delivered, repeats, staged=isinstance(recipe, AsStored) or residency == "host"
    )


def with_npz(folder: Path, dtype: str, repeats: int) -> str:
    """One file per stamp, opened in random order."""
    files = sorted((folder / "npz").glob("*.npz"))

    def read(epoch: int) -> Iterable[Any]:
        order = np.random.default_rng(epoch).permutation(len(files))
        for start in range(0, len(files), BATCH):
            yield np.stack([load(files[index]) for index in order[start : start + BATCH]])

    return time_epochs(read, (BATCH, *SURVEY_LAYOUT.shape), dtype, repeats)


def load(path: Path) -> np.ndarray[Any, Any]:
    """The stamp of one file."""
    with np.load(path) as file:
        return np.asarray(file["cutout"])


AS_STORED = AsStored(normalisation="identity", crop=None)
READERS: dict[str, Callable[[Path, str, int], str]] = {
    "stream": partial(with_ours, AS_STORED, "stream", False),
    "stream_first": partial(with_ours, AS_STORED, "stream", True),
    "host": partial(with_ours, ImageRecipe(normalisation="identity", crop=None), "host", False),
    "raw_robust": partial(with_ours, ImageRecipe(normalisation="raw_robust", crop=None), "stream", False),
    "npz": with_npz,
}
KEPT_MEMORY = {  # no loader gives memory back to the kernel, as torch does not with the pinned memory of a device's batches
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_ARENA_MAX": "1",
    "MIMALLOC_PURGE_DELAY": "-1",
}


# --- measuring ---------------------------------------------------------------------------------------------------------


def run_loader(name: str, folder: Path, dtype: str, repeats: int, competitors: str | None) -> Result | str:
    """The loader in a process of its own, or why it was not measured."""
    if name in READERS:
        command = [sys.executable, __file__, "--reader", name, "--folder", str(folder), "--repeats", str(repeats)]
        command += ["--dtypes", dtype]
    else:
        python = sys.executable if name == "ray_data" else competitors
        if python is None:
            return "not measured: give --competitors"
        numbers = map(str, (BATCH, SHUFFLE_ROWS, repeats))
        # -P: some of them import packages that are called as files here are.
        command = [python, "-P", str(HERE / "competitors.py"), name, str(folder), dtype, *numbers]
    # The libraries of linear algebra shall not start threads for nothing.
    environment = os.environ | KEPT_MEMORY | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        return f"failed: took over {PATIENCE_S} s"
    found = re.findall(r"cpu=(\S+) wall=(\S+) rows=(\d+) content=(\d+) order=(\d+)", done.stdout)
    if done.returncode or not found:
        missing = re.findall(r"ModuleNotFoundError: (.*)", done.stderr)
        return f"not installed ({missing[-1]})" if missing else f"failed: {done.stderr.strip()[-300:]}"
    cpu, wall, *counts = found[-1]
    return Result(float(cpu), float(wall), *map(int, counts))


def check(name: str, found: Result, stamps: np.ndarray[Any, Any]) -> None:
    """All stamps once, and shuffled."""
    first = np.ascontiguousarray(stamps[:, 0, 0, 0])
    if name == "raw_robust":  # other values
        assert found.rows == len(first), f"{name} delivered {found.rows} of {len(first)} stamps"
        return
    assert (found.rows, found.content) == (len(first), crc32(np.sort(first).tobytes())), f"{name}: not every stamp once"
    assert found.order != crc32(first.tobytes()), f"{name} does not shuffle"


def compare(stamps: np.ndarray[Any, Any], folder: Path, dtype: str, repeats: int, competitors: str | None) -> None:
    """Print the table of one number type."""
    results: dict[str, Result] = {}
    mebibytes = stamps[0].nbytes / 2**20
    print(f"\n{len(stamps):,} stamps {dtype} {'x'.join(map(str, stamps.shape[1:]))}, batches of {BATCH}, shuffled")
    print(f"{'':36} {'per core':>9} {'MiB/core-s':>11} {'wall':>9}   images/s")
    for name, label in NAMES.items():
        found = run_loader(name, folder, dtype, repeats, competitors)
        if isinstance(found, str):
            print(f"{label:36} {found}")
            continue
        check(name, found, stamps)
        results[name] = found
        rate = found.rows / found.cpu
        print(f"{label:36} {rate:9,.0f} {rate * mebibytes:11,.0f} {found.rows / found.wall:9,.0f}", flush=True)
    rivals = {name: found.cpu for name, found in results.items() if name not in OWN}
    best = min(rivals, key=rivals.__getitem__)
    for name in ("stream", "host"):
        print(f"{name} per core, to the best other loader ({NAMES[best]}): {rivals[best] / results[name].cpu:.2f}x; to all: "
              + ", ".join(f"{NAMES[rival]} {cpu / results[name].cpu:.1f}x" for rival, cpu in rivals.items()))  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Print one table per number type."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stamps", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float16"], choices=["float32", "float16"])
    parser.add_argument("--competitors", help="interpreter with the packages of competitors.txt")
    parser.add_argument("--reader", choices=list(READERS), help=argparse.SUPPRESS)  # the loader's own process
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.reader:
        print(READERS[args.reader](args.folder, args.dtypes[0], args.repeats))
        return
    for dtype in args.dtypes:
        with tempfile.TemporaryDirectory() as name:
            stamps = write_all(Path(name) / dtype, args.stamps, dtype)
            compare(stamps, Path(name) / dtype, dtype, args.repeats, args.competitors)


assert set(NAMES) == set(READERS) | set(LOADERS), "every loader has a line"

if __name__ == "__main__":
    main()
