"""Local and S3 storage behave alike; a reader never sees half a file."""

from __future__ import annotations

import hashlib

import pytest

from lensdata import storage
from lensdata.errors import InputError


@pytest.fixture(params=["local", "s3"])
def base(request, tmp_path):
    if request.param == "local":
        return str(tmp_path)
    return storage.join(request.getfixturevalue("bucket"), tmp_path.name)


def test_bytes_come_back_and_are_listed(base):
    name = storage.join(base, "a", "b.bin")
    storage.write_bytes(name, b"123")
    assert storage.read_bytes(name) == b"123"
    assert storage.size(name) == 3
    assert storage.sha256(name) == hashlib.sha256(b"123").hexdigest()
    assert storage.list_files(base) == [name]
    assert storage.version(name)["size"] == 3


@pytest.mark.parametrize(("start", "stop"), [(0, 3), (2, 9), (3, 9), (7, 9), (2, 2), (2, 1)])
def test_a_range_ends_with_the_file_and_behind_it_is_nothing(base, start, stop):
    name = storage.join(base, "b.bin")
    storage.write_bytes(name, b"123")
    assert storage.read_range(name, start, stop) == b"123"[start:stop]


def test_pyarrow_reads_what_fsspec_wrote(base):
    name = storage.join(base, "x.bin")
    storage.write_bytes(name, b"pixels")
    fs, path = storage.filesystem(name)
    with fs.open_input_file(path) as handle:
        assert handle.read() == b"pixels"


def test_a_published_folder_replaces_the_old_one_whole(base):
    final, temporary = storage.join(base, "out"), storage.join(base, "_temporary-out-1")
    storage.write_bytes(storage.join(final, "old.txt"), b"old")
    for name in ("_SUCCESS", "dataset/a.parquet"):
        storage.write_bytes(storage.join(temporary, name), b"new")
    storage.publish_folder(temporary, final)
    assert storage.list_files(base) == [storage.join(final, "_SUCCESS"), storage.join(final, "dataset/a.parquet")]


def test_a_missing_file_is_named(base):
    with pytest.raises(InputError, match=r"nothing\.bin does not exist"):
        storage.read_bytes(storage.join(base, "nothing.bin"))


def test_broken_json_is_named(base):
    storage.write_bytes(storage.join(base, "t.json"), b"{")
    with pytest.raises(InputError, match=r"t\.json is not valid JSON"):
        storage.read_json(storage.join(base, "t.json"))


@pytest.mark.parametrize(
    ("base_uri", "part", "expected"),
    [
        ("s3://b/a/b", "../c", "s3://b/a/c"),
        ("/data/m", "../shards/x", "/data/shards/x"),
        ("/data/m", "s3://other/x", "s3://other/x"),
        ("s3://b/a", "/abs", "/abs"),
    ],
)
def test_joining(base_uri, part, expected):
    assert storage.join(base_uri, part) == expected


def test_marks_are_published_after_the_data_they_vouch_for():
    names = ["_SUCCESS", "near/_SUCCESS", "near/dataset/a.parquet", "_table.json", "dataset/b.parquet"]
    assert sorted(names, key=storage.publishing_order)[-2:] == ["near/_SUCCESS", "_SUCCESS"]


def test_leftovers_are_those_of_this_output_only(base):
    mine = ["_temporary-pool-0123abcd", "_old-0123abcd-pool"]
    others = ["_temporary-pool-2-0123abcd", "_old-0123abcd-big-pool", "pool"]
    for name in mine + others:
        storage.write_bytes(storage.join(base, name, "x"), b"")
    assert sorted(storage.leftovers(storage.join(base, "pool"))) == sorted(storage.join(base, name) for name in mine)
