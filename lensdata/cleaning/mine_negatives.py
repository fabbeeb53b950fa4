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
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from lensdata import jobs, steps, storage, tables
from lensdata.cleaning.mining import arms
from lensdata.cleaning.scores import collected
from lensdata.config.cleaning import MineConfig
from lensdata.errors import InputError
from lensdata.hashing import text_hash
from lensdata.shards.derived import renamed, write_manifest
from lensdata.shards.manifests import Manifest, read_manifest
from lensdata.sky.crossmatch import SkyIndex
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
        grades = grades_of(run.inputs["grades"], pool, base)
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


def grades_of(uri: str, pool: Manifest, base: Manifest) -> pd.DataFrame:
    """What graders said of stamps of the pool, and of controls from either manifest; InputError where they looked at others."""
    grades = tables.read_table(uri, tables.GRADES, columns=["cutout_id", "verdict"]).to_pandas()
    known = grades["cutout_id"].isin(pool.column("cutout_id")) | grades["cutout_id"].isin(base.column("cutout_id"))
    strange = grades.loc[~known, "cutout_id"]
    if len(strange):
        raise InputError(
            f"{len(strange)} of {len(grades)} grades of {uri} are not of pool {pool.uri}, the first of cutout_id "
            f"{strange.iloc[0]}; give the grades of skimmed/, looked at with that manifest."
        )
    return grades


def fresh_rows(base: Manifest, pool: Manifest, config: MineConfig) -> tuple[Manifest, dict[str, float]]:
    """Negatives of the pool that lie in the wanted splits and that the manifest does not have, and what was left out.

    Of two manifests whose skies were split by other seeds, a stamp of the pool may show sky that the manifest validates or
    tests on; such a one is left out (R-T10).

    Raises
    ------
    InputError
        Nothing is left.
    """
    keep = np.ones(len(pool), bool)
    report: dict[str, float] = {"pool": len(pool)}
    reasons = {
        "labelled_lenses": pool.column("label") == 1,
        "already_in_the_manifest": np.isin(pool.column("cutout_id"), base.column("cutout_id")),
        "in_other_splits": ~np.isin(pool.column("split").astype(str), config.splits),
        "near_val_or_test": near_evaluated(base, pool, config.apart_arcsec),
    }
    for reason, out in reasons.items():  # each stamp counts once, for the first reason
        report[reason] = int((keep & out).sum())
        keep &= ~out
    if not keep.any():
        raise InputError(
            f"Pool {pool.uri} has no negative in split {', '.join(config.splits)} that manifest {base.uri} lacks and that lies "
            f"apart from its val and test."
        )
    return pool.where(keep), report


def near_evaluated(base: Manifest, pool: Manifest, radius_arcsec: float) -> npt.NDArray[np.bool_]:
    """Rows of the pool within a radius of val or test of the manifest; none where one of them has no places."""
    evaluated = base.where(base.column("split").astype(str) != "train")
    if not len(evaluated) or not {"ra", "dec"} <= set(base.table.column_names) & set(pool.table.column_names):
        return np.zeros(len(pool), bool)
    there, here = (part.table.select(["ra", "dec"]).to_pandas().astype(float) for part in (evaluated, pool))
    there, known = there.dropna(), here.notna().all(axis=1).to_numpy()
    near = np.zeros(len(pool), bool)
    if len(there) and known.any():
        place, _ = SkyIndex(there["ra"], there["dec"]).nearest(here["ra"][known], here["dec"][known], radius_arcsec)
        near[known] = place >= 0
    return near


def _joined(base: Manifest, pool_uri: str, added: pa.Table, output: str, arm: str) -> pa.Table:
    """The manifest's rows and the added ones, the latter in train; columns that the pool lacks are null there."""
    folder = storage.join(output, arm)
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
