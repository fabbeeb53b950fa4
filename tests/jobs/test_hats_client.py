"""The published tables, opened by others: the HATS client, astropy, and plain pyarrow."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lensdata import tables
from lensdata.catalogue import hats as layout

hats = pytest.importorskip("hats", reason="the HATS client is not installed")
CATALOGUES = [("pool", tables.POOL), ("negatives", tables.NEGATIVES), ("sample", tables.SAMPLE)]


@pytest.mark.parametrize(("name", "spec"), CATALOGUES)
def test_the_client_finds_a_valid_catalogue_with_every_row(chain, name, spec, caplog):
    from hats.io.validation import is_valid_catalog

    with caplog.at_level(logging.WARNING):
        assert is_valid_catalog(chain / name, strict=True)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    catalogue = hats.read_hats(chain / name)
    rows = tables.read_table(str(chain / name), spec)
    assert catalogue.catalog_info.total_rows == rows.num_rows
    assert set(spec.names) <= set(catalogue.schema.names)
    everything = catalogue.read_pixel_to_pandas(catalogue.get_healpix_pixels()[0])
    assert len(everything)
    assert sum(len(catalogue.read_pixel_to_pandas(pixel)) for pixel in catalogue.get_healpix_pixels()) == rows.num_rows


def test_a_cone_search_of_the_client_finds_the_rows_of_the_cone(chain):
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    catalogue = hats.read_hats(chain / "pool").filter_by_cone(12.0, -7.0, 1800)
    rows = tables.read_table(str(chain / "pool"), tables.POOL).to_pandas()
    inside = (
        SkyCoord(rows["ra"], rows["dec"], unit="deg").separation(SkyCoord(12.0, -7.0, unit="deg")) < 1800 * u.arcsec
    )
    read = [catalogue.read_pixel_to_pandas(pixel) for pixel in catalogue.get_healpix_pixels()]
    ids = np.concatenate([np.asarray(frame["source_id"]) for frame in read])
    assert set(rows["source_id"][inside]) <= set(ids)
    assert inside.sum() > 10


@pytest.mark.slow
def test_small_leaves_are_still_a_valid_catalogue_with_the_same_content(chain, spark, tmp_path, monkeypatch):
    from hats.io.validation import is_valid_catalog

    from spark_jobs import datasets

    small = layout.leaves
    monkeypatch.setattr(layout, "leaves", lambda counts: small(counts, 200))
    pool = datasets.read(spark, str(chain / "pool"), tables.POOL).repartition(5)
    _, content = datasets.write(pool, str(tmp_path / "pool"), tables.POOL)
    files = sorted(path.relative_to(tmp_path) for path in (tmp_path / "pool" / "dataset").rglob("Npix=*"))
    assert len(files) > 10
    assert content == json.loads((chain / "pool" / "_table.json").read_text())["content"]
    assert is_valid_catalog(tmp_path / "pool", strict=True)
    again = tmp_path / "again"
    datasets.write(pool.repartition(3, "objid"), str(again / "pool"), tables.POOL)
    for name in files:  # the files follow from the rows, to the byte
        assert (tmp_path / name).read_bytes() == (again / name).read_bytes()


def test_units_and_meanings_travel_with_every_file(chain):
    for folder, spec in (("pool", tables.POOL), ("sample", tables.SAMPLE), ("pool/near_lenses", tables.NEAR_LENSES)):
        for name in tables.dataset_files(str(chain / folder)):
            schema = pq.read_schema(name)
            assert schema.metadata[b"lensdata.table"] == spec.name.encode()
            for column in spec.columns:
                found = schema.field(column.name).metadata
                assert found[b"unit"].decode() == column.unit
                assert found[b"description"].decode() == column.meaning
    common = pq.read_schema(Path(chain) / "pool" / "dataset" / "_common_metadata")
    assert common.field("flux_r").metadata[b"unit"] == b"nanomaggy"
    assert pq.read_metadata(Path(chain) / "pool" / "dataset" / "_metadata").num_rows == len(
        tables.read_table(str(chain / "pool"), columns=["ra"])
    )


def test_rows_within_a_file_are_in_the_order_of_the_sky(chain):
    for name in tables.dataset_files(str(chain / "pool")):
        index = pq.read_table(name, columns=["_healpix_29"])["_healpix_29"].to_numpy()
        assert (np.diff(index) >= 0).all()
