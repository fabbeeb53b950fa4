"""Population based training (Jaderberg et al. 2017, arXiv:1711.09846): poor members go on from good ones, with other settings.

A member is a trial whose declared keys change between epochs. Its run folder is always that of a run with its present keys which
was resumed from a checkpoint; where the keys and the checkpoint come from is written down beside the study's configurations.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from ray.tune.schedulers import PopulationBasedTraining

from lensdata import storage
from lensdata.config.base import load_config
from lensdata.config.training import TrainingConfig
from lensdata.config.tuning import RangeConfig, StudyConfig
from lensdata.hashing import text_hash
from ray_train.study import drawn
from ray_train.trial import Task

MEMBERS = "population"  # in the study's folder: keys and descent of every member
KEYS = "keys"  # of what Tune calls a trial's configuration


def first_keys(config: StudyConfig, trial: str) -> dict[str, Any]:
    """Where a member starts: drawn for each trial by itself."""
    random = np.random.default_rng(int(text_hash(f"{config.search.seed} {trial}")[:8], 16))
    return {
        name: values[int(random.integers(len(values)))]
        if isinstance(values, list)
        else drawn(name, values, float(random.random()))
        for name, values in config.scheduler.mutations.items()
    }


def build_population(config: StudyConfig, metric: str, mode: str, epochs: str) -> PopulationBasedTraining:
    """Ray Tune's scheduler for these keys."""
    mutations: dict[str, Any] = {
        name: list(values) if isinstance(values, list) else domain(values)
        for name, values in config.scheduler.mutations.items()
    }
    return PopulationBasedTraining(
        time_attr=epochs,
        metric=metric,
        mode=mode,
        perturbation_interval=config.scheduler.perturb_epochs,
        hyperparam_mutations={KEYS: mutations},
        log_config=False,
    )


def domain(values: RangeConfig) -> Any:
    """A range as Tune draws from it."""
    if values.integer:
        return (
            tune.lograndint(int(values.low), int(values.high) + 1)
            if values.log
            else tune.randint(int(values.low), int(values.high) + 1)
        )
    return tune.loguniform(values.low, values.high) if values.log else tune.uniform(values.low, values.high)


def member(task: Task, config: StudyConfig, keys: dict[str, Any], inherited: Path | None) -> Task:
    """The task with its present keys.

    Parameters
    ----------
    keys
        What Tune says now. In a resumed study Tune does not know what happened before: then those written down count.
    inherited
        Folder of another member's checkpoint to go on from: the keys are new, and the member's own run is given up.
    """
    address = storage.join(task.study, MEMBERS, f"{task.trial}.json")
    history: list[dict[str, Any]] = storage.read_json(address)["history"] if storage.exists(address) else []
    if inherited is not None or not history:
        kept = {name: within(config.scheduler.mutations[name], value) for name, value in keys.items()}
        epoch = 0 if inherited is None else json.loads((inherited / "last.json").read_text())["epoch"] + 1
        history.append({"from_epoch": epoch, "keys": kept})
        storage.remove(task.run)
        storage.write_json(address, {"trial": task.trial, "history": history})
    kept = history[-1]["keys"]
    changed = load_config(TrainingConfig, None, {**task.config, **kept})
    return replace(task, overrides=task.overrides | kept, config=changed.model_dump(mode="json"))


def within(values: RangeConfig | list[Any], value: Any) -> Any:
    """A perturbed value, brought back into its range: Tune multiplies by 0.8 or 1.2 wherever that leads.

    >>> within(RangeConfig(low=0.1, high=1.0), 1.2)
    1.0
    """
    if not isinstance(values, RangeConfig):
        return value
    inside = min(max(value, values.low), values.high)
    return round(inside) if values.integer else float(f"{inside:.6g}")
