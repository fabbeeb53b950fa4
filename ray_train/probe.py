"""Show a network its stamps again, changed, and write what it says (R-E5, R-E6).

    python -m ray_train.probe --output probes/demo inputs.manifest=manifests/audit_70_15_15 inputs.run=runs/demo

`lensdata.audit.sensitivity` turns the logits into curves and verdicts. The output is a table written in parts; a restart makes the
parts that are missing.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from lensdata import jobs, steps, storage, tables
from lensdata.audit import gates
from lensdata.audit.regions import PIXSCALE_ARCSEC
from lensdata.config.probe import ProbeConfig
from lensdata.errors import InputError
from lensdata.shards.layout import ImageLayout
from lensdata.shards.manifests import Manifest, read_manifest, require_classes
from lensdata.steps import JobRun, Outcome
from ray_train import attribution
from ray_train.context import choose_device, use_threads
from ray_train.core.data import stamps_in_order
from ray_train.core.probes import DEFAULT_FWHM_ARCSEC, Probe, Stamps, probes
from ray_train.scoring import Scorer, check_fit, load_scorer, parts
from ray_train.stamps import group_reader, stamp_table
from ray_train.training import pairs_of, write_part

log = logging.getLogger(__name__)

PICTURE = "rgb8"  # the unit of stamps that are no flux


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; returns its exit code."""
    return steps.run_job(jobs.find("probe"), probe, sys.argv[1:] if argv is None else list(argv))


@dataclass(frozen=True)
class Prober:
    """A network, its probes, and the stamps' layout."""

    scorer: Scorer
    layout: ImageLayout
    config: ProbeConfig

    @property
    def pixscale(self) -> float:
        """Pixel size in arcsec."""
        return self.layout.pixscale_arcsec or PIXSCALE_ARCSEC

    def probes(self) -> list[Probe]:
        """What can be done to these stamps."""
        images = self.scorer.images(self.layout)
        height, _, planes = images.prepared_shape(self.layout.shape)
        pairs = pairs_of(self.scorer.config.images.bands or self.layout.bands)
        return probes(height, planes, self.pixscale, pairs, flux=self.layout.unit != PICTURE)

    def batches(self, part: Manifest) -> Iterator[Stamps]:
        """The part's stamps, at most a batch at a time, in the order of its rows."""
        table, places = stamp_table(part)
        fwhm = seeing(part, self.layout.bands, self.pixscale)
        images, device = self.scorer.images(self.layout), self.scorer.device
        done = 0
        for group in stamps_in_order(table, group_reader(places, self.layout)):
            for start in range(0, len(group), self.config.batch):
                stored = torch.from_numpy(group[start : start + self.config.batch]).to(device)
                here = slice(done, done + len(stored))
                ids = torch.from_numpy(table.cutout_ids[here]).to(device)
                yield Stamps(stored, ids, torch.from_numpy(fwhm[here]).to(device), images)
                done += len(stored)


def probe(run: JobRun) -> Outcome:
    """Probe the parts that are not there yet, then make the attributions."""
    config: ProbeConfig = run.config
    use_threads(config.execution.threads)
    scorer = load_scorer(run.inputs["run"], config.checkpoint, choose_device(config.execution.device))
    manifest = chosen(read_manifest(run.inputs["manifest"]), config, run.test_limit)
    layout = manifest.layout()
    check_fit(scorer, layout)
    prober = Prober(scorer, layout, config)
    if config.attribution_stamps:  # what is missing is said before the work, not after it
        attribution.methods(scorer.model, next(prober.batches(manifest.head(1))).input)
    todo = list(parts(manifest, config.part_rows))
    for index, part in enumerate(todo):
        address = run.path("dataset", f"part-{index:05d}.parquet")
        if not storage.exists(address):
            write_part(probed(prober, part), address)
        steps.progress(index + 1, len(todo), "parts")
    if config.attribution_stamps:
        write_attributions(prober, manifest, run)
    rows, content = tables.content_hash(tables.iterate(run.output, check=False))
    report = {"stamps": len(manifest), "probes": len(prober.probes()), "split": config.split}
    return Outcome(rows=rows, content=content, report=report)


def chosen(manifest: Manifest, config: ProbeConfig, limit: int | None) -> Manifest:
    """The rows that are probed: all of the split, or as many lenses as others as far as there are.

    Raises
    ------
    InputError
        The split lacks a class, or one stamp is asked for, which cannot be of both.
    """
    require_classes(manifest, [config.split])
    manifest = manifest.split(config.split)
    size = limit if limit is not None else config.rows_max
    if size == 1:
        raise InputError(
            "rows_max (or --test-limit) is 1; give at least 2, a lens and another, or 0 for all of the split."
        )
    if not size or size >= len(manifest):
        return manifest
    keep = np.zeros(len(manifest), bool)
    keep[gates.balanced_sample(manifest.column("label").astype(np.int64), size, config.seed)] = True
    return manifest.where(keep)


def probed(prober: Prober, part: Manifest) -> pa.Table:
    """Logits of a part's stamps under every probe, the rows of a probe together."""
    todo = prober.probes()
    logits: list[list[npt.NDArray[np.float32]]] = [[] for _ in todo]
    with torch.inference_mode():
        for stamps in prober.batches(part):
            for found, each in zip(logits, todo, strict=True):
                x = each.change(stamps).contiguous(memory_format=torch.channels_last)
                found.append(prober.scorer.model(x).squeeze(1).float().cpu().numpy())
    ids = part.table["cutout_id"].combine_chunks()
    columns = {
        "cutout_id": pa.chunked_array([ids] * len(todo)),
        "probe": pa.array(np.repeat([each.name for each in todo], len(ids))),
        "level": pa.array(np.repeat(np.asarray([each.level for each in todo], np.float64), len(ids))),
        "logit": pa.array(np.concatenate([np.concatenate(found) for found in logits])),
    }
    return tables.validate(pa.table(columns), tables.PROBES, "probes")


def write_attributions(prober: Prober, manifest: Manifest, run: JobRun) -> None:
    """Fractions of each map in core, arc annulus and background, and the mean maps of either class."""
    labels = manifest.column("label").astype(np.int64)
    keep = np.zeros(len(manifest), bool)
    keep[gates.balanced_sample(labels, 2 * prober.config.attribution_stamps, prober.config.seed)] = True
    part, labels = manifest.where(keep), labels[keep]
    found: dict[str, list[npt.NDArray[np.float32]]] = {}
    for stamps in prober.batches(part):
        for method in attribution.methods(prober.scorer.model, stamps.input[:1]):
            made = method.attribute(stamps.input.contiguous(memory_format=torch.channels_last))
            found.setdefault(method.name, []).append(made.detach().float().cpu().numpy())
    rows, pictures = [], {}
    for name, pieces in found.items():
        maps = np.concatenate(pieces)
        share = attribution.fractions(maps, maps.shape[1], prober.pixscale)
        columns = {zone: pa.array(share[:, place]) for place, zone in enumerate(attribution.ZONES)}
        own = {"cutout_id": part.table["cutout_id"], "method": pa.array([name] * len(part), pa.string())}
        rows.append(tables.validate(pa.table(own | columns), tables.ATTRIBUTIONS, "attributions"))
        total = maps.sum(axis=(1, 2), keepdims=True)
        share_of_pixel = np.divide(maps, total, out=np.zeros_like(maps), where=total > 0)
        pictures |= {f"{name}_{label}": share_of_pixel[labels == label].mean(axis=0) for label in np.unique(labels)}
    write_part(pa.concat_tables(rows), run.path("attributions", "dataset", "part-00000.parquet"))
    sink = BytesIO()
    area = attribution.zones(maps.shape[1], prober.pixscale).mean(axis=(1, 2))
    np.savez_compressed(sink, pixscale_arcsec=prober.pixscale, area=area, **pictures)
    storage.write_bytes(run.path("attributions", "mean_maps.npz"), sink.getvalue())


def seeing(part: Manifest, bands: Sequence[str], pixscale_arcsec: float) -> npt.NDArray[np.float32]:
    """Seeing of each stamp and plane in pixels, (N, C); the survey's where the manifest does not know it."""
    columns = []
    for band in bands:
        name = f"psfsize_{band.removesuffix('_ctrl')}"
        if name in part.table.column_names:
            values = np.asarray(part.table[name].to_pandas(), np.float64)
        else:
            values = np.full(len(part), np.nan)
        columns.append(np.where(values > 0, values, DEFAULT_FWHM_ARCSEC) / pixscale_arcsec)
    return np.stack(columns, axis=1).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
