"""How long `lensdata vet` takes to start on a long list, how fast pictures follow each other, and what memory it needs.

    python benchmarks/vetting.py [--rows 100000] [--stamps 8192] [--pictures 1000] [--folder FOLDER]

Writes a manifest of ROWS rows on shards of STAMPS noise stamps (101 x 101 x 3 float32; 8,192 take 1 GB) into a temporary
folder; as the rows are more than the stamps, several rows share one. So the few row groups serve about three stamps of a block
of 200 each, and lie in the page cache; in 12 GB of shards nearly every picture would read a row group of its own.
The list is a CSV file of nearly all rows.

Shown are: seconds from the command to the printed address, in a new folder and again in the one begun; to the first picture;
pictures per second asked one after another, as by somebody who holds the arrow key, in colours and as a residual; grades per
second, each on the disk before the next; and the resident memory (VmRSS) after the start, after PICTURES, and after as many
again.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from lensdata import storage, tables
from lensdata.shards import ShardWriter
from lensdata.shards.layout import SURVEY_LAYOUT

BATCH = 512
LENS_SHARE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--stamps", type=int, default=8192)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--folder", help="where the temporary folder goes")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        make(folder, args.rows, args.stamps)
        asyncio.run(measure(folder, args.pictures))


def make(folder: Path, rows: int, stamps: int) -> None:
    """Shards, manifest and list."""
    rng = np.random.default_rng(0)
    with ShardWriter(str(folder / "shards" / "dataset"), SURVEY_LAYOUT) as writer:
        for first in range(0, stamps, BATCH):
            keys = np.arange(first, min(first + BATCH, stamps))
            pixels = rng.normal(0, 0.01, (len(keys), *SURVEY_LAYOUT.shape)).astype(np.float32)
            writer.add(pa.table({"cutout_id": keys}), pixels)
    keys = np.arange(1, rows + 1)
    places = writer.locations.take(pa.array(rng.integers(0, stamps, rows)))
    columns = {field.name: pa.nulls(rows, field.type) for field in tables.MANIFEST.schema}
    columns |= {name: places[name] for name in ("row_group", "row")}
    columns["shard"] = pa.array([f"../shards/dataset/{shard}" for shard in places["shard"].to_pylist()])
    columns["cutout_id"] = columns["source_id"] = pa.array(keys)
    columns["label"] = pa.array((rng.random(rows) < LENS_SHARE).astype(np.int8))
    columns["sample_weight"] = pa.array(np.ones(rows, np.float32))
    columns["split"], columns["kind"] = pa.array(["test"] * rows), pa.array(["plain"] * rows)
    columns["ra"], columns["dec"] = (pa.array(rng.uniform(0, 30, rows)) for _ in range(2))
    tables.write_table(pa.table(columns), str(folder / "manifest"), tables.MANIFEST)
    pacsv.write_csv(
        pa.table({"cutout_id": keys[: rows - 200], "logit": rng.normal(size=rows - 200)}), folder / "list.csv"
    )
    size = sum(storage.size(name) for name in storage.list_files(str(folder)))
    print(f"{rows:,} rows on {stamps:,} stamps, {size / 1e9:.2f} GB")


async def measure(folder: Path, pictures: int) -> None:
    """Start, look, grade, start again."""
    process, address, seconds = start(folder)
    show("start, new folder", seconds, "s")
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as client:
        begun = time.perf_counter()
        await (await client.get(address)).read()
        base = address.partition("?")[0]
        about = await (await client.get(f"{base}api/session")).json()
        await (await client.get(f"{base}api/marks/ada")).read()
        await picture(client, base, about, 1)
        show("page, marks and first picture", time.perf_counter() - begun, "s")
        show("memory after the start", memory(process.pid), "MB")
        show("colours, one after another", await rate(client, base, about, range(2, pictures + 2)), "pictures/s")
        show(f"memory after {pictures:,}", memory(process.pid), "MB")
        more = range(pictures + 2, 2 * pictures + 2)
        show("residual, one after another", await rate(client, base, about, more, "&residual=1"), "pictures/s")
        show(f"memory after {2 * pictures:,}", memory(process.pid), "MB")
        show(
            "seen stamps in another band",
            await rate(client, base, about, range(2 * pictures - 48, 2 * pictures), "&channel=g"),
            "pictures/s",
        )
        show("grades, one after another", await grades(client, base, about, pictures), "grades/s")
    process.kill()
    process.wait()
    process, _, seconds = start(folder)
    show("start, folder that is begun", seconds, "s")
    process.kill()
    process.wait()


def start(folder: Path) -> tuple[subprocess.Popen[str], str, float]:
    command = [sys.executable, "-m", "infra.cli", "vet", str(folder / "list.csv"), "--manifest", str(folder / "manifest"),
               "--output", str(folder / "vetting"), "--port", "0"]  # fmt: skip
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://\S+", line):
            return process, found[0], time.perf_counter() - begun
    raise RuntimeError("the server did not start")


async def picture(client: aiohttp.ClientSession, base: str, about: dict[str, Any], number: int, more: str = "") -> None:
    async with client.get(f"{base}picture/{about['session']}/ada/{number}?stretch=normal{more}") as answer:
        answer.raise_for_status()
        await answer.read()


async def rate(
    client: aiohttp.ClientSession, base: str, about: dict[str, Any], numbers: range, more: str = ""
) -> float:
    begun = time.perf_counter()
    for number in numbers:
        await picture(client, base, about, number, more)
    return len(numbers) / (time.perf_counter() - begun)


async def grades(client: aiohttp.ClientSession, base: str, about: dict[str, Any], count: int) -> float:
    begun = time.perf_counter()
    for number in range(1, count + 1):
        body = {
            "session": about["session"],
            "grader": "ada",
            "number": number,
            "grade": "not",
            "seconds": 1,
            "key": f"k{number}",
        }
        async with client.post(f"{base}api/grade", json=body) as answer:
            answer.raise_for_status()
    return count / (time.perf_counter() - begun)


def memory(process: int) -> float:
    """Resident memory in MB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def show(what: str, value: float, unit: str) -> None:
    print(f"{what:<36} {value:>9.3g} {unit}", flush=True)


if __name__ == "__main__":
    main()
