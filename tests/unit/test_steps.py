"""The contract of a step: skip, refuse, replace, resume, exit codes."""

from __future__ import annotations

import dataclasses
import json
import os
import platform

import pyarrow as pa
import pytest

from lensdata import steps, storage, tables
from lensdata.config.base import Config, Field
from lensdata.errors import InputError
from lensdata.steps import Job, JobFailed, Outcome


class Settings(Config):
    factor: int = Field(2, ge=1, description="number written")


TABLE = Job("double", "x.double", "python", Settings, "test step", ("numbers",), ("more",))
PART = Job("parts", "x.parts", "python", Settings, "test step in parts", ("numbers",), kind="part")


@pytest.fixture
def numbers(tmp_path):
    path = tmp_path / "numbers.csv"
    path.write_text("1\n2\n")
    return path


class Body:
    """Counts its calls; writes the factor."""

    def __init__(self):
        self.calls = 0

    def __call__(self, run):
        self.calls += 1
        storage.write_bytes(run.path("out.txt"), str(run.config.factor).encode())
        return Outcome(1, str(run.config.factor), {"factor": run.config.factor})


def run(job, body, numbers, output, *more):
    return steps.run_job(job, body, [f"inputs.numbers={numbers}", "--output", str(output), *more])


def test_a_finished_step_is_skipped(tmp_path, numbers):
    body = Body()
    assert run(TABLE, body, numbers, tmp_path / "o") == 0
    assert run(TABLE, body, numbers, tmp_path / "o") == 0
    assert body.calls == 1
    assert (tmp_path / "o" / "out.txt").read_text() == "2"
    report = storage.read_json(str(tmp_path / "o" / "_report.json"))
    assert report["factor"] == 2
    assert report["provenance"]["versions"]["numpy"]


def test_another_configuration_is_refused_with_the_difference(tmp_path, numbers, capsys):
    body = Body()
    run(TABLE, body, numbers, tmp_path / "o")
    assert run(TABLE, body, numbers, tmp_path / "o", "factor=3") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "factor=2 (now 3)" in error
    assert "--force" in error
    assert run(TABLE, body, numbers, tmp_path / "o", "factor=3", "--force") == 0
    assert (tmp_path / "o" / "out.txt").read_text() == "3"


def test_a_changed_input_is_refused_by_name(tmp_path, numbers, capsys):
    body = Body()
    run(TABLE, body, numbers, tmp_path / "o")
    numbers.write_text("1\n3\n")
    assert run(TABLE, body, numbers, tmp_path / "o") == 2
    assert "other content of input numbers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--output", "o"], "needs inputs.numbers=URI"),
        (["inputs.numbers=none.csv", "--output", "o"], "none.csv does not exist"),
        (["inputs.number=x", "--output", "o"], "has no input 'number'"),
        (["inputs.numbers=x"], "--output"),
        (["inputs.numbers=x", "--output", "o", "factr=1"], "did you mean 'factor'"),
        (["inputs.numbers=x", "--output", "o", "factor"], "key=value"),
        (["inputs.numbers=x", "--output", "o", "--test-limit", "0"], "at least 1"),
    ],
)
def test_wrong_command_lines_get_one_sentence_and_exit_2(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert steps.run_job(TABLE, Body(), arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


def test_a_crash_leaves_no_output_and_exits_1(tmp_path, numbers, capsys):
    def crash(run):
        storage.write_bytes(run.path("half"), b"half")
        raise ValueError("boom")

    assert run(TABLE, crash, numbers, tmp_path / "o") == 1
    assert not (tmp_path / "o").exists()
    assert "double failed: ValueError: boom" in capsys.readouterr().err
    assert run(TABLE, Body(), numbers, tmp_path / "o") == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("_temporary")] == []


def test_a_failed_gate_is_one_sentence(tmp_path, numbers, capsys):
    def gate(run):
        raise JobFailed("3 checks failed")

    assert run(TABLE, gate, numbers, tmp_path / "o") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "error: double failed: 3 checks failed"


def test_a_part_step_goes_on_and_refuses_to_go_on_with_another_configuration(tmp_path, numbers, capsys):
    seen = []

    def first(run):
        storage.write_bytes(run.path("part-0"), b"x")
        raise KeyboardInterrupt

    def second(run):
        seen.append((run.resumed, storage.exists(run.path("part-0"))))
        return Outcome(1, "c")

    assert run(PART, first, numbers, tmp_path / "o") == 130
    assert capsys.readouterr().err.endswith("was interrupted; the same command goes on or begins again.\n")
    with pytest.raises(InputError, match="no _SUCCESS"):
        tables.require_success(str(tmp_path / "o"))
    assert run(PART, second, numbers, tmp_path / "o", "factor=5") == 2
    assert run(PART, second, numbers, tmp_path / "o") == 0
    assert seen == [(True, True)]
    capsys.readouterr()


def test_a_folder_with_other_files_is_not_written_into(tmp_path, numbers, capsys):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "thesis.tex").write_text("important")
    assert run(TABLE, Body(), numbers, tmp_path / "o") == 2
    assert "holds files that no step wrote" in capsys.readouterr().err
    assert (
        run(TABLE, Body(), numbers, tmp_path / "o", "--force") == 2
    )  # --force replaces what a step made, nothing else
    assert (tmp_path / "o" / "thesis.tex").exists()


def test_an_input_table_is_known_by_its_rows_not_by_its_files(tmp_path):
    rows = {"stratum": ["a", "b"], "pool": ["N1", "N1"], "confuser": [None, None]}
    numbers_of = {field.name: [1, 2] for field in tables.QUOTAS.schema if field.type == pa.int64()}
    table = pa.table(rows | {"filled_from": [None, None]} | numbers_of, schema=tables.QUOTAS.schema)
    tables.write_table(table, str(tmp_path / "one"), tables.QUOTAS)
    tables.write_table(table.take([1, 0]), str(tmp_path / "two"), tables.QUOTAS)
    assert steps.input_identity(str(tmp_path / "one")) == steps.input_identity(str(tmp_path / "two"))


def test_a_start_killed_in_its_first_write_is_no_foreign_folder(tmp_path, numbers):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "._started.json.tmp-12345678").write_text("{")
    assert run(PART, Body(), numbers, tmp_path / "o") == 0


def test_a_killed_replacement_of_a_part_step_neither_counts_as_done_nor_leaves_the_old_one(tmp_path, numbers):
    assert run(PART, Body(), numbers, tmp_path / "o") == 0

    def killed(run):
        raise KeyboardInterrupt

    assert run(PART, killed, numbers, tmp_path / "o", "--force") == 130
    body = Body()
    assert run(PART, body, numbers, tmp_path / "o") == 0
    assert body.calls == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["numbers.csv", "o"]


@pytest.mark.parametrize("job", [TABLE, PART])
def test_an_output_outlives_a_replacement_that_refuses_its_input(tmp_path, numbers, job):
    assert run(job, Body(), numbers, tmp_path / "o") == 0

    def refuses(run):
        raise InputError("no such class.")

    assert run(job, refuses, numbers, tmp_path / "o", "--force") == 2
    assert (tmp_path / "o" / "out.txt").read_text() == "2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["numbers.csv", "o"]


def test_a_corrected_configuration_is_not_held_against_a_refused_start(tmp_path, numbers):
    def refuses(run):
        raise InputError("no such class.")

    assert run(PART, refuses, numbers, tmp_path / "o", "factor=3") == 2
    assert run(PART, Body(), numbers, tmp_path / "o", "factor=4") == 0


@pytest.mark.parametrize("output", ["{input}", "{input}/below", "{input}/.."])
def test_an_output_over_or_inside_an_input_is_refused_also_by_force(tmp_path, numbers, capsys, output):
    source = tmp_path / "in" / "deep"
    source.mkdir(parents=True)
    (source / "keep.txt").write_text("hours of work")
    argv = [f"inputs.numbers={source}", "--output", output.format(input=source), "--force"]
    assert steps.run_job(TABLE, Body(), argv) == 2
    assert "lie one in the other" in capsys.readouterr().err
    assert (source / "keep.txt").exists()


def test_a_spark_job_refuses_a_path_that_spark_takes_for_a_pattern(tmp_path, numbers, capsys):
    job = dataclasses.replace(TABLE, engine="spark")
    assert steps.run_job(job, Body(), [f"inputs.numbers={numbers}", "--output", str(tmp_path / "p[1]")]) == 2
    assert "takes the characters" in capsys.readouterr().err


@pytest.mark.parametrize("job", [TABLE, PART])
def test_a_second_run_of_an_output_does_not_disturb_the_first(job, tmp_path, numbers, capsys):
    output = tmp_path / "o"

    class Slow(Body):
        def __call__(self, job_run):
            assert steps.run_job(job, Body(), [f"inputs.numbers={numbers}", "--output", str(output)]) == 2
            return super().__call__(job_run)

    assert steps.run_job(job, Slow(), [f"inputs.numbers={numbers}", "--output", str(output)]) == 0
    assert "is being written by process" in capsys.readouterr().err
    assert not list(output.rglob("_running.json"))


def test_a_number_that_went_to_another_process_does_not_block_the_next_run(tmp_path):
    """A container that is started again gives the same number to the same program."""
    mark = {"host": platform.node(), "process": os.getpid(), "start": steps._start_of(os.getpid())}
    path = tmp_path / "_running.json"
    path.write_text(json.dumps(mark))
    with pytest.raises(InputError, match="is being written by process"):
        steps._refuse_running("out", str(tmp_path))
    path.write_text(json.dumps(mark | {"start": "1"}))
    steps._refuse_running("out", str(tmp_path))
