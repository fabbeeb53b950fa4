"""The run folder: records, checkpoints and what names them (docs/architecture.md, section 4, R-T5).

Workers write here themselves, and `last.json` is written last: it is the one place that says how far a run is.
Ray's own checkpoint registry is left out on purpose. There a checkpoint counts only when the controller next polls,
so a killed worker loses the latest ones, and a run made without Ray would need a second way of resuming.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lensdata import storage
from lensdata.errors import InputError
from ray_train.core.loop import Record
from ray_train.core.recipe import best_epoch

PARTIAL = "inside_epoch.pt"
HANDED_OVER = ("metrics.jsonl", "health.json", "best.json", "last.json")


def checkpoint_name(epoch: int) -> str:
    """Name of an epoch's checkpoint; epochs count from 0.

    >>> checkpoint_name(7)
    'epoch_007'
    """
    return f"epoch_{epoch:03d}"


class RunFolder:
    """A run folder, local or ``s3://``, for reading and writing."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @property
    def run_id(self) -> str:
        """The folder's own name."""
        return self.uri.rstrip("/").rsplit("/", 1)[-1]

    def path(self, *parts: str) -> str:
        """A path inside the folder."""
        return storage.join(self.uri, *parts)

    def epochs(self) -> int:
        """Number of epochs whose checkpoint was saved."""
        return len(self.records())

    def records(self) -> list[Record]:
        """Records of the epochs whose checkpoint was saved."""
        if not storage.exists(self.path("last.json")):
            return []
        last = int(storage.read_json(self.path("last.json"))["epoch"])
        lines = storage.read_bytes(self.path("metrics.jsonl")).decode().splitlines()
        records: list[Record] = [json.loads(line) for line in lines]
        return [record for record in records if record["epoch"] <= last]

    def checkpoint(self, name: str) -> bytes:
        """A checkpoint's bytes.

        Parameters
        ----------
        name
            "best", "last" or "epoch_NNN".

        Raises
        ------
        InputError
            There is none of that name, or the file is not the one that was written.
        """
        digest = None
        if name in ("best", "last"):
            pointer = self.path(f"{name}.json")
            if not storage.exists(pointer):
                raise InputError(f"Run {self.uri} has no {name}.json, so it has no finished epoch; train it first.")
            entry = storage.read_json(pointer)
            name, digest = entry["checkpoint"], entry["sha256"]
        address = self.path("checkpoints", f"{name}.pt")
        if not storage.exists(address):
            raise InputError(f"Run {self.uri} has no checkpoint {name}.")
        data = storage.read_bytes(address)
        if digest is not None and hashlib.sha256(data).hexdigest() != digest:
            raise InputError(f"Checkpoint {address} is not the file that was written (its SHA-256 differs).")
        return data

    def partial(self) -> bytes | None:
        """The checkpoint inside an epoch, if there is one; the epoch is written in it."""
        address = self.path("checkpoints", PARTIAL)
        return storage.read_bytes(address) if storage.exists(address) else None

    def save_partial(self, checkpoint: bytes) -> None:
        """Keep a checkpoint inside an epoch in place of the one before."""
        storage.write_bytes(self.path("checkpoints", PARTIAL), checkpoint)

    def save(self, records: list[Record], checkpoint: bytes, *, monitor: str, keep_every: int) -> None:
        """Keep an epoch: checkpoint, records, `best.json`, then `last.json`; then drop what nobody names.

        A crash in between leaves `last.json` at the epoch before, whose files are all there.
        """
        epoch = int(records[-1]["epoch"])
        storage.write_bytes(self.path("checkpoints", f"{checkpoint_name(epoch)}.pt"), checkpoint)
        storage.write_bytes(self.path("metrics.jsonl"), "".join(json.dumps(r) + "\n" for r in records).encode())
        best = best_epoch(records, monitor)
        if best == epoch:
            self._point("best", records[best], checkpoint)
        elif storage.read_json(self.path("best.json"))["checkpoint"] != checkpoint_name(best):
            # a crash after an epoch was named best, which its repetition no longer is: the device is not bit-equal
            self._point(
                "best", records[best], storage.read_bytes(self.path("checkpoints", f"{checkpoint_name(best)}.pt"))
            )
        self._point("last", records[epoch], checkpoint)
        kept = {best, epoch, *range(0, epoch, keep_every)}
        names = {f"{checkpoint_name(number)}.pt" for number in kept}
        for uri in storage.list_files(self.path("checkpoints")):
            name = uri.rsplit("/", 1)[-1]
            half_written = ".pt.tmp-" in name  # by a process that was killed
            if half_written or (name.endswith(".pt") and name not in names):
                storage.remove(uri)

    def copy_to(self, folder: Path) -> None:
        """Copy what another run needs to go on from here: records, the best and the last checkpoint."""
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        for name in HANDED_OVER:
            (folder / name).write_bytes(storage.read_bytes(self.path(name)))
        for entry in {storage.read_json(self.path(f"{name}.json"))["checkpoint"] for name in ("best", "last")}:
            (folder / "checkpoints" / f"{entry}.pt").write_bytes(
                storage.read_bytes(self.path("checkpoints", f"{entry}.pt"))
            )

    def take_over(self, folder: Path) -> None:
        """Go on from such a copy; `last.json`, which says how far the run is, comes last."""
        for checkpoint in sorted((folder / "checkpoints").iterdir()):
            storage.write_bytes(self.path("checkpoints", checkpoint.name), checkpoint.read_bytes())
        for name in HANDED_OVER:
            storage.write_bytes(self.path(name), (folder / name).read_bytes())

    def _point(self, name: str, record: Record, checkpoint: bytes) -> None:
        figures: dict[str, Any] = {key: record[key] for key in ("val_auc", "val_loss", "train_loss")}
        entry = {
            "checkpoint": checkpoint_name(record["epoch"]),
            "epoch": record["epoch"],
            **figures,
            "sha256": hashlib.sha256(checkpoint).hexdigest(),
            "bytes": len(checkpoint),
        }
        storage.write_json(self.path(f"{name}.json"), entry)
