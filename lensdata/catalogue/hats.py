"""Tables as HATS catalogues: rows in files by sky pixel, and the files that describe them.

HATS (astronomy-commons, IVOA Note "HATS: A Standard for the Hierarchical Adaptive Tiling Scheme") is what LSDB and Rubin's users
open. A leaf is the coarsest HEALPix pixel with few enough rows; its file is ``dataset/Norder=k/Dir=d/Npix=p.parquet``, sorted
by the order-29 pixel. The layout follows from the rows alone, not from how they were partitioned.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from lensdata import __version__, storage
from lensdata.tables import TableSpec

INDEX, INDEX_ORDER = "_healpix_29", 29
COUNT_ORDER = 6  # pixels of about a square degree: the finest leaf
COUNT_SHIFT = 2 * (INDEX_ORDER - COUNT_ORDER)
LEAF_ROWS = 500_000  # about 100 MB of a pool
Ints = npt.NDArray[np.int64]
_LEAF = re.compile(r"/Norder=(\d+)/Dir=\d+/Npix=(\d+)\.parquet$")


@dataclass(frozen=True)
class Leaf:
    """A pixel whose rows make one file."""

    order: int
    pixel: int
    rows: int

    @property
    def file(self) -> str:
        """Path below ``dataset/``."""
        return f"Norder={self.order}/Dir={self.pixel // 10_000 * 10_000}/Npix={self.pixel}.parquet"


def leaf_of_file(uri: str) -> tuple[int, int] | None:
    """Order and pixel of a leaf by the name of its file; None for a file of another layout.

    >>> leaf_of_file("pool/dataset/Norder=3/Dir=0/Npix=637.parquet")
    (3, 637)
    """
    found = _LEAF.search(uri)
    return (int(found[1]), int(found[2])) if found else None


def leaves(counts: Mapping[int, int], max_rows: int = LEAF_ROWS) -> list[Leaf]:
    """The coarsest pixels with at most ``max_rows`` rows that cover all rows; one of order 6 may have more.

    Parameters
    ----------
    counts
        Rows per order-6 pixel (NESTED) that has any.

    >>> leaves({0: 3, 1: 3, 49151: 1}, max_rows=4)
    [Leaf(order=6, pixel=0, rows=3), Leaf(order=6, pixel=1, rows=3), Leaf(order=0, pixel=11, rows=1)]
    """
    levels = [np.zeros(12 * 4**COUNT_ORDER, np.int64)]
    levels[0][list(counts)] = list(counts.values())
    for _ in range(COUNT_ORDER):
        levels.append(levels[-1].reshape(-1, 4).sum(axis=1))
    found: list[Leaf] = []
    waiting = [(0, pixel) for pixel in range(11, -1, -1)]
    while waiting:
        order, pixel = waiting.pop()
        rows = int(levels[COUNT_ORDER - order][pixel])
        if rows and (rows <= max_rows or order == COUNT_ORDER):
            found.append(Leaf(order, pixel, rows))
        elif rows:
            waiting += [(order + 1, 4 * pixel + child) for child in (3, 2, 1, 0)]
    return found


def leaf_of_cells(found: list[Leaf], counts: Mapping[int, int]) -> list[tuple[int, int]]:
    """(order-6 pixel, number of its leaf) of every order-6 pixel that has rows."""
    numbers = np.full(12 * 4**COUNT_ORDER, -1)
    for number, leaf in enumerate(found):
        below = 2 * (COUNT_ORDER - leaf.order)
        numbers[leaf.pixel << below : (leaf.pixel + 1) << below] = number
    return [(cell, int(numbers[cell])) for cell in counts]


def describe(folder: str, spec: TableSpec, found: list[Leaf]) -> None:
    """Write what makes a folder of leaves a HATS catalogue: properties, ``partition_info.csv``, Parquet metadata."""
    if not found:  # a catalogue without rows has no pixels to describe
        return
    order = max(leaf.order for leaf in found)
    properties = {
        "obs_collection": spec.name,
        "obs_description": spec.meaning,
        "dataproduct_type": "object",
        "hats_nrows": sum(leaf.rows for leaf in found),
        "hats_col_ra": "ra",
        "hats_col_dec": "dec",
        "hats_col_healpix": INDEX,
        "hats_col_healpix_order": INDEX_ORDER,
        "hats_max_rows": max(leaf.rows for leaf in found),
        "hats_order": order,
        "moc_sky_fraction": f"{sum(4.0**-leaf.order for leaf in found) / 12:.5f}",
        "hats_builder": f"lensdata {__version__}",
        "hats_version": "v1.0",
    }
    text = "#HATS catalog\n" + "".join(f"{key}={value}\n" for key, value in properties.items())
    for name in ("hats.properties", "properties"):  # readers of HATS 0.x look for the second
        storage.write_bytes(storage.join(folder, name), text.encode())
    lines = [f"{leaf.order},{leaf.pixel}" for leaf in found]
    storage.write_bytes(
        storage.join(folder, "partition_info.csv"), ("Norder,Npix\n" + "\n".join(lines) + "\n").encode()
    )
    _write_parquet_metadata(folder, found)


def _write_parquet_metadata(folder: str, found: list[Leaf]) -> None:
    def footer(leaf: Leaf) -> pq.FileMetaData:
        metadata = pq.read_metadata(storage.open_arrow(storage.join(folder, "dataset", leaf.file)))
        if metadata.num_rows != leaf.rows:
            raise RuntimeError(
                f"{leaf.file} has {metadata.num_rows} rows, {leaf.rows} were counted before it was written"
            )
        metadata.set_file_path(leaf.file)
        return metadata

    with ThreadPoolExecutor(16) as threads:
        footers = list(threads.map(footer, found))
    for name, collected in (("_common_metadata", None), ("_metadata", footers)):
        fs, path = storage.filesystem(storage.join(folder, "dataset", name))
        pq.write_metadata(footers[0].schema.to_arrow_schema(), path, filesystem=fs, metadata_collector=collected)
