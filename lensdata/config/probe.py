"""Configuration of probing a trained network (R-E5, R-E6)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lensdata.config.base import Config
from lensdata.config.training import ExecutionConfig


class ProbeConfig(Config):
    """Which stamps a network sees again, changed, and how many attributions are made."""

    checkpoint: str = Field(
        default="best", pattern=r"^(best|last|epoch_\d{3,})$", description="best, last or epoch_NNN of the run"
    )
    split: Literal["val", "test"] = Field(
        default="val", description="split that is probed; test only for the final evaluation (R-T10)"
    )
    rows_max: int = Field(
        default=2000,
        ge=0,
        description="stamps, half of either class as far as there are, 2 at least; 0: all of the split",
    )
    seed: int = Field(default=42, ge=0, description="of the choice of stamps")
    batch: int = Field(default=128, ge=1, description="stamps per forward pass")
    part_rows: int = Field(default=2048, ge=1, description="stamps per part file; a restart repeats at most one part")
    attribution_stamps: int = Field(
        default=128, ge=0, description="lenses, and as many others, whose attributions are made; 0: none (needs captum)"
    )
    execution: ExecutionConfig = ExecutionConfig()
