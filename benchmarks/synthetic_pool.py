"""A pool of any size with the density, clustering and colours of a survey, to measure the catalogue jobs on.

    python benchmarks/synthetic_pool.py FOLDER ROWS [POSITIVES]

Positions lie on 14,000 square degrees of -18 < dec < 32 with the 0/360 line inside, denser in some places than in others,
and some galaxies have a close companion. Files are those of a HATS catalogue: one per HEALPix pixel, sorted by
``_healpix_29``. Beside the pool lie ``positives``, whose strata decide how many negatives are asked for.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lensdata import hashing, storage, tables
from lensdata.catalogue.sources import COPIED, derived_columns, to_arrow
from lensdata.sky.healpix import ang2pix, pix2ang
from lensdata.tables import POOL, POSITIVES

SEED = 7
AREA_ORDER = 6  # the footprint is whole pixels of this order
ROWS_PER_FILE = 300_000
COMPANIONS = 0.03  # rows placed within 8 arcsec of another one
TEMPLATE_ROWS = 100_000
DEFAULT_POSITIVES = 4531  # in strata, as in the original run: 453,100 negatives at 100 per positive


def footprint() -> npt.NDArray[np.int64]:
    """NESTED pixels of about 14,000 square degrees."""
    pixels = np.arange(12 << 2 * AREA_ORDER)
    ra, dec = pix2ang(pixels, 1 << AREA_ORDER)
    return pixels[(dec > -17.5) & (dec < 31.5) & ((ra < 268.0) | (ra > 333.0))]


def template(rng: np.random.Generator) -> pa.Table:
    """Rows without position and identity; every row of a pool is one of these."""
    rows = TEMPLATE_ROWS
    kind = rng.choice(["SER", "DEV", "REX"], rows, p=[0.38, 0.34, 0.28])
    mag_z = 20.0 - rng.exponential(0.9, rows)
    rz, gr = rng.normal(0.65, 0.25, rows), rng.normal(1.1, 0.4, rows)
    size = np.where(kind == "REX", 0.0, np.minimum(rng.rayleigh(0.16, rows), 0.8))
    angle = rng.uniform(0, 2 * np.pi, rows)
    flux = {band: 10 ** (0.4 * (22.5 - mag)) for band, mag in (("z", mag_z), ("r", mag_z + rz), ("g", mag_z + rz + gr))}
    columns = {name: rng.normal(size=rows).astype(np.float32) for name in COPIED}
    columns |= {f"flux_{band}": values.astype(np.float32) for band, values in flux.items()}
    columns |= {f"nobs_{band}": rng.integers(3, 16, rows).astype(np.int16) for band in "grz"}
    columns |= {f"psfsize_{band}": rng.normal(1.3, 0.15, rows).astype(np.float32) for band in "grz"}
    columns |= {f"{depth}depth_{band}": rng.lognormal(6.5, 0.5, rows).astype(np.float32)
                for band in "grz" for depth in ("psf", "gal")}  # fmt: skip
    columns |= {
        "type": kind, "release": np.full(rows, 10000, np.int16), "maskbits": np.zeros(rows, np.int32),
        "brickid": np.zeros(rows, np.int32), "objid": np.zeros(rows, np.int32), "brickname": np.full(rows, "0000p000"),
        "ra": np.zeros(rows), "dec": np.zeros(rows), "source_id": np.zeros(rows, np.int64),
        "shape_r": rng.lognormal(-0.1, 0.5, rows).astype(np.float32),
        "shape_e1": (size * np.cos(angle)).astype(np.float32), "shape_e2": (size * np.sin(angle)).astype(np.float32),
        "sersic": np.where(kind == "SER", rng.uniform(0.5, 6.0, rows), np.where(kind == "DEV", 4.0, 1.0)).astype(np.float32),
    }  # fmt: skip
    return pa.Table.from_batches([to_arrow(columns | derived_columns(columns), POOL.schema)])


def positions(pixel: int, rows: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Sorted order-29 indices inside a pixel of the footprint: uneven, with companions."""
    cells = rng.multinomial(rows, rng.dirichlet(np.full(16, 3.0)))
    shift = 2 * (29 - AREA_ORDER - 2)
    index = ((np.int64(pixel) << 4) + np.repeat(np.arange(16), cells) << shift) + rng.integers(0, 1 << shift, rows)
    pairs = int(COMPANIONS * rows)
    if pairs:
        ra, dec = pix2ang(index[:pairs], 1 << 29)
        step = rng.uniform(0.5, 8.0, (2, pairs)) / np.sqrt(2) / 3600
        beside = ang2pix(ra + step[0] / np.cos(np.radians(dec)), dec + step[1], 1 << 29)
        inside = beside >> 2 * (29 - AREA_ORDER) == pixel  # the others would belong to another file
        index[-pairs:][inside] = beside[inside]
    return np.sort(index)


def file_order(rows: int) -> int:
    """Order at which a file holds about ROWS_PER_FILE rows."""
    pixels = rows / ROWS_PER_FILE * 41_253 / 14_000 / 12
    return int(np.clip(np.ceil(np.log(max(pixels, 1)) / np.log(4)), 1, AREA_ORDER))


def write_pool(folder: Path, rows: int) -> None:
    """The pool table, finished; the same rows for the same number."""
    area = footprint()
    master = np.random.default_rng(SEED)
    rows_of = master.multinomial(rows, master.dirichlet(np.full(len(area), 8.0)))
    kinds = template(master)
    order = file_order(rows)
    parents = area >> 2 * (AREA_ORDER - order)
    first_row = 0
    for parent in np.unique(parents):
        inside = np.flatnonzero(parents == parent)
        rng = np.random.default_rng([SEED, int(parent)])
        index = np.sort(np.concatenate([positions(area[i], rows_of[i], rng) for i in inside]))
        taken = kinds.take(pa.array(rng.integers(0, TEMPLATE_ROWS, len(index))))
        _write_file(folder, order, int(parent), index, taken, first_row)
        first_row += len(index)
    _finish(folder, POOL.name, rows)


def _write_file(
    folder: Path, order: int, pixel: int, index: npt.NDArray[np.int64], rows: pa.Table, first_row: int
) -> None:
    number = np.arange(first_row, first_row + len(index))
    brick, objid = number >> 12, number & 4095
    ra, dec = pix2ang(index, 1 << 29)
    columns = {
        "source_id": hashing.pack_source_id(np.full(len(index), 10000), brick, objid), "ra": ra, "dec": dec,
        "brickid": brick.astype(np.int32), "objid": objid.astype(np.int32), "healpix_128": index >> 2 * (29 - 7),
        "_healpix_29": index,
    }  # fmt: skip
    for name, values in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), POOL.schema.field(name), pa.array(values))
    name = folder / "dataset" / f"Norder={order}" / f"Dir={pixel // 10000 * 10000}" / f"Npix={pixel}.parquet"
    name.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, name, compression="zstd", compression_level=1, row_group_size=100_000)


def write_positives(folder: Path, count: int) -> None:
    """Positives with a stratum and nothing else that matters here, away from the pool."""
    rng = np.random.default_rng(SEED)
    rows = template(rng).slice(0, count).to_pandas()
    rows["source_id"] = np.arange(count)
    rows["ra"], rows["dec"] = rng.uniform(270, 330, count), rng.uniform(-18, 32, count)
    rows["_healpix_29"] = ang2pix(rows["ra"], rows["dec"], 1 << 29)
    rows["healpix_128"] = ang2pix(rows["ra"], rows["dec"])
    rows = rows.assign(lens_name="synthetic", lens_ra=rows["ra"], lens_dec=rows["dec"], lens_grading="probable")
    rows = rows.assign(separation_arcsec=0.0, tier="B")
    table = pa.Table.from_pandas(rows, preserve_index=False).select(POSITIVES.names).cast(POSITIVES.schema)
    tables.write_table(table, str(folder), POSITIVES)


def _finish(folder: Path, table: str, rows: int) -> None:
    """The marks of a finished table. Its content is its recipe: hashing all rows would take longer than making them."""
    entry = {"schema_version": tables.SCHEMA_VERSION, "table": table, "rows": rows}
    content = hashing.text_hash(f"synthetic {table} {SEED} {rows}")
    storage.write_json(str(folder / "_table.json"), entry | {"content": content, "files": {}})
    storage.write_json(str(folder / "_report.json"), {"rows": rows})
    (folder / "_SUCCESS").touch()


def make(folder: Path, rows: int, positives: int = DEFAULT_POSITIVES) -> Path:
    """``pool`` and ``positives`` under ``folder``; what is finished is left as it is."""
    if not (folder / "pool" / "_SUCCESS").exists():
        storage.remove(str(folder / "pool"))
        write_pool(folder / "pool", rows)
    if not (folder / "positives" / "_SUCCESS").exists():
        storage.remove(str(folder / "positives"))
        write_positives(folder / "positives", positives)
    return folder


def main() -> None:
    """Make a pool and say how long it took."""
    if len(sys.argv) < 3:
        print(__doc__)
        return
    started = time.perf_counter()
    folder, rows = Path(sys.argv[1]), int(sys.argv[2])
    make(folder, rows, int(sys.argv[3]) if len(sys.argv) > 3 else DEFAULT_POSITIVES)
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    print(f"{rows} rows, {size / 1e9:.2f} GB in {folder}, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
