"""From logits of changed stamps to curves and verdicts; a score that knows how a galaxy was observed (R-E5)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from lensdata.audit import metadata, sensitivity
from lensdata.errors import InputError

ROWS = 600


def labels() -> np.ndarray:
    return (np.arange(ROWS) % 3 == 0).astype(int)


def finder(seed: int = 0, **changes: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Logits of a finder whose lenses stand ``lift`` above the others under each probe (2.5 untouched), with some noise."""
    random = np.random.default_rng(seed)
    ids, label = np.arange(ROWS) + 10**9, labels()
    base = random.normal(size=ROWS)
    lifts = {
        ("none", 0.0): 2.5, ("core_zero", 7.0): 2.5, ("arc_azimuthal", 0.0): 0.5, ("scramble", 0.0): 0.8,
        ("background_only", 8.0): 0.0, ("seeing", 1.4): 2.4, ("depth", 2.0): 2.4,
    }  # fmt: skip
    lifts |= {("d4", float(view)): 2.5 for view in range(1, 8)} | {("shift", float(way)): 2.5 for way in range(4)}
    lifts |= {key: changes[key[0]] for key in lifts if key[0] in changes}
    frames = [
        pd.DataFrame({"cutout_id": ids, "probe": name, "level": level,
                      "logit": base + lift * label + random.normal(0, 0.0 if name == "none" else 0.05, ROWS)})
        for (name, level), lift in lifts.items()
    ]  # fmt: skip
    return pd.concat(frames), pd.DataFrame({"cutout_id": ids[::-1], "label": label[::-1]})


def judged(probes: pd.DataFrame, rows: pd.DataFrame) -> dict[str, dict]:
    table = sensitivity.wide(probes, rows)
    return {check["check"]: check for check in sensitivity.verdicts(table, sensitivity.curves(table, 300, 1))}


def test_a_finder_that_looks_at_arcs_passes_everything() -> None:
    assert {check["verdict"] for check in judged(*finder()).values()} == {"PASS"}


@pytest.mark.parametrize(
    ("name", "lift", "check", "verdict"),
    [
        ("core_zero", 2.1, "core_reliance", "WARN"),
        ("core_zero", 1.2, "core_reliance", "FAIL"),
        ("arc_azimuthal", 2.6, "arc_reliance", "FAIL"),
        ("scramble", 2.6, "coherence", "FAIL"),
        ("arc_azimuthal", 2.4, "arc_reliance", "WARN"),  # a drop of 0.01 of the AUC is sure, and next to nothing
        ("background_only", 1.0, "background_only", "FAIL"),
        ("background_only", -1.0, "background_only", "FAIL"),
    ],
)
def test_what_a_finder_should_not_look_at_is_told(name: str, lift: float, check: str, verdict: str) -> None:
    found = judged(*finder(**{name: lift}))
    assert found[check]["verdict"] == verdict
    assert {other["verdict"] for key, other in found.items() if key != check} == {"PASS"}


def test_the_share_lost_is_of_what_the_finder_could_lose() -> None:
    probes, rows = finder()
    table = sensitivity.wide(probes, rows)
    label = table.index.get_level_values("label").to_numpy()
    before, after = (roc_auc_score(label, table[key]) for key in (("none", 0.0), ("arc_azimuthal", 0.0)))
    check = judged(probes, rows)["arc_reliance"]
    assert check["value"] == pytest.approx((before - after) / (before - 0.5))
    assert check["low"] < check["value"] < check["high"] < 1
    assert check["auc_lost"]["value"] == pytest.approx(before - after)
    blind = judged(*finder(none=0.0, arc_azimuthal=0.0))["arc_reliance"]
    assert (blind["verdict"], blind["value"]) == ("NOT MEASURED", None)
    assert "nothing to lose" in blind["message"]


def test_drifts_are_in_units_of_the_others_whatever_the_mix() -> None:
    probes, rows = finder()
    few = rows[(rows["label"] == 0) | (rows["cutout_id"] % 9 == 1)]
    all_of_them, fewer = judged(probes, rows), judged(probes[probes["cutout_id"].isin(few["cutout_id"])], few)
    for check in ("seeing_drift", "depth_drift"):
        assert fewer[check]["value"] == all_of_them[check]["value"]


def test_a_threshold_that_few_others_cannot_set_is_null_with_its_reason() -> None:
    probes, rows = finder()
    few = rows[(rows["label"] == 1) | (rows["cutout_id"] % 9 == 2)]
    found = sensitivity.curves(sensitivity.wide(probes[probes["cutout_id"].isin(few["cutout_id"])], few), 100, 1)
    for entry in found:
        assert entry["completeness"] is entry["false_positive_rate"] is None
        assert entry["reason"] == "FPR 0.01 allows no false positive among 67 others"
        assert entry["false_positives_allowed"] == 0
    enough = sensitivity.curves(sensitivity.wide(probes, rows), 100, 1)
    assert {entry["false_positives_allowed"] for entry in enough} == {4}
    assert not [entry for entry in enough if "reason" in entry]


def test_pictures_have_no_seeing_or_depth_to_judge() -> None:
    probes, rows = finder()
    found = judged(probes[~probes["probe"].isin(["seeing", "depth"])], rows)
    for check in ("seeing_drift", "depth_drift"):
        assert (found[check]["verdict"], found[check]["message"]) == ("NOT MEASURED", "pictures have no noise of a sky")


def test_titles_give_pixels_in_arcsec_where_their_size_is_known() -> None:
    probes, rows = finder()
    table = sensitivity.wide(probes, rows)
    curves = sensitivity.curves(table, 100, 1)
    known, unknown = (sensitivity.verdicts(table, curves, scale)[0] for scale in (0.262, None))
    assert known["title"] == "AUC lost with the central 7 pixels (1.8 arcsec) filled with 0"
    assert unknown["title"] == "AUC lost with the central 7 pixels filled with 0"
    assert "arcs within that radius are hidden too" in known["message"]


@pytest.mark.parametrize(("probe", "check"), [("d4", "view_spread"), ("shift", "shift")])
def test_a_score_that_turns_with_the_stamp_is_told(probe: str, check: str) -> None:
    probes, rows = finder()
    moved = (probes["probe"] == probe).to_numpy()
    probes.loc[moved, "logit"] += np.random.default_rng(2).normal(0, 2, moved.sum())
    assert judged(probes, rows)[check]["verdict"] == "FAIL"


@pytest.mark.parametrize("probe", ["seeing", "depth"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_score_that_follows_the_observation_is_told_whichever_way(probe: str, sign: int) -> None:
    probes, rows = finder()
    probes.loc[probes["probe"] == probe, "logit"] += sign * 0.6
    assert judged(probes, rows)[f"{probe}_drift"]["verdict"] == "FAIL"


def test_curves_are_scikit_learn_s_and_counts_at_the_untouched_threshold() -> None:
    probes, rows = finder()
    table = sensitivity.wide(probes, rows)
    label = table.index.get_level_values("label").to_numpy()
    plain = table[("none", 0.0)].to_numpy()
    allowed = np.sort(plain[label == 0])[::-1][int(0.01 * (label == 0).sum())]
    for entry in sensitivity.curves(table, 200, 1):
        logit = table[(entry["probe"], entry["level"])].to_numpy()
        assert entry["auc"]["value"] == pytest.approx(roc_auc_score(label, logit))
        if entry["probe"] != "none":
            lost = roc_auc_score(label, plain) - roc_auc_score(label, logit)
            assert entry["auc_lost"]["value"] == pytest.approx(lost, abs=1e-12)
        lowest_found = plain[(label == 1) & (plain > allowed)].min()
        assert entry["completeness"]["value"] == pytest.approx((logit[label == 1] >= lowest_found).mean())
        assert entry["false_positive_rate"]["value"] == pytest.approx((logit[label == 0] >= lowest_found).mean())


def test_stamps_that_do_not_fit_are_refused_and_few_are_not_judged() -> None:
    probes, rows = finder()
    with pytest.raises(InputError, match="200 of 600 probed stamps are not in the manifest"):
        sensitivity.wide(probes, rows[rows["label"] == 0])
    with pytest.raises(InputError, match="1 of 600 probed stamps lack a probe"):
        sensitivity.wide(probes.iloc[:-1], rows)
    few = rows["cutout_id"].head(45)
    found = judged(probes[probes["cutout_id"].isin(few)], rows)
    assert {check["verdict"] for check in found.values()} == {"NOT MEASURED"}


def test_medians_have_intervals_that_hold_the_truth() -> None:
    random = np.random.default_rng(0)
    held = [
        found["low"] <= np.log(2) <= found["high"]
        for found in (sensitivity._median(random.exponential(size=101)) for _ in range(2000))
    ]
    assert 0.94 < np.mean(held) < 0.98  # exact intervals between order statistics hold a little more than they say


def test_attributions_outside_the_arc_are_told() -> None:
    random = np.random.default_rng(0)
    ids, label = np.arange(100), np.arange(100) % 2
    rows = pd.DataFrame({"cutout_id": ids, "label": label})

    def verdict(arc: float, core: float) -> str:
        share = random.dirichlet([core * 50, arc * 50, (1 - arc - core) * 50], 100)
        table = pd.DataFrame(
            {"cutout_id": ids, "method": "integrated_gradients"}
            | dict(zip(("core", "arc", "background"), share.T, strict=True))
        )
        found = sensitivity.attribution(table, rows, (0.01, 0.1, 0.89))
        [check] = sensitivity.attribution_verdicts(found)
        return str(check["verdict"])

    assert verdict(arc=0.5, core=0.1) == "PASS"
    assert verdict(arc=0.05, core=0.02) == "WARN"
    assert verdict(arc=0.3, core=0.5) == "WARN"


# --- metadata ----------------------------------------------------------------------------------------------------------


def observed(count: int = 800, seed: int = 0, deep: float = 0.0) -> pd.DataFrame:
    """Galaxies whose logit follows their magnitude, and the depth of their image by ``deep``."""
    random = np.random.default_rng(seed)
    depth, magnitude = random.normal(size=count), random.normal(20, 1, count)
    return pd.DataFrame({
        "psfdepth_z": depth + 0.3 * (magnitude - 20), "nobs_z": np.round(6 + 3 * depth).clip(1),
        "psfsize_z": random.normal(1.3, 0.1, count), "mag_z": magnitude, "gr": random.normal(size=count),
        "type": random.choice(["DEV", "SER", "REX"], count),
        "logit": -(magnitude - 20) + deep * depth + random.normal(size=count),
    })  # fmt: skip


def test_partial_correlations_are_those_of_the_inverse_matrix() -> None:
    rows = observed(deep=0.4).drop(columns="type")
    found = {entry["column"]: entry["value"] for entry in metadata.regression(rows, 100, 1)["conditions"]}
    for name, value in found.items():
        ranks = np.column_stack([stats.rankdata(rows[column]) for column in ("logit", name, "mag_z", "gr")])
        inverse = np.linalg.inv(np.corrcoef(ranks.T))
        assert value == pytest.approx(-inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1]))


def test_a_score_that_knows_the_depth_fails_and_one_that_knows_the_magnitude_does_not() -> None:
    assert metadata.verdict(metadata.regression(observed(), 100, 1))["verdict"] == "PASS"
    found = metadata.regression(observed(deep=0.5), 100, 1)
    assert metadata.verdict(found)["verdict"] == "FAIL"
    assert found["predicts_deep"]["low"] > 0.5
    assert found["r2_with_conditions"] > found["r2_catalogue"] + 0.05


def test_few_galaxies_do_not_fail_a_clean_score_and_do_not_pass_it_unseen() -> None:
    found = [metadata.verdict(metadata.regression(observed(150, seed), 100, 1)) for seed in range(100)]
    assert np.mean([check["verdict"] == "FAIL" for check in found]) <= 0.1
    unseen = [check for check in found if max(abs(check["low"]), abs(check["high"])) >= metadata.WARNED]
    assert len(unseen) > 50
    assert "PASS" not in {check["verdict"] for check in unseen}
    assert any("too few to say" in check["message"] for check in unseen)


@pytest.mark.parametrize(
    ("low", "value", "high", "p_value", "said"),
    [
        (-0.05, 0.02, 0.09, 1.0, "PASS"), (0.01, 0.05, 0.09, 0.01, "PASS"),  # inside +-0.10, significant or not
        (-0.05, 0.05, 0.15, 0.3, "PASS"), (-0.10, 0.10, 0.30, 0.3, "WARN"), (-0.30, -0.10, 0.10, 0.3, "WARN"),
        (-0.10, 0.30, 0.60, 0.1, "WARN"), (0.02, 0.08, 0.14, 0.01, "WARN"), (-0.25, -0.15, -0.05, 0.01, "WARN"),
        (0.15, 0.25, 0.35, 0.01, "FAIL"),
    ],
)  # fmt: skip
def test_a_correlation_passes_only_where_it_is_known_to_be_small(
    low: float, value: float, high: float, p_value: float, said: str
) -> None:
    found = {
        "measured": True, "n": 500, "interval": "patches of sky",
        "conditions": [
            {"column": "nobs_z", "value": value, "low": low, "high": high, "p_value": p_value},
            {"column": "ebv", "value": 0.0, "low": -0.01, "high": 0.01, "p_value": 1.0},
        ],
    }  # fmt: skip
    check = metadata.verdict(found)
    assert check["verdict"] == said
    assert "over patches of sky" in check["message"]


def by_patch(seed: int, patches: int = 40, conditions: int = 1) -> pd.DataFrame:
    """Galaxies in patches of sky; each patch has its own conditions and, apart from these, its own level of the logit."""
    random = np.random.default_rng(seed)
    patch = np.repeat(np.arange(patches), random.poisson(12, patches) + 1)
    own = random.normal(size=(patches, conditions + 1))
    rows = pd.DataFrame({"healpix_128": patch, "mag_z": random.normal(20, 1, len(patch))})
    for number, name in enumerate(metadata.CONDITIONS[:conditions]):
        rows[name] = own[patch, number] + random.normal(0, 0.1, len(patch))
    return rows.assign(logit=own[patch, conditions] + random.normal(size=len(patch)) - (rows["mag_z"] - 20))


@pytest.mark.slow
@pytest.mark.parametrize("conditions", [1, 6])
def test_what_patches_of_sky_share_by_chance_is_no_finding(conditions: int) -> None:
    held, alarms, over_objects = [], [], []
    for seed in range(200):
        rows = by_patch(seed, conditions=conditions)
        found = metadata.regression(rows, 100, 1)
        assert (found["interval"], found["n_patches"]) == ("patches of sky", 40)
        held += [entry["low"] <= 0 <= entry["high"] for entry in found["conditions"]]
        alarms.append(min(entry["p_value"] for entry in found["conditions"]) < 0.05)
        assert alarms[-1] or metadata.verdict(found)["verdict"] != "FAIL"
        alone = metadata.regression(rows.drop(columns="healpix_128"), 100, 1)
        assert (alone["interval"], alone["n_patches"]) == ("objects", None)
        over_objects.append(min(entry["p_value"] for entry in alone["conditions"]) < 0.05)
    assert 0.92 < np.mean(held) < 0.98
    assert np.mean(alarms) < 0.08
    assert np.mean(over_objects) > 0.3  # what intervals over objects would call a finding


def test_intervals_over_patches_are_those_over_objects_where_objects_are_independent() -> None:
    rows = observed(800, deep=0.2).assign(healpix_128=np.arange(800) // 4)
    one, two = (metadata.regression(each, 100, 1)["conditions"] for each in (rows, rows.drop(columns="healpix_128")))
    for patches, objects in zip(one, two, strict=True):
        assert patches["value"] == objects["value"]
        assert patches["high"] - patches["low"] == pytest.approx(objects["high"] - objects["low"], rel=0.2)


def test_a_handful_of_patches_is_not_resampled() -> None:
    assert (
        metadata.regression(by_patch(0, patches=9).sample(150, replace=True, random_state=1), 100, 1)["interval"]
        == "objects"
    )


def test_intervals_of_partial_correlations_hold_the_truth() -> None:
    held = []
    for seed in range(300):
        found = metadata.regression(observed(200, seed), 100, 1)["conditions"]
        size = next(entry for entry in found if entry["column"] == "psfsize_z")
        held.append(size["low"] <= 0 <= size["high"])
    assert 0.92 < np.mean(held) < 0.98


def test_what_cannot_be_measured_says_why() -> None:
    assert (
        metadata.regression(observed()[["logit", "mag_z"]], 100, 1)["reason"]
        == "the manifest has no observing conditions"
    )
    assert metadata.regression(observed(50), 100, 1)["reason"] == "fewer than 100 negatives"
    assert metadata.verdict(metadata.regression(observed(50), 100, 1))["verdict"] == "NOT MEASURED"
