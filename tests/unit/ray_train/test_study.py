"""What a study trains: cells, trials, and what is refused before any is trained."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensdata.config.base import load_config, validate
from lensdata.config.training import TrainingConfig
from lensdata.config.tuning import RangeConfig, StudyConfig
from lensdata.errors import InputError
from ray_train import tune
from ray_train.study import cell_of, choices, draw, drawn, grid, reference_cell, trial_of, trials_of

AXES = {
    "masking": {"B1": {}, "B2": {"images.masking": [{"radius": 5, "probability": 0.5}]}},
    "optimizer.lr": [1e-3, 1e-4],
    "images.crop": [63, None],
}
LR = {"optimizer.lr": {"low": 1e-5, "high": 1e-2, "log": True}}


def study(**settings: object) -> StudyConfig:
    return validate(StudyConfig, {"axes": AXES, **settings}, "study.yaml")


def refusal(**settings: object) -> str:
    def expand() -> None:
        config = study(**settings)
        trials_of(config, tune.cells_of(config))

    with pytest.raises(InputError) as error:
        expand()
    return str(error.value)


def test_a_grid_has_every_combination_once():
    cells = grid(study().axes)
    assert len(cells) == len({cell.name for cell in cells}) == 8
    assert cells[0].variants == {"masking": "B1", "optimizer.lr": "0.001", "images.crop": "63"}
    assert [cell.name for cell in cells][:2] == ["B1_lr0.001_crop63", "B1_lr0.001_cropnull"]


def test_a_trial_is_the_study_s_training_with_the_keys_of_its_cell_and_its_seed():
    config = study(training={"epochs": 7})
    trial = trial_of(config, grid(config.axes)[-1], seed=3)
    base = TrainingConfig(epochs=7, seed=3)
    changed = {"crop": None, "masking": trial.config.images.masking}
    assert trial.config.images.masking[0].radius == 5
    assert trial.config == base.model_copy(
        update={
            "images": base.images.model_copy(update=changed),
            "optimizer": base.optimizer.model_copy(update={"lr": 1e-4}),
        }
    )


def test_every_cell_has_its_first_seed_before_any_has_its_second():
    config = study(seeds=[5, 6])
    trials = trials_of(config, grid(config.axes))
    assert [trial.seed for trial in trials] == [5] * 8 + [6] * 8
    assert len({trial.name for trial in trials}) == 16


def test_a_random_search_is_a_beginning_of_a_longer_one():
    config = study(axes=AXES | LR)
    few, more = draw(config.axes, 4, seed=1), draw(config.axes, 9, seed=1)
    assert more[:4] == few
    assert len({cell.name for cell in more}) == 9
    assert draw(config.axes, 4, seed=2) != few


@given(st.floats(0, 1, exclude_max=True), st.floats(1e-6, 1e3), st.floats(1.001, 1e6), st.booleans())
def test_what_is_drawn_lies_in_its_range(share, low, factor, log):
    axis = RangeConfig(low=low, high=low * factor, log=log)
    assert low * (1 - 1e-9) <= drawn("x", axis, share) <= low * factor * (1 + 1e-9)


@given(st.floats(0, 1, exclude_max=True))
def test_a_share_of_a_list_is_one_of_its_labels(share):
    assert drawn("images.crop", [63, 101, None], share) in choices("images.crop", [63, 101, None])


@given(st.floats(1e-5, 1e-2), st.floats(1e-5, 1e-2))
def test_different_points_have_different_names(one, two):
    axes = study(axes=LR).axes
    names = {cell_of(axes, {"optimizer.lr": value}).name for value in (one, two)}
    assert len(names) == len({one, two})


def test_names_are_fit_for_a_folder():
    config = study(axes={"images.masking": [[{"radius": 5, "probability": 0.5}], []], "model.arch": ["timm:resnet10t"]})
    names = [cell.name for cell in grid(config.axes)]
    assert len(set(names)) == 2
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+_-") for name in names)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"axes": {}}, "at least one axis"),
        ({"axes": {"epochs": 3}}, "axis epochs must be a list"),
        ({"axes": {"epochs": []}}, "axes.epochs is empty"),
        ({"axes": {"epochs": [1, 1]}}, "axes.epochs names a value twice"),
        ({"axes": {"a": {"x": 3}}}, "must each be keys and values"),
        ({"axes": LR}, "axes.optimizer.lr is a range"),
        ({"axes": {"optimizer.lr": {"low": 2, "high": 1}}}, "2 to 1 is no range"),
        ({"axes": {"optimizer.lrate": [1]}}, "did you mean 'optimizer.lr'"),
        ({"axes": {"epochs": [0]}}, "Cell epochs0: override: epochs"),
        ({"axes": {"seed": [1]}}, "seeds are listed under seeds"),
        ({"axes": {"a": {"x": {"epochs": 1}}, "b": {"y": {"epochs": 2}}}}, "Two axes set epochs"),
        ({"seeds": [1, 1]}, "name one twice"),
        ({"decision": {}}, "the decision needs A1"),
        ({"scheduler": {"name": "pbt"}}, "needs scheduler.mutations"),
        ({"search": {"name": "random", "num_cells": 9}}, "only 8 cells"),
        ({"axis": {}}, "did you mean 'axes'"),
    ],
)
def test_a_wrong_study_is_refused_in_one_sentence(settings, sentence):
    assert sentence in refusal(**settings)


def test_the_reference_is_the_first_cell_or_the_one_that_is_named():
    config = study()
    assert reference_cell(config, grid(config.axes)) == "B1_lr0.001_crop63"
    config = study(reference={"masking": "B2", "images.crop": "null"})
    assert reference_cell(config, grid(config.axes)) == "B2_lr0.001_cropnull"
    config = study(reference={"masking": "B9"})
    with pytest.raises(InputError, match="B9 is no cell of the study; known are B1, B2"):
        reference_cell(config, grid(config.axes))


def test_a_section_of_a_file_may_start_from_another_file(tmp_path):
    (tmp_path / "base.yaml").write_text("epochs: 9\nbatch: {micro_batch: 32}\n")
    (tmp_path / "study.yaml").write_text(
        "axes: {optimizer.lr: [0.1]}\ntraining: {extends: base.yaml, batch: {accumulation: 2}}\n"
    )
    training = load_config(StudyConfig, tmp_path / "study.yaml").training
    assert (training.epochs, training.batch.micro_batch, training.batch.accumulation) == (9, 32, 2)


def test_a_section_that_extends_its_own_file_is_refused(tmp_path):
    (tmp_path / "study.yaml").write_text("axes: {optimizer.lr: [0.1]}\ntraining: {extends: study.yaml}\n")
    with pytest.raises(InputError, match="extends itself"):
        load_config(StudyConfig, tmp_path / "study.yaml")
