"""A pipeline through ``s3://`` with the very command lines that a cluster gets (R-I1), run by Spark on this machine.

It needs the S3A jars (``python tests/fetch_s3a_jars.py FOLDER``), which pip's Spark does not carry.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import yaml

from lensdata import storage
from tests.emr_endpoint import JARS, LocalRunner
from tests.emr_world import account, world

TINY = Path(__file__).parents[2] / "configs" / "pipelines" / "tiny.yaml"
SPARK_STEPS = [
    "extract_pool",
    "match_positives",
    "sample_negatives",
    "assign_splits",
    "fetch_cutouts",
    "build_manifests",
    "validate_catalogue",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get(JARS), reason=f"{JARS} names no folder: python tests/fetch_s3a_jars.py FOLDER"
    ),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with account() as url, world(url, tmp_path, LocalRunner(tmp_path / "cluster")) as found:
        found.change(python=sys.executable, poll_s=0.5)
        yield found


def tiny(folder: Path, **overrides: dict) -> Path:
    """The tiny pipeline as far as Spark goes, with overrides of some steps."""
    values = yaml.safe_load(TINY.read_text())
    values["steps"] = values["steps"][:8]
    del values["report"], values["headline"]
    for step in values["steps"]:
        step["overrides"] = {**step.get("overrides", {}), **overrides.get(step["name"], {})}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_the_catalogue_is_made_on_s3_and_a_failed_step_is_where_the_next_run_begins(here, capsys):
    wrong = tiny(here.folder, match_positives={"radius_arcsec": 12.0})
    assert here.run(wrong) == 2
    shown = capsys.readouterr().out
    assert "radius_arcsec=12 is more than the 11 arcsec" in shown
    assert "STEP_FAILURE" in shown

    assert here.run(tiny(here.folder)) == 0
    first, second = ([step["Name"] for step in cluster.request["Steps"]] for cluster in here.emr.clusters.values())
    assert first[:2] == ["preflight", "extract_pool"]
    assert second == ["preflight", *SPARK_STEPS[1:4], "service-sky", *SPARK_STEPS[4:]]
    for name in SPARK_STEPS:
        assert storage.exists(f"{here.output}/{name}/_SUCCESS")
    assert storage.read_json(f"{here.output}/fetch_cutouts/_table.json")["rows"] > 100
    report = storage.read_json(f"{here.output}/_preflight/_report.json")
    assert "/code/lensdata/" in report["from"]  # the archive, not this checkout

    assert here.run(tiny(here.folder)) == 0
    assert len(here.emr.clusters) == 2
    assert "validate_catalogue done before, skipped" in capsys.readouterr().out
