"""Linear gates: blind where there is nothing to see, and not fooled by stamps of one patch of sky (R-E4)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from lensdata.audit import baseline, features, gates
from lensdata.audit.features import core_pixels, radial_profile
from lensdata.audit.gates import balanced_sample, linear_auc
from lensdata.audit.intervals import Interval
from tests import planted


def stamps(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, 21, 21, 2)).astype(np.float32), np.arange(count) % 2


def test_noise_passes_the_gates() -> None:
    images, labels = stamps(600)
    for seen in (core_pixels, radial_profile):
        assert abs(linear_auc(seen(images), labels, None, seed=1) - 0.5) < 0.08


def test_a_planted_core_is_seen_in_the_core_and_an_annulus_only_in_the_profile() -> None:
    images, labels = stamps(600)
    radius = np.hypot(*(np.indices((21, 21)) - 10))
    with_core, with_ring = images.copy(), images.copy()
    with_core[labels == 1] += np.where(radius < 2, 1.0, 0.0)[:, :, None].astype(np.float32)
    with_ring[labels == 1] += np.where(np.abs(radius - 8) < 1, 0.5, 0.0)[:, :, None].astype(np.float32)
    assert linear_auc(core_pixels(with_core), labels, None, seed=1) > 0.95
    assert abs(linear_auc(core_pixels(with_ring), labels, None, seed=1) - 0.5) < 0.08
    assert linear_auc(radial_profile(with_ring), labels, None, seed=1) > 0.95


def test_features_are_the_pixels_and_means_they_say() -> None:
    images, _ = stamps(3)
    radius = np.hypot(*(np.indices((21, 21)) - 10))
    np.testing.assert_array_equal(core_pixels(images)[1], images[1][radius < 5].ravel())
    profile = radial_profile(images).reshape(3, -1, 2)
    for ring in (0, 1, 7, 14):
        inside = np.floor(radius + 0.5) == ring
        np.testing.assert_allclose(profile[:, ring], images[:, inside].mean(axis=1), atol=1e-6)


def test_a_signature_of_the_patch_of_sky_does_not_pass_for_a_class() -> None:
    random = np.random.default_rng(3)
    group = np.repeat(np.arange(40), 15)
    labels = (group % 2).astype(np.int64)  # whole patches are of one class
    features = random.normal(size=(600, 60)) + random.normal(size=(40, 60))[group]
    assert linear_auc(features, labels, None, seed=0) > 0.85
    assert linear_auc(features, labels, group, seed=0) < 0.75


def test_a_class_of_a_few_has_no_figure() -> None:
    images, _ = stamps(20)
    assert np.isnan(linear_auc(core_pixels(images), np.arange(20) // 17, None, seed=0))


@pytest.mark.parametrize(("size", "expected"), [(20, (10, 10)), (100, (50, 12)), (1000, (88, 12))])
def test_a_sample_takes_both_classes(size: int, expected: tuple[int, int]) -> None:
    labels = (np.arange(100) % 8 == 7).astype(np.int64)
    chosen = balanced_sample(labels, size, seed=0)
    assert tuple(np.bincount(labels[chosen])) == expected
    assert (np.diff(chosen) > 0).all()


def entries_of(found: planted.Planted, sample: gates.Sample = "host_matched") -> list[dict[str, Any]]:
    """All gates on a set whose tensors are its stamps, so that what is stored has no figures of its own."""
    pieces = np.array_split(found.stamps, len(found.stamps) // 64)
    light, pixels = (
        {name: np.concatenate([piece[name] for piece in measured]) for name in measured[0]}
        for measured in (
            [features.of_light(piece) for piece in pieces],
            [features.of_prepared(piece, planted.BANDS) for piece in pieces],
        )
    )
    asked = {
        "metadata": baseline.observing_conditions(found.rows),
        "catalogue": baseline.catalogue_values(found.rows),
        "files": baseline.file_properties(found.rows),
    }
    entries = []
    for name, values in (asked | pixels).items():
        entries += gates.judge(
            name, "model", values, found.labels, found.folds, sample=sample, resamples=200, seed=0,
            for_trees=light.get(name),
        )  # fmt: skip
    return entries


def tripped(entries: list[dict[str, Any]], verdicts: Sequence[str]) -> set[str]:
    return {entry["gate"] for entry in entries if entry["verdict"] in verdicts}


@pytest.fixture(scope="module")
def clean() -> planted.Planted:
    return planted.clean_set(440, seed=5)


PLANTS = [
    pytest.param(lambda found: found, set(), id="nothing"),
    pytest.param(planted.with_depth, {"metadata", "background"}, id="depth"),  # what rows say, and what the sky shows
    pytest.param(planted.with_bright_core, {"core"}, id="core"),
    pytest.param(planted.with_route, {"files"}, id="route"),
    pytest.param(planted.with_texture, {"high_frequencies"}, id="texture"),
    pytest.param(planted.with_constant, {"background"}, id="constant"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("plant", "caught"), PLANTS)
def test_a_planted_shortcut_fails_its_own_gate_and_no_other(
    clean: planted.Planted, plant: Callable[[planted.Planted], planted.Planted], caught: set[str]
) -> None:
    entries = entries_of(plant(clean))
    assert tripped(entries, ["FAIL"]) == caught
    assert (gates.overall(entries) == "FAIL") == bool(caught)


@pytest.mark.slow
@pytest.mark.parametrize(("plant", "caught"), PLANTS)
def test_so_it_is_with_other_hosts_and_noise(
    plant: Callable[[planted.Planted], planted.Planted], caught: set[str]
) -> None:
    for seed in range(5):
        assert tripped(entries_of(plant(planted.clean_set(1000, seed))), ["FAIL"]) == caught


def test_hosts_that_differ_are_a_floor_where_negatives_are_random(clean: planted.Planted) -> None:
    few = planted.Planted(clean.stamps[:220], clean.labels[:220], clean.folds[:220], clean.rows[:220])
    brighter = (1 + 0.5 * few.labels[:, None, None, None]).astype(np.float32)
    entries = entries_of(replace(few, stamps=few.stamps * brighter), sample="random")
    physical = [entry for entry in entries if gates.GATES[entry["gate"]].physical]
    assert {entry["verdict"] for entry in physical} == {"FLOOR"}
    assert all(entry["limits"] is None for entry in physical)
    assert max(entry["auc"]["value"] for entry in physical) > 0.6
    json.dumps(entries, allow_nan=False)


@pytest.mark.slow
def test_a_clean_set_of_two_thousand_seldom_trips_a_gate(capsys: pytest.CaptureFixture[str]) -> None:
    failed, warned, seeds = [], [], 20
    for seed in range(seeds):
        entries = entries_of(planted.clean_set(2000, seed, arc_share=0.0))
        failed += [(seed, entry["gate"]) for entry in entries if entry["verdict"] == "FAIL"]
        warned += [(seed, entry["gate"], entry["auc"]["value"]) for entry in entries if entry["verdict"] == "WARN"]
    with capsys.disabled():
        print(f"\nclean sets={seeds} entries={seeds * len(entries)} FAIL={failed} WARN={warned}")  # noqa: T201
    assert not failed
    assert len({seed for seed, *_ in warned}) <= seeds // 10


LIMITS = [gates.CORE, gates.PROFILE, gates.NUISANCE, gates.LIGHT_TREES]


@given(
    value=st.floats(0, 1), below=st.floats(0, 0.2), above=st.floats(0, 0.2), worse=st.floats(0, 0.2),
    limits=st.sampled_from(LIMITS),
)  # fmt: skip
def test_a_stronger_shortcut_never_has_a_better_verdict(
    value: float, below: float, above: float, worse: float, limits: gates.Limits
) -> None:
    found = Interval(value, max(0, value - below), min(1, value + above))
    verdict = gates.verdict_of(found, limits)
    if found.low > 0.5:
        further = Interval(min(1, value + worse), min(1, found.low + worse), min(1, found.high + worse))
        assert gates.SEVERITY.index(gates.verdict_of(further, limits)) >= gates.SEVERITY.index(verdict)
    if found.high < 0.5:
        assert verdict != "FAIL"
        mirrored = gates.verdict_of(Interval(1 - value, 1 - found.high, 1 - found.low), limits)
        assert (verdict == "PASS") == (mirrored == "PASS")
    if found.low <= 0.5 <= found.high:
        assert verdict != "FAIL"


@pytest.mark.parametrize(
    ("limits", "interval", "verdict"),
    [
        (gates.CORE, (0.599, 0.58, 0.62), "PASS"), (gates.CORE, (0.60, 0.58, 0.62), "WARN"),
        (gates.CORE, (0.65, 0.63, 0.67), "FAIL"), (gates.PROFILE, (0.55, 0.53, 0.57), "WARN"),
        (gates.PROFILE, (0.60, 0.58, 0.62), "FAIL"), (gates.PROFILE, (0.70, 0.49, 0.90), "WARN"),
        (gates.NUISANCE, (0.58, 0.549, 0.61), "PASS"), (gates.NUISANCE, (0.58, 0.55, 0.61), "WARN"),
        (gates.NUISANCE, (0.63, 0.60, 0.66), "FAIL"), (gates.NUISANCE, (0.30, 0.27, 0.33), "WARN"),
    ],
)  # fmt: skip
def test_the_limits_are_those_of_the_requirements(
    limits: gates.Limits, interval: tuple[float, float, float], verdict: str
) -> None:
    assert gates.verdict_of(Interval(*interval), limits) == verdict


def test_what_cannot_be_measured_says_why() -> None:
    values, labels = np.zeros((60, 3)), np.arange(60) // 50
    folds = np.arange(60) % 5
    for given_features, reason in (
        ("no bands", "no bands"),
        (values, "20 are needed"),
        (values[:, :0], "20 are needed"),
    ):
        entries = gates.judge("core", "model", given_features, labels, folds, sample="random", resamples=200, seed=0)
        assert {entry["verdict"] for entry in entries} == {"NOT MEASURED"}
        assert reason in entries[0]["message"]
        assert entries[0]["auc"] is None
    one_fold = gates.judge(
        "core", "model", np.zeros((60, 3)), np.arange(60) % 2, np.zeros(60, int), sample="random", resamples=200, seed=0
    )
    assert "one fold" in one_fold[0]["message"]
    assert gates.overall(one_fold) == "NOT MEASURED"


def told(**verdicts: str) -> list[dict[str, Any]]:
    return [
        {"gate": name, "title": gates.GATES[name].title, "verdict": verdict}
        for name, joined in verdicts.items()
        for verdict in joined.split(", ")
    ]


@pytest.mark.parametrize(
    ("entries", "overall", "left_out"),
    [
        (told(files="PASS", core="FLOOR, PASS"), "PASS", []),
        (told(files="PASS", core="FLOOR, NOT MEASURED"), "NOT MEASURED", ["Core"]),  # no host could be matched
        (told(files="PASS", core="FLOOR"), "NOT MEASURED", ["Core"]),
        (told(files="PASS", core="FLOOR, PASS", profile="NOT MEASURED"), "NOT MEASURED", ["Radial profile"]),
        (told(files="WARN", core="FLOOR, NOT MEASURED"), "WARN", ["Core"]),
        (told(files="FAIL", core="FLOOR, NOT MEASURED"), "FAIL", ["Core"]),
        (told(files="PASS", metadata="NOT MEASURED", core="PASS"), "PASS", []),
        (told(core="FLOOR"), "NOT MEASURED", ["Core"]),
        ([], "NOT MEASURED", []),
    ],
)
def test_nothing_passes_as_a_whole_while_a_gate_on_light_was_nowhere_judged(
    entries: list[dict[str, Any]], overall: str, left_out: list[str]
) -> None:
    assert gates.overall(entries) == overall
    assert gates.not_judged(entries) == left_out


@pytest.mark.parametrize("learner", gates.LEARNERS)
def test_features_that_say_nothing_score_one_half_exactly(learner: gates.Learner) -> None:
    labels, folds = (np.arange(200) % 3 == 0).astype(np.int64), np.arange(200) // 50
    values = np.full((200, 2), 7.0)
    values[:, 1] = np.nan
    assert np.ptp(gates.out_of_fold(values, labels, folds, learner, 0)) < 1e-9


@pytest.mark.parametrize("learner", gates.LEARNERS)
def test_the_share_of_positives_in_a_fold_is_no_score(learner: gates.Learner) -> None:
    random = np.random.default_rng(0)
    folds = random.integers(0, 5, 3000)
    labels = (random.random(3000) < np.array([0.1, 0.3, 0.5, 0.7, 0.9])[folds]).astype(np.int64)
    scores = gates.out_of_fold(random.normal(size=(3000, 3)), labels, folds, learner, 0)
    assert abs(roc_auc_score(labels, scores) - 0.5) < 0.05


@pytest.mark.parametrize("learner", gates.LEARNERS)
def test_missing_values_can_be_the_shortcut(learner: gates.Learner) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(400) % 2
    values = random.normal(size=(400, 2))
    values[(labels == 1) & (random.random(400) < 0.8), 0] = np.nan
    scores = gates.out_of_fold(values, labels, np.arange(400) // 80, learner, 0)
    assert roc_auc_score(labels, scores) > 0.8


def test_folds_keep_groups_together() -> None:
    random = np.random.default_rng(0)
    groups = random.integers(0, 60, 500)
    folds = gates.make_folds(random.integers(0, 2, 500), groups, 3)
    assert len(np.unique(folds)) == gates.FOLDS
    assert all(len(np.unique(folds[groups == group])) == 1 for group in np.unique(groups))


def test_pairs_that_share_their_noise_are_told_apart_by_a_line_without_any_arc():
    random = np.random.default_rng(3)
    labels = np.arange(300) % 2
    control = random.standard_normal((300, 31, 31, 1))
    stamp = np.where(labels[:, None, None, None] == 1, control, random.standard_normal((300, 31, 31, 1)))
    pairs = features.pair_differences(np.concatenate([stamp, control], axis=3), [(0, 1)])
    assert gates.linear_auc(pairs, labels, None, 0) > 0.99
    assert gates.linear_auc(pairs[:, :3], labels, None, 0) < 0.65
