"""What a scoring worker does: a part of the stamps at a time, each written as one file (R-N1, R-E9)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from lensdata import steps, storage, tables
from lensdata.audit.histogram import LogitHistogram
from lensdata.config.base import load_config
from lensdata.config.scoring import ScoreConfig
from lensdata.config.training import TrainingConfig
from lensdata.errors import InputError
from lensdata.shards.layout import ImageLayout
from lensdata.shards.manifests import Manifest
from lensdata.shards.reader import open_shard
from ray_train.context import choose_device, use_threads
from ray_train.core import state
from ray_train.core.images import ImageRecipe
from ray_train.core.predict import full_precision_head, predict
from ray_train.networks import build_network, statistics_in
from ray_train.run_folder import RunFolder
from ray_train.stamps import stamp_source
from ray_train.training import deal_out, hold_out_fold, image_recipe, score_table, write_part

log = logging.getLogger(__name__)

PARITY_STAMPS = 512  # of the first part, scored in 32 bits too


@dataclass(frozen=True)
class Scorer:
    """A trained network, ready to score."""

    run: RunFolder
    config: TrainingConfig
    network: dict[str, Any]
    model: nn.Module
    device: torch.device

    def images(self, layout: ImageLayout) -> ImageRecipe:
        """How stamps of this layout become the network's input."""
        return image_recipe(self.config, layout, statistics_in(self.network))

    def score(
        self, manifest: Manifest, batch: int, precision: str = "fp32", views: str = "one"
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Logits of a manifest's rows, in their order."""
        layout = manifest.layout()
        source = stamp_source(manifest, layout, self.images(layout), self.device, "stream")
        return predict(self.model, source, batch=batch, device=self.device, precision=precision, views=views)


def load_scorer(run_uri: str, checkpoint: str, device: torch.device) -> Scorer:
    """The network of a run with the weights of a checkpoint ("best", "last" or "epoch_NNN")."""
    run = RunFolder(run_uri)
    config = _stored_config(run)
    saved = state.load(run.checkpoint(checkpoint), device)
    model = build_network(saved["network"]).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.load_state_dict(state.weights(saved))
    return Scorer(run, config, saved["network"], model.eval(), device)


def as_trained(manifest: Manifest, run_uri: str) -> Manifest:
    """The manifest with the splits that a run makes of it: what it has learnt from is not to pass for unseen (R-T10, R-N2)."""
    run = RunFolder(run_uri)
    config = _stored_config(run)
    fold, columns = config.data.held_out_fold, manifest.table.column_names
    if fold is not None and "fold" in columns and not manifest.table["fold"].null_count:
        known = np.unique(manifest.column("fold"))
        if fold in known and len(known) >= 3:  # a fresh pool need not have them
            manifest = hold_out_fold(manifest, fold, with_test=config.data.hold_out_test)
    if config.data.split == "random":  # which rows that was depends on all of them
        trained_on = storage.read_json(run.path("run_info.json"))["manifest"]["content"]
        if trained_on == steps.input_identity(manifest.uri):
            manifest = deal_out(manifest, config.seed)
    return _as_scored(manifest, run.path("scores"))


def _as_scored(manifest: Manifest, scores: str) -> Manifest:
    """Rows that a finished run knows have the split that it used them in, also where another manifest deals them otherwise."""
    if not storage.exists(storage.join(scores, "_SUCCESS")):
        return manifest
    known = tables.read_table(scores, columns=["cutout_id", "split"]).sort_by("cutout_id")
    keys, ids = known["cutout_id"].to_numpy(), manifest.column("cutout_id").astype(np.int64)
    place = np.minimum(np.searchsorted(keys, ids), max(len(keys) - 1, 0))
    own = manifest.column("split").astype(str)
    split = np.where(keys[place] == ids, known["split"].to_numpy(zero_copy_only=False).astype(str)[place], own)
    if np.array_equal(split, own):
        return manifest
    index = manifest.table.column_names.index("split")
    return replace(manifest, table=manifest.table.set_column(index, "split", pa.array(split, pa.string())))


def check_fit(scorer: Scorer, layout: ImageLayout) -> None:
    """Refuse stamps of other bands or another unit than the run was trained on."""
    scorer.images(layout)
    trained = (tuple(scorer.network["bands"]), scorer.network["unit"])
    if trained != (layout.bands, layout.unit):
        raise InputError(
            f"The stamps have bands {', '.join(layout.bands)} in {layout.unit}, but run {scorer.run.run_id} was "
            f"trained on {', '.join(trained[0])} in {trained[1]}."
        )


def _stored_config(run: RunFolder) -> TrainingConfig:
    import yaml

    if not storage.exists(run.path("config.yaml")):
        raise InputError(f"Run {run.uri} has no config.yaml, so it is not a run folder.")
    values = yaml.safe_load(storage.read_bytes(run.path("config.yaml")))
    return load_config(TrainingConfig, None, values)


@dataclass(frozen=True)
class Part:
    """Stamps that are scored together and become one file.

    Attributes
    ----------
    index
        Its number, which names the file.
    uri
        The manifest that the rows are of, or the folder that the shard is in.
    rows
        Manifest rows; None: all stamps of ``shard``.
    shard
        A file, relative to the folder.
    """

    index: int
    uri: str
    rows: pa.Table | None = None
    shard: str | None = None

    def manifest(self) -> Manifest:
        """The rows as a manifest; a shard is opened and its keys are read."""
        if self.rows is not None:
            return Manifest(self.uri, self.rows)
        assert self.shard is not None
        return Manifest(self.uri, shard_rows(self.uri, self.shard))


def shard_rows(folder: str, shard: str) -> pa.Table:
    """Rows for every stamp of a shard, as a manifest has them: nothing is known of them but where they are."""
    opened = open_shard(storage.join(folder, shard), verify=False)
    pieces = []
    for group in range(opened.num_row_groups):
        keys = opened.read_rows(group, ["cutout_id"])["cutout_id"].combine_chunks()
        count = len(keys)
        pieces.append(pa.table({
            "cutout_id": keys, "shard": pa.array([shard] * count, pa.string()), "row_group": pa.array([group] * count, pa.int32()),
            "row": pa.array(range(count), pa.int32()), "label": pa.array([0] * count, pa.int8()),
            "sample_weight": pa.array([1.0] * count, pa.float32()), "split": pa.array(["test"] * count, pa.string()),
        }))  # fmt: skip
    if not pieces:
        raise InputError(f"Shard {storage.join(folder, shard)} has no stamps.")
    return pa.concat_tables(pieces)


def parts(manifest: Manifest, part_rows: int) -> Iterator[Manifest]:
    """Runs of whole row groups of at least `part_rows` rows; the rows lie sorted by shard and row group."""
    shard, group = manifest.column("shard").astype(str), manifest.column("row_group")
    new_group = np.flatnonzero((shard[1:] != shard[:-1]) | (group[1:] != group[:-1])) + 1
    start = 0
    for end in [*new_group.tolist(), len(manifest)]:
        if end - start >= part_rows or end == len(manifest):
            yield Manifest(manifest.uri, manifest.table.slice(start, end - start))
            start = end


@dataclass(frozen=True)
class Assignment:
    """What every worker is told; plain values, so that it travels."""

    run: str
    output: str
    config: dict[str, Any]


class Worker:
    """A network on a device that scores parts; Ray starts one per device, or this process is the only one."""

    def __init__(self, task: Assignment) -> None:
        self._config = ScoreConfig.model_validate(task.config)
        use_threads(self._config.execution.threads)
        self._scorer = load_scorer(task.run, self._config.checkpoint, choose_device(self._config.execution.device))
        self._output = task.output
        if self._config.precision == "bf16":
            full_precision_head(self._scorer.model)

    def score(self, part: Part, floor: float) -> dict[str, Any]:
        """Score a part and write its file; returns figures for the report.

        Parameters
        ----------
        floor
            With ``keep: top``, a logit that is known not to be among the highest of the survey: rows below it are left out.
        """
        started = time.perf_counter()
        config, manifest = self._config, part.manifest()
        check_fit(self._scorer, manifest.layout())
        survey = config.keep == "top"
        logits = self._scorer.score(manifest, config.batch, config.precision, "one" if survey else config.views)
        facts: dict[str, Any] = {"index": part.index, "rows": len(manifest)}
        if part.index == 0 and config.precision == "bf16":
            few = Manifest(manifest.uri, manifest.table.slice(0, PARITY_STAMPS))
            exact = self._scorer.score(few, config.batch, "fp32", "one" if survey else config.views)
            difference = float(np.abs(exact - logits[: len(few)]).max())
            storage.write_json(parity_file(self._output), {"largest_difference_of_bf16": difference})
        if survey:
            histogram = LogitHistogram.of(logits)
            # the rows come last: a part counts as done where they are there
            write_part(
                pa.table({"bin": histogram.bins, "count": histogram.counts}), histogram_file(self._output, part.index)
            )
            write_part(self._survey_rows(manifest, logits, floor), rows_file(self._output, part.index))
            facts["histogram"] = (histogram.bins, histogram.counts)
        else:
            rows = score_table(manifest, logits, self._scorer.config, self._scorer.run.run_id)
            write_part(rows, scores_file(self._output, part.index))
        return facts | {"seconds": time.perf_counter() - started}

    def pool(self, part: Part) -> tuple[list[int], list[float]]:
        """Mean logits over the eight views of a part's stamps: keys and logits."""
        manifest = part.manifest()
        logits = self._scorer.score(manifest, self._config.batch, self._config.precision, "d4")
        return manifest.table["cutout_id"].to_pylist(), logits.tolist()

    def _survey_rows(self, manifest: Manifest, logits: np.ndarray[Any, np.dtype[np.float32]], floor: float) -> pa.Table:
        # no more than top_k of one part can be among the top_k of all; one more tells whether a stamp lies in two shards
        keys = manifest.column("cutout_id")
        chosen = np.lexsort((keys, -logits))[: self._config.top_k + 1]
        chosen = np.sort(chosen[logits[chosen] >= floor])
        rows = manifest.table.take(pa.array(chosen))
        count = len(chosen)
        columns = {
            "run_id": pa.array([self._scorer.run.run_id] * count, pa.string()),
            "model": pa.array([self._scorer.config.model.arch] * count, pa.string()),
            "logit": pa.array(logits[chosen]),
            "pooled_logit": pa.nulls(count, pa.float32()),
        } | {name: rows[name] for name in ("cutout_id", "shard", "row_group", "row")}
        return tables.validate(pa.table(columns), tables.SURVEY_SCORES, manifest.uri)


def parity_file(output: str) -> str:
    """File that says by how much 16 bits moved the logits of the first stamps: a restart does not measure it again."""
    return storage.join(output, "parity.json")


def scores_file(output: str, index: int) -> str:
    """File of a part with ``keep: all``."""
    return storage.join(output, "dataset", f"part-{index:05d}.parquet")


def rows_file(output: str, index: int) -> str:
    """File of a part's highest rows with ``keep: top``."""
    return storage.join(output, "parts", f"rows-{index:06d}.parquet")


def histogram_file(output: str, index: int) -> str:
    """File of a part's histogram."""
    return storage.join(output, "parts", f"histogram-{index:06d}.parquet")
