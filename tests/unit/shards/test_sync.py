"""Copies of shards on a local disk: whole, checked, gone on with, and shared by runs."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from infra.cli import main
from lensdata import storage
from lensdata.errors import InputError
from lensdata.shards import importing, sync
from lensdata.shards.folders import open_folder
from lensdata.shards.manifests import Manifest, read_manifest
from lensdata.shards.sync import near, sync_folder
from lensdata.shards.verification import verify
from tests.stamp_folders import write_fetch


@pytest.fixture(params=["local", "s3"])
def source(request, tmp_path) -> str:
    if request.param == "local":
        uri = str(tmp_path / "fetch")
    else:
        uri = storage.join(request.getfixturevalue("bucket"), tmp_path.name, "fetch")
    write_fetch(uri)
    return uri


def contents(uri: str) -> dict[str, bytes]:
    prefix = len(storage.join(uri, "x")) - 1
    return {name[prefix:]: storage.read_bytes(name) for name in storage.list_files(uri)}


def imported(folder: Path, seed: int = 1) -> Manifest:
    """The manifest of 40 stamps of noise."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    np.savez(folder / "stamps.npz", images=rng.normal(size=(40, 16, 16, 3)).astype(np.float32), label=np.arange(40) % 2)
    settings = [f"inputs.stamps={folder / 'stamps.npz'}", "unit=other", "--output", str(folder / "set")]
    assert importing.main(settings) == 0
    return read_manifest(str(folder / "set" / "manifest"))


def test_a_copy_is_the_folder_byte_for_byte_and_passes_its_checks(source, tmp_path):
    made = sync_folder(source, tmp_path / "near")

    assert contents(str(tmp_path / "near")) == contents(source)
    assert made.files == len(contents(source))
    assert made.fetched_bytes == sum(len(data) for data in contents(source).values())
    assert not verify(open_folder(str(tmp_path / "near"))).faults


def test_a_second_copy_fetches_no_data_again(source, tmp_path, monkeypatch):
    sync_folder(source, tmp_path / "near")
    monkeypatch.setattr(sync, "_continue", lambda *_: pytest.fail("fetched again"))

    assert sync_folder(source, tmp_path / "near").present > 0


def test_an_interrupted_copy_goes_on_where_it_was(source, tmp_path, monkeypatch):
    largest = max(
        (name for name in contents(source) if name.endswith(".parquet")), key=lambda name: len(contents(source)[name])
    )
    half = contents(source)[largest][: len(contents(source)[largest]) // 2]
    part = tmp_path / "near" / (largest + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(half)
    asked: list[tuple[str, int]] = []
    read = storage.read_pieces
    monkeypatch.setattr(
        storage, "read_pieces", lambda uri, start, *rest: asked.append((uri, start)) or read(uri, start, *rest)
    )

    sync_folder(source, tmp_path / "near")

    assert (storage.join(source, largest), len(half)) in asked
    assert contents(str(tmp_path / "near")) == contents(source)


def test_a_partial_copy_of_something_else_is_thrown_away(source, tmp_path):
    name = next(name for name in contents(source) if name.endswith(".parquet"))
    part = tmp_path / "near" / (name + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"\1" * 100)

    sync_folder(source, tmp_path / "near")

    assert contents(str(tmp_path / "near")) == contents(source)


def test_a_changed_file_is_refused_and_leaves_no_finished_copy(source, tmp_path):
    name = next(name for name in contents(source) if name.endswith(".parquet"))
    data = bytearray(contents(source)[name])
    data[len(data) // 2] ^= 1
    storage.write_bytes(storage.join(source, name), bytes(data))

    with pytest.raises(InputError, match=r"has SHA-256 .* its table says .* run the step that wrote it with --force"):
        sync_folder(source, tmp_path / "near")

    assert not (tmp_path / "near" / name).exists()
    assert not (tmp_path / "near" / "_SUCCESS").exists()


def test_a_damaged_copy_is_made_again(source, tmp_path):
    sync_folder(source, tmp_path / "near")
    name = next(name for name in contents(source) if name.endswith(".parquet"))
    with (tmp_path / "near" / name).open("r+b") as handle:
        handle.seek(40)
        handle.write(b"damage")

    sync_folder(source, tmp_path / "near")

    assert contents(str(tmp_path / "near")) == contents(source)


def test_unfinished_sources_missing_files_and_foreign_targets_are_refused(tmp_path):
    write_fetch(str(tmp_path / "fetch"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="other holds notes.txt, which .* has not"):
        sync_folder(str(tmp_path / "fetch"), tmp_path / "other")
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"

    next((tmp_path / "fetch").rglob("dataset/*.parquet")).unlink()
    with pytest.raises(InputError, match="lacks .*, which its table lists"):
        sync_folder(str(tmp_path / "fetch"), tmp_path / "near")

    (tmp_path / "fetch" / "_SUCCESS").unlink()
    with pytest.raises(InputError, match="has no _SUCCESS"):
        sync_folder(str(tmp_path / "fetch"), tmp_path / "near")


@pytest.mark.parametrize("place", ["fetch", "fetch/inside", "other/../fetch", "linked"])
def test_a_copy_onto_or_into_its_source_is_refused_and_takes_nothing_from_it(tmp_path, place):
    write_fetch(str(tmp_path / "fetch"))
    (tmp_path / "linked").symlink_to(tmp_path / "fetch")
    before = contents(str(tmp_path / "fetch"))

    with pytest.raises(InputError, match="or lies inside it; choose a folder outside"):
        sync_folder(str(tmp_path / "fetch"), tmp_path / place)
    assert contents(str(tmp_path / "fetch")) == before


def test_while_a_copy_is_renewed_none_of_its_tables_looks_finished(tmp_path, monkeypatch):
    manifest = imported(tmp_path / "first")
    source, target = tmp_path / "first" / "set", tmp_path / "near"
    sync_folder(str(source), target)
    assert (target / "manifest" / "_SUCCESS").exists()
    assert manifest.uri == str(source / "manifest")

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sync, "fetch", stop)
    with pytest.raises(KeyboardInterrupt):
        sync_folder(str(source), target)
    assert [path for path in target.rglob("*") if path.name in ("_SUCCESS", "_table.json")] == []


def test_a_copy_killed_at_any_file_without_checksum_goes_on(tmp_path, monkeypatch):
    write_fetch(str(tmp_path / "fetch"))
    fsync, left = os.fsync, {"files": 0}

    def killed(handle):
        left["files"] -= 1
        if left["files"] < 0:
            raise KeyboardInterrupt  # the bytes are there, the name is not
        fsync(handle)

    monkeypatch.setattr(os, "fsync", killed)
    for files in range(len(contents(str(tmp_path / "fetch")))):
        left["files"] = files
        with pytest.raises(KeyboardInterrupt):
            sync_folder(str(tmp_path / "fetch"), tmp_path / f"near-{files}")
        assert not (tmp_path / f"near-{files}" / "_SUCCESS").exists()
        left["files"] = 1000
        sync_folder(str(tmp_path / "fetch"), tmp_path / f"near-{files}")
        assert contents(str(tmp_path / f"near-{files}")) == contents(str(tmp_path / "fetch"))


@pytest.mark.parametrize(
    ("out", "more", "sentence"),
    [
        ("near", ["--workers", "0"], "--workers must be at least 1, found 0"),
        ("near", ["--workers=-1"], "--workers must be at least 1, found -1"),
        ("s3://bucket/near", [], "sync copies to a disk of this machine"),
        ("notes.txt", [], "notes.txt is a file; choose a new folder"),
        (".", [], "holds fetch/_SUCCESS, which"),
    ],
)
def test_places_that_cannot_take_a_copy_are_refused_in_one_sentence(tmp_path, monkeypatch, capsys, out, more, sentence):
    write_fetch(str(tmp_path / "here" / "fetch"))
    (tmp_path / "here" / "notes.txt").write_text("mine")
    monkeypatch.chdir(tmp_path / "here")

    assert main(["shards", "sync", "fetch", out, *more]) == 2
    assert sentence in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["fetch", "notes.txt"]


def test_a_disk_that_is_too_small_is_said_before_anything_is_copied(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))

    with pytest.raises(InputError, match=r"has 0\.0 GB free; the copies need .* Choose a larger disk"):
        sync_folder(source, tmp_path / "near")


def test_the_command_says_what_it_copied(tmp_path, capsys):
    write_fetch(str(tmp_path / "fetch"))

    assert main(["shards", "sync", str(tmp_path / "fetch"), str(tmp_path / "near")]) == 0
    assert "0 were there" in capsys.readouterr().out
    assert main(["shards", "sync", str(tmp_path / "nowhere"), str(tmp_path / "near")]) == 2
    assert "has no _SUCCESS" in capsys.readouterr().err


def test_a_manifest_is_read_from_copies_that_processes_share(tmp_path):
    manifest = imported(tmp_path / "set")
    made: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: made.append(near(manifest, tmp_path / "cache").stamps())) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(made) == 3
    for stamps in made:
        np.testing.assert_array_equal(stamps, manifest.stamps())
    copies = sorted(path.name for path in (tmp_path / "cache").glob("*.parquet"))
    assert copies == sorted(f"{storage.sha256(uri)}.parquet" for uri in set(manifest.shard_uris()))


def test_a_changed_shard_is_another_copy(tmp_path):
    first = imported(tmp_path / "one")
    second = imported(tmp_path / "two", seed=5)

    near(first, tmp_path / "cache")
    again = near(second, tmp_path / "cache")

    np.testing.assert_array_equal(again.stamps(), second.stamps())
    assert len(list((tmp_path / "cache").glob("*.parquet"))) == len(set(first.shard_uris()) | set(second.shard_uris()))
