"""Configuration errors are one sentence; the hash covers meaning only."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensdata.config.base import config_hash, load_config
from lensdata.config.catalogue import SampleNegativesConfig
from lensdata.config.cutouts import FetchCutoutsConfig
from lensdata.config.training import TrainingConfig
from lensdata.errors import InputError


def test_an_unknown_key_names_the_nearest_one():
    with pytest.raises(InputError, match=r"unknown key 'ration'; did you mean 'ratio'"):
        load_config(SampleNegativesConfig, None, ["ration=3"])


def test_an_unknown_nested_key_names_the_nearest_one():
    with pytest.raises(InputError, match=r"did you mean 'confusers.ring.flux_r_min'"):
        load_config(SampleNegativesConfig, None, ["confusers.ring.flux_r_mn=3"])


def test_a_negative_ratio_is_refused_with_its_key_and_value():
    with pytest.raises(InputError, match=r"ratio: .*greater than or equal to 1 \(found -3\)"):
        load_config(SampleNegativesConfig, None, ["ratio=-3"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.yaml does not exist"):
        load_config(SampleNegativesConfig, tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "just text"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"c\.yaml"):
        load_config(SampleNegativesConfig, path)


def test_overrides_beat_the_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("ratio: 7\nseed: 1\n")
    config = load_config(SampleNegativesConfig, path, ["ratio=9"])
    assert (config.ratio, config.seed) == (9, 1)


def test_the_hash_ignores_how_a_job_runs_and_where_it_asks():
    base = config_hash(FetchCutoutsConfig())
    same = ["execution.stamps_per_part=7", "service.url=http://127.0.0.1:1/x", "service.requests_per_second=9"]
    assert config_hash(load_config(FetchCutoutsConfig, None, same)) == base
    for change in ("size=64", "quality.missing_frac_max=0.1", "layer=ls-dr9"):
        assert config_hash(load_config(FetchCutoutsConfig, None, [change])) != base


def test_a_file_may_start_from_another_and_change_single_keys(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("seed: 7\nbatch: {micro_batch: 32, accumulation: 2}\nimages: {bands: [g, r]}\n")
    (tmp_path / "middle.yaml").write_text("extends: base.yaml\nbatch: {accumulation: 5}\n")
    (tmp_path / "deep").mkdir()
    top = tmp_path / "deep" / "top.yaml"
    top.write_text("extends: ../middle.yaml\nimages: {bands: [z]}\n")
    config = load_config(TrainingConfig, top, ["seed=9"])
    assert (config.seed, config.batch.micro_batch, config.batch.accumulation) == (9, 32, 5)
    assert config.images.bands == ("z",)
    assert config.images.normalisation == TrainingConfig().images.normalisation


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: nowhere.yaml", "nowhere.yaml, which .*top.yaml extends, does not exist"),
        ("extends: top.yaml", "extends itself"),
        ("extends: [a, b]", "extends must name one file"),
    ],
)
def test_what_is_extended_must_be_one_other_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "top.yaml").write_text(text + "\n")
    with pytest.raises(InputError, match=message):
        load_config(TrainingConfig, tmp_path / "top.yaml")
