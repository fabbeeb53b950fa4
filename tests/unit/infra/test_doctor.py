"""`lensdata doctor`: each finding from what is really there, a verdict, and what to do (R-I2, R-I5)."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections import namedtuple
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from infra import checks, cli, doctor
from infra.checks import Finding
from infra.ray import examination, nodes
from lensdata.errors import InputError

Usage = namedtuple("Usage", "total used free")


def one(findings):
    [found] = findings
    return found


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """A lock file of our own."""

    def write(text):
        (tmp_path / "requirements.lock").write_text(text)
        monkeypatch.setattr(checks, "LOCK", tmp_path / "requirements.lock")

    return write


def test_versions_are_compared_with_the_lock(lock):
    lock(
        f"numpy=={nodes.version('numpy')}\n# a comment\nrequests=={nodes.version('requests')} ; python_version > '3'\n"
    )
    first, *_ = checks.packages()
    assert (first.verdict, first.found) == ("OK", "2 pins of requirements.lock, none differs")
    lock("numpy==1.0\nnot-installed-anywhere==3\n")
    first, *_ = checks.packages()
    assert first.verdict == "WARN"
    assert first.found == f"numpy {nodes.version('numpy')} (locked 1.0)"


def test_without_a_lock_the_ranges_of_the_package_decide(monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "LOCK", tmp_path / "none")
    assert [found.verdict for found in checks.packages()] == ["OK"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["numpy>=99", "no-such-package>=1"])
    first, *_ = checks.packages()
    assert first.verdict == "FAIL"
    assert "(wants >=99)" in first.found
    assert "no-such-package is missing" in first.found


@pytest.mark.parametrize(("said", "verdict"), [("17.0.15", "OK"), ("21.0.1", "FAIL"), ("1.8.0_402", "FAIL")])
def test_another_java_than_17_fails(monkeypatch, tmp_path, said, verdict):
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{said}\" 2025-01-01' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    found = one(checks.java())
    assert (found.verdict, said in found.found) == (verdict, True)


def test_no_java_fails_where_spark_is_installed_and_warns_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setattr(nodes, "version", lambda package: "3.5.6")
    assert one(checks.java()).verdict == "FAIL"
    monkeypatch.setattr(nodes, "version", lambda package: "")
    assert one(checks.java()).verdict == "WARN"


@pytest.mark.parametrize(("gb", "verdict"), [(4, "FAIL"), (54, "WARN"), (500, "OK")])
def test_a_full_disk_is_told_by_the_folder_that_will_hold_runs(monkeypatch, tmp_path, gb, verdict):
    asked = []
    monkeypatch.setattr("shutil.disk_usage", lambda path: asked.append(path) or Usage(0, 0, gb * 1e9))
    assert one(checks.disk(tmp_path / "not" / "there" / "yet")).verdict == verdict
    assert asked == [tmp_path]


def test_little_shared_memory_warns_with_the_way_out(monkeypatch):
    if not nodes.SHM.is_dir():
        pytest.skip("this system has none")
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(64 << 20, 0, 0))
    found = one(checks.shared_memory())
    assert found.verdict == "WARN"
    assert "--shm-size" in found.advice


@pytest.mark.parametrize(
    ("settings", "mode", "verdict"),
    [
        ({"RAY_AUTH_MODE": "token"}, 0o600, "OK"),
        ({}, 0o600, "WARN"),
        ({"RAY_AUTH_MODE": "disabled"}, 0o600, "FAIL"),
        ({"RAY_AUTH_MODE": "token"}, 0o644, "FAIL"),
    ],
)
def test_rays_token_must_be_asked_for_and_be_the_users_alone(monkeypatch, tmp_path, settings, mode, verdict):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "token").write_text("never shown")
    (tmp_path / "token").chmod(mode)
    for name, value in {**settings, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}.items():
        monkeypatch.setenv(name, value)
    found = one(checks.ray_token())
    assert found.verdict == verdict
    assert "never shown" not in str(found)


def test_an_object_is_written_read_and_deleted_and_the_clock_compared(bucket):
    import boto3

    s3, clock = checks.bucket(f"{bucket}/some/where")
    assert (s3.verdict, clock.verdict) == ("OK", "OK")
    assert boto3.client("s3").list_objects_v2(Bucket="stamps", Prefix="some/")["KeyCount"] == 0


def test_a_bucket_that_is_not_there_fails_by_name(bucket):
    found = one(checks.bucket("s3://another-bucket/x"))
    assert found.verdict == "FAIL"
    assert "write under s3://another-bucket/x" in found.found
    assert "NoSuchBucket" in found.found


@pytest.mark.parametrize("uri", ["somewhere", "s3://", "s3:///"])
def test_a_place_without_a_bucket_is_refused(uri):
    with pytest.raises(InputError, match="--s3 takes s3://BUCKET or s3://BUCKET/PREFIX"):
        next(checks.bucket(uri))


def test_an_object_that_cannot_be_read_is_deleted_all_the_same(bucket, monkeypatch):
    import boto3

    client = boto3.client("s3")
    monkeypatch.setattr(client, "get_object", lambda **_: (_ for _ in ()).throw(RuntimeError("AccessDenied")))
    monkeypatch.setattr("boto3.client", lambda name: client)
    found = one(checks.bucket(f"{bucket}/some/where"))
    assert "read under" in found.found
    assert client.list_objects_v2(Bucket="stamps", Prefix="some/")["KeyCount"] == 0


@pytest.mark.parametrize(("seconds", "verdict"), [(0, "OK"), (-20, "WARN"), (400, "FAIL")])
def test_a_clock_that_is_off_is_told_before_s3_refuses_its_signatures(bucket, monkeypatch, seconds, verdict):
    ahead = datetime.now(UTC) - timedelta(seconds=seconds)
    monkeypatch.setattr(checks, "_date_of", lambda answer: ahead)
    _, clock = checks.bucket(bucket)
    assert clock.verdict == verdict
    assert ("ahead" in clock.found) == (seconds > 1)


def test_a_node_with_other_versions_fails_with_both():
    ours = nodes.describe()
    answer = ours | {"node": "n1", "clock_ahead_s": 0.01, "auth_mode": "token", "disk_free_bytes": 1e12}
    assert one(examination.judge(answer, ours)).verdict == "OK"
    other = answer | {"packages": ours["packages"] | {"torch": "2.0.0"}, "python": "3.9.1", "clock_ahead_s": -400.0}
    versions, clock = examination.judge(other, ours)
    assert versions.verdict == "FAIL"
    assert "Python 3.9.1 (here" in versions.found
    assert "torch 2.0.0 (here" in versions.found
    assert (clock.what, clock.verdict) == ("node n1 clock", "FAIL")


def test_a_node_that_does_not_answer_or_asks_for_no_token_fails():
    ours = nodes.describe()
    assert one(examination.judge({"node": "n1", "error": "GetTimeoutError"}, ours)).verdict == "FAIL"
    answer = ours | {"node": "n1", "clock_ahead_s": 0.0, "auth_mode": "", "disk_free_bytes": 1e9}
    assert [found.what for found in examination.judge(answer, ours)] == ["node n1", "node n1 auth", "node n1 disk"]


def test_one_check_that_falls_over_is_a_finding_and_the_others_are_made(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(checks, "gpu", lambda: (_ for _ in ()).throw(OSError("driver\nmismatch")))
    assert cli.main(["doctor", "--json", "--runs", str(tmp_path), "--ray", "10.0.0.1:6379"]) == 1
    found = {entry["what"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert found["gpu"]["found"] == "OSError: driver mismatch"
    assert "not the address of a Ray dashboard" in found["cluster"]["found"]
    assert {"python", "disk", "ray auth"} <= set(found)


@pytest.mark.parametrize("code", ["import sys; sys.exit('no way')", "import time; time.sleep(60)"])
def test_an_engine_that_does_not_start_says_its_last_words(monkeypatch, code):
    monkeypatch.setattr(checks, "DEEP_PATIENCE_S", 1)
    found = checks._starts("engine", code, {})
    assert found.verdict == "FAIL"
    assert found.found in ("no way", "not within 1 s")


FOUND = [
    Finding("python", "OK", "3.11.7", ">=3.11"),
    Finding("disk", "FAIL", "1 GB free at runs", "50 GB", "free some room, or write to s3://BUCKET"),
]


def test_plain_lines_are_one_per_finding_with_what_to_do(capsys):
    doctor.show(FOUND, Console(file=sys.stdout, highlight=False), as_json=False)
    first, second, last = capsys.readouterr().out.splitlines()
    assert first == "OK    python: 3.11.7"
    assert second == "FAIL  disk: 1 GB free at runs; expected 50 GB; free some room, or write to s3://BUCKET"
    assert last == "1 fine, 0 to look at, 1 failed"


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_fits_its_terminal(width):
    file = io.StringIO()
    doctor.show(FOUND, Console(file=file, width=width, force_terminal=True, color_system=None), as_json=False)
    shown = file.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    for found in FOUND:
        assert found.found in shown


def test_looking_at_this_machine_needs_no_ray():
    code = "import sys; from infra import cli; cli.main(['doctor', '--json']); print([m for m in sys.modules if m == 'ray'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3],
                          env=os.environ | {"RAY_AUTH_MODE": "token"})  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"
