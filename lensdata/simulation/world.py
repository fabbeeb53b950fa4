"""A written survey as the renderer sees it: configuration, sources by brick, nothing else.

`Survey.load` needs the folder that the job wrote (``survey.json`` and ``sources.parquet``); every pixel then follows
from these and the seed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lensdata import storage
from lensdata.config.base import validate
from lensdata.config.simulation import MockSurveyConfig
from lensdata.errors import InputError
from lensdata.simulation.populations import Columns
from lensdata.simulation.sky import Bricks, bricks_at

FORMAT = 1
SURVEY_FILE, SOURCES_FILE, TRUTH_FILE, SWEEP_FOLDER = "survey.json", "sources.parquet", "truth.parquet", "sweeps"


@dataclass(frozen=True)
class Survey:
    """The simulated survey: configuration and sources, ordered by (brickid, objid)."""

    config: MockSurveyConfig
    sources: Columns
    _brick_start: dict[int, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def from_sources(cls, config: MockSurveyConfig, sources: Columns) -> Survey:
        """Index the sources by brick."""
        brickid, first = np.unique(sources["brickid"], return_index=True)
        last = np.append(first[1:], len(sources["brickid"]))
        spans = {int(b): (int(i), int(j)) for b, i, j in zip(brickid, first, last, strict=True)}
        return cls(config, sources, spans)

    @classmethod
    def load(cls, folder: str) -> Survey:
        """Read a survey that `lensdata.simulation.survey` wrote.

        Raises
        ------
        InputError
            The folder holds no survey, or one of another format.
        """
        path = storage.join(str(folder), SURVEY_FILE)
        if not storage.exists(path):
            raise InputError(
                f"{folder} holds no {SURVEY_FILE}; make one with python -m lensdata.simulation.survey --output {folder}."
            )
        described = storage.read_json(path)
        if described.get("format") != FORMAT:
            raise InputError(
                f"{path} has format {described.get('format')!r}, this version reads {FORMAT}; make the survey again."
            )
        config = validate(MockSurveyConfig, described["config"], path)
        table = pq.read_table(storage.open_arrow(storage.join(str(folder), SOURCES_FILE)))
        return cls.from_sources(config, columns_of(table))

    def of_brick(self, brickid: int) -> slice:
        """Rows of a brick's sources."""
        return slice(*self._brick_start.get(brickid, (0, 0)))

    @cached_property
    def bricks(self) -> npt.NDArray[np.int64]:
        """Numbers of the bricks that have sources."""
        return np.array(sorted(self._brick_start), np.int64)

    def covers(self, ra: float, dec: float) -> bool:
        """True inside the simulated box."""
        sky = self.config.sky
        return sky.ra_min <= ra < sky.ra_max and sky.dec_min <= dec < sky.dec_max

    def meets(self, brick: Bricks) -> bool:
        """True for a single brick that lies in the simulated box, if only in part."""
        sky = self.config.sky
        inside = (
            (brick.ra2 > sky.ra_min)
            & (brick.ra1 < sky.ra_max)
            & (brick.dec2 > sky.dec_min)
            & (brick.dec1 < sky.dec_max)
        )
        return bool(inside[0])


def brickid_of_name(name: str) -> int:
    """Number of a brick from its name; names cut the centre to tenths of a degree.

    >>> brickid_of_name("0959p805")
    657438
    """
    try:
        ra, dec = int(name[:4]) / 10 + 0.05, int(name[5:]) / 10 + 0.05
        brick = bricks_at(ra, {"p": dec - 0.05 if name[5:] == "000" else dec, "m": -dec}[name[4]])
    except (ValueError, KeyError, IndexError) as error:
        raise InputError(f"{name!r} is not a brick name; an example is 0959p805.") from error
    if len(name) != 8 or brick.name[0] != name:
        raise InputError(f"There is no brick {name!r}.")
    return int(brick.brickid[0])


def columns_of(table: pa.Table) -> Columns:
    """A table's columns as numpy arrays; text becomes unicode, null numbers NaN."""
    out: Columns = {}
    for name in table.column_names:
        column = table[name]
        values: npt.NDArray[Any] = column.to_numpy()
        is_text = pa.types.is_string(column.type) and column.null_count == 0
        out[name] = values.astype(str) if is_text else values
    return out


def table_of(columns: Columns) -> pa.Table:
    """Columns as an Arrow table."""
    return pa.table({name: pa.array(values, from_pandas=values.dtype == object) for name, values in columns.items()})


def describe(config: MockSurveyConfig, counts: dict[str, int]) -> str:
    """The text of ``survey.json``."""
    return json.dumps({"format": FORMAT, "counts": counts, "config": config.model_dump(mode="json")}, indent=1) + "\n"
