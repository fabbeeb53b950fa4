"""What a study trains: its cells and trials, as declared or drawn (R-A1, R-A2)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from lensdata.config.base import load_config
from lensdata.config.training import TrainingConfig
from lensdata.config.tuning import MANIFEST_KEY, Axis, RangeConfig, StudyConfig
from lensdata.errors import InputError
from lensdata.hashing import text_hash

DRAWS_PER_CELL = 100  # before a search says that the axes have no more cells
LONGEST_NAME = 60
HASH_DIGITS = 6
SEED_INDEX = "__trial_index__"  # how Ray's Repeater counts the trainings of a point
Point = Mapping[str, str | float]
"""Axis to the label of a choice, or to a number of a range."""


@dataclass(frozen=True)
class Cell:
    """One choice on every axis.

    Attributes
    ----------
    name
        Of letters, digits and ``. + - _``; a pure function of the point.
    variants
        Axis to what was chosen there, as text.
    overrides
        Dotted keys of the training configuration and their values; `inputs.manifest` may be among them.
    """

    name: str
    variants: dict[str, str]
    overrides: dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """A training of one cell with one seed; `manifest` is the name of an input, None the only one."""

    name: str
    cell: Cell
    seed: int
    config: TrainingConfig
    manifest: str | None


def choices(name: str, axis: Axis) -> dict[str, dict[str, Any]]:
    """The labels of an axis and the overrides behind each.

    >>> choices("optimizer.lr", [0.001, 0.0001])
    {'0.001': {'optimizer.lr': 0.001}, '0.0001': {'optimizer.lr': 0.0001}}

    Raises
    ------
    InputError
        It is empty, or two values read alike.
    """
    if isinstance(axis, RangeConfig):
        raise InputError(
            f"axes.{name} is a range, which a grid cannot go through: list values, or use search.name random."
        )
    found = dict(axis) if isinstance(axis, dict) else {_text(value): {name: value} for value in axis}
    if not found or len(found) < len(axis):
        raise InputError(f"axes.{name} {'names a value twice' if found else 'is empty'}; give it different values.")
    return found


def cell_of(axes: Mapping[str, Axis], point: Point) -> Cell:
    """The cell at a point of the axes."""
    words, variants, overrides = [], {}, dict[str, Any]()
    exact = True
    for name, axis in axes.items():
        at = point[name]
        if isinstance(axis, RangeConfig):
            value = int(at) if axis.integer else float(at)
            label, own = f"{value:.4g}", {name: value}
            exact = exact and float(label) == value
        else:
            label, own = str(at), choices(name, axis)[str(at)]
        clash = overrides.keys() & own.keys()
        if clash:
            raise InputError(f"Two axes set {sorted(clash)[0]}: one of them is axes.{name}; a key belongs to one axis.")
        variants[name] = label
        overrides |= own
        says_what_it_is = isinstance(axis, dict) or (isinstance(axis, list) and label in axis)
        words.append(label if says_what_it_is else f"{name.rpartition('.')[2]}{label}")
    name = re.sub(r"[^A-Za-z0-9.+_-]+", "-", "_".join(words))
    if not exact or name != "_".join(words) or len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}-{text_hash(repr(sorted(overrides.items())))[:HASH_DIGITS]}"
    return Cell(name, variants, overrides)


def grid(axes: Mapping[str, Axis]) -> list[Cell]:
    """Every combination, the last axis running fastest.

    Raises
    ------
    InputError
        An axis is a range, empty, or sets a key of another.
    """
    labels = [choices(name, axis) for name, axis in axes.items()]
    return [cell_of(axes, dict(zip(axes, chosen, strict=True))) for chosen in itertools.product(*labels)]


def draw(axes: Mapping[str, Axis], num_cells: int, seed: int) -> list[Cell]:
    """Cells drawn at random, each once; the first n are the same whatever `num_cells` is.

    Raises
    ------
    InputError
        The axes do not have so many cells.
    """
    random = np.random.default_rng(seed)
    found: dict[str, Cell] = {}
    for _ in range(DRAWS_PER_CELL * num_cells):
        cell = cell_of(axes, {name: drawn(name, axis, float(random.random())) for name, axis in axes.items()})
        found.setdefault(cell.name, cell)
        if len(found) == num_cells:
            return list(found.values())
    raise InputError(f"search.num_cells is {num_cells}, but the axes have only {len(found)} cells.")


def drawn(name: str, axis: Axis, share: float) -> str | float:
    """What lies at a share from 0 to 1 of an axis.

    >>> drawn("optimizer.lr", RangeConfig(low=1e-4, high=1e-2, log=True), 0.5)
    0.001
    """
    if not isinstance(axis, RangeConfig):
        labels = list(choices(name, axis))
        return labels[int(share * len(labels))]
    if axis.log:
        value = float(np.exp(np.log(axis.low) + share * (np.log(axis.high) - np.log(axis.low))))
    else:
        value = axis.low + share * (axis.high - axis.low)
    return round(value) if axis.integer else float(f"{value:.12g}")


def trial_of(config: StudyConfig, cell: Cell, seed: int) -> Trial:
    """A training of a cell: the study's, with the cell's keys and this seed.

    Raises
    ------
    InputError
        A key or value that training does not know; the sentence names the cell.
    """
    keys = dict(cell.overrides)
    manifest = keys.pop(MANIFEST_KEY, None)
    if manifest is not None and not isinstance(manifest, str):
        raise InputError(f"{MANIFEST_KEY} must be a name, found {manifest!r} in cell {cell.name}.")
    for key in keys:
        if key == "seed" or key.split(".")[0] == "inputs":
            raise InputError(
                f"Cell {cell.name} sets {key}; seeds are listed under seeds, of inputs only inputs.manifest."
            )
    try:
        training = load_config(TrainingConfig, None, {**_plain(config.training), **keys, "seed": seed})
    except InputError as error:
        raise InputError(f"Cell {cell.name}: {error}") from error
    return Trial(f"{cell.name}-s{seed}", cell, seed, training, manifest)


def trials_of(config: StudyConfig, cells: Sequence[Cell]) -> list[Trial]:
    """All trainings of these cells: the first seed of every cell first, so that a table is complete early."""
    return [trial_of(config, cell, seed) for seed in config.seeds for cell in cells]


def reference_cell(config: StudyConfig, cells: Sequence[Cell]) -> str:
    """The name of the cell that the others are compared with.

    Raises
    ------
    InputError
        `reference` names an axis or variant that is not there.
    """
    wanted = {axis: _text(value) for axis, value in config.reference.items()}
    for axis, variant in wanted.items():
        if axis not in config.axes or not any(cell.variants[axis] == variant for cell in cells):
            known = (
                sorted({cell.variants.get(axis, "") for cell in cells}) if axis in config.axes else list(config.axes)
            )
            raise InputError(f"reference {axis}: {variant} is no cell of the study; known are {', '.join(known)}.")
    return next(cell.name for cell in cells if all(cell.variants[axis] == value for axis, value in wanted.items()))


def _plain(training: TrainingConfig) -> dict[str, Any]:
    return training.model_dump(mode="json")


def _text(value: Any) -> str:
    """A value as a person would write it in YAML."""
    return (
        value
        if isinstance(value, str)
        else yaml.safe_dump(value, default_flow_style=True, width=1000).split("\n")[0].strip()
    )
