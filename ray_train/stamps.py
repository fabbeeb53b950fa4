"""From a manifest to a source of stamps for the loop."""

from __future__ import annotations

import hashlib
import logging
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lensdata import storage
from lensdata.errors import InputError
from lensdata.shards.layout import ImageLayout, Stamps
from lensdata.shards.manifests import SPLITS, Manifest
from lensdata.shards.reader import StampReader
from ray_train.core.data import HostStamps, ResidentStamps, StampSource, StampTable, StreamedStamps, stamps_in_order
from ray_train.core.images import DTYPES, PREPARED_VERSION, ImageRecipe, Statistics, measure_statistics
from ray_train.core.memory import StepNeed, choose_residency, room

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
    manifest: Manifest,
    layout: ImageLayout,
    recipe: ImageRecipe,
    device: torch.device,
    residency: str,
    cache: Path | None = None,
) -> StampSource:
    """Stamps of a manifest's rows: on the device, in a file mapped to memory, or streamed.

    Parameters
    ----------
    residency
        "device", "host" or "stream"; see `choose_residency`.
    cache
        Folder of the files of "host".
    """
    table, places = stamp_table(manifest)
    read_group = group_reader(places, layout)
    if residency == "host":
        if cache is None:
            raise ValueError("residency host needs a folder")
        return HostStamps(table, read_group, recipe, device, prepared_file(manifest, layout, recipe, device, cache))
    kind = ResidentStamps if residency == "device" else StreamedStamps
    return kind(table, read_group, recipe, device)


def prepared_file(
    manifest: Manifest, layout: ImageLayout, recipe: ImageRecipe, device: torch.device, cache: Path
) -> Path:
    """The file of these rows' prepared stamps, named after what it depends on: files, rows, recipe, kind of device."""
    shards, order = np.unique(manifest.column("shard").astype(str), return_inverse=True)
    known = recipe.statistics
    digest = hashlib.sha256(repr((PREPARED_VERSION, device.type, recipe, layout)).encode())
    for uri in [storage.join(manifest.uri, shard) for shard in shards]:
        digest.update(repr(sorted(storage.version(uri).items())).encode())
    for values in (order, *(manifest.column(name) for name in ("cutout_id", "row_group", "row"))):
        digest.update(np.ascontiguousarray(values, dtype=np.int64).tobytes())
    for tensor in () if known is None else (known.mean, known.sigma):
        digest.update(tensor.cpu().numpy().tobytes())
    return cache / f"stamps-{digest.hexdigest()[:16]}.npy"


def prepared_bytes(num_rows: int, layout: ImageLayout, recipe: ImageRecipe) -> int:
    """Memory that prepared stamps take."""
    return num_rows * math.prod(recipe.prepared_shape(layout.shape)) * DTYPES[recipe.dtype].itemsize


def residency_for(
    wanted: str,
    manifest: Manifest,
    layout: ImageLayout,
    recipe: ImageRecipe,
    device: torch.device,
    cache: Path,
    need: StepNeed,
    workers: int = 1,
) -> str:
    """The residency for all rows of a manifest, and a log line that says why."""
    files = [prepared_file(manifest.split(split), layout, recipe, device, cache) for split in SPLITS]
    chosen, reason = choose_residency(
        wanted,
        prepared_bytes(len(manifest), layout, recipe),
        room(device, cache, need),
        workers=workers,
        shared=device.type == "cpu",
        on_disk=sum(path.stat().st_size for path in files if path.exists()),
    )
    log.info("residency=%s reason=%r", chosen, reason)
    return chosen


def statistics_of(manifest: Manifest, layout: ImageLayout, recipe: ImageRecipe) -> Statistics:
    """Figures of a training split for normalisations that need them, measured on the CPU in the order of the rows."""
    table, places = stamp_table(manifest)
    try:
        return measure_statistics(recipe, stamps_in_order(table, group_reader(places, layout)))
    except ValueError as error:
        raise InputError(f"images.normalisation {recipe.normalisation}: {error}.") from error


def cache_folder(wanted: str | None, run: str) -> Path:
    """The folder of prepared stamps, made if needed: the user's, which stays, or one of this run alone.

    The run's own lies beside its files, so that its workers share it and a resumed run finds it; for a run on S3 in the
    temporary folder of the machine, under a name that follows from the run.

    Raises
    ------
    InputError
        It cannot be made, or is not on this machine.
    """
    if wanted is not None:
        return local_folder("execution.cache", wanted)
    if storage.is_s3(run):
        folder = Path(tempfile.gettempdir()) / f"lensdata-stamps-{hashlib.sha256(run.encode()).hexdigest()[:16]}"
    else:
        folder = storage.local_path(run) / "prepared"
    return local_folder("the folder of prepared stamps", str(folder))


def local_folder(key: str, wanted: str) -> Path:
    """A folder of this machine, made if needed.

    Raises
    ------
    InputError
        It cannot be made, or is not on this machine.
    """
    if "://" in wanted:
        raise InputError(f"{key} {wanted} must be a folder of this machine.")
    try:
        Path(wanted).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{key} {wanted} cannot be made a folder ({error.strerror}).") from error
    return Path(wanted)


def check_images(recipe: ImageRecipe, layout: ImageLayout) -> None:
    """Refuse stamps that the recipe cannot take, as an error for the user."""
    try:
        recipe.check(layout.shape, layout.unit)
    except ValueError as error:
        raise InputError(f"images: {error}.") from error
