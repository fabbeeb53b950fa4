"""Make a model bundle of one trained run, or of several whose logits are averaged.

    python -m ray_train.make_bundle --output bundles/demo inputs.manifest=MANIFEST inputs.runs.demo=runs/demo/train

Calibration and thresholds come from the validation split alone: the test split is for judging (R-T10). The bundle is read back
and has to give the runs' own logits on validation stamps; so has ``model.onnx``.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.compute as pc
from scipy import stats

from lensdata import jobs, steps, storage, tables
from lensdata.audit import intervals, recalibration, roc
from lensdata.config.bundle import FPR_LEVELS, BundleConfig
from lensdata.errors import InputError
from lensdata.shards.layout import Stamps
from lensdata.shards.manifests import Manifest, read_manifest
from lensdata.shards.reader import open_shard
from lensdata.steps import JobFailed, JobRun, Outcome
from ray_train import model_card, onnx_export
from ray_train.bundle import Bundle, LoadedMember, assemble, load, weights_bytes
from ray_train.bundle_record import (
    RECORD,
    BundleRecord,
    Calibration,
    Input,
    Member,
    Onnx,
    Threshold,
    record_bytes,
)
from ray_train.bundle_record import Manifest as ManifestRecord
from ray_train.context import choose_device, use_threads
from ray_train.networks import statistics_in
from ray_train.scoring import Scorer, check_fit, load_scorer

log = logging.getLogger(__name__)

ONNX_FILE, CARD_FILE, NOTICE_FILE = "model.onnx", "model_card.md", "NOTICE.txt"
VERSIONS = ("lensdata", "torch", "torchvision", "numpy", "timm", "onnx", "onnxruntime")
LOWEST, HIGHEST = 0.025, 0.975  # of a 95% interval


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; returns its exit code."""
    return steps.run_job(jobs.find("bundle"), make_bundle, sys.argv[1:] if argv is None else list(argv))


def make_bundle(run: JobRun) -> Outcome:
    """Write weights, record, card and ONNX; read them back and compare."""
    config: BundleConfig = run.config
    if config.onnx:
        onnx_export.require_onnx()
    use_threads(config.execution.threads)
    runs = {name.removeprefix("runs."): uri for name, uri in run.inputs.items() if name.startswith("runs.")}
    if not runs:
        raise InputError("A bundle needs a trained run: inputs.runs.NAME=RUN for each.")
    again = [uri for uri, count in Counter(runs.values()).items() if count > 1]
    if again:
        raise InputError(f"Run {again[0]} is given more than once; a mean takes each run once.")
    manifest = read_manifest(run.inputs["manifest"])
    rows = validation_rows(list(runs.values()), manifest.uri)
    scorers = [load_scorer(uri, "best", choose_device("cpu")) for uri in runs.values()]
    for scorer in scorers:
        check_fit(scorer, manifest.layout())
    evaluation = evaluation_of(run.inputs.get("evaluation"), scorers, manifest)
    members = [member_of(scorer, f"weights-{place}.pt") for place, scorer in enumerate(scorers)]
    record = BundleRecord(
        members=tuple(member.record for member in members),
        input=input_of(manifest),
        calibration=calibration_of(rows, config.calibration),
        thresholds=tuple(threshold_at(level, rows) for level in FPR_LEVELS),
        manifest=ManifestRecord(content=content_of(manifest.uri), rows=counts_of(manifest)),
        evaluation=None if evaluation is None else model_card.headline(evaluation),
        versions={name: version_of(name) for name in VERSIONS},
        git_commit=steps.git_commit(),
        files={},
    )
    return _write(run, record, members, rows, manifest, evaluation)


def _write(
    run: JobRun,
    record: BundleRecord,
    members: list[LoadedMember],
    rows: pd.DataFrame,
    manifest: Manifest,
    evaluation: dict[str, Any] | None,
) -> Outcome:
    config: BundleConfig = run.config
    made = assemble(run.output, record.model_copy(update={"files": {}}), tuple(members), choose_device("cpu"), "")
    chosen, stamps = checked_stamps(rows, manifest, config.checked_stamps)
    torch_logits = made.score(stamps, manifest.layout())
    from_run = largest_difference(torch_logits, chosen["logit"].to_numpy(np.float32))
    if not from_run <= config.run_tolerance:
        raise JobFailed(
            f"the bundle's logits differ from the run's by up to {from_run:.3g} on {len(chosen)} validation stamps, allowed is "
            f"{config.run_tolerance:g}; were the stamps or the checkpoint changed after the training?"
        )
    files = {member.record.weights: weights_bytes(member.model, member.statistics) for member in members}
    exported = None
    if config.onnx:
        files[ONNX_FILE], exported = exported_model(made, stamps, torch_logits, config)
    files[NOTICE_FILE] = model_card.NOTICE.encode()
    record = record.model_copy(update={"onnx": exported})
    files[CARD_FILE] = model_card.render(record, evaluation, config.intended_use, from_run).encode()
    for name, data in files.items():
        storage.write_bytes(run.path(name), data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    data = record_bytes(record.model_copy(update={"files": digests}))
    storage.write_bytes(run.path(RECORD), data)
    again = load(run.output)
    if not np.array_equal(again.score(stamps, manifest.layout()), torch_logits):
        raise JobFailed("the bundle that was read back does not give the logits of the one that was written")
    for entry in record.thresholds:
        log.info("fpr=%g logit=%s%s", entry.fpr, entry.logit, f" ({entry.reason})" if entry.reason else "")
    report = {
        "sha256": again.sha256,
        "difference_from_run": from_run,
        "difference_of_onnx": exported.max_difference if exported else None,
        "checked_stamps": len(chosen),
    }
    return Outcome(len(members), hashlib.sha256(data).hexdigest()[:16], report)


# --- what the record says ----------------------------------------------------------------------------------------------


def validation_rows(runs: list[str], manifest_uri: str) -> pd.DataFrame:
    """``cutout_id, label, logit`` of the validation split; of several runs the mean logit.

    Raises
    ------
    InputError
        A run was trained on another manifest, or the runs do not share their validation split; a logit is no number.
    """
    wanted = content_of(manifest_uri)
    found: pd.DataFrame | None = None
    for uri in runs:
        info = storage.join(uri, "run_info.json")
        if not storage.exists(info):
            raise InputError(f"{uri} has no run_info.json, so it is not a training run.")
        trained_on = storage.read_json(info)["manifest"]["content"]
        if trained_on != wanted:
            raise InputError(
                f"Run {uri} was trained on a manifest of content {trained_on}, but {manifest_uri} has {wanted}."
            )
        scores = tables.read_table(storage.join(uri, "scores"), tables.SCORES)
        own = scores.filter(pc.equal(scores["split"], "val")).select(["cutout_id", "label", "logit"]).to_pandas()
        own = own.sort_values("cutout_id", ignore_index=True).astype({"logit": np.float64})
        if not np.isfinite(own["logit"]).all():
            raise InputError(f"Run {uri} has validation logits that are no finite numbers; train it again.")
        if found is None:
            found = own.assign(logit=0.0)
        if not found["cutout_id"].equals(own["cutout_id"]):
            raise InputError(f"Run {uri} has another validation split than {runs[0]}, so their mean has none.")
        found["logit"] += own["logit"] / len(runs)
    assert found is not None
    return found


def content_of(manifest_uri: str) -> str:
    """Identity of a manifest."""
    return str(storage.read_json(storage.join(manifest_uri, "_table.json"))["content"])


def counts_of(manifest: Manifest) -> dict[str, int]:
    """Rows by split and class."""
    split, label = manifest.column("split").astype(str), manifest.column("label")
    return {
        f"{name} {word}": int(np.sum((split == name) & (label == value)))
        for name in ("train", "val", "test")
        for word, value in (("lenses", 1), ("others", 0))
    }


def input_of(manifest: Manifest) -> Input:
    """What the training stamps are, and where on the sky."""
    layout = manifest.layout()
    routes: set[str] = set()
    layers: set[str] = set()
    for uri in sorted(set(manifest.shard_uris())):
        shard = open_shard(uri)
        names = [name for name in ("route", "layer") if name in shard.file.schema_arrow.names]
        if names and shard.num_row_groups:
            rows = shard.read_rows(0, names)  # rows lie in random order: any row group is a fair sample
            routes |= set(rows["route"].drop_null().to_pylist()) if "route" in names else set()
            layers |= set(rows["layer"].drop_null().to_pylist()) if "layer" in names else set()
    dec = None
    if "dec" in manifest.table.column_names and not manifest.table["dec"].null_count:
        values = manifest.split("train").column("dec").astype(np.float64)
        dec = (round(float(values.min()), 4), round(float(values.max()), 4))
    return Input(
        bands=layout.bands, unit=layout.unit, pixscale_arcsec=layout.pixscale_arcsec, size=layout.shape[:2],
        routes=tuple(sorted(routes)), layers=tuple(sorted(layers)), dec_deg=dec,
    )  # fmt: skip


def member_of(scorer: Scorer, name: str) -> LoadedMember:
    """A run's best network."""
    config, network = scorer.config, scorer.network
    info = storage.read_json(scorer.run.path("run_info.json"))
    record = Member(
        weights=name, arch=network["arch"], in_channels=network["in_channels"], dropout=network["dropout"],
        preset=network["preset"], normalisation=config.images.normalisation, crop=config.images.crop,
        dtype=config.images.dtype, bands=config.images.bands,
        parameters=sum(parameter.numel() for parameter in scorer.model.parameters()), run_id=scorer.run.run_id,
        epoch=storage.read_json(scorer.run.path("best.json"))["epoch"], seed=config.seed, git_commit=info["git_commit"],
        lensdata=info["lensdata"],
    )  # fmt: skip
    return LoadedMember(record, scorer.model, statistics_in(network))


def calibration_of(rows: pd.DataFrame, method: str) -> Calibration:
    """The map from logits to probabilities, fitted to the validation split.

    Raises
    ------
    InputError
        It would turn the order of the scores round.
    """
    label = rows["label"].to_numpy(np.int64)
    positive = int(label.sum())
    if positive in (0, len(label)):
        raise InputError("The validation split lacks a class, so nothing can be calibrated.")
    fitted = recalibration.METHODS[method](rows["logit"].to_numpy(), label)
    assert fitted.logits is not None
    ends = fitted.logits(np.array([rows["logit"].min(), rows["logit"].max()]))
    if not ends[1] > ends[0]:
        raise InputError(
            f"On the validation split a higher logit does not mean a likelier lens (calibration {method}: "
            f"{dict(fitted.parameters)}): this run is no finder."
        )
    return Calibration(
        method=method, parameters=dict(fitted.parameters), prevalence=positive / len(label), n_positive=positive,
        n_negative=len(label) - positive,
    )  # fmt: skip


def threshold_at(level: float, rows: pd.DataFrame) -> Threshold:
    """The lowest logit of a validation lens with at most the allowed false positives at or above it."""
    label, logit = rows["label"].to_numpy(np.int64), rows["logit"].to_numpy()
    negatives, positives = np.sort(logit[label == 0])[::-1], logit[label == 1]
    allowed = roc.allowed(level, len(negatives))
    counts: dict[str, Any] = {
        "fpr": level,
        "n_positive": len(positives),
        "n_negative": len(negatives),
        "false_positives_allowed": allowed,
    }
    if allowed == 0:
        return Threshold(logit=None, reason=f"{len(negatives)} validation negatives allow no false positive", **counts)
    value = roc.threshold_at_count(roc.compress(label, logit), allowed)
    if not np.isfinite(value):
        return Threshold(logit=None, reason="no validation lens lies above so few of the others", **counts)
    found = intervals.binomial(int(np.sum(positives >= value)), len(positives))
    low, high = quantile_limits(negatives, level)
    return Threshold(
        logit=value, low=low, high=high, false_positives=int(np.sum(negatives >= value)),
        completeness=(found.value, found.low, found.high), **counts,
    )  # fmt: skip


def quantile_limits(descending: npt.NDArray[np.floating[Any]], level: float) -> tuple[float | None, float | None]:
    """95% interval of the logit that a share ``level`` of all negatives exceeds, whatever their distribution.

    How many of a sample exceed it is binomial, which leaves two members of the sample as limits (David & Nagaraja 2003, section
    7.1); None where the sample has none so far out.

    >>> quantile_limits(np.arange(1000.0)[::-1], 0.01)
    (982.0, 996.0)
    """
    few, many = (int(value) for value in stats.binom.ppf([LOWEST, HIGHEST], len(descending), level))
    low = float(descending[many]) if many < len(descending) else None
    return low, float(descending[few - 1]) if few else None


def evaluation_of(uri: str | None, scorers: list[Scorer], manifest: Manifest) -> dict[str, Any] | None:
    """The figures of an evaluation of one of these runs on this manifest."""
    if uri is None:
        return None
    place = storage.join(uri, "metrics.json")
    if not storage.exists(place):
        raise InputError(f"{uri} has no metrics.json, so it is not an evaluation.")
    found: dict[str, Any] = storage.read_json(place)
    judged, ours = found.get("run", {}), [scorer.run.run_id for scorer in scorers]
    if judged.get("run_id") not in ours or judged.get("manifest") != content_of(manifest.uri):
        raise InputError(
            f"Evaluation {uri} is of run {judged.get('run_id')}, not of {', '.join(ours)} on this manifest."
        )
    return found


def version_of(package: str) -> str | None:
    """Of an installed package; None where it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# --- comparison --------------------------------------------------------------------------------------------------------


def checked_stamps(rows: pd.DataFrame, manifest: Manifest, count: int) -> tuple[pd.DataFrame, Stamps]:
    """Validation rows from the lowest logit to the highest, evenly, and their stamps."""
    order = rows.sort_values("logit", ignore_index=True)
    places = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).astype(int))
    chosen = order.iloc[places]
    return chosen, manifest.stamps(chosen["cutout_id"].tolist())


def exported_model(
    made: Bundle, stamps: Stamps, torch_logits: npt.NDArray[np.float32], config: BundleConfig
) -> tuple[bytes, Onnx]:
    """The ONNX file, and how far its logits are from torch's.

    Raises
    ------
    JobFailed
        Further than ``onnx_tolerance``.
    """
    data = onnx_export.export(made.finder, stamps.shape[1:])
    apart = largest_difference(onnx_export.run(data, stamps), torch_logits)
    if not apart <= config.onnx_tolerance:
        raise JobFailed(
            f"ONNX and torch differ by up to {apart:.3g} in the logit of {len(stamps)} validation stamps, allowed is "
            f"{config.onnx_tolerance:g}; make the bundle without onnx=true, or raise onnx_tolerance if you can live with that"
        )
    return data, Onnx(
        file=ONNX_FILE, opset=onnx_export.OPSET, input=onnx_export.INPUT, output=onnx_export.OUTPUT,
        max_difference=apart, tolerance=config.onnx_tolerance, stamps=len(stamps),
    )  # fmt: skip


def largest_difference(one: npt.NDArray[np.float32], two: npt.NDArray[np.float32]) -> float:
    """Of logits; NaN where one of them is no number."""
    return float(np.abs(one.astype(np.float64) - two.astype(np.float64)).max())


if __name__ == "__main__":
    sys.exit(main())
