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
        ("background_only", 1.0, "background_only", "FAIL"),
    ],
)
def test_what_a_finder_should_not_look_at_is_told(name: str, lift: float, check: str, verdict: str) -> None:
    found = judged(*finder(**{name: lift}))
    assert found[check]["verdict"] == verdict
    assert {other["verdict"] for key, other in found.items() if key != check} == {"PASS"}


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


def test_few_galaxies_fail_a_clean_score() -> None:
    failed = [
        metadata.verdict(metadata.regression(observed(150, seed), 100, 1))["verdict"] != "PASS" for seed in range(100)
    ]
    assert np.mean(failed) <= 0.1


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
