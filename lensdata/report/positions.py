"""The page of scored positions: what passed, what it looks like, and what became of the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lensdata.report.galleries import jpeg_uri, to_rgb, viewer_link
from lensdata.report.page import render as render_template

Stamps = Callable[[Sequence[int]], npt.NDArray[Any]]
"""From keys of stored stamps to (n, H, W, bands) in nanomaggies."""
BLOCK = 256  # stamps in memory at once

# What a reason means, by how it begins; the first that fits.
MEANINGS = (
    ("ra_not_a_number", "the right ascension is missing or no number; decimal degrees are needed"),
    ("dec_not_a_number", "the declination is missing or no number; decimal degrees are needed"),
    ("ra_out_of_range", "the right ascension is not within -360 to 360 degrees"),
    ("dec_out_of_range", "the declination is not within -90 to 90 degrees"),
    ("empty_band_", "a band has no data there"),
    ("missing_pixels_", "too many pixels of a band have no data"),
    ("saturated", "a bright star"),
    ("edge_artefact", "a straight seam: the edge of an exposure"),
    ("http_500", "the service failed; outside the survey it always does"),
    ("http_404", "the service knows no such address"),
    ("http_", "the service refused"),
    ("no_such_layer", "the service does not know the layer"),
    ("wrong_", "the service sent something else than was asked for"),
    ("not_fits", "the service sent no image"),
    ("truncated", "the answer broke off"),
    ("timeout", "no answer in time"),
    ("connection", "no connection"),
    ("no_number_from_network", "the network gave no number for this stamp"),
)


@dataclass(frozen=True)
class Facts:
    """What the page says of the model.

    Attributes
    ----------
    thresholds
        (false-positive rate, logit or None, reason).
    failed
        Checks of its audit that failed.
    judged
        Whether the bundle holds an evaluation.
    off_centre_arcsec
        From here on a stamp counts as off its galaxy.
    """

    model: str
    networks: str
    sha256: str
    thresholds: list[tuple[float, float | None, str | None]]
    calibration: str
    validation_prevalence: float
    prevalence: float
    failed: list[str]
    judged: bool
    lens_radius_arcsec: float
    off_centre_arcsec: float


def meaning(reason: str) -> str:
    """A reason in words.

    >>> meaning("missing_pixels_z")
    'too many pixels of a band have no data'
    """
    return next((words for start, words in MEANINGS if reason.startswith(start)), reason.replace("_", " "))


def render(found: pd.DataFrame, stamps: Stamps, facts: Facts, notes: Sequence[str], page_rows: int) -> str:
    """The page as HTML that needs no network; links lead to the sky viewer.

    Parameters
    ----------
    found
        Rows of `tables.POSITION_SCORES`.
    page_rows
        Scored rows to show; the highest logits come first.
    """
    scored = found[found["outcome"] == "scored"].sort_values(["logit", "row"], ascending=[False, True])
    rest = found[found["outcome"] != "scored"]
    shown = scored.head(page_rows)
    pictures = _pictures(shown["cutout_id"].astype(np.int64).unique().tolist(), stamps)
    return render_template(
        "positions.html", facts=facts, notes=list(notes), tiles=_tiles(found, scored, facts),
        rows=[_row(row, pictures, facts) for row in shown.to_dict("records")], left_out=len(scored) - len(shown),
        rest=[_unscored(row) for row in rest.head(page_rows).to_dict("records")], rest_left_out=max(0, len(rest) - page_rows),
        counts=[(outcome, reason, meaning(reason), count) for (outcome, reason), count in _counts(rest)],
        title=f"{len(found):,} positions, {len(scored):,} scored",
    )  # fmt: skip


def _counts(rest: pd.DataFrame) -> list[tuple[tuple[str, str], int]]:
    return Counter(zip(rest["outcome"], rest["reason"].fillna("unknown"), strict=True)).most_common()


def _tiles(found: pd.DataFrame, scored: pd.DataFrame, facts: Facts) -> list[tuple[str, str, str]]:
    """(number, what, more) of the summary."""
    again = int(scored["reason"].notna().sum())
    tiles = [
        (f"{len(found):,}", "rows in your table", f"{again:,} at the place of an earlier one" if again else ""),
        (f"{len(scored):,}", "scored", f"{len(found) - len(scored):,} not, each with its reason"),
    ]
    unmeasured = [(f"{fpr:g}", reason) for fpr, logit, reason in facts.thresholds if logit is None]
    for fpr, logit, _ in facts.thresholds:
        if logit is not None:
            passed = int(scored[f"passes_fpr_{fpr:g}"].fillna(False).sum())
            chance = f"about {fpr * len(scored):.2g} expected of its validation split's others"
            tiles.append((f"{passed:,}", f"pass at FPR {fpr:g} (logit {logit:.2f})", chance))
    if unmeasured:
        tiles.append(("–", f"at FPR {' and '.join(fpr for fpr, _ in unmeasured)}", f"not measured: {unmeasured[0][1]}"))
    known = int(found["known_lens"].notna().sum())
    tiles.append((f"{known:,}", "at a known lens", f"within {facts.lens_radius_arcsec:g} arcsec"))
    return tiles


def _pictures(keys: list[int], stamps: Stamps) -> dict[int, str]:
    found = {}
    for start in range(0, len(keys), BLOCK):
        part = keys[start : start + BLOCK]
        for key, stamp in zip(part, stamps(part), strict=True):
            found[key] = jpeg_uri(to_rgb(stamp, "nanomaggy"))
    return found


def _row(row: dict[str, Any], pictures: dict[int, str], facts: Facts) -> dict[str, Any]:
    passed = [
        name.removeprefix("passes_fpr_") for name, value in row.items() if name.startswith("passes_") and value is True
    ]
    lens = row["known_lens"]
    return {
        "row": row["row"],
        "name": row["id"] or f"row {row['row']}",
        "position": f"{row['ra']:.5f} {row['dec']:+.5f}",
        "link": viewer_link(row["ra"], row["dec"]),
        "picture": pictures[int(row["cutout_id"])],
        "logit": f"{row['logit']:.2f}",
        "probability": _percent(row["probability"]),
        "survey": _percent(row["survey_probability"]),
        "passes": min(passed, key=float) if passed else None,
        "lens": f"{lens} ({row['known_lens_grading']}), {row['separation_arcsec']:.1f} arcsec" if lens else None,
        "off": f"{row['light_offset_arcsec']:.1f}" if row["light_offset_arcsec"] > facts.off_centre_arcsec else None,
        "note": (row["reason"] or "").replace("_", " "),
    }


def _unscored(row: dict[str, Any]) -> dict[str, Any]:
    placed = np.isfinite(row["ra"]) and np.isfinite(row["dec"])
    valid = row["outcome"] != "invalid"
    return {
        "row": row["row"],
        "name": row["id"] or f"row {row['row']}",
        "position": f"{row['ra']:.5f} {row['dec']:+.5f}" if placed else "–",
        "link": viewer_link(row["ra"], row["dec"]) if valid else None,
        "outcome": row["outcome"],
        "reason": meaning(row["reason"] or "unknown"),
        "code": row["reason"] or "unknown",
        "lens": row["known_lens"],
    }


def _percent(value: float) -> str:
    """A probability in per cent, two digits.

    >>> _percent(0.98765), _percent(0.000123), _percent(0.99999)
    ('98.8%', '0.012%', '>99.9%')
    """
    if value > 0.999:
        return ">99.9%"
    return f"{100 * value:.1f}%" if value >= 0.01 else f"{100 * value:.2g}%" if value >= 1e-6 else "<0.0001%"
