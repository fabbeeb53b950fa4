"""A study whose driver and trials are killed at random moments ends with the table of an undisturbed one (R-A3).

``LENSDATA_KILLS`` kills of each kind (3); the seed is printed, and ``LENSDATA_FAULT_SEED`` repeats it.
"""

from __future__ import annotations

import csv
import os
import signal
import time
from pathlib import Path

import pytest
import yaml

from tests.faults.training_runs import TrainingProcess, command_of, descendants, write_manifest
from tests.unit.ray_train.test_trial import TRAINING

pytestmark = [pytest.mark.faults, pytest.mark.slow]
KILLS = int(os.environ.get("LENSDATA_KILLS", "3"))
ARMS = {
    "A1": {},
    "B1": {},
    "B2": {"images.masking": [{"radius": 5, "probability": 0.5}]},
    "B3": {"images.masking": [{"radius": 7, "probability": 0.7}]},
    "B4": {"images.masking": [{"radius": 3, "probability": 0.3}]},
}
STUDY = {
    "axes": {"masking": ARMS},
    "seeds": [1, 2],
    "training": TRAINING | {"epochs": 4, "checkpoints": {"every_steps": 2}},
    "decision": {"run_all": True},
    "execution": {"concurrent": 2, "max_failures": 10 * KILLS},
}


@pytest.fixture(scope="module")
def begin(tmp_path_factory):
    """Starts the study; what still runs after a failed test is ended."""
    folder = tmp_path_factory.mktemp("study")
    manifest = write_manifest(folder)
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    begun = []

    def start(name: str) -> TrainingProcess:
        words = ("--config", str(folder / "study.yaml"), f"inputs.manifest={manifest}")
        begun.append(TrainingProcess(folder / name, folder / f"{name}.log", *words, module="ray_train.tune"))
        return begun[-1]

    yield start
    for run in begun:
        if run.running():
            run.kill()


@pytest.fixture(scope="module")
def undisturbed(begin):
    """The tables of a study that nobody disturbs, and its seconds."""
    started = time.monotonic()
    run = begin("whole")
    assert run.wait() == 0, run.said[-5000:]
    return tables(Path(run.output)), time.monotonic() - started


def tables(study: Path) -> dict[str, object]:
    """All that a study says, but what it cost."""
    out: dict[str, object] = {"decision": (study / "decision.json").read_text()}
    for name in ("experiment_metrics.csv", "experiment_cells.csv"):
        with (study / name).open() as handle:
            out[name] = [
                {key: value for key, value in row.items() if "cost" not in key} for row in csv.DictReader(handle)
            ]
    return out


def trial_processes(driver: int) -> list[int]:
    """Processes in which Ray Tune runs a trial."""
    return [pid for pid in descendants(driver) if "ImplicitFunc" in command_of(pid)]


def test_a_study_whose_driver_is_killed_ends_with_the_same_table(begin, undisturbed, rng):
    expected, seconds = undisturbed
    run = begin("driver")
    for kill in range(KILLS):
        time.sleep(rng.uniform(0.1, 0.4) * seconds)
        if not run.running():
            break
        print(f"kill {kill + 1} of the driver")  # noqa: T201
        run.kill()
        run = begin("driver")
    assert run.wait() == 0, run.said[-5000:]
    assert tables(Path(run.output)) == expected


def test_a_study_whose_trials_are_killed_ends_with_the_same_table(begin, undisturbed, rng):
    expected, seconds = undisturbed
    run = begin("trials")
    done = 0
    while done < KILLS and run.running():
        time.sleep(rng.uniform(0.05, 0.3) * seconds / 2)
        if victims := trial_processes(run.pid):
            os.kill(rng.choice(victims), signal.SIGKILL)
            done += 1
            print(f"kill {done} of a trial")  # noqa: T201
    assert done
    assert run.wait() == 0, run.said[-5000:]
    assert tables(Path(run.output)) == expected
