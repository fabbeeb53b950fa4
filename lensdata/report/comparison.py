"""Several judged runs side by side (R-E8).

    python -m lensdata.report.comparison --output reports/two \\
        inputs.evaluations.a=runs/a/evaluate inputs.evaluations.b=runs/b/evaluate

An evaluation is a folder that ``ray_train.evaluate`` wrote. Where two judged the same rows, their differences are paired.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import pandas as pd

from lensdata import storage
from lensdata.audit import intervals, roc, verdicts
from lensdata.audit.delong import delong
from lensdata.audit.paired import mcnemar, paired_bootstrap
from lensdata.config.report import ReportConfig
from lensdata.errors import InputError
from lensdata.hashing import text_hash
from lensdata.jobs import JOBS
from lensdata.report import audit_figures, figures, page
from lensdata.steps import JobRun, Outcome, run_job

HEADLINE = (
    "auc",
    "tpr_at_fpr_0.01",
    "tpr_at_fpr_0.001",
    "tpr_at_fpr_0.0001",
    "average_precision",
    "precision_at_recall_0.9",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_job(JOBS["report"], report, sys.argv[1:] if argv is None else argv)


def report(run: JobRun) -> Outcome:
    """Read the evaluations, compare, write JSON, page and figures."""
    config: ReportConfig = run.config
    places = {name.removeprefix("evaluations."): uri for name, uri in run.inputs.items()}
    if len(places) < 2:
        raise InputError(
            f"A comparison needs two evaluations or more, found {len(places)}; one has its own report.html."
        )
    found = {name: _metrics(name, uri) for name, uri in places.items()}
    judged = {name: _judged(uri) for name, uri in places.items()}
    reference = config.reference or next(iter(places))
    if reference not in places:
        raise InputError(f"reference {reference!r} is none of the evaluations {', '.join(places)}.")
    compared = {"reference": reference, "differences": differences(judged, reference, config)}
    text, drawn = render(config.title, places, found, judged, compared)
    storage.write_json(storage.join(run.output, "comparison.json"), compared | {"evaluations": list(places)})
    storage.write_bytes(storage.join(run.output, "report.html"), text.encode())
    for name, figure in drawn.items():
        storage.write_bytes(storage.join(run.output, "figures", f"{name}.pdf"), figures.pdf(figure))
    return Outcome(len(places), text_hash(str(compared)), {"reference": reference})


def _metrics(name: str, uri: str) -> dict[str, Any]:
    address = storage.join(uri, "metrics.json")
    if not storage.exists(address):
        raise InputError(
            f"inputs.evaluations.{name}={uri} has no metrics.json; give a folder that ray_train.evaluate wrote."
        )
    found: dict[str, Any] = storage.read_json(address)
    if "schema_version" not in found:
        raise InputError(f"{address} was written by an older version; evaluate again with --force.")
    return found


def _judged(uri: str) -> pd.DataFrame:
    rows = pd.read_parquet(BytesIO(storage.read_bytes(storage.join(uri, "judged.parquet"))))
    return rows.sort_values("cutout_id", ignore_index=True)


def differences(judged: dict[str, pd.DataFrame], reference: str, config: ReportConfig) -> dict[str, Any]:
    """Paired differences of every evaluation less the reference, with Holm's p-values over all of them.

    Returns
    -------
    dict
        By evaluation: ``paired`` false with a ``reason`` where other rows were judged; or ``n_positive, n_negative`` and
        ``metrics``, each with ``value, low, high, p_value, p_holm``; ``delong_p`` of the AUC and ``mcnemar_p`` at a score of
        0.5. A rate that allows no false positive is left out. All of objects, not of patches of sky.
    """
    base, out = judged[reference], {}
    tests: list[dict[str, Any]] = []
    for name, rows in judged.items():
        if name == reference:
            continue
        if not rows[["cutout_id", "label"]].equals(base[["cutout_id", "label"]]):
            common = len(set(rows["cutout_id"]) & set(base["cutout_id"]))
            out[name] = {
                "paired": False,
                "reason": f"judged on other rows than {reference}: {common} of {len(rows)} in common",
            }
            continue
        label = rows["label"].to_numpy()
        negatives = int((label == 0).sum())
        levels = tuple(level for level in config.fpr_levels if roc.allowed(level, negatives))
        delongs = delong(label, rows["logit"], base["logit"]).difference()
        right = [(each["logit"] > 0) == (label == 1) for each in (rows, base)]
        metrics = {
            key: {"value": d.value, "low": d.low, "high": d.high, "p_value": d.p_value}
            for key, d in paired_bootstrap(
                label, rows["logit"], base["logit"], levels, config.resamples, config.seed
            ).items()
        }
        tests += metrics.values()
        out[name] = {
            "paired": True, "n_positive": len(rows) - negatives, "n_negative": negatives, "metrics": metrics,
            "delong_p": delongs.p_value, "mcnemar_p": mcnemar(*right),
        }  # fmt: skip
    for test, corrected in zip(
        tests, intervals.holm([test["p_value"] for test in tests]) if tests else [], strict=True
    ):
        test["p_holm"] = float(corrected)
    return out


def _unlike(found: dict[str, dict[str, Any]]) -> list[str]:
    """Why figures that stand side by side may not compare."""
    out = []
    if len({each["split"] for each in found.values()}) > 1:
        out.append("Different splits were judged.")
    shares = [
        each["auc"]["n_positive"] / (each["auc"]["n_positive"] + each["auc"]["n_negative"]) for each in found.values()
    ]
    if max(shares) > 1.1 * min(shares):
        out.append(
            "The shares of lenses differ: average precision and precision depend on them, AUC and completeness do not."
        )
    return out


def render(
    title: str,
    places: dict[str, str],
    found: dict[str, dict[str, Any]],
    judged: dict[str, pd.DataFrame],
    compared: dict[str, Any],
) -> tuple[str, dict[str, Any]]:
    """The page, and its figures by name."""
    rows = judged[compared["reference"]]
    alike = {
        name: each["logit"] for name, each in judged.items()
        if name == compared["reference"] or compared["differences"][name]["paired"]
    }  # fmt: skip
    shown = [
        key for key in HEADLINE
        if any(key in each and each[key].get("false_positives_allowed", 1) for each in found.values())
    ]  # fmt: skip
    drawn = {"side_by_side": audit_figures.side_by_side(found, shown), "roc": figures.roc(rows["label"], alike)}
    checks: dict[str, dict[str, str]] = {}
    for name, each in found.items():
        for line in each["verdicts"]:
            checks.setdefault(line["title"], {})[name] = line["verdict"]
    worst = sorted(
        checks.items(), key=lambda item: min(verdicts.VERDICTS.index(verdict) for verdict in item[1].values())
    )
    text = page.render(
        "comparison.html", title=title, places=places, found=found, compared=compared, checks=worst, shown=shown,
        figures={name: figures.svg(each) for name, each in drawn.items()},
        counts={name: verdicts.counts(each["verdicts"]) for name, each in found.items()}, warnings=_unlike(found),
    )  # fmt: skip
    return text, drawn


if __name__ == "__main__":
    sys.exit(main())
