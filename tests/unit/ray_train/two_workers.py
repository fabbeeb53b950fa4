"""Run by test_window.py as `two_workers.py RANK WORLD PORT OUT`: trains two epochs and saves the weights."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed, nn

sys.path.insert(0, str(Path(__file__).parent))
from conftest import PLAIN, RECIPE, make_arcs

from ray_train.core.data import ResidentStamps, StampTable
from ray_train.core.loop import fit


class Here:
    """A run context that keeps nothing."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world, self.device = rank, world, torch.device("cpu")

    def records(self) -> list[dict[str, Any]]:
        return []

    def last_checkpoint(self) -> bytes | None:
        return None

    def partial_checkpoint(self) -> bytes | None:
        return None

    def keep_partial(self, checkpoint: bytes) -> None:
        assert self.rank == 0

    def epoch_done(self, records: list[dict[str, Any]], checkpoint: bytes | None) -> None:
        assert (checkpoint is not None) == (self.rank == 0)


def source(count: int, seed: int) -> ResidentStamps:
    images, labels = make_arcs(count, seed)
    row = np.arange(count)
    table = StampTable(row + 100 * seed, labels.astype(np.float32), (1 + row % 3).astype(np.float32), row // 8, row % 8)
    return ResidentStamps(table, lambda group: images[group * 8 : group * 8 + 8], PLAIN, torch.device("cpu"))


def main() -> None:
    rank, world, port, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    torch.set_num_threads(1)
    if world > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        distributed.init_process_group("gloo", rank=rank, world_size=world)
    torch.manual_seed(0)
    # No BatchNorm: with it, statistics differ by who saw which micro-batch.
    model = nn.Sequential(
        nn.Conv2d(3, 4, 5, stride=2), nn.ELU(), nn.Conv2d(4, 4, 3), nn.ELU(), nn.Flatten(), nn.LazyLinear(1)
    )
    model(torch.zeros(1, 3, 16, 16))
    recipe = RECIPE.__class__(
        **{name: getattr(RECIPE, name) for name in RECIPE.__dataclass_fields__} | {"weighted": True}
    )
    # 26 rows in windows of 3 x 4: the last window has one micro-batch of 2, and worker 1 has none.
    records = fit(recipe, model.double(), source(26, 1), source(15, 2), Here(rank, world), {})
    values = {name: value.numpy() for name, value in model.state_dict().items()}
    np.savez(
        out,
        auc=records[-1]["val_auc"],
        val_loss=records[-1]["val_loss"],
        train_loss=records[-1]["train_loss"],
        grad_norm=records[-1]["grad_norm_max"],
        **values,
    )


if __name__ == "__main__":
    main()
