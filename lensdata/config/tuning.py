"""Configuration of a study: many trainings that differ in declared ways, and what is decided from them (R-A1 to R-A4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from lensdata.config.base import Config
from lensdata.config.training import TrainingConfig

MANIFEST_KEY = "inputs.manifest"


class RangeConfig(Config):
    """Values between two ends, for a search that draws them."""

    low: float = Field(description="lowest value")
    high: float = Field(description="highest value")
    log: bool = Field(default=False, description="uniform in the logarithm")
    integer: bool = Field(default=False, description="whole numbers")

    @model_validator(mode="after")
    def _is_a_range(self) -> RangeConfig:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"{self.low:g} to {self.high:g} is no {'logarithmic ' if self.log else ''}range")
        return self


Axis = list[Any] | RangeConfig | dict[str, dict[str, Any]]
"""Values of one key; a range of it; or named variants, each a set of dotted keys that change together."""


class SearchConfig(Config):
    """Which cells of the axes are trained."""

    name: Literal["grid", "random", "optuna"] = Field(
        default="grid",
        description="grid: every combination; random: drawn; optuna: drawn where earlier trials did well",
    )
    num_cells: int = Field(default=10, ge=1, description="random, optuna: cells to draw")
    seed: int = Field(default=42, ge=0, description="random, optuna: of the draws")
    monitor: Literal["val_auc", "val_loss"] = Field(
        default="val_auc", description="what a search or scheduler looks at"
    )


class SchedulerConfig(Config):
    """Which trials may go on (none: all)."""

    name: Literal["none", "asha", "median", "pbt"] = Field(
        default="none",
        description="asha: asynchronous successive halving; median: stop below the running median; pbt: population based",
    )
    grace_epochs: int = Field(default=5, ge=1, description="asha, median: no trial is stopped before")
    reduction_factor: float = Field(default=3.0, gt=1, description="asha: one in so many goes on at each rung")
    perturb_epochs: int = Field(default=5, ge=1, description="pbt: epochs between exchanges")
    mutations: dict[str, RangeConfig | list[Any]] = Field(
        default={},
        description="pbt: what changes, each with its values or range: optimizer.lr, .weight_decay, .momentum, "
        "loss.label_smoothing, .clip_norm",
    )


class DecisionConfig(Config):
    """The decision tree of the masking study and its limits (R-A4, R-E4, R-E5, R-E10)."""

    axis: str = Field(default="masking", description="axis whose variants are the arms")
    paired: str = Field(default="A1", description="arm with the control beside the stamp; reported, not decided on")
    baseline: str = Field(default="B1", description="arm without masking, whose figures decide")
    preferred: str = Field(default="B3", description="masked arm that wins if it passes every criterion")
    others: tuple[str, ...] = Field(
        default=("B2", "B4"), description="masked arms after it; of those that pass, the smallest theta_E spread wins"
    )
    run_all: bool = Field(default=False, description="train the masked arms even where the tree does not ask for them")
    core_gate_success: float = Field(default=0.60, gt=0.5, lt=1, description="core gate AUC below: SUCCESS")
    core_gate_acceptable: float = Field(default=0.65, gt=0.5, lt=1, description="core gate AUC up to: ACCEPTABLE")
    reliance_success: float = Field(default=0.03, gt=0, lt=1, description="core reliance below: SUCCESS")
    reliance_acceptable: float = Field(
        default=0.05, gt=0, lt=1, description="core reliance below: ACCEPTABLE; else STOP"
    )
    theta_e_spread: float = Field(default=0.15, gt=0, lt=1, description="a masked arm passes with a spread below")
    worst_theta_e_auc: float = Field(
        default=0.80, gt=0, lt=1, description="a masked arm passes with its worst bin above"
    )
    val_auc: float = Field(default=0.90, gt=0, lt=1, description="a masked arm passes with a validation AUC above")

    @model_validator(mode="after")
    def _limits_are_ordered(self) -> DecisionConfig:
        if self.core_gate_success > self.core_gate_acceptable or self.reliance_success > self.reliance_acceptable:
            raise ValueError("the limits for SUCCESS must not lie above those for ACCEPTABLE")
        return self

    @property
    def arms(self) -> tuple[str, ...]:
        """All arms, in the order in which they are reported."""
        return (self.paired, self.baseline, *sorted((self.preferred, *self.others)))


class WinnerConfig(Config):
    """What happens to the winning cell: trained once more, on all data, and judged once on test (R-A4, R-T10)."""

    manifests: dict[str, str] = Field(
        min_length=1, description="full manifest for each manifest of the trials, by input name"
    )
    seed: int = Field(default=42, ge=0, description="of that training")


class StudyExecutionConfig(Config):
    """How trials are run; nothing here changes what they make."""

    cpus_per_trial: float = Field(
        default=0, ge=0, description="cores of a trial; 0: all, shared by those that run at once"
    )
    gpus_per_trial: float = Field(default=0, ge=0, description="GPUs of a trial, fractions too; 0: none")
    concurrent: int = Field(default=1, ge=1, description="trials at once")
    share_stamps: bool = Field(
        default=True, description="trials on one device with the same stamps use one resident copy, where it fits"
    )
    max_failures: int = Field(
        default=2, ge=0, description="restarts of a trial whose process died, from its checkpoint"
    )


class StudyConfig(Config):
    """A study: axes over a training configuration, seeds, and what is made of the results (R-A1 to R-A4)."""

    name: str = Field(
        default="study", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="shown in reports and trackers"
    )
    training: TrainingConfig = Field(default=TrainingConfig(), description="what every trial starts from")
    axes: dict[str, Axis] = Field(
        description="key: [values], key: {low, high}, or name: {variant: {key: value}}; "
        "inputs.manifest: NAME chooses inputs.manifests.NAME"
    )
    reference: dict[str, Any] = Field(
        default={}, description="axis: variant of the cell that all others are compared with; empty: the first of each"
    )
    seeds: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1, description="a training of every cell with each")
    search: SearchConfig = SearchConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    decision: DecisionConfig | None = Field(default=None, description="the tree of R-A4; null: none")
    winner: WinnerConfig | None = Field(default=None, description="train the winner on all data; null: only name it")
    gate_samples: int = Field(default=2000, ge=50, description="validation stamps for the gates of a trial (R-E4)")
    execution: StudyExecutionConfig = StudyExecutionConfig()

    @field_validator("axes", mode="before")
    @classmethod
    def _axes_have_a_form(cls, axes: Any) -> Any:
        if not isinstance(axes, Mapping) or not axes:
            raise ValueError("a study needs at least one axis, each a name and its values")
        for name, axis in axes.items():
            if isinstance(axis, Mapping) and not axis.keys() & {"low", "high"}:
                if not axis or not all(isinstance(keys, Mapping) for keys in axis.values()):
                    raise ValueError(
                        f"the variants of axis {name} must each be keys and values, as in B2: {{epochs: 3}}"
                    )
            elif not isinstance(axis, (list, tuple, Mapping, RangeConfig)):
                raise ValueError(f"axis {name} must be a list, variants with their keys, or low and high")
        return {name: _as_range(axis) for name, axis in axes.items()}

    @model_validator(mode="after")
    def _parts_fit(self) -> StudyConfig:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} name one twice")
        arms = self.axes.get(self.decision.axis) if self.decision else None
        if self.decision and not isinstance(arms, dict):
            raise ValueError(f"decision.axis {self.decision.axis} must be an axis with named variants")
        if (
            self.decision
            and isinstance(arms, dict)
            and (absent := [arm for arm in self.decision.arms if arm not in arms])
        ):
            raise ValueError(f"the decision needs {', '.join(absent)} on axis {self.decision.axis}")
        if self.decision and (len(self.axes) > 1 or self.search.name != "grid"):
            raise ValueError("a study with a decision has one axis, all of which a grid goes through")
        if self.winner and not self.decision:
            raise ValueError("a winner is one of a decision; without decision leave winner out")
        if self.scheduler.name == "pbt" and not self.scheduler.mutations:
            raise ValueError("scheduler.name pbt needs scheduler.mutations: keys and their values")
        return self


def _as_range(axis: Any) -> Any:
    """A mapping with low and high as the range it is, so that its errors name it."""
    return RangeConfig.model_validate(axis) if isinstance(axis, Mapping) and axis.keys() & {"low", "high"} else axis
