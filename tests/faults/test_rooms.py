"""Images made without a container engine: the Dockerfiles' own commands in a fresh Debian (docker/rehearse.py)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
ROOMS = os.environ.get("LENSDATA_ROOMS", "")
pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.skipif(
        not ROOMS or os.geteuid() != 0 or shutil.which("debootstrap") is None,
        reason="needs root, debootstrap, a network, and LENSDATA_ROOMS to name a folder for a few GB",
    ),
]


ENGINES = {
    "spark": ("spark-submit --version 2>&1; python -c 'import spark_jobs.extract_pool'; ! which ray", "version 3.5.6"),
    "ray": ("ray --version; python -m ray_train.train --help; ! which java", "ray, version 2.60"),
}


@pytest.mark.parametrize("image", ENGINES)
def test_an_image_is_made_by_its_own_commands_and_has_one_engine(image):
    command, expected = ENGINES[image]
    room = Path(ROOMS) / image
    shutil.rmtree(room, ignore_errors=True)
    folders = os.environ.get("LENSDATA_ROOMS_BIND", "").split(":")
    bound = [word for folder in filter(None, folders) for word in ("--bind", folder)]
    line = [sys.executable, "docker/rehearse.py", ROOMS, "--image", image, *bound, "--"]

    made = subprocess.run(
        [*line, "sh", "-euc", f"id -u; {command}"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
    assert "\n10001\n" in made.stdout  # nobody special
    assert expected in made.stdout
    assert (room / "opt/lensdata/licences.csv").read_text().startswith("package,version,licence")
