"""The sections of metrics.json: against scikit-learn, complete, and valid JSON whatever the sample."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import accuracy_score, confusion_matrix, roc_auc_score

from lensdata.audit import calibration_sections, metrics
from lensdata.config.evaluation import EvaluateConfig
from ray_train.evaluate import measure
from tests.scored_rows import scored_rows

CONFIG = EvaluateConfig(resamples=200, fpr_levels=(1e-1, 1e-2), top_k=(20, 100))
ROWS = scored_rows()
OTHERS = pd.concat([scored_rows(60, 600, "val", 1), scored_rows(100, 900, "train", 2)])


@pytest.fixture(scope="module", autouse=True)
def _few_draws():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration_sections, "CHANCE_DRAWS", 20)
        yield


@pytest.fixture(scope="module")
def found():
    return measure(ROWS, None, CONFIG, OTHERS)


def test_every_headline_metric_has_value_interval_and_n(found):
    names = {
        "auc", "average_precision", "partial_auc_0.01", "tpr_at_fpr_0.1", "tpr_at_fpr_0.01", "tpr0", "tpr10",
        "precision_at_recall_0.9", "precision_at_recall_0.95", "recall_at_precision_0.95", "top_20", "top_100", "accuracy",
    }  # fmt: skip
    assert {name for name, entry in found.items() if isinstance(entry, dict) and "title" in entry} == names
    for name in names:
        entry = found[name]
        assert entry["low"] <= entry["value"] <= entry["high"], name
        assert (entry["n_positive"], entry["n_negative"]) == (80, 1200)


def test_the_numbers_are_those_of_scikit_learn(found):
    label, logit = ROWS["label"], ROWS["logit"]
    assert found["auc"]["value"] == pytest.approx(roc_auc_score(label, logit))
    assert found["partial_auc_0.01"]["value"] == pytest.approx(roc_auc_score(label, logit, max_fpr=0.01))
    half = found["at_score_0.5"]
    ((true_negative, false_positive), (false_negative, true_positive)) = confusion_matrix(label, logit > 0)
    names = ("true_negative", "false_positive", "false_negative", "true_positive")
    assert [half[name] for name in names] == [true_negative, false_positive, false_negative, true_positive]
    assert half["accuracy"] == found["accuracy"]["value"] == pytest.approx(accuracy_score(label, logit > 0))
    top = ROWS.nlargest(100, "logit")
    assert found["top_100"]["value"] == pytest.approx(top["label"].mean())
    assert found["top_100"]["lenses_found"] == pytest.approx(top["label"].sum())


def test_the_wider_of_two_intervals_is_given_and_named(found):
    for name, entry in found.items():
        if isinstance(entry, dict) and "by_sky" in entry:
            widths = {key: entry[key][1] - entry[key][0] for key in ("by_object", "by_sky")}
            assert entry["high"] - entry["low"] == pytest.approx(max(widths.values())), name
            named = "by_sky" if "sky" in entry["interval"] else "by_object"
            assert [entry["low"], entry["high"]] == entry[named]
    assert found["auc"]["delong"][0] < found["auc"]["value"] < found["auc"]["delong_logit"][1]


def test_tpr0_and_tpr10_say_what_is_behind_them(found):
    negatives = np.sort(ROWS.loc[ROWS["label"] == 0, "logit"])[::-1]
    lenses = ROWS.loc[ROWS["label"] == 1, "logit"]
    assert found["tpr0"]["value"] == pytest.approx((lenses > negatives[0]).mean())
    assert found["tpr10"]["value"] == pytest.approx((lenses > negatives[9]).mean())
    assert found["tpr10"]["false_positives_behind"] <= found["tpr10"]["false_positives_at_most"] == 9


def test_purity_is_the_share_to_expect_at_the_surveys_prevalence(found):
    entry = found["purity"]["thresholds"][0]
    rate_1, rate_0 = entry["true_positives"] / 80, entry["false_positives"] / 1200
    assert entry["value"] == pytest.approx(1e-4 * rate_1 / (1e-4 * rate_1 + 0.9999 * rate_0))
    assert entry["low"] < entry["value"] < entry["high"]


def test_purity_without_false_positives_is_bounded_from_below_only():
    found = metrics.purity_interval((50, 100), (0, 1000), 1e-4, 0)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low < 0.1  # 0 of 1,000 may be 2 of 1,000
    assert metrics.purity_interval((80, 100), (10, 100_000), 1e-4, 0).value == pytest.approx(0.44, abs=0.005)
    assert metrics.purity_interval((80, 100), (100, 100_000), 1e-4, 0).value == pytest.approx(0.074, abs=0.0005)


def test_calibration_keeps_its_names_and_adds_skill_and_chance(found):
    section = found["calibration"]
    assert {"ece", "brier", "bins", "mce", "ece_equal_mass", "smooth_ece", "smooth_ece_logit", "corp", "tail"} <= set(
        section
    )
    corp = section["corp"]
    assert corp["mcb"] - corp["dsc"] + corp["unc"] == pytest.approx(section["brier"])
    assert section["by_chance"]["ece"]["mean"] < section["by_chance"]["ece"]["high"]
    assert section["bins"][0].keys() == {"mean_score", "observed", "low", "high", "members"}
    assert sum(entry["members"] for entry in section["bins"]) == len(ROWS)
    assert [entry["top_fraction"] for entry in section["tail"]] == [1e-2, 3e-3, 1e-3, 3e-4, 1e-4]
    assert section["tail"][-1] == {"top_fraction": 1e-4, "reason": "less than one object"}


def test_calibrated_scores_are_within_chance():
    rows = scored_rows(seed=5)
    rng = np.random.default_rng(0)
    rows["label"] = (rng.random(len(rows)) < expit(rows["logit"].astype(float))).astype(int)
    section = calibration_sections.calibrated(rows, CONFIG)
    for name in ("ece", "ece_equal_mass", "smooth_ece", "smooth_ece_logit"):
        assert section[name] < 1.5 * section["by_chance"][name]["high"]


def test_recalibration_is_fitted_on_validation_and_judged_on_the_judged_split(found):
    section = found["recalibration"]
    assert (section["fitted_on"], section["judged_on"]) == ("validation split", "test split")
    assert (section["n_fit_positive"], section["n_judged_positive"]) == (60, 80)
    assert set(section["methods"]) == {"none", "platt", "temperature", "beta", "isotonic"}
    assert section["methods"]["none"]["ece"] == pytest.approx(found["calibration"]["ece"])


def test_a_judged_validation_split_is_halved_by_patches_of_sky():
    rows = scored_rows(split="val")
    section = calibration_sections.recalibrated(rows, None, CONFIG.model_copy(update={"split": "val"}))
    assert section["measured"]
    assert section["fitted_on"] == "one half of the val split, by patch of sky"
    assert section["n_fit_positive"] + section["n_judged_positive"] == 80
    second, _ = calibration_sections._second_half(rows, CONFIG.seed)
    assert not set(rows["healpix_128"][second]) & set(rows["healpix_128"][~second])


HARD = {
    "perfect": lambda rows: rows.assign(logit=np.where(rows["label"] == 1, 40.0, -40.0)),
    "wrong and sure": lambda rows: rows.assign(logit=np.where(rows["label"] == 1, -40.0, 40.0)),
    "all tied": lambda rows: rows.assign(logit=0.0),
    "all called others": lambda rows: rows.assign(logit=rows["logit"] - 100),
    "few": lambda rows: rows.iloc[76:100],
    "no columns": lambda rows: rows[["cutout_id", "source_id", "label", "split", "logit", "score"]],
}


@pytest.mark.parametrize("case", HARD)
def test_the_file_is_valid_json_whatever_the_sample(case):
    rows = HARD[case](ROWS)
    rows = rows.assign(score=expit(rows["logit"].astype(float)))
    found = measure(rows, None, CONFIG, None)
    json.loads(json.dumps(found, allow_nan=False))
    for entry in found.values():
        if isinstance(entry, dict) and "title" in entry:
            assert None not in (entry["value"], entry["low"], entry["high"])


def test_without_pixels_the_interval_says_why_it_is_over_objects():
    entry = measure(ROWS.drop(columns="healpix_128"), None, CONFIG, None)["auc"]
    assert entry["by_sky"] is None
    assert "HEALPix" in entry["by_sky_reason"]
    assert entry["interval"] == "bootstrap over objects"
