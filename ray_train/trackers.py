"""Where the curves of a run go besides `metrics.jsonl` (R-T7)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from lensdata import storage
from ray_train.core.loop import Record

CURVES = (
    "train_loss", "val_loss", "val_auc", "lr", "grad_norm_mean", "grad_norm_max", "images_per_second", "seconds",
    "val_accuracy_negative", "val_accuracy_positive",
)  # fmt: skip


class TensorBoard:
    """Writes event files to ``<run>/tensorboard``; on S3 they are uploaded after every epoch."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._local = Path(tempfile.mkdtemp(prefix="lensdata-tensorboard-")) if storage.is_s3(folder) else None
        self._writer: Any = None

    def epoch_done(self, records: list[Record]) -> None:
        """Add the latest epoch."""
        record = records[-1]
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and only wanted here

            # What an interrupted run wrote from this epoch on is hidden, so that curves do not double.
            self._writer = SummaryWriter(str(self._local or self._folder), purge_step=record["epoch"])
        for name in CURVES:
            self._writer.add_scalar(name, record[name], record["epoch"])
        self._writer.flush()
        if self._local is not None:
            for path in self._local.iterdir():
                storage.write_bytes(storage.join(self._folder, path.name), path.read_bytes())
