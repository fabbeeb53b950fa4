"""Logits of every stamp of a split, each exactly once, unaugmented and in float32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed, nn

from ray_train.core.augment import d4
from ray_train.core.data import DataError, StampSource

NAMED_STAMPS = 8
D4_KEYS = tuple(flip | turns << 2 for flip in (0, 1) for turns in range(4))  # each of the eight views once


def predict(
    model: nn.Module,
    source: StampSource,
    *,
    batch: int,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    precision: str = "fp32",
    views: str = "one",
) -> npt.NDArray[np.float32]:
    """Logits in the order of `source.table`; with several workers, on all of them.

    Parameters
    ----------
    model
        Not wrapped for several workers; its weights are the same on each.
    batch
        Stamps per forward pass.
    precision
        "fp32", or "bf16" for a network whose head stays in 32 bits (`full_precision_head`): logits of 8 bits would tie, and
        ties move the AUC.
    views
        "one", or "d4": the mean logit over the eight flips and turns of a stamp.

    Raises
    ------
    DataError
        A stamp was not scored exactly once, or its logit is not a number: that would rank above all others.
    """
    num_rows = len(source.table)
    slices = [(start, min(start + batch, num_rows)) for start in range(0, num_rows, batch)][rank::world]
    logits = torch.zeros(num_rows, device=device)
    seen = torch.zeros(num_rows, device=device)
    was_training, dtype = model.training, next(model.parameters()).dtype
    model.eval()
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for (start, stop), images in zip(slices, source.batches(source.table.in_order(), slices), strict=True):
            logits[start:stop] = mean_logit(model, images.to(dtype), views)
            seen[start:stop] += 1
    model.train(was_training)
    if world > 1:
        distributed.all_reduce(logits)
        distributed.all_reduce(seen)
    if not bool((seen == 1).all()):
        raise DataError(f"{int((seen != 1).sum())} of {num_rows} stamps were not scored exactly once")
    found = logits.cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(found))
    if len(bad):
        ids = ", ".join(str(key) for key in source.table.cutout_ids[bad[:NAMED_STAMPS]])
        raise DataError(f"{len(bad)} of {num_rows} logits are not numbers, the first of cutout_id {ids}")
    return found


def mean_logit(model: nn.Module, images: torch.Tensor, views: str) -> torch.Tensor:
    """Logits (n,) of images (n, C, h, w)."""
    if views == "one":
        return torch.as_tensor(model(images)).squeeze(1)
    keys = (torch.full((len(images),), key, device=images.device) for key in D4_KEYS)
    seen = [model(d4(images, key).contiguous(memory_format=torch.channels_last)).squeeze(1) for key in keys]
    return torch.stack(seen).mean(0)


def last_features(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What the last linear layer sees of images (n, C, h, w): (n, features)."""
    seen: list[torch.Tensor] = []
    hook = _head(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        model(images)
    finally:
        hook.remove()
    return seen[-1].flatten(1)


def full_precision_head(model: nn.Module) -> nn.Module:
    """Let the last linear layer compute in 32 bits whatever the autocast; returns the model.

    A sum over hundreds of features of 8 bits each tells stamps apart; rounded to 8 bits itself it would tie them.
    """
    head = _head(model)
    plain = head.forward

    def forward(features: torch.Tensor) -> torch.Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return plain(features.float())

    head.forward = forward  # type: ignore[method-assign]
    return model


def _head(model: nn.Module) -> nn.Module:
    """The last linear layer."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
