"""Training whose driver, workers and Ray are killed at random steps, against undisturbed runs (R-T5).

``LENSDATA_KILLS`` kills of each kind (3), a third as many of the head, which is slow to start; the seed is printed, and
``LENSDATA_FAULT_SEED`` repeats it.
"""

from __future__ import annotations

import importlib.util
import os
import time

import pytest
import torch

from ray_train.run_folder import RunFolder
from tests.faults.training_runs import (
    RayHead,
    TrainingProcess,
    assert_same,
    descendants,
    outcome,
    saves,
    train_workers,
    wait_for_the_end_of,
    weights,
    write_manifest,
)
from tests.faulty_store import FaultyStore
from tests.faulty_store import environment as environment_of

pytestmark = [pytest.mark.faults, pytest.mark.slow]
KILLS = int(os.environ.get("LENSDATA_KILLS", "3"))
HEAD_KILLS = max(1, KILLS // 3)
EPOCHS = max(6, 2 * KILLS)
MOST_SAVES = 5 * EPOCHS // (KILLS + 1)  # before one kill: a run has 6 an epoch, and shall not end before all kills
LOCAL, RAY = "execution.runtime=local", "execution.runtime=ray"
# Without BatchNorm, whose statistics would be of one worker's micro-batches.
TWO_WORKERS = ("model.arch=timm:test_convnext", "optimizer.name=sgd", "optimizer.lr=0.02", RAY)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_manifest(tmp_path_factory.mktemp("manifest"))


@pytest.fixture(scope="module")
def start(manifest):
    """Starts the command on the small manifest; what still runs after a failed test is ended."""
    begun = []

    def begin(output, log, *settings, environment=None):
        words = (f"inputs.manifest={manifest}", f"epochs={EPOCHS}", *settings)
        begun.append(TrainingProcess(output, log, *words, environment=environment))
        return begun[-1]

    yield begin
    for run in begun:
        if run.running():
            run.kill()


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """What a run gives that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    run = start(folder / "run", folder / "log", LOCAL)
    assert run.wait() == 0, run.said[-5000:]
    return outcome(folder / "run")


@pytest.fixture(scope="module")
def two_workers(start, tmp_path_factory):
    """The same of two Ray workers; the folder."""
    folder = tmp_path_factory.mktemp("two")
    run = start(folder / "run", folder / "log", *TWO_WORKERS, "execution.num_workers=2")
    assert run.wait() == 0, run.said[-5000:]
    return folder / "run"


def wait_for_a_random_step(run, rng, least=0):
    """Until a random number of saves, and a random moment between two of them; with none of them, early in the run."""
    count = rng.randint(least, MOST_SAVES)
    run.wait_for_saves(count)
    time.sleep(rng.uniform(0.0, 0.1) if count else rng.uniform(0.0, 3.0))
    run.require_running()


def test_what_a_killed_write_left_is_gone_after_the_next_epoch(start, tmp_path):
    left = tmp_path / "run" / "checkpoints" / ".inside_epoch.pt.tmp-0123abcd"
    run = start(tmp_path / "run", tmp_path / "log", LOCAL, "epochs=1")
    run.wait_for_saves(1)
    run.kill()
    left.write_bytes(b"half of a checkpoint")
    run = start(tmp_path / "run", tmp_path / "log", LOCAL, "epochs=1")
    assert run.wait() == 0, run.said[-5000:]
    assert not left.exists()


def test_a_killed_driver_ends_bit_equal(start, whole, rng, tmp_path):
    for _ in range(KILLS):
        run = start(tmp_path / "run", tmp_path / "log", LOCAL)
        wait_for_a_random_step(run, rng)
        run.kill()
    run = start(tmp_path / "run", tmp_path / "log", LOCAL)
    assert run.wait() == 0, run.said[-5000:]
    assert_same(outcome(tmp_path / "run"), whole)


@pytest.mark.ray
def test_a_killed_ray_worker_is_started_again_and_ends_bit_equal(start, whole, rng, tmp_path):
    run = start(tmp_path / "run", tmp_path / "log", RAY, f"execution.max_failures={KILLS}")
    killed: list[int] = []
    for _ in range(KILLS):
        [worker] = run.wait_for_workers(1, besides=killed)
        wait_for_a_random_step(run, rng)
        os.kill(worker, 9)
        killed.append(worker)
    assert run.wait() == 0, run.said[-5000:]
    assert_same(outcome(tmp_path / "run"), whole)


@pytest.mark.ray
def test_a_ray_worker_that_died_too_often_ends_the_command_with_a_sentence(start, tmp_path):
    run = start(tmp_path / "run", tmp_path / "log", RAY, "execution.max_failures=0")
    [worker] = run.wait_for_workers()
    run.wait_for_saves(1)  # before its loop starts Ray does not count it
    os.kill(worker, 9)
    assert run.wait() == 1, run.said[-5000:]
    assert "error: train failed: worker 0 of Ray died, and no restart is left" in run.said.splitlines()[-1]
    assert "Traceback" not in run.said


@pytest.mark.ray
def test_a_killed_driver_takes_its_ray_with_it_and_ends_bit_equal(start, whole, rng, tmp_path):
    for number in range(KILLS):
        run = start(tmp_path / "run", tmp_path / "log", RAY)
        run.wait_for_workers()
        wait_for_a_random_step(run, rng)
        rays = descendants(run.pid)
        run.kill(group=number % 2 == 0)  # alone, too: that is what a machine short of memory does
        wait_for_the_end_of(rays)
    run = start(tmp_path / "run", tmp_path / "log", RAY)
    assert run.wait() == 0, run.said[-5000:]
    assert_same(outcome(tmp_path / "run"), whole)


@pytest.mark.ray
def test_a_lost_cluster_ends_the_command_with_a_sentence_and_a_new_one_goes_on(start, whole, rng, tmp_path):
    def begin():
        return start(tmp_path / "run", tmp_path / "log", RAY, environment=head.environment)

    with RayHead(tmp_path / "head") as head:
        run = begin()
        run.wait_for_workers(under=head.pid)
        wait_for_a_random_step(run, rng)
        workers = train_workers(head.pid)
        run.kill()  # the driver alone: the cluster clears up after it
        wait_for_the_end_of(workers)
        for _ in range(HEAD_KILLS):
            run = begin()
            run.wait_for_workers(under=head.pid)
            wait_for_a_random_step(run, rng, least=1)
            head.kill()
            assert run.wait() == 1, run.said[-5000:]
            assert "error: train failed: Ray was lost while the run was going on" in run.said
            assert "Traceback" not in run.said
            run = begin()
            assert run.wait() == 2
            assert "where no Ray head answers" in run.said.splitlines()[-1]
            head.start()
        run = begin()
        assert run.wait() == 0, run.said[-5000:]
    assert_same(outcome(tmp_path / "run"), whole)


def test_a_failing_store_and_a_killed_driver_lose_nothing(start, whole, rng, tmp_path):
    rates = {"rate_slowdown": 0.03, "rate_500": 0.03, "rate_reset": 0.03, "rate_lost": 0.03, "rate_cut": 0.03}
    with FaultyStore(seed=rng.randrange(2**32), **rates) as store, environment_of(store.url) as bucket:
        output = f"{bucket}/runs/run"
        run = start(output, tmp_path / "log", LOCAL)
        wait_for_a_random_step(run, rng, least=1)
        run.kill()
        run = start(output, tmp_path / "log", LOCAL)
        assert run.wait() == 0, run.said[-5000:]
        faults = {kind: count for kind, count in store.counts.items() if count}
        assert len(faults) >= 4, faults
        store.armed = False
        assert_same(outcome(output), whole)


@pytest.mark.parametrize("moment", ["before its first save", "at its first save"])
def test_another_configuration_is_refused_where_a_run_was_killed_in_its_first_epoch(start, moment, tmp_path):
    run = start(tmp_path / "run", tmp_path / "log", LOCAL)
    if moment == "at its first save":
        run.wait_for_saves(1)
    else:
        run.wait_until((tmp_path / "run" / "_config.json").exists)
    run.kill()
    assert not (tmp_path / "run" / "last.json").exists()
    before = saves(str(tmp_path / "run"))
    run = start(tmp_path / "run", tmp_path / "log", LOCAL, "seed=1")
    assert run.wait() == 2
    [sentence] = run.said.splitlines()
    assert "seed=42 (now 1)" in sentence
    assert saves(str(tmp_path / "run")) == before


@pytest.mark.ray
@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="the networks without BatchNorm are timm's")
class TestTwoWorkers:
    """Two Ray workers, which exchange their gradients by gloo."""

    def test_they_train_what_one_trains(self, start, two_workers, tmp_path):
        run = start(tmp_path / "run", tmp_path / "log", *TWO_WORKERS)
        assert run.wait() == 0, run.said[-5000:]
        # A window has two micro-batches: a sum of two gradients has no order, and halves and doubles are exact.
        ours, theirs = weights(two_workers), weights(tmp_path / "run")
        assert [name for name, value in theirs.items() if not torch.equal(ours[name], value)] == []

    def test_one_of_them_killed_they_end_bit_equal(self, start, two_workers, rng, tmp_path):
        more = (*TWO_WORKERS, "execution.num_workers=2", f"execution.max_failures={KILLS}")
        run = start(tmp_path / "run", tmp_path / "log", *more)
        killed: list[int] = []
        for _ in range(KILLS):
            workers = run.wait_for_workers(2, besides=killed)
            wait_for_a_random_step(run, rng)
            os.kill(rng.choice(workers), 9)
            killed += workers
        assert run.wait() == 0, run.said[-5000:]
        assert not RunFolder(str(tmp_path / "run")).partial()
        assert_same(outcome(tmp_path / "run"), outcome(two_workers))
