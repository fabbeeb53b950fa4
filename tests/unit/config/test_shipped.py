"""Every YAML file a user starts from is valid and says what its keys mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensdata.config.base import load_config
from lensdata.config.catalogue import MatchPositivesConfig
from lensdata.config.emr import EmrConfig
from lensdata.config.injection import InjectConfig
from lensdata.config.simulation import MockSurveyConfig
from lensdata.config.training import ImportConfig, TrainingConfig
from lensdata.config.tuning import StudyConfig
from lensdata.jobs import JOBS

CONFIGS = Path(__file__).parents[3] / "configs"
NAMED = {
    "survey": JOBS["score"].config,
    "original": MatchPositivesConfig,
    "rings_import": ImportConfig,
    "inject": InjectConfig,
    "emr": EmrConfig,
}


def model_of(path: Path):
    if path.stem in NAMED:
        return NAMED[path.stem]
    by_folder = {"training": TrainingConfig, "simulation": MockSurveyConfig, "tuning": StudyConfig}
    return by_folder.get(path.parent.name) or JOBS[path.stem].config


def files() -> list[Path]:
    return [path for path in sorted(CONFIGS.glob("*/*.yaml")) if path.parent.name != "pipelines"]


def test_there_are_files_to_check():
    assert len(files()) > 10


@pytest.mark.parametrize("path", files(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_shipped_file_is_valid(path):
    load_config(model_of(path), path)


@pytest.mark.parametrize("path", files(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_key_of_a_shipped_file_is_explained(path):
    text = path.read_text().splitlines()
    assert text[0].startswith("# ")
    bare = [line for line in text if line.strip() and not line.lstrip().startswith("#") and "#" not in line]
    # a key that only opens a section may explain itself by its members
    assert [line for line in bare if not line.rstrip().endswith(":")] == []


@pytest.mark.parametrize(
    "name",
    [
        "extract_pool",
        "match_positives",
        "sample_negatives",
        "assign_splits",
        "fetch_cutouts",
        "build_manifests",
        "validate_catalogue",
        "subsample_manifest",
    ],
)
def test_the_catalogue_files_spell_out_the_defaults(name):
    model = JOBS[name].config
    assert load_config(model, CONFIGS / "catalogue" / f"{name}.yaml") == model()


@pytest.mark.parametrize("name", ["gates", "probe", "stack", "evaluate"])
def test_the_audit_files_spell_out_the_defaults(name):
    model = JOBS[name].config
    assert load_config(model, CONFIGS / "audit" / f"{name}.yaml") == model()


def test_the_file_of_injections_spells_out_the_defaults():
    assert load_config(InjectConfig, CONFIGS / "simulation" / "inject.yaml") == InjectConfig()
