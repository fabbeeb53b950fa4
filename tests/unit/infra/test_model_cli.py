"""``lensdata bundle`` and ``lensdata score-positions``: the lines that they run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra import cli, model_cli
from lensdata import jobs, steps


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Arguments of what would have been run, each understood by its step."""
    seen: list[list[str]] = []

    def run(command: list[str]) -> int:
        module, words = command[2], command[3:]
        job = next(job for job in jobs.JOBS.values() if job.module == module)
        steps.parse(job, words)
        seen.append([module, *words])
        return 0

    monkeypatch.setattr(model_cli.pipelines, "run_command", run)
    return seen


def test_a_bundle_finds_the_manifest_of_its_run(tmp_path: Path, lines, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, train = tmp_path / "manifest", tmp_path / "demo" / "train"
    manifest.mkdir()
    train.mkdir(parents=True)
    (train / "run_info.json").write_text(json.dumps({"manifest": {"uri": str(manifest)}}))
    (manifest / "x").touch()
    assert cli.main(["bundle", str(train), "--onnx", "--output", str(tmp_path / "b")]) == 0
    assert f"inputs.manifest={manifest}" in lines[0]
    assert f"inputs.runs.train={train}" in lines[0]
    assert "onnx=true" in lines[0]
    assert str(tmp_path / "b" / "model_card.md") in capsys.readouterr().out


def test_a_run_whose_manifest_has_moved_asks_for_it(tmp_path: Path, lines, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run_info.json").write_text(json.dumps({"manifest": {"uri": str(tmp_path / "gone")}}))
    assert cli.main(["bundle", str(tmp_path), "--output", str(tmp_path / "b")]) == 2
    assert "say where it is: --manifest FOLDER" in capsys.readouterr().err
    assert cli.main(["bundle", f"one={tmp_path}", f"two={tmp_path}", "--manifest", "m", "--output", "b"]) == 0
    assert f"inputs.runs.two={tmp_path}" in lines[0]


def test_scoring_takes_what_a_user_gives(tmp_path: Path, lines) -> None:
    line = [
        "score-positions",
        "t.csv",
        "--model",
        "b",
        "--output",
        str(tmp_path),
        "--prevalence",
        "1e-3",
        "--rate",
        "5",
        "--retry",
    ]
    more = [
        "--service",
        "http://127.0.0.1:1/x",
        "--contact",
        "me@example.org",
        "--lenses",
        "l.csv",
        "--set",
        "page_rows=10",
    ]
    assert cli.main([*line, *more]) == 0
    assert lines[0][0] == "ray_train.score_positions"
    assert {
        "inputs.table=t.csv",
        "inputs.model=b",
        "prevalence=0.001",
        "service.requests_per_second=5.0",
        "--retry",
    } <= set(lines[0])
