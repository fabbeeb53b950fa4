"""Judge a run: metrics with intervals, floors and galleries, as ``metrics.json`` and ``report.html`` (R-E1, R-E2, R-E8)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pandas as pd

from lensdata import storage, tables
from lensdata.audit import baseline, metrics
from lensdata.config.evaluation import EvaluateConfig
from lensdata.errors import InputError
from lensdata.hashing import text_hash
from lensdata.jobs import JOBS
from lensdata.report import figures, galleries, page, sections
from lensdata.shards.manifests import Manifest, read_manifest, require_classes
from lensdata.steps import JobFailed, JobRun, Outcome, run_job
from ray_train.run_folder import RunFolder

JOB = JOBS["evaluate"]
TILES = ("auc", "tpr_at_fpr_0.01", "average_precision")
SECTIONS = (
    ("run", "What was run"),
    ("sample", "Sample"),
    ("training", "Training"),
    ("performance", "Performance"),
    ("galleries", "Galleries"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_job(JOB, evaluate, sys.argv[1:] if argv is None else argv)


def evaluate(run: JobRun) -> Outcome:
    """Read the scores of the judged split, measure, write JSON and page."""
    config: EvaluateConfig = run.config
    manifest = read_manifest(run.inputs["manifest"])
    require_classes(manifest, [config.split])
    frame = manifest.table.to_pandas()
    rows = judged_rows(run.inputs["run"], frame, config.split)
    if config.catalogue_baseline:
        rows = baseline.with_catalogue_score(rows, frame[frame["split"] == "train"], config.seed)
    found = measure(rows, run.inputs.get("controls"), config)
    auc = found["auc"]
    too_low = config.require_auc_above is not None and auc["value"] <= config.require_auc_above
    folder = f"{run.final}-failed" if too_low else run.output
    storage.remove(f"{run.final}-failed")
    storage.write_json(storage.join(folder, "metrics.json"), found)
    storage.write_bytes(storage.join(folder, "report.html"), _page(run, manifest, frame, rows, found).encode())
    if too_low:
        raise JobFailed(
            f"the AUC is {auc['value']:.4f}, required is more than {config.require_auc_above}; see {folder}/report.html"
        )
    report = {name: found[name] for name in ("auc", "average_precision")} | {"split": config.split}
    return Outcome(len(rows), text_hash(str(found)), report)


def judged_rows(run_uri: str, manifest: pd.DataFrame, split: str) -> pd.DataFrame:
    """Manifest rows of the split with the run's logit and score, joined by ``cutout_id``.

    Raises
    ------
    InputError
        The run did not score the rows of this manifest, or used them as another split.
    """
    scores = tables.read_table(storage.join(run_uri, "scores")).to_pandas()
    wanted = manifest[manifest["split"] == split]
    said = scores[["cutout_id", "logit", "score", "split"]].rename(columns={"split": "run_split"})
    rows = wanted.merge(said, on="cutout_id", how="left", validate="one_to_one")
    missing = int(rows["logit"].isna().sum())
    if missing:
        raise InputError(
            f"Run {run_uri} has no score for {missing} of {len(rows)} {split} rows; it was trained on another manifest."
        )
    elsewhere = int((rows["run_split"] != split).sum())
    if elsewhere:  # the test split is read once, and never by what chose the checkpoint (R-T10)
        raise InputError(
            f"Run {run_uri} used {elsewhere} of these {len(rows)} {split} rows as another split; judge it on its own manifest."
        )
    return rows


def measure(rows: pd.DataFrame, controls: str | None, config: EvaluateConfig) -> dict[str, Any]:
    """Everything of ``metrics.json``."""
    found: dict[str, Any] = dict(metrics.ranking(rows, config))
    if "catalogue_score" in rows:
        found["catalogue_only_auc"] = metrics.catalogue_only(rows, config)
    if controls is not None:
        against = metrics.against_controls(rows, tables.read_table(controls).to_pandas(), config)
        found["without_arcs_auc"] = against.pop("auc")
        found["lens_above_its_control"] = against.pop("lens_above_its_control")
        found["controls"] = against
    found["split"] = config.split
    found["resamples"] = config.resamples
    found["at_score_0.5"] = metrics.at_half(rows)
    found["calibration"] = metrics.calibrated(rows, config.calibration_bins)
    found["confusers"] = metrics.confuser_rates(rows)
    return found


def _page(run: JobRun, manifest: Manifest, frame: pd.DataFrame, rows: pd.DataFrame, found: dict[str, Any]) -> str:
    config: EvaluateConfig = run.config
    folder = RunFolder(run.inputs["run"])
    info, best = (storage.read_json(folder.path(name)) for name in ("run_info.json", "best.json"))
    reports = sections.step_reports(config.pipeline_folder)
    shown = [value for value in found.values() if isinstance(value, dict) and "title" in value]
    tiles = [found[name] for name in (*TILES, "catalogue_only_auc", "without_arcs_auc") if name in found]
    controls = found.get("controls", {})
    groups = {"lenses": rows.loc[rows["label"] == 1, "score"], "others": rows.loc[rows["label"] == 0, "score"]}
    if controls:
        groups["lenses without arcs"] = controls["scores_control"]
    health = (
        storage.read_json(folder.path("health.json")) if storage.exists(folder.path("health.json")) else {"checks": []}
    )
    return page.render(
        "report.html",
        title=config.title,
        subtitle=f"Run {info['run_id']}, network {info['model']}, judged on the {config.split} split: "
        f"{int(rows['label'].sum())} lenses and {int((rows['label'] == 0).sum())} others.",
        contents=[*SECTIONS, *([("time", "Wall time")] if reports else [])],
        tiles=tiles, findings=findings(found), facts=_facts(info, best), sizes=sections.sizes(frame), drops=sections.drops(reports),
        health=health["checks"], split=config.split, metrics=shown, resamples=config.resamples, calibration=found["calibration"],
        half=found["at_score_0.5"], galleries=_galleries(manifest, rows, config.gallery_stamps), steps=reports,
        controls=bool(controls), has_confusers=bool(rows.get("confuser", pd.Series(dtype=object)).notna().any()),
        figures={
            "learning": figures.learning_curves(folder.records(), int(best["epoch"])),
            "roc": figures.roc(rows["label"], rows["logit"], rows.get("catalogue_score")),
            "scores": figures.score_histograms(groups),
            "reliability": figures.reliability(found["calibration"]["bins"], len(rows)),
            "confusers": figures.confusers(found["confusers"]),
        },
    )  # fmt: skip


def findings(found: dict[str, Any]) -> list[str]:
    """Sentences that a reader should take away."""
    auc = found["auc"]
    out = [
        f"A lens outranks a galaxy that is none in {100 * auc['value']:.1f}% of pairs "
        f"(95% interval {100 * auc['low']:.1f} to {100 * auc['high']:.1f}%)."
    ]
    if "catalogue_only_auc" in found:
        floor = found["catalogue_only_auc"]
        verdict = (
            "well below the network: the label is not in the catalogue"
            if floor["high"] < auc["low"]
            else "not clearly below the network"
        )
        out.append(
            f"A classifier that sees catalogue columns only reaches {floor['value']:.3f} "
            f"({floor['low']:.3f} to {floor['high']:.3f}), {verdict}."
        )
    if "without_arcs_auc" in found:
        arcs, controls = found["without_arcs_auc"], found["controls"]
        alike = "like negatives" if arcs["low"] <= 0.5 <= arcs["high"] else "not quite like negatives"
        out.append(
            f"The same lenses rendered without their arcs score {alike}: AUC against negatives {arcs['value']:.3f} "
            f"({arcs['low']:.3f} to {arcs['high']:.3f}), median score {controls['median_score_control']:.3f} against "
            f"{controls['median_score_lens']:.3f} with arcs and {controls['median_score_negative']:.3f} for negatives."
        )
    return out


def _facts(info: dict[str, Any], best: dict[str, Any]) -> list[tuple[str, Any]]:
    hardware = info["hardware"]
    gpus = ", ".join(map(str, hardware["gpus"])) or "none"
    return [
        ("run", info["run_id"]), ("network", info["model"]), ("parameters", info["parameters"]), ("best epoch", best["epoch"]),
        ("seed", info["seed"]), ("configuration hash", info["config"]["hash"]), ("manifest content", info["manifest"]["content"]),
        ("commit", info["git_commit"]), ("trained (UTC)", info["utc"]), ("python", info["python"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in info["versions"].items() if version)),
        ("hardware", f"{hardware['cores']} cores, {hardware['threads']} threads, GPUs: {gpus}"),
        ("command", " ".join(info["command"])),
    ]  # fmt: skip


def _galleries(manifest: Manifest, rows: pd.DataFrame, limit: int) -> list[tuple[str, str, list[galleries.Picture]]]:
    if limit == 0:
        return []
    lenses, others = rows[rows["label"] == 1], rows[rows["label"] == 0]
    wanted = (
        (
            "Lenses found",
            "True lenses with a score above 0.5, the most confident first.",
            lenses[lenses["score"] > 0.5].nlargest(limit, "logit"),
        ),
        (
            "Lenses missed",
            "True lenses with a score of at most 0.5, the most confident miss first.",
            lenses[lenses["score"] <= 0.5].nsmallest(limit, "logit"),
        ),
        (
            "Highest negatives",
            "Negatives with the highest scores: confusers, or lenses that nobody has found yet.",
            others.nlargest(limit, "logit"),
        ),
    )
    out = []
    for name, note, chosen in wanted:
        if len(chosen):
            part = manifest.take_ids(chosen["cutout_id"].tolist())
            out.append((name, note, galleries.pictures(chosen, part.stamps(), part.layout().unit)))
    return out


if __name__ == "__main__":
    sys.exit(main())
