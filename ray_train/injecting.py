"""What a worker of a selection function does: the injections of a cell at a time, each cell written as one file (R-E7)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from lensdata import storage, tables
from lensdata.catalogue.strata import depth_magnitude
from lensdata.config.selection import SelectionConfig
from lensdata.errors import InputError
from lensdata.shards.layout import ImageLayout, Stamps
from lensdata.shards.manifests import Manifest
from lensdata.simulation.selection_arcs import added, make_arcs
from lensdata.simulation.selection_design import Cell, host_frame
from lensdata.simulation.sky import PIXEL_SCALE
from ray_train.context import choose_device, use_threads
from ray_train.core.predict import full_precision_head, last_features, mean_logit
from ray_train.core.probes import scramble
from ray_train.scoring import Assignment, Scorer, load_scorer
from ray_train.training import write_part


@dataclass(frozen=True)
class CellPart:
    """A cell and its hosts.

    Attributes
    ----------
    cell
        ``cell.hosts`` are positions in ``hosts``.
    hosts
        Rows of the manifest, each host once.
    """

    cell: Cell
    hosts: Manifest

    @property
    def index(self) -> int:
        """Number of the cell, which names its file."""
        return self.cell.index

    @classmethod
    def of(cls, cell: Cell, hosts: Manifest) -> CellPart:
        """A cell of the plan, whose positions are in the manifest of all hosts."""
        used, places = np.unique(cell.hosts, return_inverse=True)
        rows = replace(hosts, table=hosts.table.take(pa.array(used)))
        return cls(replace(cell, hosts=places.astype(np.int64)), rows)

    def of_keys(self, keys: Sequence[int]) -> CellPart:
        """The part's injections with these keys, in their order."""
        place = {key: number for number, key in enumerate(self.cell.keys.tolist())}
        chosen = np.asarray([place[key] for key in keys], np.int64)
        return replace(self, cell=replace(self.cell, hosts=self.cell.hosts[chosen], keys=self.cell.keys[chosen]))


@dataclass(frozen=True)
class Injected:
    """A batch of injections.

    Attributes
    ----------
    host, with_arc, scrambled
        (n, H, W, 3) stamps as stored, on the device.
    record
        n rows of draws and brightness.
    """

    host: torch.Tensor
    with_arc: torch.Tensor
    scrambled: torch.Tensor
    record: pd.DataFrame


class Injector:
    """A network on a device that is shown the injections of cells; Ray starts one per device, or this process is the only one."""

    def __init__(self, task: Assignment) -> None:
        self._config = SelectionConfig.model_validate(task.config)
        use_threads(self._config.execution.threads)
        self.scorer: Scorer = load_scorer(
            task.run, self._config.checkpoint, choose_device(self._config.execution.device)
        )
        self._output = task.output
        self._stamps: dict[int, Stamps] = {}
        self._bin: tuple[int, int] | None = None
        if self._config.precision == "bf16":
            full_precision_head(self.scorer.model)

    def score(self, part: CellPart, floor: float) -> dict[str, Any]:
        """Make and score a cell's injections and write its file; returns figures for the report."""
        started = time.perf_counter()
        rows = []
        with torch.inference_mode():
            for batch in self.batches(part):
                logits = {name: self.logits(stamps) for name, stamps in (
                    ("logit_host", batch.host), ("logit", batch.with_arc), ("logit_scrambled", batch.scrambled),
                )}  # fmt: skip
                rows.append(batch.record.assign(**logits))
        frame = pd.concat(rows, ignore_index=True).assign(run_id=self.scorer.run.run_id)
        bad = ~np.isfinite(frame[["logit_host", "logit", "logit_scrambled"]].to_numpy()).all(axis=1)
        if bad.any():
            raise InputError(
                f"Run {self.scorer.run.run_id} gives no number for {bad.sum()} of {len(frame)} injections of cell {part.index}, "
                f"the first on host {frame['source_id'][bad.argmax()]}; look at its stamp."
            )
        write_part(_table(frame), cell_file(self._output, part.index))
        return {"index": part.index, "rows": len(frame), "seconds": time.perf_counter() - started}

    def batches(self, part: CellPart) -> Iterator[Injected]:
        """The part's injections, a batch at a time, in their order."""
        config, cell = self._config, part.cell
        stamps, hosts = self._stamps_of(part), host_frame(part.hosts)
        for start in range(0, len(cell.keys), config.batch):
            here = slice(start, start + config.batch)
            some = replace(cell, hosts=cell.hosts[here], keys=cell.keys[here])
            rows = hosts.iloc[some.hosts].reset_index(drop=True)
            shown = stamps[some.hosts]
            made = make_arcs(some, shown, rows, config, pixscale_of(part.hosts), self.scorer.device)
            stored = torch.from_numpy(shown).to(self.scorer.device)
            turned = scramble(made.images, torch.from_numpy(some.keys).to(self.scorer.device))
            yield Injected(stored, added(stored, made.images), added(stored, turned), _record(made.record, rows, some))

    def features(self, stored: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
        """What the network's last layer sees of stamps (n, H, W, C): (n, features)."""
        with torch.inference_mode():
            return last_features(self.scorer.model, self._input(stored)).float().cpu().numpy()

    def logits(self, stored: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Logits (n,) of stamps (n, H, W, C)."""
        on = self._config.precision == "bf16"
        with torch.inference_mode(), torch.autocast(self.scorer.device.type, torch.bfloat16, enabled=on):
            return mean_logit(self.scorer.model, self._input(stored), self._config.views).float().cpu().numpy()

    def _input(self, stored: torch.Tensor) -> torch.Tensor:
        recipe = self.scorer.images(layout_of(stored, self.scorer))
        return recipe.prepare(stored).float().contiguous(memory_format=torch.channels_last)

    def _stamps_of(self, part: CellPart) -> Stamps:
        """Stamps of the part's hosts; those of its bin stay in memory, because its other cells have the same hosts."""
        here = (part.cell.psf_bin, part.cell.depth_bin)
        if here != self._bin:
            self._stamps, self._bin = {}, here
        ids = part.hosts.column("cutout_id").astype(np.int64)
        missing = np.array([key not in self._stamps for key in ids.tolist()])
        if missing.any():
            absent = part.hosts.where(missing)
            self._stamps |= dict(zip(ids[missing].tolist(), absent.stamps(), strict=True))
        return np.stack([self._stamps[key] for key in ids.tolist()])


def layout_of(stored: torch.Tensor, scorer: Scorer) -> ImageLayout:
    """Layout of stamps in memory; bands and unit are those that `check_fit` has compared."""
    bands = tuple(scorer.network["bands"])
    return ImageLayout(shape=tuple(stored.shape[1:]), dtype="float32", bands=bands, unit=scorer.network["unit"])  # type: ignore[arg-type]


def pixscale_of(manifest: Manifest) -> float:
    """Size of its stamps' pixels, arcsec."""
    return float(manifest.layout().pixscale_arcsec or PIXEL_SCALE)


def cell_file(output: str, index: int) -> str:
    """File of a cell."""
    return storage.join(output, "dataset", f"part-{index:05d}.parquet")


def _record(drawn: pd.DataFrame, hosts: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    known = [name for name in tables.INJECTION_SCORES.names if name in hosts and name not in drawn]
    return drawn.assign(
        **{name: hosts[name].to_numpy() for name in known},
        depth_r=depth_magnitude(hosts["psfdepth_r"]), brightness_node=cell.brightness,
    )  # fmt: skip


def _table(frame: pd.DataFrame) -> pa.Table:
    columns = {
        column.name: pa.Array.from_pandas(frame[column.name], type=column.type)
        if column.name in frame
        else pa.nulls(len(frame), column.type)
        for column in tables.INJECTION_SCORES.columns
    }
    return tables.validate(pa.table(columns), tables.INJECTION_SCORES, "injections")
