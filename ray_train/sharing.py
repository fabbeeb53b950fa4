"""One copy of prepared stamps in a GPU's memory, for all trials of a study that run on it (R-T8).

An actor holds the copy and hands out CUDA's handles of it; who borrows maps the same memory. Stamps that nobody uses are given up
when others need the room. On a CPU nothing of this is needed: residency `host` maps one file into all processes.
"""

from __future__ import annotations

import logging
import pickle
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lensdata.shards.layout import ImageLayout
from lensdata.shards.manifests import SPLITS, Manifest
from ray_train.context import choose_device
from ray_train.core.data import ResidentStamps
from ray_train.core.images import ImageRecipe
from ray_train.core.memory import DEVICE_SHARE, HOST_SHARE, StepNeed, free_bytes
from ray_train.stamps import group_reader, prepared_bytes, prepared_file, stamp_table

log = logging.getLogger(__name__)

GPU_SHARE = 0.05  # of a GPU that the holder reserves, so that Ray shows it the device; trials leave it free
Handles = dict[str, bytes]
"""By split: a tensor as torch hands it to another process, which is where its memory is, not what it holds."""


class Holder:
    """Keeps prepared stamps, and who uses them; one per device, made by `start_holders`.

    Parameters
    ----------
    device
        "cuda"; "cpu" is for tests: its memory is a file of shared memory, which nobody removes if the holder is killed.
    borrowers
        Trials at once, each of which needs room to train in.
    """

    def __init__(self, device: str, borrowers: int) -> None:
        if device == "cpu":  # a name in shared memory needs no descriptor to be passed on
            torch.multiprocessing.set_sharing_strategy("file_system")
        self._device, self._borrowers = choose_device(device), borrowers
        self._held: dict[str, torch.Tensor] = {}
        self._users: dict[str, set[str]] = {}

    def lend(
        self, user: str, manifest: Manifest, layout: ImageLayout, images: ImageRecipe, need: StepNeed
    ) -> Handles | None:
        """Handles of the prepared stamps of each split; None where they do not fit."""
        parts = {split: part for split in SPLITS if len(part := manifest.split(split))}
        # A copy per split, named after its rows: two trials may deal out one manifest differently.
        keys = {split: prepared_file(part, layout, images, self._device, Path()).name for split, part in parts.items()}
        missing = [split for split, key in keys.items() if key not in self._held]
        wanted = sum(prepared_bytes(len(parts[split]), layout, images) for split in missing)
        if missing and not self._make_room(wanted, need.total * self._borrowers, set(keys.values())):
            return None
        for split in missing:
            self._held[keys[split]] = self._prepared(parts[split], layout, images)
        for key in keys.values():
            self._users.setdefault(key, set()).add(user)
        return {split: bytes(ForkingPickler.dumps(self._held[key])) for split, key in keys.items()}

    def give_back(self, user: str) -> None:
        """A trial has ended, in whatever way."""
        for users in self._users.values():
            users.discard(user)

    def close(self) -> None:
        """Give up everything."""
        self._held.clear()

    def held_bytes(self) -> int:
        """Memory of all copies."""
        return sum(tensor.nbytes for tensor in self._held.values())

    def _make_room(self, wanted: int, training: int, kept: set[str]) -> bool:
        while not self._fits(wanted, training):
            unused = next((key for key in self._held if not self._users.get(key) and key not in kept), None)
            if unused is None:
                return False
            del self._held[unused]
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        return True

    def _fits(self, wanted: int, training: int) -> bool:
        free = free_bytes(self._device)
        share = DEVICE_SHARE if self._device.type == "cuda" else HOST_SHARE
        return wanted <= min(share * free, free - training)

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
        if handles is None:
            return None
        own = handles.items()  # made by our own actor
        return {split: pickle.loads(handle) for split, handle in own}  # noqa: S301  # nosec B301


def holder_name(study: str, node_id: str) -> str:
    """The actor's name on a node."""
    return f"stamps-{study}-{node_id}"


def start_holders(study: str, borrowers: int, device: str = "cuda") -> list[Any]:
    """A holder on every node with one GPU; trials on nodes with several keep their own copies."""
    made = []
    for node in ray.nodes():
        if not node["Alive"] or (device == "cuda" and node["Resources"].get("GPU", 0) != 1):
            continue
        made.append(
            ray.remote(Holder)
            .options(
                name=holder_name(study, node["NodeID"]),
                num_cpus=0,
                num_gpus=GPU_SHARE if device == "cuda" else 0,
                max_restarts=-1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            .remote(device, borrowers)
        )
    return made


def end_holders(holders: list[Any]) -> None:
    """Give up what they hold, and end them."""
    for holder in holders:
        with suppress(ray.exceptions.RayError):
            ray.get(holder.close.remote())
            ray.kill(holder)
