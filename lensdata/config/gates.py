"""Configuration of the gates on the data (R-E4)."""

from __future__ import annotations

from typing import Annotated, Literal

from lensdata.config.base import UNHASHED, Config, Field
from lensdata.config.training import ImagesConfig

Split = Literal["train", "val", "test"]


class GatesConfig(Config):
    """Which stamps the gates look at, as what, and what a failure does."""

    seed: int = Field(
        42, ge=0, description="draws the sample, the folds where the manifest has none, and the resamples"
    )
    splits: tuple[Split, ...] = Field(
        ("train", "val"), min_length=1, description="splits to use; test is read once, in the final evaluation (R-T10)"
    )
    sample_size: int = Field(2000, ge=0, description="stamps, half of either class as far as there are; 0: all (R-E4)")
    negatives: Literal["auto", "random", "host_matched"] = Field(
        "auto",
        description="random: core, profile and the like are a floor, and judged on hosts matched here; host_matched: alike by "
        "construction, judged as they are; auto: host_matched where all positives are injections",
    )
    caliper: float = Field(
        0.5,
        gt=0,
        description="largest root mean square difference of a matched pair over its columns, standard deviations",
    )
    images: ImagesConfig = Field(
        ImagesConfig(), description="what the network would see, as in training; with inputs.run the run's own is used"
    )
    checkpoint: str = Field(
        "best", pattern=r"^(best|last|epoch_\d{3,})$", description="inputs.run only: checkpoint whose figures normalise"
    )
    resamples: int = Field(500, ge=100, description="bootstrap resamples of each AUC (R-E4)")
    fail_on: Literal["WARN", "FAIL"] | None = Field(
        None, description="a verdict this bad fails the step; null: none does"
    )
    threads: Annotated[int, UNHASHED] = Field(
        0, ge=0, description="CPU threads of the normalisation; 0 takes all cores of the machine"
    )
