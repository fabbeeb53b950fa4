"""Does it fit? Where stamps wait, and whether a micro-batch has room beside them, before the device says no (R-T8)."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ray_train.core.data import DataError
from ray_train.core.models.cost import activation_bytes

RESIDENCIES = ("device", "host", "stream")
DEVICE_SHARE = 0.6  # of the free memory of a GPU that resident stamps may take: activations need the rest
HOST_SHARE = 0.4  # of the machine's: the readers, Ray and the page cache live there too
DISK_SHARE = 0.9
STATE_COPIES = 4  # per weight: itself, its gradient, and two figures of AdamW, float32
WORKSPACE = 1.3  # activations at their peak over those that are kept: temporary results and cuDNN's workspaces
GIB = 2**30


class NoRoomError(DataError):
    """What was asked for does not fit: other settings are needed."""


@dataclass(frozen=True)
class Room:
    """Bytes that may be used.

    Attributes
    ----------
    device
        Of the device's memory; on a CPU of the machine's.
    host
        Of the machine's memory, for stamps in a mapped file.
    disk
        Where that file would lie.
    """

    device: int
    host: int
    disk: int


@dataclass(frozen=True)
class StepNeed:
    """Memory that training takes besides the stamps that wait.

    Attributes
    ----------
    weights
        Bytes of gradients and the optimizer's figures.
    per_stamp
        Bytes that each stamp of a micro-batch takes until the backward pass, at the peak.
    micro_batch
        Stamps per forward pass.
    """

    weights: int
    per_stamp: float
    micro_batch: int

    @property
    def total(self) -> int:
        """All of it, bytes."""
        return self.weights + int(self.micro_batch * self.per_stamp)


def step_need(
    model: nn.Module, *, in_channels: int, size: int, micro_batch: int, precision: str, device: torch.device
) -> StepNeed:
    """What a network on its device takes; ``size`` is the side of the prepared stamps, pixels."""
    parameters = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    per_stamp = WORKSPACE * activation_bytes(model, in_channels, size, precision=precision, device=str(device))
    return StepNeed((STATE_COPIES - 1) * parameters, per_stamp, micro_batch)


def room(device: torch.device, cache: Path, need: StepNeed) -> Room:
    """What stamps may take now, beside a training step and a share for everything else."""
    free = free_bytes(device)
    host = int(HOST_SHARE * free_host_bytes())
    on_device = max(0, min(int((DEVICE_SHARE if device.type == "cuda" else HOST_SHARE) * free), free - need.total))
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    return Room(on_device, host, int(DISK_SHARE * shutil.disk_usage(existing).free))


def choose_residency(
    wanted: str, needed: int, free: Room, *, workers: int = 1, shared: bool = False, on_disk: int = 0
) -> tuple[str, str]:
    """Where prepared stamps wait, and why in a few words.

    Parameters
    ----------
    wanted
        "auto" or one of `RESIDENCIES`.
    needed
        Bytes of all prepared stamps.
    workers
        On this machine: each has its own copy on its device, all share one file.
    shared
        The workers' device is the machine's memory, as on a CPU.
    on_disk
        Bytes that lie in the file already, from a run before.

    Raises
    ------
    NoRoomError
        What was asked for does not fit.
    """
    fits = {
        "device": needed * (workers if shared else 1) <= free.device,
        "host": needed <= free.host and needed - on_disk <= free.disk,
        "stream": True,
    }
    reason = (
        f"prepared stamps take {needed / GIB:.2f} GiB; {free.device / GIB:.2f} GiB may be used on the device, "
        f"{free.host / GIB:.2f} GiB in memory, {free.disk / GIB:.2f} GiB on disk"
    )
    if wanted == "auto":
        return next(name for name in RESIDENCIES if fits[name]), reason
    if not fits[wanted]:
        others = " or ".join(name for name in RESIDENCIES if fits[name])
        raise NoRoomError(f"residency {wanted} does not fit: {reason}; use residency {others}")
    return wanted, reason


def require_room(need: StepNeed, device: torch.device, taken: int) -> None:
    """Refuse a micro-batch that would run out of memory.

    Parameters
    ----------
    taken
        Bytes that resident stamps will take of the device's memory.

    Raises
    ------
    NoRoomError
        Says what is needed, what is free, and the largest micro-batch that fits.
    """
    left = free_bytes(device) - taken - need.weights
    if need.micro_batch * need.per_stamp <= left:
        return
    largest = int(left // need.per_stamp)
    advice = (
        f"the largest micro-batch that fits is {largest}"
        if largest >= 1
        else "not even one stamp fits beside what is held"
    )
    raise NoRoomError(
        f"batch.micro_batch {need.micro_batch} needs about {need.micro_batch * need.per_stamp / GIB:.1f} GiB for activations, "
        f"{max(left, 0) / GIB:.1f} GiB are free on {device.type}; {advice} (raise batch.accumulation to keep the window)"
    )


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_host_bytes()


def free_host_bytes() -> int:
    """Memory that this process can still have: the operating system's, or the rest of its container's."""
    try:
        with Path("/proc/meminfo").open() as lines:
            values = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        free = 1024 * values["MemAvailable"]
    except (OSError, KeyError):  # not Linux: half of what is built in
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else max(0, min(free, limit - used))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such limit, or "max"
        return None
