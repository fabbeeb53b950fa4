"""Images and the compose file, as far as no container engine is needed: lint, schema, pins, and the lists of packages."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import distribution, files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent.parent
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
BIN = Path(sys.executable).parent


def program(name: str) -> Any:
    """A script of docker/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, DOCKER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_passes_the_linter(path):
    found = subprocess.run([BIN / "hadolint", "--no-color", path], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_pinned_by_digest_runs_as_nobody_special_and_says_whether_it_is_well(path):
    lines = dict(program("rehearse").instructions(path))
    assert re.fullmatch(
        r"BASE=debian:12-slim@sha256:[0-9a-f]{64}",
        next(line.split(" ", 1)[1] for line in path.read_text().splitlines() if line.startswith("ARG BASE")),
    )
    assert lines["USER"] == "10001:10001"
    assert "HEALTHCHECK" in lines


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_a_dockerfile_copies_is_there_and_let_through(path):
    ignored = (ROOT / ".dockerignore").read_text().split()
    allowed = [pattern.removeprefix("!") for pattern in ignored if pattern.startswith("!")]
    for word, rest in program("rehearse").instructions(path):
        for source in rest.split()[:-1] if word == "COPY" else ():
            assert (ROOT / source).exists(), source
            assert any(Path(source).match(pattern) for pattern in allowed), f".dockerignore hides {source}"


def test_the_mounts_of_a_rehearsal_are_seen_by_nobody_else_and_end_with_it_even_when_it_is_killed(tmp_path):
    may = [shutil.which("unshare") or "false", "--mount", "--propagation", "private", "true"]
    if subprocess.run(may, capture_output=True, check=False).returncode != 0:
        pytest.skip("no mounts may be made here")
    place, shown = tmp_path / "place", tmp_path / "shown"
    for folder in (place, shown):
        folder.mkdir()
    (shown / "file").touch()
    script = tmp_path / "room.py"
    script.write_text(
        f"import importlib.util, os, signal, subprocess\n"
        f"spec = importlib.util.spec_from_file_location('rehearse', {str(DOCKER / 'rehearse.py')!r})\n"
        f"rehearse = importlib.util.module_from_spec(spec)\n"
        f"spec.loader.exec_module(rehearse)\n"
        f"rehearse.alone()\n"
        f"subprocess.run(['mount', '--bind', {str(shown)!r}, {str(place)!r}], check=True)\n"
        f"print(os.listdir({str(place)!r}), flush=True)\n"
        f"os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    try:
        assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, "['file']\n")
        assert not list(place.iterdir())
    finally:
        subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)


def test_a_rehearsal_mounts_nothing_before_its_mounts_are_its_own(monkeypatch):
    rehearse = program("rehearse")
    order: list[str] = []
    monkeypatch.setattr(rehearse.os, "geteuid", lambda: 0)
    monkeypatch.setattr(rehearse.shutil, "which", lambda name: name)
    monkeypatch.setattr(rehearse, "alone", lambda: order.append("alone"))
    monkeypatch.setattr(rehearse, "fresh", lambda *given: order.append("fresh") or sys.exit("far enough"))
    monkeypatch.setattr(sys, "argv", ["rehearse.py", "rooms", "--image", "spark"])

    with pytest.raises(SystemExit, match="far enough"):
        rehearse.main()

    assert order == ["alone", "fresh"]


@pytest.mark.parametrize("image", ["spark", "ray"])
def test_the_packages_of_an_image_are_those_that_its_programs_need(image):
    listed = [line for line in (DOCKER / f"requirements-{image}.txt").read_text().splitlines() if "==" in line]
    assert listed == program("write_locks").lines(image)


def test_every_locked_package_takes_the_python_of_debian_12():
    locked = program("write_locks").locked()
    refusing = [
        f"{name} {package.metadata['Requires-Python']}"
        for name in locked
        for package in (distribution(name),)
        if "3.11.2" not in SpecifierSet(package.metadata.get("Requires-Python") or "")
    ]
    assert not refusing


def test_the_lists_leave_out_the_other_engine():
    spark, ray = ((DOCKER / f"requirements-{image}.txt").read_text() for image in ("spark", "ray"))
    assert "\npyspark==" in spark
    assert "\nray==" not in spark
    assert "\nray==" in ray
    assert "\npyspark==" not in ray


@pytest.mark.parametrize("script", sorted(DOCKER.glob("*.sh")), ids=lambda path: path.name)
def test_an_install_script_is_valid_shell_and_refuses_an_unknown_role(script):
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    if "role=" in script.read_text():
        found = subprocess.run(["sh", script, "spork"], capture_output=True, text=True, check=False)
        assert found.returncode == 2
        assert "there is no role spork; expected spark, ray or all" in found.stderr


def test_the_compose_file_fits_its_schema(compose):
    schema = next(path for path in files("docker-compose") if path.name == "compose_spec.json")
    jsonschema.validate(compose, json.loads(Path(schema.locate()).read_text()))


def test_every_page_is_published_on_loopback_alone(compose):
    published = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published), published


def test_every_foreign_image_has_a_version(compose):
    images = {name: service["image"] for name, service in compose["services"].items() if "build" not in service}
    assert all(re.search(r":v?\d+\.\d+", image) for image in images.values()), images


def test_the_compose_file_holds_no_secret_and_every_variable_is_in_the_example(compose):
    text = (DOCKER / "compose.yaml").read_text()
    known = {
        line.split("=")[0]
        for line in (DOCKER / "example.env").read_text().splitlines()
        if "=" in line and "#" not in line
    }
    used = set(re.findall(r"\$\{(\w+)", text)) - {"LENSDATA_FOLDER"}
    assert used == known
    for name, value in compose["services"]["ray-head"]["environment"].items():
        if any(word in name for word in ("SECRET", "TOKEN", "KEY")):
            assert value.startswith("${"), name
    assert all(
        line.endswith("=") for line in (DOCKER / "example.env").read_text().splitlines() if not line.startswith("#")
    )


def test_ray_asks_for_a_token_everywhere(compose):
    for name in ("ray-head", "ray-worker"):
        assert compose["services"][name]["environment"]["RAY_AUTH_MODE"] == "token"


def test_the_files_that_services_mount_are_there(compose):
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).exists(), source
