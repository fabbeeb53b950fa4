"""Tables of what networks say, and of what people say about that (R-T6, R-N1, R-N2, R-E5 to R-E9)."""

from __future__ import annotations

import pyarrow as pa

from lensdata.schemas.columns import F32, F64, I8, I32, I64, TEXT, Column, TableSpec, per_band
from lensdata.schemas.stamps import SAMPLE_COLUMNS

__all__ = [
    "INJECTION_SCORES", "SCORES", "SURVEY_SCORES", "RANKING", "CLEANED", "CANDIDATES", "PROBES", "ATTRIBUTIONS",
    "GRADES", "POSITION_SCORES",
]  # fmt: skip

INJECTION_SCORES = TableSpec(
    "injection_scores",
    "what a network says of each injection of a selection function: of the host, of host and arc, of the arc scrambled (R-E7)",
    (
        Column("injection_id", I64, "", "key of the injection; with the seed it gives all draws again"),
        Column("cell", I32, "", "the cell that it was made for, one file each"),
        Column("run_id", TEXT, "", "training run"),
        Column("source_id", I64, "", "the host"),
        *(SAMPLE_COLUMNS[name] for name in (
            "split", "brickname", "healpix_128", "psf_bin", "depth_bin", "type", "nobs_z_bin", "mag_g", "mag_r", "mag_z",
            "psfsize_r",
        )),
        Column("depth_r", F64, "mag", "5-sigma point-source depth in r at the host"),
        Column("theta_e_node", F64, "arcsec", "node of the Einstein radius that the injection is counted at; null beyond the grid"),
        Column("brightness_node", F64, "", "node of the axis of brightness: S/N, or magnitude in r with lensing"),
        Column("theta_e", F64, "arcsec", "Einstein radius, intermediate axis"),
        Column("lens_q", F64, "", "axis ratio of the mass"),
        Column("lens_angle", F64, "rad", "its major axis, from x towards y"),
        Column("shear_1", F64, "", "external shear, along the axes"),
        Column("shear_2", F64, "", "external shear, along the diagonals"),
        Column("source_x", F64, "arcsec", "position of the source behind the lens, along columns"),
        Column("source_y", F64, "arcsec", "the same along rows"),
        Column("source_radius", F64, "arcsec", "half-light radius of the source"),
        Column("source_index", F64, "", "Sersic index of the source"),
        Column("source_q", F64, "", "axis ratio of the source"),
        Column("source_angle", F64, "rad", "its major axis, from x towards y"),
        Column("z_source", F64, "", "redshift of the source; matters where the Einstein radius follows from the host's mass"),
        Column("arc_snr", F64, "", "matched-filter signal-to-noise of the arc in r on the stamp"),
        Column("arc_mag", F64, "mag", "AB magnitude of the arc in r, with lensing"),
        Column("magnification", F64, "", "flux of the arc over that of its source"),
        Column("source_mag_r", F64, "mag", "AB magnitude in r of the source without lensing"),
        Column("pixel_sigma_r", F64, "nanomaggy", "noise of a pixel in r that the signal-to-noise refers to"),
        *per_band("lensed_flux_{}", F64, "nanomaggy", "flux of the arc in {} on the stamp"),
        Column("logit_host", F32, "", "logit of the host as it is"),
        Column("logit", F32, "", "logit of the host with the arc"),
        Column("logit_scrambled", F32, "", "logit of the host with the arc's rings turned, each by an angle of its own"),
    ),
    "injection_id",
)  # fmt: skip
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
