"""The tiny pipeline killed in each of its steps, run again, and compared with an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.faults, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
STEPS = [step["name"] for step in yaml.safe_load((ROOT / "configs" / "pipelines" / "tiny.yaml").read_text())["steps"]]
PATIENCE_S = 900


def start(output: Path, log: Path) -> subprocess.Popen:
    with log.open("ab") as handle:
        command = [sys.executable, "-m", "infra.cli", "run", "tiny", "--output", str(output)]
        return subprocess.Popen(command, stdout=handle, stderr=handle, cwd=ROOT, start_new_session=True)


def contents(output: Path) -> dict[str, str]:
    """Content hash of every table of a run, by path."""
    return {
        str(path.parent.relative_to(output)): json.loads(path.read_text())["content"]
        for path in sorted(output.rglob("_table.json"))
        if "evaluate" not in path.parts  # its report names times
    }


def kill_in_step(output: Path, log: Path, step: str, delay_s: float) -> None:
    """Run until ``step`` is at work for ``delay_s``, then SIGKILL the runner and everything it started."""
    offset = log.stat().st_size if log.exists() else 0
    process = start(output, log)
    deadline = time.monotonic() + PATIENCE_S
    begun = re.compile(rf"^\[\d+/\d+\] {step} started", re.M)
    while not begun.search(log.read_text()[offset:]):
        assert process.poll() is None, log.read_text()[offset:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(delay_s)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def finish(output: Path, log: Path) -> None:
    assert start(output, log).wait(PATIENCE_S) == 0, log.read_text()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(folder / "run", folder / "log")
    return folder


def test_a_finished_pipeline_is_skipped_in_seconds(undisturbed):
    started = time.monotonic()
    offset = (undisturbed / "log").stat().st_size
    finish(undisturbed / "run", undisturbed / "log")
    shown = (undisturbed / "log").read_text()[offset:]
    assert shown.count("done before, skipped") == len(STEPS)
    assert "0 of 13 steps ran" in shown
    assert time.monotonic() - started < 60  # no engine is started


def test_a_pipeline_killed_in_every_step_ends_with_the_same_tables(undisturbed, tmp_path):
    seed = int(os.environ.get("LENSDATA_FAULT_SEED", random.randrange(2**32)))
    print(f"seed={seed}")  # noqa: T201
    rng = random.Random(seed)
    for step in STEPS:
        # from before the step wrote anything to well inside it; some kills fall after its end, which is a case too
        kill_in_step(tmp_path / "run", tmp_path / "log", step, rng.uniform(0.2, 12.0))
    finish(tmp_path / "run", tmp_path / "log")
    assert contents(tmp_path / "run") == contents(undisturbed / "run"), f"seed={seed}"
    left = [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(("_temporary", "_old"))]
    assert left == []
