"""Can anything simpler than arcs tell the classes of a training set apart? (R-E4)

    python -m ray_train.gates --output gates/demo inputs.manifest=manifests/audit_70_15_15 [inputs.run=runs/demo]

Writes ``gates.json``: an AUC with its interval, limits and a verdict per gate, learner and sample; the matching of hosts; the
sample. Reads the row groups that the sample is in, each once.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from lensdata import storage
from lensdata.audit import baseline, features, gates, matching, metrics
from lensdata.audit.regions import PIXSCALE_ARCSEC
from lensdata.config.gates import GatesConfig
from lensdata.errors import InputError
from lensdata.hashing import text_hash
from lensdata.jobs import JOBS
from lensdata.shards import npz
from lensdata.shards.layout import IMAGE_COLUMN, ImageLayout
from lensdata.shards.manifests import Manifest, read_manifest
from lensdata.shards.reader import open_shard
from lensdata.steps import JobFailed, JobRun, Outcome, progress, run_job
from ray_train.context import use_threads
from ray_train.core.data import stamps_in_order
from ray_train.core.images import ImageRecipe, measure_statistics
from ray_train.scoring import check_fit, load_scorer
from ray_train.stamps import group_reader, stamp_table
from ray_train.training import image_recipe

log = logging.getLogger(__name__)

BATCH = 64  # stamps whose features are computed together: a few MB, which the caches like
POOL_PER_POSITIVE = 50  # others to choose a partner from
SMALLEST_FOLDS = 3  # of a manifest's own that are used
SKY = ("background", "pixel_statistics", "high_frequencies")  # stored and seen: a normalisation may hide or make them
LIGHT = ("core", "profile", "annulus", "blueness", "fine_structure")  # as a network sees it
Features = dict[tuple[str, str], npt.NDArray[np.floating]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; returns its exit code."""
    return run_job(JOBS["gates"], run_gates, sys.argv[1:] if argv is None else list(argv))


def run_gates(run: JobRun) -> Outcome:
    """Draw the sample, measure its features, judge, write JSON and say what came out."""
    config: GatesConfig = run.config
    use_threads(config.threads)
    manifest = _candidates(run)
    rows = manifest.table.to_pandas()
    labels, folds, folded_by = rows["label"].to_numpy(np.int64), *sky_folds(rows, config.seed)
    drawn = draw(manifest, labels, config)
    alike = config.negatives == "host_matched" or (config.negatives == "auto" and _injected(rows))
    found = None if alike else match(rows, labels, folds, drawn, read_with(manifest, labels, drawn), config.caliper)
    chosen = drawn if found is None else np.unique(np.concatenate([drawn, found.positives, found.negatives]))
    part = manifest.where(np.isin(np.arange(len(rows)), chosen))
    measured = measure(part, recipe_for(run, part), config)
    place = {int(row): number for number, row in enumerate(chosen)}
    at = {"host_matched" if alike else "random": np.array([place[row] for row in drawn])}
    if found is not None:
        at["host_matched"] = np.array([place[row] for row in (*found.positives, *found.negatives)], np.int64)
    entries = judge_all(measured, labels[chosen], folds[chosen], at, config)
    result = {
        "gates": entries,
        "matching": None if found is None else described(found, rows, labels, drawn),
        "sample": {
            "n": len(drawn), "n_positive": int(labels[drawn].sum()), "n_read": len(chosen), "splits": list(config.splits),
            "folds": len(np.unique(folds[chosen])), "folded_by": folded_by, "seed": config.seed,
            "negatives": "host_matched" if alike else "random",
        },
        "verdict": gates.overall(entries), "not_judged": gates.not_judged(entries),
    }  # fmt: skip
    return _finish(run, result)


def draw(manifest: Manifest, labels: npt.NDArray[np.int64], config: GatesConfig) -> npt.NDArray[np.int64]:
    """Sorted rows of the sample: half of either class as far as there are, the others near the positives if that is enough.

    Stamps lie in random order in the shards, so that the others of the positives' row groups are a fair draw.
    """
    if config.sample_size == 0:
        return np.arange(len(labels))
    chosen, half = gates.balanced_sample(labels, config.sample_size, config.seed), config.sample_size // 2
    positives = chosen[labels[chosen] == 1]
    pool = np.flatnonzero(read_with(manifest, labels, positives) & (labels == 0))
    if len(pool) < half:
        return chosen
    others = np.random.default_rng(config.seed).choice(pool, half, replace=False)
    return np.sort(np.concatenate([positives, others]))


def read_with(manifest: Manifest, labels: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Rows in the row groups that given rows are read from; all rows where that leaves too few others to choose from."""
    table, _ = stamp_table(manifest)
    near = np.isin(table.group, table.group[rows])
    enough = np.sum(near & (labels == 0)) >= POOL_PER_POSITIVE * np.sum(labels[rows] == 1)
    return near if enough else np.ones(len(labels), bool)


def match(
    rows: pd.DataFrame,
    labels: npt.NDArray[np.int64],
    folds: npt.NDArray[np.int64],
    drawn: npt.NDArray[np.int64],
    near: npt.NDArray[np.bool_],
    caliper: float,
) -> matching.Matching:
    """Host-matched negatives, of one type and fold with their positive, for the positives that were drawn.

    Partners lie in one fold: across folds a model would have seen the twin of a stamp with the other label.
    """
    wanted = np.where(labels == 0, near, np.isin(np.arange(len(labels)), drawn))
    kinds = rows["type"].astype(str).to_numpy() if "type" in rows else np.full(len(rows), "")
    strata = np.array([f"{kind}/{fold}" for kind, fold in zip(kinds, folds, strict=True)])
    found = matching.match_hosts(rows[wanted], labels[wanted], strata[wanted], caliper)
    number = np.flatnonzero(wanted)
    return replace(found, positives=number[found.positives], negatives=number[found.negatives])


def sky_folds(rows: pd.DataFrame, seed: int) -> tuple[npt.NDArray[np.int64], str]:
    """A fold per row, and what a fold is of: "patches of sky", or "stamps" where the manifest does not know their pixels.

    The manifest's own folds are taken where it has three or more; those of an imported set without positions are drawn at random.
    Otherwise pixels of the sky are dealt out, joined where duplicates span them; without pixels groups of duplicates, or stamps.
    """
    patches = metrics.blocks_of(rows)
    folded_by = "stamps" if patches is None else "patches of sky"
    if _known(rows, "fold") and rows["fold"].nunique() >= SMALLEST_FOLDS:
        return rows["fold"].to_numpy(np.int64), folded_by
    groups = rows["group_id"].to_numpy(np.int64) if patches is None and _known(rows, "group_id") else patches
    return gates.make_folds(rows["label"].to_numpy(np.int64), groups, seed), folded_by


def _known(rows: pd.DataFrame, name: str) -> bool:
    return name in rows and bool(rows[name].notna().all())


def recipe_for(run: JobRun, part: Manifest) -> ImageRecipe:
    """How stamps become what a network sees: the run's, or the configuration's with figures of the sample."""
    layout, config = part.layout(), run.config
    if "run" in run.inputs:
        scorer = load_scorer(run.inputs["run"], config.checkpoint, torch.device("cpu"))
        check_fit(scorer, layout)
        return scorer.images(layout)
    recipe = image_recipe(config, layout)
    if not recipe.needs_statistics:
        return recipe
    table, places = stamp_table(part)
    try:
        return replace(
            recipe, statistics=measure_statistics(recipe, stamps_in_order(table, group_reader(places, layout)))
        )
    except ValueError as error:
        raise InputError(f"images.normalisation {recipe.normalisation}: {error}.") from error


def measure(part: Manifest, recipe: ImageRecipe, config: GatesConfig) -> Features:
    """Features of all rows, by gate and by what they are of: "catalogue", "stored", "model", and "trees" of the model's."""
    layout, rows = part.layout(), part.table.to_pandas()
    scale = layout.pixscale_arcsec or PIXSCALE_ARCSEC
    planes = layout.bands if recipe.planes is None else tuple(layout.bands[plane] for plane in recipe.planes)
    parts: dict[tuple[str, str], list[npt.NDArray[np.floating]]] = {}
    done = 0
    for stamps in batches(part, layout):
        prepared = recipe.prepare(torch.from_numpy(stamps)).float().permute(0, 2, 3, 1).contiguous().numpy()
        for given, values in (
            ("stored", features.of_stored(stamps, scale, layout.unit)),
            ("model", features.of_prepared(prepared, planes, scale)),
            ("trees", features.of_light(prepared, scale)),
        ):
            for name, array in values.items():
                parts.setdefault((name, given), []).append(array)
        done += len(stamps)
        progress(done, len(part), "stamps")
    found: Features = {key: np.concatenate(arrays) for key, arrays in parts.items()}
    found["metadata", "catalogue"] = baseline.observing_conditions(rows)
    found["catalogue", "catalogue"] = baseline.catalogue_values(rows)
    found["files", "stored"] = baseline.file_properties(file_columns(part))
    return found


def batches(part: Manifest, layout: ImageLayout) -> Iterator[npt.NDArray[Any]]:
    """Stored stamps (n, H, W, C) in the order of the rows, about `BATCH` at a time; each row group is read once."""
    table, places = stamp_table(part)
    waiting: list[npt.NDArray[Any]] = []
    for stamps in stamps_in_order(table, group_reader(places, layout)):
        waiting.append(stamps)
        if sum(map(len, waiting)) >= BATCH:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def file_columns(part: Manifest) -> pd.DataFrame:
    """What the shards say of each row beside its pixels: route, layer, quality; nothing for stamps that are files of their own."""
    table, places = stamp_table(part)
    pieces, first = [], 0
    for (uri, group), size in zip(places, table.group_sizes, strict=True):
        within = table.within[first : first + size]
        if npz.is_npz(uri):
            pieces.append(pd.DataFrame(index=range(len(within))))
        else:
            shard = open_shard(uri)
            wanted = (*baseline.FILE_TEXTS, *baseline.FILE_NUMBERS, "request_hash")
            names = [name for name in shard.file.schema_arrow.names if name.startswith(wanted) and name != IMAGE_COLUMN]
            pieces.append(shard.read_rows(group, names).to_pandas().iloc[within])
        first += int(size)
    return pd.concat(pieces, ignore_index=True)


def judge_all(
    measured: Features,
    labels: npt.NDArray[np.int64],
    folds: npt.NDArray[np.int64],
    at: dict[str, npt.NDArray[np.int64]],
    config: GatesConfig,
) -> list[dict[str, Any]]:
    """Entries of all gates: every gate on the sample as drawn, those with a floor again on matched hosts.

    Parameters
    ----------
    at
        Row numbers of each sample, the one as drawn first.
    """
    asked = [("metadata", "catalogue"), ("files", "stored"), *((name, "stored") for name in SKY)]
    asked += [("catalogue", "catalogue"), *((name, "model") for name in (*SKY, *LIGHT))]
    asked += [("pair", "model")] if ("pair", "model") in measured else []
    entries: list[dict[str, Any]] = []
    for number, (sample, rows) in enumerate(at.items()):
        for name, given in sorted(asked, key=lambda key: list(gates.GATES).index(key[0])):
            if number and not gates.GATES[name].physical:
                continue
            values: npt.NDArray[np.floating] | str = (
                "no pixels beyond 8 arcsec are left, or the bands g, r, z are not among the planes"
            )
            if (name, given) in measured:
                values = measured[name, given][rows]
            trees = measured.get((name, "trees")) if given == "model" else None
            entries += gates.judge(
                name, given, values, labels[rows], folds[rows], sample=sample, resamples=config.resamples, seed=config.seed,
                for_trees=None if trees is None else trees[rows],
            )  # fmt: skip
    return entries


def described(
    found: matching.Matching, rows: pd.DataFrame, labels: npt.NDArray[np.int64], drawn: npt.NDArray[np.int64]
) -> dict[str, Any]:
    """The matching as a report shows it: counts, reasons, distances, balance."""
    pool = (labels == 0) | np.isin(np.arange(len(labels)), drawn)
    table = matching.balance(rows, np.where(pool, labels, -1), found)
    after = [abs(line["after"]) for line in table if line["matched"] and line["after"] is not None]
    return {
        "pairs": len(found.positives), "wanted": int(labels[drawn].sum()), "unmatched": found.unmatched,
        "pool": int(np.sum(labels == 0)), "columns": list(found.columns),
        "median_distance": float(np.median(found.distances)) if len(found.distances) else None,
        "worst_balance": max(after, default=None), "balanced_below": matching.MATCHED_BALANCE, "balance": table,
    }  # fmt: skip


def _candidates(run: JobRun) -> Manifest:
    """The rows of the splits, with enough of both classes."""
    config: GatesConfig = run.config
    manifest = read_manifest(run.inputs["manifest"])
    manifest = manifest.where(np.isin(manifest.column("split").astype(str), config.splits))
    if run.test_limit is not None and len(manifest):
        manifest = manifest.head(run.test_limit)
    counts = np.bincount(manifest.column("label").astype(np.int64), minlength=2)
    if counts.min() < gates.MIN_OBJECTS:
        raise InputError(
            f"Manifest {manifest.uri} has {counts[1]} rows of label 1 and {counts[0]} of label 0 in split "
            f"{', '.join(config.splits)}; the gates need {gates.MIN_OBJECTS} of each."
        )
    return manifest


def _injected(rows: pd.DataFrame) -> bool:
    return "kind" in rows and bool((rows.loc[rows["label"] == 1, "kind"] == "injection").all())


def _finish(run: JobRun, result: dict[str, Any]) -> Outcome:
    """Write, say, and fail if asked to."""
    config: GatesConfig = run.config
    verdict, limit = result["verdict"], config.fail_on
    bad = limit is not None and gates.SEVERITY.index(verdict) >= gates.SEVERITY.index(limit)
    folder = f"{run.final}-failed" if bad else run.output
    storage.remove(f"{run.final}-failed")
    storage.write_json(storage.join(folder, "gates.json"), result)
    for line in gates.table_lines(result["gates"]):
        log.info("%s", line)
    log.info(
        "gates verdict=%s n=%d read=%d not_judged=%r",
        verdict, result["sample"]["n"], result["sample"]["n_read"], ", ".join(result["not_judged"]),
    )  # fmt: skip
    if bad:
        worst = [entry for entry in result["gates"] if entry["verdict"] == verdict]
        raise JobFailed(f"{len(worst)} gates say {verdict}, first {worst[0]['gate']}; see {folder}/gates.json")
    return Outcome(
        rows=result["sample"]["n"],
        content=text_hash(repr(result)),
        report={"verdict": verdict, "sample": result["sample"]},
    )


if __name__ == "__main__":
    sys.exit(main())
