"""From a manifest to a source of stamps for the loop."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch

from lensdata.errors import InputError
from lensdata.shards.layout import ImageLayout, Stamps
from lensdata.shards.manifests import Manifest
from lensdata.shards.reader import StampReader
from ray_train.core.data import ResidentStamps, StampSource, StampTable, StreamedStamps, choose_residency
from ray_train.core.images import ImageRecipe

log = logging.getLogger(__name__)


def stamp_table(manifest: Manifest) -> tuple[StampTable, list[tuple[str, int]]]:
    """The rows as arrays, and the (shard, row group) that each group number stands for."""
    uris, row_groups = manifest.shard_uris(), manifest.column("row_group")
    groups: dict[tuple[str, int], int] = {}
    number = [groups.setdefault((uri, int(group)), len(groups)) for uri, group in zip(uris, row_groups, strict=True)]
    table = StampTable(
        cutout_ids=manifest.column("cutout_id").astype(np.int64),
        labels=manifest.column("label").astype(np.float32),
        weights=manifest.column("sample_weight").astype(np.float32),
        group=np.asarray(number, np.int64),
        within=manifest.column("row").astype(np.int64),
    )
    return table, list(groups)


def group_reader(places: list[tuple[str, int]], layout: ImageLayout) -> Callable[[int], Stamps]:
    """Reads the row group of a group number."""
    reader = StampReader(layout)
    return lambda group: reader.read_group(*places[group])


def stamp_source(
    manifest: Manifest, layout: ImageLayout, recipe: ImageRecipe, device: torch.device, residency: str
) -> StampSource:
    """Stamps of a manifest's rows, resident on the device or streamed.

    Parameters
    ----------
    residency
        "device" or "stream"; see `choose_residency`.
    """
    table, places = stamp_table(manifest)
    kind = ResidentStamps if residency == "device" else StreamedStamps
    return kind(table, group_reader(places, layout), recipe, device)


def residency_for(
    wanted: str, manifest: Manifest, layout: ImageLayout, recipe: ImageRecipe, device: torch.device
) -> str:
    """The residency for all rows of a manifest, and a log line that says why."""
    chosen, reason = choose_residency(wanted, len(manifest), layout.shape, recipe.crop, device)
    log.info("residency=%s reason=%r", chosen, reason)
    return chosen


def check_images(recipe: ImageRecipe, layout: ImageLayout) -> None:
    """Refuse stamps that the recipe cannot take, as an error for the user."""
    try:
        recipe.check(layout.shape, layout.unit)
    except ValueError as error:
        raise InputError(f"images: {error}.") from error
