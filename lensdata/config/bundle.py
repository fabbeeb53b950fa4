"""Configuration of model bundles and of scoring positions with one."""

from __future__ import annotations

from typing import Annotated, Literal

from lensdata.config.base import UNHASHED, Config, Field
from lensdata.config.cutouts import Quality, Service
from lensdata.config.evaluation import Rate

FPR_LEVELS = (1e-2, 1e-3, 1e-4)  # false-positive rates at which a bundle has a threshold


class BundleExecution(Config):
    """How a bundle is made; nothing here changes what is in it."""

    threads: int = Field(0, ge=0, description="CPU threads; 0 takes all cores of the machine")


class BundleConfig(Config):
    """What goes into a bundle, and how exactly it has to agree with the run."""

    calibration: Literal["platt", "temperature", "beta", "none"] = Field(
        "platt", description="map from logits to probabilities, fitted to the validation split"
    )
    onnx: bool = Field(False, description="write model.onnx too; needs the extra lensdata[onnx]")
    checked_stamps: int = Field(
        64, ge=1, le=4096, description="validation stamps that bundle, run and ONNX are compared on"
    )
    run_tolerance: float = Field(
        0.05, gt=0, description="greatest difference from the run's logits, which may come from another device"
    )
    onnx_tolerance: float = Field(1e-3, gt=0, description="greatest difference of a logit between ONNX and torch")
    intended_use: Annotated[str, UNHASHED] = Field(
        "", description="a sentence for the model card: what this model is for, and who answers for it"
    )
    execution: BundleExecution = BundleExecution()


class PositionColumns(Config):
    """Column names of the table of positions, in any case."""

    ra: str = Field("ra", description="right ascension, degrees")
    dec: str = Field("dec", description="declination, degrees")
    id: str | None = Field(None, description="name of each position; null: the first of id, name, objid and the like")


class ScorePositionsExecution(Config):
    """How positions are fetched and scored; changes no score."""

    stamps_per_part: int = Field(32, ge=1, le=4096, description="stamps of a part file; a kill loses at most one part")
    batch: int = Field(128, ge=1, description="stamps per forward pass")
    threads: int = Field(0, ge=0, description="CPU threads of the network; 0 takes all cores of the machine")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU where there is one")


class ScorePositionsConfig(Config):
    """Stamps at given positions, their scores, and a page."""

    prevalence: Rate = Field(
        1e-4, description="share of lenses among the galaxies that the positions are drawn from, for survey_probability"
    )
    layer: str = Field("ls-dr10", description="survey layer, always sent")
    columns: PositionColumns = PositionColumns()
    lens_radius_arcsec: float = Field(11.0, gt=0, description="a catalogued lens this near is named")
    model_sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="SHA-256 that bundle.json must have; null: any"
    )
    page_rows: int = Field(1000, ge=1, le=5000, description="scored rows on the page; results.csv has all")
    quality: Quality = Quality()
    service: Annotated[Service, UNHASHED] = Service()
    execution: ScorePositionsExecution = ScorePositionsExecution()
