"""Which labels look wrong: ranks by out-of-fold logits, and the rules of confident learning (R-N1, R-N2).

A network that was trained long with a lens as a negative learns it by heart, and its own scores find fewer and fewer. Those of
networks that never saw the object do not depend on that (Northcutt et al. 2021, J. Artif. Intell. Res. 70, 1373).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit

from lensdata.config.cleaning import RankConfig
from lensdata.errors import InputError

Floats = npt.NDArray[np.float64]


def unseen(scores: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Scores by models that held the object's fold out, or that never train on it because it is of the test split.

    Parameters
    ----------
    scores
        ``cutout_id, split, fold, logit`` of `collected`.
    rows
        ``cutout_id, fold, split`` of the manifest.

    Raises
    ------
    InputError
        The folds of scores and manifest differ, or a fold model has learnt from the test split.
    """
    require_test_apart(scores[scores["fold"].notna()], rows, "train the fold models with data.hold_out_test=true")
    held_out = scores[scores["fold"].notna() & (scores["split"] == "test")]
    own = rows[["cutout_id", "fold", "split"]].rename(columns={"fold": "own fold", "split": "own split"})
    joined = held_out.merge(own, on="cutout_id", how="inner")
    strange = (joined["own split"] != "test") & (joined["fold"] != joined["own fold"])
    if strange.any():
        row = joined[strange].iloc[0]
        raise InputError(
            f"cutout_id {row['cutout_id']} is in fold {row['own fold']} of the manifest, but {row['model']} held it out with "
            f"fold {row['fold']}: the models are of other folds."
        )
    return joined[["cutout_id", "logit", "model"]]


def require_test_apart(scores: pd.DataFrame, rows: pd.DataFrame, remedy: str) -> None:
    """Refuse scores of a network that has learnt from the test split.

    Raises
    ------
    InputError
        With the remedy.
    """
    of_test = rows.loc[rows["split"] == "test", "cutout_id"]
    learnt = scores[(scores["split"] != "test") & scores["cutout_id"].isin(of_test)]
    if len(learnt):
        raise InputError(
            f"{learnt['model'].iloc[0]} has learnt from {learnt['cutout_id'].nunique()} rows of the test split, which must not "
            f"decide what is cleaned (R-T10); {remedy}."
        )


def mean_logits(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and scatter of the logits of each stamp over models: ``logit, logit_std, models`` by ``cutout_id``."""
    found = scores.groupby("cutout_id", sort=True)["logit"].agg(["mean", "size", lambda logits: float(np.std(logits))])
    found.columns = pd.Index(["logit", "models", "logit_std"])
    return found


def ranked(rows: pd.DataFrame, config: RankConfig) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Objects of a label, the most suspicious first, and the figures behind it.

    Parameters
    ----------
    rows
        ``cutout_id, label, logit`` of both classes.

    Returns
    -------
    DataFrame
        The objects of ``config.label`` with ``probability`` of being a lens, ``margin`` (probability of the given label less that
        of the other, scaled to 0..1: cleanlab's normalised margin), ``quantile`` (share of the class that looks less
        suspicious), ``confident_error``, ``flagged`` and ``rank`` from 1. For two classes the margin orders as the logit does, so
        the logit, which does not tie at 1, is what is ranked.
    dict
        ``lens_threshold, other_threshold``: mean probability of the own label in either class.
    """
    p = expit(rows["logit"].to_numpy(np.float64))
    label = rows["label"].to_numpy()
    if not (label == 1).any() or not (label == 0).any():
        raise InputError("Ranking needs scores of lenses and of others; one class has none.")
    thresholds = {
        "lens_threshold": float(p[label == 1].mean()),
        "other_threshold": float((1 - p)[label == 0].mean()),
    }
    own = np.where(label == 1, p, 1 - p)
    out = rows.assign(
        probability=p,
        margin=own,
        confident_error=confident_errors(label, p, **thresholds),
        flagged=1 - own > config.threshold,
    )
    out = out[label == config.label]
    suspicion = out["logit"] if config.label == 0 else -out["logit"]
    order = np.lexsort((out["cutout_id"].to_numpy(), -suspicion.to_numpy()))
    out = out.iloc[order].reset_index(drop=True)
    out["rank"] = np.arange(1, len(out) + 1)
    out["quantile"] = 1 - out["rank"] / len(out)
    return out, thresholds


def confident_errors(
    label: npt.NDArray[np.integer], probability: Floats, lens_threshold: float, other_threshold: float
) -> npt.NDArray[np.bool_]:
    """Objects that confident learning counts under the other label: at least as sure of it as its own members are.

    >>> p = np.array([0.9, 0.8, 0.1, 0.05, 0.95])
    >>> confident_errors(np.array([1, 1, 0, 0, 0]), p, lens_threshold=0.85, other_threshold=0.63).tolist()
    [False, False, False, False, True]
    """
    as_lens, as_other = probability >= lens_threshold, 1 - probability >= other_threshold
    lens = as_lens & ~(as_other & (1 - probability > probability))
    other = as_other & ~(as_lens & (probability >= 1 - probability))
    return np.asarray(np.where(label == 1, other, lens), bool)
