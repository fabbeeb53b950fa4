"""Logits of every stamp of a split, each exactly once, unaugmented and in float32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed, nn

from ray_train.core.data import DataError, StampSource

NAMED_STAMPS = 8


def predict(
    model: nn.Module, source: StampSource, *, batch: int, device: torch.device, rank: int = 0, world: int = 1
) -> npt.NDArray[np.float32]:
    """Logits in the order of `source.table`; with several workers, on all of them.

    No autocast: logits of 8 bits would tie, and ties move the AUC.

    Parameters
    ----------
    model
        Not wrapped for several workers; its weights are the same on each.
    batch
        Stamps per forward pass.

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
    with torch.inference_mode():
        for (start, stop), images in zip(slices, source.batches(source.table.in_order(), slices), strict=True):
            logits[start:stop] = model(images.to(dtype)).squeeze(1)
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
