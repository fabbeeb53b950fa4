"""One job through the real ``spark-submit``, as a user or EMR starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spark_jobs import extract_pool


@pytest.mark.slow
def test_spark_submit_gives_the_table_of_the_shared_session(sky, chain, tmp_path):
    submit = Path(sys.executable).with_name("spark-submit")
    command = [str(submit), "--master", "local[2]", extract_pool.__file__, f"inputs.sweeps={sky.sweeps}",
               f"inputs.lenses={sky.lens_csv}", "--output", str(tmp_path / "pool")]  # fmt: skip
    environment = os.environ | {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    contents = [
        json.loads((folder / "_table.json").read_text())["content"] for folder in (tmp_path / "pool", chain / "pool")
    ]
    assert contents[0] == contents[1]


def test_a_wrong_argument_is_one_sentence_and_exit_code_2(tmp_path):
    command = [
        sys.executable,
        "-m",
        "spark_jobs.extract_pool",
        "inputs.sweeps=nowhere",
        "--output",
        str(tmp_path / "o"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
