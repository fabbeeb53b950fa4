"""The decision tree of the masking study (R-A4), and how firmly its answer stands.

With c the core gate AUC and d the core reliance of the arm without masking: c < 0.60 and d < 0.03 is SUCCESS; c <= 0.65 and
d < 0.05 ACCEPTABLE; c > 0.65 and d < 0.05 asks for the masked arms; d >= 0.05 stops. The limits are those of `DecisionConfig`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from lensdata.audit.seeds import Spread, over_seeds
from lensdata.config.tuning import DecisionConfig

Branch = Literal[
    "SUCCESS", "ACCEPTABLE", "NEEDS_MASKED_ARMS", "MASKED_ARM", "STOP_REDESIGN", "STOP_SHORTCUT", "UNDECIDED"
]
TITLES = {
    "core_gate_auc": "core gate AUC",
    "core_reliance": "core reliance",
    "theta_e_spread": "spread of the AUC over Einstein radii",
    "worst_theta_e_auc": "AUC of the worst bin of Einstein radius",
    "val_auc": "validation AUC",
}
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": lambda value, limit: value < limit,
    "<=": lambda value, limit: value <= limit,
    ">": lambda value, limit: value > limit,
}
WORDS = {"<": ("below", "not below"), "<=": ("at most", "above"), ">": ("above", "not above")}


@dataclass(frozen=True)
class ArmFigures:
    """What the tree asks of one training of an arm; None where it was not measured.

    Attributes
    ----------
    seed
        Of the training; None for means over seeds.
    core_gate_auc, core_gate_low, core_gate_high
        AUC of a logistic regression on the core pixels, and its 95% bootstrap interval (R-E4).
    core_reliance
        AUC lost where the central 7 pixels are masked (R-E5).
    theta_e_spread, worst_theta_e_auc
        Best less worst AUC over bins of Einstein radius, and the worst (R-E5).
    val_auc
        Of the validation split, best epoch (R-E10).
    """

    seed: int | None = None
    core_gate_auc: float | None = None
    core_gate_low: float | None = None
    core_gate_high: float | None = None
    core_reliance: float | None = None
    theta_e_spread: float | None = None
    worst_theta_e_auc: float | None = None
    val_auc: float | None = None


@dataclass(frozen=True)
class Step:
    """One checked condition; the outcome is None where the value is not known."""

    arm: str
    figure: str
    value: float | None
    comparison: str
    limit: float
    outcome: bool | None
    sentence: str


@dataclass(frozen=True)
class Stability:
    """What each seed by itself would decide, and which limits lie inside an interval.

    Attributes
    ----------
    by_seed
        (branch, winner) of the figures of that seed alone; only of seeds for which all arms that the tree asks for finished.
    incomplete
        The other seeds.
    holding
        Seeds that decide as the mean does, winner included.
    close
        A sentence for every limit that was asked for and lies inside the interval of its figure: of the deciding arm, of the
        masked arm that wins, and of the preferred one where it fails.
    sentence
        All of it in words.
    """

    by_seed: dict[int, tuple[Branch, str | None]]
    incomplete: tuple[int, ...]
    holding: int
    close: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class Decision:
    """The branch taken, and everything it rests on.

    Attributes
    ----------
    winner
        Arm to be trained on the full data; None where there is none.
    needs
        Arms to be trained before there is an answer.
    sentence
        The branch and its reason in words.
    figures
        Means over the finished seeds of every arm that was run.
    steps
        The conditions in the order in which they were checked.
    rule
        The limits.
    """

    branch: Branch
    winner: str | None
    needs: tuple[str, ...]
    sentence: str
    figures: dict[str, ArmFigures]
    steps: tuple[Step, ...]
    stability: Stability
    rule: DecisionConfig

    def as_json(self) -> dict[str, Any]:
        """For ``decision.json``."""
        told = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("stability", "rule")}
        told |= {"figures": {arm: asdict(known) for arm, known in self.figures.items()}}
        told |= {"steps": [asdict(step) for step in self.steps], "needs": list(self.needs)}
        seeds = {str(seed): list(found) for seed, found in self.stability.by_seed.items()}
        return told | {
            "stability": asdict(self.stability) | {"by_seed": seeds},
            "rule": self.rule.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class _Answer:
    branch: Branch
    winner: str | None
    needs: tuple[str, ...]
    sentence: str
    steps: tuple[Step, ...]


def decide(arms: Mapping[str, Sequence[ArmFigures]], config: DecisionConfig) -> Decision:
    """Walk the tree on the means over seeds, then once per seed.

    Parameters
    ----------
    arms
        Figures of every finished training by arm. An arm that is absent was not run; one without figures was, in vain.

    Returns
    -------
    Decision
        ``NEEDS_MASKED_ARMS`` where the tree asks for arms that were not run; ``UNDECIDED`` where a figure that it asks for
        could not be measured.
    """
    known = {arm: arms[arm] for arm in config.arms if arm in arms}
    means = {arm: mean_figures(trained) for arm, trained in known.items()}
    answer = _walk(means, config)
    return Decision(
        answer.branch, answer.winner, answer.needs, answer.sentence, means, answer.steps, _stability(known, answer, config), config
    )  # fmt: skip


def mean_figures(trained: Sequence[ArmFigures]) -> ArmFigures:
    """Mean of every figure over the trainings where it is known."""
    names = [item.name for item in fields(ArmFigures) if item.name != "seed"]
    return ArmFigures(None, **{name: over_seeds(getattr(one, name) for one in trained).mean for name in names})


def _walk(means: Mapping[str, ArmFigures], config: DecisionConfig) -> _Answer:
    base = config.baseline
    if base not in means:
        needs = tuple(arm for arm in (config.paired, base) if arm not in means)
        return _Answer("UNDECIDED", None, needs, f"{base}, which decides, was not trained.", ())
    steps = _first_stage(means[base], config)
    gate_success, reliance_success, gate_acceptable, reliance_acceptable = (step.outcome for step in steps)
    if reliance_acceptable is False:
        return _Answer(
            "STOP_SHORTCUT", None, (), f"Stop: {base} exploits a shortcut in the core; {steps[3].sentence}.", steps
        )
    missing = [step.figure for step in steps[:2] if step.outcome is None]
    if missing:
        names = " and ".join(TITLES[figure] for figure in missing)
        return _Answer(
            "UNDECIDED", None, (), f"Not decided: {names} of {base} not measured in any finished training.", steps
        )
    if gate_success and reliance_success:
        return _Answer(
            "SUCCESS",
            base,
            (),
            f"Use {base}: neither the core pixels nor the network's use of them is a shortcut.",
            steps,
        )
    if gate_acceptable:
        return _Answer("ACCEPTABLE", base, (), f"Use {base} and watch its core gate and core reliance.", steps)
    return _second_stage(means, config, steps)


def _first_stage(base: ArmFigures, config: DecisionConfig) -> tuple[Step, ...]:
    return (
        _step(config.baseline, base, "core_gate_auc", "<", config.core_gate_success),
        _step(config.baseline, base, "core_reliance", "<", config.reliance_success),
        _step(config.baseline, base, "core_gate_auc", "<=", config.core_gate_acceptable),
        _step(config.baseline, base, "core_reliance", "<", config.reliance_acceptable),
    )


def _second_stage(means: Mapping[str, ArmFigures], config: DecisionConfig, steps: tuple[Step, ...]) -> _Answer:
    """The preferred arm if it passes, else of the others that pass the one with the smallest spread over Einstein radii."""
    masked = (config.preferred, *config.others)
    checked = {arm: criteria(arm, means[arm], config) for arm in masked if arm in means}
    steps = steps + tuple(step for found in checked.values() for step in found)
    passing = {arm: passes(found) for arm, found in checked.items()}
    if passing.get(config.preferred):
        return _Answer("MASKED_ARM", config.preferred, (), f"Use {config.preferred}: it passes every criterion.", steps)
    needs = tuple(arm for arm in config.arms if arm in masked and arm not in means)
    if needs:
        asked = ", ".join(needs)
        why = f"The core of {config.baseline} tells the classes apart, and its network does not lean on it: train {asked}."
        return _Answer("NEEDS_MASKED_ARMS", None, needs, why, steps)
    unknown = [arm for arm in masked if passing[arm] is None]
    if unknown:
        why = f"Not decided: whether {' and '.join(unknown)} passes is not known, as a figure was not measured."
        return _Answer("UNDECIDED", None, (), why, steps)
    able = [arm for arm in config.others if passing[arm]]
    if not able:
        return _Answer(
            "STOP_REDESIGN", None, (), "Stop and redesign the data: no masked arm passes every criterion.", steps
        )
    winner = min(able, key=lambda arm: means[arm].theta_e_spread or 0.0)
    among = " with the smallest spread over Einstein radii of those that do" if len(able) > 1 else ""
    return _Answer(
        "MASKED_ARM",
        winner,
        (),
        f"Use {winner}: {config.preferred} fails, and it passes every criterion{among}.",
        steps,
    )


def criteria(arm: str, known: ArmFigures, config: DecisionConfig) -> tuple[Step, ...]:
    """What a masked arm has to pass."""
    return (
        _step(arm, known, "core_gate_auc", "<", config.core_gate_success),
        _step(arm, known, "core_reliance", "<", config.reliance_success),
        _step(arm, known, "theta_e_spread", "<", config.theta_e_spread),
        _step(arm, known, "worst_theta_e_auc", ">", config.worst_theta_e_auc),
        _step(arm, known, "val_auc", ">", config.val_auc),
    )


def passes(steps: Sequence[Step]) -> bool | None:
    """Whether all conditions hold; None where that hangs on one that is not known."""
    if any(step.outcome is False for step in steps):
        return False
    return None if any(step.outcome is None for step in steps) else True


def _step(arm: str, known: ArmFigures, figure: str, comparison: str, limit: float) -> Step:
    value = getattr(known, figure)
    if value is None:
        sentence = f"{TITLES[figure]} of {arm} is not known, {WORDS[comparison][0]} {limit:g} is asked for"
        return Step(arm, figure, None, comparison, limit, None, sentence)
    outcome = COMPARISONS[comparison](value, limit)
    told = f"{told_beside(value, limit)}, {WORDS[comparison][not outcome]} {limit:g}"
    sentence = f"{TITLES[figure]} of {arm} is {told}"
    return Step(arm, figure, value, comparison, limit, outcome, sentence)


def told_beside(value: float, limit: float) -> str:
    """A value with four digits, or as many as it takes to stand on the right side of its limit.

    >>> told_beside(0.5, 0.6), told_beside(0.599996, 0.6)
    ('0.5000', '0.599996')
    """
    for digits in range(4, 17):
        told = f"{value:.{digits}f}"
        if (float(told) > limit, float(told) < limit) == (value > limit, value < limit):
            return told
    return repr(value)


def _stability(arms: Mapping[str, Sequence[ArmFigures]], answer: _Answer, config: DecisionConfig) -> Stability:
    asked = [
        arm for arm in (config.baseline, config.preferred, *config.others) if config.baseline in arms and arm in arms
    ]
    by_seed: dict[int, tuple[Branch, str | None]] = {}
    incomplete: list[int] = []
    for seed in sorted({one.seed for arm in asked for one in arms[arm] if one.seed is not None}):
        own = {arm: [one for one in trained if one.seed == seed] for arm, trained in arms.items()}
        alone = _walk({arm: mean_figures(trained) for arm, trained in own.items()}, config)
        if alone.branch == "UNDECIDED" and any(not own[step.arm] for step in alone.steps):
            incomplete.append(seed)
        else:
            by_seed[seed] = (alone.branch, alone.winner)
    holding = sum(found == (answer.branch, answer.winner) for found in by_seed.values())
    close = _close(arms, answer, config)
    told = " ".join([_in_words(by_seed, incomplete, holding, answer), *close])
    return Stability(by_seed, tuple(incomplete), holding, close, told)


def _in_words(
    by_seed: dict[int, tuple[Branch, str | None]], incomplete: Sequence[int], holding: int, answer: _Answer
) -> str:
    lacking = [f"seed {seed} is incomplete" for seed in incomplete]
    if not by_seed:
        return f"No seed to judge it by{': ' if lacking else ''}{', '.join(lacking)}."
    if len(by_seed) == 1:
        counted = f"One complete seed ({', '.join(lacking)})" if lacking else "One seed"
        return f"{counted}: how the answer changes with the seed is not measured."
    others = [
        f"seed {seed}: {branch}{f' {winner}' if branch == 'MASKED_ARM' else ''}"
        for seed, (branch, winner) in by_seed.items()
        if (branch, winner) != (answer.branch, answer.winner)
    ] + lacking
    aside = f" ({', '.join(others)})" if others else ""
    return f"The decision holds in {holding} of {len(by_seed)} seeds{aside}."


def _close(arms: Mapping[str, Sequence[ArmFigures]], answer: _Answer, config: DecisionConfig) -> tuple[str, ...]:
    """Limits inside the interval of the figure that they were asked of, for the arms on which the answer rests."""
    rests_on = {config.baseline, answer.winner}
    if passes([step for step in answer.steps if step.arm == config.preferred]) is False:
        rests_on.add(config.preferred)
    out: list[str] = []
    for step in answer.steps:
        found = _interval(step.figure, arms[step.arm])
        if (
            step.arm in rests_on
            and found.low is not None
            and found.high is not None
            and found.low <= step.limit <= found.high
        ):
            chance = "" if step.figure == "core_gate_auc" else " (over seeds; the same objects in all)"
            out.append(
                f"The interval of the {TITLES[step.figure]} of {step.arm}{chance}, {found.low:.4f} to {found.high:.4f}, "
                f"holds the limit {step.limit:g}."
            )
    return tuple(dict.fromkeys(out))


def _interval(figure: str, trained: Sequence[ArmFigures]) -> Spread:
    """Over seeds; of the core gate AUC, whose chance of objects is known, the wider of both."""
    over = over_seeds((getattr(one, figure) for one in trained), -1 if figure == "core_reliance" else 0, 1)
    if figure != "core_gate_auc":
        return over
    mean = mean_figures(trained)
    lows, highs = ([end for end in ends if end is not None]
                   for ends in ((over.low, mean.core_gate_low), (over.high, mean.core_gate_high)))  # fmt: skip
    return Spread(over.n, over.mean, over.sd, min(lows, default=None), max(highs, default=None))
