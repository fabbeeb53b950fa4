"""Every check of a sample passes on a sound one and fails on the one flaw it is there for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lensdata.catalogue.checks import (
    Check,
    check_gate,
    check_manifests,
    check_sample,
    check_stamps,
    check_strata,
    verdict,
)
from lensdata.config.catalogue import GateRule, ValidateCatalogueConfig
from lensdata.sky import groups, splits
from tests.samples import random_sample

DEFAULT = ValidateCatalogueConfig()
TOGETHER = ValidateCatalogueConfig(groups="keep_together", group_radius_arcsec=900.0)


def results(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.result for check in checks}


def wrong(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if not check.passed}


def kept_together(sample: pd.DataFrame) -> pd.DataFrame:
    """The same objects in groups that cross pixels, placed by the rule that keeps groups together."""
    group = groups.group_ids(sample["source_id"], sample["ra"], sample["dec"], 900.0)
    pixel = groups.placing_pixels(sample["source_id"], group, sample["healpix_128"], "keep_together")
    return sample.assign(group_id=group, split=splits.assign_splits(pixel))


def test_a_sound_sample_passes_every_check():
    checks = check_sample(random_sample(60, 600), DEFAULT)
    assert verdict(checks) == "PASS"
    assert all(check.expected for check in checks)


def edit(sample: pd.DataFrame, **cells) -> pd.DataFrame:
    for name, value in cells.items():
        sample.loc[0, name] = value
    return sample


@pytest.mark.parametrize(
    ("flaw", "name"),
    [
        (lambda s: edit(s, source_id=s.loc[1, "source_id"]), "every source_id once"),
        (lambda s: edit(s, healpix_128=5), "pixels are those of the positions"),
        (lambda s: edit(s, group_id=s.loc[1, "source_id"]), "group_id is that of the positions"),
        (
            lambda s: edit(s, split="val" if s.loc[0, "split"] != "val" else "test"),
            "splits are the hash of the pixel",
        ),
        (lambda s: s[(s["label"] == 0) | (s["split"] != "test")].reset_index(drop=True), "positives in every split"),
    ],
)
def test_a_flaw_fails_the_check_that_is_there_for_it(flaw, name):
    checks = check_sample(flaw(random_sample(60, 600)), DEFAULT)
    assert name in wrong(checks)
    assert verdict(checks) == "FAIL"


def test_objects_outside_the_footprint_are_a_warning_with_their_numbers():
    checks = check_sample(
        random_sample(60, 600), ValidateCatalogueConfig(footprint={"name": "custom", "dec_min_deg": -6, "dec_max_deg": 32})
    )  # fmt: skip
    assert results(checks)["every object in the footprint"] == "WARN"
    assert verdict(checks) == "WARN"


def test_groups_kept_together_are_judged_by_their_own_rule():
    sample = kept_together(random_sample(60, 600))
    assert (sample["split"] != random_sample(60, 600)["split"]).sum() > 20
    assert verdict(check_sample(sample, TOGETHER)) == "PASS"
    assert {"splits are the hash of the pixel", "no pixel in two splits"} <= wrong(check_sample(sample, DEFAULT))
    shared = next(check for check in check_sample(sample, TOGETHER) if check.name == "pixels shared by splits")
    assert int(shared.found.split()[0]) == (sample.groupby("healpix_128")["split"].nunique() > 1).sum() > 0


def test_one_member_moved_away_from_its_group_fails():
    sample = kept_together(random_sample(60, 600))
    member = np.flatnonzero(sample["group_id"] != sample["source_id"])[0]
    sample.loc[member, "split"] = "val" if sample.loc[member, "split"] != "val" else "test"
    assert {"no group in two splits", "splits are the hash of the pixel of the group's reference object"} <= wrong(
        check_sample(sample, TOGETHER)
    )


def test_a_group_whose_reference_is_missing_fails():
    sample = random_sample(60, 600)
    sample.loc[3, "group_id"] = 7
    assert "splits are the hash of the pixel of the group's reference object" in wrong(check_sample(sample, TOGETHER))


def test_groups_of_one_object_each_do_not_pass_as_groups_of_the_sky():
    """A column that joins nobody keeps every group together; only the positions show that it is wrong."""
    sample = random_sample(60, 600)
    assert wrong(check_sample(sample, TOGETHER)) == {"group_id is that of the positions"}
    wide = ValidateCatalogueConfig(group_radius_arcsec=900.0)
    assert results(check_sample(sample, wide))["group_id is that of the positions"] == "FAIL"


def test_groups_in_two_splits_are_a_warning_where_they_are_reported():
    sample = random_sample(60, 600)
    sample["group_id"] = groups.group_ids(sample["source_id"], sample["ra"], sample["dec"], 900.0)
    checks = check_sample(sample, ValidateCatalogueConfig(group_radius_arcsec=900.0))
    found = next(check for check in checks if check.name == "no group in two splits")
    assert found.result == verdict(checks) == "WARN"
    assert int(found.found.split()[0]) == (sample.groupby("group_id")["split"].nunique() > 1).sum() > 0


def test_a_shortfall_warns_or_fails_as_the_key_says():
    sample = random_sample(60, 600)
    taken = sample[sample["label"] == 0].groupby(["stratum", "pool"]).size().rename("taken").reset_index()
    quotas = taken.assign(confuser=None, filled_from=None, wanted=taken["taken"] + 1, shortfall=1)
    strict = ValidateCatalogueConfig(allow_shortfall=False)
    assert [verdict(check_strata(sample, quotas, config)) for config in (DEFAULT, strict)] == ["WARN", "FAIL"]
    quotas.loc[0, "taken"] += 1
    assert "negatives per stratum as drawn" in wrong(check_strata(sample, quotas, DEFAULT))


def test_rows_that_fill_a_neighbours_shortfall_are_counted_where_they_lie():
    sample = random_sample(60, 600)
    taken = sample[sample["label"] == 0].groupby(["stratum", "pool"]).size().rename("taken").reset_index()
    quotas = taken.assign(confuser=None, filled_from=None, wanted=taken["taken"], shortfall=0)
    strict = ValidateCatalogueConfig(allow_shortfall=False)
    assert verdict(check_strata(sample, quotas, strict)) == "PASS"
    # the first stratum's last row was drawn for another one, which has none of its own
    quotas.loc[0, ["taken", "wanted"]] -= 1
    pool, source = quotas.loc[0, "pool"], quotas.loc[0, "stratum"]
    line = {"pool": pool, "confuser": None, "stratum": "SER/none"}
    own = line | {"filled_from": None, "taken": 0, "wanted": 1, "shortfall": 1}
    fill = line | {"filled_from": source, "taken": 1, "wanted": 1, "shortfall": 0}
    filled = pd.concat([quotas, pd.DataFrame([own, fill])], ignore_index=True)
    assert verdict(check_strata(sample, filled, strict)) == "PASS"
    assert verdict(check_strata(sample, filled[filled["filled_from"].isna()], strict)) == "FAIL"


def test_an_excluded_brick_in_a_manifest_fails_the_check():
    sample = random_sample(60, 600)
    manifest = sample.assign(cutout_id=sample["source_id"], shard="a", row_group=0, row=0)
    merged = manifest.assign(split=manifest["split"].replace("test", "val"))
    manifests = {"audit_70_15_15": manifest, "parity_70_30": merged}
    assert verdict(check_manifests(sample, manifests, DEFAULT)) == "PASS"
    found = check_manifests(sample, manifests, ValidateCatalogueConfig(excluded_bricks=("0000m050",)))
    assert wrong(found) == {"audit_70_15_15: excluded bricks are absent", "parity_70_30: excluded bricks are absent"}


def test_a_manifest_under_a_name_of_its_own_is_judged_by_what_it_holds():
    sample = random_sample(60, 600)
    manifest = sample.assign(cutout_id=sample["source_id"], shard="a", row_group=0, row=0)
    merged = manifest.assign(split=manifest["split"].replace("test", "val"))
    assert verdict(check_manifests(sample, {"tenth": manifest, "small": merged}, DEFAULT)) == "PASS"
    assert verdict(check_manifests(sample, {"audit_70_15_15": merged}, DEFAULT)) == "FAIL"


@pytest.mark.parametrize(
    ("auc", "required", "result"), [(0.59, True, "PASS"), (0.61, False, "WARN"), (0.61, True, "FAIL")]
)
def test_the_gate_warns_and_fails_only_where_it_is_required(auc, required, result):
    gate = {"measured": True, "auc": auc, "low": auc - 0.01, "high": auc + 0.01}
    assert check_gate(gate, GateRule(required=required)).result == result


@pytest.mark.parametrize(("required", "result"), [(False, "WARN"), (True, "FAIL")])
def test_a_gate_that_could_not_be_measured_does_not_pass(required, result):
    found = check_gate({"measured": False, "reason": "no lenses"}, GateRule(required=required))
    assert found.found.endswith("no lenses")
    assert found.result == result


def test_shared_pixels_across_splits_fail_and_shared_noise_warns():
    searched = {"searched": True, "pairs_across_splits": 2}
    assert [check.result for check in check_stamps({"stamps_across_splits": 2}, searched)] == ["FAIL", "WARN"]
    skipped = {"searched": False, "reason": "stamps of 32 pixels have too little sky"}
    assert [check.result for check in check_stamps({"stamps_across_splits": 0}, skipped)] == ["PASS", "WARN"]
