"""The candidates of a draw out of the pool, and the draw (R-S5)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lensdata.catalogue.confusers import CATEGORIES
from lensdata.catalogue.sampling import LOWEST, N1, N2, Available, Candidates, Quota, Taken, candidate_limits, draw
from lensdata.catalogue.strata import STRATA


def draw_negatives(flagged: DataFrame, quotas: list[Quota], fill: bool = False) -> tuple[pd.DataFrame, list[Taken]]:
    """Draw from ``source_id, stratum, sample_key, confuser_flags, category``; two passes over these narrow rows.

    The first counts, the second brings the candidates to the driver: a little more rows than are drawn, of 22 bytes each.

    Returns
    -------
    tuple
        (``source_id, confuser_flags, confuser, pool`` of the rows drawn, lines of the quota table)
    """
    available = _available(flagged)
    rows = flagged.where(_reachable(candidate_limits(quotas, available, fill))).toPandas()
    numbers = {name: rows[name].to_numpy() for name in ("sample_key", "stratum", "category")}
    pool, lines = draw(Candidates(*numbers.values()), quotas, available, fill)
    taken = np.flatnonzero(pool)
    drawn = pd.DataFrame(
        {
            "source_id": rows["source_id"].to_numpy()[taken],
            "confuser_flags": rows["confuser_flags"].to_numpy()[taken],
            "confuser": np.array([*CATEGORIES, None], object)[numbers["category"][taken]],
            "pool": np.array(["", N1, N2], object)[pool[taken]],
        }
    )
    return drawn, lines


def _available(flagged: DataFrame) -> Available:
    """Rows per stratum and primary category."""
    found: Available = {}
    for row in flagged.groupBy("stratum", "category").count().collect():
        category = CATEGORIES[row["category"]] if row["category"] >= 0 else None
        found.setdefault(STRATA[row["stratum"]], {})[category] = int(row["count"])
    return found


def _reachable(limits: dict[tuple[str, str | None], int]) -> Column:
    """The key is within the limit of the row's stratum, or of its stratum and category."""
    whole = [limits.get((stratum, None), LOWEST) for stratum in STRATA]
    parts = [limits.get((stratum, category), LOWEST) for stratum in STRATA for category in CATEGORIES]
    of_stratum, of_category = (F.array(*(F.lit(limit).cast("long") for limit in each)) for each in (whole, parts))
    stratum, category = F.col("stratum").cast("int"), F.col("category").cast("int")
    place = stratum * F.lit(len(CATEGORIES)) + category + F.lit(1)
    return (F.col("sample_key") <= F.element_at(of_stratum, stratum + 1)) | (
        (category >= 0) & (F.col("sample_key") <= F.element_at(of_category, F.greatest(place, F.lit(1))))
    )
