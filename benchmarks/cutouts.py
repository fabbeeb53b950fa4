"""Stamps per core-second on the three routes, and what writing shards costs beside other layouts.

    python benchmarks/cutouts.py [--stamps 1536]

All on this machine, over loopback or from a warm disk, in one run. Ratios are of CPU time (the server runs in a process of its
own), because a laptop's clock time depends on what else it does. Route A asks a server without latency: what the survey's
service needs is waiting, which costs no CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import multiprocessing
import os
import resource
import tarfile
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import requests
import urllib3
from astropy.io import fits

from lensdata.config.cutouts import FetchCutoutsConfig
from lensdata.cutouts import coadds
from lensdata.cutouts.coordinator import Coordinator, LocalTurns
from lensdata.cutouts.pace import Pace
from lensdata.cutouts.service import read_cards
from lensdata.shards.layout import SURVEY_LAYOUT
from lensdata.shards.writer import ShardWriter
from lensdata.simulation import survey as mock_survey
from lensdata.simulation.bricks import write_brick
from lensdata.simulation.rendering import Renderer
from lensdata.simulation.sky import bricks_at
from lensdata.simulation.world import Survey
from spark_jobs.transforms.fetching import Asked, Fetch, Group, fetch_group

TINY = Path(__file__).parents[1] / "configs" / "simulation" / "tiny.yaml"
BLOCK = 2880
SIZE = (101, 101, 3)


def cpu_s() -> float:
    """CPU time of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(action: Callable[[], object]) -> float:
    """CPU seconds of an action."""
    before = cpu_s()
    action()
    return cpu_s() - before


# --- route A -----------------------------------------------------------------------------------------------------------


def _serve(port: multiprocessing.Queue[int]) -> None:
    """A service without latency: the same sky everywhere, a true header."""
    pixels = np.random.default_rng(0).normal(0, 0.01, (3, 101, 101)).astype(">f4").tobytes()
    pixels += bytes(-len(pixels) % BLOCK)

    def answer(query: dict[str, str]) -> bytes:
        cards = {
            "SIMPLE": "T", "BITPIX": "-32", "NAXIS": "3", "NAXIS1": "101", "NAXIS2": "101", "NAXIS3": "3",
            "SURVEY": "'LegacySurvey'", "VERSION": "'DR10    '", "BANDS": "'grz     '",
            "CRVAL1": query["ra"], "CRVAL2": query["dec"], "CD2_2": repr(0.262 / 3600),
        }  # fmt: skip
        text = "".join(f"{name:<8}= {value:>20}".ljust(80) for name, value in cards.items()) + "END"
        return text.ljust(BLOCK).encode() + pixels

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                while (await reader.readline()).strip():
                    pass
                body = answer(dict(parse_qsl(urlsplit(line.split()[1].decode()).query)))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except ConnectionError:
            pass

    async def main() -> None:
        server = await asyncio.start_server(connection, "127.0.0.1", 0, backlog=128)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def positions(count: int) -> list[Asked]:
    """Objects anywhere."""
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(0, 360, count), rng.uniform(-18, 32, count)
    return [Asked(k, k, float(ra[k]), float(dec[k]), "0000p000") for k in range(count)]


def _coordinate(channel: Connection) -> None:
    turns = LocalTurns(Pace(1e6, 60.0, 600.0, 60.0, now=time.monotonic()))
    with Coordinator(turns) as coordinator:
        channel.send((coordinator.address, coordinator.key))
        while True:
            channel.recv()
            channel.send(cpu_s())


class Driver:
    """The driver's part, in a process of its own as on a cluster: turns that never make anybody wait."""

    def __init__(self) -> None:
        self.channel, there = multiprocessing.Pipe()
        multiprocessing.Process(target=_coordinate, args=(there,), daemon=True).start()
        self.address, self.key = self.channel.recv()

    def cpu_s(self) -> float:
        """Its CPU time so far."""
        self.channel.send(None)
        return float(self.channel.recv())

    def run_task(self, config: FetchCutoutsConfig, route: str, groups: list[Group], folder: str) -> tuple[float, float]:
        """CPU seconds of the very function of a Spark task, and of the driver meanwhile."""
        fetch = Fetch(config, route, folder, os.urandom(4).hex(), self.address, self.key)
        before = self.cpu_s()
        task_s = measure(lambda: list(fetch_group(fetch)(iter(groups))))
        return task_s, self.cpu_s() - before


def route_a(count: int, folder: Path, driver: Driver) -> None:
    """Ours against a plain loop over the same addresses."""
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=_serve, args=(port,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{port.get()}/fits-cutout"
    config = FetchCutoutsConfig(route="service", service={"url": url, "requests_per_second": 1e6})
    asked = positions(count)
    groups = [Group(number, asked[start : start + 256]) for number, start in enumerate(range(0, count, 256))]
    ours, turns = driver.run_task(config, "service", groups, str(folder / "a"))
    query = "?ra={0.ra:.7f}&dec={0.dec:.7f}&layer=ls-dr10&pixscale=0.262&bands=grz&size=101"
    session, pool = requests.Session(), urllib3.PoolManager()
    plain = measure(lambda: [session.get(url + query.format(entry)).content for entry in asked])
    bare = measure(lambda: [pool.request("GET", url + query.format(entry)).data for entry in asked])
    body = pool.request("GET", url + query.format(asked[0])).data
    names = ("NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "BITPIX", "BANDS", "CRVAL1", "CRVAL2", "CD2_2", "SURVEY", "VERSION")
    by_cards = measure(lambda: [read_cards(body) for _ in asked])
    by_astropy = measure(
        lambda: [[header[name] for name in names] for header in map(fits.Header.fromstring, [body[:BLOCK]] * count)]
    )
    server.terminate()
    print(f"\nRoute A, {count} stamps from a service without latency, stamps per core-second")
    print(f"  this fetch: pace, checks, quality, hash, shard, ledger  {count / ours:8.0f}")
    print(f"  the driver's part of it, on a core of its own           {count / turns:8.0f}")
    print(
        f"  requests.Session.get and nothing else                   {count / plain:8.0f}  {ours / plain:5.2f} of our speed"
    )
    print(f"  urllib3 and nothing else                                {count / bare:8.0f}  {ours / bare:5.2f}")
    print(
        f"  the header's cards alone: {1e3 * by_cards / count:.3f} ms a stamp, by astropy {1e3 * by_astropy / count:.3f} ms"
    )
    print("  img2dataset's README (images to 256 px, 16 cores)             84  reported, not measured here")


# --- routes B and C ----------------------------------------------------------------------------------------------------


def bricks_and_tiles(folder: Path, driver: Driver) -> None:
    """One brick with 1, 5 and 120 stamps, against the decompression of its three files."""
    mock_survey.main(["--config", str(TINY), "--output", str(folder / "survey"), "inputs.lenses=lenscat"])
    survey = Survey.load(str(folder / "survey"))
    sky = survey.config.sky
    brick = bricks_at((sky.ra_min + sky.ra_max) / 2, (sky.dec_min + sky.dec_max) / 2)
    renderer = Renderer(survey)
    for band in "grz":
        write_brick(renderer, int(brick.brickid[0]), band, str(folder))
    name = str(brick.name[0])
    files = [folder / coadds.coadd_path(name, "image", band) for band in "grz"]
    sizes = sum(path.stat().st_size for path in files)

    def decompress() -> None:
        for path in files:
            with fits.open(path, memmap=False) as hdus:
                assert hdus[1].data is not None

    decompress()
    bare = min(measure(decompress) for _ in range(3))
    print(f"\nRoutes B and C, one brick of 3 x {sizes / 3e6:.1f} MB; decompressing all of it takes {bare:.2f} core-s")
    print("  stamps route     core-s  stamps/core-s  to bare decompression  MB read  requests")
    rng = np.random.default_rng(2)
    for count in (1, 5, 120):
        ra = rng.uniform(brick.ra1[0], brick.ra2[0], count)
        dec = rng.uniform(brick.dec1[0], brick.dec2[0], count)
        asked = [Asked(k, k, float(ra[k]), float(dec[k]), name) for k in range(count)]
        for route in ("bricks", "tiles"):
            config = FetchCutoutsConfig(route=route, coadds={"url": str(folder)}, quality={"missing_frac_max": 1.0})
            outputs = [folder / f"{route}-{count}-{attempt}" for attempt in range(3)]
            times = [driver.run_task(config, route, [Group(0, asked)], str(output))[0] for output in outputs]
            [ledger] = (outputs[0] / "ledger" / "dataset").iterdir()
            rows = pq.read_table(ledger)
            read, made = (sum(rows[column].to_pylist()) for column in ("bytes", "attempts"))
            best = min(times)
            print(
                f"  {count:6d} {route:7s} {best:8.2f} {count / best:14.0f} {bare / best:18.2f}x {read / 1e6:12.2f} {made:9d}"
            )


# --- shards ------------------------------------------------------------------------------------------------------------


def shard_writing(count: int, folder: Path) -> None:
    """MB/s of one core into a shard, a tar of .npy members (webdataset's layout), and an NPZ file per stamp."""
    stamps = np.random.default_rng(3).normal(0, 0.01, (count, *SIZE)).astype(np.float32)
    table = pa.table({"cutout_id": pa.array(np.arange(count))})

    def shards() -> None:
        with ShardWriter(str(folder / "shards"), SURVEY_LAYOUT) as writer:
            for start in range(0, count, 128):
                writer.add(table.slice(start, 128), stamps[start : start + 128])

    def tar() -> None:
        with tarfile.open(folder / "stamps.tar", "w") as out:
            for number, stamp in enumerate(stamps):
                buffer = io.BytesIO()
                np.save(buffer, stamp)
                member = tarfile.TarInfo(f"{number:09d}.npy")
                member.size = buffer.tell()
                buffer.seek(0)
                out.addfile(member, buffer)

    def npz(save: Callable[..., None]) -> Callable[[], None]:
        def write() -> None:
            (folder / save.__name__).mkdir()
            for number, stamp in enumerate(stamps):
                save(folder / save.__name__ / f"{number}.npz", cutout=stamp)

        return write

    print(f"\nWriting {count} stamps, {stamps.nbytes / 1e6:.0f} MB, MB per core-second")
    first = measure(shards)
    for name, action in (
        ("shards: Parquet, page checksums, SHA-256", None),
        ("tar of .npy members, no checksum", tar),
        ("NPZ per stamp, uncompressed", npz(np.savez)),
        ("NPZ per stamp, compressed", npz(np.savez_compressed)),
    ):
        took = measure(action) if action else first
        print(f"  {name:42s} {stamps.nbytes / 1e6 / took:8.0f}  {first / took:5.2f} of the shards' speed")


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stamps", type=int, default=1536, help="stamps of route A and of the shards")
    args = parser.parse_args()
    driver = Driver()
    with tempfile.TemporaryDirectory() as name:
        route_a(args.stamps, Path(name), driver)
        bricks_and_tiles(Path(name), driver)
        shard_writing(args.stamps, Path(name))


if __name__ == "__main__":
    main()
