"""Score every stamp of a manifest with a checkpoint of a run.

    python -m ray_train.score --output scores/field inputs.manifest=manifests/field inputs.run=runs/demo

The output is a table of scores, written in parts; a restart makes the parts that are missing.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from lensdata import jobs, steps, storage, tables
from lensdata.config.base import load_config
from lensdata.config.training import ScoreConfig, TrainingConfig
from lensdata.errors import InputError
from lensdata.shards.layout import ImageLayout
from lensdata.shards.manifests import Manifest, read_manifest
from lensdata.steps import JobRun, Outcome
from ray_train.context import choose_device, use_threads
from ray_train.core import state
from ray_train.core.images import ImageRecipe
from ray_train.core.predict import predict
from ray_train.networks import build_network, statistics_in
from ray_train.run_folder import RunFolder
from ray_train.stamps import stamp_source
from ray_train.training import image_recipe, score_table, write_part

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; returns its exit code."""
    return steps.run_job(jobs.find("score"), score, sys.argv[1:] if argv is None else list(argv))


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

    def score(self, manifest: Manifest, batch: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Logits of a manifest's rows, in their order."""
        layout = manifest.layout()
        source = stamp_source(manifest, layout, self.images(layout), self.device, "stream")
        return predict(self.model, source, batch=batch, device=self.device)


def load_scorer(run_uri: str, checkpoint: str, device: torch.device) -> Scorer:
    """The network of a run with the weights of a checkpoint ("best", "last" or "epoch_NNN")."""
    run = RunFolder(run_uri)
    if not storage.exists(run.path("config.yaml")):
        raise InputError(f"Run {run_uri} has no config.yaml, so it is not a run folder.")
    config = _stored_config(run)
    saved = state.load(run.checkpoint(checkpoint), device)
    model = build_network(saved["network"]).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.load_state_dict(state.weights(saved))
    return Scorer(run, config, saved["network"], model.eval(), device)


def score(run: JobRun) -> Outcome:
    """Score the parts that are not there yet."""
    config: ScoreConfig = run.config
    manifest = read_manifest(run.inputs["manifest"])
    manifest = manifest.where(np.isin(manifest.column("split").astype(str), config.splits))
    if run.test_limit is not None:
        manifest = manifest.head(run.test_limit)
    if not len(manifest):
        raise InputError(f"Manifest {manifest.uri} has no rows in split {', '.join(config.splits)}.")
    use_threads(config.execution.threads)
    scorer = load_scorer(run.inputs["run"], config.checkpoint, choose_device(config.execution.device))
    check_fit(scorer, manifest.layout())
    todo = list(parts(manifest, config.part_rows))
    for index, part in enumerate(todo):
        address = run.path("dataset", f"part-{index:05d}.parquet")
        if not storage.exists(address):
            logits = scorer.score(part, config.batch)
            write_part(score_table(part, logits, scorer.config, scorer.run.run_id), address)
        steps.progress(index + 1, len(todo), "parts")
    rows, content = tables.content_hash(tables.iterate(run.output, check=False))
    return Outcome(rows=rows, content=content, report={"parts": len(todo), "checkpoint": config.checkpoint})


def parts(manifest: Manifest, part_rows: int) -> Iterator[Manifest]:
    """Runs of whole row groups of at least `part_rows` rows; the rows lie sorted by shard and row group."""
    shard, group = manifest.column("shard").astype(str), manifest.column("row_group")
    new_group = np.flatnonzero((shard[1:] != shard[:-1]) | (group[1:] != group[:-1])) + 1
    start = 0
    for end in [*new_group.tolist(), len(manifest)]:
        if end - start >= part_rows or end == len(manifest):
            yield Manifest(manifest.uri, manifest.table.slice(start, end - start))
            start = end


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

    values = yaml.safe_load(storage.read_bytes(run.path("config.yaml")))
    return load_config(TrainingConfig, None, values)


if __name__ == "__main__":
    sys.exit(main())
