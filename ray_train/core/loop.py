"""The training loop: epochs of windows, validation, a checkpoint (R-T1 to R-T6). It knows no Ray.

Where it runs, where checkpoints go and who listens is the business of a `RunContext`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ray_train.core import metrics, state
from ray_train.core.augment import augment
from ray_train.core.averaging import WeightAverage
from ray_train.core.data import StampSource, StampTable
from ray_train.core.epoch import EpochLog, Record, TrainingError
from ray_train.core.models import stem_of
from ray_train.core.optimizer import build_optimizer, load_optimizer, set_lr
from ray_train.core.order import EpochOrder, epoch_order, micro_batches
from ray_train.core.predict import predict
from ray_train.core.recipe import Recipe, best_epoch, should_stop
from ray_train.core.window import MicroBatch, Stepper

log = logging.getLogger(__name__)

__all__ = ["Record", "RunContext", "Trainer", "TrainingError", "fit", "train_epoch", "validate"]


class RunContext(Protocol):
    """What the loop needs to know of its surroundings."""

    rank: int
    world: int
    device: torch.device

    def records(self) -> list[Record]:
        """Records of the epochs that are done, from 0."""
        ...

    def last_checkpoint(self) -> bytes | None:
        """The checkpoint of the latest of them."""
        ...

    def partial_checkpoint(self) -> bytes | None:
        """A checkpoint inside the epoch after them."""
        ...

    def keep_partial(self, checkpoint: bytes) -> None:
        """Keep such a checkpoint in place of the one before; worker 0 calls it."""
        ...

    def epoch_done(self, records: list[Record], checkpoint: bytes | None) -> None:
        """Keep the latest record and checkpoint (worker 0 has one); called by all workers, once per epoch."""
        ...


class Observer(Protocol):
    """Adds figures to the records; all workers ask it alike."""

    def before(self, epoch: int) -> Record:
        """Figures of what the network will see in an epoch."""
        ...

    def after(self, epoch: int, model: nn.Module, logits: np.ndarray[Any, np.dtype[np.float32]]) -> Record:
        """Figures of the network that is judged, given its validation logits."""
        ...


@dataclass
class Trainer:
    """A run in progress."""

    recipe: Recipe
    model: nn.Module
    train: StampSource
    val: StampSource
    context: RunContext
    stepper: Stepper
    average: WeightAverage | None
    network: dict[str, Any]

    @property
    def judged(self) -> nn.Module:
        """The network that is validated and scored with."""
        return self.model if self.average is None else self.average.model


def fit(
    recipe: Recipe,
    model: nn.Module,
    train: StampSource,
    val: StampSource,
    context: RunContext,
    network: dict[str, Any],
    observer: Observer | None = None,
) -> list[Record]:
    """Train, from the start or from where the run was interrupted.

    Parameters
    ----------
    model
        Freshly built, with the same weights on all workers.
    train, val
        The two splits.
    network
        Name and options of the network, kept in the checkpoint.
    observer
        Adds figures to the records.

    Returns
    -------
    list of dict
        One record per epoch; `model` has the weights of the last.
    """
    trainer = _prepare(recipe, model, train, val, context, network)
    records = context.records()
    progress = _restore(trainer, records)
    while len(records) < recipe.epochs and not _stops(recipe, records):
        epoch = len(records)
        seen = observer.before(epoch) if observer else {}
        record = train_epoch(trainer, epoch, progress) | seen
        figures, logits = validate(trainer)
        record |= figures | (observer.after(epoch, trainer.judged, logits) if observer else {})
        progress = None
        record["best"] = best_epoch([*records, record], recipe.best_monitor) == epoch
        records.append(record)
        context.epoch_done(records, _checkpoint(trainer, epoch) if context.rank == 0 else None)
    return records


def train_epoch(trainer: Trainer, epoch: int, progress: dict[str, Any] | None = None) -> Record:
    """One pass over the training split, or what is left of it; returns its part of the record."""
    recipe, context, table = trainer.recipe, trainer.context, trainer.train.table
    lr = recipe.schedule.rate(epoch, recipe.lr, recipe.epochs)
    set_lr(trainer.stepper.optimizer, lr)
    order = epoch_order(table.group_sizes, seed=recipe.seed, epoch=epoch, shuffle_rows=recipe.shuffle_rows)
    steps = micro_batches(
        len(table),
        micro_batch=recipe.micro_batch,
        accumulation=recipe.accumulation,
        drop_last=recipe.drop_last,
        rank=context.rank,
        world=context.world,
    )
    weights = _loss_weights(recipe, table)[order.rows]
    done = EpochLog(recipe, table, order, epoch, context.world, context.device)
    first = 0
    if progress is not None:
        done.resume(progress, context.rank)
        first = int(progress["step"])
    micro = _micro(trainer, epoch, order, [piece for step in steps[first:] for piece in step], done)
    trainer.model.train()
    for index, step in enumerate(steps[first:], start=first):
        state.seed_generators(recipe.seed, epoch, index, context.rank)
        window = slice(index * recipe.window_rows, (index + 1) * recipe.window_rows)
        window_weight = float(weights[window].sum(dtype=np.float64))
        freeze_stem = epoch < recipe.frozen_stem_epochs
        result = trainer.stepper.step(islice(micro, len(step)), len(step), window_weight, freeze_stem=freeze_stem)
        if trainer.average is not None:
            trainer.average.update(trainer.model)
        done.add(result, window_weight, rows=sum(stop - start for start, stop in step))
        if recipe.every_steps and (index + 1) % recipe.every_steps == 0 and index + 1 < len(steps):
            so_far = done.progress()
            _share_statistics(trainer)  # whoever goes on from here has those of worker 0 everywhere
            if context.rank == 0:
                context.keep_partial(_checkpoint(trainer, epoch, so_far))
    return done.record(lr)


def validate(trainer: Trainer) -> tuple[Record, np.ndarray[Any, np.dtype[np.float32]]]:
    """Every validation stamp once; its part of the record, and the logits."""
    started = time.perf_counter()
    _share_statistics(trainer)
    table = trainer.val.table
    logits = predict(
        trainer.judged,
        trainer.val,
        batch=trainer.recipe.evaluation_batch,
        device=trainer.context.device,
        rank=trainer.context.rank,
        world=trainer.context.world,
    )
    negative, positive = metrics.class_accuracy(table.labels, logits)
    return {
        "val_loss": metrics.cross_entropy(table.labels, logits, _loss_weights(trainer.recipe, table)),
        "val_auc": metrics.auc(table.labels, logits),
        "val_accuracy_negative": negative,
        "val_accuracy_positive": positive,
        "val_seconds": time.perf_counter() - started,
    }, logits


def _prepare(
    recipe: Recipe, model: nn.Module, train: StampSource, val: StampSource, context: RunContext, network: dict[str, Any]
) -> Trainer:
    model.to(context.device, memory_format=torch.channels_last)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    optimizer = build_optimizer(
        model, recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=recipe.momentum
    )
    # Views and weights are of the same tensors: `model` stays the network that is saved and judged.
    wrapped: nn.Module = model if recipe.compile == "none" else torch.compile(model, mode=recipe.compile)
    if context.world > 1:  # statistics of BatchNorm are shared once per epoch, before validation
        wrapped = DistributedDataParallel(wrapped, broadcast_buffers=False, gradient_as_bucket_view=True)
    stepper = Stepper(
        model=wrapped, stem=model.get_submodule(stem_of(model)), optimizer=optimizer,
        scaler=torch.amp.GradScaler(context.device.type, enabled=recipe.precision == "fp16"),
        world=context.world, precision=recipe.precision, clip_norm=recipe.clip_norm,
        blank=_blank(train, next(model.parameters()).dtype),
    )  # fmt: skip
    average = WeightAverage(model, recipe.averaging) if recipe.averaging else None
    return Trainer(recipe, model, train, val, context, stepper, average, network)


def _blank(source: StampSource, dtype: torch.dtype) -> torch.Tensor:
    first = next(iter(source.batches(source.table.in_order(), [(0, 1)])))
    return torch.zeros_like(first, dtype=dtype)


def _restore(trainer: Trainer, records: list[Record]) -> dict[str, Any] | None:
    """Go back to the latest checkpoint; returns how far it is inside an epoch."""
    data = trainer.context.last_checkpoint() if records else None
    saved = load_partial(trainer.context)
    if saved is None or saved["epoch"] != len(records):  # left from an epoch that was finished
        if data is None:
            return None
        saved = state.load(data, trainer.context.device)
        if saved["epoch"] != records[-1]["epoch"]:
            raise state.CheckpointError(
                f"the checkpoint is of epoch {saved['epoch']}, the record of {records[-1]['epoch']}"
            )
    trainer.model.load_state_dict(saved["model"])
    load_optimizer(trainer.stepper.optimizer, saved["optimizer"])
    trainer.stepper.scaler.load_state_dict(saved["scaler"])
    if trainer.average is not None:
        trainer.average.load(saved["averaged"])
    progress: dict[str, Any] | None = saved["progress"]
    log.info("resumed epoch=%d step=%d", len(records), progress["step"] if progress else 0)
    return progress


def load_partial(context: RunContext) -> dict[str, Any] | None:
    """The checkpoint inside an epoch; None if there is none, or it cannot be read: then the epoch is begun again."""
    data = context.partial_checkpoint()
    try:
        return state.load(data, context.device) if data is not None else None
    except state.CheckpointError as error:
        log.warning("checkpoint inside an epoch is left out reason=%r", str(error))
        return None


def _checkpoint(trainer: Trainer, epoch: int, progress: dict[str, Any] | None = None) -> bytes:
    stepper = trainer.stepper
    return state.dump(
        epoch=epoch,
        seed=trainer.recipe.seed,
        model=trainer.model,
        averaged=trainer.average.state() if trainer.average is not None else None,
        optimizer=stepper.optimizer,
        scaler=stepper.scaler,
        recipe=trainer.recipe.values(),
        network=trainer.network,
        progress=progress,
    )


def _stops(recipe: Recipe, records: list[Record]) -> bool:
    stops = should_stop(records, patience=recipe.patience, min_delta=recipe.min_delta, monitor=recipe.stop_monitor)
    if stops:
        log.info(
            "stopped early epoch=%d monitor=%s patience=%d", len(records) - 1, recipe.stop_monitor, recipe.patience
        )
    return stops


def _micro(
    trainer: Trainer, epoch: int, order: EpochOrder, slices: list[tuple[int, int]], done: EpochLog
) -> Iterator[MicroBatch]:
    """This worker's micro-batches of an epoch: augmented stamps, smoothed labels, weights."""
    recipe, table, device = trainer.recipe, trainer.train.table, trainer.context.device
    dtype = next(trainer.model.parameters()).dtype
    rows = torch.from_numpy(order.rows).to(device)
    ids = torch.from_numpy(table.cutout_ids).to(device)
    targets = torch.from_numpy(table.labels).to(device, dtype)
    targets = targets * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2
    weights = torch.from_numpy(_loss_weights(recipe, table)).to(device, dtype)
    for (start, stop), images in zip(slices, done.waiting(trainer.train.batches(order, slices)), strict=True):
        index = rows[start:stop]
        view = augment(images, recipe.views, seed=recipe.seed, epoch=epoch, cutout_ids=ids[index], indices=index)
        yield MicroBatch(view.to(dtype).contiguous(memory_format=torch.channels_last), targets[index], weights[index])


def _loss_weights(recipe: Recipe, table: StampTable) -> np.ndarray[Any, np.dtype[np.float32]]:
    return table.weights if recipe.weighted else np.ones(len(table), np.float32)


def _share_statistics(trainer: Trainer) -> None:
    """The workers' mean of BatchNorm's statistics: each saw only its own micro-batches."""
    world = trainer.context.world
    networks = [trainer.model] if trainer.average is None else [trainer.model, trainer.average.model]
    for buffer in (buffer for network in networks if world > 1 for buffer in network.buffers()):
        if buffer.is_floating_point():
            distributed.all_reduce(buffer)
            buffer /= world
        else:
            distributed.broadcast(buffer, src=0)
