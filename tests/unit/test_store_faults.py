"""A store that refuses, breaks and loses answers costs time, never data (S3 safety of R-C2)."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lensdata import storage
from lensdata.hashing import pixel_hash
from lensdata.shards import ImageLayout, ShardWriter, open_shard
from tests.faulty_store import FaultyStore, environment

SEED = 20260
LAYOUT = ImageLayout(shape=(32, 32, 3), dtype="float32", bands=("g", "r", "z"), unit="nanomaggy")


@pytest.fixture(scope="module")
def bad_store():
    rates = {"rate_slowdown": 0.03, "rate_500": 0.03, "rate_reset": 0.03, "rate_lost": 0.03, "rate_cut": 0.03}
    with FaultyStore(seed=SEED, **rates) as store:
        store.armed = False
        with environment(store.url) as bucket:
            store.armed = True
            store.bucket = bucket
            print(f"seed={SEED} rates={rates}")  # noqa: T201, with it a failure can be repeated
            yield store
            store.armed = False


@pytest.fixture
def quiet_store(bad_store):
    """The same store, failing only where a test says so."""
    bad_store.armed = False
    yield bad_store
    bad_store.armed = True


def payload(name: str, size: int) -> bytes:
    return np.random.default_rng(len(name)).bytes(size)


def arrow_bytes(uri: str) -> bytes:
    fs, path = storage.filesystem(uri)
    with fs.open_input_file(path) as handle:
        return handle.read()


@pytest.mark.slow
def test_sixty_files_and_a_large_one_come_back_whole_both_ways(bad_store):
    folder = storage.join(bad_store.bucket, "many")
    wanted = {storage.join(folder, f"{i:02d}.bin"): payload(str(i), 1000 + i) for i in range(60)}
    wanted[storage.join(folder, "large.bin")] = payload("large", 20 << 20)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(storage.write_bytes, wanted, wanted.values()))
        by_s3fs = list(threads.map(storage.read_bytes, wanted))
        by_arrow = list(threads.map(arrow_bytes, wanted))
        by_range = list(threads.map(lambda uri: storage.read_range(uri, 10, 900), wanted))
    assert storage.list_files(folder) == sorted(wanted)
    assert by_s3fs == list(wanted.values())
    assert by_arrow == list(wanted.values())
    assert by_range == [data[10:900] for data in wanted.values()]
    assert all(bad_store.counts[kind] for kind in ("slowdown", "500", "reset", "lost", "cut")), bad_store.counts


def test_files_written_aside_are_uploaded_whole(bad_store):
    wanted = {}
    for i in range(12):
        uri = storage.join(bad_store.bucket, "aside", f"{i}.bin")
        with storage.new_file(uri) as path:
            path.write_bytes(payload(uri, 200_000 + i))
        wanted[uri] = payload(uri, 200_000 + i)
    assert {uri: storage.sha256(uri) for uri in wanted} == {
        uri: hashlib.sha256(data).hexdigest() for uri, data in wanted.items()
    }


@pytest.mark.slow
def test_a_file_in_pieces_arrives_whole(bad_store, tmp_path):
    data = payload("pieces", 110 << 20)  # above 100 MB s3fs uploads pieces of 50 MB
    source = tmp_path / "file"
    source.write_bytes(data)
    uri = storage.join(bad_store.bucket, "pieces.bin")
    storage.upload_file(source, uri)
    assert storage.sha256(uri) == hashlib.sha256(data).hexdigest()
    assert not source.exists()
    storage.remove(uri)


@pytest.mark.slow
def test_of_many_writers_of_one_name_one_wins_and_the_others_know(bad_store):
    uris = [storage.join(bad_store.bucket, "claims", str(name)) for name in range(12)]
    writers = [(uri, f"writer {who}".encode()) for uri in uris for who in range(4)]
    with ThreadPoolExecutor(16) as threads:
        won = list(threads.map(lambda writer: storage.write_new(*writer), writers))
    winners = [writer for writer, first in zip(writers, won, strict=True) if first]
    assert [(uri, storage.read_bytes(uri)) for uri in uris] == winners


def test_shards_are_written_and_read_back_both_ways(bad_store):
    folder = storage.join(bad_store.bucket, "shards", "dataset")
    stamps = np.random.default_rng(1).normal(size=(600, *LAYOUT.shape)).astype(np.float32)
    with ShardWriter(folder, LAYOUT, group_rows=32, target_bytes=1 << 20) as writer:
        for start in range(0, 600, 50):
            ids = pa.array(range(start, start + 50), pa.int64())
            writer.add(pa.table({"cutout_id": ids}), stamps[start : start + 50])
    assert [storage.sha256(storage.join(folder, info.name)) for info in writer.shards] == [
        info.sha256 for info in writer.shards
    ]
    seen = {}
    for info in writer.shards:
        shard = open_shard(storage.join(folder, info.name))
        for group in range(shard.num_row_groups):
            ids = shard.read_rows(group)["cutout_id"].to_pylist()
            seen |= dict(zip(ids, map(pixel_hash, shard.read_group(group)), strict=True))
        with storage.open_input(storage.join(folder, info.name)) as handle:
            assert pq.read_table(handle).num_rows == info.rows
    assert seen == {i: pixel_hash(stamp) for i, stamp in enumerate(stamps)}


@pytest.mark.slow
def test_a_folder_is_published_whole(bad_store):
    final, temporary = (storage.join(bad_store.bucket, name) for name in ("out", "_temporary-out-1"))
    names = ["_SUCCESS", *(f"dataset/{i}.parquet" for i in range(10))]
    for name in names:
        storage.write_bytes(storage.join(temporary, name), name.encode())
    storage.publish_folder(temporary, final)
    assert storage.list_files(final) == sorted(storage.join(final, name) for name in names)
    assert storage.list_files(temporary) == []


@pytest.mark.parametrize("base", ["local", "s3"])
def test_a_new_file_is_written_once(quiet_store, tmp_path, base):
    uri = storage.join(str(tmp_path) if base == "local" else quiet_store.bucket, "once", "a.json")
    assert storage.write_new(uri, b"first")
    assert not storage.write_new(uri, b"second")
    assert storage.read_bytes(uri) == b"first"
    assert [name.rsplit("/", 1)[-1] for name in storage.list_files(storage.join(uri, ".."))] == ["a.json"]


def test_a_put_whose_answer_was_lost_is_known_as_ours(quiet_store):
    uri = storage.join(quiet_store.bucket, "lost.json")
    quiet_store.fail_next("PUT", "lost")
    assert storage.write_new(uri, b"mine")
    assert not storage.write_new(uri, b"other")


@pytest.mark.parametrize("answer", ["as the first", "no_upload"])
def test_an_upload_in_pieces_whose_last_answer_was_lost_is_known_as_ours(quiet_store, tmp_path, answer):
    source = tmp_path / "file"
    source.write_bytes(bytes(101 << 20))
    uri = storage.join(quiet_store.bucket, "lost.bin")
    quiet_store.fail_next("POST", "lost", containing="uploadId=")
    if answer == "no_upload":  # AWS answers a repeated completion as the first, others have forgotten the upload
        quiet_store.fail_next("POST", answer, containing="uploadId=")
    storage.upload_file(source, uri)
    assert storage.size(uri) == 101 << 20
    storage.remove(uri)


def test_without_conditional_puts_a_file_is_looked_for_first(caplog):
    storage._warn_once.cache_clear()
    with FaultyStore(without_conditions=True) as store, environment(store.url) as bucket:
        uris = [storage.join(bucket, name) for name in ("a", "b")]
        assert all(storage.write_new(uri, b"first") for uri in uris)
        assert not storage.write_new(uris[0], b"second")
        assert storage.read_bytes(uris[0]) == b"first"
    assert caplog.text.count("conditional puts") == 1


def test_without_hard_links_a_file_is_looked_for_first(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    uri = str(tmp_path / "a")
    assert storage.write_new(uri, b"first")
    assert not storage.write_new(uri, b"second")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_slowdown_that_answers_a_read_of_a_few_bytes_is_repeated_for_pyarrow(quiet_store):
    uri = storage.join(quiet_store.bucket, "small.parquet")
    storage.write_bytes(uri, b"x" * 4000)
    for kind in ("slowdown", "500", "cut"):
        with storage.open_arrow(uri) as handle:
            quiet_store.fail_next("GET", kind, times=2, containing="small.parquet")
            handle.seek(-8, 2)
            assert handle.read(8) == b"x" * 8
    with pytest.raises(FileNotFoundError):
        storage.open_arrow(storage.join(quiet_store.bucket, "absent.parquet"))
