"""What other steps found about a run: read, and held to be of this run and this manifest."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lensdata import storage, tables
from lensdata.audit import metadata, recovery, sensitivity
from lensdata.config.evaluation import EvaluateConfig
from lensdata.errors import InputError
from lensdata.steps import JobRun

PROBE_RESAMPLES = 2000  # of each of some fifty curves
MADE_OF = {  # which inputs of another step's output have to be those of the evaluation
    "gates": ("manifest", "run"), "probe": ("manifest", "run"), "stack": ("manifest",), "controls": ("run",), "recovery": ("run",),
    "selection": ("run",),
}  # fmt: skip

OF_SELECTION = (
    "injections", "hosts", "cells", "brightness", "fpr_of_figures", "thresholds", "totals", "shares", "realism", "map",
)  # fmt: skip
"""What a report shows of a selection function; the step's own page has the rest."""


def require_own(run: JobRun) -> None:
    """Refuse outputs of other steps that were made of another run or manifest than the judged ones.

    Raises
    ------
    InputError
        One of them was.
    """
    ours = run.identity.get("inputs", {})
    for name, uri in run.inputs.items():
        described = storage.join(uri, "_table.json")
        wanted = MADE_OF.get(name.partition(".")[0], ())
        theirs = storage.read_json(described).get("identity", {}).get("inputs", {}) if storage.exists(described) else {}
        for part in wanted:
            if part in theirs and theirs[part] != ours[part]:
                raise InputError(
                    f"inputs.{name}={uri} was made of another {part} than inputs.{part}={run.inputs[part]}; make it again with "
                    "that one."
                )


def audits(run: JobRun, manifest: pd.DataFrame, rows: pd.DataFrame, config: EvaluateConfig) -> dict[str, Any]:
    """Gates, probes, stacking and lists of real lenses, as far as they are given; and what the score knows of the observation.

    Parameters
    ----------
    manifest
        All rows of the manifest.
    rows
        Judged rows with ``logit``.
    """
    found: dict[str, Any] = {}
    if "gates" in run.inputs:
        found["gates"] = storage.read_json(storage.join(run.inputs["gates"], "gates.json"))
    if "stack" in run.inputs:
        found["stacking"] = storage.read_json(storage.join(run.inputs["stack"], "stacking.json"))
    if "probe" in run.inputs:
        found["sensitivity"] = _sensitivity(run.inputs["probe"], manifest, config)
    if "selection" in run.inputs:
        whole = storage.read_json(storage.join(run.inputs["selection"], "selection.json"))
        found["selection"] = {name: whole[name] for name in OF_SELECTION}
    negatives = rows[rows["label"] == 0]
    found["metadata_regression"] = metadata.regression(negatives, min(config.resamples, PROBE_RESAMPLES), config.seed)
    found["metadata"] = metadata.verdict(found["metadata_regression"])
    lists = {name.removeprefix("recovery."): uri for name, uri in run.inputs.items() if name.startswith("recovery.")}
    strange = sorted(set(config.circular_lists) - set(lists))
    if strange:
        raise InputError(f"circular_lists names {', '.join(strange)}; the lists are {', '.join(lists) or 'none'}.")
    seen = set(manifest.loc[manifest["split"].isin(["train", "val"]), "cutout_id"].tolist())
    for name, uri in lists.items():
        listed = tables.read_table(uri, tables.SCORES).to_pandas()
        found.setdefault("recovery", {})[name] = recovery.recovery(
            listed, rows, seen, config.fpr_levels, circular=name in config.circular_lists
        )
    return found


def _sensitivity(uri: str, manifest: pd.DataFrame, config: EvaluateConfig) -> dict[str, Any]:
    table = sensitivity.wide(tables.read_table(uri, tables.PROBES).to_pandas(), manifest)
    label, ids = (table.index.get_level_values(name) for name in ("label", "cutout_id"))
    split = str(manifest.set_index("cutout_id")["split"].reindex(ids).iloc[0])
    if split == "test" and config.split != "test":  # the test split is read in the final evaluation alone (R-T10)
        raise InputError(
            f"inputs.probe={uri} is of the test split, but {config.split} is judged; probe with split={config.split}."
        )
    curves = sensitivity.curves(table, min(config.resamples, PROBE_RESAMPLES), config.seed)
    maps = mean_maps(uri)
    checks = sensitivity.verdicts(table, curves, float(maps["pixscale_arcsec"]) if maps else None)
    found: dict[str, Any] = {
        "split": split, "n_positive": int((label == 1).sum()), "n_negative": int((label == 0).sum()), "curves": curves,
    }  # fmt: skip
    if maps:
        fractions = tables.read_table(storage.join(uri, "attributions"), check=False).to_pandas()
        found["attribution"] = sensitivity.attribution(fractions, manifest, maps["area"].tolist())
        checks += sensitivity.attribution_verdicts(found["attribution"])
    return found | {"checks": checks}


def mean_maps(uri: str) -> dict[str, npt.NDArray[Any]]:
    """Mean attribution maps of a probe, the pixel size and the zones' areas; empty if none were made."""
    address = storage.join(uri, "attributions", "mean_maps.npz")
    if not storage.exists(address):
        return {}
    with np.load(BytesIO(storage.read_bytes(address))) as archive:
        return dict(archive)
