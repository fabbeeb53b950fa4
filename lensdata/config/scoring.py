"""Configuration of scoring, of the list of candidates, and of what is fetched to be scored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import PositiveInt, model_validator

from lensdata.config.base import UNHASHED, Config, Field
from lensdata.config.training import ExecutionConfig

Rate = Annotated[float, Field(gt=0, lt=1)]


class ScoreExecutionConfig(ExecutionConfig):
    """Where stamps are scored; nothing here changes the scores of a device."""

    runtime: Literal["auto", "ray", "local"] = Field(  # type: ignore[assignment]
        default="auto",
        description="ray: workers with a device each; local: this process; auto: ray on a cluster or with several workers",
    )


class ScoreConfig(Config):
    """Scoring a manifest, or all stamps of a survey's shards, with a trained network."""

    checkpoint: str = Field(
        default="best", pattern=r"^(best|last|epoch_\d{3,})$", description="best, last or epoch_NNN of the run"
    )
    splits: tuple[Literal["train", "val", "test"], ...] = Field(
        default=("train", "val", "test"), min_length=1, description="splits of a manifest to score"
    )
    keep: Literal["all", "top"] = Field(
        default="all", description="all scores, or the highest top_k and a histogram of all: for a survey"
    )
    top_k: PositiveInt = Field(
        default=500_000, description="scores that keep=top keeps; thresholds at rates down to them are exact"
    )
    fpr_levels: tuple[Rate, ...] = Field(
        (1e-2, 1e-3, 1e-4), description="keep=top: rates whose thresholds are reported"
    )
    views: Literal["one", "d4"] = Field(
        default="one",
        description="d4: mean logit over the 8 flips and turns; with keep=top of the pool_top highest only, in a second pass",
    )
    pool_top: PositiveInt = Field(default=10_000, description="keep=top, views=d4: stamps of the second pass")
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="bf16: all but the last layer in 16 bits; its difference is measured and reported"
    )
    batch: int = Field(default=256, ge=1, description="stamps per forward pass")
    part_rows: int = Field(default=8192, ge=1, description="rows per part file; a restart repeats at most one part")
    execution: ScoreExecutionConfig = ScoreExecutionConfig()


class CandidatesConfig(Config):
    """From the highest scores of a survey to a list that somebody looks at."""

    top: PositiveInt = Field(default=1000, description="candidates on the list")
    prevalence: Rate = Field(default=1e-4, description="share of lenses among what was scored, for its probabilities")
    recalibration: Literal["platt", "temperature", "beta"] = Field(
        default="platt", description="map from logits to probabilities, fitted to the validation split of the run"
    )
    false_discovery_rate: Rate = Field(
        default=0.1, description="share of non-lenses that the conformal selection may hold, in the mean"
    )
    group_by: tuple[Literal["psf_bin", "depth_bin", "footprint"], ...] = Field(
        default=(), description="conformal selection within groups of these; () takes all as one group"
    )
    footprint_dec: float = Field(default=-18.0, description="declination in degrees that parts the two footprints")
    match_radius_arcsec: float = Field(default=11.0, gt=0, description="a known lens within this is the same (R-S2)")
    gallery_stamps: int = Field(default=60, ge=0, le=500, description="candidates with a picture on the page")
    title: Annotated[str, UNHASHED] = Field(default="Candidates", description="title of the page")

    @model_validator(mode="after")
    def _groups_once(self) -> CandidatesConfig:
        if len(set(self.group_by)) < len(self.group_by):
            raise ValueError("group_by names one twice")
        return self
