"""Write the packages of each image: the part of requirements.lock that an image's extras need (R-I3).

    python docker/write_locks.py

One lock for everything, so that an image and a laptop run the same versions; an image installs only what its programs
import. What an extra needs is read from the installed packages, so this runs in the environment of `make install`;
a test fails when the lists are no longer what it would write. torch and torchvision stay out, as in requirements.lock:
they are installed by themselves, so that a CUDA build brings the libraries of its own platform.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
IMAGES = {
    "spark": ("spark", "aws"),
    "ray": ("train", "timm", "audit", "optuna", "aws"),
}
ONLY_ITS_CSV = {"lenscat"}  # installed for the catalogue that it carries, without what it imports
BY_ITSELF = {"torch", "torchvision"}
BUILD = {"setuptools"}  # installs the project itself, without an isolated build


def locked() -> dict[str, str]:
    """Name to version of every line of requirements.lock."""
    lines = (line.split("#")[0].strip() for line in (ROOT / "requirements.lock").read_text().splitlines())
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def closure(extras: tuple[str, ...]) -> set[str]:
    """Names of everything that the project needs with these extras, torch and what only torch needs left out.

    Raises
    ------
    importlib.metadata.PackageNotFoundError
        A needed package is not installed here.
    """
    found: set[str] = set()
    open_requests = [("lensdata", frozenset(extras))]
    seen = set(open_requests)
    while open_requests:
        name, wanted = open_requests.pop()
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            environments = [{"extra": extra} for extra in wanted] or [{"extra": ""}]
            if requirement.marker and not any(requirement.marker.evaluate(values) for values in environments):
                continue
            needed = canonicalize_name(requirement.name)
            if needed in BY_ITSELF:
                continue
            found.add(needed)
            request = (needed, frozenset(requirement.extras))
            if request not in seen and needed not in ONLY_ITS_CSV:
                seen.add(request)
                open_requests.append(request)
    return found | BUILD


def lines(image: str) -> list[str]:
    """The lines of an image's list: a subset of requirements.lock, sorted.

    Raises
    ------
    KeyError
        A needed package has no line in requirements.lock.
    """
    versions = locked()
    return [f"{name}=={versions[name]}" for name in sorted(closure(IMAGES[image]))]


def main() -> None:
    """Write docker/requirements-IMAGE.txt of every image."""
    for image, extras in IMAGES.items():
        head = f"# The lines of requirements.lock that the extras {', '.join(extras)} need; written by docker/write_locks.py.\n"
        target = ROOT / "docker" / f"requirements-{image}.txt"
        target.write_text(head + "\n".join(lines(image)) + "\n")
        sys.stdout.write(f"{target.relative_to(ROOT)}: {len(lines(image))} packages\n")


if __name__ == "__main__":
    main()
