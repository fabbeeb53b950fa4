"""Rank negatives by how much they look like lenses to networks that never saw them (R-N2), or to one that did (R-N1).

    python -m lensdata.cleaning.rank_negatives --output ranking inputs.manifest=manifests/audit inputs.scores.folds=runs/folds

An input of scores is a table, a training run, or a study: then all its trials. The list is to be looked at (`lensdata vet`);
nothing is removed here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pandas as pd
import pyarrow as pa

from lensdata import jobs, steps, tables
from lensdata.cleaning import ranking
from lensdata.cleaning.scores import collected
from lensdata.config.cleaning import RankConfig
from lensdata.errors import InputError
from lensdata.shards.manifests import read_manifest
from lensdata.steps import JobRun, Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; returns its exit code."""
    return steps.run_job(jobs.find("rank_negatives"), rank_negatives, sys.argv[1:] if argv is None else list(argv))


def rank_negatives(run: JobRun) -> Outcome:
    """Join scores and manifest, rank, write."""
    config: RankConfig = run.config
    given = {name.removeprefix("scores."): uri for name, uri in run.inputs.items() if name.startswith("scores.")}
    if not given:
        raise InputError(
            "rank_negatives needs inputs.scores.NAME=URI: a table of scores, a run, or a study of fold models."
        )
    manifest = read_manifest(run.inputs["manifest"])
    every = manifest.table.to_pandas()
    found = ranking.mean_logits(_chosen(collected(given), every, config, manifest.uri))
    rows = every[every["split"].isin(config.splits)]
    joined = rows.merge(found, left_on="cutout_id", right_index=True, how="inner", validate="one_to_one")
    wanted = rows["label"] == config.label
    if missing := int(wanted.sum() - (joined["label"] == config.label).sum()):
        raise InputError(
            f"{missing} of {int(wanted.sum())} rows of label {config.label} in split {', '.join(config.splits)} of "
            f"{manifest.uri} have no {config.scores} score; train and score every fold first."
        )
    out, thresholds = ranking.ranked(joined, config)
    out = out.assign(scores=config.scores)
    columns = {name: out.get(name) for name in tables.RANKING.names}
    table = pa.Table.from_pandas(
        pd.DataFrame(columns, index=out.index), schema=tables.RANKING.schema, preserve_index=False
    )
    models = sorted(out["models"].unique().tolist())
    report = {
        "scores": config.scores, "flagged": int(out["flagged"].sum()), "confident_errors": int(out["confident_error"].sum()),
        "models_per_stamp": models, **thresholds,
    }  # fmt: skip
    count, content = tables.write_table(table, run.output, tables.RANKING, report=report)
    return Outcome(count, content, report)


def _chosen(scores: pd.DataFrame, rows: pd.DataFrame, config: RankConfig, uri: str) -> pd.DataFrame:
    """The scores that the configuration asks for."""
    if config.scores == "in_sample":
        chosen = scores[scores["fold"].isna()]
        if chosen.empty:
            raise InputError(
                "scores in_sample needs a run without data.held_out_fold; all given ones are of fold models."
            )
        ranking.require_test_apart(chosen, rows, f"give a run that was trained on {uri}")
        return chosen
    if "fold" not in rows or rows["fold"].isna().any():
        raise InputError(f"Manifest {uri} has no complete column 'fold', so nobody can tell which model saw what.")
    chosen = ranking.unseen(scores, rows)
    if chosen.empty:
        raise InputError(
            "scores out_of_fold needs runs with data.held_out_fold (configs/tuning/out_of_fold.yaml); the given scores are of "
            "networks that saw these objects, which scores=in_sample takes."
        )
    return chosen


if __name__ == "__main__":
    sys.exit(main())
