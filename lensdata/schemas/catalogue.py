"""Tables of the catalogue: from sweep files to the sample (R-S1 to R-S6)."""

from __future__ import annotations

from lensdata.schemas.columns import F32, F64, I8, I16, I32, I64, TEXT, Column, TableSpec, per_band

__all__ = [
    "IDENTITY", "SOURCE", "DERIVED", "CONFUSER", "LENS", "POOL", "NEAR_LENSES", "REJECTED", "REMOVED",
    "SWEEP_SPLITS", "SWEEP_FILES", "SWEEP_CHECKSUMS", "POSITIVES", "UNMATCHED", "NEGATIVES", "QUOTAS", "SAMPLE",
]  # fmt: skip

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
    *per_band("flux_{}", F32, "nanomaggy", "model flux in {}"),
    *per_band("flux_ivar_{}", F32, "1/nanomaggy^2", "inverse variance of the flux in {}"),
    *per_band("mw_transmission_{}", F32, "", "Galactic transmission in {}, linear"),
    *per_band("nobs_{}", I16, "", "exposures at the source in {}"),
    *per_band("psfsize_{}", F32, "arcsec", "weighted mean PSF FWHM in {}"),
    *per_band("psfdepth_{}", F32, "1/nanomaggy^2", "point-source depth in {} as inverse variance"),
    *per_band("galdepth_{}", F32, "1/nanomaggy^2", "depth for a 0.45 arcsec round exponential in {}"),
    Column("shape_r", F32, "arcsec", "half-light radius"),
    Column("shape_e1", F32, "", "ellipticity component 1"),
    Column("shape_e2", F32, "", "ellipticity component 2"),
    Column("sersic", F32, "", "Sersic index (fitted for SER)"),
)
DERIVED = (
    *per_band("mag_{}", F32, "mag", "AB magnitude in {}, 22.5 - 2.5 log10 flux; null where flux <= 0"),
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
