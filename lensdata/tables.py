"""Every table of the platform: its columns with unit and meaning, how it is checked, hashed and published.

A table is a folder: rows in ``dataset/*.parquet``, beside them ``_table.json`` (schema version, rows, content
identity, SHA-256 per file), ``_report.json`` and, last, ``_SUCCESS``. Types are those that also pass through
Spark 3.5 (signed integers, no fixed-size lists).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lensdata import storage
from lensdata.errors import InputError
from lensdata.hashing import splitmix64, text_hash

SCHEMA_VERSION = 3
READERS = 16
BANDS = ("g", "r", "z")
UInt64Array = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Column:
    """One column: Arrow type, unit and meaning."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str


@dataclass(frozen=True)
class TableSpec:
    """A table's columns; ``key`` is unique where given; ``sky``: published as a HATS catalogue."""

    name: str
    meaning: str
    columns: tuple[Column, ...]
    key: str | None = None
    sky: bool = False

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema, units and meanings as field metadata."""
        return pa.schema(
            [
                pa.field(column.name, column.type, metadata={"unit": column.unit, "description": column.meaning})
                for column in self.columns
            ]
        )

    @property
    def names(self) -> list[str]:
        """The column names, in order."""
        return [column.name for column in self.columns]


I8, I16, I32, I64 = pa.int8(), pa.int16(), pa.int32(), pa.int64()
F32, F64, TEXT = pa.float32(), pa.float64(), pa.string()


def _per_band(pattern: str, type_: pa.DataType, unit: str, meaning: str) -> tuple[Column, ...]:
    return tuple(Column(pattern.format(band), type_, unit, meaning.format(band)) for band in BANDS)


IDENTITY = (
    Column("source_id", I64, "", "RELEASE << 42 | BRICKID << 22 | OBJID, DESI's TARGETID packing"),
    Column("ra", F64, "deg", "right ascension (J2000)"),
    Column("dec", F64, "deg", "declination (J2000)"),
)
SOURCE = (
    *IDENTITY,
    Column("release", I16, "", "Tractor release number"),
    Column("brickid", I32, "", "brick number"),
    Column("brickname", TEXT, "", "brick name, RRRR[pm]DDD"),
    Column("objid", I32, "", "object number in the brick"),
    Column("type", TEXT, "", "morphological model: PSF, REX, EXP, DEV, SER"),
    Column("maskbits", I32, "", "DR10 MASKBITS"),
    Column("ebv", F32, "mag", "Galactic reddening E(B-V), SFD98"),
    *_per_band("flux_{}", F32, "nanomaggy", "model flux in {}"),
    *_per_band("flux_ivar_{}", F32, "1/nanomaggy^2", "inverse variance of the flux in {}"),
    *_per_band("mw_transmission_{}", F32, "", "Galactic transmission in {}, linear"),
    *_per_band("nobs_{}", I16, "", "exposures at the source in {}"),
    *_per_band("psfsize_{}", F32, "arcsec", "weighted mean PSF FWHM in {}"),
    *_per_band("psfdepth_{}", F32, "1/nanomaggy^2", "point-source depth in {} as inverse variance"),
    *_per_band("galdepth_{}", F32, "1/nanomaggy^2", "depth for a 0.45 arcsec round exponential in {}"),
    Column("shape_r", F32, "arcsec", "half-light radius"),
    Column("shape_e1", F32, "", "ellipticity component 1"),
    Column("shape_e2", F32, "", "ellipticity component 2"),
    Column("sersic", F32, "", "Sersic index (fitted for SER)"),
)
DERIVED = (
    *_per_band("mag_{}", F32, "mag", "AB magnitude in {}, 22.5 - 2.5 log10 flux; null where flux <= 0"),
    Column("gr", F32, "mag", "g - r"),
    Column("rz", F32, "mag", "r - z"),
    Column("axis_ratio", F32, "", "b/a = (1 - |e|) / (1 + |e|)"),
    Column("ellipticity", F32, "", "1 - b/a"),
    Column("type_bin", TEXT, "", "SER, DEV, REX, or other"),
    Column("nobs_z_bin", TEXT, "", "1-2, 3-5, 6-10, 11+; none without a z exposure"),
    Column("stratum", TEXT, "", "type_bin/nobs_z_bin; null outside the strata"),
    Column("psf_bin", I8, "", "bin of psfsize_r, edges 1.0, 1.2, 1.4, 1.6 arcsec"),
    Column("depth_bin", I8, "", "bin of the r-band 5-sigma point-source depth, edges 23.0, 23.5, 24.0, 24.5 mag"),
    Column("healpix_128", I64, "", "HEALPix pixel, nside 128, NESTED"),
    Column("_healpix_29", I64, "", "HEALPix pixel, order 29, NESTED: the spatial index of HATS catalogues"),
)
CONFUSER = (
    Column("confuser_flags", I32, "", "bits: 1 merger, 2 ring, 4 edge-on, 8 blue, 16 large"),
    Column("confuser", TEXT, "", "primary confuser category; null for none"),
)
LENS = (
    Column("lens_name", TEXT, "", "name in the lens catalogue"),
    Column("lens_ra", F64, "deg", "catalogue right ascension of the lens"),
    Column("lens_dec", F64, "deg", "catalogue declination of the lens"),
    Column("lens_grading", TEXT, "", "confident or probable"),
)

POOL = TableSpec(
    "pool", "galaxies that pass the cuts, away from every lens (R-S1, R-S2)", SOURCE + DERIVED, "source_id", sky=True
)
NEAR_LENSES = TableSpec(
    "near_lenses",
    "every sweep row near a lens, any type, uncut; one row per source and its nearest lens (R-S2, R-S3)",
    (*SOURCE, *DERIVED, *LENS, Column("separation_arcsec", F64, "arcsec", "distance to that lens")),
    "source_id",
)
REJECTED = TableSpec(
    "rejected",
    "objects dropped with a reason",
    (
        *IDENTITY,
        Column("reason", TEXT, "", "why it was dropped"),
        Column("lens_name", TEXT, "", "the lens concerned, where there is one"),
        Column("separation_arcsec", F64, "arcsec", "distance to it"),
    ),
)
REMOVED = TableSpec(
    "removed",
    "pool rows removed because they lie at a contaminant, with the nearest one (R-S9)",
    (
        *IDENTITY,
        Column("reason", TEXT, "", "category of the contaminant; its list where it has none"),
        Column("list", TEXT, "", "the list it stands in"),
        Column("contaminant", TEXT, "", "its name"),
        Column("contaminant_ra", F64, "deg", "its right ascension"),
        Column("contaminant_dec", F64, "deg", "its declination"),
        Column("separation_arcsec", F64, "arcsec", "distance to it"),
    ),
    "source_id",
)
SWEEP_SPLITS = TableSpec(
    "sweep_splits",
    "row ranges of the sweep files and what became of their rows, a row per reason (R-S1)",
    (
        Column("file", TEXT, "", "file name"),
        Column("first_row", I64, "", "first row of the range"),
        Column("reason", TEXT, "", "kept, or the first cut that failed"),
        Column("rows", I64, "", "rows with that reason"),
    ),
)
SWEEP_FILES = TableSpec(
    "sweep_files",
    "the sweep files of a run, a row each, and whether their rows were used (R-S1)",
    (
        Column("file", TEXT, "", "file name"),
        Column("uri", TEXT, "", "where it was"),
        Column(
            "state",
            TEXT,
            "",
            "read, partly_read (--test-limit), outside_footprint (not opened) or set_aside (truncated, corrupt, other release)",
        ),
        Column("rows", I64, "", "rows by its header; null where it was not opened"),
        Column(
            "offset",
            I64,
            "byte",
            "where a file that was set aside went wrong, from its start; null where that is not known",
        ),
        Column("reason", TEXT, "", "why it was set aside"),
    ),
)
SWEEP_CHECKSUMS = TableSpec(
    "sweep_checksums",
    "sweep files against the release's SHA-256 list (R-S1)",
    (
        Column("file", TEXT, "", "file name"),
        Column("uri", TEXT, "", "where it was; null where it is only in the list"),
        Column("state", TEXT, "", "same, different, not_listed, unreadable, or absent (in the list only)"),
        Column("sha256", TEXT, "", "SHA-256 of the file"),
        Column("listed", TEXT, "", "SHA-256 in the list"),
        Column("reason", TEXT, "", "why it cannot be read"),
    ),
)
POSITIVES = TableSpec(
    "positives",
    "lenses matched to Tractor sources (R-S3)",
    (
        *SOURCE,
        *DERIVED,
        *LENS,
        Column("separation_arcsec", F64, "arcsec", "distance of source and lens"),
        Column("tier", TEXT, "", "A spectroscopic or HST confirmation, B visual grade"),
    ),
    "source_id",
)
UNMATCHED = TableSpec(
    "unmatched",
    "lenses without a positive, and why (R-S3)",
    (
        *LENS,
        Column("reason", TEXT, "", "no_source_in_radius, duplicate_source, outside_footprint"),
        Column("nearest_source_id", I64, "", "nearest Tractor source, null if none within the search radius"),
        Column("separation_arcsec", F64, "arcsec", "distance to it"),
    ),
)
NEGATIVES = TableSpec(
    "negatives",
    "negatives sampled per stratum (R-S4, R-S5)",
    (*SOURCE, *DERIVED, *CONFUSER, Column("pool", TEXT, "", "N1 deployment-representative, N2 hard confuser")),
    "source_id",
    sky=True,
)
QUOTAS = TableSpec(
    "quotas",
    "what each stratum asked for and got (R-S5)",
    (
        Column("stratum", TEXT, "", "type/nobs_z bin"),
        Column("pool", TEXT, "", "N1 or N2"),
        Column("confuser", TEXT, "", "N2 category; null for N1"),
        Column("positives", I64, "", "positives in the stratum"),
        Column("wanted", I64, "", "negatives asked for"),
        Column("available", I64, "", "pool rows that could serve"),
        Column("taken", I64, "", "negatives taken"),
        Column("shortfall", I64, "", "wanted - taken"),
        Column("filled_from", TEXT, "", "stratum whose rows filled a shortfall; null for the stratum's own"),
    ),
)
SAMPLE = TableSpec(
    "sample",
    "positives and negatives with their split (R-S6)",
    (
        Column("label", I8, "", "1 lens, 0 not"),
        *SOURCE,
        *DERIVED,
        *CONFUSER,
        Column("pool", TEXT, "", "N1, N2; null for positives"),
        Column("tier", TEXT, "", "A, B; null for negatives"),
        Column("lens_name", TEXT, "", "name of the lens; null for negatives"),
        Column("split", TEXT, "", "train, val or test: the audit split by HEALPix hash"),
        Column("group_id", I64, "", "smallest source_id of the stamps that share sky"),
        Column("fold", I8, "", "fold 0-4 of the HEALPix pixel for out-of-fold models"),
    ),
    "source_id",
    sky=True,
)
QUALITY = (
    *_per_band("missing_frac_{}", F32, "", "fraction of pixels NaN or exactly zero in {}"),
    Column("saturated_frac", F32, "", "fraction of extreme pixels"),
    Column("edge_score", F32, "", "strength of straight-edge artefacts, 0 none"),
)
REQUEST = (
    Column("cutout_id", I64, "", "key of the stamp; source_id for a plain one"),
    Column("source_id", I64, "", "the galaxy"),
    Column("kind", TEXT, "", "plain, control or injection"),
    Column("request_hash", TEXT, "", "hash of id, position, layer, bands, size, pixel scale and route"),
    Column("route", TEXT, "", "service, bricks or tiles; import for a user's own stamps"),
    Column("layer", TEXT, "", "survey layer"),
    Column("bands", TEXT, "", "bands in stored order"),
)
LEDGER = TableSpec(
    "ledger",
    "the outcome of every request for a stamp (R-C2)",
    (
        *REQUEST,
        Column("outcome", TEXT, "", "stored, excluded (quality) or failed"),
        Column("reason", TEXT, "", "why it is not stored"),
        *QUALITY,
        Column("survey", TEXT, "", "SURVEY of the answer"),
        Column("version", TEXT, "", "VERSION of the answer"),
        Column("pixel_hash", TEXT, "", "BLAKE2b of the pixels"),
        Column(
            "offset_x",
            F32,
            "pixel",
            "of the object from the centre of the centre pixel, to the right; null if resampled",
        ),
        Column("offset_y", F32, "pixel", "the same, upwards"),
        Column("part", TEXT, "", "file of the stamp, relative to parts/dataset"),
        Column("row", I32, "", "row in that file"),
        Column(
            "attempts",
            I32,
            "",
            "requests made; of a brick, the stamp's share in whole numbers; 0 if an earlier batch made them",
        ),
        Column("seconds", F32, "s", "time from the first request to the outcome"),
        Column("status", I32, "", "last HTTP status"),
        Column("bytes", I64, "", "bytes received"),
    ),
    "cutout_id",
)
REJECTED_STAMPS = TableSpec(
    "rejected_stamps",
    "a user's stamps that were not imported, and why (R-C4)",
    (
        Column("name", TEXT, "", "file or name of the stamp"),
        Column("reason", TEXT, "", "unreadable, or the quality limit that was passed"),
        *QUALITY,
    ),
)
COVARIATES = [
    "ra",
    "dec",
    "brickname",
    "type",
    "type_bin",
    "nobs_z_bin",
    "stratum",
    "psf_bin",
    "depth_bin",
    "healpix_128",
    "ebv",
    "mag_g",
    "mag_r",
    "mag_z",
    "gr",
    "rz",
    "shape_r",
    "axis_ratio",
    "ellipticity",
    "sersic",
    "nobs_g",
    "nobs_r",
    "nobs_z",
    "psfsize_g",
    "psfsize_r",
    "psfsize_z",
    "psfdepth_g",
    "psfdepth_r",
    "psfdepth_z",
    "confuser_flags",
    "confuser",
    "pool",
    "tier",
    "lens_name",
    "group_id",
    "fold",
]
_SAMPLE_COLUMNS = {column.name: column for column in SAMPLE.columns}
MANIFEST = TableSpec(
    "manifest",
    "where each stamp of a training set is, its label, weight and split (R-S7)",
    (
        Column("cutout_id", I64, "", "key of the stamp"),
        Column("source_id", I64, "", "the galaxy"),
        Column("kind", TEXT, "", "plain, control or injection"),
        Column("shard", TEXT, "", "file of the stamp, relative to the manifest's folder"),
        Column("row_group", I32, "", "row group in the shard"),
        Column("row", I32, "", "row in the row group"),
        Column("label", I8, "", "1 lens, 0 not"),
        Column("sample_weight", F32, "", "weight in the loss"),
        Column("split", TEXT, "", "train, val or test"),
        *(_SAMPLE_COLUMNS[name] for name in COVARIATES),
    ),
    "cutout_id",
)
INJECTED = TableSpec(
    "injected_manifest",
    "a manifest of stamps with injected arcs and their controls (R-S10): what a manifest has, and what was injected",
    (
        *MANIFEST.columns,
        Column("theta_e", F32, "arcsec", "Einstein radius of the injected lens; null without one"),
        Column(
            "arc_snr",
            F32,
            "",
            "matched-filter signal-to-noise of the arc in r; 0 for an arc without light; null without one",
        ),
        Column("source_mag_r", F32, "mag", "AB magnitude in r of the source without lensing; null without light"),
        Column("magnification", F32, "", "flux of the arc over that of its source"),
        Column("control_source_id", I64, "", "the galaxy on the control's planes; null in an unpaired set"),
        Column("control_cutout_id", I64, "", "key of the stamp on the control's planes"),
        Column("control_match", TEXT, "", "own, identical, or what stamp and control have in common"),
    ),
    "cutout_id",
)
INJECTIONS = TableSpec(
    "injections",
    "what was injected into each host (R-S10); positions relative to the host, x along columns, y along rows",
    (
        Column("cutout_id", I64, "", "key of the stamp with the arc"),
        Column("source_id", I64, "", "the host"),
        Column("split", TEXT, "", "train, val or test"),
        Column("seed", I64, "", "seed of the draws; with source_id it gives all of them again"),
        *(_SAMPLE_COLUMNS[name] for name in ("brickname", "psf_bin", "depth_bin", "type", "nobs_z_bin", "mag_r")),
        Column("theta_e", F64, "arcsec", "Einstein radius, intermediate axis"),
        Column("lens_q", F64, "", "axis ratio of the mass"),
        Column("lens_angle", F64, "rad", "its major axis, from x towards y"),
        Column("shear_1", F64, "", "external shear, along the axes"),
        Column("shear_2", F64, "", "external shear, along the diagonals"),
        Column("source_x", F64, "arcsec", "position of the source behind the lens"),
        Column("source_y", F64, "arcsec", "the same along rows"),
        Column("source_radius", F64, "arcsec", "half-light radius of the source"),
        Column("source_index", F64, "", "Sersic index of the source"),
        Column("source_q", F64, "", "axis ratio of the source"),
        Column("source_angle", F64, "rad", "its major axis, from x towards y"),
        Column("arc_snr", F64, "", "matched-filter signal-to-noise of the arc in r on the stamp"),
        Column("pixel_sigma_r", F64, "nanomaggy", "noise of a pixel in r that the signal-to-noise refers to"),
        Column("magnification", F64, "", "flux of the arc over that of its source"),
        Column("source_mag_r", F64, "mag", "AB magnitude in r of the source without lensing; null without light"),
        *_per_band("source_flux_{}", F64, "nanomaggy", "flux of the source in {} without lensing"),
        *_per_band("lensed_flux_{}", F64, "nanomaggy", "flux of the arc in {} on the stamp"),
    ),
    "cutout_id",
)
SCORES = TableSpec(
    "scores",
    "what a model says of each stamp (R-T6)",
    (
        Column("run_id", TEXT, "", "training run"),
        Column("model", TEXT, "", "architecture"),
        Column("fold", I8, "", "fold left out in training; null for one model"),
        Column("cutout_id", I64, "", "key of the stamp"),
        Column("split", TEXT, "", "train, val or test"),
        Column("label", I8, "", "1 lens, 0 not"),
        Column("logit", F32, "", "logit before the sigmoid"),
        Column("score", F32, "", "sigmoid of the logit"),
        Column("tier", TEXT, "", "A, B; null for negatives"),
        Column("sample_weight", F32, "", "weight in the loss"),
    ),
)
SURVEY_SCORES = TableSpec(
    "survey_scores",
    "the highest logits of a survey and where their stamps are; the histogram beside it counts all",
    (
        Column("run_id", TEXT, "", "training run"),
        Column("model", TEXT, "", "architecture"),
        Column("cutout_id", I64, "", "key of the stamp"),
        Column("shard", TEXT, "", "file of the stamp"),
        Column("row_group", I32, "", "row group in the shard"),
        Column("row", I32, "", "row in the row group"),
        Column("logit", F32, "", "logit before the sigmoid, of the stamp as it lies"),
        Column("pooled_logit", F32, "", "mean logit over the eight flips and turns; null where none was asked for"),
    ),
    "cutout_id",
)
RANKING = TableSpec(
    "ranking",
    "objects of one label by how much they look as if it were the other (R-N2)",
    (
        Column("rank", I64, "", "from 1, the most suspicious"),
        Column("cutout_id", I64, "", "key of the stamp"),
        Column("label", I8, "", "1 lens, 0 not"),
        Column("split", TEXT, "", "train, val or test"),
        Column("fold", I8, "", "fold of the object; null without folds"),
        Column("scores", TEXT, "", "out_of_fold or in_sample"),
        Column("models", I64, "", "networks whose logits are averaged"),
        Column("logit", F64, "", "their mean logit"),
        Column("logit_std", F64, "", "scatter of their logits"),
        Column("probability", F64, "", "sigmoid of the mean logit"),
        Column("margin", F64, "", "normalised margin of the given label, 0..1"),
        Column("quantile", F64, "", "share of the objects of this label that look less suspicious"),
        Column("confident_error", pa.bool_(), "", "counted under the other label by confident learning"),
        Column("flagged", pa.bool_(), "", "probability of the other label above the threshold (R-N1)"),
        *(Column(name, kind, unit, f"{meaning}; null where the manifest has none") for name, kind, unit, meaning in (
            ("ra", F64, "deg", "right ascension (J2000)"), ("dec", F64, "deg", "declination (J2000)"),
            ("type", TEXT, "", "morphological model"), ("stratum", TEXT, "", "type_bin/nobs_z_bin"), ("pool", TEXT, "", "N1 or N2"),
            ("confuser", TEXT, "", "primary confuser category"), ("tier", TEXT, "", "A or B"),
            ("lens_name", TEXT, "", "name of the lens"), ("mag_r", F32, "mag", "AB magnitude in r"),
            ("psf_bin", I8, "", "bin of psfsize_r"), ("depth_bin", I8, "", "bin of the r-band depth"),
        )),
    ),
    "cutout_id",
)  # fmt: skip
CLEANED = TableSpec(
    "cleaned_negatives",
    "negatives that are no longer what they were in the manifest, and why (R-N1)",
    (
        Column("cutout_id", I64, "", "key of the stamp"),
        Column("source_id", I64, "", "the galaxy"),
        Column("split", TEXT, "", "train, val or test"),
        Column("outcome", TEXT, "", "drop or relabel"),
        Column("reason", TEXT, "", "graded lens, maybe, ..., or above the threshold"),
        Column("verdict", TEXT, "", "of the graders; null where nobody looked"),
        Column("probability", F64, "", "of the ranking; null without one"),
        Column("stratum", TEXT, "", "type_bin/nobs_z_bin; null outside the strata"),
        Column("confuser", TEXT, "", "primary confuser category; null for none"),
    ),
    "cutout_id",
)
CANDIDATES = TableSpec(
    "candidates",
    "the highest scores of a survey, with place, probability and what is known of them (R-E9)",
    (
        Column("rank", I64, "", "from 1, the highest"),
        Column("cutout_id", I64, "", "key of the stamp"),
        Column("ra", F64, "deg", "right ascension (J2000)"),
        Column("dec", F64, "deg", "declination (J2000)"),
        Column("logit", F32, "", "what it is ranked by: the pooled logit where there is one"),
        Column(
            "probability", F64, "", "recalibrated, of the stamp as it lies, for the validation split's share of lenses"
        ),
        Column("survey_probability", F64, "", "the same for the survey's share of lenses"),
        Column("group", TEXT, "", "group of the conformal selection"),
        Column("p_value", F64, "", "conformal: share of validation negatives of the group that score as high"),
        Column("q_value", F64, "", "smallest false-discovery rate at which it is selected (Benjamini-Hochberg)"),
        Column("selected", pa.bool_(), "", "at the requested false-discovery rate"),
        Column("known_lens", TEXT, "", "name of a known lens near it; null for none"),
        Column("separation_arcsec", F64, "arcsec", "to that lens; null for none"),
        Column("shard", TEXT, "", "file of the stamp"),
        Column("row_group", I32, "", "row group in the shard"),
        Column("row", I32, "", "row in the row group"),
    ),
    "cutout_id",
)
PROBES = TableSpec(
    "probes",
    "what a model says of each stamp after a change to it (R-E5)",
    (
        Column("cutout_id", I64, "", "key of the stamp"),
        Column("probe", TEXT, "", "the change: none, core_zero, scramble, ... (docs/guide/audit.md)"),
        Column("level", F64, "", "how far it goes: radius in pixels or arcsec, factor, or number of the view"),
        Column("logit", F32, "", "logit before the sigmoid"),
    ),
)
ATTRIBUTIONS = TableSpec(
    "attributions",
    "where in a stamp its logit comes from (R-E6)",
    (
        Column("cutout_id", I64, "", "key of the stamp"),
        Column("method", TEXT, "", "integrated_gradients or grad_cam"),
        Column("core", F32, "", "share of the attribution within 0.8 arcsec; null where the map is empty"),
        Column("arc", F32, "", "share from 0.8 to 3 arcsec"),
        Column("background", F32, "", "share beyond"),
    ),
)
GRADES = TableSpec(
    "grades",
    "what people said of each stamp that was shown to them, controls among them (lensdata vet, docs/guide/vetting.md)",
    (
        Column("cutout_id", I64, "", "key of the stamp"),
        Column(
            "verdict",
            TEXT,
            "",
            "lens, maybe, not or artefact; disagree where they do not agree; ungraded where too few looked",
        ),
        Column("n_graders", I32, "", "people whose grade counts"),
        *(
            Column(f"n_{grade}", I32, "", f"of them, those who said {grade}")
            for grade in ("lens", "maybe", "not", "artefact")
        ),
        Column(
            "kind",
            TEXT,
            "",
            "what a stamp of verdict not shows instead: a confuser category, spiral or other; null unsaid",
        ),
        Column(
            "control", TEXT, "", "lens (known) or random for a control that was mixed in; null for a stamp of the list"
        ),
        Column("graders", TEXT, "", "their names, with commas between; null without any"),
    ),
    "cutout_id",
)
POSITION_SCORES = TableSpec(
    "position_scores",
    "what a model bundle says of a user's positions, a row for each of theirs",
    (
        Column("row", I64, "", "row of the user's table, from 1"),
        Column("id", TEXT, "", "its name there; null without one"),
        Column("ra", F64, "deg", "right ascension (J2000); null where it is no number"),
        Column("dec", F64, "deg", "declination (J2000); null where it is no number"),
        Column("cutout_id", I64, "", "key of the stamp, the same for rows at one place; null without a position"),
        Column("outcome", TEXT, "", "scored, excluded (quality), failed (no stamp) or invalid (no position)"),
        Column("reason", TEXT, "", "why it is not scored, or which earlier row is at the same place"),
        Column("logit", F32, "", "logit of the bundle"),
        Column("probability", F64, "", "calibrated, at the validation split's share of lenses"),
        Column("survey_probability", F64, "", "the same at the prevalence of the configuration"),
        *(
            Column(
                f"passes_fpr_{level}", pa.bool_(), "", f"logit at or above the threshold of false-positive rate {level}"
            )
            for level in ("0.01", "0.001", "0.0001")
        ),
        Column("known_lens", TEXT, "", "nearest catalogued lens within the radius"),
        Column("known_lens_grading", TEXT, "", "confident or probable"),
        Column("separation_arcsec", F64, "arcsec", "distance to it"),
        Column("light_offset_arcsec", F64, "arcsec", "from the centre of the stamp uphill to the light's summit"),
        Column("survey", TEXT, "", "SURVEY and VERSION of the stamp"),
    ),
    "row",
)
TABLES = {
    spec.name: spec
    for spec in (
        POOL, NEAR_LENSES, REJECTED, REMOVED, SWEEP_SPLITS, SWEEP_FILES, SWEEP_CHECKSUMS, POSITIVES, UNMATCHED,
        NEGATIVES, QUOTAS, SAMPLE, LEDGER, REJECTED_STAMPS, MANIFEST, INJECTED, INJECTIONS, SCORES, SURVEY_SCORES, RANKING,
        CLEANED, CANDIDATES, PROBES,
        ATTRIBUTIONS, GRADES, POSITION_SCORES,
    )
}  # fmt: skip


def validate(table: pa.Table, spec: TableSpec, source: str = "table") -> pa.Table:
    """Put the columns in declared order and type.

    Raises
    ------
    InputError
        A column is missing, cannot be cast, or the key repeats or is null.
    """
    for column in spec.columns:
        if column.name not in table.column_names:
            raise InputError(
                f"{source}: column {column.name!r} of table {spec.name} is missing; found {table.column_names}."
            )
    try:
        table = table.select(spec.names).cast(spec.schema)
    except pa.ArrowInvalid as error:
        raise InputError(f"{source}: a column does not have the type of table {spec.name}: {error}.") from error
    if spec.key and table.num_rows:
        key = table[spec.key]
        if key.null_count:
            raise InputError(f"{source}: key {spec.key!r} of table {spec.name} is null in {key.null_count} rows.")
        repeated = table.num_rows - pc.count_distinct(key).as_py()
        if repeated:
            raise InputError(f"{source}: key {spec.key!r} of table {spec.name} repeats in {repeated} rows.")
    return table


def content_hash(batches: Iterable[pa.Table | pa.RecordBatch]) -> tuple[int, str]:
    """Rows and an order-independent hash of them.

    Every value is hashed with its column name, a row is the sum of its values' hashes mixed once more, the table
    is the sum of its rows modulo 2^64: the order of rows, files and batches does not matter, duplicates do.

    Returns
    -------
    tuple
        (number of rows, 16 hex digits)
    """
    rows, total = 0, np.uint64(0)
    with np.errstate(over="ignore"):
        for batch in batches:
            if batch.num_rows == 0:
                continue
            row_hash = np.zeros(batch.num_rows, np.uint64)
            for name in batch.schema.names:
                seed = np.frombuffer(hashlib.blake2b(name.encode(), digest_size=8).digest(), np.uint64)[0]
                row_hash += splitmix64(_value_bits(batch[name]) ^ seed)
            total += splitmix64(row_hash).sum(dtype=np.uint64)
            rows += batch.num_rows
    return rows, f"{int(total):016x}"


def _value_bits(values: pa.ChunkedArray | pa.Array) -> UInt64Array:
    """64 bits per value that are equal for equal values; null has bits of its own."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    null = np.asarray(pc.is_null(values))
    kind = values.type
    if pa.types.is_floating(kind):
        wide = np.asarray(pc.fill_null(values, 0.0), dtype=np.float64) + 0.0  # -0.0 becomes 0.0
        bits = wide.view(np.uint64).copy()
        bits[np.isnan(wide)] = 0x7FF8000000000000
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        bits = (
            np.asarray(pc.fill_null(values, False if pa.types.is_boolean(kind) else 0))
            .astype(np.int64)
            .view(np.uint64)
            .copy()
        )
    elif (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    ):
        encoded = values.dictionary_encode()
        words = [item.as_py() for item in encoded.dictionary]
        digests = [hashlib.blake2b(w.encode() if isinstance(w, str) else w, digest_size=8).digest() for w in words]
        table = np.frombuffer(b"".join(digests), np.uint64) if digests else np.zeros(1, np.uint64)
        bits = table[np.asarray(pc.fill_null(encoded.indices, 0), dtype=np.int64)].copy()
    else:
        raise TypeError(f"content_hash: no rule for Arrow type {kind}")
    bits[null] = 0x6E756C6C
    return bits


ROW_GROUP_ROWS = 131_072


@dataclass(frozen=True)
class FileFacts:
    """What ``_table.json`` says of a file, and its share of the table's content hash."""

    name: str
    sha256: str
    rows: int
    content: int


def write_part(
    uri: str, spec: TableSpec, batches: Iterable[pa.RecordBatch], identity: list[str] | None = None
) -> FileFacts:
    """Write one Parquet file of a table; it is in its place when it is whole, or not at all.

    Units and meanings of the columns travel in the metadata of the file's Arrow schema; columns that are not the table's
    are left out.
    """
    schema = spec.schema.with_metadata({"lensdata.table": spec.name, "lensdata.meaning": spec.meaning})
    total, content = 0, 0
    with storage.new_file(uri) as path:
        with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
            for table in _row_groups(batches, spec.names):
                group = table.cast(schema)
                rows, share = content_hash([group if identity is None else group.select(identity)])
                total, content = total + rows, content + int(share, 16)
                writer.write_table(group, row_group_size=ROW_GROUP_ROWS)
        digest = storage.sha256(str(path))
    return FileFacts(uri, digest, total, content % (1 << 64))


def _row_groups(batches: Iterable[pa.RecordBatch], names: list[str]) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch.select(names))
        if sum(piece.num_rows for piece in waiting) >= ROW_GROUP_ROWS:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def add_to_content(folder: str, *others: str) -> str:
    """Let the identity of a finished table also cover what its rows refer to (the pixels of a manifest); returns it."""
    described = storage.join(folder, "_table.json")
    entry = storage.read_json(described)
    entry["content"] = text_hash("".join([entry["content"], *others]))
    storage.write_json(described, entry)
    return str(entry["content"])


def dataset_files(folder: str) -> list[str]:
    """The Parquet files of a table folder, sorted."""
    return [
        name
        for name in storage.list_files(storage.join(folder, "dataset"), ".parquet")
        if not name.rsplit("/", 1)[-1].startswith(("_", "."))
    ]


def iterate(folder: str, columns: list[str] | None = None, *, check: bool = True) -> Iterator[pa.Table]:
    """The row groups of a table, one after another, in file order.

    Raises
    ------
    InputError
        Not finished (where ``check``), a file that is no Parquet, or a column that is not there.
    """
    if check:
        require_success(folder)
    for name in dataset_files(folder):
        yield from _groups_of(name, columns)


def _groups_of(name: str, columns: list[str] | None) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(storage.open_arrow(name)) as file:
            absent = [column for column in columns or [] if column not in file.schema_arrow.names]
            if absent:
                raise InputError(
                    f"{name}: column {absent[0]!r} is missing; found {', '.join(file.schema_arrow.names)}."
                )
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{name} is not a readable Parquet file ({error}); run the step that wrote it again."
        ) from error


def read_table(
    folder: str, spec: TableSpec | None = None, columns: list[str] | None = None, *, check: bool = True
) -> pa.Table:
    """Read a whole table.

    Raises
    ------
    InputError
        The folder is no table, was not finished (no ``_SUCCESS``), or lacks a column.
    """
    if check and spec is not None:
        require_kind(folder, spec)
    if check:
        require_success(folder)
    with ThreadPoolExecutor(
        READERS
    ) as threads:  # a ledger has thousands of small files, each a few round trips to a store
        read = threads.map(lambda name: list(_groups_of(name, columns)), dataset_files(folder))
        pieces = [piece for groups in read for piece in groups]
    if not pieces:
        described = storage.join(folder, "_table.json")
        kind = storage.read_json(described).get("table") if storage.exists(described) else None
        if spec is None or kind != spec.name:  # a table of this kind without a file is one without rows
            names = storage.list_files(folder, "_table.json")
            inside = {name.removeprefix(folder).strip("/").split("/")[0] for name in names} - {"_table.json"}
            hint = f"; it holds the tables {', '.join(sorted(inside))}: name one of them" if inside else ""
            raise InputError(f"Input {folder} has no Parquet file under dataset/{hint}.")
        return spec.schema.empty_table() if columns is None else spec.schema.empty_table().select(columns)
    table = pa.concat_tables(pieces, promote_options="permissive")
    return validate(table, spec, folder) if spec is not None and columns is None else table


def require_success(folder: str) -> None:
    """Refuse a folder that is not there, was not finished, or holds a table of another schema version."""
    if storage.exists(storage.join(folder, "_SUCCESS")):
        return _require_version(folder)
    if not storage.exists(folder):
        raise InputError(f"Input {folder} does not exist; run the step that writes it first.")
    raise InputError(f"Input {folder} has no _SUCCESS mark, so the step that writes it did not finish; run it again.")


def _require_version(folder: str) -> None:
    """Columns may have another meaning in another version. Shards and other folders describe themselves."""
    described = storage.join(folder, "_table.json")
    found = storage.read_json(described) if storage.exists(described) else {}
    if found.get("table") is not None and found.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"Input {folder} is a table of {found['table']} in schema version {found.get('schema_version')}, this lensdata reads "
            f"{SCHEMA_VERSION}: run the step that wrote it again, or read it with the lensdata that wrote it."
        )


def require_kind(folder: str, spec: TableSpec) -> None:
    """Refuse a folder that is missing, was not finished, or is another table than ``spec``."""
    require_success(folder)
    described = storage.join(folder, "_table.json")
    found = storage.read_json(described).get("table") if storage.exists(described) else None
    if found is not None and found != spec.name:
        raise InputError(f"Input {folder} is a table of {found}, expected {spec.name}.")


def write_table(
    table: pa.Table,
    folder: str,
    spec: TableSpec,
    *,
    report: dict[str, Any] | None = None,
    identity: list[str] | None = None,
) -> tuple[int, str]:
    """Write a small table as one file and finish its folder; returns rows and content hash.

    ``identity``: the columns that make the content; all by default.
    """
    table = validate(table, spec, folder)
    part = write_part(storage.join(folder, "dataset", "part-00000.parquet"), spec, table.to_batches(), identity)
    return mark_finished(folder, spec, [part], report)


def finish_table(
    folder: str,
    spec: TableSpec | None = None,
    *,
    report: dict[str, Any] | None = None,
    identity: list[str] | None = None,
) -> tuple[int, str]:
    """Describe the Parquet files of a folder in ``_table.json`` and mark it ``_SUCCESS``.

    Parameters
    ----------
    identity
        Columns that make the content; all columns by default. The ledger leaves out fetch times.
    """
    files = [describe_file(identity, name) for name in dataset_files(folder)]
    return mark_finished(folder, spec, files, report)


def describe_file(identity: list[str] | None, name: str) -> FileFacts:
    """What a finished Parquet file is, by reading it; ``identity``: the columns that make the content, all by default."""
    with pq.ParquetFile(storage.open_arrow(name)) as file:
        rows, content = content_hash(file.iter_batches(columns=identity))
    return FileFacts(name, storage.sha256(name), rows, int(content, 16))


def mark_finished(
    folder: str, spec: TableSpec | None, files: list[FileFacts], report: dict[str, Any] | None = None
) -> tuple[int, str]:
    """Write ``_table.json``, ``_report.json`` and, last, ``_SUCCESS``; returns rows and content hash."""
    rows = sum(file.rows for file in files)
    content = f"{sum(file.content for file in files) % (1 << 64):016x}"
    prefix = storage.join(folder) + "/"
    entry = {
        "schema_version": SCHEMA_VERSION,
        "table": spec.name if spec else None,
        "rows": rows,
        "content": content,
        "files": {file.name.removeprefix(prefix): file.sha256 for file in sorted(files, key=lambda file: file.name)},
    }
    storage.write_json(storage.join(folder, "_table.json"), entry)
    storage.write_json(storage.join(folder, "_report.json"), report or {"rows": rows})
    storage.write_bytes(storage.join(folder, "_SUCCESS"), b"")
    return rows, content
