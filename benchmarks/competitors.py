"""The same work done with other tools; run by the interpreter of an environment that has them (competitors.txt).

    python benchmarks/competitors.py duckdb FOLDER OUT    pool and positives in FOLDER, sample with splits to OUT
    python benchmarks/competitors.py astropy LEFT RIGHT RADIUS
    python benchmarks/competitors.py lsdb LEFT RIGHT RADIUS
    python benchmarks/competitors.py LOADER FOLDER DTYPE BATCH SHUFFLE REPEATS

LOADER is a name in `LOADERS`; loading.py writes FOLDER and reads the line of `time_epochs`. Of the others, the last line printed
is ``seconds=S rows=N``: the time of the work itself, without imports.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

THREADS = 2
# splitmix64 in 128 bits, for products of 64-bit numbers overflow in SQL
KEY = """
create macro low(x) as (x & 18446744073709551615::uhugeint);
create macro shifted(x, bits) as xor(x, x >> bits);
create macro splitmix(v) as shifted(low(shifted(low(shifted(low(v + 11400714819323198485::uhugeint), 30)
    * 13787848793156543929::uhugeint), 27) * 10723151780598845931::uhugeint), 31);
"""
FLAGS = """
create table narrow as
select source_id, stratum, healpix_128, mag_r::double mag, ra, dec,
    cos(radians(dec)) * cos(radians(ra)) x, cos(radians(dec)) * sin(radians(ra)) y, sin(radians(dec)) z,
    case when flux_r > 5 and (type = 'DEV' or (type = 'SER' and sersic > 4)) then 2 else 0 end
    + case when ellipticity::double > 0.5 then 4 else 0 end
    + case when gr::double < 0.4 and mag_r::double < 20.5 then 8 else 0 end
    + case when shape_r > 2 and flux_r > 3 then 16 else 0 end flags,
    splitmix(xor(source_id::uhugeint, splitmix(42::uhugeint))) unsigned_key
from read_parquet('{pool}/dataset/**/*.parquet', hive_partitioning = false);
"""
# cells of 1 arcmin; a row near a wall is copied behind it, over RA 0/360 too
PAIRS = """
create table members as
with copies as (
    select *, unnest(generate_series(floor((dec - 5 / 3600) * 60)::int, floor((dec + 5 / 3600) * 60)::int)) b from narrow),
wide as (
    select *, unnest(generate_series(floor((ra - 5 / 3600 / cos(radians(abs(dec) + 0.01))) * 60)::int,
        floor((ra + 5 / 3600 / cos(radians(abs(dec) + 0.01))) * 60)::int)) a from copies),
homes as (select *, floor(dec * 60)::int b, floor(ra * 60)::int a from narrow)
select distinct h.source_id from homes h join wide c
    on h.b = c.b and h.a = (c.a + 21600) % 21600 and h.source_id <> c.source_id
where abs(h.mag - c.mag) <= 1.0
    and (h.x - c.x)**2 + (h.y - c.y)**2 + (h.z - c.z)**2 <= (2 * sin(radians(5 / 3600) / 2))**2;
"""
DRAW = """
create table ranked as
select n.source_id, n.stratum, n.healpix_128, q.n1, q.n2, xor(unsigned_key, 9223372036854775808::uhugeint) k,
    (flags + case when m.source_id is null then 0 else 1 end) flags,
    case when m.source_id is not null then 'merger' when flags & 2 > 0 then 'ring' when flags & 4 > 0 then 'edge_on'
         when flags & 8 > 0 then 'blue' when flags & 16 > 0 then 'large' end confuser
from narrow n join quotas q using (stratum) left join members m using (source_id);
create table n1 as select * from (
    select *, row_number() over (partition by stratum order by k) place from ranked) where place <= n1;
create table rest as select * from ranked r anti join n1 using (source_id) where confuser is not null;
create table shares as
select stratum, confuser, least(count(*), any_value(n2) // count(*) over (partition by stratum)) share
from rest group by stratum, confuser;
create table n2 as
with placed as (
    select r.*, s.share, row_number() over (partition by r.stratum, r.confuser order by k) <= s.share as shared
    from rest r join shares s using (stratum, confuser)),
totals as (select stratum, sum(share) given from shares group by stratum)
select * from (select p.*, t.given, row_number() over (partition by p.stratum, p.shared order by k) place
    from placed p join totals t using (stratum)) where shared or place <= n2 - given;
create table drawn as
select source_id, healpix_128, flags, confuser, 'N1' pool from n1
union all select source_id, healpix_128, flags, confuser, 'N2' pool from n2;
create table splits as
select healpix_128, case when h < 0.70 then 'train' when h < 0.85 then 'val' else 'test' end split from (
    select healpix_128, ('0x' || substr(sha256(healpix_128 || '_42'), 1, 8))::bigint / 4294967296 h
    from (select distinct healpix_128 from drawn));
"""
WRITE = """
copy (select p.*, d.flags, d.confuser, d.pool, s.split
      from read_parquet('{pool}/dataset/**/*.parquet', hive_partitioning = false) p
      join drawn d using (source_id) join splits s on s.healpix_128 = p.healpix_128) to '{out}' (format parquet);
"""


def duckdb(folder: str, out: str) -> tuple[float, int]:
    """Confusers, close pairs, exact draw and splits in SQL."""
    import duckdb

    started = time.perf_counter()
    scratch = Path(out).with_suffix(".duckdb")
    database = duckdb.connect(str(scratch), config={"threads": THREADS, "memory_limit": "10GB"})
    database.execute("set preserve_insertion_order = false")
    database.execute(KEY)
    database.execute(
        f"""create table quotas as select stratum, 85 * 100 * count(*) // 100 n1, 100 * count(*) - 85 * 100 * count(*) // 100 n2
        from read_parquet('{folder}/positives/dataset/**/*.parquet', hive_partitioning = false)
        where stratum is not null group by stratum"""
    )
    for statements in (FLAGS, PAIRS, DRAW, WRITE):
        database.execute(statements.format(pool=f"{folder}/pool", out=out))
    rows = database.execute("select count(*) from drawn").fetchone()[0]
    database.close()
    scratch.unlink()
    return time.perf_counter() - started, rows


def astropy(left: str, right: str, radius: str) -> tuple[float, int]:
    """Nearest neighbour by ``match_to_catalog_sky``, then the radius."""
    import pyarrow.parquet as pq
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    started = time.perf_counter()
    one, two = (pq.read_table(name, columns=["ra", "dec"], partitioning=None) for name in (left, right))
    sky = [SkyCoord(each["ra"].to_numpy(), each["dec"].to_numpy(), unit="deg") for each in (one, two)]
    _, separation, _ = sky[0].match_to_catalog_sky(sky[1])
    rows = int((separation <= float(radius) * u.arcsec).sum())
    return time.perf_counter() - started, rows


def lsdb(left: str, right: str, radius: str) -> tuple[float, int]:
    """Catalogues from data frames, the right one with a margin, crossmatched on a local Dask cluster."""
    import lsdb
    import pyarrow.parquet as pq
    from dask.distributed import Client

    with Client(n_workers=THREADS, threads_per_worker=1, dashboard_address=None):
        started = time.perf_counter()
        frames = [pq.read_table(name, columns=["ra", "dec"], partitioning=None).to_pandas() for name in (left, right)]
        one = lsdb.from_dataframe(frames[0], ra_column="ra", dec_column="dec", margin_threshold=None)
        two = lsdb.from_dataframe(frames[1], ra_column="ra", dec_column="dec", margin_threshold=float(radius))
        matched = one.crossmatch(two, radius_arcsec=float(radius), n_neighbors=1, suffixes=("_left", "_right"))
        rows = len(matched.compute())
        return time.perf_counter() - started, rows


# --- loading of stamps (loading.py) ------------------------------------------------------------------------------------


def children_cpu_s() -> float:
    """CPU seconds of all processes under this one, those that have ended among them."""
    parents, used = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended while we looked
                continue
            parents[int(entry.name)] = int(fields[1])
            used[int(entry.name)] = sum(map(int, fields[11:15])), sum(map(int, fields[13:15]))
    tree, grown = {os.getpid()}, True
    while grown:
        more = {process for process, parent in parents.items() if parent in tree} - tree
        tree |= more
        grown = bool(more)
    here = used[os.getpid()][1]  # its own time comes from a finer clock
    ticks = here + sum(used[process][0] for process in tree if process != os.getpid())
    return ticks / os.sysconf("SC_CLK_TCK")


def time_epochs(
    read: Callable[[int], Iterable[Any]], shape: Sequence[int], dtype: str, repeats: int, *, staged: bool = False
) -> str:
    """Copy every batch of some epochs into one staging buffer; the line that loading.py reads.

    Parameters
    ----------
    read
        From the number of an epoch to its batches (n, H, W, C), n up to the first number of ``shape``.
    staged
        The batches are staging buffers already, in memory of the reader's choice.
    """
    import numpy as np

    staging = np.zeros(shape, dtype)
    took = []
    for epoch in range(repeats):
        first_pixels = []
        cpu, started = time.process_time() + children_cpu_s(), time.perf_counter()
        for batch in read(epoch):
            if not staged:
                staging[: len(batch)] = batch
            first_pixels.append((batch if staged else staging[: len(batch)])[:, 0, 0, 0].copy())
        took.append((time.process_time() + children_cpu_s() - cpu, time.perf_counter() - started))
    delivered = np.concatenate(first_pixels)
    content, order = (zlib.crc32(each.tobytes()) for each in (np.sort(delivered), delivered))
    cpu, wall = (min(times) for times in zip(*took, strict=True))
    return f"cpu={cpu:.4f} wall={wall:.4f} rows={len(delivered)} content={content} order={order}"


def with_webdataset(folder: str, dtype: str, batch: int, shuffle: int, repeats: int, *, decode: bool = True) -> str:
    """Tar files of .npy members, shards and samples shuffled; decoded by the package, or their bytes taken as they are."""
    import numpy as np
    import webdataset as wds

    def stamp(data: bytes) -> Any:
        return np.frombuffer(data, dtype, offset=len(data) - length).reshape(shape)

    shape = np.load(f"{folder}/stamps.npy", mmap_mode="r").shape[1:]
    length = int(np.prod(shape)) * np.dtype(dtype).itemsize
    files = sorted(str(path) for path in Path(folder, "tar").glob("*.tar"))

    def read(epoch: int) -> Iterable[Any]:
        data = wds.WebDataset(files, shardshuffle=len(files), seed=epoch, empty_check=False).shuffle(shuffle)
        data = data.decode().to_tuple("npy") if decode else data.to_tuple("npy").map_tuple(stamp)
        for (stamps,) in data.batched(batch):
            yield stamps

    return time_epochs(read, (batch, *shape), dtype, repeats)


def with_mosaicml(folder: str, dtype: str, batch: int, shuffle: int, repeats: int) -> str:
    """MDS shards of arrays of a fixed shape; its own shuffle, over all samples."""
    import numpy as np
    from streaming import MDSWriter, StreamingDataset

    stamps = np.load(f"{folder}/stamps.npy", mmap_mode="r")
    columns = {"image": f"ndarray:{dtype}:" + ",".join(map(str, stamps.shape[1:]))}
    with MDSWriter(out=f"{folder}/mds", columns=columns, size_limit=1 << 27, exist_ok=True) as writer:
        for stamp in stamps:
            writer.write({"image": stamp})

    def read(epoch: int) -> Iterable[Any]:
        data = StreamingDataset(local=f"{folder}/mds", shuffle=True, shuffle_seed=epoch, batch_size=batch)
        return batches((sample["image"] for sample in data), batch)

    return time_epochs(read, (batch, *stamps.shape[1:]), dtype, repeats)


def with_litdata(folder: str, dtype: str, batch: int, shuffle: int, repeats: int, *, tuned: bool = False) -> str:
    """LitData chunks of arrays, its own shuffle; tuned: without its window of decoded neighbours, a cost to shuffled stamps."""
    if tuned:
        os.environ["LITDATA_BATCH_DECODE"] = "0"
    import numpy as np
    from litdata import StreamingDataset, optimize

    stamps = np.load(f"{folder}/stamps.npy", mmap_mode="r")
    optimize(
        fn=partial(stored_stamp, f"{folder}/stamps.npy"), inputs=list(range(len(stamps))), output_dir=f"{folder}/litdata",
        num_workers=1, chunk_bytes="64MB", mode="overwrite", verbose=False,
    )  # fmt: skip

    def read(epoch: int) -> Iterable[Any]:
        data = StreamingDataset(f"{folder}/litdata", shuffle=True, seed=epoch)
        return batches(
            (stamp for stamp in data), batch
        )  # the data set itself starts anew when it is asked after its end

    return time_epochs(read, (batch, *stamps.shape[1:]), dtype, repeats)


def stored_stamp(path: str, row: int) -> Any:
    """One stamp of an array on disk."""
    import numpy as np

    return np.array(np.load(path, mmap_mode="r")[row])


def with_ray_data(folder: str, dtype: str, batch: int, shuffle: int, repeats: int) -> str:
    """Our own shards by Ray Data, files shuffled, with its local shuffle buffer; decoded batch by batch."""
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }  # else Ray writes one to the home folder
    import numpy as np
    import ray
    import torch
    from ray.data.collate_fn import ArrowBatchCollateFn

    shape = np.load(f"{folder}/stamps.npy", mmap_mode="r").shape[1:]
    ray.init(num_cpus=THREADS, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False

    class Stamps(ArrowBatchCollateFn):
        def __call__(self, table: Any) -> torch.Tensor:
            column = table["image"].combine_chunks()
            column = column.chunk(0) if hasattr(column, "chunks") else column
            length = column.type.byte_width
            flat = np.frombuffer(column.buffers()[1], np.uint8, len(column) * length, column.offset * length)
            return torch.from_numpy(flat.view(dtype).reshape(-1, *shape).copy())

    def read(epoch: int) -> Iterable[Any]:
        data = ray.data.read_parquet(f"{folder}/shards", shuffle=ray.data.FileShuffleConfig(epoch))
        loader = data.select_columns(["image"]).iter_torch_batches(
            batch_size=batch, local_shuffle_buffer_size=shuffle, local_shuffle_seed=epoch, collate_fn=Stamps()
        )
        for stamps in loader:
            yield stamps.numpy()

    return time_epochs(read, (batch, *shape), dtype, repeats)


def batches(samples: Iterable[Any], size: int) -> Iterator[Any]:
    """Samples stacked."""
    import numpy as np

    waiting = iter(samples)
    while together := list(islice(waiting, size)):
        yield np.stack(together)


LOADERS = {
    "webdataset": with_webdataset,
    "webdataset_bytes": partial(with_webdataset, decode=False),
    "mosaicml": with_mosaicml,
    "litdata": with_litdata,
    "litdata_tuned": partial(with_litdata, tuned=True),
    "ray_data": with_ray_data,
}


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(print(__doc__))
    task, *arguments = sys.argv[1:]
    if task in LOADERS:
        folder, dtype, *numbers = arguments
        print(LOADERS[task](folder, dtype, *map(int, numbers)))
    else:
        seconds, rows = {"duckdb": duckdb, "astropy": astropy, "lsdb": lsdb}[task](*arguments)
        print(f"seconds={seconds:.2f} rows={rows}")
