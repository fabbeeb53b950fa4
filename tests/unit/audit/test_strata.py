"""Key figures of parts of the sample against direct counting."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from lensdata.audit import intervals, roc, strata
from lensdata.config.evaluation import EvaluateConfig
from tests.scored_rows import scored_rows

CONFIG = EvaluateConfig(resamples=100)
ROWS = scored_rows()
OTHERS = pd.concat([scored_rows(60, 600, "val", 1), scored_rows(100, 900, "train", 2)])


@pytest.fixture(scope="module")
def found():
    return strata.stratified(ROWS, OTHERS, CONFIG)


def named(found, kind):
    return {entry["name"]: entry for entry in found["groups"][kind]}


def test_every_division_is_there(found):
    kinds = {"type", "tier", "split", "confuser", "psf", "depth", "nobs_z_bin", "theta_e", "arc_snr"}
    assert set(found["groups"]) == kinds
    assert [entry["name"] for entry in found["groups"]["theta_e"]] == [
        "0.5-0.75", "0.75-1", "1-1.5", "1.5-2", "2-2.5", "2.5-3",
    ]  # fmt: skip
    assert found["edges"]["theta_e"]["edges"] == [0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0]


def test_figures_of_a_type_are_counted_at_the_overall_threshold(found):
    threshold = found["logit_threshold"]
    negatives = ROWS.loc[ROWS["label"] == 0, "logit"]
    assert (negatives >= threshold).mean() <= 0.01
    part = ROWS[ROWS["type"] == "SER"]
    ours = named(found, "type")["SER"]
    lenses, others = part.loc[part["label"] == 1, "logit"], part.loc[part["label"] == 0, "logit"]
    assert ours["auc"]["value"] == pytest.approx(roc_auc_score(part["label"], part["logit"]))
    assert ours["auc"]["low"] <= ours["auc"]["value"] <= ours["auc"]["high"]
    assert ours["tpr_at_overall_fpr_0.01"]["value"] == pytest.approx((lenses >= threshold).mean())
    assert ours["fpr_at_score_0.5"]["value"] == pytest.approx((others > 0).mean())
    assert ours["fpr_at_overall_fpr_0.01"]["hits"] == (others >= threshold).sum()
    expected = intervals.binomial(int((others > 0).sum()), len(others))
    assert ours["fpr_at_score_0.5"]["high"] == expected.high


def test_lenses_of_a_radius_are_judged_against_all_others(found):
    for (low, high), entry in zip(pairwise(strata.THETA_E_EDGES), found["groups"]["theta_e"], strict=True):
        inside = ROWS["theta_e"].between(low, high, inclusive="left") & (ROWS["label"] == 1)
        used = ROWS[inside | (ROWS["label"] == 0)]
        assert (entry["n_positive"], entry["n_negative"]) == (inside.sum(), 1200)
        assert "fpr_at_score_0.5" not in entry
        if inside.sum() >= CONFIG.smallest_stratum:
            assert entry["auc"]["value"] == pytest.approx(roc_auc_score(used["label"], used["logit"]))


def test_confusers_are_judged_against_all_lenses_and_cover_every_negative(found):
    kinds = named(found, "confuser")
    assert set(kinds) == {"ring", "merger", "no category"}
    assert sum(entry["n_negative"] for entry in kinds.values()) == 1200
    assert {entry["n_positive"] for entry in kinds.values()} == {80}
    assert all("tpr_at_overall_fpr_0.01" not in entry for entry in kinds.values())


def test_splits_are_compared_at_the_judged_splits_threshold(found):
    kinds = named(found, "split")
    assert {name: entry["n_positive"] for name, entry in kinds.items()} == {"test": 80, "val": 60, "train": 100}
    val = OTHERS[(OTHERS["split"] == "val") & (OTHERS["label"] == 1)]
    expected = (val["logit"] >= found["logit_threshold"]).mean()
    assert kinds["val"]["tpr_at_overall_fpr_0.01"]["value"] == pytest.approx(expected)


def test_a_stratum_too_small_says_its_n_and_no_number():
    rows = ROWS.assign(type=np.where(np.arange(len(ROWS)) < 3, "REX", "SER"))
    small = named(strata.stratified(rows, None, CONFIG), "type")["REX"]
    assert small["auc"] == {"too_few": True, "n_positive": 3, "n_negative": 0}
    assert small["tpr_at_overall_fpr_0.01"]["too_few"] is True
    assert "value" not in small["tpr_at_overall_fpr_0.01"]


def test_bins_have_the_names_of_the_catalogues_edges(found):
    assert set(named(found, "psf")) <= {"< 1", "1-1.2", "1.2-1.4", "1.4-1.6", ">= 1.6"}
    inside = ROWS["depth_bin"] == 2
    assert named(found, "depth")["23.5-24"]["n_negative"] == (inside & (ROWS["label"] == 0)).sum()
    assert sum(entry["n_negative"] for entry in found["groups"]["depth"]) < 1200  # unknown depth is in no bin


def test_the_spread_over_bricks_is_that_of_those_with_enough():
    bricks = np.where(np.arange(len(ROWS)) % 41 == 0, "tiny", ROWS["brickname"])
    found = strata.brick_spread(ROWS.assign(brickname=bricks), 10)
    areas = [roc_auc_score(p["label"], p["logit"]) for name, p in ROWS.assign(b=bricks).groupby("b") if name != "tiny"]
    assert (found["bricks"], found["judged"]) == (3, 2)
    assert found["std"] == pytest.approx(np.std(areas, ddof=1))
    assert (found["lowest"], found["highest"]) == (min(areas), max(areas))
    assert strata.brick_spread(ROWS, 10_000) == {"too_few": True, "bricks": 2, "judged": 0}


def test_a_manifest_without_covariates_has_no_strata_but_its_split():
    plain = ROWS[["cutout_id", "label", "split", "logit", "score"]].assign(tier=None, theta_e=np.nan)
    found = strata.stratified(plain, None, CONFIG)
    assert set(found["groups"]) == {"split"}
    assert found["brick"]["too_few"] is True


def test_the_threshold_is_that_of_the_headline(found):
    counts = roc.compress(ROWS["label"], ROWS["logit"])
    assert found["logit_threshold"] == roc.threshold_at_fpr(counts, 0.01)
