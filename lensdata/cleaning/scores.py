"""Scores from wherever they lie: a table, a training run, or all runs of a study."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lensdata import storage, tables
from lensdata.errors import InputError

COLUMNS = ["cutout_id", "split", "fold", "logit"]


def collected(inputs: Mapping[str, str]) -> pd.DataFrame:
    """All scores of some inputs, with ``model`` naming the table that a row is from.

    Returns
    -------
    DataFrame
        ``cutout_id, split, fold, logit, model``: split and fold as the model saw them.

    Raises
    ------
    InputError
        An input holds no scores, scores a stamp twice, or has a logit that is no number.
    """
    frames = []
    for name, uri in inputs.items():
        for table in tables_of(uri):
            rows = tables.read_table(table, columns=COLUMNS).to_pandas()
            rows["fold"] = rows["fold"].astype("Int64")
            if twice := int(rows["cutout_id"].duplicated().sum()):
                raise InputError(f"Scores {table} of input {name} hold {twice} stamps twice.")
            if strange := int((~np.isfinite(rows["logit"])).sum()):
                raise InputError(
                    f"Scores {table} of input {name} hold {strange} logits that are no number; score again."
                )
            frames.append(rows.assign(model=table))
    return pd.concat(frames, ignore_index=True)


def of_one_network(name: str, uri: str) -> str:
    """The one table of scores of an input; InputError for a study, whose networks would each say something else."""
    found = tables_of(uri)
    if len(found) > 1:
        raise InputError(
            f"inputs.{name}={uri} is a study of {len(found)} networks; give one of its runs, or another run."
        )
    return found[0]


def tables_of(uri: str) -> list[str]:
    """The tables of scores of a study (one per trial), of a run, or the one that the address names.

    Raises
    ------
    InputError
        A study without a finished trial, or a folder that is none of these.
    """
    trials = storage.join(uri, "trials")
    if storage.exists(trials):
        tables.require_success(uri)
        names = sorted({name.removeprefix(trials).strip("/").split("/")[0] for name in storage.list_files(trials)})
        found = [storage.join(trials, name, "scores") for name in names]
        found = [table for table in found if storage.exists(storage.join(table, "_SUCCESS"))]
        if not found:
            raise InputError(f"Study {uri} has no finished trial with scores.")
        return found
    if storage.exists(storage.join(uri, "run_info.json")):
        tables.require_success(uri)
        return [storage.join(uri, "scores")]
    return [uri]
