"""Configuration of the simulated sky and of the server that shows it."""

from __future__ import annotations

from typing import Annotated

from pydantic import model_validator

from lensdata.config.base import UNHASHED, Config, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]


class SkyConfig(Config):
    """Where the sky is and how its bricks were observed."""

    ra_min: float = Field(5.0, ge=0, lt=360, description="western edge of the box, deg")
    ra_max: float = Field(45.0, gt=0, le=360, description="eastern edge of the box, deg")
    dec_min: float = Field(-15.0, ge=-85, lt=85, description="southern edge of the box, deg")
    dec_max: float = Field(0.0, gt=-85, le=85, description="northern edge of the box, deg")
    nobs_z_scatter: float = Field(
        0.6,
        ge=0,
        le=1.5,
        description="scatter of ln(exposures in z) over bricks; the fitted 0.43 hardly reaches the bin 11+",
    )
    low_exposure_fraction: Fraction = Field(0.05, description="share of bricks with only 1-2 exposures in one band")
    missing_band_fraction: Fraction = Field(
        0.004, description="share of bricks without any exposure in one band (NOBS = 0)"
    )
    hole_fraction: Fraction = Field(
        0.2,
        description="share of bricks with a rectangle of missing pixels in one band that the catalogue does not know",
    )
    hole_size_arcsec: Range = Field((180.0, 330.0), description="side of such a rectangle, arcsec (smallest, largest)")

    @model_validator(mode="after")
    def _box_has_an_area(self) -> SkyConfig:
        if self.ra_max <= self.ra_min or self.dec_max <= self.dec_min:
            raise ValueError("ra_max and dec_max must exceed ra_min and dec_min (a box does not cross RA 0)")
        return self


class LensesConfig(Config):
    """Which lenses of the list exist in this sky and what their arcs look like."""

    name_contains: str = Field("DESI-", description="text in the names of the lenses to use; empty takes all")
    fraction: Fraction = Field(
        1.0, description="share of the listed lenses in the box that the sky knows at all, by hash of name"
    )
    without_host_fraction: Fraction = Field(
        0.02, description="share of those without any catalogue row near: stay unmatched"
    )
    outside_cuts_fraction: Fraction = Field(
        0.04,
        description="share of hosts drawn from all galaxies, so that a few fail the cuts of the negatives or have type EXP",
    )
    position_scatter_arcsec: float = Field(
        0.15, ge=0, le=0.5, description="scatter of host and listed position per axis, arcsec"
    )
    theta_e_arcsec: Range = Field((1.2, 2.8), description="Einstein radius, arcsec (smallest, largest)")
    arc_snr: Range = Field(
        (30.0, 100.0), description="matched-filter signal-to-noise of the arcs in r (smallest, largest)"
    )
    source_offset: Range = Field(
        (0.05, 0.4), description="distance of the source from the lens axis, Einstein radii (smallest, largest)"
    )
    source_radius_arcsec: Range = Field(
        (0.12, 0.35), description="half-light radius of the source, arcsec (smallest, largest)"
    )
    red_source_fraction: Fraction = Field(0.1, description="share of sources as red as their lens")
    shear_scatter: float = Field(0.04, ge=0, le=0.2, description="external shear, scatter per component")


class GalaxiesConfig(Config):
    """How many catalogue rows there are around each lens and what they are."""

    pool_rows_per_lens: float = Field(
        34.0, gt=0, description="rows per lens of types SER, DEV, REX brighter than z = 20"
    )
    other_rows_per_lens: float = Field(
        30.0, ge=0, description="rows per lens that the cuts drop: EXP, PSF, z > 20, FLUX_Z <= 0"
    )
    empty_brick_fraction: Fraction = Field(0.05, description="bricks with rows but no lens, per brick with a lens")
    type_mix: dict[str, float] = Field(
        {"SER": 0.46, "DEV": 0.32, "REX": 0.22},
        description="types among the rows that pass the cuts (and among the hosts)",
    )
    other_mix: dict[str, float] = Field(
        {"faint": 0.40, "EXP": 0.25, "PSF": 0.33, "nonpositive_flux_z": 0.02},
        description="kinds among the rows that the cuts drop",
    )
    blue_fraction: Fraction = Field(
        0.18, description="share of rows from the blue cloud (g-r near 0.45) rather than the fitted colours"
    )
    large_fraction: Fraction = Field(0.05, description="share of rows with SHAPE_R > 2 arcsec")
    pair_fraction: Fraction = Field(
        0.07, description="share of pool rows with a companion within 5 arcsec and 1 mag in r"
    )
    ring_drawn_fraction: Fraction = Field(
        0.3, description="share of the ring-proxy rows that have a ring drawn around them"
    )
    spiral_drawn_fraction: Fraction = Field(
        0.5, description="share of blue disks larger than 0.9 arcsec with spiral arms drawn"
    )
    tail_drawn_fraction: Fraction = Field(0.5, description="share of close pairs with a tidal tail drawn")
    satellite_fraction: Fraction = Field(
        0.25, description="share of galaxies, hosts included, with small uncatalogued galaxies beside them"
    )
    mask_circles_per_brick: float = Field(
        3.0, ge=0, le=20, description="circles per brick with a MASKBITS bit, mostly around stars"
    )
    duplicate_fraction: Fraction = Field(
        0.3, description="share of rows within 0.05 deg of a sweep edge that the next file repeats"
    )
    background_per_arcmin2: float = Field(
        20.0, ge=0, le=60, description="faint objects per square arcmin that are drawn but in no row"
    )

    @model_validator(mode="after")
    def _mixes_are_known(self) -> GalaxiesConfig:
        for mix, known in (
            (self.type_mix, {"SER", "DEV", "REX"}),
            (self.other_mix, {"faint", "EXP", "PSF", "nonpositive_flux_z"}),
        ):
            if set(mix) - known or not mix or min(mix.values()) < 0 or sum(mix.values()) <= 0:
                raise ValueError(f"a mix gives a share >= 0 to some of {sorted(known)}, found {mix}")
        return self


class FaultsConfig(Config):
    """What goes wrong at the server; decided by hash of (seed, position, attempt), so the same for every run."""

    seed: int = Field(0, ge=0, description="seed of the decisions")
    latency_s: float = Field(0.0, ge=0, description="time added to every answer, s")
    rate_429: Fraction = Field(0.0, description="share of requests answered 429 with Retry-After")
    retry_after_s: float = Field(1.0, ge=0, description="value of Retry-After, s")
    rate_503: Fraction = Field(0.0, description="share of requests answered 503")
    rate_reset: Fraction = Field(0.0, description="share of requests whose connection is reset")
    rate_truncated: Fraction = Field(0.0, description="share of requests whose body ends half-way")
    permanent_500: Fraction = Field(0.0, description="share of positions that answer 500 for ever")
    max_requests_per_s: float = Field(0.0, ge=0, description="429 beyond this rate over the last second; 0 is no limit")
    accept_ranges: bool = Field(True, description="answer Range requests for static files with 206")

    @model_validator(mode="after")
    def _shares_fit(self) -> FaultsConfig:
        if self.rate_429 + self.rate_503 + self.rate_reset + self.rate_truncated > 1:
            raise ValueError("rate_429 + rate_503 + rate_reset + rate_truncated must not exceed 1")
        return self


class MockSurveyConfig(Config):
    """A sky around real lens positions: sweep files, images on demand, truth."""

    seed: int = Field(42, ge=0, lt=2**31, description="seed of everything drawn")
    sky: SkyConfig = Field(default_factory=SkyConfig, description="box and observing conditions")
    lenses: LensesConfig = Field(default_factory=LensesConfig, description="lenses and arcs")
    galaxies: GalaxiesConfig = Field(
        default_factory=GalaxiesConfig, description="catalogue rows and what is drawn at them"
    )
    oversampling: int = Field(
        3, ge=1, le=8, description="points per pixel and axis where arcs, rings and clumps are drawn"
    )
    write_bricks: tuple[str, ...] = Field(
        (), description="names of bricks to write as files at once; others are made when asked for"
    )
    faults: Annotated[FaultsConfig, UNHASHED] = Field(
        default_factory=FaultsConfig, description="faults of the server, none by default"
    )
