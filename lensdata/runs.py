"""Training runs as a notebook reads them: what was run, its epochs, its scores, its stamps (docs/guide/notebooks.md).

Reads folders and changes nothing; needs neither torch nor Ray.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import yaml

from lensdata import storage, tables
from lensdata.config.base import flattened
from lensdata.errors import InputError
from lensdata.shards.manifests import Manifest, read_manifest

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Run:
    """A training run's folder.

    Attributes
    ----------
    uri
        The folder, local or ``s3://``.
    """

    uri: str

    @cached_property
    def info(self) -> dict[str, Any]:
        """What was run: commit, seeds, manifest, versions, hardware (`run_info.json`)."""
        return _mapping(self._path("run_info.json"), storage.read_json(self._path("run_info.json")))

    @cached_property
    def config(self) -> dict[str, Any]:
        """The complete configuration, defaults included."""
        place = self._path("config.yaml")
        try:
            return _mapping(place, yaml.safe_load(storage.read_bytes(place)))
        except yaml.YAMLError as error:
            raise _damaged(place) from error

    @property
    def finished(self) -> bool:
        """Whether the run came to its end; scores exist then."""
        return storage.exists(self._path("_SUCCESS"))

    @property
    def best(self) -> dict[str, Any] | None:
        """Checkpoint, epoch and validation figures of the best epoch so far; None before the first."""
        place = self._path("best.json")
        return _mapping(place, storage.read_json(place)) if storage.exists(place) else None

    def epochs(self) -> pd.DataFrame:
        """A row per epoch whose checkpoint was saved, indexed by epoch: losses, validation AUC, rates, seconds."""
        if not storage.exists(self._path("last.json")):
            return pd.DataFrame(index=pd.Index([], name="epoch"))
        last = int(storage.read_json(self._path("last.json"))["epoch"])
        place = self._path("metrics.jsonl")
        rows = (_row(place, line) for line in storage.read_bytes(place).decode().splitlines())
        frame = pd.DataFrame([row for row in rows if row["epoch"] <= last])
        if frame.empty:  # a checkpoint is saved after its line is written
            raise _damaged(place)
        return frame.set_index("epoch")

    def scores(self, split: str | None = None) -> pd.DataFrame:
        """Logit and score of the best checkpoint for every stamp, indexed by cutout_id; of one split if named.

        The test split is for the final evaluation alone (R-T10): read it once, at the end.

        Raises
        ------
        InputError
            The run is not finished, or the split is none of train, val, test.
        """
        if split is not None and split not in SPLITS:
            raise InputError(f"There is no split {split!r}; expected {', '.join(SPLITS)}.")
        rows = tables.read_table(self._path("scores"), tables.SCORES).to_pandas()
        return (rows if split is None else rows[rows["split"] == split]).set_index("cutout_id")

    def manifest(self) -> Manifest:
        """The manifest that it was trained on, with its stamps."""
        return open_manifest(self.info["manifest"]["uri"])

    def _path(self, *parts: str) -> str:
        return storage.join(self.uri, *parts)


def open_run(uri: str) -> Run:
    """A training run by its folder, finished or not.

    Raises
    ------
    InputError
        The folder holds no run.
    """
    uri = str(uri).rstrip("/")
    if not storage.exists(storage.join(uri, "run_info.json")):
        inside = [run.uri for run in find_runs(uri)] if storage.exists(uri) else []
        hint = f"; it holds {', '.join(inside[:3])}" if inside else ""
        raise InputError(f"{uri} holds no run_info.json, so it is no training run{hint}.")
    return Run(uri)


def open_manifest(uri: str) -> Manifest:
    """A manifest by its folder: `table` has its rows, `stamps` the pixels of some.

    Raises
    ------
    InputError
        The folder is missing, unfinished or no manifest.
    """
    return read_manifest(str(uri).rstrip("/"))


def find_runs(folder: str) -> list[Run]:
    """The training runs in a folder and below it, by address."""
    return [Run(name.rpartition("/")[0]) for name in storage.list_files(folder, "/run_info.json")]


def differences(runs: Mapping[str, Run]) -> pd.DataFrame:
    """The configuration keys in which runs differ, a row per key and a column per run."""
    flat = {name: flattened(run.config) | {"manifest": run.info["manifest"]["content"]} for name, run in runs.items()}
    keys = sorted({key for values in flat.values() for key in values})
    rows = {key: [values.get(key) for values in flat.values()] for key in keys if not key.startswith("execution.")}
    found = pd.DataFrame.from_dict(rows, orient="index", columns=list(flat), dtype=object)
    return found[[len({repr(value) for value in row}) > 1 for row in found.to_numpy()]]


def figures(runs: Mapping[str, Run]) -> pd.DataFrame:
    """What came of runs, a row per figure and a column per run; nothing of the test split."""
    columns = {}
    for name, run in runs.items():
        epochs, best = run.epochs(), run.best or {}
        columns[name] = {
            "state": "finished" if run.finished else "not finished",
            "network": run.info.get("model"),
            "parameters": run.info.get("parameters"),
            "training stamps": run.info.get("splits", {}).get("train", {}).get("rows"),
            "epochs done": len(epochs),
            "best epoch": best.get("epoch"),
            "validation AUC": best.get("val_auc"),
            "validation loss": best.get("val_loss"),
            "seconds per epoch": float(epochs["seconds"].median()) if len(epochs) else None,
            "images per second": float(epochs["images_per_second"].median()) if len(epochs) else None,
            "commit": (run.info.get("git_commit") or "")[:8],
            "begun (UTC)": run.info.get("utc"),
        }
    return pd.DataFrame(columns, dtype=object)


def _row(place: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise _damaged(place) from error
    return _mapping(place, row, "epoch")


def _mapping(place: str, value: Any, *keys: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not set(keys) <= set(value):
        raise _damaged(place)
    return dict(value)


def _damaged(place: str) -> InputError:
    return InputError(f"{place} is damaged or cut short; give the run's command again with --force, or remove the run.")
