"""The fitted and published numbers behind the simulation, read once from ``data/``."""

from __future__ import annotations

import csv
import json
from functools import lru_cache
from importlib import resources
from typing import Any, NamedTuple


class SweepColumn(NamedTuple):
    """A column of a DR10 sweep file: name, FITS format, unit."""

    name: str
    format: str
    unit: str


@lru_cache(maxsize=1)
def distributions() -> dict[str, Any]:
    """The numbers of ``dr10_distributions.json``, each section with its origin."""
    return dict(json.loads(_text("dr10_distributions.json")))


@lru_cache(maxsize=1)
def sweep_columns() -> tuple[SweepColumn, ...]:
    """The 130 columns of a DR10.1 sweep file, in order (legacysurvey.org/dr10/files, 505 bytes per row).

    The published table names MW_TRANSMISSION_R twice; the second is MW_TRANSMISSION_I and is so here.

    >>> len(sweep_columns())
    130
    """
    rows = csv.DictReader(_text("dr10_sweep_columns.csv").splitlines())
    return tuple(SweepColumn(row["column"], row["fits_format"], row["unit"]) for row in rows)


def _text(name: str) -> str:
    return (resources.files("lensdata.simulation") / "data" / name).read_text()
