"""Checks of a finished sample: keys, strata, splits, footprint, manifests (R-S8)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lensdata.config.catalogue import GateRule, ValidateCatalogueConfig
from lensdata.sky import groups
from lensdata.sky.healpix import ang2pix
from lensdata.sky.splits import SPLITS, assign_splits

MERGED, AUDIT = "parity_70_30", "audit_70_15_15"  # in the first, val is val and test


@dataclass(frozen=True)
class Check:
    """One check: passed or not, what was found and what was expected.

    Attributes
    ----------
    required
        A failed check fails the step; one that is not required only warns.
    """

    name: str
    passed: bool
    found: str
    expected: str
    required: bool = True

    @property
    def result(self) -> str:
        """PASS, WARN or FAIL."""
        if self.passed:
            return "PASS"
        return "FAIL" if self.required else "WARN"


def none_of(name: str, count: int, what: str, *, required: bool = True) -> Check:
    """A check that passes where nothing was found.

    >>> none_of("every source_id once", 2, "repeated").found
    '2 repeated'
    """
    return Check(name, count == 0, f"{count:,} {what}", f"0 {what}", required)


def verdict(checks: Iterable[Check]) -> str:
    """The worst result of all checks."""
    results = {check.result for check in checks}
    return next((result for result in ("FAIL", "WARN") if result in results), "PASS")


def check_sample(sample: pd.DataFrame, config: ValidateCatalogueConfig) -> list[Check]:
    """Everything that must hold of a sample whatever its size."""
    pixel = ang2pix(sample["ra"], sample["dec"])
    checks = [
        none_of("every source_id once", int(sample["source_id"].duplicated().sum()), "repeated"),
        none_of("pixels are those of the positions", int((pixel != sample["healpix_128"]).sum()), "differ"),
        none_of("group_id is that of the positions", _wrong_groups(sample, config.group_radius_arcsec), "differ"),
        *_check_splits(sample, pixel, config),
    ]
    for label, name in ((1, "positives"), (0, "negatives")):
        present = set(sample.loc[sample["label"] == label, "split"])
        if label == 0 and not present:
            continue  # a lens list alone
        absent = [split for split in SPLITS if split not in present]
        found = f"absent from {', '.join(absent)}" if absent else "all"
        checks.append(Check(f"{name} in every split", not absent, found, ", ".join(SPLITS)))
    low, high = config.footprint.limits
    outside = ((sample["dec"] <= low) & (low > -90)) | (sample["dec"] >= high)
    positives = int((outside & (sample["label"] == 1)).sum())
    limits = f"{low:g} < dec < {high:g}"
    checks.append(
        Check(
            "every object in the footprint",
            not outside.any(),
            f"{positives:,} positives and {int(outside.sum()) - positives:,} negatives outside",
            limits,
            required=False,
        )
    )
    return checks


def _wrong_groups(sample: pd.DataFrame, radius_arcsec: float) -> int:
    expected = groups.group_ids(sample["source_id"], sample["ra"], sample["dec"], radius_arcsec)
    return int((expected != sample["group_id"]).sum())


def _check_splits(sample: pd.DataFrame, pixel: Any, config: ValidateCatalogueConfig) -> list[Check]:
    """By the rule that placed the objects: their own pixel's hash, or that of their group's reference."""
    fractions = (config.seed, config.train_fraction, config.val_fraction)
    per_pixel = sample.groupby("healpix_128")["split"].nunique()
    shared = int((per_pixel > 1).sum())
    spanning = int((sample.groupby("group_id")["split"].nunique() > 1).sum())
    if config.groups == "report":
        wrong = int((assign_splits(pixel, *fractions) != sample["split"]).sum())
        return [
            none_of("splits are the hash of the pixel", wrong, "differ"),
            none_of("no pixel in two splits", shared, "pixels shared"),
            none_of("no group in two splits", spanning, "groups in two splits", required=False),
        ]
    known = (sample["group_id"].isin(sample["source_id"]) & ~sample["source_id"].duplicated()).to_numpy()
    inside = sample[known]
    reference = groups.placing_pixels(inside["source_id"], inside["group_id"], pixel[known], config.groups)
    wrong = int((assign_splits(reference, *fractions) != inside["split"]).sum() + (~known).sum())
    return [
        none_of("splits are the hash of the pixel of the group's reference object", wrong, "differ"),
        none_of("no group in two splits", spanning, "groups in two splits"),
        # expected of this rule: a group at a pixel's edge takes objects along
        Check("pixels shared by splits", True, f"{shared:,} of {len(per_pixel):,} pixels", "reported, not limited"),
    ]


def check_strata(sample: pd.DataFrame, quotas: pd.DataFrame, config: ValidateCatalogueConfig) -> list[Check]:
    """Negatives per stratum and pool are what the quota table says, and no stratum fell short where that matters."""
    totals = quotas[quotas["confuser"].isna()]
    # a row that fills another stratum's shortfall is counted where it lies
    wanted = totals["taken"].groupby([totals["filled_from"].fillna(totals["stratum"]), totals["pool"]]).sum()
    counted = sample[sample["label"] == 0].groupby(["stratum", "pool"]).size()
    both = pd.DataFrame({"wanted": wanted, "counted": counted}).fillna(0).astype(int)
    differing = [
        f"{stratum} {pool}: {row.counted} of {row.wanted}"
        for (stratum, pool), row in both[both["wanted"] != both["counted"]].iterrows()
    ]
    filled = totals[totals["filled_from"].notna()].groupby(["stratum", "pool"])["taken"].sum()
    own = totals[totals["filled_from"].isna()].set_index(["stratum", "pool"])
    missing = own["shortfall"] - filled.reindex(own.index, fill_value=0)
    short = [
        f"{stratum} {pool}: {count} of {own['wanted'][stratum, pool]}"
        for (stratum, pool), count in missing.items()
        if count > 0
    ]
    return [
        Check("negatives per stratum as drawn", not differing, "; ".join(differing) or "all", "as in the quota table"),
        Check(
            "no stratum fell short",
            not short,
            "; ".join(short) or "none",
            "none short",
            required=not config.allow_shortfall,
        ),
    ]


def check_manifests(
    sample: pd.DataFrame, manifests: dict[str, pd.DataFrame], config: ValidateCatalogueConfig
) -> list[Check]:
    """Manifests refer to stamps that exist, of objects of the sample, in the sample's split; excluded bricks are absent."""
    checks = []
    for name, manifest in manifests.items():
        joined = manifest.merge(
            sample[["source_id", "split", "label"]], on="source_id", how="left", suffixes=("", "_sample")
        )
        # a manifest of one's own, a subsample, may be of either
        merged = name == MERGED or (name != AUDIT and "test" not in set(manifest["split"]))
        wanted = joined["split_sample"].replace("test", "val") if merged else joined["split_sample"]
        wrong = int((wanted != joined["split"]).sum() + (joined["label"] != joined["label_sample"]).sum())
        null = int(manifest[["cutout_id", "shard", "row_group", "row"]].isna().any(axis=1).sum())
        bricks = sorted(set(manifest["brickname"]) & set(config.excluded_bricks))
        checks += [
            none_of(f"{name}: split and label of the sample", wrong, "differ"),
            none_of(f"{name}: no null stamp reference", null, "null"),
            Check(f"{name}: excluded bricks are absent", not bricks, ", ".join(bricks) or "none present", "none present"),
        ]  # fmt: skip
    return checks


def check_gate(gate: dict[str, Any], rule: GateRule) -> Check:
    """Observing conditions alone do not tell positives from negatives (`lensdata.audit.conditions`)."""
    name, expected = "observing conditions do not tell the label", f"AUC at most {rule.auc_max:g}"
    if not gate["measured"]:
        return Check(name, False, f"not measured: {gate['reason']}", expected, rule.required)
    found = f"out-of-fold AUC {gate['auc']:.3f} (95% interval {gate['low']:.3f} to {gate['high']:.3f})"
    return Check(name, gate["auc"] <= rule.auc_max, found, expected, rule.required)


def check_stamps(exact: dict[str, Any], near: dict[str, Any]) -> list[Check]:
    """No stamp's pixels are in two splits (`lensdata.cutouts.duplicates`)."""
    across = exact["stamps_across_splits"]
    name, what = "no nearly equal stamps in two splits", "pairs of stamps with the same sky noise"
    if not near["searched"]:
        similar = Check(name, False, f"not searched: {near['reason']}", f"0 {what}", required=False)
    else:
        similar = none_of(name, near["pairs_across_splits"], what, required=False)
    return [none_of("no stamp's pixels in two splits", across, "stamps with pixels of another split"), similar]


def counts(sample: pd.DataFrame) -> dict[str, Any]:
    """Sizes for the report: per split and label, per stratum, per confuser."""
    named = sample.assign(label=np.where(sample["label"] == 1, "positive", "negative"))
    per_stratum = named.assign(stratum=named["stratum"].fillna("outside"))
    return {
        "per_split": {f"{a} {b}": int(n) for (a, b), n in named.groupby(["split", "label"]).size().items()},
        "per_stratum": {f"{a} {b}": int(n) for (a, b), n in per_stratum.groupby(["stratum", "label"]).size().items()},
        "per_confuser": {str(k): int(n) for k, n in named["confuser"].value_counts().items()},
        "per_pool": {str(k): int(n) for k, n in named["pool"].value_counts().items()},
    }
