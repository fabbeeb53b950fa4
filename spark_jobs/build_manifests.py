"""Shards in seeded random order, and the parity and audit manifests over them (R-S7, R-C3)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lensdata import storage, tables
from lensdata.cutouts.packing import drop_report, join_manifest, manifest_rows, place_stamps
from lensdata.errors import InputError
from lensdata.jobs import JOBS
from lensdata.shards.layout import IMAGE_COLUMN, ImageLayout, layout_of, to_numpy
from lensdata.shards.writer import ShardWriter
from lensdata.steps import JobRun, Outcome, run_job
from spark_jobs import datasets
from spark_jobs.session import build_session

JOB = JOBS["build_manifests"]
BATCH_STAMPS = 64  # a batch of stamps between JVM and Python is 8 MB; the default of 10,000 rows would be 1.2 GB


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_job(JOB, build_manifests, sys.argv[1:] if argv is None else argv)


def build_manifests(run: JobRun) -> Outcome:
    """The driver holds tables of the sample's size; only pixels are shuffled."""
    config = run.config
    cutouts = run.inputs["cutouts"]
    tables.require_success(cutouts)
    columns = ["cutout_id", "outcome", "reason", "kind", "route", "part", "row"]
    ledger = tables.read_table(storage.join(cutouts, "ledger"), columns=columns).to_pandas()
    check_ledger(ledger, cutouts, config.kind)
    parts = part_files(ledger, cutouts)
    sample = tables.read_table(run.inputs["sample"], tables.SAMPLE).to_pandas()
    schema = _schema(parts[0])
    layout = layout_of(schema, parts[0])
    placed = place_stamps(ledger, config, layout.nbytes + _extra_bytes(schema))
    frame, dropped = join_manifest(sample, ledger, placed, config)
    if config.kind == "control":  # controls are asked for some labels only; the others are not missing
        dropped = dropped[dropped["reason"] != "not_requested"]
    spark = build_session(JOB.name)
    _write_shards(
        spark, parts, _with_place(placed, ledger), schema, config.row_group_stamps, run.path("shards", "dataset")
    )
    _, pixels = datasets.finish(spark, run.path("shards"), None, identity=["cutout_id", "pixel_hash"])
    report: dict[str, Any] = {
        "stamps": len(placed),
        "shards": int(placed["shard_index"].max() + 1),
        **drop_report(dropped),
    }
    contents = []
    for name in config.manifests:
        rows = manifest_rows(frame, name, config)
        tables.write_table(_manifest_table(rows, config.row_group_stamps), run.path(name), tables.MANIFEST)
        contents.append(tables.add_to_content(run.path(name), pixels))
        counts = Counter(
            f"{split} {'positive' if label == 1 else 'negative'}"
            for split, label in zip(rows["split"], rows["label"], strict=True)
        )
        report[name] = {"rows": len(rows), "rows_per_split": dict(sorted(counts.items()))}
    rejected = pa.Table.from_pandas(
        dropped.assign(lens_name=dropped["lens_name"], separation_arcsec=None), preserve_index=False
    )
    tables.write_table(rejected.select(tables.REJECTED.names), run.path("rejected"), tables.REJECTED)
    return Outcome(len(frame), "-".join(contents), report)


def check_ledger(ledger: pd.DataFrame, cutouts: str, kind: str) -> None:
    """Stamps of one kind, and on one grid: resampled ones (service) and native ones have other noise.

    Raises
    ------
    InputError
        Another kind than the configuration's, or stamps of both grids.
    """
    if (ledger["kind"] != kind).any():
        raise InputError(
            f"{cutouts} holds stamps of kind {ledger['kind'].iloc[0]!r}, the configuration asks for {kind!r}."
        )
    routes = Counter(ledger.loc[ledger["outcome"] == "stored", "route"])
    if "service" in routes and len(routes) > 1:
        named = ", ".join(f"{count} by route {route}" for route, count in sorted(routes.items()))
        raise InputError(
            f"{cutouts} mixes {named}; the service's stamps are resampled and have less noise, which a network would learn "
            "instead of lenses: fetch all by one route (R-C1)."
        )


def part_files(ledger: pd.DataFrame, cutouts: str) -> list[str]:
    """The files that hold the stored stamps, those of earlier batches included.

    Raises
    ------
    InputError
        There are none.
    """
    names = sorted(set(ledger.loc[ledger["outcome"] == "stored", "part"]))
    if not names:
        raise InputError(f"{cutouts} holds no stamps: every request failed or was excluded; see its ledger.")
    files = [storage.join(cutouts, "parts", "dataset", name) for name in names]
    there = {uri for folder in {name.rpartition("/")[0] for name in files} for uri in storage.list_files(folder)}
    for uri in files:
        if uri not in there:
            raise InputError(f"{cutouts} names {uri} in its ledger, but it is not there; was an earlier batch moved?")
    return files


def _with_place(placed: pd.DataFrame, ledger: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``placed`` with file and row of their stamp."""
    stored = ledger.loc[ledger["outcome"] == "stored", ["cutout_id", "part", "row"]]
    named = stored.assign(_file=stored["part"].str.rpartition("/")[2], _row=stored["row"].astype("int64"))
    return placed.merge(named[["cutout_id", "_file", "_row"]], on="cutout_id", validate="one_to_one")


def _extra_bytes(schema: pa.Schema) -> int:
    """Bytes of a stamp's further arrays (invvar, maskbits)."""
    arrays = [field for field in schema if field.name != IMAGE_COLUMN and pa.types.is_fixed_size_binary(field.type)]
    return sum(int(field.type.byte_width) for field in arrays)


def _schema(uri: str) -> pa.Schema:
    with storage.open_arrow(uri) as handle:
        return pq.read_schema(handle)


def _write_shards(
    spark: SparkSession, parts: list[str], placed: pd.DataFrame, schema: pa.Schema, group_rows: int, folder: str
) -> None:
    """Shuffle the stamps to their shards; a task writes whole shards, atomically and always with the same bytes."""
    layout = layout_of(schema, parts[0])
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", BATCH_STAMPS)
    spark.conf.set("spark.sql.parquet.columnarReaderBatchSize", 4 * BATCH_STAMPS)
    # Files may hold rows that the ledger does not name: an earlier batch's stamp of a position that has moved since.
    place = [F.col("_metadata.file_name").alias("_file"), F.col("_metadata.row_index").alias("_row")]
    stamps = spark.read.parquet(*parts).select("*", *place)
    shards = int(placed["shard_index"].max()) + 1
    order = spark.createDataFrame(placed)
    routed = stamps.join(F.broadcast(order), ["cutout_id", "_file", "_row"], "inner").repartition(
        min(shards, 2000), "shard_index"
    )
    ordered = routed.sortWithinPartitions("shard_index", "position")
    written = ordered.mapInArrow(_shard_task(layout, schema, group_rows, folder), "shard string, rows long").collect()
    rows = sum(row["rows"] for row in written)
    if rows != len(placed):
        raise RuntimeError(f"{rows} stamps were packed, the ledger holds {len(placed)}")


def _shard_task(
    layout: ImageLayout, schema: pa.Schema, group_rows: int, folder: str
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    schema = pa.schema([field for field in schema if field.name != IMAGE_COLUMN])

    def pack(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        writer: ShardWriter | None = None
        current = -1
        for batch in batches:
            for index in batch["shard_index"].unique().to_pylist():
                if index != current:
                    if writer is not None:
                        yield _close(writer)
                    writer = ShardWriter(folder, layout, first_index=index, target_bytes=1 << 40, group_rows=group_rows)
                    current = index
                table = pa.Table.from_batches([batch]).filter(pa.compute.equal(batch["shard_index"], index))
                image = table[IMAGE_COLUMN].cast(pa.binary(layout.nbytes))
                assert writer is not None
                writer.add(table.select(schema.names).cast(schema), to_numpy(image, layout))
        if writer is not None:
            yield _close(writer)

    return pack


def _close(writer: ShardWriter) -> pa.RecordBatch:
    written = writer.close()
    return pa.RecordBatch.from_pydict(
        {"shard": [info.name for info in written], "rows": [info.rows for info in written]}
    )


def _manifest_table(rows: pd.DataFrame, group_rows: int) -> pa.Table:
    rows = rows.assign(
        shard=[f"../shards/dataset/shard-{index:05d}.parquet" for index in rows["shard_index"].astype(int)],
        row_group=rows["position"].astype("int64") // group_rows,
        row=rows["position"].astype("int64") % group_rows,
    )
    return pa.Table.from_pandas(rows[tables.MANIFEST.names], preserve_index=False)


if __name__ == "__main__":
    sys.exit(main())
