"""The figures of a run as Ray's metrics, and the dashboard that shows them (R-T7)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ray_train.gauges import FIGURES, TAGS, RayGauges

DASHBOARD = Path(__file__).resolve().parents[3] / "infra" / "ray" / "grafana_training.json"
RECORD = {"epoch": 3, "images_per_second": 812.5, "train_loss": 0.25, "val_loss": 0.5, "val_auc": 0.9375}


class FakeMetric:
    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.tag_keys, self.values = name, tag_keys, []
        self.tags: dict[str, str] = {}
        MADE[name] = self

    def set_default_tags(self, tags: dict[str, str]) -> None:
        self.tags = tags

    def set(self, value: float) -> None:
        self.values.append(value)

    inc = set


MADE: dict[str, FakeMetric] = {}


@pytest.fixture
def gauges(monkeypatch: pytest.MonkeyPatch) -> RayGauges:
    metrics = pytest.importorskip("ray.util.metrics", reason="the extra lensdata[train] is not installed")
    MADE.clear()
    monkeypatch.setattr(metrics, "Gauge", FakeMetric)
    monkeypatch.setattr(metrics, "Counter", FakeMetric)
    return RayGauges("first", 1)


def test_every_figure_of_the_latest_record_is_set_with_run_and_rank(gauges: RayGauges) -> None:
    gauges.epoch_done([{"epoch": 2}, RECORD | {"data_wait_seconds": 1.5, "gpu_memory_bytes": 2**30}])
    assert {name: metric.values for name, metric in MADE.items()} == {
        "images_per_second": [812.5],
        "data_wait_seconds_total": [1.5],
        "train_loss": [0.25],
        "val_loss": [0.5],
        "val_auc": [0.9375],
        "epoch": [3.0],
        "gpu_memory_bytes": [2**30],
    }
    assert all(metric.tags == {"run": "first", "rank": "1"} for metric in MADE.values())
    assert all(metric.tag_keys == TAGS for metric in MADE.values())


def test_what_a_record_does_not_have_is_left_alone(gauges: RayGauges) -> None:
    gauges.epoch_done([RECORD | {"data_wait_seconds": 0.0}])
    assert MADE["data_wait_seconds_total"].values == MADE["gpu_memory_bytes"].values == []
    assert MADE["epoch"].values == [3.0]


def panels() -> list[dict[str, Any]]:
    return json.loads(DASHBOARD.read_text())["panels"]


def test_the_dashboard_has_a_panel_for_every_figure_and_asks_for_nothing_else() -> None:
    known = {figure.prometheus_name for figure in FIGURES}
    asked = []
    for panel in panels():
        [expression] = [target["expr"] for target in panel["targets"]]
        [name] = re.findall(r"\bray_\w+", expression)
        assert 'run=~"$run"' in expression
        asked.append(name)
    assert sorted(asked) == sorted(known)
    variables = {variable["name"]: variable for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]}
    assert re.findall(r"\bray_\w+", variables["run"]["definition"])[0] in known


def test_panels_do_not_overlap_and_have_their_own_numbers() -> None:
    assert len({panel["id"] for panel in panels()}) == len(panels())
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels()}) == len(panels())


# A Ray of its own, in a process of its own: what Ray reads from the environment it reads once, when it is imported.
SCRIPT = """
import json, os, sys, time, urllib.request
from ray_train import ray_environment
ray_environment.prepare()
import ray
from ray_train.gauges import RayGauges

ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
gauges = RayGauges("first", 0)
gauges.epoch_done([json.loads(sys.argv[1])])
[node] = ray.nodes()
address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
deadline, text = time.monotonic() + 60, ""
while "ray_val_auc" not in text and time.monotonic() < deadline:
    time.sleep(0.5)
    try:
        text = urllib.request.urlopen(address, timeout=5).read().decode()
    except OSError as error:
        text = str(error)
print(text)
ray.shutdown()
"""


@pytest.mark.slow
@pytest.mark.ray
def test_the_values_are_on_the_nodes_metrics_port() -> None:
    pytest.importorskip("ray", reason="the extra lensdata[train] is not installed")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(RECORD | {"data_wait_seconds": 1.5})],
        capture_output=True, text=True, check=False, timeout=150,
        env=os.environ | {"RAY_metrics_report_interval_ms": "500", "PYTHONPATH": str(DASHBOARD.parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = {}
    for name, labels, value in re.findall(r"^(ray_\w+)\{(.*)\} (\S+)$", done.stdout, re.MULTILINE):
        if 'run="first"' in labels and 'rank="0"' in labels:
            found[name] = float(value)
    wanted = {f"ray_{name}": float(value) for name, value in RECORD.items()} | {"ray_data_wait_seconds_total": 1.5}
    assert wanted.items() <= found.items(), done.stdout[-2000:]
