"""Configuration of the selection function: which arcs are injected where, and how completeness is measured (R-E7)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import PositiveInt, model_validator

from lensdata.config.base import UNHASHED, Config, Field
from lensdata.config.injection import HostCuts
from lensdata.config.scoring import Rate, ScoreExecutionConfig
from lensdata.config.simulation import Fraction, Range

HeldOut = Literal["val", "test"]


class SelectionHosts(HostCuts):
    """Which galaxies carry the arcs: never trained on, and able to lens."""

    gr_min: float | None = Field(
        0.6, description="bluest g - r, mag: 0.6 leaves disks out, 0.9 takes the reddest only; null takes all colours"
    )
    splits: tuple[HeldOut, ...] = Field(
        ("val", "test"),
        min_length=1,
        description="splits of the run that hosts are of; what it learnt from is never one",
    )
    max_per_bin: PositiveInt = Field(
        1000, description="hosts of one bin of seeing and depth, by keyed hash; a worker holds their stamps in memory"
    )


class SelectionGrid(Config):
    """The nodes at which completeness is measured; every node in every bin of seeing and depth is a cell."""

    theta_e_arcsec: tuple[float, ...] = Field(
        (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0), min_length=2, description="Einstein radii, arcsec"
    )
    theta_e_from: Literal["grid", "velocity_dispersion"] = Field(
        "grid",
        description="velocity_dispersion: the host's own (columns sigma_v, z_lens of the manifest), counted at the nearest node",
    )
    brightness: Literal["arc_snr", "arc_mag"] = Field(
        "arc_snr", description="axis of brightness: S/N of the arc in r, or its magnitude in r with lensing"
    )
    arc_snr: tuple[float, ...] = Field(
        (5.0, 10.0, 20.0, 40.0, 80.0), min_length=2, description="matched-filter S/N of the arc in r on the stamp"
    )
    arc_mag: tuple[float, ...] = Field(
        (18.5, 19.5, 20.5, 21.5, 22.5, 23.5), min_length=2, description="magnitude of the arc in r, lensed, mag"
    )
    per_cell: PositiveInt = Field(500, description="injections of a cell; fewer where hosts are few, and said so")
    per_host: PositiveInt = Field(50, description="injections of one host at most: hosts are what is independent")

    @property
    def levels(self) -> tuple[float, ...]:
        """Nodes of the axis of brightness."""
        return self.arc_snr if self.brightness == "arc_snr" else self.arc_mag

    @model_validator(mode="after")
    def _nodes_rise(self) -> SelectionGrid:
        for name, low, high in (("theta_e_arcsec", 0.1, 4.0), ("arc_snr", 0.1, 1e4), ("arc_mag", 10.0, 30.0)):
            nodes = getattr(self, name)
            if list(nodes) != sorted(set(nodes)) or nodes[0] < low or nodes[-1] > high:
                raise ValueError(f"{name} are nodes that rise, between {low:g} and {high:g}; found {nodes}")
        return self


class SelectionSources(Config):
    """What lies behind the lenses."""

    caustic_multiple: float = Field(
        1.0, gt=0, le=2, description="sources lie uniformly within this multiple of the outer caustic: p(beta) ~ beta"
    )
    radius_arcsec: Range = Field(
        (0.12, 0.35), description="half-light radius (smallest, largest), uniform in its logarithm"
    )
    red_fraction: Fraction = Field(0.1, description="share of sources as red as their host")
    shear_scatter: float = Field(0.04, ge=0, le=0.2, description="external shear, scatter per component")
    redshift: Range = Field(
        (1.0, 3.0), description="of the source, where theta_E follows from the host's velocity dispersion"
    )

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> SelectionSources:
        for name, low, high in (("radius_arcsec", 0.02, 2.0), ("redshift", 0.01, 20.0)):
            smallest, largest = getattr(self, name)
            if not low <= smallest <= largest <= high:
                raise ValueError(
                    f"{name} is (smallest, largest) between {low:g} and {high:g}, found ({smallest:g}, {largest:g})"
                )
        return self


class RealismConfig(Config):
    """Whether the network can tell injections from real lenses: asked before any completeness is quoted."""

    limit: float = Field(
        0.7, gt=0.5, lt=1, description="AUC of a linear probe on the network's last features that passes"
    )
    per_lens: PositiveInt = Field(2, description="injections matched to each real lens")
    max_lenses: PositiveInt = Field(500, description="real lenses of the splits of the hosts, by keyed hash")


class SelectionConfig(Config):
    """Completeness of a finder by injection and recovery."""

    seed: int = Field(42, ge=0, description="key of every choice and draw")
    checkpoint: str = Field(
        "best", pattern=r"^(best|last|epoch_\d{3,})$", description="best, last or epoch_NNN of the run"
    )
    views: Literal["one", "d4"] = Field(
        "one", description="d4: mean logit over the 8 flips and turns, for negatives scored so"
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: all but the last layer in 16 bits")
    fpr_levels: tuple[Rate, ...] = Field(
        (1e-2, 1e-3, 1e-4),
        min_length=1,
        description="false-positive rates whose thresholds completeness is measured at",
    )
    threshold_splits: tuple[HeldOut, ...] = Field(
        ("test",),
        min_length=1,
        description="splits whose negatives give the thresholds; never what the run learnt from",
    )
    hosts: SelectionHosts = SelectionHosts()
    grid: SelectionGrid = SelectionGrid()
    sources: SelectionSources = SelectionSources()
    oversampling: int = Field(4, ge=1, le=16, description="points per pixel and axis where rays are traced")
    ray_precision: Literal["float64", "float32"] = Field("float32", description="of the rays")
    electrons_per_nanomaggy: tuple[float, float, float] | None = Field(
        None, description="gain in g, r, z: adds the Poisson noise of the arc's own light; null adds none"
    )
    resamples: PositiveInt = Field(500, description="bootstrap resamples of hosts and negatives")
    realism: RealismConfig = RealismConfig()
    batch: int = Field(default=64, ge=1, description="injections per batch; each is three stamps")
    title: Annotated[str, UNHASHED] = Field("Selection function", description="title of the page")
    execution: ScoreExecutionConfig = ScoreExecutionConfig()

    @model_validator(mode="after")
    def _gains_are_positive(self) -> SelectionConfig:
        if self.electrons_per_nanomaggy is not None and min(self.electrons_per_nanomaggy) <= 0:
            raise ValueError(f"electrons_per_nanomaggy must be above 0, found {self.electrons_per_nanomaggy}")
        if list(self.fpr_levels) != sorted(set(self.fpr_levels), reverse=True):
            raise ValueError(f"fpr_levels fall from the highest, found {self.fpr_levels}")
        return self
