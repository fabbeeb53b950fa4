"""Configuration of a comparison of several evaluations (R-E8)."""

from __future__ import annotations

from typing import Annotated

from lensdata.config.base import UNHASHED, Config, Field


class ReportConfig(Config):
    """Which figures are compared, and how surely."""

    title: Annotated[str, UNHASHED] = Field("Lens finders side by side", description="title of the page")
    reference: str | None = Field(
        None, description="name of the evaluation that the others are held against; null: the first"
    )
    fpr_levels: tuple[float, ...] = Field(
        (1e-2, 1e-3, 1e-4), description="false-positive rates of the paired comparison"
    )
    resamples: int = Field(10_000, ge=100, description="of the paired bootstrap")
    seed: int = Field(42, ge=0, description="of the bootstrap")
