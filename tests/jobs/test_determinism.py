"""The same tables, row for row, whatever the partitions and the order of the files."""

from __future__ import annotations

import json

import pytest

from spark_jobs import assign_splits, extract_pool, match_positives, sample_negatives

TABLES = ("pool", "pool/near_lenses", "pool/rejected", "positives", "negatives", "negatives/quotas", "sample")


def contents(out):
    return {name: json.loads((out / name / "_table.json").read_text())["content"] for name in TABLES}


@pytest.fixture
def settings(spark):
    """The session's settings come back whatever a job sets."""
    before = spark.conf.get("spark.sql.shuffle.partitions")
    yield
    spark.conf.set("spark.sql.shuffle.partitions", before)


@pytest.mark.slow
@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    ("partitions", "rows_per_split"),
    [
        pytest.param(1, 500_000, marks=pytest.mark.slow),
        (7, 1000),
        pytest.param(64, 100, marks=pytest.mark.slow),
    ],
)
def test_tables_are_the_same_for_any_partitions_and_shuffled_files(
    chain, sky, monkeypatch, tmp_path, partitions, rows_per_split
):
    shuffled = sorted((str(path) for path in sky.sweeps.iterdir()), reverse=True)
    monkeypatch.setattr(extract_pool, "list_sweeps", lambda uri: shuffled)
    common = [f"execution.shuffle_partitions={partitions}", "--output"]
    inputs = {name: f"inputs.{name}={tmp_path}/{name}" for name in ("pool", "positives", "negatives")}
    extract = [
        f"inputs.sweeps={sky.sweeps}",
        f"inputs.lenses={sky.lens_csv}",
        f"execution.rows_per_split={rows_per_split}",
    ]
    assert extract_pool.main([*extract, *common, f"{tmp_path}/pool"]) == 0
    match = [f"inputs.near_lenses={tmp_path}/pool/near_lenses", f"inputs.lenses={sky.lens_csv}"]
    assert match_positives.main([*match, "--output", f"{tmp_path}/positives"]) == 0
    draw = [inputs["pool"], inputs["positives"], "ratio=10"]
    assert sample_negatives.main([*draw, *common, f"{tmp_path}/negatives"]) == 0
    assert assign_splits.main([inputs["positives"], inputs["negatives"], *common, f"{tmp_path}/sample"]) == 0
    assert contents(tmp_path) == contents(chain)
