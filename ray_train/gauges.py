"""A run's figures as metrics of Ray, for Prometheus and the dashboard `infra/ray/grafana_training.json` (R-T7).

Ray offers them on the metrics port of the worker's node, with ``ray_`` before the name. They are set once per epoch; what
`metrics.jsonl` says of the run is the record, this is for watching.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_train.core.loop import Record

TAGS = ("run", "rank")
PROMETHEUS_PREFIX = "ray_"


@dataclass(frozen=True)
class Figure:
    """One metric: its name, where the record has it, and what it means."""

    name: str
    key: str
    meaning: str
    counts: bool = False

    @property
    def prometheus_name(self) -> str:
        """The name in Prometheus."""
        return PROMETHEUS_PREFIX + self.name


FIGURES = (
    Figure("images_per_second", "images_per_second", "stamps trained on per second, all workers"),
    Figure("data_wait_seconds_total", "data_wait_seconds", "seconds this worker waited for stamps", counts=True),
    Figure("train_loss", "train_loss", "mean training loss of the epoch"),
    Figure("val_loss", "val_loss", "validation loss"),
    Figure("val_auc", "val_auc", "area under the ROC curve of the validation split"),
    Figure("epoch", "epoch", "latest finished epoch, counted from 0"),
    Figure("gpu_memory_bytes", "gpu_memory_bytes", "most memory of the GPU that was allocated in the epoch, bytes"),
)


class RayGauges:
    """A tracker (see `ray_train.trackers.Tracker`) for a worker of a running Ray.

    Parameters
    ----------
    run, rank
        The tags of all metrics: `RunFolder.run_id` and the number of the worker.
    """

    def __init__(self, run: str, rank: int) -> None:
        from ray.util import metrics  # only where Ray runs

        tags = {"run": run, "rank": str(rank)}
        self._metrics: dict[str, Any] = {}
        for figure in FIGURES:
            kind = metrics.Counter if figure.counts else metrics.Gauge
            made = kind(figure.name, description=figure.meaning, tag_keys=TAGS)
            made.set_default_tags(tags)
            self._metrics[figure.name] = made

    def epoch_done(self, records: list[Record]) -> None:
        """Set the gauges to the latest epoch and add to the counters; what the record does not have stays as it was."""
        record = records[-1]
        for figure in FIGURES:
            value = record.get(figure.key)
            if value is None:
                continue
            if not figure.counts:
                self._metrics[figure.name].set(float(value))
            elif value > 0:  # a counter takes nothing else
                self._metrics[figure.name].inc(float(value))

    def close(self) -> None:
        """The last values stay until Ray ends."""
