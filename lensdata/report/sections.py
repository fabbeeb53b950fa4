"""What the report says about the steps before training: sizes, drops with reasons, wall time."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lensdata import storage


def step_reports(folder: str | None) -> list[dict[str, Any]]:
    """``_report.json`` of every finished step in a pipeline's folder, in the order in which they ran."""
    if folder is None:
        return []
    found = []
    for name in storage.list_files(folder, "_report.json"):
        parts = name.removeprefix(folder).strip("/").split("/")
        if len(parts) == 2:
            report = storage.read_json(name)
            if "step" in report:
                found.append({"name": parts[0], **report})
    return sorted(found, key=lambda report: str(report.get("provenance", {}).get("utc", "")))


def drops(reports: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    """(step, reason, objects) of everything that was dropped."""
    keys = ("rows_per_reason", "without_positive", "shortfall", "reasons", "dropped_per_reason")
    titles = {"shortfall": "negatives wanted but not available: "}
    out = []
    for report in reports:
        for key in keys:
            for reason, count in dict(report.get(key) or {}).items():
                told = key == "dropped_per_reason" and reason not in ("not_requested", "excluded_brick")  # by the fetch
                if count and reason != "kept" and not told:
                    out.append((report["name"], titles.get(key, "") + str(reason).replace("_", " "), int(count)))
        if report.get("duplicate_rows"):
            out.append((report["name"], "the same source in two sweep files", int(report["duplicate_rows"])))
    return out


def sizes(manifest: pd.DataFrame) -> tuple[list[str], list[tuple[str, list[int]]]]:
    """Objects by stratum, and by split and label: (column names, rows)."""
    cells = [
        (split, label) for split in ("train", "val", "test") for label in (1, 0) if (manifest["split"] == split).any()
    ]
    names = [f"{split} {'lenses' if label else 'others'}" for split, label in cells]
    if "stratum" in manifest and manifest["stratum"].notna().any():
        strata = manifest["stratum"].fillna("outside the strata")
    else:
        strata = pd.Series("all", index=manifest.index)
    rows = []
    for stratum, group in [*manifest.groupby(strata), ("total", manifest)]:
        counts = [int(((group["split"] == split) & (group["label"] == label)).sum()) for split, label in cells]
        rows.append((str(stratum), counts))
    if len(rows) == 2:
        rows = rows[1:]
    return names, rows
