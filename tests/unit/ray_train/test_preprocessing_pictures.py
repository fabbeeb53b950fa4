"""The guide to preprocessing: its pictures can be drawn from any injected set, and its YAML is valid."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lensdata.config.training import TrainingConfig
from ray_train.core.images import ImageRecipe
from tests.injected import injected_set

pytestmark = pytest.mark.slow

GUIDE = Path(__file__).parents[3] / "docs" / "guide" / "preprocessing.md"
SCRIPT = GUIDE.parent / "pictures" / "preprocessing.py"


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("preprocessing_pictures", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def examples(pictures, tmp_path_factory):
    made = injected_set(tmp_path_factory.mktemp("injected"), count=64, size=71)
    return pictures.read_examples(str(made / "unpaired"), str(made / "paired"))


def test_every_picture_of_the_guide_is_drawn_and_no_other(pictures, examples, tmp_path):
    written = pictures.write_pictures(examples, tmp_path, dpi=20, bare=True)
    named = re.findall(r"\]\(pictures/(preprocessing_\w+\.png)\)", GUIDE.read_text())
    assert sorted(path.name for path in written) == sorted(named)
    for path in written:
        with Image.open(path) as picture:
            assert len(set(picture.convert("L").getdata())) > 10


def test_shipped_pictures_are_light(pictures):
    sizes = {name: (SCRIPT.parent / f"preprocessing_{name}.png").stat().st_size for name in pictures.PICTURES}
    assert max(sizes.values()) < 150_000, sizes


def test_a_row_of_normalised_stamps_is_what_training_prepares(pictures, examples):
    recipe = ImageRecipe(normalisation="residual", crop=63)
    assert torch.equal(pictures.normalised_as(examples, "residual", examples.stamps), recipe.prepare(examples.stamps))


def test_cores_called_hidden_are_those_that_the_view_hides(pictures, examples):
    views = pictures.views_of(pictures.recipe_file("masking_stochastic_r5"))
    x = 1.0 + torch.rand(len(examples.batch), 3, 15, 15)
    view = pictures.augment.augment(
        x, views, seed=pictures.SEED, epoch=1, cutout_ids=examples.batch_ids, indices=examples.batch_ids
    )
    assert pictures.hidden_cores(x, views, examples.batch_ids, 1) == [bool((one == 0).any()) for one in view]


def test_the_shown_pairs_are_a_positive_and_a_negative(examples):
    positive, negative = examples.shown_pairs
    assert (examples.pair_labels[positive], examples.pair_labels[negative]) == (1, 0)
    assert torch.equal(examples.pairs[positive, ..., :3], examples.stamps[0])


def test_the_difference_of_an_own_control_has_less_noise_than_that_of_another_host(pictures, examples):
    scatter = pictures.difference_scatter(examples)
    assert np.median(scatter[examples.pair_labels == 1]) < np.median(scatter[examples.pair_labels == 0])


def test_every_snippet_of_the_guide_is_a_valid_configuration():
    snippets = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(snippets) > 4
    for snippet in snippets:
        TrainingConfig.model_validate(yaml.safe_load(snippet))


def test_the_schedule_of_the_guide_is_the_shipped_one(pictures):
    (snippet,) = re.findall(r"```yaml\n(images:\n  masking:.*?)```", GUIDE.read_text(), re.DOTALL)
    assert (
        TrainingConfig.model_validate(yaml.safe_load(snippet)).images.masking
        == pictures.recipe_file("masking_scheduled").images.masking
    )
