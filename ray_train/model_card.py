"""The model card of a bundle: what it is, how it did, and what it must not be used for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ray_train.bundle_record import BundleRecord, Threshold

RANKED = ("auc", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001", "tpr_at_fpr_0.0001")
NOTICE = """The weights in this folder were made with lensdata (MIT licence) from images that others took.

Work that uses a model trained on the DESI Legacy Imaging Surveys acknowledges them with the text at
https://www.legacysurvey.org/acknowledgment/ and cites Dey et al. 2019, AJ 157, 168. Work that uses the lens positions cites the
catalogues that they come from. See docs/attribution.md of lensdata for what else to name.
"""


def headline(metrics: dict[str, Any]) -> dict[str, Any]:
    """The figures of an evaluation that a bundle keeps."""
    figures = {
        name: {key: metrics[name].get(key) for key in ("title", "value", "low", "high", "n_positive", "n_negative")}
        | {"measurable": metrics[name].get("false_positives_allowed") != 0}
        for name in RANKED
        if name in metrics
    }
    failed = [
        {"title": line["title"], "message": line["message"]}
        for line in metrics.get("verdicts", [])
        if line["verdict"] == "FAIL"
    ]
    return {"run_id": metrics["run"]["run_id"], "split": metrics["split"], "figures": figures, "failed": failed}


def render(record: BundleRecord, metrics: dict[str, Any] | None, intended_use: str, from_run: float) -> str:
    """The card, in Markdown."""
    return "\n".join(_lines(record, metrics, intended_use, from_run)) + "\n"


def _lines(record: BundleRecord, metrics: dict[str, Any] | None, intended_use: str, from_run: float) -> Iterator[str]:
    known, rows = record.input, record.manifest.rows
    yield f"# Model card: {' + '.join(member.run_id for member in record.members)}\n"
    yield "A finder of strong gravitational lenses: a stamp of the sky goes in, a logit comes out."
    if intended_use:
        yield f"\n{intended_use}"
    yield "\n## What it is\n"
    if len(record.members) > 1:
        yield f"The mean logit of {len(record.members)} networks.\n"
    yield "| network | parameters | preprocessing | run | epoch | seed | commit |\n|---|---:|---|---|---:|---:|---|"
    for member in record.members:
        crop = f", crop {member.crop}" if member.crop else ""
        bands = f", bands {' '.join(member.bands)}" if member.bands else ""
        yield (
            f"| {member.arch}{' ' + member.preset if member.arch == 'shielded_resnet' else ''} | {member.parameters:,} | "
            f"{member.normalisation}{crop}{bands}, {member.dtype} | {member.run_id} | {member.epoch} | {member.seed} | "
            f"{(member.git_commit or 'unknown')[:12]} |"
        )
    scale = f"{known.pixscale_arcsec:g} arcsec per pixel" if known.pixscale_arcsec else "pixel scale unknown"
    yield (
        f"\nStamps: {known.size[0]} x {known.size[1]} pixels, bands {' '.join(known.bands)}, {known.unit}, {scale}"
        f"{', layer ' + ', '.join(known.layers) if known.layers else ''}"
        f"{', fetched by route ' + ', '.join(known.routes) if known.routes else ''}. The object is in the centre."
    )
    yield f"\nTrained on manifest {record.manifest.content}:\n"
    yield "| split | lenses | others |\n|---|---:|---:|"
    for split in ("train", "val", "test"):
        yield f"| {split} | {rows.get(f'{split} lenses', 0):,} | {rows.get(f'{split} others', 0):,} |"
    yield "\n## How it did\n"
    yield from _results(record, metrics)
    yield "\n## Probabilities and thresholds\n"
    yield from _decisions(record)
    yield "\n## Limits\n"
    yield from _limits(record, metrics)
    yield f"\nRead back, this bundle differs from the run's own logits by at most {from_run:.2g}."
    if record.onnx:
        yield (
            f"`{record.onnx.file}` (opset {record.onnx.opset}, preprocessing included) differs from torch by at most "
            f"{record.onnx.max_difference:.2g} on {record.onnx.stamps} validation stamps; allowed are {record.onnx.tolerance:g}."
        )


def _results(record: BundleRecord, metrics: dict[str, Any] | None) -> Iterator[str]:
    if metrics is None or record.evaluation is None:
        yield "Not known: the bundle was made without an evaluation. Do not use it for more than a trial."
        return
    found = record.evaluation
    if len(record.members) > 1:
        yield f"The figures are those of member {found['run_id']} alone; the mean was not judged.\n"
    yield f"On the {found['split']} split, with 95% intervals:\n"
    yield "| figure | value | lenses | others |\n|---|---|---:|---:|"
    for entry in found["figures"].values():
        value = f"{entry['value']:.4f} ({entry['low']:.4f} to {entry['high']:.4f})"
        yield (
            f"| {entry['title']} | {value if entry['measurable'] else 'not measurable with so few others'} | "
            f"{entry['n_positive']} | {entry['n_negative']} |"
        )


def _decisions(record: BundleRecord) -> Iterator[str]:
    known = record.calibration
    told = ", ".join(f"{name} {value:.4g}" for name, value in known.parameters.items())
    yield (
        f"Probabilities: {known.method}{f' ({told})' if told else ''}, fitted to the validation split ({known.n_positive} lenses, "
        f"{known.n_negative} others). They hold where {known.prevalence:.2%} of the objects are lenses; in a survey lenses are "
        "hundreds of times rarer, so give the prevalence."
    )
    yield "\n| false-positive rate | logit | 95% | false positives, allowed | completeness |\n|---|---|---|---|---|"
    for entry in record.thresholds:
        yield _threshold(entry)
    yield (
        "\nAll are of the validation split, which also chose the epoch, and of its mix of others: galaxies of another selection "
        "pass at another rate."
    )


def _threshold(entry: Threshold) -> str:
    if entry.logit is None or entry.completeness is None:
        return f"| {entry.fpr:g} | not measured: {entry.reason} | | {entry.false_positives_allowed} | |"
    low, high = ("unbounded" if limit is None else f"{limit:.3f}" for limit in (entry.low, entry.high))
    value, least, most = entry.completeness
    return (
        f"| {entry.fpr:g} | {entry.logit:.4f} | {low} to {high} | {entry.false_positives} of {entry.n_negative}, "
        f"{entry.false_positives_allowed} | {value:.3f} ({least:.3f} to {most:.3f}) |"
    )


def _limits(record: BundleRecord, metrics: dict[str, Any] | None) -> Iterator[str]:
    known = record.input
    yield "It must not be used\n"
    yield "- as a confirmation: a high score is a candidate for somebody to look at, spectra decide;"
    yield "- for counts of lenses or their statistics without a measured selection function;"
    yield "- on stamps of other bands, units, pixel scales or sizes (which are refused), or of another survey (which nobody sees);"
    yield "- on objects that are not in the centre of their stamp: docs/guide/scoring_positions.md shows what that costs."
    if known.dec_deg:
        yield f"\nIts training stamps lie at declinations {known.dec_deg[0]:.2f} to {known.dec_deg[1]:.2f} degrees."
    if {"bricks", "tiles"} & set(known.routes):
        yield (
            f"\nIts stamps came by route {', '.join(known.routes)}. Stamps of the cutout service have been resampled once more and "
            "have about 11% less pixel noise: their scores are not those that the figures above are of."
        )
    failed = [] if record.evaluation is None else record.evaluation["failed"]
    if metrics is None:
        yield "\nWhether it uses a shortcut is not known: no audit was given."
    elif failed:
        yield "\nIn its audit these checks FAILED, so part of what it scores may be a shortcut:\n"
        for line in failed:
            yield f"- **{line['title']}**: {line['message']}"
    else:
        yield "\nNo check of its audit failed."
