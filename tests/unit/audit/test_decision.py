"""The decision tree: R-A4 at its limits, total, monotone, and honest about what it does not know."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensdata.audit.decision import ArmFigures, decide, mean_figures
from lensdata.config.tuning import DecisionConfig

CONFIG = DecisionConfig()
GOOD = ArmFigures(1, core_gate_auc=0.55, core_reliance=0.01, theta_e_spread=0.10, worst_theta_e_auc=0.85, val_auc=0.93)
GATES, RELIANCES = (0.50, 0.599, 0.60, 0.62, 0.65, 0.651, 0.9), (-0.01, 0.029, 0.03, 0.049, 0.05, 0.2)
LADDER = ("SUCCESS", "ACCEPTABLE", "NEEDS_MASKED_ARMS", "STOP_SHORTCUT")
WANTS_MASKED = replace(GOOD, core_gate_auc=0.70)
any_figure = st.none() | st.floats(0, 1)
figures = st.builds(
    ArmFigures, seed=st.integers(1, 3), core_gate_auc=any_figure, core_reliance=st.none() | st.floats(-0.2, 0.3),
    theta_e_spread=any_figure, worst_theta_e_auc=any_figure, val_auc=any_figure,
)  # fmt: skip
studies = st.dictionaries(st.sampled_from(CONFIG.arms), st.lists(figures, max_size=4))


def first_stage(gate, reliance):
    return decide({"A1": [GOOD], "B1": [replace(GOOD, core_gate_auc=gate, core_reliance=reliance)]}, CONFIG)


def as_written(c, d):
    """R-A4, word for word."""
    if d >= 0.05:
        return "STOP_SHORTCUT"
    if c < 0.60 and d < 0.03:
        return "SUCCESS"
    return "ACCEPTABLE" if c <= 0.65 else "NEEDS_MASKED_ARMS"


@pytest.mark.parametrize(("gate", "reliance"), product(GATES, RELIANCES))
def test_the_first_stage_is_that_of_the_requirement_at_and_beside_its_limits(gate, reliance):
    found = first_stage(gate, reliance)
    assert found.branch == as_written(gate, reliance)
    assert found.winner == ("B1" if found.branch in ("SUCCESS", "ACCEPTABLE") else None)
    assert found.needs == (("B2", "B3", "B4") if found.branch == "NEEDS_MASKED_ARMS" else ())


@given(st.floats(0, 1), st.floats(-0.2, 0.3), st.floats(0, 0.2), st.floats(0, 0.2))
def test_a_worse_gate_or_reliance_never_makes_a_better_branch(gate, reliance, more_gate, more_reliance):
    better, worse = first_stage(gate, reliance), first_stage(gate + more_gate, reliance + more_reliance)
    assert LADDER.index(better.branch) <= LADDER.index(worse.branch)


@given(studies)
def test_the_tree_has_an_answer_to_everything(arms):
    found = decide(arms, CONFIG)
    assert (found.winner is not None) == (found.branch in ("SUCCESS", "ACCEPTABLE", "MASKED_ARM"))
    assert bool(found.needs) == (found.branch == "NEEDS_MASKED_ARMS" or "B1" not in arms)
    assert found.sentence.endswith(".")
    assert found.stability.sentence.endswith(".")
    assert all((step.outcome is None) == (step.value is None) for step in found.steps)
    assert not set(found.needs) & set(arms)  # never asks for what was run


@given(studies, st.permutations((0, 1, 2, 3)))
def test_the_order_of_trainings_does_not_matter(arms, order):
    shuffled = {arm: [own[place] for place in order if place < len(own)] for arm, own in reversed(arms.items())}
    assert decide(shuffled, CONFIG).as_json() == decide(arms, CONFIG).as_json()


def masked(b3=GOOD, b2=GOOD, b4=GOOD):
    return {"A1": [GOOD], "B1": [WANTS_MASKED], "B2": [b2], "B3": [b3], "B4": [b4]}


def test_the_preferred_arm_wins_if_it_passes_even_with_the_larger_spread():
    found = decide(masked(b2=replace(GOOD, theta_e_spread=0.01)), CONFIG)
    assert (found.branch, found.winner) == ("MASKED_ARM", "B3")


@pytest.mark.parametrize(
    ("figure", "at_the_limit"),
    [("core_gate_auc", 0.60), ("core_reliance", 0.03), ("theta_e_spread", 0.15), ("worst_theta_e_auc", 0.80), ("val_auc", 0.90)],
)  # fmt: skip
def test_a_masked_arm_at_a_limit_fails_and_the_step_says_so(figure, at_the_limit):
    failing = replace(GOOD, **{figure: at_the_limit})
    found = decide(masked(b3=failing), CONFIG)
    assert found.winner in ("B2", "B4")
    [step] = [step for step in found.steps if step.arm == "B3" and not step.outcome]
    assert (step.figure, step.value, step.limit) == (figure, at_the_limit, at_the_limit)
    assert decide(masked(failing, failing, failing), CONFIG).branch == "STOP_REDESIGN"


@pytest.mark.parametrize(
    ("b2", "b4", "winner"), [(0.10, 0.05, "B4"), (0.05, 0.10, "B2"), (0.1, 0.1, "B2"), (0.2, 0.1, "B4")]
)
def test_of_the_others_that_pass_the_smaller_spread_wins(b2, b4, winner):
    arms = masked(replace(GOOD, val_auc=0.5), replace(GOOD, theta_e_spread=b2), replace(GOOD, theta_e_spread=b4))
    assert decide(arms, CONFIG).winner == winner


def test_a_failed_arm_leaves_it_undecided_unless_the_answer_is_plain_without_it():
    failing = replace(GOOD, val_auc=0.5)
    assert decide({"A1": [GOOD], "B1": []}, CONFIG).branch == "UNDECIDED"
    assert decide(masked() | {"B3": []}, CONFIG).branch == "UNDECIDED"
    undecided = decide(masked(b3=failing) | {"B2": []}, CONFIG)
    assert undecided.branch == "UNDECIDED"
    assert "B2" in undecided.sentence
    assert decide(masked() | {"B2": [], "B4": []}, CONFIG).winner == "B3"
    shortcut = ArmFigures(1, core_reliance=0.06)  # whatever its gate is
    assert decide({"B1": [shortcut]}, CONFIG).branch == "STOP_SHORTCUT"
    assert decide({"A1": []} | {"B1": [GOOD]}, CONFIG).branch == "SUCCESS"  # A1 is told, not decided on


def test_what_was_not_run_is_asked_for():
    assert decide({}, CONFIG).needs == ("A1", "B1")
    arms = masked(b3=replace(GOOD, val_auc=0.5))
    del arms["B4"]
    assert decide(arms, CONFIG).needs == ("B4",)


def test_a_mean_of_equal_seeds_is_exactly_their_value():
    for value in (0.6, 0.65, 0.03, 0.05, 0.1):
        assert mean_figures([replace(GOOD, core_gate_auc=value)] * 3).core_gate_auc == value


def test_each_seed_is_asked_what_it_would_decide_alone():
    seeds = [replace(GOOD, seed=seed, core_gate_auc=gate) for seed, gate in ((1, 0.56), (2, 0.57), (3, 0.63))]
    found = decide({"A1": [GOOD], "B1": seeds}, CONFIG)
    assert found.branch == "SUCCESS"
    assert found.stability.by_seed == {1: ("SUCCESS", "B1"), 2: ("SUCCESS", "B1"), 3: ("ACCEPTABLE", "B1")}
    assert found.stability.sentence.startswith("The decision holds in 2 of 3 seeds (seed 3: ACCEPTABLE).")
    assert any("holds the limit 0.6." in sentence for sentence in found.stability.close)
    assert decide({"B1": seeds[:1]}, CONFIG).stability.sentence.startswith("One seed")


def test_a_gate_whose_own_interval_holds_a_limit_is_close_also_with_one_seed():
    near = replace(GOOD, core_gate_low=0.52, core_gate_high=0.61)
    assert len(decide({"B1": [near]}, CONFIG).stability.close) == 1
    assert decide({"B1": [replace(near, core_gate_high=0.58)]}, CONFIG).stability.close == ()


def test_a_seed_that_lacks_an_arm_which_the_tree_asks_for_is_incomplete_and_not_counted():
    three = {arm: [replace(own[0], seed=seed) for seed in (1, 2, 3)] for arm, own in masked().items()}
    del three["B3"][1]
    found = decide(three, CONFIG).stability
    assert (set(found.by_seed), found.incomplete, found.holding) == ({1, 3}, (2,), 2)
    assert found.sentence.startswith("The decision holds in 2 of 2 seeds (seed 2 is incomplete).")
    one = decide(three | {"B1": three["B1"][:2]}, CONFIG).stability
    assert one.incomplete == (2, 3)
    assert one.sentence.startswith("One complete seed (seed 2 is incomplete, seed 3 is incomplete): how")
    assert decide(masked() | {"B3": []}, CONFIG).stability.sentence == "No seed to judge it by: seed 1 is incomplete."


def test_an_arm_that_no_seed_needs_makes_none_incomplete():
    arms = {"A1": [], "B1": [replace(GOOD, seed=seed) for seed in (1, 2)], "B2": [GOOD]}
    assert decide(arms, CONFIG).stability.incomplete == ()


def test_a_figure_that_a_finished_training_did_not_measure_leaves_its_seed_undecided_not_incomplete():
    found = decide({"B1": [GOOD, replace(GOOD, seed=2, core_gate_auc=None)]}, CONFIG).stability
    assert (found.by_seed[2], found.incomplete) == (("UNDECIDED", None), ())


@pytest.mark.parametrize(
    ("figure", "near", "limit"),
    [("core_gate_auc", 0.595, 0.6), ("core_reliance", 0.029, 0.03), ("theta_e_spread", 0.149, 0.15),
     ("worst_theta_e_auc", 0.801, 0.8), ("val_auc", 0.901, 0.9)],
)  # fmt: skip
def test_every_criterion_of_the_masked_arm_that_wins_or_was_preferred_warns_of_a_near_limit(figure, near, limit):
    def seeds(one):
        return [replace(one, seed=seed) for seed in (1, 2, 3)]

    def scattered(by):
        return [replace(GOOD, seed=seed, **{figure: near + shift}) for seed, shift in enumerate((-by, 0.0, by), 1)]

    arms = {arm: seeds(own[0]) for arm, own in masked().items()}
    [told] = decide(arms | {"B3": scattered(0.01)}, CONFIG).stability.close
    assert " of B3" in told
    assert f"holds the limit {limit:g}." in told
    assert ("over seeds; the same objects in all" in told) == (figure != "core_gate_auc")
    failing = [replace(one, **{figure: 2 * limit - getattr(one, figure)}) for one in scattered(0.01)]
    assert len(decide(arms | {"B3": failing}, CONFIG).stability.close) == 1
    assert decide(arms | {"B2": scattered(0.01)}, CONFIG).stability.close == ()  # neither wins nor was preferred
