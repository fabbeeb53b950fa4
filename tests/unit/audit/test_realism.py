"""The realism gate: blind where injections are like real lenses, and not where they are not (R-E7)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import ks_2samp

from lensdata.audit import realism
from lensdata.errors import InputError


def asked(
    real: np.ndarray, injected: np.ndarray, groups: tuple[np.ndarray, np.ndarray] | None = None, controls=0, **more
):
    ours, theirs = groups or (np.arange(len(real)), len(real) + np.arange(len(injected)))
    return realism.probe(real, injected, ours, theirs, resamples=300, controls=controls, **more)


def test_where_both_are_of_one_distribution_the_interval_holds_a_half_and_the_gate_passes():
    aucs, held = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        found = asked(rng.normal(size=(120, 12)), rng.normal(size=(180, 12)), seed=seed)
        assert found["verdict"] == "PASS"
        assert found["over"] == "groups"
        aucs.append(found["auc"])
        held.append(found["low"] <= 0.5 <= found["high"])
    assert np.mean(held) >= 0.75
    assert abs(np.mean(aucs) - 0.5) < 0.03


def test_injections_that_are_shifted_fail_and_the_controls_do_not():
    rng = np.random.default_rng(1)
    found = asked(rng.normal(size=(150, 20)), rng.normal(size=(200, 20)) + np.r_[1.8, np.zeros(19)], controls=2)
    assert found["verdict"] == "FAIL"
    assert found["low"] > 0.7
    assert "above the limit of 0.7" in found["message"]
    assert [control["of"] for control in found["controls"]] == ["real", "injected"]
    for control in found["controls"]:
        assert control["least"] <= control["mean"] <= control["largest"] < 0.65


def test_the_auc_is_that_of_the_best_linear_score():
    """Normal features a distance d apart: the best AUC is Phi(d / sqrt 2)."""
    rng = np.random.default_rng(2)
    found = asked(rng.normal(size=(1500, 4)), rng.normal(size=(1500, 4)) + 0.5)
    assert found["auc"] == pytest.approx(0.7602, abs=0.02)  # d = 1: Phi(0.7071)
    assert found["low"] < 0.7602 < found["high"]


def test_the_limit_is_the_callers():
    rng = np.random.default_rng(2)
    real, injected = rng.normal(size=(400, 4)), rng.normal(size=(400, 4)) + 0.5
    assert asked(real, injected, limit=0.85)["verdict"] == "PASS"
    assert asked(real, injected, limit=0.6)["verdict"] == "FAIL"


def test_a_sample_too_small_to_say_neither_passes_nor_fails():
    rng = np.random.default_rng(2)
    found = asked(rng.normal(size=(400, 4)), rng.normal(size=(400, 4)) + 0.5, limit=0.76)
    assert found["low"] < 0.76 < found["high"]
    assert found["verdict"] == "WARN"
    assert "too uncertain for the limit of 0.76" in found["message"]


def test_a_patch_of_sky_that_is_known_again_does_not_inflate_the_auc():
    """Every patch has its own signature and is of one class: known again it would give the class away."""
    rng = np.random.default_rng(3)
    patch = np.repeat(np.arange(60), 8)
    features = 0.3 * rng.normal(size=(480, 30)) + rng.normal(size=(60, 30))[patch]
    real = patch % 2 == 0
    grouped = asked(features[real], features[~real], (patch[real], patch[~real]))
    single = asked(features[real], features[~real])
    assert single["auc"] > 0.8
    assert grouped["auc"] < 0.65
    assert grouped["low"] < 0.5 < grouped["high"]
    assert grouped["n_groups"] == 60


def test_a_host_in_both_classes_and_hosts_that_repeat_do_not_inflate_the_auc():
    rng = np.random.default_rng(4)
    host = np.arange(100)
    signature = rng.normal(size=(100, 25))
    real = signature + 0.1 * rng.normal(size=(100, 25))
    again = np.repeat(host[:60], 4)  # each of 60 hosts carries four injections
    injected = signature[again] + 0.1 * rng.normal(size=(240, 25))
    found = asked(real, injected, (host, again))
    assert found["auc"] < 0.62
    copied = realism.control("injected", injected, again)
    assert copied["largest"] < 0.7


def test_features_that_are_many_are_reduced_to_what_the_rows_carry():
    rng = np.random.default_rng(5)
    latent = rng.normal(size=(160, 5))  # a network's many features are few directions and noise
    mixing = rng.normal(size=(5, 400))
    alike = latent @ mixing + rng.normal(size=(160, 400))
    assert asked(alike[:60], alike[60:])["auc"] < 0.65
    found = asked(alike[:60], alike[60:] + 3.0 * mixing[0])
    assert found["n_components"] == 32
    assert found["auc"] > 0.9


def test_too_few_lenses_are_no_verdict():
    rng = np.random.default_rng(6)
    found = asked(rng.normal(size=(12, 5)), rng.normal(size=(300, 5)))
    assert not found["measured"]
    assert found["verdict"] == "NOT MEASURED"
    assert "12 real lenses" in found["message"]
    one_patch = asked(rng.normal(size=(40, 5)), rng.normal(size=(60, 5)), (np.zeros(40, int), np.ones(60, int)))
    assert one_patch["verdict"] == "NOT MEASURED"


def test_features_that_are_not_comparable_are_refused():
    with pytest.raises(InputError, match=r"found \(30, 4\) and \(30, 5\)"):
        asked(np.zeros((30, 4)), np.zeros((30, 5)))
    with pytest.raises(InputError, match="1 rows of features are not finite"):
        asked(np.zeros((30, 4)), np.where(np.arange(120).reshape(30, 4) == 7, np.nan, 0.0))


def lenses(rng: np.random.Generator, count: int) -> pd.DataFrame:
    return pd.DataFrame({
        "theta_e": rng.uniform(0.5, 3, count), "arc_mag": rng.normal(21, 1, count), "mag_r": rng.normal(19, 0.7, count),
        "gr": rng.normal(1.5, 0.2, count),
    })  # fmt: skip


def test_each_real_lens_gets_its_nearest_injections_once():
    rng = np.random.default_rng(7)
    real, injected = lenses(rng, 40), lenses(rng, 4000)
    scales = {"theta_e": 0.25, "arc_mag": 0.5, "mag_r": 0.5, "gr": 0.2}
    found = realism.match(real, injected, list(scales), scales, caliper=2.0, per_lens=3)
    assert np.bincount(found.real, minlength=40).tolist() == [3] * 40
    assert len(np.unique(found.injected)) == 120
    assert found.columns == tuple(scales)
    assert not found.unmatched
    spread = np.array(list(scales.values()))
    distance = cdist(real / spread, injected / spread) / 2  # root mean square over four columns
    np.testing.assert_allclose(distance[found.real, found.injected], found.distances)
    # among so many, most lenses have their very nearest
    assert np.mean(np.sort(distance, axis=1)[found.real, 0] == distance[found.real, found.injected]) >= 0.3
    assert found.distances.max() < 0.8


def test_matching_takes_what_differs_away():
    rng = np.random.default_rng(8)
    real, injected = lenses(rng, 150), lenses(rng, 6000)
    injected["mag_r"] += 1.0
    before = realism.compare(real, injected, ["mag_r"]).iloc[0]
    found = realism.match(real, injected, ["theta_e", "mag_r"], per_lens=1)
    after = realism.compare(real.iloc[found.real], injected.iloc[found.injected], ["mag_r"]).iloc[0]
    assert before["p_holm"] < 1e-6
    assert before["difference"] == pytest.approx(1.0 / 0.7, abs=0.2)
    assert abs(after["difference"]) < 0.15


def test_real_lenses_without_an_injection_are_counted_with_a_reason():
    real = pd.DataFrame({"theta_e": [1.0, 1.01, np.nan, 9.0], "gr": [1.0, 1.0, 1.0, 1.0], "sigma_v": [1.0] * 4})
    injected = pd.DataFrame({"theta_e": [1.0, 3.0], "gr": [1.0, 1.0]})
    found = realism.match(real, injected, ["theta_e", "gr", "sigma_v"], {"theta_e": 0.1}, caliper=1.0)
    assert found.columns == ("theta_e", "gr")
    assert found.absent == ("sigma_v",)
    assert (found.real.tolist(), found.injected.tolist()) == ([0], [0])
    assert found.unmatched == {
        "a column is missing": 1,
        "none within the caliper": 1,
        "all within the caliper taken": 1,
    }
    with pytest.raises(InputError, match="none of the columns ebv"):
        realism.match(real, injected, ["ebv"])
    nobody = realism.match(real, injected.assign(theta_e=[np.nan, 50.0]), ["theta_e"], caliper=0.1)
    assert len(nobody.real) == 0


def test_comparisons_are_those_of_scipy_and_corrected_over_the_columns():
    rng = np.random.default_rng(9)
    real, injected = lenses(rng, 200), lenses(rng, 300).assign(gr=lambda rows: rows["gr"] + 0.1)
    injected.loc[:9, "arc_mag"] = np.nan
    found = realism.compare(real, injected, [*real.columns, "logit"]).set_index("column")
    assert list(found.index) == list(real.columns)
    for name, row in found.iterrows():
        test = ks_2samp(real[name], injected[name].dropna())
        assert row[["ks", "p"]].tolist() == pytest.approx([test.statistic, test.pvalue])
        assert row["p_holm"] >= row["p"]
    assert found.loc["arc_mag", "n_injected"] == 290
    assert found.loc["gr", "p_holm"] < 0.01 < found.drop("gr")["p_holm"].min()
    assert realism.compare(real, injected, ["logit"]).empty


def test_recovery_of_matched_injections_stands_beside_that_of_real_lenses():
    rng = np.random.default_rng(11)
    (same,) = realism.recovered(rng.normal(size=300), rng.normal(size=600), {1e-2: 0.0})
    assert same["gap"]["low"] < 0 < same["gap"]["high"]
    (harder,) = realism.recovered(rng.normal(1, 1, 300), rng.normal(-1, 1, 600), {1e-2: 0.0})
    assert harder["gap"]["low"] > 0.5
    assert (harder["real"]["n"], harder["injected"]["n"]) == (300, 600)
    (nobody,) = realism.recovered([], [1.0], {1e-2: 0.0})
    assert nobody["real"]["value"] is None
    assert nobody["gap"]["value"] is None
