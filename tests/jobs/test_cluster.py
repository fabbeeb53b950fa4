"""The catalogue jobs on a standalone cluster: the same tables, also when a worker dies while it reads or writes."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from lensdata import storage
from tests.jobs.conftest import crafted_sky
from tests.jobs.spark_cluster import Cluster, spark_cluster
from tests.web_server import Faults, serve

pytestmark = [pytest.mark.faults, pytest.mark.slow]
PATIENCE_S = 300
SMALL = ("spark.executor.memory=600m", "spark.executor.cores=1", "spark.driver.memory=1g")
TABLES = ("pool", "pool/near_lenses", "pool/rejected", "positives", "negatives", "negatives/quotas", "sample")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with spark_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def far_sky(tmp_path_factory):
    return crafted_sky(tmp_path_factory.mktemp("far_sky"))


def contents(out: Path) -> dict[str, str]:
    return {name: json.loads((out / name / "_table.json").read_text())["content"] for name in TABLES}


def run(cluster: Cluster, module: str, arguments: list[str], out: Path, *conf: str) -> None:
    log = out / f"{module}.log"
    process = cluster.submit(module, arguments, log, *SMALL, *conf)
    assert process.wait(PATIENCE_S) == 0, log.read_text(errors="replace")[-5000:]


def run_after_extraction(cluster: Cluster, sky, out: Path, *conf: str) -> None:
    near = [
        f"inputs.near_lenses={out}/pool/near_lenses",
        f"inputs.lenses={sky.lens_csv}",
        "--output",
        f"{out}/positives",
    ]
    run(cluster, "spark_jobs.match_positives", near, out, *conf)
    draw = [f"inputs.pool={out}/pool", f"inputs.positives={out}/positives", "ratio=10", "--output", f"{out}/negatives"]
    run(cluster, "spark_jobs.sample_negatives", draw, out, *conf)
    both = [f"inputs.positives={out}/positives", f"inputs.negatives={out}/negatives", "--output", f"{out}/sample"]
    run(cluster, "spark_jobs.assign_splits", both, out, *conf)


@pytest.mark.parametrize(("executors", "partitions", "rows_per_split"), [(1, 1, 500_000), (2, 7, 1000)])
def test_one_and_two_executors_make_the_tables_of_the_local_run(
    chain, far_sky, cluster, tmp_path, executors, partitions, rows_per_split
):
    conf = (f"spark.cores.max={executors}", f"spark.sql.shuffle.partitions={partitions}")
    extract = [
        f"inputs.sweeps={far_sky.sweeps}",
        f"inputs.lenses={far_sky.lens_csv}",
        "--output",
        f"{tmp_path}/pool",
        f"execution.rows_per_split={rows_per_split}",
    ]
    run(cluster, "spark_jobs.extract_pool", extract, tmp_path, *conf)
    run_after_extraction(cluster, far_sky, tmp_path, *conf)
    assert contents(tmp_path) == contents(chain)


def test_sweeps_on_s3_give_the_pool_of_the_local_run(chain, far_sky, cluster, bucket, tmp_path):
    for path in far_sky.sweeps.iterdir():
        storage.write_bytes(f"{bucket}/dr10/{path.name}", path.read_bytes())
    extract = [f"inputs.sweeps={bucket}/dr10", f"inputs.lenses={far_sky.lens_csv}", "--output", f"{tmp_path}/pool"]
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    run(
        cluster,
        "spark_jobs.extract_pool",
        extract,
        tmp_path,
        *(f"spark.executorEnv.{name}={os.environ[name]}" for name in names),
    )
    for name in TABLES[:3]:
        described = json.loads((tmp_path / name / "_table.json").read_text())
        assert described["content"] == contents(chain)[name]


def test_a_worker_killed_while_it_reads_changes_nothing(chain, far_sky, tmp_path):
    """The sweeps come from a web server that stops answering until the worker is dead."""
    faults = Faults(hold_after=5)
    with spark_cluster(tmp_path / "cluster") as cluster, serve(far_sky.sweeps, faults) as url:
        names = sorted(path.name for path in far_sky.sweeps.iterdir())
        (tmp_path / "list.txt").write_text("".join(f"{url}/{name}\n" for name in names))
        killed = threading.Thread(target=_kill_when_held, args=(cluster, faults), daemon=True)
        killed.start()
        extract = [
            f"inputs.sweeps={tmp_path}/list.txt",
            f"inputs.lenses={far_sky.lens_csv}",
            "--output",
            f"{tmp_path}/pool",
            "execution.rows_per_split=1000",
        ]
        run(cluster, "spark_jobs.extract_pool", extract, tmp_path, "spark.cores.max=2")
        assert faults.released.is_set()
        assert cluster.workers[0].poll() is not None
        run_after_extraction(cluster, far_sky, tmp_path)
    assert contents(tmp_path) == contents(chain)


def test_a_worker_killed_while_tables_are_written_changes_nothing(chain, far_sky, tmp_path):
    with spark_cluster(tmp_path / "cluster") as cluster:
        extract = [
            f"inputs.sweeps={far_sky.sweeps}",
            f"inputs.lenses={far_sky.lens_csv}",
            "--output",
            f"{tmp_path}/pool",
        ]
        log = tmp_path / "extract_pool.log"
        process = cluster.submit("spark_jobs.extract_pool", extract, log, *SMALL, "spark.cores.max=2")
        deadline = time.monotonic() + PATIENCE_S
        while not list(
            tmp_path.glob("_temporary-pool-*/near_lenses/_SUCCESS")
        ):  # rejected and the pool are still to come
            assert process.poll() is None, log.read_text(errors="replace")[-5000:]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        cluster.kill_worker(0)
        assert not (tmp_path / "pool").exists()
        assert process.wait(PATIENCE_S) == 0, log.read_text(errors="replace")[-5000:]
    found = {name: json.loads((tmp_path / name / "_table.json").read_text())["content"] for name in TABLES[:3]}
    assert found == {name: contents(chain)[name] for name in TABLES[:3]}


def _kill_when_held(cluster: Cluster, faults: Faults) -> None:
    """Kill the first worker when both executors wait for the server, then let it answer."""
    deadline = time.monotonic() + PATIENCE_S
    while (faults.held < 2 or not cluster.executors_of(0)) and time.monotonic() < deadline:
        time.sleep(0.05)
    cluster.kill_worker(0)
    faults.released.set()
