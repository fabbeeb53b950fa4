"""Configuration of the injected training set (R-S10)."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from lensdata.config.base import Config, Field
from lensdata.config.simulation import Fraction, Range


class HostCuts(Config):
    """Which rows of label 0 may carry an arc."""

    types: tuple[str, ...] = Field(
        ("DEV", "SER"), min_length=1, description="Tractor types; the early types are LRG-like"
    )
    mag_r: Range = Field((16.0, 21.5), description="magnitude in r (brightest, faintest)")
    gr_min: float | None = Field(
        None, description="bluest g - r, mag: 0.9 keeps hosts as red as LRGs; null takes all colours"
    )
    excluded_bricks: tuple[str, ...] = Field((), description="bricks left out, for example 0460m800, 3252p267 (R-S7)")

    @model_validator(mode="after")
    def _magnitudes_rise(self) -> HostCuts:
        if self.mag_r[0] >= self.mag_r[1]:
            raise ValueError(f"mag_r is (brightest, faintest), found {self.mag_r}")
        return self


class ArcsConfig(Config):
    """What the arcs look like; the distributions are those of the simulated sky's lenses."""

    theta_e_arcsec: Range = Field((0.5, 3.0), description="Einstein radius, arcsec (smallest, largest)")
    arc_snr: Range = Field(
        (10.0, 100.0),
        description="matched-filter signal-to-noise of the arc in r (smallest, largest), uniform in its logarithm",
    )
    arcless_fraction: Fraction = Field(0.0, description="share of injections whose source has no light (arc_snr = 0)")
    source_offset: Range = Field(
        (0.05, 0.4), description="distance of the source from the lens axis, Einstein radii (smallest, largest)"
    )
    source_radius_arcsec: Range = Field(
        (0.12, 0.35), description="half-light radius of the source, arcsec (smallest, largest)"
    )
    red_source_fraction: Fraction = Field(0.1, description="share of sources as red as their host")
    shear_scatter: float = Field(0.04, ge=0, le=0.2, description="external shear, scatter per component")

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> ArcsConfig:
        for name, low, high in (
            ("theta_e_arcsec", 0.1, 4.0), ("arc_snr", 0.01, 1e4), ("source_offset", 0.0, 1.0), ("source_radius_arcsec", 0.02, 2.0),
        ):  # fmt: skip
            smallest, largest = getattr(self, name)
            if not low <= smallest <= largest <= high:
                raise ValueError(
                    f"{name} is (smallest, largest) between {low:g} and {high:g}, found ({smallest:g}, {largest:g})"
                )
        return self


class InjectExecution(Config):
    """How the step runs; what it writes stays the same."""

    device: Literal["cpu", "cuda"] = Field("cpu", description="where rays are traced")
    threads: int = Field(
        1, ge=1, description="of the CPU; more help on a machine without other work, and hurt on one with it"
    )
    memory_mb: int | None = Field(
        None,
        ge=1,
        le=65536,
        description="memory of a batch of rays, MB; null takes what a CPU keeps near it, or half of what a GPU has left",
    )
    gallery_stamps: int = Field(24, ge=0, le=96, description="injections shown in gallery.png; 0 makes none")
    scratch_gb: float = Field(
        8.0, gt=0, description="disk for stamps on their way into random order; less takes more passes"
    )


class InjectConfig(Config):
    """Arcs on real hosts, each with its control (R-S10)."""

    seed: int = Field(42, ge=0, description="key of every choice and draw")
    max_hosts: int | None = Field(None, ge=1, description="about this many hosts, by keyed hash; null takes all")
    injected_fraction: float = Field(
        0.5, gt=0, lt=1, description="share of the hosts of every split, PSF and depth bin with an arc"
    )
    paired_negatives: Literal["matched", "matched_and_identical"] = Field(
        "matched",
        description="controls of label 0: another host like it; matched_and_identical adds rows whose control is the stamp itself",
    )
    hosts: HostCuts = HostCuts()
    arcs: ArcsConfig = ArcsConfig()
    oversampling: int = Field(
        4, ge=1, le=16, description="points per pixel and axis where rays are traced; compact sources get more"
    )
    precision: Literal["float64", "float32"] = Field(
        "float64", description="of the rays; float32 is for GPUs that are slow otherwise"
    )
    electrons_per_nanomaggy: tuple[float, float, float] | None = Field(
        None, description="gain in g, r, z: adds the Poisson noise of the arc's own light; null adds none"
    )
    row_group_stamps: int = Field(128, ge=1, le=4096, description="stamps of a row group")
    execution: InjectExecution = InjectExecution()

    @model_validator(mode="after")
    def _gains_are_positive(self) -> InjectConfig:
        if self.electrons_per_nanomaggy is not None and min(self.electrons_per_nanomaggy) <= 0:
            raise ValueError(f"electrons_per_nanomaggy must be above 0, found {self.electrons_per_nanomaggy}")
        return self
