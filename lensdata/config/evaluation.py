"""Configuration of the evaluation and its report (R-E1, R-E2, R-E8)."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import PositiveInt, model_validator

from lensdata.config.base import UNHASHED, Config, Field

TARGET = re.compile(  # metrics that a study may ask a minimum of
    r"auc|average_precision|accuracy|tpr0|tpr10|tpr_at_fpr_[\de.-]+|partial_auc_0\.01|precision_at_recall_0\.95?|"
    r"recall_at_precision_0\.95|top_\d+|catalogue_only_auc|network_less_catalogue_auc|without_arcs_auc|lens_above_its_control"
)
Rate = Annotated[float, Field(gt=0, lt=1)]


class EvaluateConfig(Config):
    """What is measured, on which split, with which intervals."""

    title: str = Field("Lens finder report", description="title of the report")
    split: Literal["val", "test"] = Field(
        "test", description="split that is judged; the test split is read here and nowhere else (R-T10)"
    )
    resamples: int = Field(10_000, ge=100, description="bootstrap resamples (R-E1)")
    seed: int = Field(42, ge=0, description="seed of the bootstrap")
    fpr_levels: tuple[Rate, ...] = Field(
        (1e-2, 1e-3, 1e-4), description="false-positive rates at which the completeness is given"
    )
    top_k: tuple[PositiveInt, ...] = Field(
        (100, 1000), description="lengths of the list of highest scores whose share of lenses is given (R-E1)"
    )
    survey_prevalence: Rate = Field(
        1e-4,
        description="share of lenses among the galaxies a survey would score, for the purity to expect there (R-E1)",
    )
    smallest_stratum: int = Field(
        10, ge=2, description="lenses, or others, below which a stratum gets no number of its own (R-E1)"
    )
    calibration_bins: int = Field(15, ge=2, le=100, description="bins of the reliability diagram (R-E2)")
    calibration_smallest_bin: int = Field(
        20, ge=1, description="members a bin needs to count for the largest calibration error (R-E2)"
    )
    catalogue_baseline: bool = Field(
        True, description="report a classifier that sees catalogue columns only: the floor a network must beat"
    )
    gallery_stamps: int = Field(24, ge=0, le=200, description="stamps per gallery")
    require_auc_above: float | None = Field(
        None, ge=0, le=1, description="fail the step where the AUC is not above this"
    )
    require_ece_below: float | None = Field(
        None, ge=0, le=1, description="fail the step where the calibration error (equal width) is not below this (R-E2)"
    )
    targets: dict[str, float] = Field(
        {},
        description="metrics of metrics.json that have to be above a value, PASS or FAIL in the report: {auc: 0.97} (R-E10)",
    )
    circular_lists: tuple[str, ...] = Field(
        (), description="recovery lists that finders of the same family made: finding them again proves little (R-E9)"
    )
    pipeline_folder: Annotated[str | None, UNHASHED] = Field(
        None, description="folder of the pipeline's steps, for the sections on what was dropped and on wall time"
    )

    @model_validator(mode="after")
    def _targets_are_metrics(self) -> EvaluateConfig:
        for name in self.targets:
            if not TARGET.fullmatch(name):
                raise ValueError(
                    f"targets.{name} is no metric that can be asked for; these are {TARGET.pattern.replace('|', ', ')}"
                )
        return self
