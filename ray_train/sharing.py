"""One copy of prepared stamps in a device's memory, for all trials of a study that run on it (R-T8).

An actor holds the copy and hands out handles: CUDA's own between processes on a GPU, a file of shared memory on a CPU. Who
borrows maps the same memory. Stamps that nobody uses are given up when others need the room.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch.multiprocessing.reductions import reduce_tensor

from lensdata.shards.layout import ImageLayout
from lensdata.shards.manifests import SPLITS, Manifest
from ray_train.context import choose_device
from ray_train.core.data import ResidentStamps
from ray_train.core.images import ImageRecipe
from ray_train.core.memory import DEVICE_SHARE, HOST_SHARE, StepNeed, free_bytes
from ray_train.stamps import group_reader, prepared_bytes, prepared_file, stamp_table

log = logging.getLogger(__name__)

SHARED_MEMORY, SHARED_MEMORY_SHARE = Path("/dev/shm"), 0.8  # noqa: S108 - where torch puts what processes share on a CPU
GPU_SHARE = 0.05  # of a GPU that the holder reserves, so that Ray shows it the device; trials leave it free
Handles = dict[str, tuple[Any, tuple[Any, ...]]]


class Holder:
    """Keeps prepared stamps, and who uses them; one per device, made by `start_holders`.

    Parameters
    ----------
    device
        "cpu" or "cuda".
    borrowers
        Trials at once, each of which needs room to train in.
    """

    def __init__(self, device: str, borrowers: int) -> None:
        if device == "cpu":  # a name in shared memory needs no descriptor to be passed on
            torch.multiprocessing.set_sharing_strategy("file_system")
        self._device, self._borrowers = choose_device(device), borrowers
        self._held: dict[str, dict[str, torch.Tensor]] = {}
        self._users: dict[str, set[str]] = {}

    def lend(
        self, user: str, manifest: Manifest, layout: ImageLayout, images: ImageRecipe, need: StepNeed
    ) -> Handles | None:
        """Handles of the prepared stamps of each split; None where they do not fit."""
        parts = {split: part for split in SPLITS if len(part := manifest.split(split))}
        key = prepared_file(manifest, layout, images, self._device, Path()).name
        if key not in self._held:
            if not self._make_room(prepared_bytes(len(manifest), layout, images), need.total * self._borrowers):
                return None
            self._held[key] = {split: self._prepared(part, layout, images) for split, part in parts.items()}
        self._users.setdefault(key, set()).add(user)
        return {split: reduce_tensor(tensor) for split, tensor in self._held[key].items()}

    def give_back(self, user: str) -> None:
        """A trial has ended, in whatever way."""
        for users in self._users.values():
            users.discard(user)

    def held_bytes(self) -> int:
        """Memory of all copies."""
        return sum(tensor.nbytes for tensors in self._held.values() for tensor in tensors.values())

    def _make_room(self, wanted: int, training: int) -> bool:
        while not self._fits(wanted, training):
            unused = next((key for key in self._held if not self._users.get(key)), None)
            if unused is None:
                return False
            del self._held[unused]
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        return True

    def _fits(self, wanted: int, training: int) -> bool:
        free = free_bytes(self._device)
        if self._device.type == "cuda":
            return wanted <= min(DEVICE_SHARE * free, free - training)
        shared = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0  # containers give little
        return wanted <= min(HOST_SHARE * free, free - training, SHARED_MEMORY_SHARE * shared)

    def _prepared(self, part: Manifest, layout: ImageLayout, images: ImageRecipe) -> torch.Tensor:
        table, places = stamp_table(part)
        made = ResidentStamps(table, group_reader(places, layout), images, self._device).images_NHWC
        if made is None:
            raise ValueError("a split without stamps is not lent")
        return made.share_memory_()


@dataclass(frozen=True)
class ActorLender:
    """The holder as a run in another process of its machine sees it (see `ray_train.context.Lender`)."""

    actor: str
    user: str

    def borrow(
        self, manifest: Manifest, layout: ImageLayout, images: ImageRecipe, need: StepNeed
    ) -> dict[str, torch.Tensor] | None:
        """The prepared stamps of each split, or None where they do not fit: then the run keeps its own."""
        try:
            holder = ray.get_actor(self.actor)
            handles = ray.get(holder.lend.remote(self.user, manifest, layout, images, need))
        except (ray.exceptions.RayActorError, ValueError) as error:  # gone, or never there on this node
            log.warning("shared_stamps=none reason=%r", str(error))
            return None
        return None if handles is None else {split: rebuild(*values) for split, (rebuild, values) in handles.items()}


def holder_name(study: str, node_id: str) -> str:
    """The actor's name on a node."""
    return f"stamps-{study}-{node_id}"


def start_holders(study: str, *, gpus: bool, borrowers: int) -> list[Any]:
    """A holder on every node that trials may run on; none on nodes with several GPUs, whose trials keep their own copies."""
    made = []
    for node in ray.nodes():
        have = node["Resources"].get("GPU", 0)
        if not node["Alive"] or (gpus and have != 1):
            continue
        made.append(
            ray.remote(Holder)
            .options(
                name=holder_name(study, node["NodeID"]),
                num_cpus=0,
                num_gpus=GPU_SHARE if gpus else 0,
                max_restarts=-1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            .remote("cuda" if gpus else "cpu", borrowers)
        )
    return made
