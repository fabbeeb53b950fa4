"""Judge a run: metrics with intervals, floors and galleries, as ``metrics.json`` and ``report.html`` (R-E1, R-E2, R-E8)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml

from lensdata import storage, tables
from lensdata.audit import baseline, calibration_sections, metrics, paper_iv, strata, verdicts
from lensdata.audit.regions import PIXSCALE_ARCSEC
from lensdata.config.evaluation import EvaluateConfig
from lensdata.errors import InputError
from lensdata.hashing import text_hash
from lensdata.jobs import JOBS
from lensdata.report import audit_page, figures, galleries, sections
from lensdata.shards.manifests import Manifest, read_manifest, require_classes
from lensdata.steps import JobFailed, JobRun, Outcome, run_job
from ray_train import audit_inputs
from ray_train.run_folder import RunFolder
from ray_train.training import write_part

JOB = JOBS["evaluate"]
METRICS_VERSION = 1  # of metrics.json; lensdata/report/metrics.schema.json describes it
JUDGED = ("cutout_id", "label", "logit", "healpix_128", "group_id")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_job(JOB, evaluate, sys.argv[1:] if argv is None else argv)


def evaluate(run: JobRun) -> Outcome:
    """Read the scores of the judged split, measure, write JSON and page."""
    config: EvaluateConfig = run.config
    manifest = read_manifest(run.inputs["manifest"])
    require_classes(manifest, [config.split])
    audit_inputs.require_own(run)
    frame = manifest.table.to_pandas()
    rows = judged_rows(run.inputs["run"], frame, config.split)
    if config.catalogue_baseline:
        rows = baseline.with_catalogue_score(rows, frame[frame["split"] == "train"], config.seed)
    others = other_rows(run.inputs["run"], frame, config.split)
    found = measure(rows, run.inputs.get("controls"), config, others)
    found = {"schema_version": METRICS_VERSION} | found | audit_inputs.audits(run, frame, rows, config)
    text, drawn = audit_page.render(material_of(run, manifest, frame, rows, found))
    failures = unmet(found, config)
    folder = f"{run.final}-failed" if failures else run.output
    storage.remove(f"{run.final}-failed")
    storage.write_json(storage.join(folder, "metrics.json"), found)
    storage.write_bytes(storage.join(folder, "report.html"), text.encode())
    for name, figure in drawn.items():
        storage.write_bytes(storage.join(folder, "figures", f"{name}.pdf"), figures.pdf(figure))
    write_judged(rows, storage.join(folder, "judged.parquet"))
    if failures:
        raise JobFailed(f"{'; '.join(failures)}; see {folder}/report.html")
    report = {name: found[name] for name in ("auc", "average_precision")} | {"split": config.split}
    return Outcome(len(rows), text_hash(str(found)), report)


def unmet(found: dict[str, Any], config: EvaluateConfig) -> list[str]:
    """The requirements of the configuration that the numbers do not meet."""
    auc, ece = found["auc"]["value"], found["calibration"]["ece"]
    out = []
    if config.require_auc_above is not None and auc <= config.require_auc_above:
        out.append(f"the AUC is {auc:.4f}, required is more than {config.require_auc_above}")
    if config.require_ece_below is not None and ece >= config.require_ece_below:
        out.append(f"the calibration error is {ece:.4f}, required is less than {config.require_ece_below}")
    return out


def write_judged(rows: pd.DataFrame, uri: str) -> None:
    """What a comparison with another run needs: key, label, logit and place in the sky of the judged rows."""
    known = [name for name in JUDGED if name in rows]
    write_part(pa.Table.from_pandas(rows[known], preserve_index=False), uri)


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
    broken = int((~np.isfinite(scores["logit"])).sum())
    if broken:
        raise InputError(f"Run {run_uri} has {broken} scores that are not finite numbers; score its stamps again.")
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


def other_rows(run_uri: str, manifest: pd.DataFrame, judged: str) -> pd.DataFrame:
    """Scored rows of the other splits, where manifest and run agree on the split; of test never any (R-T10)."""
    wanted = manifest[~manifest["split"].isin([judged, "test"])]
    said = tables.read_table(storage.join(run_uri, "scores")).to_pandas()[["cutout_id", "split", "logit", "score"]]
    return wanted.merge(said, on=["cutout_id", "split"], how="inner", validate="one_to_one")


def measure(
    rows: pd.DataFrame, controls: str | None, config: EvaluateConfig, others: pd.DataFrame | None = None
) -> dict[str, Any]:
    """Everything of ``metrics.json``.

    Parameters
    ----------
    rows
        Judged rows of the manifest with ``logit, score``.
    controls
        Table with the scores of control stamps.
    others
        Scored rows of other splits: recalibrations are fitted to those of validation, and strata compare splits.
    """
    found: dict[str, Any] = dict(metrics.ranking(rows, config))
    if "catalogue_score" in rows:
        found["catalogue_only_auc"] = metrics.catalogue_only(rows, config)
        found["network_less_catalogue_auc"] = metrics.above_catalogue(rows, config)
    if controls is not None:
        against = metrics.against_controls(rows, tables.read_table(controls).to_pandas(), config)
        found["without_arcs_auc"] = against.pop("auc")
        found["lens_above_its_control"] = against.pop("lens_above_its_control")
        found["controls"] = against
    found["accuracy"] = metrics.accuracy(rows)
    found["split"] = config.split
    found["resamples"] = config.resamples
    found["at_score_0.5"] = metrics.at_half(rows)
    found["purity"] = metrics.purity(rows, config)
    found["calibration"] = calibration_sections.calibrated(rows, config)
    validation = None if others is None or config.split == "val" else others[others["split"] == "val"]
    found["recalibration"] = calibration_sections.recalibrated(rows, validation, config)
    found["strata"] = strata.stratified(rows, others, config)
    found["confusers"] = metrics.confuser_rates(rows)
    return found


def material_of(
    run: JobRun, manifest: Manifest, frame: pd.DataFrame, rows: pd.DataFrame, found: dict[str, Any]
) -> audit_page.Material:
    """Everything the page shows; adds to ``found`` what needs the run's own files."""
    config: EvaluateConfig = run.config
    folder = RunFolder(run.inputs["run"])
    info, best = (storage.read_json(folder.path(name)) for name in ("run_info.json", "best.json"))
    settings = yaml.safe_load(storage.read_bytes(folder.path("config.yaml")))
    stored = folder.path("health.json")
    health = storage.read_json(stored)["checks"] if storage.exists(stored) else []
    found["run"] = {"run_id": info["run_id"], "model": info["model"], "parameters": info["parameters"], "seed": info["seed"],
                    "git_commit": info["git_commit"], "manifest": info["manifest"]["content"]}  # fmt: skip
    found["paper_iv"] = paper_iv.comparison(found["auc"], config.split, info | {"settings": settings}, best)
    found["targets"] = verdicts.targets(config.targets, found)
    found["verdicts"] = verdicts.collect(found, health)
    maps = audit_inputs.mean_maps(run.inputs["probe"]) if "probe" in run.inputs else {}
    scale = float(maps.pop("pixscale_arcsec", PIXSCALE_ARCSEC))
    maps.pop("area", None)
    lenses = int(rows["label"].sum())
    return audit_page.Material(
        title=config.title,
        subtitle=f"Run {info['run_id']}, network {info['model']}, judged on the {config.split} split: "
        f"{lenses} lenses and {len(rows) - lenses} others.",
        found=found, facts=_facts(info, best), records=folder.records(), best_epoch=int(best["epoch"]), health=health, rows=rows,
        manifest=frame, steps=sections.step_reports(config.pipeline_folder),
        galleries=_galleries(manifest, rows, config.gallery_stamps), findings=audit_page.findings(found),
        maps=maps, pixscale_arcsec=scale,
    )  # fmt: skip


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
