"""What `lensdata doctor` looks at on this machine and in a bucket: each check yields its findings (R-I2, R-I5)."""

from __future__ import annotations

import importlib.metadata
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from infra.ray import auth, nodes
from lensdata import storage
from lensdata.errors import InputError

Verdict = Literal["OK", "WARN", "FAIL"]
LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"
JAVA = 17
DISK_FAIL_GB, DISK_WARN_GB = 5, 60  # stamps of a full sample are 55 GB (docs/capacity.md)
SHM_OF_MEMORY = 0.3  # what Ray's object store takes of the memory, if /dev/shm lets it
CLOCK_FAIL_S, CLOCK_WARN_S = 300.0, 5.0  # S3 refuses signatures that are more than about five minutes off
DEEP_PATIENCE_S = 180
GB = 1e9


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, the verdict, what was found, what was expected, what to do."""

    what: str
    verdict: Verdict
    found: str
    expected: str = ""
    advice: str = ""


def python() -> Iterator[Finding]:
    """The interpreter, against the package's own range."""
    ours = ".".join(map(str, sys.version_info[:3]))
    wanted = importlib.metadata.metadata("lensdata").get("Requires-Python", "")
    fits = SpecifierSet(wanted).contains(ours)
    yield Finding(
        "python", "OK" if fits else "FAIL", ours, wanted, "" if fits else "make a new environment: `make install`"
    )


def packages() -> Iterator[Finding]:
    """Installed versions against the ranges of the package, and against the lock where there is one."""
    wrong, absent = _against_ranges()
    if wrong:
        yield Finding("packages", "FAIL", ", ".join(wrong), "ranges of pyproject.toml", "install again: `make install`")
    if not LOCK.is_file():
        yield Finding("packages", "OK", "within their ranges; no lock file here to compare with")
        return
    pins = dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", LOCK.read_text(), re.MULTILINE))
    other = {
        name: nodes.version(name)
        for name, pin in pins.items()
        if nodes.version(name) not in ("", pin.partition("+")[0])
    }
    shown = ", ".join(f"{name} {have} (locked {pins[name]})" for name, have in sorted(other.items())[:4])
    more = f" and {len(other) - 4} more" if len(other) > 4 else ""
    if other:
        yield Finding("packages", "WARN", shown + more, "requirements.lock", "`make install` gives the tested versions")
    elif not wrong:
        yield Finding("packages", "OK", f"{len(pins)} pins of requirements.lock, none differs")
    if absent:
        yield Finding(
            "extras",
            "WARN",
            f"not installed: {', '.join(absent)}",
            "those of the steps you run here",
            "`pip install lensdata[NAME]`",
        )


def _against_ranges() -> tuple[list[str], list[str]]:
    """Packages outside their range, and engines of which nothing is there."""
    wrong, absent = [], []
    for text in importlib.metadata.requires("lensdata") or []:
        requirement = Requirement(text)
        have = nodes.version(requirement.name)
        if have and not requirement.specifier.contains(have, prereleases=True):
            wrong.append(f"{requirement.name} {have} (wants {requirement.specifier})")
        elif not have and requirement.marker is None:
            wrong.append(f"{requirement.name} is missing")
    for extra, package in (("spark", "pyspark"), ("train", "ray"), ("train", "torch"), ("aws", "boto3")):
        if not nodes.version(package) and extra not in absent:
            absent.append(extra)
    return wrong, absent


def java() -> Iterator[Finding]:
    """Java for Spark."""
    home = os.environ.get("JAVA_HOME")
    program = str(Path(home, "bin", "java")) if home else shutil.which("java")
    needed = bool(nodes.version("pyspark"))
    advice = f"install Java {JAVA} and set JAVA_HOME, for example `apt-get install openjdk-{JAVA}-jre-headless`"
    if program is None or not Path(program).exists():
        yield Finding("java", "FAIL" if needed else "WARN", program or "none", f"{JAVA}, for Spark steps", advice)
        return
    said = subprocess.run([program, "-version"], capture_output=True, text=True, check=False, timeout=60).stderr
    match = re.search(r'version "((\d+)[^"]*)"', said)
    fits = match is not None and int(match[2]) == JAVA
    found = match[1] if match else "an answer without a version"
    yield Finding("java", "OK" if fits else "FAIL", f"{found} ({program})", str(JAVA), "" if fits else advice)


def spark_starts() -> Iterator[Finding]:
    """A session of Spark that counts to a thousand."""
    code = "from pyspark.sql import SparkSession as S; s = S.builder.config('spark.ui.enabled', 'false')"
    code += ".master('local[1]').getOrCreate(); assert s.range(1000).count() == 1000; s.stop()"
    yield _starts("spark", code, {"PYSPARK_PYTHON": sys.executable})


def ray_starts() -> Iterator[Finding]:
    """A Ray of one process with a token of its own."""
    code = (
        "import ray; ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address='127.0.0.1')"
    )
    code += "; assert ray.get(ray.remote(lambda: 41 + 1).remote()) == 42; ray.shutdown()"
    yield _starts("ray", code, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_ADDRESS": ""})


def _starts(name: str, code: str, settings: dict[str, str]) -> Finding:
    environment = {key: value for key, value in (os.environ | settings).items() if value}
    began = time.monotonic()
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment,
                              timeout=DEEP_PATIENCE_S)  # fmt: skip
    except subprocess.TimeoutExpired:
        return Finding(
            f"{name} starts", "FAIL", f"not within {DEEP_PATIENCE_S} s", "", "see whether memory or disk is short"
        )
    if done.returncode == 0:
        return Finding(f"{name} starts", "OK", f"started, computed and ended in {time.monotonic() - began:.0f} s")
    last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
    return Finding(f"{name} starts", "FAIL", " ".join(last)[:200], "a start", "run with --deep after `make install`")


def gpu() -> Iterator[Finding]:
    """GPUs that torch can use, or that it should be able to use."""
    if not nodes.version("torch"):
        return
    names = nodes.gpus()
    if names:
        yield Finding("gpu", "OK", f"{len(names)} x {names[0]}")
    elif shutil.which("nvidia-smi"):
        yield Finding("gpu", "WARN", "nvidia-smi is here, but torch sees no GPU", "a CUDA build of torch",
                      "install torch without a +cpu index: `make install`")  # fmt: skip
    else:
        yield Finding("gpu", "OK", "none: networks train on the CPU")


def disk(folder: Path) -> Iterator[Finding]:
    """Room for runs."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / GB
    verdict: Verdict = "FAIL" if free < DISK_FAIL_GB else "WARN" if free < DISK_WARN_GB else "OK"
    advice = "" if verdict == "OK" else "stamps of a full sample take 55 GB: free some room, or write to s3://"
    yield Finding("disk", verdict, f"{free:,.0f} GB free at {folder}", f"{DISK_WARN_GB} GB", advice)


def shared_memory() -> Iterator[Finding]:
    """The file system in memory where Ray keeps its objects."""
    if not nodes.SHM.is_dir():
        yield Finding("shared memory", "OK", "not a thing of this system")
        return
    have = shutil.disk_usage(nodes.SHM).total / GB
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB
    fits = have >= SHM_OF_MEMORY * memory
    advice = (
        "" if fits else "in Docker: --shm-size; in Kubernetes: emptyDir with medium Memory; else Ray writes to /tmp"
    )
    yield Finding(
        "shared memory",
        "OK" if fits else "WARN",
        f"{have:.1f} GB in {nodes.SHM}",
        f"{SHM_OF_MEMORY * memory:.1f} GB",
        advice,
    )


def ray_token() -> Iterator[Finding]:
    """How Ray's programs authenticate when they are started here."""
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if mode == "disabled":
        yield Finding("ray auth", "FAIL", "RAY_AUTH_MODE=disabled", "token", "export RAY_AUTH_MODE=token")
        return
    path = auth.token_path()
    if path.is_file() and path.stat().st_mode & 0o077:
        yield Finding("ray auth", "FAIL", f"others can read {path}", "mode 600", f"chmod 600 {path}")
        return
    if os.environ.get("RAY_AUTH_TOKEN"):
        have = "token in RAY_AUTH_TOKEN"
    elif path.is_file():
        have = f"token in {path}"
    else:
        have = "no token yet; `lensdata ray up` makes one"
    verdict: Verdict = "OK" if mode == "token" else "WARN"
    found = f"RAY_AUTH_MODE={mode}, {have}" if mode else f"RAY_AUTH_MODE is not set, {have}"
    yield Finding("ray auth", verdict, found, "token", "" if mode == "token" else "export RAY_AUTH_MODE=token")


def bucket(uri: str) -> Iterator[Finding]:
    """Write, read and delete one object; what S3 thinks the time is."""
    if not storage.is_s3(uri) or not uri.partition("://")[2].strip("/"):
        raise InputError(f"--s3 takes s3://BUCKET or s3://BUCKET/PREFIX, found {uri}.")
    import boto3  # an extra

    place, _, prefix = uri.removeprefix("s3://").partition("/")
    key = "/".join(filter(None, [prefix.strip("/"), f".lensdata-doctor-{secrets.token_hex(8)}"]))
    content = secrets.token_bytes(1024)
    client = boto3.client("s3")
    advice = "give the role s3:PutObject, s3:GetObject and s3:DeleteObject under this prefix"
    did = "write"
    try:
        began = time.time()
        answer = client.put_object(Bucket=place, Key=key, Body=content)
        now = (began + time.time()) / 2
        try:
            did = "read"
            same = client.get_object(Bucket=place, Key=key)["Body"].read() == content
        finally:
            did = "delete" if sys.exc_info()[0] is None else did
            client.delete_object(Bucket=place, Key=key)
    except Exception as error:  # noqa: BLE001 - botocore's classes are made at run time
        yield Finding(
            "s3", "FAIL", f"{did} under {uri}: {' '.join(str(error).split())}"[:300], "write, read, delete", advice
        )
        return
    verdict: Verdict = "OK" if same else "FAIL"
    found = "written, read and deleted" if same else "another content came back"
    yield Finding(
        "s3", verdict, f"{found} under {uri}", "", "" if same else "is something between here and the bucket?"
    )
    yield clock("clock against s3", now - _date_of(answer).timestamp())


def _date_of(answer: dict[str, Any]) -> datetime:
    header = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(header) if header else datetime.now(UTC)


def clock(what: str, ahead_s: float) -> Finding:
    """How far two clocks are apart; S3 takes no signature from a clock that is far off."""
    apart = abs(ahead_s)
    verdict: Verdict = "FAIL" if apart > CLOCK_FAIL_S else "WARN" if apart > CLOCK_WARN_S else "OK"
    found = f"{apart:.0f} s {'ahead' if ahead_s > 0 else 'behind'}" if apart >= 1 else "less than 1 s apart"
    advice = "" if verdict == "OK" else "let chrony or systemd-timesyncd set the clock"
    return Finding(what, verdict, found, f"within {CLOCK_WARN_S:.0f} s", advice)
