"""Configuration of what is done about unlabelled lenses among the negatives (R-N1, R-N2)."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt, model_validator

from lensdata.config.base import Config, Field

Split = Literal["train", "val", "test"]
Treatment = Literal["keep", "drop", "relabel"]


class RankConfig(Config):
    """Which objects look as if their label were wrong."""

    scores: Literal["out_of_fold", "in_sample"] = Field(
        default="out_of_fold",
        description="out_of_fold: only networks that never saw the object (R-N2); in_sample: a network trained on it (R-N1)",
    )
    label: Literal[0, 1] = Field(
        default=0, description="0: negatives that look like lenses; 1: lenses that look like none"
    )
    splits: tuple[Split, ...] = Field(
        default=("train", "val"), min_length=1, description="splits of the manifest whose objects are ranked"
    )
    threshold: float = Field(
        default=0.4, gt=0, lt=1, description="probability of the wrong label above which an object is flagged (R-N1)"
    )


class OutcomesConfig(Config):
    """What becomes of a negative after it was looked at, by verdict."""

    lens: Treatment = Field(default="drop", description="graded a lens")
    maybe: Treatment = Field(default="drop", description="graded a possible lens")
    not_a_lens: Literal["keep", "drop"] = Field(
        default="keep", description="graded no lens: a confuser is the most useful negative there is"
    )
    artefact: Literal["keep", "drop"] = Field(default="keep", description="graded an artefact of the image")
    disagree: Treatment = Field(default="keep", description="graders disagree")


class CleanConfig(Config):
    """A manifest without the lenses that were found among its negatives."""

    remove: Literal["graded", "above_threshold"] = Field(
        default="graded",
        description="graded: what was looked at and found; above_threshold: every flagged negative, unseen (R-N1, by name)",
    )
    splits: tuple[Split, ...] = Field(
        default=("train",), min_length=1, description="splits that are changed; the others stay as they are (R-T10)"
    )
    outcomes: OutcomesConfig = OutcomesConfig()
    keep_confusers: bool = Field(
        default=True, description="above_threshold: a negative of a confuser category stays, however high its score"
    )
    relabelled_weight: float = Field(
        default=0.5,
        gt=0,
        description="sample_weight of a negative that becomes a lens: tier B, seen by eye only (R-S7)",
    )
    fpr_levels: tuple[float, ...] = Field(
        default=(1e-2, 1e-3, 1e-4), description="false-positive rates of the metrics before and after"
    )
    resamples: int = Field(default=10_000, ge=100, description="bootstrap resamples of these metrics (R-E1)")
    seed: int = Field(default=42, ge=0, description="seed of the bootstrap")
    gallery_stamps: int = Field(default=48, ge=0, le=300, description="stamps per gallery of the report")

    @model_validator(mode="after")
    def _test_is_vetted_only(self) -> CleanConfig:
        if "test" in self.splits and self.remove == "above_threshold":
            raise ValueError(
                "remove above_threshold must not touch the test split: a network would choose what it is judged on; vet it "
                "blind, and use remove graded"
            )
        return self


class MineConfig(Config):
    """One declared round of hard-negative mining, with its control arm."""

    mined: PositiveInt = Field(default=1000, description="negatives added to either arm")
    skim: int = Field(
        default=100, ge=0, description="highest scores that are set aside as possible lenses, to be looked at"
    )
    seed: int = Field(default=42, ge=0, description="seed of the random arm")
    splits: tuple[Split, ...] = Field(
        default=("train",),
        min_length=1,
        description="splits of the pool that may be added; the arms differ in train only",
    )
    apart_arcsec: float = Field(
        default=37.0,
        gt=0,
        description="pool stamps this close to val or test of the manifest are left out: they share sky",
    )
