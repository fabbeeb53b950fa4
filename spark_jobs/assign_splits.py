"""One sample of positives and negatives with split, fold and group (R-S6)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
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
SPLIT_SCHEMA = pa.schema([("source_id", pa.int64()), ("split", pa.string()), ("fold", pa.int8())])


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_job(JOB, assign_splits, sys.argv[1:] if argv is None else argv)


def assign_splits(run: JobRun) -> Outcome:
    """Union, split by pixel, group by sky."""
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
    sample = sample.persist()
    group, report = _groups(sample, run.config)
    split = datasets.map_partitions(sample.select("source_id", "healpix_128"), _splitter(run.config), SPLIT_SCHEMA)
    placed = sample.join(split, "source_id", "inner").join(
        F.broadcast(spark.createDataFrame(group)), "source_id", "inner"
    )
    rows, content = datasets.write(placed, run.output, tables.SAMPLE)
    counted = tables.read_table(run.output, columns=["label", "split", "group_id"]).to_pandas()
    per_split = Counter(zip(counted["split"], np.where(counted["label"] == 1, "positive", "negative"), strict=True))
    report |= {
        "rows_per_split": {f"{split} {label}": count for (split, label), count in sorted(per_split.items())},
        "groups_in_two_splits": int((counted.groupby("group_id")["split"].nunique() > 1).sum()),
    }
    return Outcome(rows, content, report)


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


def _splitter(config: AssignSplitsConfig) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def assign(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            pixel = batch["healpix_128"].to_numpy()
            names = splits.assign_splits(pixel, config.seed, config.train_fraction, config.val_fraction)
            folds = splits.assign_folds(pixel, config.folds, config.seed)
            yield pa.RecordBatch.from_arrays(
                [batch["source_id"], pa.array(names), pa.array(folds)], schema=SPLIT_SCHEMA
            )

    return assign


def _groups(sample: DataFrame, config: AssignSplitsConfig) -> tuple[Any, dict[str, int]]:
    """Groups on the driver: a sample has hundreds of thousands of rows, of which three columns are needed."""
    positions = sample.select("source_id", "ra", "dec").toPandas()
    ids = groups.group_ids(positions["source_id"], positions["ra"], positions["dec"], config.group_radius_arcsec)
    sizes = np.unique(ids, return_counts=True)[1]
    report = {"groups": len(sizes), "groups_of_several": int((sizes > 1).sum())}
    return positions[["source_id"]].assign(group_id=ids), report


if __name__ == "__main__":
    sys.exit(main())
