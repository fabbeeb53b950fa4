"""A selection function whose driver and Ray workers are killed at random moments is that of an undisturbed run (R-E7)."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from lensdata import storage
from tests.faults.training_runs import TrainingProcess, command_of, descendants
from tests.selection import Trained, trained_on

pytestmark = [pytest.mark.faults, pytest.mark.slow]
KILLS = int(os.environ.get("LENSDATA_KILLS", "3"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained_on(tmp_path_factory.mktemp("selection"))


def start(output: Path, trained: Trained, *words: str) -> TrainingProcess:
    return TrainingProcess(
        output, output.with_suffix(".log"), *trained.words(output, *words)[2:], module="ray_train.selection_function"
    )


@pytest.fixture(scope="module")
def whole(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What comes of a run that nobody disturbs."""
    output = tmp_path_factory.mktemp("whole") / "selection"
    run = start(output, trained, "execution.runtime=local")
    assert run.wait() == 0, run.said[-3000:]
    return output


def finished_cells(output: Path) -> int:
    return len(list((output / "dataset").glob("part-*.parquet"))) if output.exists() else 0


def assert_same(ours: Path, theirs: Path) -> None:
    assert storage.read_json(str(ours / "selection.json")) == storage.read_json(str(theirs / "selection.json"))
    described = [storage.read_json(str(place / "_table.json"))["content"] for place in (ours, theirs)]
    assert described[0] == described[1]


def test_a_killed_driver_goes_on_with_the_cells_that_are_missing(
    trained: Trained, whole: Path, rng: random.Random, tmp_path: Path
) -> None:
    output = tmp_path / "selection"
    for _ in range(KILLS):
        run, done = start(output, trained, "execution.runtime=local"), finished_cells(output)
        run.wait_until(lambda done=done: finished_cells(output) >= done + 1)
        time.sleep(rng.uniform(0, 0.5))
        run.require_running()
        run.kill()
        assert not (output / "_SUCCESS").exists()
    before = finished_cells(output)
    run = start(output, trained, "execution.runtime=local")
    assert run.wait() == 0, run.said[-3000:]
    assert 0 < before < finished_cells(output)
    assert_same(output, whole)


@pytest.mark.ray
def test_workers_of_ray_that_are_killed_are_replaced(
    trained: Trained, whole: Path, rng: random.Random, tmp_path: Path
) -> None:
    output = tmp_path / "selection"
    run = start(output, trained, "execution.num_workers=2", f"execution.max_failures={KILLS}")
    for place in range(min(KILLS, 2)):
        run.wait_until(lambda place=place: finished_cells(output) >= 3 * (place + 1))
        workers = [pid for pid in descendants(run.pid) if "LoggedWorker" in command_of(pid)]
        os.kill(rng.choice(workers), signal.SIGKILL)
    assert run.wait() == 0, run.said[-3000:]
    assert_same(output, whole)
