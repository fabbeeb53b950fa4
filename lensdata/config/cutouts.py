"""Configuration of the cutout jobs (R-C1 to R-C4, R-S7)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import model_validator

from lensdata.config.base import UNHASHED, Config, Field

PIXSCALE_ARCSEC = 0.262
STAMP_SIZE = 101


Route = Literal["service", "bricks", "tiles"]


class Server(Config):
    """How politely a server is asked; changes no pixel."""

    contact: str = Field("", description="e-mail address sent in the User-Agent")
    requests_per_second: float = Field(1.0, gt=0, description="limit over the whole job, kept in any 10 seconds")
    connections_per_task: int = Field(4, ge=1, le=32, description="requests in flight per task")
    connect_timeout_s: float = Field(10.0, gt=0, description="time to connect")
    read_timeout_s: float = Field(60.0, gt=0, description="time to wait for bytes")
    max_attempts: int = Field(6, ge=1, le=50, description="requests before a stamp or file range is given up")
    backoff_s: float = Field(0.5, gt=0, description="first backoff; doubles, full jitter")
    backoff_max_s: float = Field(
        60.0, gt=0, description="longest backoff, and longest pause between probes in an outage"
    )
    outage_max_s: float = Field(
        1800.0, gt=0, description="an outage longer than this fails the step; it can be restarted"
    )


class Service(Server):
    """Route A: the cutout service, a request per stamp."""

    url: str = Field(
        "https://www.legacysurvey.org/viewer/fits-cutout", pattern="^https?://", description="address of the service"
    )


class Coadds(Server):
    """Routes B and C: the brick coadds, whole or by ranges."""

    url: str = Field(
        "https://portal.nersc.gov/cfs/cosmo/data/legacysurvey/dr10/south",
        description="folder, s3:// URI or address that holds coadd/; the limits are for web servers",
    )
    requests_per_second: float = Field(10.0, gt=0, description="limit over the whole job, kept in any 10 seconds")


class Prices(Config):
    """What the planner reckons with (docs/guide/cutouts.md says where the defaults come from)."""

    service_stamps_per_s: float = Field(0.86, gt=0, description="what the service delivers to one client, in all")
    coadd_file_bytes: float = Field(14e6, gt=0, description="one band of a brick; used where no file is looked at")
    bytes_per_s: float = Field(30e6, gt=0, description="bandwidth of the whole job")
    decompress_s: float = Field(0.26, gt=0, description="CPU time to decompress one band of a brick")
    section_s: float = Field(0.0023, gt=0, description="CPU time to decompress one stamp of one band by its tiles")
    cores: int = Field(8, ge=1, description="cores of the job")


class Plan(Config):
    """How a route is chosen where ``route: auto`` (R-C1)."""

    prefer: Literal["bytes", "seconds"] = Field("bytes", description="what is to be small")
    looked_at: int = Field(3, ge=0, le=100, description="bricks whose file sizes are asked for; 0 uses the price")
    prices: Prices = Prices()


class Quality(Config):
    """When a stamp is excluded (R-C4); excluded stamps stay in the ledger."""

    missing_frac_max: float = Field(
        0.05, ge=0, le=1, description="greatest fraction of NaN or exactly zero pixels in any band"
    )
    saturated_frac_max: float = Field(0.02, ge=0, le=1, description="greatest fraction of extreme pixels")
    saturated_above_nmgy: float = Field(250.0, gt=0, description="a pixel above this is extreme, nanomaggies")
    edge_score_max: float = Field(0.5, gt=0, description="greatest edge-artefact score")


class FetchExecution(Config):
    """How the fetch is cut into tasks."""

    stamps_per_part: int = Field(256, ge=1, le=4096, description="stamps of a task and of its part file")
    task_budget_s: float = Field(
        900.0, gt=0, description="a task publishes what it has by then; another round asks for the rest"
    )
    coordinator_port: int = Field(0, ge=0, le=65535, description="port of the driver that tasks ask for turns; 0: any")
    max_failed_fraction: float = Field(
        0.05, ge=0, le=1, description="more failures than this fail the step; it can be restarted"
    )
    shuffle_partitions: int | None = Field(None, ge=1, description="shuffle partitions")


class FetchCutoutsConfig(Config):
    """Stamps for the sample (R-C1, R-C2)."""

    layer: str = Field("ls-dr10", description="survey layer, always sent")
    bands: str = Field("grz", pattern="^[griz]+$", description="bands in stored order")
    size: int = Field(STAMP_SIZE, ge=8, le=512, description="side of a stamp, pixels")
    pixscale_arcsec: float = Field(
        PIXSCALE_ARCSEC, gt=0, description="pixel scale, arcsec; 0.262 keeps nanomaggies per native pixel"
    )
    route: Literal["auto", Route] = Field(
        "auto",
        description="where stamps come from, all of them: the service, whole bricks, or tiles of bricks; auto plans",
    )
    extras: tuple[Literal["invvar", "maskbits"], ...] = Field(
        (), description="further columns beside the image; routes bricks and tiles"
    )
    dtype: Literal["float32", "float16"] = Field(
        "float32", description="stored type; float16 loses, the report says how much"
    )
    kind: Literal["plain", "control"] = Field("plain", description="plain stamps, or controls of the same galaxies")
    labels: tuple[int, ...] = Field((0, 1), description="fetch the objects with these labels")
    require_survey_version: Annotated[bool, UNHASHED] = Field(
        True, description="refuse answers that mix SURVEY/VERSION"
    )
    quality: Quality = Quality()
    service: Annotated[Service, UNHASHED] = Service()
    coadds: Annotated[Coadds, UNHASHED] = Coadds()
    plan: Annotated[Plan, UNHASHED] = Plan()
    execution: FetchExecution = FetchExecution()

    @model_validator(mode="after")
    def _routes_can(self) -> FetchCutoutsConfig:
        if self.extras and self.route == "service":
            raise ValueError("extras come by route bricks or tiles only")
        if len(set(self.bands)) < len(self.bands):
            raise ValueError(f"bands {self.bands!r} names a band twice")
        if self.pixscale_arcsec != PIXSCALE_ARCSEC and self.route in ("bricks", "tiles"):
            raise ValueError(
                f"coadds have {PIXSCALE_ARCSEC} arcsec per pixel; another pixscale_arcsec needs route=service"
            )
        return self


class BuildExecution(Config):
    """Sizes of files."""

    shard_bytes: int = Field(128 << 20, ge=1 << 20, le=1 << 30, description="bytes of a shard; 64-256 MB")


class TierWeights(Config):
    """Weights of positives in the loss of the audit manifest; negatives weigh 1 (R-S7)."""

    A: float = Field(1.0, ge=0, description="spectroscopic or HST confirmation")
    B: float = Field(0.5, ge=0, description="visual grade only")


class BuildManifestsConfig(Config):
    """Shards and manifests (R-S7, R-C3)."""

    kind: Literal["plain", "control"] = Field("plain", description="which stamps of the sample's galaxies")
    manifests: tuple[Literal["parity_70_30", "audit_70_15_15"], ...] = Field(
        ("parity_70_30", "audit_70_15_15"), min_length=1, description="manifests to write"
    )
    seed: int = Field(42, description="order of the stamps in the shards")
    row_group_stamps: int = Field(128, ge=1, le=4096, description="stamps of a row group")
    tier_weights: TierWeights = TierWeights()
    excluded_bricks: tuple[str, ...] = Field((), description="bricks left out, for example 0460m800, 3252p267 (R-S7)")
    execution: BuildExecution = BuildExecution()


class SubsampleManifestConfig(Config):
    """A stratified subsample of a manifest (R-S7)."""

    fraction: float = Field(0.10, gt=0, le=1, description="share of the rows of every split and label")
    seed: int = Field(42, ge=0, description="key of the order in which rows are taken")
