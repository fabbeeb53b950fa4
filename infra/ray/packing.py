"""What of a command line travels to a cluster: configuration files with it, everything else by absolute names (R-I2).

The package is in the cluster's image. A working directory may weigh 100 MiB, and is for configuration only.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lensdata import jobs, steps, storage
from lensdata.errors import InputError

ENGINES = ("ray", "python")
LIMIT_BYTES = 100 << 20  # Ray refuses larger ones with 413


@dataclass(frozen=True)
class Packed:
    """A command as it runs on the cluster.

    Attributes
    ----------
    job
        The step's name, None for a command of another kind.
    output
        The step's output.
    files
        Name in the working directory, and the file here.
    """

    command: tuple[str, ...]
    job: str | None
    output: str | None
    files: dict[str, Path]

    @property
    def root(self) -> Path | None:
        """The folder here that looks as the working directory will, and may hold more."""
        for name, path in self.files.items():
            return Path(str(path).removesuffix(name))
        return None

    def key(self) -> str:
        """Two submissions with the same key do the same; whether an old output is replaced is left out."""
        digest = hashlib.sha256()
        for word in (word for word in self.command if word != "--force"):
            digest.update(word.encode() + b"\0")
        for name, path in sorted(self.files.items()):
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
        return digest.hexdigest()[:16]

    def local_places(self) -> list[str]:
        """Absolute paths in the command, which every node must see."""
        values = [word.rpartition("=")[2] if word.startswith("inputs.") else word for word in self.command]
        return sorted({value for value in values if value.startswith("/")})


def pack(words: list[str]) -> Packed:
    """Read ``STEP ARGUMENT...`` or ``python -m MODULE ARGUMENT...``; a step's command line is checked here already.

    Raises
    ------
    InputError
        No command, a step that does not run on Ray, or a wrong configuration.
    """
    if not words:
        raise InputError("There is nothing to submit; give a step, for example `lensdata ray submit train --config …`.")
    job, arguments = _step(words)
    if job is None:
        return Packed(("python" if is_python(words[0]) else words[0], *words[1:]), None, None, {})
    request = steps.parse(job, arguments)
    _check_work(job, request)
    own, files = _portable(job, arguments)
    return Packed(("python", "-m", job.module, *own), job.name, request.output, files)


def _step(words: list[str]) -> tuple[steps.Job | None, list[str]]:
    if words[0] in jobs.JOBS:
        job = jobs.find(words[0])
        if job.engine not in ENGINES:
            raise InputError(
                f"Step {job.name} runs on Spark; submit it with spark-submit, or `lensdata run --spark-on`."
            )
        return job, words[1:]
    if is_python(words[0]) and len(words) > 2 and words[1] == "-m":
        found = [job for job in jobs.JOBS.values() if job.module == words[2] and job.engine in ENGINES]
        return (found[0] if found else None), words[3:]
    return None, words


def is_python(word: str) -> bool:
    """Whether a word starts Python, by whatever name."""
    return word in ("python", "python3", sys.executable) or Path(word).name.startswith("python")


def _check_work(job: steps.Job, request: steps.Request) -> None:
    """Refuse what would only fail on the cluster, after minutes."""
    if job.name == "train" and request.config.execution.runtime == "local" and request.config.execution.num_workers > 1:
        raise InputError("execution.runtime=local trains with one worker; leave it out to use several nodes.")


def _portable(job: steps.Job, arguments: list[str]) -> tuple[list[str], dict[str, Path]]:
    """The arguments as they are on the cluster, and the files that go with them."""
    out: list[str] = []
    files: dict[str, Path] = {}
    words = iter(arguments)
    for word in words:
        option, separator, value = word.partition("=")
        if option in ("--config", "--output"):
            value = value if separator else next(words, "")
            if option == "--config":
                names = working_names(Path(value))
                files = {name: path for path, name in names.items()}
                value = names[Path(value).resolve()]
            else:
                value = _absolute(value)
            out += [option, value]
        elif option.startswith("inputs."):
            out.append(f"{option}={value if value == 'lenscat' else steps.resolve(value)}")
        else:
            out.append(word)
    return out, files


def _absolute(value: str) -> str:
    return value.rstrip("/") if storage.is_s3(value) else str(Path(value).resolve())


def working_names(path: Path) -> dict[Path, str]:
    """A configuration file and what it extends, each with its name in the working directory.

    Raises
    ------
    InputError
        They are too large for a working directory.
    """
    found: list[Path] = []
    waiting = [path.resolve()]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.append(file)
            waiting += [(file.parent / base).resolve() for base in _bases(yaml.safe_load(file.read_text()))]
    size = sum(file.stat().st_size for file in found)
    if size > LIMIT_BYTES:
        raise InputError(f"{path} and what it extends are {size:,} bytes; Ray takes {LIMIT_BYTES:,} with a job.")
    root = os.path.commonpath([file.parent for file in found])
    return {file: str(file.relative_to(root)) for file in found}


def _bases(values: Any) -> list[str]:
    """What a file extends, and what its sections extend."""
    if not isinstance(values, dict):
        return []
    own = [values["extends"]] if isinstance(values.get("extends"), str) else []
    return own + [base for value in values.values() for base in _bases(value)]
