"""Scoring whose driver and Ray workers are killed at random moments gives the table of an undisturbed run (R-E9)."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lensdata import storage
from tests.faults.training_runs import TrainingProcess, command_of, descendants, write_manifest

pytestmark = [pytest.mark.faults, pytest.mark.slow]
KILLS = int(os.environ.get("LENSDATA_KILLS", "3"))
STAMPS, TOP = 6000, 500


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The folder of 47 row groups of stamps, and a run of one epoch on a few of them."""
    folder = tmp_path_factory.mktemp("trained")
    few, many = folder / "few", folder / "many"
    for place in (few, many):
        place.mkdir()
    run = TrainingProcess(folder / "run", folder / "log", f"inputs.manifest={write_manifest(few, 120)}", "epochs=1",
                          "execution.runtime=local")  # fmt: skip
    assert run.wait() == 0, run.said[-3000:]
    return write_manifest(many, STAMPS), str(folder / "run")


def start(output: Path, trained: tuple[str, str], *words: str) -> TrainingProcess:
    manifest, run = trained
    given = (f"inputs.manifest={manifest}", f"inputs.run={run}", "keep=top", f"top_k={TOP}", "views=d4", "pool_top=300",
             "part_rows=1", "batch=16", "execution.threads=1", "execution.device=cpu")  # fmt: skip
    return TrainingProcess(output, output.with_suffix(".log"), *given, *words, module="ray_train.score")


def finished_parts(output: Path) -> int:
    return len(list((output / "parts").glob("rows-*.parquet"))) if output.exists() else 0


def workers_of(run: TrainingProcess) -> list[int]:
    """The processes that score for a run, as soon as there are any."""
    found: list[int] = run.wait_until(
        lambda: [pid for pid in descendants(run.pid) if "LoggedWorker" in command_of(pid)]
    )
    return found


@pytest.fixture(scope="module")
def whole(trained: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What comes of a run that nobody disturbs."""
    output = tmp_path_factory.mktemp("whole") / "scores"
    run = start(output, trained, "execution.runtime=local")
    assert run.wait() == 0, run.said[-3000:]
    return output


def assert_same_table(ours: Path, theirs: Path) -> None:
    for name in ("dataset/part-00000.parquet", "histogram.parquet"):
        assert pq.read_table(ours / name).equals(pq.read_table(theirs / name)), name
    described = [storage.read_json(str(place / "_table.json"))["content"] for place in (ours, theirs)]
    assert described[0] == described[1]


def test_a_killed_driver_goes_on_with_the_parts_that_are_missing(
    trained: tuple[str, str], whole: Path, rng: random.Random, tmp_path: Path
) -> None:
    output = tmp_path / "scores"
    for _ in range(KILLS):
        run, done = start(output, trained, "execution.runtime=local"), finished_parts(output)
        more = rng.randint(1, 40 // KILLS)
        run.wait_until(lambda done=done, more=more: finished_parts(output) >= done + more)
        time.sleep(rng.uniform(0, 0.1))
        run.require_running()
        run.kill()
        assert not (output / "_SUCCESS").exists()
    before = finished_parts(output)
    run = start(output, trained, "execution.runtime=local")
    assert run.wait() == 0, run.said[-3000:]
    assert 0 < before < finished_parts(output)
    assert_same_table(output, whole)


@pytest.mark.ray
def test_workers_of_ray_that_are_killed_are_replaced(
    trained: tuple[str, str], whole: Path, rng: random.Random, tmp_path: Path
) -> None:
    output = tmp_path / "scores"
    run = start(output, trained, "execution.num_workers=2", f"execution.max_failures={KILLS}")

    for place in range(min(KILLS, 2)):
        run.wait_until(lambda place=place: finished_parts(output) >= 8 * (place + 1))
        os.kill(rng.choice(workers_of(run)), signal.SIGKILL)
    assert run.wait() == 0, run.said[-3000:]
    assert_same_table(output, whole)


@pytest.mark.ray
def test_a_worker_that_dies_too_often_is_one_sentence_and_its_parts_stay(
    trained: tuple[str, str], whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores"
    run = start(output, trained, "execution.num_workers=2", "execution.max_failures=0")
    run.wait_until(lambda: finished_parts(output) >= 4)
    os.kill(workers_of(run)[0], signal.SIGKILL)
    assert run.wait() == 1
    assert "a worker of Ray died, and no restart is left" in run.said.splitlines()[-1]
    run = start(output, trained, "execution.runtime=local")
    assert run.wait() == 0, run.said[-3000:]
    assert_same_table(output, whole)
