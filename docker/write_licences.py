"""Name, version and licence of every package of the environment that runs this, as CSV (R-I3): write_licences.py FILE."""

from __future__ import annotations

import csv
import sys
from importlib import metadata
from pathlib import Path


def licence(package: metadata.Distribution) -> str:
    """The licence as the package declares it: its expression, else its classifiers, else the first line of its text."""
    declared = package.metadata
    if declared.get("License-Expression"):
        return str(declared["License-Expression"])
    classifiers = [
        value.rsplit(" :: ", 1)[-1] for value in declared.get_all("Classifier") or [] if value.startswith("License ::")
    ]
    if classifiers:
        return "; ".join(classifiers)
    return (str(declared.get("License") or "").strip().splitlines() or ["not declared"])[0]


def main() -> None:
    """Write the list to the file named on the command line, sorted by name."""
    rows = sorted({(package.name.lower(), package.version, licence(package)) for package in metadata.distributions()})
    with Path(sys.argv[1]).open("w", newline="") as target:
        csv.writer(target).writerows([("package", "version", "licence"), *rows])


if __name__ == "__main__":
    main()
