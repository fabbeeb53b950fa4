"""What a network costs: parameters, arithmetic, and the memory that a stamp holds until the backward pass.

The model handed in is never touched: its statistics, modes and place stay as they are.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from ray_train.core.window import AUTOCAST


def parameter_count(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def forward_flops(model: nn.Module, in_channels: int, size: int) -> int:
    """Operations of the forward pass of one (in_channels, size, size) stamp, 2 per multiply-add.

    Convolutions and matrix products count; normalisations, activations and averages do not.

    >>> forward_flops(nn.Conv2d(3, 8, 5, padding=2), 3, 16)  # 2 x (3 x 5 x 5) x 8 x (16 x 16)
    307200
    """
    twin = copy.deepcopy(model).cpu().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        twin(torch.zeros(1, in_channels, size, size))
    return int(counter.get_total_flops())


def activation_bytes(
    model: nn.Module, in_channels: int, size: int, precision: str = "fp32", device: str = "cpu", batch: int = 2
) -> float:
    """Bytes that each further stamp of a micro-batch keeps for the backward pass, in training mode.

    Micro-batches of `batch` and of twice as many stamps are sent through. Their difference is free of what does not
    grow with the batch: BatchNorm's statistics and autocast's copies of the weights. Each storage counts once;
    parameters and buffers do not, the stamp itself does where a layer keeps it.

    Parameters
    ----------
    precision
        "fp32", or "bf16" or "fp16" by autocast.
    batch
        At least 2: BatchNorm needs two values per channel.
    """
    with torch.random.fork_rng(devices=[torch.device(device)] if device.startswith("cuda") else []):
        twin = copy.deepcopy(model).to(device).train()
        small, large = (
            _kept_bytes(twin, torch.zeros(count, in_channels, size, size, device=device), precision)
            for count in (batch, 2 * batch)
        )
    return (large - small) / batch


def _kept_bytes(model: nn.Module, images: torch.Tensor, precision: str) -> int:
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # keeps the storage alive, so that no later one has its address; and makes no cycle

    dtype = AUTOCAST[precision]
    with (
        saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None),
    ):
        output = model(images)  # the graph, and with it what is kept, lives as long as this name
        total = sum(kept.values())
    del output
    return total
