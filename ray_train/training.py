"""One training run, worker side and driver side, whatever runs it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lensdata import storage, tables
from lensdata.config.training import TrainingConfig
from lensdata.errors import InputError
from lensdata.hashing import second_key, splitmix64
from lensdata.shards.layout import ImageLayout
from lensdata.shards.manifests import SPLITS, Manifest, read_manifest, require_classes
from lensdata.shards.sync import near
from lensdata.steps import JobFailed
from ray_train.context import LocalContext
from ray_train.core import state
from ray_train.core.augment import Affine, MaskStage, Views
from ray_train.core.data import DataError, ResidentStamps, StampSource
from ray_train.core.images import ImageRecipe, Statistics
from ray_train.core.loop import TrainingError, fit, load_partial
from ray_train.core.memory import NoRoomError, StepNeed, require_room, step_need
from ray_train.core.predict import predict
from ray_train.core.recipe import Recipe
from ray_train.core.schedule import Schedule
from ray_train.diagnostics import Diagnosis
from ray_train.networks import (
    build_network,
    network_of,
    read_weights,
    require_forward,
    require_one_stamp,
    statistics_in,
)
from ray_train.run_folder import RunFolder
from ray_train.stamps import (
    cache_folder,
    check_images,
    local_folder,
    prepared_bytes,
    residency_for,
    stamp_source,
    stamp_table,
    statistics_of,
)
from ray_train.trackers import check_trackers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a worker needs to know; plain values, so that it travels (and shows in Ray's dashboard)."""

    config: dict[str, Any]
    manifest: str
    output: str
    init_from: str | None
    test_limit: int | None


def recipe_of(config: TrainingConfig) -> Recipe:
    """The loop's own form of a configuration."""
    return Recipe(
        seed=config.seed, epochs=config.epochs, views=views_of(config), shuffle_rows=config.data.shuffle_rows,
        micro_batch=config.batch.micro_batch, accumulation=config.batch.accumulation,
        drop_last=config.batch.drop_last, evaluation_batch=config.batch.evaluation, optimizer=config.optimizer.name,
        lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay, momentum=config.optimizer.momentum,
        schedule=Schedule(**config.schedule.model_dump()), weighted=config.loss.weighted,
        label_smoothing=config.loss.label_smoothing, clip_norm=config.loss.clip_norm, precision=config.precision,
        frozen_stem_epochs=config.model.frozen_stem_epochs, patience=config.early_stopping.patience,
        min_delta=config.early_stopping.min_delta, stop_monitor=config.early_stopping.monitor,
        best_monitor=config.checkpoints.monitor, keep_every=config.checkpoints.keep_every,
        averaging=config.model.averaging, every_steps=config.checkpoints.every_steps, compile=config.execution.compile,
    )  # fmt: skip


def views_of(config: TrainingConfig) -> Views:
    """What training shows of a stamp."""
    images = config.images
    return Views(
        view=images.augment,
        affine=Affine(**images.affine.model_dump()),
        masking=tuple(MaskStage(**stage.model_dump()) for stage in images.masking),
    )


def image_recipe(config: TrainingConfig, layout: ImageLayout, statistics: Statistics | None = None) -> ImageRecipe:
    """How stamps become network input.

    Raises
    ------
    InputError
        A band is not in the stamps, or the recipe does not fit them.
    """
    wanted, planes = config.images.bands, None
    if wanted is not None:
        absent = [band for band in wanted if band not in layout.bands]
        if absent or not wanted:
            raise InputError(
                f"images.bands asks for {', '.join(absent) or 'none'}; the stamps have {', '.join(layout.bands)}."
            )
        planes = tuple(layout.bands.index(band) for band in wanted)
    recipe = ImageRecipe(
        normalisation=config.images.normalisation,
        crop=config.images.crop,
        dtype=config.images.dtype,
        planes=planes,
        statistics=statistics,
    )
    check_images(recipe, layout)
    return recipe


def training_manifest(config: TrainingConfig, uri: str, test_limit: int | None) -> Manifest:
    """The manifest with the splits that this run uses.

    Raises
    ------
    InputError
        A class is missing from train or val, or the fold asked for does not exist.
    """
    manifest = read_manifest(uri)
    if config.data.held_out_fold is not None:
        manifest = hold_out_fold(manifest, config.data.held_out_fold, with_test=config.data.hold_out_test)
    if config.data.split == "random":
        manifest = deal_out(manifest, config.seed)
    if config.data.negatives == "bootstrap":
        manifest = bootstrap_negatives(manifest, config.seed)
    if test_limit is not None:
        manifest = manifest.head(test_limit)
    require_classes(manifest, ("train", "val"))
    return manifest


def hold_out_fold(manifest: Manifest, fold: int, *, with_test: bool = False) -> Manifest:
    """Splits by fold: this one tests, the next one validates, the others train (R-N2); ``with_test``: old test rows test, too."""
    if "fold" not in manifest.table.column_names or manifest.table["fold"].null_count:
        raise InputError(f"Manifest {manifest.uri} has no complete column 'fold', so none can be held out.")
    folds = manifest.column("fold").astype(np.int64)
    known = np.unique(folds)
    if fold not in known or len(known) < 3:
        raise InputError(
            f"data.held_out_fold {fold}: manifest {manifest.uri} has folds {known.tolist()}; 3 are needed."
        )
    following = known[(np.searchsorted(known, fold) + 1) % len(known)]
    kept_apart = (manifest.column("split").astype(str) == "test") & with_test
    split = np.where((folds == fold) | kept_apart, "test", np.where(folds == following, "val", "train"))
    index = manifest.table.column_names.index("split")
    return Manifest(manifest.uri, manifest.table.set_column(index, "split", pa.array(split)))


def bootstrap_negatives(manifest: Manifest, seed: int) -> Manifest:
    """The distinct training negatives of a bootstrap sample: each stays with probability 1 - 1/e, by keyed hash."""
    key = second_key(manifest.column("cutout_id").astype(np.int64), seed, "bootstrap negatives")
    left_out = key.view(np.uint64).astype(np.float64) / 2.0**64 >= 1 - np.exp(-1)
    drawn_from = (manifest.column("split").astype(str) == "train") & (manifest.column("label") == 0)
    return manifest.where(~(drawn_from & left_out))


def deal_out(manifest: Manifest, seed: int) -> Manifest:
    """Rows of train and val dealt out anew by keyed hash, with the same numbers of either class; test stays (R-T10)."""
    split, label = manifest.column("split").astype(str), manifest.column("label")
    key = splitmix64(manifest.column("cutout_id").astype(np.int64).view(np.uint64) ^ splitmix64(np.uint64(seed)))
    dealt = split.copy()
    for value in np.unique(label):
        rows = np.flatnonzero((split != "test") & (label == value))
        rows = rows[np.argsort(key[rows])]
        validating = int(np.sum(split[rows] == "val"))
        dealt[rows[:validating]], dealt[rows[validating:]] = "val", "train"
    index = manifest.table.column_names.index("split")
    return Manifest(manifest.uri, manifest.table.set_column(index, "split", pa.array(dealt)))


def check_plan(plan: Plan) -> dict[str, Any]:
    """Everything that can be wrong before a worker starts; returns facts for `run_info.json`.

    Raises
    ------
    InputError
        Manifest, images, network or weights do not fit together.
    """
    config = TrainingConfig.model_validate(plan.config)
    manifest = training_manifest(config, plan.manifest, plan.test_limit)
    layout = manifest.layout()
    check_trackers(config.trackers)
    images, network = image_recipe(config, layout), network_of(config, layout)
    folder = RunFolder(plan.output)
    model = build_network(network, None if begun(folder) else read_weights(config, plan.init_from))
    shape = (network["in_channels"], *images.prepared_shape(layout.shape)[:2])
    require_forward(model, config.model.arch, shape)
    for stage in config.images.masking:
        if 2 * stage.radius > min(shape[1:]):
            raise InputError(
                f"images.masking hides all of the stamp: radius {stage.radius:g} at {shape[1]} x {shape[2]} pixels."
            )
    counts = {
        split: {"rows": len(part), "positive": int(part.column("label").sum())}
        for split in SPLITS
        if len(part := manifest.split(split))
    }
    window = config.batch.micro_batch * config.batch.accumulation
    rows = counts["train"]["rows"]
    if not config.batch.drop_last and rows % window % config.batch.micro_batch == 1:
        require_one_stamp(model, config.batch.micro_batch, shape)
    if config.batch.drop_last and rows < window:
        raise InputError(f"batch.drop_last leaves nothing: {rows} training rows, windows of {window}.")
    return {
        "splits": counts,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "images": {
            "shape": list(layout.shape),
            "dtype": layout.dtype,
            "bands": list(layout.bands),
            "unit": layout.unit,
        },
    }


def run_training(plan: Plan, context: LocalContext) -> None:
    """Train and score with the best checkpoint; every worker runs this.

    Raises
    ------
    InputError
        The configuration does not suit the stamps or the machine.
    JobFailed
        Training stopped for a reason that a restart would meet again.
    """
    try:
        _train_and_score(plan, context)
    except NoRoomError as error:
        raise InputError(f"{error}.") from error
    except (TrainingError, DataError, state.CheckpointError) as error:
        raise JobFailed(str(error)) from error


def _train_and_score(plan: Plan, context: LocalContext) -> None:
    config = TrainingConfig.model_validate(plan.config)
    manifest = training_manifest(config, plan.manifest, plan.test_limit)
    if config.execution.shard_cache is not None:
        manifest = near(manifest, local_folder("execution.shard_cache", config.execution.shard_cache))
    layout, device = manifest.layout(), context.device
    network = network_of(config, layout)
    images = image_recipe(config, layout)
    context.require_health(context.records())
    cache = cache_folder(config.execution.cache, context.folder.uri)
    torch.manual_seed(config.seed)
    model = build_network(network, None if begun(context.folder) else read_weights(config, plan.init_from))
    need = step_need(
        model.to(device), in_channels=network["in_channels"], size=images.prepared_shape(layout.shape)[0],
        micro_batch=config.batch.micro_batch, precision=config.precision, device=device,
    )  # fmt: skip
    images = _with_statistics(images, network, manifest, layout, context)
    sources = _sources(config, manifest, layout, images, need, context, cache)
    diagnosis = Diagnosis(
        recipe=context.recipe, train=sources["train"], val=sources["val"], rows=manifest.split("val"),
        groups=pixels_of(manifest.split("train")), pairs=pairs_of(config.images.bands or layout.bands), device=device,
        rank=context.rank, world=context.world,
    )  # fmt: skip
    fit(context.recipe, model, sources["train"], sources["val"], context, network, diagnosis)
    best = state.load(context.folder.checkpoint("best"), device)
    model.load_state_dict(state.weights(best))
    for split, source in sources.items():
        logits = predict(
            model, source, batch=config.batch.evaluation, device=device, rank=context.rank, world=context.world
        )
        if context.rank == 0:
            scores = score_table(manifest.split(split), logits, config, context.folder.run_id)
            write_part(scores, context.folder.path("scores", "dataset", f"{split}.parquet"))
    if config.execution.cache is None and context.local_rank == 0:
        shutil.rmtree(cache, ignore_errors=True)


def _sources(
    config: TrainingConfig,
    manifest: Manifest,
    layout: ImageLayout,
    images: ImageRecipe,
    need: StepNeed,
    context: LocalContext,
    cache: Path,
) -> dict[str, StampSource]:
    """Stamps of each split, from where they wait; lent ones if there is a lender and nothing else is asked for."""
    device, wanted = context.device, config.execution.residency
    parts = {split: part for split in SPLITS if len(part := manifest.split(split))}
    lent = None
    if context.lender is not None and wanted in ("auto", "device"):
        lent = context.lender.borrow(manifest, layout, images, need)
    if lent is None:
        residency = residency_for(wanted, manifest, layout, images, device, cache, need, workers=context.local_world)
        taken = prepared_bytes(len(manifest), layout, images) if residency == "device" else 0
        require_room(need, device, taken=taken)
    context.facts = {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "workers": context.world,
        "residency": "shared" if lent is not None else residency,
    }
    if lent is not None:
        return {split: ResidentStamps.of(stamp_table(part)[0], lent[split]) for split, part in parts.items()}
    return {split: stamp_source(part, layout, images, device, residency, cache) for split, part in parts.items()}


def begun(folder: RunFolder) -> bool:
    """Whether a run has a checkpoint to go on from; its first weights do not matter any more."""
    return bool(folder.records()) or folder.partial() is not None


def pairs_of(bands: Sequence[str]) -> list[tuple[int, int]]:
    """Planes that are a stamp and its control: g and g_ctrl.

    >>> pairs_of(("g", "r", "g_ctrl", "r_ctrl"))
    [(0, 2), (1, 3)]
    """
    return [(place, bands.index(f"{band}_ctrl")) for place, band in enumerate(bands) if f"{band}_ctrl" in bands]


def pixels_of(manifest: Manifest) -> np.ndarray[Any, np.dtype[np.int64]] | None:
    """HEALPix pixels of the rows, if the manifest knows them all."""
    if "healpix_128" not in manifest.table.column_names or manifest.table["healpix_128"].null_count:
        return None
    return manifest.column("healpix_128").astype(np.int64)


def _with_statistics(
    images: ImageRecipe, network: dict[str, Any], manifest: Manifest, layout: ImageLayout, context: LocalContext
) -> ImageRecipe:
    """The recipe with the figures it needs, which are kept with the network too."""
    if not images.needs_statistics:
        return images
    last = context.last_checkpoint() if context.records() else None
    saved = load_partial(context) if last is None else state.load(last)
    found = None if saved is None else statistics_in(saved["network"])
    found = found or statistics_of(manifest.split("train"), layout, images)
    network["statistics"] = {"mean": found.mean, "sigma": found.sigma}
    return replace(images, statistics=found)


def score_table(manifest: Manifest, logits: np.ndarray[Any, Any], config: TrainingConfig, run_id: str) -> pa.Table:
    """Scores in their declared columns (R-T6)."""
    rows, count = manifest.table, len(manifest)
    z = logits.astype(np.float32)
    columns = {
        "run_id": pa.array([run_id] * count, pa.string()),
        "model": pa.array([config.model.arch] * count, pa.string()),
        "fold": pa.array([config.data.held_out_fold] * count, pa.int8()),
        "logit": pa.array(z),
        "score": pa.array((1.0 / (1.0 + np.exp(-z.astype(np.float64)))).astype(np.float32)),
        "tier": rows["tier"] if "tier" in rows.column_names else pa.nulls(count, pa.string()),
    }
    columns |= {name: rows[name] for name in ("cutout_id", "split", "label", "sample_weight")}
    return tables.validate(pa.table(columns), tables.SCORES, manifest.uri)


def write_part(rows: pa.Table, uri: str) -> None:
    """Write a part of a table, atomically."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    storage.write_bytes(uri, sink.getvalue().to_pybytes())
