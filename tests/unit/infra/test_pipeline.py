"""The runner: command lines, references, skips, failures; with the one step that needs no engine."""

from __future__ import annotations

import fcntl
import importlib
import json
import sys
from pathlib import Path

import pytest
import yaml

from infra import cli, pipeline, processes
from lensdata import jobs

CONFIGS = Path(__file__).parents[3] / "configs"
SKY = {
    "name": "sky",
    "run": "mock_survey",
    "config": str(CONFIGS / "simulation" / "tiny.yaml"),
    "inputs": {"lenses": "lenscat"},
}


@pytest.fixture
def write(tmp_path):
    def one(*steps, **more):
        path = tmp_path / "p.yaml"
        path.write_text(yaml.safe_dump({"name": "p", "steps": list(steps), **more}))
        return path

    return one


def run(path, tmp_path, *more):
    return cli.main(["run", str(path), "--output", str(tmp_path / "out"), *more])


@pytest.mark.parametrize("path", sorted((CONFIGS / "pipelines").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_pipeline_is_valid(path, monkeypatch, tmp_path):
    monkeypatch.setenv("LENSDATA_REAL_DATA", str(tmp_path))
    loaded = pipeline.Pipeline.load(str(path), pipeline.Options(str(tmp_path / "out")))
    assert all(command for _, command in pipeline.describe(loaded))


def test_demo_and_tiny_are_the_same_pipeline():
    demo, tiny = (yaml.safe_load((CONFIGS / "pipelines" / f"{name}.yaml").read_text()) for name in ("demo", "tiny"))
    shape = [[(step["name"], step["run"], step.get("inputs")) for step in entry["steps"]] for entry in (demo, tiny)]
    assert shape[0] == shape[1]


def test_a_step_runs_once_and_is_skipped_after(write, tmp_path, capsys):
    path = write(SKY)
    assert run(path, tmp_path) == 0
    assert "[1/1] sky done in" in capsys.readouterr().out
    assert run(path, tmp_path) == 0
    assert "[1/1] sky done before, skipped" in capsys.readouterr().out
    assert (tmp_path / "out" / "sky" / "_SUCCESS").exists()
    assert run(path, tmp_path, "--force", "sky") == 0
    assert "[1/1] sky done in" in capsys.readouterr().out


def test_a_failing_step_shows_its_own_error_and_how_to_resume(write, tmp_path, capsys):
    step = {
        "name": "match",
        "run": "match_positives",
        "inputs": {"near_lenses": str(tmp_path / "none.csv"), "lenses": "lenscat"},
    }
    (tmp_path / "none.csv").write_text("a,b\n1,2\n")
    assert run(write(step), tmp_path) == 2
    shown = capsys.readouterr().out
    assert "column 'ra' is missing" in shown
    assert "log     " in shown
    assert "resume  lensdata run" in shown


TOY = """
import sys
from lensdata import storage, steps
from lensdata.config.base import Config

class Settings(Config):
    content: str = "a"

FIRST = steps.Job("first", "toy_steps", "python", Settings, "writes its content")
SECOND = steps.Job("second", "toy_steps", "python", Settings, "reads the first", ("upstream",))

def body(run):
    storage.write_bytes(run.path("made"), b"x")
    return steps.Outcome(1, run.config.content)

if __name__ == "__main__":
    job = SECOND if any(item.startswith("inputs.") for item in sys.argv) else FIRST
    sys.exit(steps.run_job(job, body, sys.argv[1:]))
"""


def test_later_steps_follow_a_forced_one_only_where_content_changed(write, tmp_path, capsys, monkeypatch):
    (tmp_path / "toy_steps.py").write_text(TOY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    toy = importlib.import_module("toy_steps")
    monkeypatch.setitem(jobs.JOBS, "first", toy.FIRST)
    monkeypatch.setitem(jobs.JOBS, "second", toy.SECOND)

    def two(content):
        first = {"name": "one", "run": "first", "overrides": {"content": content}}
        return write(first, {"name": "two", "run": "second", "inputs": {"upstream": "one"}})

    def one_only(content):
        path = tmp_path / "one.yaml"
        step = {"name": "one", "run": "first", "overrides": {"content": content}}
        path.write_text(yaml.safe_dump({"name": "p", "steps": [step]}))
        return path

    def ran(*more):
        assert run(two(more[0]), tmp_path, *more[1:]) == 0
        shown = capsys.readouterr().out
        return [f"{name} done in" in shown for name in ("one", "two")]

    assert ran("a") == [True, True]
    assert ran("a") == [False, False]
    assert ran("a", "--force", "one") == [True, False]  # the same content came out
    assert run(two("b"), tmp_path) == 2  # another configuration needs a word of the user
    assert "content='a' (now 'b')" in capsys.readouterr().err
    assert cli.main(["run", str(one_only("b")), "--output", str(tmp_path / "out"), "--force", "one"]) == 0
    capsys.readouterr()
    assert ran("b") == [False, True]  # as after a kill between the two: the plain command goes on
    assert ran("b", "--from", "two", "--force", "two") == [False, True]


@pytest.mark.parametrize(
    ("steps", "more", "sentence"),
    [
        ([{**SKY, "run": "mock_sky"}], {}, "There is no step 'mock_sky'"),
        ([SKY, SKY], {}, "declared twice"),
        ([{**SKY, "services": ["x"]}], {}, "service 'x', which is not declared"),
        ([{**SKY, "overrides": {"sede": 1}}], {}, "did you mean 'seed'"),
        ([{**SKY, "inputs": {"lens": "lenscat"}}], {}, "has no input 'lens'"),
        ([{**SKY, "inputs": {"lenses": "${NOT_SET_ANYWHERE}/x"}}], {}, "environment variable NOT_SET_ANYWHERE"),
        ([SKY], {"step": []}, "did you mean 'steps'"),
    ],
)
def test_mistakes_in_a_pipeline_are_found_before_the_first_step(write, tmp_path, capsys, steps, more, sentence):
    assert run(write(*steps, **more), tmp_path) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out" / "sky").exists()


def test_an_unknown_pipeline_names_the_known_ones(capsys):
    assert cli.main(["run", "demmo"]) == 2
    assert "demo" in capsys.readouterr().err


def test_a_second_run_in_the_same_folder_is_refused(write, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert run(write(SKY), tmp_path) == 2
    assert "Another run is at work" in capsys.readouterr().err


def test_dry_run_prints_the_lines_a_user_would_type_and_writes_nothing(tmp_path, capsys):
    assert cli.main(["run", "demo", "--output", str(tmp_path / "out"), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "spark-submit --master 'local[*]'" in shown
    assert "-m ray_train.train --config" in shown
    assert not (tmp_path / "out").exists()


def test_ray_steps_are_submitted_to_a_cluster_where_asked(tmp_path, capsys):
    assert (
        cli.main(["run", "demo", "--output", str(tmp_path / "out"), "--dry-run", "--ray-on", "http://127.0.0.1:8265"])
        == 0
    )
    assert "lensdata ray submit --address http://127.0.0.1:8265 -- python -m ray_train.train" in capsys.readouterr().out


def test_progress_lines_are_read_from_the_log(tmp_path):
    log = tmp_path / "x.log"
    seen = []
    code = "from lensdata.steps import progress, setup_logging; setup_logging(); progress(3, 9, 'row ranges')"
    process = processes.start([sys.executable, "-c", code], log)
    assert processes.follow(process, log, 0, seen.append) == 0
    assert processes.Progress(3, 9, "row ranges") in seen


def test_the_last_error_sentence_is_found_among_other_lines(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("noise\nerror: extract_pool failed: reason\nINFO SparkContext: stopped\n")
    assert processes.last_error(log, 0) == "extract_pool failed: reason"
    log.write_text("one\ntwo\n")
    assert processes.last_error(log, 0) == "one\ntwo"


def test_headline_numbers_are_shown_with_their_interval():
    entry = {"title": "AUC", "value": 0.95, "low": 0.9, "high": 0.99, "n_positive": 60, "n_negative": 400}
    assert cli._metric("auc", entry) == "AUC 0.9500  (95% interval 0.9000 to 0.9900)  60 lenses, 400 others"
    assert json.dumps(entry)
