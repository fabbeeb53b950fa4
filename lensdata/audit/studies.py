"""Statistics of a study: what its trials left, cells over their seeds, and differences from a reference (R-A1 to R-A3).

A trial is one training; a cell is all trainings that differ in nothing but their seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lensdata import storage
from lensdata.audit.decision import ArmFigures
from lensdata.audit.seeds import Spread, over_seeds
from lensdata.errors import InputError

SCHEMA_VERSION = 1
Status = Literal["done", "stopped", "failed"]
FIGURES = {
    "best_val_auroc": ("validation AUC", 0.0),
    "final_core_lr_auc": ("core gate AUC", 0.0),
    "final_radial_lr_auc": ("radial gate AUC", 0.0),
    "core_reliance": ("core reliance", -1.0),
    "theta_e_spread": ("theta_E spread", 0.0),
    "worst_theta_e_auc": ("worst theta_E AUC", 0.0),
}
"""Figures of a cell: title and least value; none can pass 1."""


class _Part(BaseModel):
    """A part of a trial's ``metrics.json``; keys that are not known are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Cost(_Part):
    """What a training took; None where it was not measured."""

    seconds: float | None = None
    images_per_second: float | None = None
    device: str | None = None
    threads: int | None = None
    gpu_hours: float | None = None
    cpu_hours: float | None = None
    peak_memory_bytes: int | None = None


class MaskedAuc(_Part):
    """Validation AUC with the central ``radius`` pixels masked (R-E5)."""

    radius: float
    auc: float | None


class BinAuc(_Part):
    """AUC of the ``n`` lenses with an Einstein radius of ``low`` to ``high`` arcsec; None where they are too few (R-E1)."""

    low: float
    high: float
    n: int
    auc: float | None


class TrialResult(_Part):
    """One training of a study, as its ``metrics.json`` tells it (R-A3).

    Any figure may be None: not measured, or the trial failed. Test figures are those of the winner alone (R-T10).
    """

    schema_version: Literal[1]
    trial: str
    cell: str
    variants: dict[str, Any]
    seed: int
    status: Status
    reason: str | None = None
    overrides: dict[str, Any] = {}
    epochs: int | None = None
    best_epoch: int | None = None
    best_val_auroc: float | None = None
    final_core_lr_auc: float | None = None
    final_core_lr_auc_low: float | None = None
    final_core_lr_auc_high: float | None = None
    final_radial_lr_auc: float | None = None
    final_radial_lr_auc_low: float | None = None
    final_radial_lr_auc_high: float | None = None
    gate_n_samples: int | None = None
    core_sensitivity: tuple[MaskedAuc, ...] | None = None
    core_reliance: float | None = None
    auroc_by_thetae: tuple[BinAuc, ...] | None = None
    theta_e_spread: float | None = None
    worst_theta_e_auc: float | None = None
    test_auroc: float | None = None
    test_auroc_by_thetae: tuple[BinAuc, ...] | None = None
    test_core_sensitivity: tuple[MaskedAuc, ...] | None = None
    cost: Cost = Field(default=Cost())

    @model_validator(mode="before")
    @classmethod
    def _no_cost_is_an_unknown_one(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("cost", 0) is None:
            return {name: value for name, value in values.items() if name != "cost"}
        return values

    @model_validator(mode="after")
    def _a_failure_has_a_reason(self) -> TrialResult:
        if self.status == "failed" and not self.reason:
            raise ValueError("a failed trial needs a reason")
        return self


def read_trial(uri: str) -> TrialResult:
    """The ``metrics.json`` of a trial.

    Raises
    ------
    InputError
        It is missing, not JSON, of another version, or not what a trial writes.
    """
    values = storage.read_json(uri)
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version != SCHEMA_VERSION:
        found = f"schema_version {version}" if version is not None else "no schema_version"
        raise InputError(
            f"{uri} has {found}, expected {SCHEMA_VERSION}; give the metrics.json of a trial of this version."
        )
    try:
        return TrialResult.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        message = str(first["msg"]).removeprefix("Value error, ")
        raise InputError(f"{uri} is not the metrics.json of a trial: {where}: {message}.") from error


@dataclass(frozen=True)
class CostSum:
    """Costs of several trainings added up, the largest memory, and how many did not tell theirs."""

    seconds: float
    gpu_hours: float
    cpu_hours: float
    peak_memory_bytes: int | None
    unknown: int


@dataclass(frozen=True)
class Cell:
    """All trainings that differ in nothing but their seed.

    Attributes
    ----------
    done, stopped, failed
        Seeds by how their training ended; only those done are in ``figures``.
    figures
        Every one of `FIGURES` over the seeds.
    """

    name: str
    variants: Mapping[str, Any]
    done: tuple[int, ...]
    stopped: tuple[int, ...]
    failed: tuple[int, ...]
    figures: dict[str, Spread]
    cost: CostSum


def cells(trials: Iterable[TrialResult]) -> dict[str, Cell]:
    """Trials by cell, in the order in which cells first occur."""
    by_cell: dict[str, list[TrialResult]] = {}
    for trial in trials:
        by_cell.setdefault(trial.cell, []).append(trial)
    return {name: _cell(members) for name, members in by_cell.items()}


def _cell(members: Sequence[TrialResult]) -> Cell:
    def seeds(status: Status) -> tuple[int, ...]:
        return tuple(sorted(trial.seed for trial in members if trial.status == status))

    done = [trial for trial in members if trial.status == "done"]
    figures = {
        name: over_seeds([getattr(one, name) for one in done], least, 1.0) for name, (_, least) in FIGURES.items()
    }
    first = members[0]
    return Cell(first.cell, first.variants, seeds("done"), seeds("stopped"), seeds("failed"), figures, cost_of(members))


def cost_of(trials: Sequence[TrialResult]) -> CostSum:
    """Costs added up, failed trainings too: they were paid for."""
    costs = [trial.cost for trial in trials]
    return CostSum(
        sum(cost.seconds or 0.0 for cost in costs),
        sum(cost.gpu_hours or 0.0 for cost in costs),
        sum(cost.cpu_hours or 0.0 for cost in costs),
        max((cost.peak_memory_bytes for cost in costs if cost.peak_memory_bytes is not None), default=None),
        sum(cost.seconds is None for cost in costs),
    )


def arm_figures(trials: Iterable[TrialResult], axis: str) -> dict[str, tuple[ArmFigures, ...]]:
    """What `decide` asks for: figures of the finished trainings by variant of an axis.

    A variant whose trainings all ended without a result has none; one that was not run is absent.
    """
    out: dict[str, tuple[ArmFigures, ...]] = {}
    for trial in trials:
        if axis in trial.variants:
            arm = str(trial.variants[axis])
            out[arm] = out.get(arm, ()) + ((_figures_of(trial),) if trial.status == "done" else ())
    return out


def _figures_of(trial: TrialResult) -> ArmFigures:
    names = {"core_gate_auc": "final_core_lr_auc", "core_gate_low": "final_core_lr_auc_low",
             "core_gate_high": "final_core_lr_auc_high", "val_auc": "best_val_auroc"}  # fmt: skip
    return ArmFigures(**{item.name: getattr(trial, names.get(item.name, item.name)) for item in fields(ArmFigures)})
