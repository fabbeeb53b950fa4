"""Stamps out to NPZ objects and in again, into folders that are there whole or not at all (R-C3)."""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from itertools import repeat

import numpy as np
import pyarrow as pa

from lensdata import storage, tables
from lensdata.errors import InputError
from lensdata.hashing import pixel_hash, text_hash
from lensdata.shards import npz
from lensdata.shards.folders import StampFolder, absolute, batches
from lensdata.shards.layout import SURVEY_LAYOUT, ImageLayout
from lensdata.shards.reader import open_shard
from lensdata.shards.writer import DEFAULT_GROUP_ROWS, DEFAULT_TARGET_BYTES, ShardWriter

IMPORT_ROWS = 256  # NPZ objects read at a time
FILES_AT_ONCE = 16  # small files are waited for, on S3 and where each is synced to a disk
NAME_BIT = 1 << 62  # keys made from names lie above every source_id (58 bits) and are not negative as those of controls


def export_npz(folder: StampFolder, out: str, wanted: Collection[int] | None = None) -> int:
    """Write stamps as ``<out>/<cutout_id>.npz``, key ``cutout`` (H, W, bands); returns how many.

    Raises
    ------
    InputError
        ``out`` is not empty, or a wanted stamp is not there.
    """
    if wanted is not None:
        _require_known(folder, wanted)
    require_free(out)
    count = 0
    # S3 has no rename: to put so many objects in place would be to copy each once more
    place = nullcontext(out) if storage.is_s3(out) else new_folder(out)
    with place as work, ThreadPoolExecutor(FILES_AT_ONCE) as threads:
        for batch in batches(folder, wanted):
            uris = [storage.join(work, f"{cutout_id}.npz") for cutout_id in batch.rows["cutout_id"].to_pylist()]
            count += len(list(threads.map(npz.write_stamp, uris, batch.stamps)))
    return count


def import_npz(
    folder: str,
    out: str,
    like: ImageLayout = SURVEY_LAYOUT,
    *,
    target_bytes: int = DEFAULT_TARGET_BYTES,
    group_rows: int = DEFAULT_GROUP_ROWS,
) -> int:
    """Pack NPZ objects into shards ``<out>/dataset``; returns how many.

    Parameters
    ----------
    folder
        Objects with the key ``cutout`` (H, W, bands), all of one shape and type; the order is that of their names.
    out
        Where the shards shall be.
    like
        Bands, unit and pixel scale, which an NPZ does not tell.

    Raises
    ------
    InputError
        No objects, one without ``cutout`` or of another shape, two with one key, or ``out`` is not empty.
    """
    if not storage.exists(folder):
        raise InputError(f"Folder {folder} does not exist.")
    uris = storage.list_files(folder, ".npz")
    if not uris:
        raise InputError(f"{folder} holds no NPZ files.")
    names = [uri.rsplit("/", 1)[-1].removesuffix(".npz") for uri in uris]
    ids = [key_of(name) for name in names]
    if len(set(ids)) < len(ids):
        twice = next(name for place, name in enumerate(names) if ids[place] in ids[:place])
        raise InputError(f"{folder}: two files stand for the stamp {key_of(twice)}, one of them {twice}.npz.")
    layout = npz.read_layout(uris[0], like)
    with new_folder(out) as work:
        target = storage.join(work, "dataset")
        writer = ShardWriter(target, layout, target_bytes=target_bytes, group_rows=group_rows)
        with ThreadPoolExecutor(FILES_AT_ONCE) as threads, writer:
            for start in range(0, len(uris), IMPORT_ROWS):
                part = slice(start, start + IMPORT_ROWS)
                stamps = np.stack(list(threads.map(npz.read_stamp, uris[part], repeat(layout))))
                hashes = [pixel_hash(stamp) for stamp in stamps]
                columns = {"cutout_id": pa.array(ids[part], pa.int64()), "name": names[part], "pixel_hash": hashes}
                writer.add(pa.table(columns), stamps)
        tables.finish_table(work, identity=["cutout_id", "pixel_hash"])
    return len(uris)


def key_of(name: str) -> int:
    """The key of a stamp from the stem of its file: the number it is, else a hash that meets no source's or control's key.

    >>> key_of("123"), key_of("-7")
    (123, -7)
    >>> key_of("lens A") == key_of("lens A") and key_of("lens A") >= NAME_BIT
    True
    """
    if re.fullmatch(r"-?[0-9]{1,19}", name) and -(1 << 63) <= int(name) < 1 << 63:
        return int(name)
    return NAME_BIT | int(text_hash(name), 16) >> 2


def read_ids(uri: str) -> list[int]:
    """Keys of stamps from a text file, one per line; blank lines and ``#`` comments are skipped.

    Raises
    ------
    InputError
        A line that is no integer, or none at all.
    """
    ids = []
    for number, line in enumerate(storage.read_bytes(uri).decode("utf-8-sig", "replace").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if text:
            ids.append(parse_id(text, f"{uri}, line {number}: "))
    if not ids:
        raise InputError(f"{uri} names no stamp; give one cutout_id per line.")
    return ids


def parse_id(text: str, where: str = "") -> int:
    """A cutout_id from text.

    Raises
    ------
    InputError
        Not an integer of 64 bits.
    """
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", text) or not -(1 << 63) <= int(text) < 1 << 63:
        raise InputError(f"{where}{text!r} is no cutout_id, which is a whole number of 64 bits.")
    return int(text)


def require_free(out: str) -> None:
    """Refuse a folder with files in it: what a command writes is all that is there.

    Raises
    ------
    InputError
        There is something already.
    """
    if storage.list_files(out):
        raise InputError(f"Output {out} is there already and not empty; choose another folder.")


@contextmanager
def new_folder(out: str) -> Iterator[str]:
    """A folder to write into, which is put in its place whole when the block ends well, and removed otherwise.

    Raises
    ------
    InputError
        There is something already.
    """
    out = absolute(out)
    require_free(out)
    work = storage.join(out, "..", f"_temporary-{out.rsplit('/', 1)[-1]}-{uuid.uuid4().hex[:8]}")
    storage.make_folder(work)
    try:
        yield work
        storage.publish_folder(work, out)
    except BaseException:
        storage.remove(work)
        raise


def _require_known(folder: StampFolder, wanted: Collection[int]) -> None:
    if folder.ledger is not None:
        known = {int(key) for lines in folder.lines.values() for key in lines["cutout_id"]}
    else:
        known = set()
        for shard in map(open_shard, folder.files):
            for group in range(shard.num_row_groups):
                known.update(shard.read_rows(group, ["cutout_id"])["cutout_id"].to_pylist())
    missing = [key for key in wanted if key not in known]
    if missing:
        raise InputError(
            f"{folder.uri} has no stamp {missing[0]} ({len(missing)} of the {len(wanted)} wanted are not among its {len(known):,})."
        )
