"""One round of hard-negative mining with its control: two arms of the same size, one of the highest scores, one at random.

A finder's highest-scoring negatives teach it most, but the very highest of a fresh sample may be lenses that nobody knows:
these are skimmed off to be looked at first. What is gained by *which*
negatives are added, and not by how many, is the difference to the random arm.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from lensdata.config.cleaning import MineConfig
from lensdata.errors import InputError
from lensdata.hashing import second_key


def arms(pool: pd.DataFrame, config: MineConfig) -> dict[str, npt.NDArray[np.int64]]:
    """Places in the pool of what is skimmed, of the mined arm, and of the random arm.

    Parameters
    ----------
    pool
        ``cutout_id, logit`` and, of those who were looked at, ``verdict``; each stamp once.

    Returns
    -------
    dict
        ``skimmed``: the highest ``skim``, without those that were looked at; ``mined``: the next highest, and of those
        looked at the ones that are no lens; ``random``: as many of all that is not skimmed and no plausible lens, by keyed
        hash. The arms may share stamps: a random negative can be hard by chance.

    Raises
    ------
    InputError
        The pool is too small.
    """
    verdict = pool["verdict"] if "verdict" in pool else pd.Series(None, pool.index, dtype=object)
    seen = verdict.notna().to_numpy()
    plausible = verdict.isin(["lens", "maybe", "disagree"]).to_numpy()
    order = np.lexsort((pool["cutout_id"].to_numpy(), -pool["logit"].to_numpy()))
    top = order[: config.skim]
    skimmed = top[~seen[top]]
    usable = order[~np.isin(order, skimmed) & ~plausible[order]]
    if len(usable) < config.mined:
        raise InputError(
            f"The pool has {len(usable)} stamps after the {len(skimmed)} that are skimmed and {int(plausible.sum())} plausible "
            f"lenses, fewer than mined={config.mined}."
        )
    key = second_key(pool["cutout_id"].to_numpy()[usable], config.seed, "mining control")
    return {
        "skimmed": skimmed.astype(np.int64),
        "mined": usable[: config.mined].astype(np.int64),
        "random": usable[np.argsort(key)[: config.mined]].astype(np.int64),
    }
