"""Shards: what goes in comes out, and what is not a shard is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensdata.errors import InputError
from lensdata.shards import SURVEY_LAYOUT, ImageLayout, ShardWriter, StampReader, open_shard, read_stamps
from lensdata.shards.convert import export_npz, pack_npz

SMALL = ImageLayout(shape=(5, 4, 2), dtype="float32", bands=("g", "r"), unit="nanomaggy", pixscale_arcsec=0.262)


def stamps_of(count: int, layout: ImageLayout = SMALL, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    if layout.dtype == "uint8":
        return random.integers(0, 255, (count, *layout.shape), dtype=np.uint8)
    return random.normal(size=(count, *layout.shape)).astype(layout.dtype)


def rows_of(ids: np.ndarray) -> pa.Table:
    return pa.table({"cutout_id": pa.array(ids, pa.int64()), "kind": ["plain"] * len(ids)})


def write(folder: Path, stamps: np.ndarray, layout: ImageLayout = SMALL, **options: int) -> ShardWriter:
    with ShardWriter(str(folder), layout, **options) as writer:
        writer.add(rows_of(np.arange(len(stamps))), stamps)
    return writer


@settings(max_examples=25, deadline=None)
@given(
    batches=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    group_rows=st.integers(1, 7),
    groups=st.integers(1, 3),
    dtype=st.sampled_from(["float32", "float16", "uint8"]),
)
def test_every_stamp_is_found_where_the_writer_says(
    tmp_path_factory: pytest.TempPathFactory, batches: list[int], group_rows: int, groups: int, dtype: str
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    layout = ImageLayout(shape=(5, 4, 2), dtype=dtype, bands=("g", "r"), unit="other")
    stamps = stamps_of(sum(batches), layout)
    ids = np.arange(len(stamps)) + 10**12
    with ShardWriter(
        str(folder), layout, group_rows=group_rows, target_bytes=groups * group_rows * layout.nbytes
    ) as writer:
        start = 0
        for size in batches:
            writer.add(rows_of(ids[start : start + size]), stamps[start : start + size])
            start += size

    places = writer.locations
    assert places["cutout_id"].to_pylist() == ids.tolist()
    assert sum(shard.rows for shard in writer.shards) == len(ids)
    assert all(shard.row_groups <= groups for shard in writer.shards)
    if len(ids):
        order = np.random.default_rng(1).permutation(len(ids))
        uris = [f"{folder}/{places['shard'][int(i)].as_py()}" for i in order]
        found = read_stamps(uris, places["row_group"].to_numpy()[order], places["row"].to_numpy()[order])
        np.testing.assert_array_equal(found, stamps[order])
        assert found.dtype == layout.dtype


def test_a_shard_is_the_training_layout(tmp_path: Path) -> None:
    writer = write(tmp_path, stamps_of(6), group_rows=4)
    meta = pq.read_metadata(tmp_path / writer.shards[0].name)
    assert meta.num_row_groups == 2
    names = [meta.schema.column(index).name for index in range(meta.num_columns)]
    image = meta.row_group(0).column(names.index("image"))
    assert image.compression == "UNCOMPRESSED"
    assert image.physical_type == "FIXED_LEN_BYTE_ARRAY"
    assert not image.is_stats_set
    assert meta.row_group(0).column(names.index("cutout_id")).is_stats_set
    assert open_shard(f"{tmp_path}/{writer.shards[0].name}").layout == SMALL


def test_survey_stamps_take_122412_bytes() -> None:
    assert SURVEY_LAYOUT.nbytes == 122_412


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / write(tmp_path, stamps_of(6)).shards[0].name
    data = bytearray(path.read_bytes())
    at = data.find(stamps_of(6).tobytes()[:16])
    data[at + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="row group 0 cannot be read"):
        open_shard(str(path)).read_group(0)


def test_a_failed_writer_publishes_nothing_more(tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def interrupted_write() -> None:
        with ShardWriter(str(tmp_path), SMALL, group_rows=2) as writer:
            writer.add(rows_of(np.arange(5)), stamps_of(5))
            raise Interrupted

    with pytest.raises(Interrupted):
        interrupted_write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "stamps", "message"),
    [
        (3, np.zeros((2, 5, 4, 2), np.float32), "3 rows came with 2 stamps"),
        (2, np.zeros((2, 4, 5, 2), np.float32), "do not fit the layout"),
        (2, np.zeros((2, 5, 4, 2), np.float64), "do not fit the layout"),
    ],
)
def test_stamps_of_another_shape_or_type_are_refused(
    tmp_path: Path, rows: int, stamps: np.ndarray, message: str
) -> None:
    with ShardWriter(str(tmp_path), SMALL) as writer, pytest.raises(InputError, match=message):
        writer.add(rows_of(np.arange(rows)), stamps)


def test_a_batch_with_other_columns_is_refused(tmp_path: Path) -> None:
    with ShardWriter(str(tmp_path), SMALL) as writer:
        writer.add(rows_of(np.arange(2)), stamps_of(2))
        with pytest.raises(InputError, match="differ from the first batch"):
            writer.add(pa.table({"cutout_id": [3]}), stamps_of(1))


def test_what_is_no_shard_is_refused_in_one_sentence(tmp_path: Path) -> None:
    pq.write_table(pa.table({"cutout_id": [1]}), tmp_path / "table.parquet")
    (tmp_path / "text.parquet").write_text("not found")
    wrong = SMALL.metadata()
    pq.write_table(pa.table({"image": [b"1"]}).replace_schema_metadata(wrong), tmp_path / "bytes.parquet")
    for name, message in [
        ("missing.parquet", "does not exist"),
        ("table.parquet", "not a shard of stamps"),
        ("text.parquet", "not a readable Parquet file"),
        ("bytes.parquet", "take 160 bytes, but the image column is binary"),
    ]:
        with pytest.raises(InputError, match=message):
            open_shard(str(tmp_path / name))


def test_shards_of_two_layouts_do_not_mix(tmp_path: Path) -> None:
    write(tmp_path / "a", stamps_of(2))
    other = ImageLayout(shape=(5, 4, 2), dtype="float32", bands=("r", "g"), unit="nanomaggy")
    write(tmp_path / "b", stamps_of(2, other), other)
    reader = StampReader(SMALL)
    reader.read_group(f"{tmp_path}/a/shard-00000.parquet", 0)
    with pytest.raises(InputError, match="with bands"):
        reader.read_group(f"{tmp_path}/b/shard-00000.parquet", 0)


def test_a_changed_byte_is_found_when_a_row_group_is_first_read_whatever_was_read_before(tmp_path: Path) -> None:
    stamps = stamps_of(6)
    path = tmp_path / write(tmp_path, stamps, group_rows=2).shards[0].name
    data = bytearray(path.read_bytes())
    data[data.index(stamps[3].tobytes()) + 7] ^= 1
    path.write_bytes(data)
    reader = StampReader(SMALL)
    for _ in range(2):  # the second reading of a good row group leaves its checksums alone, not those of the others
        np.testing.assert_array_equal(reader.read_group(str(path), 0), stamps[:2])
        with pytest.raises(InputError, match="row group 1 cannot be read"):
            reader.read_group(str(path), 1)


def test_npz_objects_and_shards_convert_into_each_other(tmp_path: Path) -> None:
    layout = ImageLayout(
        shape=(7, 7, 3), dtype="float32", bands=("g", "r", "z"), unit="nanomaggy", pixscale_arcsec=0.262
    )
    stamps = stamps_of(5, layout)
    first = write(tmp_path / "first", stamps, layout, group_rows=2)
    assert export_npz([f"{tmp_path}/first/{first.shards[0].name}"], str(tmp_path / "npz")) == 5
    with np.load(tmp_path / "npz" / "3.npz") as data:
        np.testing.assert_array_equal(data["cutout"], stamps[3])

    second = pack_npz(
        [f"{tmp_path}/npz/{i}.npz" for i in range(5)], list(range(5)), str(tmp_path / "second"), group_rows=2
    )
    shard = open_shard(f"{tmp_path}/second/{second[0].name}")
    np.testing.assert_array_equal(np.concatenate([shard.read_group(i) for i in range(3)]), stamps)
    assert shard.layout == layout


def test_a_pickled_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", cutout=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="not an NPZ file of plain arrays"):
        pack_npz([str(tmp_path / "bad.npz")], [1], str(tmp_path / "out"))
