"""Trackers listen to a run: they go on where it was interrupted, and none of them can end it (R-T7)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lensdata.errors import InputError
from ray_train import trackers
from ray_train.core.loop import Record
from ray_train.run_folder import RunFolder
from ray_train.trackers import CURVES, Patient, build_trackers, check_trackers, run_key

CONFIG = {"seed": 7, "optimizer": {"lr": 1e-3}, "execution": {"num_workers": 1}, "trackers": {"tensorboard": True}}


@dataclass
class Settings:
    tensorboard: bool = False
    wandb: str | None = None
    wandb_mode: str = "offline"
    mlflow: str | None = None
    mlflow_experiment: str = "lenses"


def records(count: int) -> list[Record]:
    return [{"epoch": epoch, **dict.fromkeys(CURVES, epoch + 0.5)} for epoch in range(count)]


class Broken:
    asked = 0

    def epoch_done(self, records: list[Record]) -> None:
        self.asked += 1
        raise ConnectionError("no route to host")

    def close(self) -> None:
        raise ConnectionError("no route to host")


def test_a_tracker_that_fails_is_warned_about_once_and_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    broken = Broken()
    patient = Patient(broken)
    with caplog.at_level(logging.WARNING):
        for count in (1, 2, 3):
            patient.epoch_done(records(count))
        patient.close()
    assert broken.asked == 1
    [line] = caplog.messages
    assert "tracker=Broken" in line
    assert "no route to host" in line


def test_a_tracker_that_cannot_end_does_not_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    Patient(Broken()).close()
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_extra(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # an import of it fails, installed or not
    with pytest.raises(InputError, match=rf"trackers\.{name} is set, .* lensdata\[{name}\]"):
        build_trackers(Settings(**{name: "somewhere"}), RunFolder(str(tmp_path)), CONFIG)
    with pytest.raises(InputError, match=rf"trackers\.{name} is set, .* lensdata\[{name}\]"):
        check_trackers(Settings(**{name: "somewhere"}))


def test_nothing_is_imported_that_is_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    check_trackers(Settings())
    assert build_trackers(Settings(), RunFolder(str(tmp_path)), CONFIG) == []
    assert len(build_trackers(Settings(tensorboard=True), RunFolder(str(tmp_path)), CONFIG)) == 1


def test_a_run_is_another_only_when_it_trains_something_else() -> None:
    key = run_key(RunFolder("runs/first"), CONFIG)
    assert key.startswith("first-")
    assert run_key(RunFolder("runs/it's a: try"), CONFIG).startswith("it_s_a__try-")
    assert key == run_key(RunFolder("/elsewhere/first/"), CONFIG | {"execution": {}, "trackers": {}})
    assert key != run_key(RunFolder("runs/second"), CONFIG)
    assert key != run_key(RunFolder("runs/first"), CONFIG | {"seed": 8})


def tell(config: Settings, folder: RunFolder, counts: range, *, closes: bool) -> None:
    """What one start of a run does: epochs up to each of these counts."""
    listening = build_trackers(config, folder, CONFIG)
    for count in counts:
        for tracker in listening:
            tracker.epoch_done(records(count))
    for tracker in listening:
        if closes:
            tracker.close()


class FakeRun:
    """A run of W&B that keeps what it is given."""

    def __init__(self, key: str, step: int) -> None:
        self.id, self.step = key, step
        self.steps: list[int] = []
        self.finished = False

    def log(self, values: dict[str, float], *, step: int, commit: bool) -> None:
        assert set(values) == set(CURVES)
        self.steps.append(step)

    def finish(self) -> None:
        self.finished = True


class FakeWandB:
    """The part of the package that is used; `server_step` is what the service has of a run."""

    def __init__(self) -> None:
        self.runs: list[FakeRun] = []
        self.given: list[dict[str, Any]] = []
        self.server_step = 0

    Settings = dict

    def init(self, **given: Any) -> FakeRun:
        self.given.append(given)
        self.runs.append(FakeRun(given["id"], self.server_step))
        return self.runs[-1]


@pytest.fixture
def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandB:
    fake = FakeWandB()
    monkeypatch.setattr(trackers, "_import", lambda name: fake)
    return fake


def test_a_resumed_offline_run_adds_only_what_is_missing(tmp_path: Path, fake_wandb: FakeWandB) -> None:
    folder = RunFolder(str(tmp_path / "run"))
    tell(Settings(wandb="lenses"), folder, range(1, 3), closes=False)  # killed after two epochs
    tell(Settings(wandb="lenses"), folder, range(4, 5), closes=True)  # one epoch was saved and not told
    assert [run.steps for run in fake_wandb.runs] == [[0, 1], [2, 3]]
    assert fake_wandb.given[0]["id"] == fake_wandb.given[1]["id"] == run_key(folder, CONFIG)
    assert [run.finished for run in fake_wandb.runs] == [False, True]


def test_online_the_service_says_which_epochs_it_has(tmp_path: Path, fake_wandb: FakeWandB) -> None:
    folder, config = RunFolder(str(tmp_path / "run")), Settings(wandb="lenses", wandb_mode="online")
    tell(config, folder, range(1, 4), closes=False)
    fake_wandb.server_step = 2  # the third never arrived
    tell(config, folder, range(4, 5), closes=True)
    assert [run.steps for run in fake_wandb.runs] == [[0, 1, 2], [2, 3]]
    assert fake_wandb.given[1]["resume"] == "allow"


def test_mlflow_finds_its_run_again_and_does_not_double_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra lensdata[mlflow] is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # it would rather have a database, which needs more packages
    config = Settings(mlflow=(tmp_path / "store").as_uri())
    folder = RunFolder(str(tmp_path / "run"))
    tell(config, folder, range(1, 3), closes=False)
    tell(config, folder, range(2, 5), closes=True)
    client = mlflow.MlflowClient(config.mlflow)
    [run] = client.search_runs([client.get_experiment_by_name("lenses").experiment_id])
    history = client.get_metric_history(run.info.run_id, "val_auc")
    assert sorted((metric.step, metric.value) for metric in history) == [(epoch, epoch + 0.5) for epoch in range(4)]
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.lr"] == "0.001"


def test_wandb_offline_keeps_every_epoch_once(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the extra lensdata[wandb] is not installed")
    folder = RunFolder(str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    tell(Settings(wandb="lenses"), folder, range(1, 3), closes=True)
    tell(Settings(wandb="lenses"), folder, range(3, 4), closes=True)
    parts = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(parts) == 2
    assert [steps_in(next(part.glob("*.wandb"))) for part in parts] == [[0, 1], [2]]


def steps_in(path: Path) -> list[int]:
    """The steps of an offline run, from its file."""
    from wandb.proto import wandb_internal_pb2

    steps = []
    for data in log_records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            names = {item.key or ".".join(item.nested_key) for item in record.history.item}
            assert set(CURVES) <= names
            steps.append(int(record.history.step.num))
    return steps


def log_records(data: bytes) -> Iterator[bytes]:
    """Records of LevelDB's log format (blocks of 32 KiB, parts with checksum, length and kind), after W&B's own 7 bytes."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if at % 32768 > 32768 - 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield whole
            whole = b""
