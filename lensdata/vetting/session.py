"""The folder of a vetting, begun or gone on with, and the order in which each grader sees its stamps.

Stamps and controls make one row, in the order of the list, with the controls at seeded places spread evenly. Each grader of a
blind session sees that row in an order of their own, shuffled within blocks of `BLOCK` stamps: who stops early has seen the
front of the list, and no place within a block says how high a stamp was ranked.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lensdata import steps, storage
from lensdata.errors import InputError
from lensdata.hashing import second_key
from lensdata.vetting.items import Request, make_items

BLOCK = 200
DESCRIPTION, ITEMS, TOKEN = "session.json", "items.parquet", ".token"
OWN_FILES = {DESCRIPTION, ITEMS, TOKEN, "grades.jsonl"}
VERSION = 1


@dataclass
class Session:
    """A folder of a vetting and the stamps in it.

    Attributes
    ----------
    id
        Of this folder alone: cookies and waiting grades of a browser belong to it, not to whoever listens at the same port.
    items
        One row per stamp, controls among them, in the order of the list.
    """

    folder: Path
    id: str
    blind: bool
    seed: int
    items: pa.Table
    manifests: tuple[str, ...]
    _orders: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.items.num_rows)

    @property
    def cutout_ids(self) -> npt.NDArray[np.int64]:
        """Keys of the stamps, in the order of the list."""
        return np.asarray(self.items["cutout_id"].to_numpy())

    def order(self, grader: str) -> npt.NDArray[np.int64]:
        """Row of `items` behind each number that a grader sees, from number 1 on."""
        if grader not in self._orders:
            self._orders[grader] = order_of(self.cutout_ids, self.seed, grader if self.blind else None)
        return self._orders[grader]


def order_of(cutout_ids: npt.NDArray[np.int64], seed: int, grader: str | None) -> npt.NDArray[np.int64]:
    """The order of a blind grader: shuffled within blocks of `BLOCK`; for None as listed.

    >>> order = order_of(np.arange(1000), 7, "ada")
    >>> bool((np.sort(order[:BLOCK]) == np.arange(BLOCK)).all()), bool((order == order_of(np.arange(1000), 7, "bob")).all())
    (True, False)
    """
    place = np.arange(len(cutout_ids))
    if grader is None:
        return place
    keys = second_key(cutout_ids, seed, f"vetting order of {grader}")
    return np.asarray(np.lexsort((keys, place // BLOCK)), np.int64)


def open_session(folder: str, request: Request) -> Session:
    """Begin a vetting in a new folder, or go on with the one that is there.

    Raises
    ------
    InputError
        The list or a manifest is missing or wrong, or the folder holds something else or another vetting.
    """
    if storage.is_s3(folder):
        raise InputError(f"{folder} is on S3, where no line can be appended; give --output a folder of this machine.")
    place = storage.local_path(folder)
    wanted = request.identity()
    if (place / DESCRIPTION).exists():
        found = _described(place)
        differ = [name for name in wanted if found["identity"].get(name) != wanted[name]]
        if differ:
            raise InputError(
                f"{folder} was begun with another {' and '.join(differ)}; "
                "give the same to go on, or another --output to begin anew."
            )
        return read_session(folder, request.manifests)
    foreign = [path.name for path in place.iterdir() if path.name not in OWN_FILES] if place.is_dir() else []
    if [name for name in foreign if not name.startswith(f".{ITEMS}")] or (place / "grades.jsonl").exists():
        raise InputError(f"{folder} holds files and no {DESCRIPTION}, so it is no vetting; choose another --output.")
    items = make_items(request)
    storage.make_folder(folder)
    with storage.new_file(str(place / ITEMS)) as path:
        pq.write_table(items, path, compression="zstd")
    description = {
        "version": VERSION, "id": secrets.token_hex(8), "identity": wanted, "list": request.listed,
        "manifests": list(request.manifests), "stamps": items.num_rows, "items_sha256": storage.sha256(str(place / ITEMS)),
        "provenance": steps.provenance(),
    }  # fmt: skip
    # Of two that begin at once the first one's stands: grades belong to its id.
    storage.write_new(str(place / DESCRIPTION), (json.dumps(description, indent=1) + "\n").encode())
    return read_session(folder, request.manifests)


def read_session(folder: str, manifests: tuple[str, ...] | None = None) -> Session:
    """A vetting that is begun, by its folder.

    Parameters
    ----------
    manifests
        Where the manifests are now, in the order in which they were given; where they were by default.

    Raises
    ------
    InputError
        No vetting was begun there, or its files are damaged.
    """
    place = storage.local_path(folder)
    if not (place / DESCRIPTION).exists():
        raise InputError(
            f"{folder} holds no {DESCRIPTION}, so no vetting was begun there; begin one by lensdata vet LIST."
        )
    found = _described(place)
    if not (place / ITEMS).exists() or storage.sha256(str(place / ITEMS)) != found["items_sha256"]:
        raise InputError(f"{place / ITEMS} is missing or not what {DESCRIPTION} says; put back a copy of the file.")
    return Session(
        place, found["id"], bool(found["identity"]["--blind"]), int(found["identity"]["--seed"]),
        pq.read_table(place / ITEMS), manifests or tuple(found["manifests"]),
    )  # fmt: skip


def token(folder: Path) -> str:
    """The secret of the printed address, the same at every start, readable by its owner alone."""
    path = folder / TOKEN
    if path.exists() and (known := path.read_text().strip()):
        return known
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(made := secrets.token_urlsafe(24))
    return made


def _described(place: Path) -> dict[str, Any]:
    found = storage.read_json(str(place / DESCRIPTION))
    needed = {"version", "id", "identity", "manifests", "items_sha256"}
    if not isinstance(found, dict) or not needed <= found.keys() or found["version"] != VERSION:
        raise InputError(
            f"{place / DESCRIPTION} is damaged or of another version of lensdata; put back a copy of the file."
        )
    return found
