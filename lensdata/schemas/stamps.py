"""Tables of stamps: what was fetched, where it lies, what was injected (R-C1 to R-C4, R-S7, R-S10)."""

from __future__ import annotations

from lensdata.schemas.catalogue import SAMPLE
from lensdata.schemas.columns import F32, F64, I8, I32, I64, TEXT, Column, TableSpec, per_band

__all__ = [
    "QUALITY", "REQUEST", "LEDGER", "REJECTED_STAMPS", "COVARIATES", "SAMPLE_COLUMNS", "MANIFEST", "INJECTED",
    "INJECTIONS",
]  # fmt: skip

QUALITY = (
    *per_band("missing_frac_{}", F32, "", "fraction of pixels NaN or exactly zero in {}"),
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
SAMPLE_COLUMNS = {column.name: column for column in SAMPLE.columns}
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
        *(SAMPLE_COLUMNS[name] for name in COVARIATES),
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
        *(SAMPLE_COLUMNS[name] for name in ("brickname", "psf_bin", "depth_bin", "type", "nobs_z_bin", "mag_r")),
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
        *per_band("source_flux_{}", F64, "nanomaggy", "flux of the source in {} without lensing"),
        *per_band("lensed_flux_{}", F64, "nanomaggy", "flux of the arc in {} on the stamp"),
    ),
    "cutout_id",
)
