"""The report of one judged run as a page, and its figures as files (R-E8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from lensdata.audit import verdicts
from lensdata.report import audit_figures, figures, page, sections
from lensdata.report.galleries import Picture

TILES = ("auc", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001", "average_precision", "catalogue_only_auc", "without_arcs_auc")
STRATA = {
    "type": "type", "tier": "tier", "confuser": "confuser", "psf": 'seeing in r (")', "depth": "depth in r (mag)",
    "nobs_z_bin": "z exposures", "theta_e": 'Einstein radius (")', "arc_snr": "arc S/N", "split": "split",
}  # fmt: skip


@dataclass(frozen=True)
class Material:
    """What the page of a run is made of.

    Attributes
    ----------
    found
        ``metrics.json``.
    facts
        What was run, as (name, value).
    records, best_epoch
        The run's epochs, and the one that was kept.
    rows
        Judged rows: ``label, logit, score``, and ``catalogue_score`` where there is one.
    manifest
        All rows of the manifest, for the sizes of the sample.
    steps
        Reports of the pipeline's steps, for what was dropped and how long it took.
    maps
        Mean attribution maps by method and label.
    """

    title: str
    subtitle: str
    found: dict[str, Any]
    facts: Sequence[tuple[str, Any]]
    records: Sequence[dict[str, Any]]
    best_epoch: int
    health: Sequence[dict[str, Any]]
    rows: pd.DataFrame
    manifest: pd.DataFrame
    steps: list[dict[str, Any]]
    galleries: Sequence[tuple[str, str, Sequence[Picture]]]
    findings: Sequence[str]
    maps: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    pixscale_arcsec: float = 0.262


def render(material: Material) -> tuple[str, dict[str, Figure]]:
    """The page, and its figures by name."""
    found = material.found
    drawn = draw(material)
    lines = found["verdicts"]
    contents = [
        (anchor, name)
        for anchor, name, there in (
            ("run", "What was run", True), ("sample", "Sample", True), ("training", "Training", True),
            ("performance", "Performance", True), ("strata", "Strata", True), ("calibration", "Calibration", True),
            ("gates", "Shortcuts in the data", "gates" in found), ("network", "What the network looks at", "sensitivity" in found),
            ("stacking", "Stacking", "stacking" in found), ("recovery", "Recovery of real lenses", "recovery" in found),
            ("paper_iv", "Paper IV", "paper_iv" in found), ("galleries", "Galleries", bool(material.galleries)),
            ("methods", "How to read it", True), ("time", "Wall time", bool(material.steps)),
        )
        if there
    ]  # fmt: skip
    shown = [
        value
        for value in found.values()
        if isinstance(value, dict) and {"title", "value", "low"} <= value.keys() and "check" not in value
    ]
    text = page.render(
        "report.html", title=material.title, subtitle=material.subtitle, contents=contents, found=found,
        tiles=[found[name] for name in TILES if name in found and _measurable(found[name])][:6], metrics=shown,
        findings=material.findings, lines=lines, counts=verdicts.counts(lines), facts=material.facts,
        sizes=sections.sizes(material.manifest), drops=sections.drops(material.steps), health=material.health,
        steps=material.steps, galleries=material.galleries, strata_titles=STRATA,
        figures={name: figures.svg(each) for name, each in drawn.items()},
    )  # fmt: skip
    return text, drawn


def _measurable(metric: dict[str, Any]) -> bool:
    return bool(metric.get("false_positives_allowed", 1))


def draw(material: Material) -> dict[str, Figure]:
    """Every figure that the numbers allow."""
    found, rows = material.found, material.rows
    groups = {"lenses": rows.loc[rows["label"] == 1, "score"], "others": rows.loc[rows["label"] == 0, "score"]}
    if "controls" in found:
        groups["lenses without arcs"] = found["controls"]["scores_control"]
    curves = {"network": rows["logit"]} | (
        {"catalogue only": rows["catalogue_score"]} if "catalogue_score" in rows else {}
    )
    groups_of = found["strata"]["groups"]
    drawn = {
        "learning": figures.learning_curves(material.records, material.best_epoch),
        "roc": figures.roc(rows["label"], curves),
        "scores": figures.score_histograms(groups),
        "reliability": figures.reliability(found["calibration"]["bins"], len(rows)),
        "confusers": figures.confusers(found["confusers"]),
    }
    if any("value" in entry["auc"] for entries in groups_of.values() for entry in entries):
        drawn["strata"] = audit_figures.strata(groups_of, found["auc"], STRATA)
    if any("value" in entry["auc"] for entry in groups_of.get("theta_e", [])):
        drawn["theta_e"] = audit_figures.theta_e(groups_of["theta_e"])
    if any("mean_score" in entry for entry in found["calibration"]["tail"]):
        drawn["tail"] = audit_figures.tail(found["calibration"]["tail"], len(rows))
    if "gates" in found:
        drawn["gates"] = audit_figures.gates(found["gates"]["gates"])
    if "sensitivity" in found:
        probed = found["sensitivity"]
        drawn["core"] = audit_figures.core_and_rings(probed["curves"], material.pixscale_arcsec)
        drawn["changes"] = audit_figures.changes(probed["curves"], (probed["n_positive"], probed["n_negative"]))
    if material.maps:
        methods = found["sensitivity"]["attribution"]["methods"]
        counts = {(entry["method"], entry["label"]): entry["n"] for entry in methods}
        drawn["attributions"] = audit_figures.attributions(material.maps, material.pixscale_arcsec, counts)
    return drawn


def findings(found: dict[str, Any]) -> list[str]:
    """Sentences that a reader should take away."""
    auc = found["auc"]
    out = [
        f"A lens outranks a galaxy that is none in {100 * auc['value']:.1f}% of pairs "
        f"(95% interval {100 * auc['low']:.1f} to {100 * auc['high']:.1f}%)."
    ]
    if "catalogue_only_auc" in found:
        floor = found["catalogue_only_auc"]
        below = floor["high"] < auc["low"]
        verdict = (
            "well below the network: the label is not in the catalogue" if below else "not clearly below the network"
        )
        out.append(
            f"A classifier that sees catalogue columns only, the floor that a network must beat, reaches {floor['value']:.3f} "
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
    if "gates" in found:
        out.append(_gates_sentence(found["gates"]["gates"]))
    if "sensitivity" in found:
        checks = {check["check"]: check for check in found["sensitivity"]["checks"]}
        core, arc = checks["core_reliance"], checks["arc_reliance"]
        if core["value"] is not None and arc["value"] is not None:
            out.append(
                f"Hiding the central 7 pixels costs {core['value']:.3f} of AUC ({core['verdict']}), smoothing the arc annulus "
                f"round costs {arc['value']:.3f} ({arc['verdict']})."
            )
    return out


def _gates_sentence(entries: Sequence[dict[str, Any]]) -> str:
    failed = sorted({entry["title"].lower() for entry in entries if entry["verdict"] == "FAIL"})
    if failed:
        return f"Shortcut gates fail: small classifiers tell the classes apart by {', '.join(failed)}."
    graded = [entry for entry in entries if entry["verdict"] in ("PASS", "WARN")]
    if not graded:
        return "No shortcut gate could be measured on this sample."
    return f"No shortcut gate fails ({sum(entry['verdict'] == 'WARN' for entry in graded)} of {len(graded)} warn)."
