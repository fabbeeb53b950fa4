"""The fetch with its executors, its driver and its server killed at random moments, against an undisturbed one (R-C2).

``LENSDATA_KILLS`` kills of each kind (3); the seed is printed, and ``LENSDATA_FAULT_SEED`` repeats it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lensdata import storage, tables
from lensdata.hashing import pixel_hash
from tests.faulty_store import FaultyStore
from tests.faulty_store import environment as environment_of
from tests.fetching import FAULTS, ServerProcess, most_in_any, write_sample, write_survey
from tests.jobs.spark_cluster import environment, spark_cluster

pytestmark = [pytest.mark.faults, pytest.mark.slow]
KILLS = int(os.environ.get("LENSDATA_KILLS", "3"))
RATE = 20.0
STAMPS = max(400, 130 * KILLS)  # enough work for all kills
PATIENCE_S = 600
JOB = "spark_jobs.fetch_cutouts"
SMALL = ("spark.executor.memory=512m", "spark.executor.cores=1", "spark.driver.memory=1g")


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    return write_survey(tmp_path_factory.mktemp("survey") / "survey")


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("sample") / "sample", STAMPS, bricks=60)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with spark_cluster(tmp_path_factory.mktemp("cluster"), workers=1, cores=8, memory="6g") as running:
        yield running


def arguments(sample: Path, server: ServerProcess, output: Path, *more: str) -> list[str]:
    return [
        f"inputs.sample={sample}", "--output", str(output), "route=service", f"service.url={server.url}/viewer/fits-cutout",
        f"coadds.url={server.url}", f"service.requests_per_second={RATE}", "service.backoff_s=0.2", "service.max_attempts=8",
        f"coadds.requests_per_second={RATE}", "execution.stamps_per_part=20", *more,
    ]  # fmt: skip


def start_here(argv: list[str], log: Path) -> subprocess.Popen:
    """The job on two local cores, in a process group of its own."""
    with log.open("ab") as handle:
        command = [sys.executable, "-m", JOB, *argv]
        return subprocess.Popen(command, stdout=handle, stderr=handle, env=environment(), start_new_session=True)


def contents(output: Path) -> list[str]:
    return [json.loads((output / name / "_table.json").read_text())["content"] for name in ("ledger", "parts")]


def published(output: Path) -> set[int]:
    """Objects whose stamps the ledger says are there, or excluded."""
    ids = set()
    for path in (output / "ledger" / "dataset").glob("*.parquet"):
        rows = pq.read_table(path).to_pylist()
        ids |= {row["source_id"] for row in rows if row["outcome"] != "failed"}
    return ids


def positions(sample: Path) -> dict[int, tuple[str, str]]:
    rows = tables.read_table(str(sample), columns=["source_id", "ra", "dec"]).to_pylist()
    return {row["source_id"]: (f"{row['ra']:.7f}", f"{row['dec']:.7f}") for row in rows}


def assert_not_asked_again(server: ServerProcess, sample: Path, there: set[int], since: float) -> None:
    place = positions(sample)
    again = {(entry["ra"], entry["dec"]) for entry in server.requests() if entry["time"] > since}
    assert not again & {place[key] for key in there}


@pytest.fixture(scope="module")
def undisturbed(survey, sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    with ServerProcess(survey, folder, latency_s=0.02) as server:
        process = start_here(arguments(sample, server, folder / "out"), folder / "log")
        assert process.wait(PATIENCE_S) == 0, (folder / "log").read_text()[-5000:]
    return contents(folder / "out")


def test_a_killed_driver_goes_on_where_it_was(survey, sample, undisturbed, rng, tmp_path):
    output, log = tmp_path / "out", tmp_path / "log"
    with ServerProcess(survey, tmp_path, latency_s=0.02) as server:
        argv = arguments(sample, server, output)
        there: set[int] = set()
        for _ in range(KILLS):
            started = time.time()
            process = start_here(argv, log)
            # from before the first stamp to some way into the work
            time.sleep(rng.uniform(1.0, 12.0))
            assert process.poll() is None, "the job was done before all kills"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert_not_asked_again(server, sample, there, started)
            there = published(output)
        started = time.time()
        assert start_here(argv, log).wait(PATIENCE_S) == 0, log.read_text()[-5000:]
        assert_not_asked_again(server, sample, there, started)
        times = [entry["time"] for entry in server.requests()]
    assert contents(output) == undisturbed
    assert most_in_any(times, 10.0) <= RATE * 10  # over the restarts, too


def test_a_killed_server_is_waited_for(survey, sample, undisturbed, rng, tmp_path):
    output, log = tmp_path / "out", tmp_path / "log"
    with ServerProcess(survey, tmp_path, latency_s=0.02) as server:
        process = start_here(arguments(sample, server, output), log)
        while not server.requests():
            assert process.poll() is None, log.read_text()[-5000:]
            time.sleep(0.1)
        for _ in range(KILLS):
            time.sleep(rng.uniform(0.5, 5.0))
            assert process.poll() is None, "the job was done before all kills"
            server.kill()
            time.sleep(rng.uniform(0.5, 8.0))
            server.start()
        assert process.wait(PATIENCE_S) == 0, log.read_text()[-5000:]
    assert contents(output) == undisturbed
    ledger = tables.read_table(str(output / "ledger"), tables.LEDGER)
    assert "failed" not in ledger["outcome"].to_pylist()


def test_killed_executors_are_replaced_and_change_nothing(survey, sample, undisturbed, cluster, rng, tmp_path):
    output, log = tmp_path / "out", tmp_path / "log"
    with ServerProcess(survey, tmp_path, latency_s=0.02) as server:
        process = cluster.submit(JOB, arguments(sample, server, output), log, *SMALL, "spark.cores.max=2")
        while not server.requests():
            assert process.poll() is None, log.read_text()[-5000:]
            time.sleep(0.1)
        killed: list[tuple[set[int], float]] = []
        for _ in range(KILLS):
            time.sleep(rng.uniform(0.5, 6.0))
            while not (alive := cluster.executors()):
                assert process.poll() is None, "the job was done before all kills"
                time.sleep(0.1)
            os.kill(rng.choice(alive), signal.SIGKILL)
            killed.append((published(output), time.time()))
        assert process.wait(PATIENCE_S) == 0, log.read_text()[-5000:]
        for there, since in killed:
            assert_not_asked_again(server, sample, there, since)
    assert contents(output) == undisturbed


@pytest.mark.parametrize("executors", [1, 2, 8])
def test_every_stamp_that_can_come_comes_once_at_the_configured_rate(survey, cluster, executors, tmp_path):
    sample = write_sample(tmp_path / "sample", 700, seed=executors)
    output, log = tmp_path / "out", tmp_path / "log"
    with ServerProcess(survey, tmp_path, **FAULTS) as server:
        argv = arguments(sample, server, output, "execution.stamps_per_part=50", "service.connections_per_task=8")
        process = cluster.submit(JOB, argv, log, *SMALL, f"spark.cores.max={executors}")
        assert process.wait(PATIENCE_S) == 0, log.read_text()[-5000:]
        requests = server.requests()
    times = [entry["time"] for entry in requests]
    assert most_in_any(times, 10.0) <= RATE * 10
    assert len(times) / (max(times) - min(times)) >= 0.9 * RATE
    ledger = tables.read_table(str(output / "ledger"), tables.LEDGER).to_pandas()
    assert len(ledger) == 700
    assert ledger["attempts"].sum() == len(requests)
    # what the server always answers 500 to failed, and nothing else did
    never = {(entry["ra"], entry["dec"]) for entry in requests if entry["fault"] == "permanent_500"}
    place = positions(sample)
    failed = ledger[ledger["outcome"] == "failed"]
    assert {place[key] for key in failed["source_id"]} == never
    assert set(failed["reason"]) <= {"http_500"}
    assert_pixels_are_the_renderers(survey, output, ledger)


def test_a_failing_store_loses_nothing_even_when_the_driver_is_killed(survey, sample, undisturbed, rng, tmp_path):
    rates = {"rate_slowdown": 0.03, "rate_500": 0.03, "rate_reset": 0.03, "rate_lost": 0.03, "rate_cut": 0.03}
    log = tmp_path / "log"
    with (
        FaultyStore(seed=rng.randrange(2**32), **rates) as store,
        environment_of(store.url) as bucket,
        ServerProcess(survey, tmp_path, latency_s=0.02) as server,
    ):
        output = f"{bucket}/run/cutouts"
        argv = arguments(sample, server, output)
        process = start_here(argv, log)
        time.sleep(rng.uniform(8.0, 20.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert start_here(argv, log).wait(PATIENCE_S) == 0, log.read_text()[-5000:]
        found = [storage.read_json(f"{output}/{name}/_table.json")["content"] for name in ("ledger", "parts")]
        faults = {kind: count for kind, count in store.counts.items() if count}
    assert found == undisturbed, faults
    assert len(faults) >= 3, faults


def assert_pixels_are_the_renderers(survey: Path, output: Path, ledger) -> None:
    import numpy as np

    from lensdata.cutouts.stored import read_stored
    from lensdata.simulation.cutouts import cutout_pixels, parse_query
    from lensdata.simulation.rendering import Renderer
    from lensdata.simulation.world import Survey

    renderer = Renderer(Survey.load(str(survey)))
    stored = ledger[ledger["outcome"] == "stored"].sample(60, random_state=0)
    place = positions(output.parent / "sample")
    for stamp, row in zip(read_stored(str(output), stored), stored.itertuples(), strict=True):
        ra, dec = place[row.source_id]
        asked = {"ra": ra, "dec": dec, "layer": "ls-dr10", "bands": "grz", "size": "101", "pixscale": "0.262"}
        assert np.array_equal(stamp, np.moveaxis(cutout_pixels(renderer, parse_query(asked)), 0, -1))
        assert row.pixel_hash == pixel_hash(stamp)
