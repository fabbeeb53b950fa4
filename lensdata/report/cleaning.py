"""The page of a cleaned manifest: how many negatives were flagged, looked at and found, and what it does to the figures (R-N1)."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lensdata.cleaning.outcomes import BY, DROP, RELABEL
from lensdata.config.cleaning import CleanConfig
from lensdata.report import galleries, page
from lensdata.shards.manifests import Manifest

GALLERIES = (
    ("Taken out or relabelled", "Negatives that are no negatives any more, the highest probability first."),
    ("Looked at and kept", "Graded no lens, or left undecided. Confusers are the most useful negatives there are."),
    ("Flagged, and nobody looked", "Highest probabilities without a grade: look at these next (lensdata vet)."),
)


def render(manifest: Manifest, rows: pd.DataFrame, found: dict[str, Any], config: CleanConfig) -> str:
    """Fill the page.

    Parameters
    ----------
    rows
        Of `lensdata.cleaning.outcomes.with_outcomes`.
    found
        What ``audit.json`` holds.
    """
    rows = rows.assign(score=rows["probability"].astype(float))  # null where nobody ranked: last, and said so
    negatives = rows[rows["label"] == 0].sort_values(["score", "cutout_id"], ascending=[False, True])
    changed = negatives["outcome"].isin([DROP, RELABEL])
    looked_at, flagged = negatives["verdict"].notna(), negatives["flagged"].eq(True)
    chosen = (negatives[changed], negatives[~changed & looked_at], negatives[~changed & ~looked_at & flagged])
    shown = [
        (title, note, len(part), _pictures(manifest, part.head(config.gallery_stamps)))
        for (title, note), part in zip(GALLERIES, chosen, strict=True)
    ]
    groups = [(name, found[f"by_{name}"]) for name in BY if f"by_{name}" in found]
    return page.render(
        "cleaning.html", found=found, groups=groups, galleries=shown if config.gallery_stamps else [], config=config,
        inspected=bool(found["inspected"]),
    )  # fmt: skip


def _pictures(manifest: Manifest, rows: pd.DataFrame) -> list[galleries.Picture]:
    if rows.empty:
        return []
    part = manifest.take_ids(rows["cutout_id"].tolist())
    return galleries.pictures(rows, part.stamps(), part.layout().unit)
