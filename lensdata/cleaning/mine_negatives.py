"""One declared round of hard-negative mining: a mined arm, and a random arm of the same size to compare it with.

    python -m lensdata.cleaning.mine_negatives --output mining inputs.manifest=manifests/audit inputs.pool=manifests/fresh \
        inputs.scores=scores/fresh

The pool is a manifest of fresh negatives, ``scores`` what a run says of them. The output holds two manifests, ``mined/`` and
``random/``: the given one with as many negatives of the pool added to train. ``skimmed/`` is the list of the very highest, which
may be lenses: look at it (`lensdata vet`), and give the grades as ``inputs.grades`` in a second call.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from lensdata import jobs, steps, tables
from lensdata.cleaning.mining import arms
from lensdata.cleaning.scores import collected
from lensdata.config.cleaning import MineConfig
from lensdata.errors import InputError
from lensdata.hashing import text_hash
from lensdata.shards.derived import renamed, write_manifest
from lensdata.shards.manifests import Manifest, read_manifest
from lensdata.steps import JobRun, Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; returns its exit code."""
    return steps.run_job(jobs.find("mine_negatives"), mine_negatives, sys.argv[1:] if argv is None else list(argv))


def mine_negatives(run: JobRun) -> Outcome:
    """Choose both arms, write two manifests and the list to look at."""
    config: MineConfig = run.config
    base, pool = read_manifest(run.inputs["manifest"]), read_manifest(run.inputs["pool"])
    fresh, report = fresh_rows(base, pool, config)
    frame = fresh.table.select(["cutout_id"]).to_pandas()
    scores = collected({"scores": run.inputs["scores"]}).groupby("cutout_id")["logit"].mean()
    frame["logit"] = frame["cutout_id"].map(scores)
    if missing := int(frame["logit"].isna().sum()):
        raise InputError(
            f"{missing} of {len(frame)} stamps of pool {pool.uri} have no score in {run.inputs['scores']}."
        )
    if "grades" in run.inputs:
        tables.require_kind(run.inputs["grades"], tables.GRADES)
        grades = tables.read_table(run.inputs["grades"], columns=["cutout_id", "verdict"]).to_pandas()
        verdict = frame["cutout_id"].map(grades.set_index("cutout_id")["verdict"])
        frame["verdict"] = verdict.where(verdict != "ungraded", None)
    chosen = arms(frame, config)
    origin = [str(steps.input_identity(uri)) for uri in (base.uri, pool.uri)]
    contents = []
    for arm in ("mined", "random"):
        added = fresh.table.take(pa.array(np.sort(chosen[arm])))
        contents.append(write_manifest(_joined(base, fresh.uri, added, run.final, arm), run.path(arm), *origin)[1])
    skimmed = frame.iloc[chosen["skimmed"]].assign(split="train", label=0)
    _write_list(skimmed, fresh, run.path("skimmed"))
    report |= {name: len(places) for name, places in chosen.items()}
    report["in_both_arms"] = int(np.isin(chosen["mined"], chosen["random"]).sum())
    report["lowest_mined_logit"] = float(frame["logit"].to_numpy()[chosen["mined"]].min())
    return Outcome(2 * (len(base) + config.mined), text_hash("".join(contents)), report)


def fresh_rows(base: Manifest, pool: Manifest, config: MineConfig) -> tuple[Manifest, dict[str, float]]:
    """Negatives of the pool that lie in the wanted splits and that the manifest does not have, and what was left out.

    Raises
    ------
    InputError
        Nothing is left.
    """
    label, split = pool.column("label"), pool.column("split").astype(str)
    known = np.isin(pool.column("cutout_id"), base.column("cutout_id"))
    elsewhere = ~np.isin(split, config.splits)
    keep = (label == 0) & ~known & ~elsewhere
    if not keep.any():
        raise InputError(
            f"Pool {pool.uri} has no negative in split {', '.join(config.splits)} that manifest {base.uri} lacks."
        )
    report: dict[str, float] = {
        "pool": len(pool), "labelled_lenses": int((label == 1).sum()), "already_in_the_manifest": int(known.sum()),
        "in_other_splits": int((elsewhere & ~known & (label == 0)).sum()),
    }  # fmt: skip
    return pool.where(keep), report


def _joined(base: Manifest, pool_uri: str, added: pa.Table, output: str, arm: str) -> pa.Table:
    """The manifest's rows and the added ones, the latter in train; columns that the pool lacks are null there."""
    folder = f"{output}/{arm}"
    split = added.column_names.index("split")
    added = added.set_column(split, "split", pa.array(["train"] * len(added)))
    both = [renamed(base.table, base.uri, folder), renamed(added, pool_uri, folder)]
    known = set(base.table.column_names)
    both[1] = both[1].select([name for name in both[1].column_names if name in known])
    return pa.concat_tables(both, promote_options="permissive")


def _write_list(rows: pd.DataFrame, fresh: Manifest, folder: str) -> None:
    """The skimmed stamps as a ranking, which `lensdata vet` takes."""
    part = (
        fresh.take_ids(rows["cutout_id"].tolist()).table.to_pandas()
        if len(rows)
        else fresh.table.slice(0, 0).to_pandas()
    )
    logit = rows["logit"].to_numpy(np.float64)
    p = 1 / (1 + np.exp(-logit))
    part = part.assign(
        rank=np.arange(1, len(part) + 1), scores="in_sample", models=1, logit=logit, logit_std=0.0, probability=p, margin=1 - p,
        quantile=0.0, confident_error=False, flagged=True,
    )  # fmt: skip
    columns = {name: part.get(name) for name in tables.RANKING.names}
    table = pa.Table.from_pandas(
        pd.DataFrame(columns, index=part.index), schema=tables.RANKING.schema, preserve_index=False
    )
    tables.write_table(table, folder, tables.RANKING)


if __name__ == "__main__":
    sys.exit(main())
