"""The same work done with other tools; run by the interpreter of an environment that has them (competitors.txt).

    python benchmarks/competitors.py duckdb FOLDER OUT    pool and positives in FOLDER, sample with splits to OUT
    python benchmarks/competitors.py astropy LEFT RIGHT RADIUS
    python benchmarks/competitors.py lsdb LEFT RIGHT RADIUS

The last line printed is ``seconds=S rows=N``: the time of the work itself, without imports.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

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


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(print(__doc__))
    task, *arguments = sys.argv[1:]
    seconds, rows = {"duckdb": duckdb, "astropy": astropy, "lsdb": lsdb}[task](*arguments)
    print(f"seconds={seconds:.2f} rows={rows}")
