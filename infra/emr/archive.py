"""What travels to a cluster: the code, and the packages it imports, as archives that follow from their content alone.

Equal files give an equal archive, bit for bit: names are sorted, times and owners fixed. Its SHA-256 is its name on S3,
so what is there need not be sent again.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lensdata.config.emr import Dependencies
from lensdata.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
CODE = ("lensdata", "spark_jobs")
LOCK = ROOT / "requirements.lock"
CACHE = "LENSDATA_CACHE"
_LEFT_OUT = {"__pycache__", ".mypy_cache", ".ruff_cache", ".ipynb_checkpoints"}


@dataclass(frozen=True)
class Archive:
    """A file to send, and what tells it from any other."""

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Archive:
        """A file as it is."""
        with path.open("rb") as handle:
            return cls(path, hashlib.file_digest(handle, "sha256").hexdigest())


def pack(root: Path, names: Iterable[str], target: Path) -> Archive:
    """Write the files below ``root/NAME`` into a .tar.gz that is the same wherever and whenever it is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")  # never half an archive under the final name
    with (
        aside.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(file for name in names for file in _files(root / name)):
            data = path.read_bytes()
            entry = tarfile.TarInfo(path.relative_to(root).as_posix())
            # who built it and when says nothing of what it is
            entry.size, entry.mtime, entry.mode = len(data), 0, 0o755 if os.access(path, os.X_OK) else 0o644
            tar.addfile(entry, io.BytesIO(data))
    aside.replace(target)
    return Archive.of(target)


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for found in path.rglob("*"):
        if found.is_file() and not _LEFT_OUT & set(found.parts) and found.suffix not in (".pyc", ".pyo"):
            yield found


def pack_code(folder: Path) -> Archive:
    """The packages lensdata and spark_jobs of this installation, with their data files."""
    for name in CODE:
        if not (ROOT / name).is_dir():
            raise InputError(f"{ROOT / name} does not exist; run from a checkout, or install it with pip install -e.")
    return pack(ROOT, CODE, folder / "code.tar.gz")


def locked(dependencies: Dependencies, lock: Path = LOCK) -> list[str]:
    """The lines of the lock for the packages that the jobs import.

    Raises
    ------
    InputError
        The lock is missing, or lacks one of them.
    """
    if not lock.is_file():
        raise InputError(f"{lock} does not exist; packages for the cluster are made from the lock of a checkout.")
    pins = {line.partition("==")[0].lower(): line for line in lock.read_text().split() if "==" in line}
    missing = [name for name in dependencies.packages if name.lower() not in pins]
    if missing:
        raise InputError(f"dependencies.packages names {', '.join(missing)}, which {lock.name} does not hold.")
    return sorted(pins[name.lower()] for name in dependencies.packages)


def cached(dependencies: Dependencies, lock: Path = LOCK) -> Path:
    """Where the archive of these packages lies once it is made; the name tells lock lines, Python and wheel tags."""
    words = [*locked(dependencies, lock), dependencies.python, *dependencies.platforms]
    key = hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
    folder = os.environ.get(CACHE) or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lensdata"
    return Path(folder) / "emr" / f"deps-{key}.tar.gz"


def pack_dependencies(dependencies: Dependencies, lock: Path = LOCK) -> Archive:
    """The archive of packages, made once and then taken from the cache; making it asks the package index.

    Wheels are chosen by tag and unpacked, never run, so that any operating system can make it.

    Raises
    ------
    InputError
        pip found no wheel of a package for these tags.
    """
    target = cached(dependencies, lock)
    if target.is_file():
        return Archive.of(target)
    with tempfile.TemporaryDirectory(prefix="lensdata-deps-") as folder:
        packages = Path(folder) / "deps"
        packages.mkdir()
        wanted = Path(folder) / "requirements.txt"
        wanted.write_text("\n".join(locked(dependencies, lock)) + "\n")
        if dependencies.packages:
            _pip(dependencies, wanted, packages)
        else:
            (packages / "EMPTY").write_text("no packages were asked for\n")
        names = sorted(path.name for path in packages.iterdir() if path.name != "bin")
        return pack(packages, names, target)


def _pip(dependencies: Dependencies, wanted: Path, target: Path) -> None:
    tags = [word for tag in dependencies.platforms for word in ("--platform", tag)]
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile",
        "--only-binary=:all:", "--implementation", "cp", "--python-version", dependencies.python, *tags,
        "--target", str(target), "-r", str(wanted),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-2:])
        raise InputError(f"pip could not fetch the packages of the cluster (dependencies of emr.yaml): {said}")


_TRY = """
import importlib, os, pkgutil, sys
sys.path[:0] = sys.argv[1:]
import lensdata
import spark_jobs
names = [found.name for found in pkgutil.walk_packages(spark_jobs.__path__, "spark_jobs.")]
for name in [*names, "lensdata.simulation.server", "boto3", "s3fs", "lensdata.jobs"]:
    importlib.import_module(name)
for module in (lensdata, spark_jobs):
    assert os.path.realpath(module.__file__).startswith(os.path.realpath(sys.argv[1])), module.__file__
print(len(names))
"""


def try_imports(code: Archive, deps: Archive, dependencies: Dependencies) -> str:
    """Import every Spark job from the two archives in an interpreter that sees nothing else; returns what was found.

    Raises
    ------
    InputError
        An import fails: a package is missing from ``dependencies.packages``, or from the code.
    """
    if not dependencies.packages:
        return "not tried: no packages are asked for (dependencies.packages is empty)"
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if sys.platform != "linux" or os.uname().machine != "x86_64" or here != dependencies.python:
        return f"not tried here: the packages are for Python {dependencies.python} on Linux x86_64"
    tried = deps.path.with_name(f"{deps.sha256[:16]}-{code.sha256[:16]}.tried")
    if tried.is_file():
        return f"{tried.read_text()}, as found before"
    with tempfile.TemporaryDirectory(prefix="lensdata-try-") as folder:
        paths = []
        for name, archive in (("code", code), ("deps", deps)):
            paths.append(Path(folder) / name)
            with tarfile.open(archive.path) as tar:
                tar.extractall(paths[-1], filter="data")
        paths.append(_cluster_packages(Path(folder) / "cluster"))
        # -I and -S: neither environment nor site-packages, which would hide what the archives lack
        command = [sys.executable, "-I", "-S", "-c", _TRY, *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise InputError(
            f"The packages for the cluster do not import by themselves: {last}; add what is missing to "
            "dependencies.packages of the EMR configuration."
        )
    found = f"{done.stdout.strip()} modules of spark_jobs import in a clean interpreter"
    tried.write_text(found)  # half a minute each time otherwise, and the same two archives import again
    return found


def _cluster_packages(folder: Path) -> Path:
    """pyspark and py4j, which the cluster provides, by themselves."""
    import py4j
    import pyspark

    folder.mkdir()
    for module in (pyspark, py4j):
        (folder / module.__name__).symlink_to(Path(str(module.__file__)).parent)
    return folder
