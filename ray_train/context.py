"""Where the loop runs: in this process, or as a worker of Ray Train. Both keep their run in the run folder."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from lensdata import steps, storage
from lensdata.errors import InputError
from lensdata.shards.layout import ImageLayout
from lensdata.shards.manifests import Manifest
from ray_train.core import health
from ray_train.core.images import ImageRecipe
from ray_train.core.loop import Record, TrainingError
from ray_train.core.memory import StepNeed
from ray_train.core.recipe import Recipe
from ray_train.run_folder import RunFolder
from ray_train.trackers import Tracker

log = logging.getLogger(__name__)


class Lender(Protocol):
    """Holds prepared stamps in the device's memory for several runs."""

    def borrow(
        self, manifest: Manifest, layout: ImageLayout, images: ImageRecipe, need: StepNeed
    ) -> dict[str, torch.Tensor] | None:
        """Prepared stamps (N, h, w, C) of each split, which the borrower does not change; None where they do not fit."""
        ...


@dataclass
class LocalContext:
    """One worker, this process.

    `facts` say how a run was executed (device, threads, residency); they are added to every record.
    """

    folder: RunFolder
    recipe: Recipe
    device: torch.device
    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    fatal_health: bool = False
    trackers: list[Tracker] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    lender: Lender | None = None

    def records(self) -> list[Record]:
        """See `ray_train.core.loop.RunContext`."""
        return self.folder.records()

    def last_checkpoint(self) -> bytes | None:
        """See `ray_train.core.loop.RunContext`."""
        return self.folder.checkpoint("last")

    def partial_checkpoint(self) -> bytes | None:
        """See `ray_train.core.loop.RunContext`."""
        return self.folder.partial()

    def keep_partial(self, checkpoint: bytes) -> None:
        """See `ray_train.core.loop.RunContext`."""
        self.folder.save_partial(checkpoint)

    def epoch_done(self, records: list[Record], checkpoint: bytes | None) -> None:
        """Save the epoch, check its health, tell the trackers and the log."""
        record = records[-1]
        record.update(self.facts)
        checks = checks_of(records, self.recipe)
        if checkpoint is not None:
            # Health first: where the epoch counts as done, its health is there, too, if the run is killed in between.
            status = {"epoch": record["epoch"], "status": health.worst(checks), "checks": checks}
            storage.write_json(self.folder.path("health.json"), status)
            self.folder.save(records, checkpoint, monitor=self.recipe.best_monitor, keep_every=self.recipe.keep_every)
            tell(records, self.recipe)
        for tracker in self.trackers:
            tracker.epoch_done(records)
        self.require_health(records)

    def require_health(self, records: list[Record]) -> None:
        """End the run on a FAIL after the latest epoch, where that is wanted; also when it is resumed.

        Raises
        ------
        TrainingError
            Names the check; on every worker alike, from the same records.
        """
        checks = checks_of(records, self.recipe) if records and self.fatal_health else []
        failed = [check for check in checks if check["status"] == "FAIL"]
        if failed:
            raise TrainingError(
                f"health check {failed[0]['check']} failed: {failed[0]['message']} {failed[0]['value']:.4g} "
                "(health.fatal=false goes on)"
            )

    def close(self) -> None:
        """The run has come to its end."""
        for tracker in self.trackers:
            tracker.close()


@dataclass
class RayTrainContext(LocalContext):
    """A worker of Ray Train; Ray learns the figures, the files are the run folder's."""

    def epoch_done(self, records: list[Record], checkpoint: bytes | None) -> None:
        """As `LocalContext`, then report: a barrier, which every worker reaches once per epoch."""
        import ray.train

        super().epoch_done(records, checkpoint)
        ray.train.report(dict(records[-1]))


def choose_device(wanted: str) -> torch.device:
    """ "auto" takes a GPU where there is one; float32 products on it may use TF32."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError("execution.device=cuda, but torch sees no GPU on this machine; use device=auto or cpu.")
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.benchmark = True
    return torch.device("cuda")


def use_threads(wanted: int, workers_here: int = 1) -> int:
    """Set and return torch's threads: sums are bit-equal only at the same number (docs/architecture.md, 5.10)."""
    threads = wanted or max(1, (os.cpu_count() or 1) // workers_here)
    torch.set_num_threads(threads)
    return threads


def checks_of(records: list[Record], recipe: Recipe) -> list[health.Check]:
    """The health checks after the latest of these epochs."""
    return health.check_health(records, recipe.schedule.rate(records[-1]["epoch"], recipe.lr, recipe.epochs))


def tell(records: list[Record], recipe: Recipe) -> None:
    """Log the latest of these epochs, what is unhealthy about it, and the progress."""
    record = records[-1]
    log.info(
        "epoch=%d train_loss=%.4f val_loss=%.4f val_auc=%.4f lr=%.3g images_per_second=%.0f seconds=%.1f best=%s",
        record["epoch"], record["train_loss"], record["val_loss"], record["val_auc"], record["lr"],
        record["images_per_second"], record["seconds"], record["best"],
    )  # fmt: skip
    for check in checks_of(records, recipe):
        if check["status"] != "PASS":
            log.warning(
                "health=%s check=%s value=%.4g limit=%.4g",
                check["status"],
                check["check"],
                check["value"],
                check["limit"],
            )
    steps.progress(record["epoch"] + 1, recipe.epochs, "epochs")
