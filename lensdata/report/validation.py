"""The page of a validated sample (R-S8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lensdata.catalogue.checks import Check, verdict
from lensdata.catalogue.covariates import BY_NAME, COVARIATES
from lensdata.config.catalogue import ValidateCatalogueConfig
from lensdata.report import page, sample_figures, sections
from lensdata.report.galleries import Picture
from lensdata.sky.splits import assign_splits

PER_STRATUM = ("mag_r", "gr", "shape_r", "psfsize_r", "psfdepth_r", "nobs_z")  # drawn for each stratum as well
GALLERY_NOTES = {
    "positives": "Lenses and candidates.",
    "N1": "Negatives as deployment meets them: random within their stratum.",
    "merger": "Confusers: close pairs of comparable flux, mergers and tidal features.",
    "ring": "Confusers: bright and concentrated, the ring proxy.",
    "edge_on": "Confusers: edge-on disks.",
    "blue": "Confusers: blue and clumpy.",
    "large": "Confusers: large and bright.",
}


def render(
    sample: pd.DataFrame,
    checks: list[Check],
    numbers: dict[str, Any],
    config: ValidateCatalogueConfig,
    pictures: Mapping[str, list[Picture]],
) -> str:
    """Fill the page.

    Parameters
    ----------
    sample
        The rows that were checked.
    numbers
        What ``validation.json`` holds: ``counts, gate, covariates`` and, with stamps, ``duplicates``.
    pictures
        Example stamps per kind.
    """
    duplicates = numbers.get("duplicates")
    contents = [("checks", "Checks"), ("counts", "Counts"), ("sky", "Sky"), ("conditions", "Observing conditions"),
                ("covariates", "Covariates")]  # fmt: skip
    contents += [("duplicates", "Duplicates")] if duplicates else []
    contents += [("examples", "Examples")] if pictures else []
    positives = int((sample["label"] == 1).sum())
    return page.render(
        "validation.html", verdict=verdict(checks), checks=checks, contents=contents, rows=len(sample), positives=positives,
        sizes=sections.sizes(sample), counts=numbers["counts"], sky=_sky(sample, config), gate=numbers["gate"], rule=config.gate,
        covariates=_covariate_rows(numbers["covariates"]), panels=_panels(sample, numbers["covariates"]),
        strata=_strata(numbers["covariates"]), stratum_panels=_stratum_panels(sample, numbers["covariates"]),
        duplicates=duplicates, keep_together=config.groups == "keep_together",
        galleries=[(kind.replace("_", "-"), GALLERY_NOTES[kind], shown) for kind, shown in pictures.items()],
    )  # fmt: skip


def _sky(sample: pd.DataFrame, config: ValidateCatalogueConfig) -> dict[str, Any]:
    if sample.empty:
        return {}
    limits = config.footprint.limits
    return {
        "splits": sample_figures.sky_of_splits(sample, limits),
        "classes": sample_figures.sky_of_classes(sample, limits),
        "close_up": sample_figures.sky_close_up(
            sample, lambda pixel: assign_splits(pixel, config.seed, config.train_fraction, config.val_fraction)
        ),
        "limits": f"{limits[0]:g}° to {limits[1]:g}°",
    }


def _covariate_rows(covariates: dict[str, Any]) -> list[dict[str, Any]]:
    """The overall comparison, the most different first; covariates that one class lacks are left out."""
    rows = [{"label": BY_NAME[name].label, **found["all"]} for name, found in covariates.items() if found["all"]]
    return sorted(rows, key=lambda row: -row["ks"])


def _panels(sample: pd.DataFrame, covariates: dict[str, Any]) -> list[tuple[str, str]]:
    out = []
    for covariate in COVARIATES:
        figure = sample_figures.distribution(sample, covariate, _ks_note(covariates[covariate.name]["all"]))
        if figure is not None:
            out.append((covariate.label, figure))
    return out


def _stratum_panels(sample: pd.DataFrame, covariates: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    out = []
    for name in PER_STRATUM:
        panels = []
        for stratum in [where for where in covariates[name] if where != "all"]:
            note = f"{stratum}  {_ks_note(covariates[name][stratum])}".rstrip()
            figure = sample_figures.distribution(sample[sample["stratum"] == stratum], BY_NAME[name], note)
            if figure is not None:
                panels.append((stratum, figure))
        if panels:
            out.append((BY_NAME[name].label, panels))
    return out


def _ks_note(found: dict[str, Any] | None) -> str:
    return f"KS {found['ks']:.2f}" if found else ""


def _strata(covariates: dict[str, Any]) -> tuple[list[str], list[tuple[str, list[dict[str, Any] | None]]]]:
    """KS distances as a table: (strata, [(covariate, numbers per stratum)])."""
    names = [where for where in next(iter(covariates.values())) if where != "all"]
    return names, [(BY_NAME[name].label, [found[where] for where in names]) for name, found in covariates.items()]
