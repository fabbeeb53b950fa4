"""The report of one judged run as a page, and its figures as files (R-E8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from lensdata.audit import verdicts
from lensdata.audit.regions import PIXSCALE_ARCSEC
from lensdata.report import audit_figures, completeness_figures, figures, page, sections
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
    pixscale_arcsec: float = PIXSCALE_ARCSEC


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
            ("observation", "Score and observation", True), ("stacking", "Stacking", "stacking" in found),
            ("recovery", "Recovery of real lenses", "recovery" in found),
            ("selection", "Selection function", "selection" in found),
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
        findings=material.findings, told=told(lines), counts=verdicts.counts(lines), facts=material.facts,
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
    if found.get("selection", {}).get("map"):
        drawn["selection"] = _selection_map(found["selection"])
    if material.maps:
        methods = found["sensitivity"]["attribution"]["methods"]
        counts = {(entry["method"], entry["label"]): entry["n"] for entry in methods}
        drawn["attributions"] = audit_figures.attributions(material.maps, material.pixscale_arcsec, counts)
    return drawn


def _selection_map(selection: dict[str, Any]) -> Figure:
    title = f"Completeness at FPR {selection['fpr_of_figures']:g}, {selection['injections']:,} injections"
    return completeness_figures.completeness_map(pd.DataFrame(selection["map"]), selection["brightness"], title)


def findings(found: dict[str, Any]) -> list[str]:
    """Sentences that a reader should take away."""
    auc = found["auc"]
    out = [
        f"A lens outranks a galaxy that is none in {100 * auc['value']:.1f}% of pairs "
        f"(95% interval {100 * auc['low']:.1f} to {100 * auc['high']:.1f}%)."
    ]
    if "catalogue_only_auc" in found:
        floor, more = found["catalogue_only_auc"], found["network_less_catalogue_auc"]
        chance = ", no better than chance" if floor["low"] <= 0.5 <= floor["high"] else ""
        beats = "the network beats it" if more["low"] > 0 else "the network is not shown to beat it"
        out.append(
            f"A classifier that sees catalogue columns only reaches {_range(floor)}{chance}; {beats}, by {_range(more)} on the "
            "same objects."
        )
    if "without_arcs_auc" in found:
        arcs, controls = found["without_arcs_auc"], found["controls"]
        alike = "like negatives" if arcs["low"] <= 0.5 <= arcs["high"] else "not quite like negatives"
        out.append(
            f"The same lenses rendered without their arcs score {alike}: AUC against negatives {_range(arcs)}, "
            f"median score {controls['median_score_control']:.3f} against "
            f"{controls['median_score_lens']:.3f} with arcs and {controls['median_score_negative']:.3f} for negatives."
        )
    if "gates" in found:
        out += _of_gates(found["gates"], auc)
    if "sensitivity" in found:
        out += _of_probes(found["sensitivity"])
    if "selection" in found:
        out += _of_selection(found["selection"])
    return out


def _of_gates(gates: dict[str, Any], auc: dict[str, Any]) -> list[str]:
    entries = gates["gates"]
    failed = sorted({entry["title"].lower() for entry in entries if entry["verdict"] == "FAIL"})
    graded = [entry for entry in entries if entry["verdict"] in ("PASS", "WARN", "FAIL")]
    if failed:
        out = [f"Shortcut gates fail: small classifiers tell the classes apart by {', '.join(failed)}."]
    elif not graded:
        out = ["No shortcut gate could be measured on this sample."]
    else:
        warned = sum(entry["verdict"] == "WARN" for entry in graded)
        missing = gates.get("not_judged", [])
        unjudged = f" Not held to limits here: {', '.join(missing).lower()}." if missing else ""
        out = [f"No shortcut gate fails ({warned} of {len(graded)} warn).{unjudged}"]
    floor = verdicts.highest_floor(entries)
    if floor is not None:
        out.append(
            f"The highest floor is that of the {floor['title'].lower()} ({floor['learner']}): {_range(floor['auc'])} on "
            f"{' and '.join(gates['sample']['splits'])}; the network has {_range(auc)}."
        )
    return out


def _of_probes(probed: dict[str, Any]) -> list[str]:
    lost = {(entry["probe"], entry["level"]): entry.get("auc_lost") for entry in probed["curves"]}
    told = [
        f"{what} costs {_range(lost[key])} of AUC"
        for key, what in (
            (("core_zero", 7.0), "hiding the central 7 pixels"),
            (("core_azimuthal", 7.0), "making them round"),
            (("arc_azimuthal", 0.0), "making the arc annulus round"),
        )
        if lost.get(key)
    ]
    if not told:
        return []
    text = "; ".join(told)
    return [
        f"{text[:1].upper()}{text[1:]} ({probed['n_positive']} lenses and {probed['n_negative']} others of {probed['split']})."
    ]


def _of_selection(selection: dict[str, Any]) -> list[str]:
    """The scrambled arc says whether light or shape was found."""
    shares = next((row for row in selection["shares"] if row["fpr"] == selection["fpr_of_figures"]), None)
    if shares is None or shares["reason"]:
        return []
    percent = {name: f"{100 * shares[name]['value']:.1f}%" for name in ("with_arc", "scrambled", "without_arc")}
    return [
        f"Of {selection['injections']:,} injected arcs {percent['with_arc']} are found at a false-positive rate of "
        f"{shares['fpr']:g}; with the same light scrambled it is {percent['scrambled']}, without it {percent['without_arc']}. "
        f"{selection['realism']['message']}"
    ]


def _range(found: dict[str, Any]) -> str:
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def told(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of a summary: what failed or warned, gates of one verdict and sample together."""
    out: list[dict[str, Any]] = []
    together: dict[tuple[str, str], dict[str, Any]] = {}
    for line in lines:
        if line["verdict"] not in ("FAIL", "WARN"):
            continue
        key = (line["verdict"], "hosts matched" if "hosts matched" in line["title"] else "as drawn")
        if line["section"] != "gates":
            out.append(line)
        elif key in together:
            together[key]["names"].append(line["title"].split(",")[0])
            together[key]["values"].append(line["value"])
        else:
            together[key] = line | {"names": [line["title"].split(",")[0]], "values": [line["value"]]}
            out.append(together[key])
    for (_, sample), line in together.items():
        if len(line["names"]) > 1:
            names = ", ".join(dict.fromkeys(line["names"])).lower()
            line |= {
                "title": f"Gates, {sample}: {names}",
                "low": min(line["values"]),
                "high": max(line["values"]),
                "spread": True,
                "message": f"{line['message'].split(': ', 1)[-1]} (AUC of {len(line['values'])} gates)",
            }
    return out
