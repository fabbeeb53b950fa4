"""Commands of ``lensdata`` that hand everything to a module."""

from __future__ import annotations

import subprocess
import sys

import pytest

from infra import cli
from infra import pipeline as pipelines


@pytest.mark.parametrize(
    ("command", "module"), [("model", "ray_train.model"), ("mock-survey", "lensdata.simulation.survey")]
)
@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["shielded_resnet", "--preset", "p4"], ["--config", "a.yaml", "key=value"]]
)
def test_every_argument_reaches_the_module(
    monkeypatch: pytest.MonkeyPatch, command: str, module: str, arguments: list[str]
) -> None:
    started = []
    monkeypatch.setattr(pipelines, "run_command", lambda line: started.append(line) or 0)
    assert cli.main([command, *arguments]) == 0
    assert started == [[sys.executable, "-m", module, *arguments]]


def test_model_prints_its_line_and_returns_the_modules_code(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["model", "resnet19"]) == 2
    captured = capfd.readouterr()
    assert captured.out == f"$ {sys.executable} -m ray_train.model resnet19\n"
    assert captured.err.startswith("error: Model: unknown architecture 'resnet19'")


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    """As in ``lensdata … | head -1``."""
    program = [
        sys.executable,
        "-c",
        "from infra.cli import entry; entry()",
        "run",
        "demo",
        "--dry-run",
        "--output",
        str(tmp_path),
    ]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        said = process.stderr.read().decode()

    assert process.returncode == 0
    assert said == ""
