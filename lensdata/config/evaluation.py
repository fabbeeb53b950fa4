"""Configuration of the evaluation and its report (R-E1, R-E2, R-E8)."""

from __future__ import annotations

from typing import Annotated, Literal

from lensdata.config.base import UNHASHED, Config, Field


class EvaluateConfig(Config):
    """What is measured, on which split, with which intervals."""

    title: str = Field("Lens finder report", description="title of the report")
    split: Literal["val", "test"] = Field(
        "test", description="split that is judged; the test split is read here and nowhere else (R-T10)"
    )
    resamples: int = Field(10_000, ge=100, description="bootstrap resamples (R-E1)")
    seed: int = Field(42, ge=0, description="seed of the bootstrap")
    fpr_levels: tuple[float, ...] = Field(
        (1e-2, 1e-3, 1e-4), description="false-positive rates at which the completeness is given"
    )
    calibration_bins: int = Field(15, ge=2, le=100, description="bins of the reliability diagram (R-E2)")
    catalogue_baseline: bool = Field(
        True, description="report a classifier that sees catalogue columns only: the floor a network must beat"
    )
    gallery_stamps: int = Field(24, ge=0, le=200, description="stamps per gallery")
    require_auc_above: float | None = Field(None, ge=0, le=1, description="fail the step where the AUC is below this")
    pipeline_folder: Annotated[str | None, UNHASHED] = Field(
        None, description="folder of the pipeline's steps, for the sections on what was dropped and on wall time"
    )
