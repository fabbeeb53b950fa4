"""Configuration of the catalogue jobs (R-S1 to R-S9)."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from lensdata.config.base import Config, Field

FOOTPRINTS = {"original": (-18.0, 32.0), "paper_iv": (-90.0, 32.0)}


class Footprint(Config):
    """Declinations of the negatives (R-S1): ``original`` -18 < dec < 32, ``paper_iv`` dec < 32, or limits of one's own."""

    name: Literal["original", "paper_iv", "custom"] = Field("original", description="named limits, or custom")
    dec_min_deg: float | None = Field(None, ge=-90, le=90, description="lower limit for custom, degrees, exclusive")
    dec_max_deg: float | None = Field(None, ge=-90, le=90, description="upper limit for custom, degrees, exclusive")

    @model_validator(mode="after")
    def _limits(self) -> Footprint:
        if self.name == "custom":
            if self.dec_min_deg is None or self.dec_max_deg is None or self.dec_min_deg >= self.dec_max_deg:
                raise ValueError("a custom footprint needs dec_min_deg < dec_max_deg")
        elif self.dec_min_deg is not None or self.dec_max_deg is not None:
            raise ValueError(f"footprint {self.name} has fixed limits; use name: custom to give others")
        return self

    @property
    def limits(self) -> tuple[float, float]:
        """(lower, upper) declination, degrees, both exclusive (-90 includes the pole)."""
        if self.name == "custom":
            assert self.dec_min_deg is not None
            assert self.dec_max_deg is not None
            return self.dec_min_deg, self.dec_max_deg
        return FOOTPRINTS[self.name]


class Cuts(Config):
    """The cuts of the negative pool (R-S1); `lensdata.catalogue.cuts.RULES` has the order in which a failing row is counted."""

    types: tuple[Literal["SER", "DEV", "REX", "EXP"], ...] = Field(
        ("SER", "DEV", "REX"), min_length=1, description="Tractor models kept"
    )
    footprint: Footprint = Field(Footprint(), description="declination range")
    nobs_min: int = Field(3, ge=0, description="least exposures in each of g, r, z")
    maskbits: int = Field(
        0x38E2, ge=0, description="rejected MASKBITS: 1 BRIGHT, 5-7 ALLMASK_G/R/Z, 11 MEDIUM, 12 GALAXY, 13 CLUSTER"
    )
    mag_z_max: float = Field(20.0, ge=0, le=40, description="z magnitude limit, exclusive")
    dereddened: bool = Field(False, description="apply the z limit to the dereddened magnitude")


class SparkExecution(Config):
    """How a Spark job runs; changes no row."""

    shuffle_partitions: int | None = Field(
        None, ge=1, description="shuffle partitions; Spark's own default where left out"
    )


class ExtractExecution(SparkExecution):
    """How the sweep files are cut into tasks."""

    rows_per_split: int = Field(500_000, ge=1, description="rows of a task, 505 bytes each; about 256 MB")


class LensColumns(Config):
    """Column names of a lens table other than lenscat's."""

    name: str = Field("name", description="name or identifier")
    ra: str = Field("ra", description="right ascension, degrees")
    dec: str = Field("dec", description="declination, degrees")
    grading: str = Field("grading", description="confident or probable; probable where the column is absent")


class VerifySweepsConfig(Config):
    """Sweep files against the release's SHA-256 list; there is nothing to choose."""


class ExtractPoolConfig(Config):
    """Negative pool from the sweep files (R-S1, R-S2)."""

    cuts: Cuts = Cuts()
    exclusion_radius_arcsec: float = Field(
        11.0, gt=0, le=600, description="no negative this close to a lens: 5 + 2 x 3.0 arcsec (R-S2)"
    )
    columns: LensColumns = LensColumns()
    sweep_columns: dict[str, str] = Field(
        {}, description="what files of another survey call a column, by its DR10 name: {FLUX_Z: MODEL_FLUX_Z}"
    )
    without_lens_list: bool = Field(False, description="must be true to run without a lens list (R-S2)")
    files_outside_footprint: Literal["skip", "read"] = Field(
        "skip",
        description="sweep files whose name says that they lie outside the footprint: not opened, or read for near_lenses",
    )
    max_bad_files: int = Field(
        0,
        ge=0,
        description="sweep files that may be set aside because they are truncated, corrupt or of another release",
    )
    execution: ExtractExecution = ExtractExecution()


class MatchPositivesConfig(Config):
    """Positives from a lens catalogue (R-S3)."""

    name_contains: str = Field(
        "DESI-", description="lenses whose name contains this; empty for all. lenscat: exactly 5,104"
    )
    columns: LensColumns = LensColumns()
    radius_arcsec: float = Field(3.0, gt=0, le=60, description="greatest distance of lens and Tractor source")
    outside_footprint: Literal["drop", "keep"] = Field(
        "drop", description="lenses outside the negatives' footprint: depth would give the label away"
    )
    footprint: Footprint = Field(Footprint(), description="the negatives' footprint, as in extract_pool")
    execution: SparkExecution = SparkExecution()


class RingRule(Config):
    """Ring proxy: bright and concentrated."""

    flux_r_min: float = Field(5.0, description="FLUX_R above this, nanomaggies")
    sersic_min: float = Field(4.0, description="for SER: SERSIC above this; DEV always qualifies")


class EdgeOnRule(Config):
    """Edge-on proxy."""

    ellipticity_min: float = Field(0.50, ge=0, le=1, description="1 - b/a above this")


class BlueRule(Config):
    """Blue clumpy."""

    gr_max: float = Field(0.4, description="g - r below this, mag")
    mag_r_max: float = Field(20.5, description="r below this, mag")


class LargeRule(Config):
    """Large and bright."""

    shape_r_min_arcsec: float = Field(2.0, ge=0, description="half-light radius above this, arcsec")
    flux_r_min: float = Field(3.0, description="FLUX_R above this, nanomaggies")


class MergerRule(Config):
    """Close pairs of comparable flux: two pool rows near each other."""

    radius_arcsec: float = Field(5.0, gt=0, le=60, description="greatest separation")
    mag_r_difference_max: float = Field(1.0, ge=0, description="greatest difference in r, mag")


class Confusers(Config):
    """Rules of the N2 categories (R-S4); precedence merger, ring, edge-on, blue, large."""

    merger: MergerRule = MergerRule()
    ring: RingRule = RingRule()
    edge_on: EdgeOnRule = EdgeOnRule()
    blue: BlueRule = BlueRule()
    large: LargeRule = LargeRule()


class ContaminantColumns(Config):
    """Column names of the lists of contaminants."""

    name: str = Field("name", description="name or identifier; made from the position where the column is absent")
    ra: str = Field("ra", description="right ascension, degrees")
    dec: str = Field("dec", description="declination, degrees")
    category: str = Field(
        "category", description="kind of contaminant; the list's file name where the column is absent"
    )


class CrossmatchExecution(SparkExecution):
    """How two catalogues are brought together."""

    crossmatch: Literal["auto", "broadcast", "partitioned"] = Field(
        "auto",
        description="auto: a list of up to 1,000,000 rows is sent to every task, a longer one partitioned by sky",
    )


class RemoveContaminantsConfig(Config):
    """Removal of pool rows at contaminants (R-S9)."""

    radius_arcsec: float = Field(
        11.0, gt=0, le=600, description="pool rows this close to a contaminant are removed: as around a lens (R-S2)"
    )
    columns: ContaminantColumns = ContaminantColumns()
    execution: CrossmatchExecution = CrossmatchExecution()


class MorphologyTable(Config):
    """An external table of morphologies that marks mergers (R-S4), read where inputs.morphology is given."""

    column: str = Field(
        "merger", description="column that marks a merger or tidal feature: a fraction or a truth value"
    )
    threshold: float = Field(0.5, description="rows with at least this value are mergers")
    match_by: Literal["position", "source_id"] = Field(
        "position", description="nearest row on the sky, or equal source_id"
    )
    radius_arcsec: float = Field(1.5, gt=0, le=60, description="greatest distance of a galaxy and its row of the table")
    ra: str = Field("ra", description="right ascension, degrees")
    dec: str = Field("dec", description="declination, degrees")
    source_id: str = Field("source_id", description="column of our source_id, for match_by: source_id")


class SampleNegativesConfig(Config):
    """Stratified N1/N2 negatives (R-S4, R-S5)."""

    ratio: int = Field(100, ge=1, description="negatives wanted per positive in each stratum")
    n1_percent: int = Field(85, ge=0, le=100, description="share of N1, per cent; n1 = n1_percent x wanted // 100")
    seed: int = Field(42, ge=0, description="key of the sampling order")
    fill: Literal["none", "neighbours"] = Field(
        "none", description="neighbours: a stratum's shortfall is taken from other exposure bins, then from other types"
    )
    confusers: Confusers = Confusers()
    morphology: MorphologyTable = MorphologyTable()
    execution: CrossmatchExecution = CrossmatchExecution()


class AssignSplitsConfig(Config):
    """Splits by HEALPix hash (R-S6)."""

    seed: int = Field(42, description="seed in SHA-256 of '{pixel}_{seed}'")
    train_fraction: float = Field(0.70, gt=0, lt=1, description="hash below this: train")
    val_fraction: float = Field(0.15, ge=0, lt=1, description="then val; the rest is test")
    folds: int = Field(5, ge=2, le=20, description="folds of the pixels for out-of-fold models")
    group_radius_arcsec: float = Field(37.0, gt=0, description="stamps this close share sky (their diagonal)")
    groups: Literal["report", "keep_together"] = Field(
        "report",
        description="report: groups that span splits are counted; keep_together: a group goes where its smallest source_id goes",
    )
    execution: SparkExecution = SparkExecution()

    @model_validator(mode="after")
    def _room_for_test(self) -> AssignSplitsConfig:
        if self.train_fraction + self.val_fraction >= 1:
            raise ValueError("train_fraction + val_fraction must leave room for test")
        return self


class GateRule(Config):
    """Can observing conditions alone tell positives from negatives? (R-S8)."""

    auc_max: float = Field(0.60, gt=0.5, le=1, description="out-of-fold AUC above this is a warning")
    required: bool = Field(False, description="true: an AUC above auc_max fails the step")
    rows_max: int = Field(
        50_000, ge=100, description="rows of the classifier: all positives, negatives by sampling key"
    )
    resamples: int = Field(2000, ge=100, description="bootstrap resamples of the AUC")


class ValidateCatalogueConfig(Config):
    """Checks of the sample (R-S8)."""

    seed: int = Field(
        42, description="split seed, as in assign_splits; also draws the gate's negatives and the examples"
    )
    train_fraction: float = Field(0.70, gt=0, lt=1, description="as in assign_splits")
    val_fraction: float = Field(0.15, ge=0, lt=1, description="as in assign_splits")
    group_radius_arcsec: float = Field(37.0, gt=0, description="as in assign_splits")
    groups: Literal["report", "keep_together"] = Field("report", description="as in assign_splits")
    footprint: Footprint = Field(Footprint(), description="the negatives' footprint, as in extract_pool")
    allow_shortfall: bool = Field(True, description="false: a stratum that got fewer negatives than wanted fails")
    excluded_bricks: tuple[str, ...] = Field((), description="bricks that no manifest may hold (R-S7)")
    near_duplicate_bits: int = Field(
        11,
        ge=0,
        le=15,
        description="stamps whose sky-noise hashes (192 bits) differ in at most so many bits hold the same pixels",
    )
    gate: GateRule = GateRule()
    execution: SparkExecution = SparkExecution()
