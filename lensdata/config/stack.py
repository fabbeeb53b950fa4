"""Configuration of combining the scores of several networks (R-M3)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from lensdata.config.base import Config
from lensdata.config.evaluation import Rate

Form = Literal[
    "best_member",
    "mean_probability",
    "mean_logit",
    "mean_rank",
    "logistic",
    "mlp",
    "weighted_free",
    "weighted_constrained",
]
FORMS: tuple[Form, ...] = (
    "best_member", "mean_probability", "mean_logit", "mean_rank", "logistic", "mlp", "weighted_free", "weighted_constrained",
)  # fmt: skip
CONDITIONS = (
    "nobs_g", "nobs_r", "nobs_z", "psfsize_g", "psfsize_r", "psfsize_z", "psfdepth_g", "psfdepth_r", "psfdepth_z", "ebv",
)  # fmt: skip


def completeness(level: float) -> str:
    """Name of the completeness at a false-positive rate.

    >>> completeness(1e-3)
    'tpr_at_fpr_0.001'
    """
    return f"tpr_at_fpr_{level:g}"


class StackConfig(Config):
    """Which combinations are fitted, on what, and where they are judged."""

    fit_on: Literal["train", "val"] = Field(
        default="val", description="split whose predictions fit the combinations; train is Paper IV's way (in-sample)"
    )
    judge_on: Literal["val", "test"] = Field(
        default="val", description="split on which they are compared; test only for the final evaluation (R-T10)"
    )
    folds: int = Field(
        default=5,
        ge=0,
        description="where both are one split: each patch of sky is scored by fits to the other folds; 0: no",
    )
    forms: tuple[Form, ...] = Field(
        default=FORMS, min_length=1, description="combinations; docs/guide/audit.md describes them"
    )
    features: tuple[str, ...] = Field(
        default=CONDITIONS, description="manifest columns that the weights of the feature-weighted forms may depend on"
    )
    offset: bool = Field(
        default=False,
        description="weighted_free as published: weights of either sign and a term of the features alone, which can be a shortcut",
    )
    fpr_levels: tuple[Rate, ...] = Field(
        default=(1e-2, 1e-3, 1e-4),
        min_length=1,
        description="false-positive rates at which a combination has to be better",
    )
    resamples: int = Field(default=10_000, ge=100, description="of the paired bootstrap")
    seed: int = Field(default=42, ge=0, description="of folds, first weights and bootstrap")

    @field_validator("fpr_levels")
    @classmethod
    def _levels_differ(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if len({completeness(level) for level in levels}) < len(levels):
            raise ValueError("false-positive rates should differ in their first six digits")
        return levels

    @model_validator(mode="after")
    def _never_judged_on_what_was_fitted(self) -> StackConfig:
        if self.fit_on == self.judge_on and self.folds < 2:
            raise ValueError(
                f"fit_on and judge_on are both {self.fit_on}: a combination would be judged on what it was fitted to; "
                "set folds to 2 or more, or judge on another split"
            )
        return self
