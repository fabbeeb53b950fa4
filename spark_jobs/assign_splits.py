"""One sample of positives and negatives with split, fold and group (R-S6)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lensdata import tables
from lensdata.config.catalogue import AssignSplitsConfig
from lensdata.errors import InputError
from lensdata.jobs import JOBS
from lensdata.sky import groups, splits
from lensdata.steps import JobRun, Outcome, run_job
from spark_jobs import datasets
from spark_jobs.session import build_session

JOB = JOBS["assign_splits"]
PLACES = "source_id long, split string, fold byte, group_id long"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_job(JOB, assign_splits, sys.argv[1:] if argv is None else argv)


def assign_splits(run: JobRun) -> Outcome:
    """Union, group by sky, split by pixel."""
    spark = build_session(JOB.name, run.config.execution.shuffle_partitions)
    positives = datasets.read(spark, run.inputs["positives"], tables.POSITIVES)
    if "negatives" in run.inputs:
        negatives = datasets.read(spark, run.inputs["negatives"], tables.NEGATIVES)
    else:  # a lens list alone: where would each lens go?
        negatives = spark.createDataFrame([], datasets.spark_schema(tables.NEGATIVES.schema))
    both = positives.join(negatives, "source_id", "left_semi").limit(1).collect()
    if both:
        raise InputError(
            f"source_id {both[0]['source_id']} is a positive and a negative; extract the pool with this lens list."
        )
    sample = labelled(positives, negatives)
    if run.test_limit is not None:
        sample = sample.orderBy(F.desc("label"), "source_id").limit(run.test_limit)
    places = _placed(sample.select("source_id", "label", "ra", "dec", "healpix_128").toPandas(), run.config)
    columns = spark.createDataFrame(places[["source_id", "split", "fold", "group_id"]], PLACES)
    placed = sample.join(F.broadcast(columns), "source_id", "inner")
    rows, content = datasets.write(placed, run.output, tables.SAMPLE)
    return Outcome(rows, content, _report(places))


def labelled(positives: DataFrame, negatives: DataFrame) -> DataFrame:
    """Positives and negatives in the columns of the sample, but for split, fold and group."""
    shared = [column.name for column in (*tables.SOURCE, *tables.DERIVED)]
    null = F.lit(None).cast("string")
    lenses = positives.select(
        F.lit(1).cast("tinyint").alias("label"), *shared, F.lit(None).cast("int").alias("confuser_flags"), null.alias("confuser"),
        null.alias("pool"), "tier", "lens_name",
    )  # fmt: skip
    others = negatives.select(
        F.lit(0).cast("tinyint").alias("label"),
        *shared,
        "confuser_flags",
        "confuser",
        "pool",
        null.alias("tier"),
        null.alias("lens_name"),
    )
    return lenses.unionByName(others)


def _placed(objects: pd.DataFrame, config: AssignSplitsConfig) -> pd.DataFrame:
    """Group, split and fold on the driver: a sample has hundreds of thousands of rows, of which five columns are needed."""
    group_id = groups.group_ids(objects["source_id"], objects["ra"], objects["dec"], config.group_radius_arcsec)
    pixel = groups.placing_pixels(objects["source_id"], group_id, objects["healpix_128"], config.groups)
    fractions = (config.seed, config.train_fraction, config.val_fraction)
    return objects.assign(
        group_id=group_id,
        split=splits.assign_splits(pixel, *fractions),
        fold=splits.assign_folds(pixel, config.folds, config.seed),
        own_split=splits.assign_splits(objects["healpix_128"], *fractions),
    )


def _report(places: pd.DataFrame) -> dict[str, Any]:
    label = np.where(places["label"] == 1, "positive", "negative")
    per_split = Counter(zip(places["split"], label, strict=True))
    moved = Counter(label[places["split"] != places["own_split"]])
    return {
        "rows_per_split": {f"{split} {name}": count for (split, name), count in sorted(per_split.items())},
        **groups.group_report(places),
        "moved_to_the_split_of_their_group": {name: moved[name] for name in ("positive", "negative")},
    }


if __name__ == "__main__":
    sys.exit(main())
