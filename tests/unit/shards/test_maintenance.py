"""Folders of stamps: what is found in them, what is wrong with them, out to NPZ and back, many files into few."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lensdata import steps, storage, tables
from lensdata.cutouts.stored import read_stored
from lensdata.errors import InputError
from lensdata.hashing import pixel_hash
from lensdata.shards import ImageLayout, ShardWriter, folders, maintenance
from lensdata.shards.compaction import compact
from lensdata.shards.folders import FoundStamp, find_stamp, open_folder
from lensdata.shards.picture import stamp_png
from lensdata.shards.verification import verify
from tests.stamp_folders import FIRST_ID, LAYOUT, finish, stamp_of, write_fetch


@pytest.fixture
def fetch(tmp_path: Path) -> Path:
    folder = tmp_path / "fetch"
    write_fetch(str(folder))
    return folder


@pytest.fixture(params=["local", "s3"])
def base(request, tmp_path):
    if request.param == "local":
        return str(tmp_path)
    return storage.join(request.getfixturevalue("bucket"), tmp_path.name)


def faults(folder: object) -> list[tuple[str, str]]:
    return [(fault.file, fault.what) for fault in verify(open_folder(str(folder), damaged=True)).faults]


def edit_ledger(folder: Path, change) -> None:
    """Rewrite the first ledger file; the folder is finished anew, so that only the contradiction is left."""
    path = folder / "ledger" / "dataset" / "part-00000.parquet"
    rows = pq.read_table(path).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=tables.LEDGER.schema), path)
    finish(str(folder))


def edit_part(folder: Path, change) -> None:
    """Rewrite the first part with other columns."""
    path = folder / "parts" / "dataset" / "part-00000.parquet"
    table = change(pq.read_table(path))
    pq.write_table(table, path, write_page_checksum=True, row_group_size=4)
    finish(str(folder))


# ---------------------------------------------------------------- verify


def test_a_whole_fetch_folder_is_well(base):
    folder = storage.join(base, "fetch")
    stored = write_fetch(folder)
    found = verify(open_folder(folder))
    assert found.faults == []
    assert (found.kind, found.files, found.stamps, found.hashed) == ("fetch", 4, len(stored), len(stored))
    assert found.checksums == 8  # four parts, four ledger files


@pytest.mark.parametrize("part", ["parts", "parts/dataset", "parts/dataset/part-00001.parquet"])
def test_shards_alone_are_well_too(fetch, part):
    assert faults(fetch / part) == []


def test_a_changed_byte_is_found_by_checksum_and_page(fetch):
    path = fetch / "parts" / "dataset" / "part-00002.parquet"
    data = bytearray(path.read_bytes())
    at = data.index(stamp_of(FIRST_ID + 20)[:5].tobytes())
    data[at + 7] ^= 1
    path.write_bytes(data)
    name = "parts/dataset/part-00002.parquet"
    assert faults(fetch) == [(name, "row group 0"), (name, "SHA-256")]


def test_a_truncated_and_a_missing_file_are_named(fetch):
    first, second = (fetch / "parts" / "dataset" / f"part-0000{i}.parquet" for i in (0, 1))
    first.write_bytes(first.read_bytes()[:-100])
    second.unlink()
    found = faults(fetch)
    assert ("parts/dataset/part-00000.parquet", "shard") in found
    assert ("parts/dataset/part-00001.parquet", "file") in found


def test_a_ledger_that_cannot_be_read_is_named(fetch):
    (fetch / "ledger" / "dataset" / "part-00000.parquet").write_bytes(b"PAR1")
    found = faults(fetch)
    assert ("ledger/dataset/part-00000.parquet", "table") in found
    assert ("parts/dataset/part-00000.parquet", "row 0") in found
    with pytest.raises(InputError, match="part-00000.parquet is not a readable Parquet file"):
        open_folder(str(fetch))


def test_a_description_that_cannot_be_read_is_named(fetch):
    (fetch / "parts" / "_table.json").write_text("{")
    assert faults(fetch) == [("parts/_table.json", "file")]


def test_a_file_that_the_table_does_not_list_is_named(fetch):
    shutil.copy(fetch / "ledger" / "dataset" / "part-00000.parquet", fetch / "ledger" / "dataset" / "z.parquet")
    assert ("ledger/dataset/z.parquet", "file") in faults(fetch)


def test_pixels_that_are_not_those_of_their_hash_are_named(fetch):
    def swap(table):
        index = table.schema.get_field_index("pixel_hash")
        hashes = table["pixel_hash"].to_pylist()
        return table.set_column(index, table.schema.field(index), pa.array([hashes[1], hashes[0], *hashes[2:]]))

    edit_part(fetch, swap)
    name = "parts/dataset/part-00000.parquet"
    assert faults(fetch) == [(name, f"pixel_hash of {FIRST_ID}"), (name, f"pixel_hash of {FIRST_ID + 1}")]


def test_a_row_without_a_ledger_line_is_named(fetch):
    edit_ledger(fetch, lambda rows: rows[0].update(outcome="failed", part=None, row=None))
    assert faults(fetch) == [("parts/dataset/part-00000.parquet", "row 0")]


def test_a_ledger_line_without_its_row_is_named(fetch):
    edit_ledger(fetch, lambda rows: rows[-1].update(row=99))
    name = "parts/dataset/part-00000.parquet"
    assert faults(fetch) == [(name, "row 99"), (name, "row 8")]


def test_a_ledger_line_that_names_another_stamp_is_named(fetch):
    edit_ledger(fetch, lambda rows: (rows[0].update(row=1), rows[1].update(row=0)))
    name = "parts/dataset/part-00000.parquet"
    assert faults(fetch) == [(name, "row 0"), (name, "row 1")]


def test_a_ledger_line_that_says_no_place_is_named(fetch):
    edit_ledger(fetch, lambda rows: rows[0].update(part=None, row=None))
    assert ("ledger", f"cutout_id {FIRST_ID}") in faults(fetch)


def test_a_stamp_in_two_rows_is_named(fetch):
    shutil.copy(fetch / "parts" / "dataset" / "part-00000.parquet", fetch / "parts" / "dataset" / "part-00009.parquet")
    finish(str(fetch))
    found = faults(fetch)
    assert ("parts/dataset/part-00009.parquet", f"cutout_id {FIRST_ID}") in found
    assert ("parts/dataset/part-00009.parquet", "row 0") in found


def test_files_of_another_layout_are_named(fetch):
    other = ImageLayout(shape=(8, 8, 1), dtype="float32", bands=("g",), unit="nanomaggy")
    with ShardWriter(str(fetch / "parts" / "dataset"), other, first_index=9) as writer:
        writer.add(pa.table({"cutout_id": [5]}), np.zeros((1, 8, 8, 1), np.float32))
    found = faults(fetch / "parts")
    assert {("dataset/shard-00009.parquet", key) for key in ("shape", "bands")} <= set(found)


def test_an_unfinished_folder_is_not_well(fetch):
    (fetch / "_SUCCESS").unlink()
    assert faults(fetch) == [("_SUCCESS", "file")]


def test_stamps_in_another_fetch_are_read_and_checked_there(fetch, tmp_path):
    second = tmp_path / "second"
    write_fetch(str(second), parts=1)
    far, near = "../../../fetch/parts/dataset/part-00000.parquet", "part-00000.parquet"
    for address in (far, str(fetch / "parts" / "dataset" / "part-00000.parquet")):
        edit_ledger(second, lambda rows, to=address: [row.update(part=to) for row in rows[:2]])
        found = faults(second)  # those two rows of its own part have no line now
        assert found == [(f"parts/dataset/{near}", f"row {row}") for row in (0, 1)]
    edit_ledger(second, lambda rows: rows[0].update(row=7))
    assert (str(fetch / "parts" / "dataset" / near), "row 7") in faults(second)


def test_manifest_rows_are_checked(import_stamps):
    images = np.random.default_rng(0).normal(size=(30, 8, 8, 3)).astype(np.float32)
    manifest = Path(import_stamps(images, np.arange(30) % 2))
    assert verify(open_folder(str(manifest.parent))).kind == "manifests"
    assert faults(manifest.parent) == faults(manifest) == []
    path = manifest / "dataset" / "part-00000.parquet"
    table = pq.read_table(path)
    index = table.schema.get_field_index("row")
    table = table.set_column(
        index, table.schema.field(index), pa.array([99, *table["row"].to_pylist()[1:]], pa.int32())
    )
    pq.write_table(table, path)
    assert [file for file, _ in faults(manifest.parent)] == ["manifest/dataset/part-00000.parquet", "manifest"]


# ---------------------------------------------------------------- looking


def test_every_file_is_listed(fetch):
    entries = folders.summaries(open_folder(str(fetch)))
    assert [(entry.file, entry.stamps, entry.row_groups) for entry in entries] == [
        ("parts/dataset/part-00000.parquet", 9, 3),
        ("parts/dataset/part-00001.parquet", 9, 3),
        ("parts/dataset/part-00002.parquet", 9, 3),
        ("parts/dataset/part-00003.parquet", 8, 2),
    ]
    assert entries[0].shape == (24, 24, 3)
    assert entries[0].bands == ("g", "r", "z")


def test_a_stamp_is_found_with_its_columns(fetch):
    stamp = find_stamp(open_folder(str(fetch)), FIRST_ID + 19)
    assert (stamp.file, stamp.row_group, stamp.row) == ("parts/dataset/part-00001.parquet", 2, 0)
    assert np.array_equal(stamp.pixels, stamp_of(FIRST_ID + 19))
    assert stamp.columns["pixel_hash"] == pixel_hash(stamp.pixels)


def test_a_stamp_that_is_not_where_the_ledger_says_is_refused(fetch):
    edit_ledger(fetch, lambda rows: rows[0].update(row=1))
    with pytest.raises(InputError, match=f"part-00000.parquet does not hold stamp {FIRST_ID} where the ledger says"):
        find_stamp(open_folder(str(fetch)), FIRST_ID)


@pytest.mark.parametrize("bands", [("g",), ("g", "r", "z"), ("g", "r", "i", "z")])
def test_stamps_of_any_bands_without_pixels_have_a_picture(bands):
    layout = ImageLayout(shape=(6, 5, len(bands)), dtype="float32", bands=bands, unit="nanomaggy")
    pixels = np.full(layout.shape, np.nan, np.float32)
    assert stamp_png(FoundStamp("f", 0, 0, {"cutout_id": 1}, layout, pixels)).startswith(b"\x89PNG")


def test_band_statistics_leave_out_what_is_not_finite():
    rng = np.random.default_rng(0)
    pixels = rng.normal(3.0, 2.0, (200, 200))
    pixels[0, :20] = np.nan
    found = folders.summarise("r", pixels)
    assert found.noise == pytest.approx(2.0, rel=0.02)
    assert found.median == pytest.approx(3.0, abs=0.05)
    assert found.finite == pytest.approx(1 - 20 / 40000)
    assert np.isnan(folders.summarise("r", np.full((2, 2), np.nan)).noise)


@pytest.mark.parametrize(
    ("key", "message"),
    [(5, "has no stamp 5; it has 35 stamps"), (FIRST_ID + 2, r"its ledger says failed \(http_500\)")],
)
def test_a_stamp_that_is_not_there_is_said_to_be_so(fetch, key, message):
    with pytest.raises(InputError, match=message):
        find_stamp(open_folder(str(fetch)), key)


def test_what_is_no_folder_of_stamps_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nothing does not exist"):
        open_folder(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="holds no Parquet shards"):
        open_folder(str(tmp_path))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no shard of stamps"):
        open_folder(str(tmp_path))


# ---------------------------------------------------------------- NPZ


def test_npz_out_and_in_is_bit_exact(base):
    fetch, out, back = (storage.join(base, name) for name in ("fetch", "npz", "back"))
    stored = write_fetch(fetch)
    assert maintenance.export_npz(open_folder(fetch), out) == len(stored)
    assert maintenance.import_npz(out, back, group_rows=8) == len(stored)
    assert verify(open_folder(back)).faults == []
    folder = open_folder(back)
    for key in stored:
        stamp = find_stamp(folder, key)
        assert stamp.pixels.tobytes() == stamp_of(key).tobytes()
        assert stamp.layout == LAYOUT


def test_only_the_wanted_stamps_are_exported(fetch, tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text(f"# two\n{FIRST_ID}\n\n{FIRST_ID + 11}  # the second\n")
    assert maintenance.export_npz(open_folder(str(fetch)), str(tmp_path / "out"), maintenance.read_ids(str(ids))) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{FIRST_ID}.npz", f"{FIRST_ID + 11}.npz"]
    with pytest.raises(InputError, match=r"has no stamp 5 \(1 of the 2 wanted are not among its 35\)"):
        maintenance.export_npz(open_folder(str(fetch)), str(tmp_path / "more"), [FIRST_ID, 5])
    assert not (tmp_path / "more").exists()


def test_a_line_that_is_no_key_is_named(tmp_path):
    (tmp_path / "ids.txt").write_text("1\nabc\n")
    with pytest.raises(InputError, match=r"ids\.txt, line 2: 'abc' is no cutout_id"):
        maintenance.read_ids(str(tmp_path / "ids.txt"))


def test_names_that_are_no_numbers_become_stable_keys(tmp_path):
    for name in ("lens A", "17", "-4"):
        np.savez(tmp_path / f"{name}.npz", cutout=np.ones((6, 6, 3), np.float32))
    maintenance.import_npz(str(tmp_path), str(tmp_path / "out"))
    table = pq.read_table(tmp_path / "out" / "dataset", columns=["cutout_id", "name"]).to_pylist()
    assert {row["name"]: row["cutout_id"] for row in table} == {
        "17": 17,
        "-4": -4,
        "lens A": maintenance.key_of("lens A"),
    }


def test_npz_that_cannot_be_packed_is_refused(tmp_path):
    source = tmp_path / "npz"
    source.mkdir()
    with pytest.raises(InputError, match="holds no NPZ files"):
        maintenance.import_npz(str(source), str(tmp_path / "out"))
    np.savez(source / "1.npz", image=np.ones((6, 6, 3), np.float32))
    with pytest.raises(InputError, match=r"1\.npz has no array 'cutout'; it has image"):
        maintenance.import_npz(str(source), str(tmp_path / "out"))
    np.savez(source / "1.npz", cutout=np.ones((6, 6, 3), np.float32))
    np.savez(source / "01.npz", cutout=np.ones((6, 6, 3), np.float32))
    with pytest.raises(InputError, match="two files stand for the stamp 1"):
        maintenance.import_npz(str(source), str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["npz"]


# ---------------------------------------------------------------- compact


def read_ledger(folder: str):
    return tables.read_table(storage.join(folder, "ledger"), tables.LEDGER).to_pandas()


def test_many_parts_become_few_and_the_ledger_follows(base):
    fetch, out = storage.join(base, "fetch"), storage.join(base, "packed")
    stored = write_fetch(fetch, extras=True)
    done = compact(open_folder(fetch), out, target_bytes=8 * 2 * LAYOUT.nbytes * 2, group_rows=8)
    assert done.stamps == len(stored)
    assert [info.rows for info in done.shards] == [16, 16, 3]  # with invvar a row is twice its image
    assert verify(open_folder(out)).faults == []

    before, after = read_ledger(fetch), read_ledger(out)
    names = [name for name in before.columns if name not in ("part", "row")]
    assert before[names].equals(after[names])
    lines = after[after["outcome"] == "stored"]
    assert lines["cutout_id"].tolist() == stored
    assert lines["part"].iloc[-1] == "part-00002.parquet"
    assert after.loc[after["outcome"] != "stored", ["part", "row"]].isna().all(axis=None)
    assert all(map(np.array_equal, read_stored(out, lines), map(stamp_of, stored)))


def test_a_compacted_fetch_is_the_same_input_for_the_steps_after_it(fetch, tmp_path):
    out = str(tmp_path / "packed")
    compact(open_folder(str(fetch)), out)
    assert steps.input_identity(out) == steps.input_identity(str(fetch))
    for name in ("ledger", "parts"):
        contents = [
            storage.read_json(storage.join(folder, name, "_table.json"))["content"] for folder in (str(fetch), out)
        ]
        assert contents[0] == contents[1]


def test_extra_columns_pass_through_unchanged(tmp_path):
    fetch, out = str(tmp_path / "fetch"), str(tmp_path / "packed")
    write_fetch(fetch, extras=True)
    compact(open_folder(fetch), out)
    before, after = (
        pa.concat_tables(pq.read_table(name) for name in tables.dataset_files(storage.join(folder, "parts")))
        for folder in (fetch, out)
    )
    assert after.equals(before)
    assert after.schema.field("invvar").equals(before.schema.field("invvar"), check_metadata=True)


def test_stamps_of_another_fetch_come_along(fetch, tmp_path):
    second, out = tmp_path / "second", tmp_path / "packed"
    write_fetch(str(second), parts=1)
    shutil.rmtree(second / "parts" / "dataset")
    far = "../../../fetch/parts/dataset/part-00000.parquet"
    edit_ledger(second, lambda rows: [row.update(part=far) for row in rows if row["part"]])
    compact(open_folder(str(second)), str(out))
    shutil.rmtree(fetch)
    lines = read_ledger(str(out)).dropna(subset=["part"])
    assert all(map(np.array_equal, read_stored(str(out), lines), map(stamp_of, lines["cutout_id"])))


def test_plain_shards_are_packed_in_file_order(fetch, tmp_path):
    out = tmp_path / "packed"
    compact(open_folder(str(fetch / "parts")), str(out), group_rows=16)
    keys = pq.read_table(out / "dataset", columns=["cutout_id"])["cutout_id"].to_pylist()
    assert keys == pq.read_table(fetch / "parts" / "dataset", columns=["cutout_id"])["cutout_id"].to_pylist()
    assert [path.name for path in (out / "dataset").iterdir()] == ["shard-00000.parquet"]
    assert verify(open_folder(str(out))).faults == []


def test_nothing_is_left_of_a_compaction_that_meets_wrong_pixels(fetch, tmp_path):
    edit_ledger(fetch, lambda rows: rows[4].update(pixel_hash="0" * 32))
    with pytest.raises(InputError, match=f"the pixels of stamp {FIRST_ID + 4} have the hash .*the ledger says 0000"):
        compact(open_folder(str(fetch)), str(tmp_path / "packed"))
    assert [path.name for path in tmp_path.iterdir()] == ["fetch"]


def test_what_cannot_be_compacted_is_refused(fetch, tmp_path, import_stamps):
    images = np.random.default_rng(0).normal(size=(30, 8, 8, 3)).astype(np.float32)
    manifest = Path(import_stamps(images, np.arange(30) % 2))
    with pytest.raises(InputError, match="holds manifests that name rows"):
        compact(open_folder(str(manifest.parent)), str(tmp_path / "packed"))
    with pytest.raises(InputError, match="is there already and not empty"):
        compact(open_folder(str(fetch)), str(manifest))
    edit_ledger(fetch, lambda rows: rows[-1].update(row=99))
    with pytest.raises(InputError, match="35 stored lines, its parts 34 rows"):
        compact(open_folder(str(fetch)), str(tmp_path / "packed"))
    (fetch / "_SUCCESS").unlink()
    with pytest.raises(InputError, match="has no _SUCCESS mark"):
        compact(open_folder(str(fetch)), str(tmp_path / "packed"))


def test_stamps_behind_manifests_are_counted(import_stamps):
    images = np.random.default_rng(0).normal(size=(30, 8, 8, 3)).astype(np.float32)
    manifest = Path(import_stamps(images, np.arange(30) % 2))
    assert folders.count_stamps(open_folder(str(manifest.parent))) == 30
