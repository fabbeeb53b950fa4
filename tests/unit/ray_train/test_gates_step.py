"""The step of the gates: one table from a manifest, floors and verdicts, one sentence for bad input (R-E4)."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lensdata.audit import features
from lensdata.config.gates import GatesConfig
from lensdata.shards.layout import ImageLayout
from lensdata.shards.manifests import read_manifest
from lensdata.steps import JobRun
from ray_train import gates
from ray_train.core.images import ImageRecipe
from tests import planted

pytestmark = pytest.mark.slow

QUICK = ("sample_size=240", "resamples=100", "images.normalisation=identity", "caliper=1")

SMALL = "images.crop=31"  # no sky in what the network sees, and less to measure


@pytest.fixture(scope="module")
def clean() -> planted.Planted:
    return planted.clean_set(800, seed=3, size=63)


@pytest.fixture(scope="module")
def manifest(clean: planted.Planted, tmp_path_factory: pytest.TempPathFactory) -> str:
    return planted.write_manifest(str(tmp_path_factory.mktemp("clean")), clean)


def run(folder: Path, manifest: str, *settings: str, code: int = 0) -> dict[str, Any]:
    assert gates.main(["--output", str(folder / "gates"), f"inputs.manifest={manifest}", *QUICK, *settings]) == code
    written = folder / ("gates-failed" if code == 1 else "gates") / "gates.json"
    return json.loads(written.read_text(), parse_constant=pytest.fail) if written.exists() else {}


def test_a_manifest_gives_floors_and_verdicts_and_the_matching_behind_them(tmp_path: Path, manifest: str) -> None:
    found = run(tmp_path, manifest)
    entries = found["gates"]
    assert {entry["gate"] for entry in entries} == set(gates.gates.GATES) - {"pair"}
    assert {entry["learner"] for entry in entries} == {"logistic", "trees"}
    by_sample = {sample: {e["gate"] for e in entries if e["sample"] == sample} for sample in ("random", "host_matched")}
    assert by_sample["host_matched"] == {
        "catalogue", "core", "profile", "annulus", "blueness", "fine_structure",
    }  # fmt: skip
    for entry in entries:
        assert (entry["verdict"] == "FLOOR") == (
            entry["gate"] in by_sample["host_matched"] and entry["sample"] == "random"
        )
        assert (entry["limits"] is None) == (entry["verdict"] == "FLOOR")
        assert entry["auc"]["low"] <= entry["auc"]["value"] <= entry["auc"]["high"]
        assert entry["message"].endswith(".")
    inputs = {(entry["gate"], entry["input"]) for entry in entries}
    assert {("background", "stored"), ("background", "model"), ("files", "stored"), ("core", "model")} <= inputs
    assert not [entry for entry in entries if entry["verdict"] == "FAIL" and entry["sample"] == "random"]
    assert found["sample"] | {"n_read": 0} == {
        "n": 240, "n_positive": 120, "n_read": 0, "splits": ["train", "val"], "folds": 5, "folded_by": "stamps",
        "seed": 42, "negatives": "random",
    }  # fmt: skip
    matched = found["matching"]
    assert matched["pairs"] + sum(matched["unmatched"].values()) == matched["wanted"] == 120
    assert {line["column"] for line in matched["balance"]} >= {"mag_z", "gr", "rz", "shape_r", "nobs", "psfsize"}
    assert (tmp_path / "gates" / "_SUCCESS").exists()


def test_a_route_that_carries_the_label_fails_the_step_where_that_is_asked(
    tmp_path: Path, clean: planted.Planted, capsys: pytest.CaptureFixture[str]
) -> None:
    told = planted.write_manifest(str(tmp_path / "set"), planted.with_route(clean))
    found = run(tmp_path, told, "fail_on=FAIL", "negatives=host_matched", SMALL, code=1)
    assert {entry["gate"] for entry in found["gates"] if entry["verdict"] == "FAIL"} == {"files"}
    assert found["matching"] is None
    assert "gates say FAIL, first files" in capsys.readouterr().err
    assert not (tmp_path / "gates").exists()


def test_injections_are_alike_hosts_by_construction(tmp_path: Path, clean: planted.Planted) -> None:
    kinds = np.where(clean.labels == 1, "injection", "control")
    found = run(tmp_path, planted.write_manifest(str(tmp_path / "set"), clean, kind=kinds), SMALL)
    assert found["sample"]["negatives"] == "host_matched"
    assert {entry["sample"] for entry in found["gates"]} == {"host_matched"}


class Trained:
    """Stands for a run's network."""

    run = SimpleNamespace(run_id="r1")

    def __init__(self, bands: tuple[str, ...] = ("g", "r", "z"), unit: str = "nanomaggy") -> None:
        self.network = {"bands": bands, "unit": unit}

    def images(self, layout: ImageLayout) -> ImageRecipe:
        return ImageRecipe(normalisation="identity", crop=31)


def test_stamps_that_a_run_cannot_take_are_refused(
    tmp_path: Path, manifest: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gates, "load_scorer", lambda uri, checkpoint, device: Trained(bands=("r",)))
    (tmp_path / "run").mkdir()
    run(tmp_path, manifest, f"inputs.run={tmp_path / 'run'}", "negatives=host_matched", code=2)
    assert "bands g, r, z in nanomaggy, but run r1 was trained on r in nanomaggy" in capsys.readouterr().err


def test_a_run_says_how_stamps_are_prepared(tmp_path: Path, manifest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "load_scorer", lambda uri, checkpoint, device: Trained())
    (tmp_path / "run").mkdir()
    found = run(tmp_path, manifest, f"inputs.run={tmp_path / 'run'}", "negatives=host_matched")
    core = next(entry for entry in found["gates"] if entry["gate"] == "core")
    background = next(e for e in found["gates"] if (e["gate"], e["input"]) == ("background", "model"))
    assert core["n_features"] == 207
    assert background["verdict"] == "NOT MEASURED"


def test_a_normalisation_by_figures_of_the_set_takes_those_of_the_sample(tmp_path: Path, manifest: str) -> None:
    part = read_manifest(manifest).split("val")
    request = JobRun(
        GatesConfig(images={"normalisation": "asinh", "crop": 31}), {"manifest": manifest}, "", "", False, False, None
    )
    statistics = gates.recipe_for(request, part).statistics
    assert statistics is not None
    np.testing.assert_allclose(statistics.sigma, planted.NOISE, rtol=0.3)


def test_features_are_those_of_the_stamps_in_the_order_of_the_rows(manifest: str, clean: planted.Planted) -> None:
    part = read_manifest(manifest).split("val")
    config = GatesConfig()
    recipe = gates.image_recipe(config, part.layout())
    measured = gates.measure(part, recipe, config)
    ids = part.column("cutout_id").astype(np.int64)
    np.testing.assert_allclose(
        measured["background", "stored"], features.of_stored(clean.stamps[ids])["background"], rtol=1e-5, atol=1e-6
    )
    routes = gates.file_columns(part)["route"].tolist()
    assert routes == clean.rows["route"].iloc[ids].tolist()


def test_only_the_row_groups_of_the_sample_are_read(manifest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_manifest(manifest)
    read: list[int] = []
    reader = gates.group_reader
    monkeypatch.setattr(
        gates,
        "group_reader",
        lambda places, layout: lambda group: (read.append(group), reader(places, layout)(group))[1],
    )
    part = whole.where(whole.column("row_group").astype(int) % 3 == 1)
    groups = len(np.unique(part.column("row_group")))
    assert sum(len(stamps) for stamps in gates.batches(part, part.layout())) == len(part)
    assert len(read) == len(set(read)) == groups


def test_others_are_drawn_where_the_positives_are(tmp_path: Path, clean: planted.Planted) -> None:
    few = np.flatnonzero(clean.labels == 1)[:10]
    rows = read_manifest(planted.write_manifest(str(tmp_path / "set"), clean, group_rows=100))
    labels = np.isin(np.arange(len(rows)), few).astype(np.int64)
    near = gates.read_with(rows, labels, few)
    group = rows.column("row_group")
    assert set(group[near]) == (set(group[few]) if near.sum() < len(rows) else set(group))
    drawn = gates.draw(rows, labels, GatesConfig(sample_size=40))
    assert labels[drawn].sum() == 10
    assert len(drawn) == 30


@pytest.mark.parametrize(
    ("absent", "folded_by"),
    [((), "patches of sky"), (("fold",), "patches of sky"), (("healpix_128",), "stamps"), (("fold", "healpix_128"), "stamps")],
)  # fmt: skip
def test_folds_follow_the_sky_as_far_as_the_manifest_knows_it(absent: tuple[str, ...], folded_by: str) -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({
        "label": rng.integers(0, 2, 300), "fold": rng.integers(0, 5, 300), "healpix_128": rng.integers(0, 80, 300),
        "group_id": np.arange(300) // 3 * 3,  # of three stamps each, in up to three pixels
    })  # fmt: skip
    rows["healpix_128"] = rows["healpix_128"].where(
        rows.index % 30 < 3, rows.groupby("group_id")["healpix_128"].transform("first")
    )
    known = rows.drop(columns=list(absent))
    folds, how = gates.sky_folds(known, seed=1)
    assert how == folded_by
    assert len(np.unique(folds)) == 5
    if "fold" in known:
        np.testing.assert_array_equal(folds, rows["fold"])
        return
    together = rows.assign(found=folds).groupby
    assert together("group_id")["found"].nunique().max() == 1  # duplicates that span pixels, too
    if folded_by == "patches of sky":
        assert together("healpix_128")["found"].nunique().max() == 1


def test_a_manifest_that_does_not_know_its_pixels_says_that_folds_are_of_stamps() -> None:
    """As an imported one: the column is there and null, folds are drawn at random."""
    rows = pd.DataFrame({"label": np.arange(60) % 2, "fold": np.arange(60) % 5, "healpix_128": [None] * 60})
    assert gates.sky_folds(rows, seed=1)[1] == "stamps"
    assert gates.sky_folds(rows.drop(columns="fold"), seed=1)[1] == "stamps"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda found: found.labels * 0, "0 rows of label 1"),
        (lambda found: (np.arange(len(found.labels)) < 10).astype(int), "the gates need 20 of each"),
    ],
)
def test_a_class_that_is_absent_is_one_sentence(
    tmp_path: Path, clean: planted.Planted, change: Any, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = planted.Planted(clean.stamps, change(clean), clean.folds, clean.rows)
    run(tmp_path, planted.write_manifest(str(tmp_path / "set"), broken), code=2)
    assert sentence in capsys.readouterr().err


def test_a_manifest_of_bare_stamps_is_judged_by_its_pixels(tmp_path: Path, clean: planted.Planted) -> None:
    """No catalogue, no conditions: those gates say so, no host can be matched, and nothing breaks."""
    bare = planted.Planted(clean.stamps, clean.labels, clean.folds, clean.rows.filter(regex="route|edge|missing"))
    found = run(tmp_path, planted.write_manifest(str(tmp_path / "set"), bare), SMALL)
    unmeasured = {(e["gate"], e["sample"]) for e in found["gates"] if e["verdict"] == "NOT MEASURED"}
    assert ("metadata", "random") in unmeasured
    assert ("core", "host_matched") in unmeasured
    assert found["matching"]["pairs"] == 0
    assert "Core" in found["not_judged"]
    assert found["verdict"] in ("NOT MEASURED", "WARN")


def test_a_crop_without_sky_leaves_the_sky_of_the_stored_stamps(tmp_path: Path, manifest: str) -> None:
    found = run(tmp_path, manifest, SMALL)
    verdicts = {(e["gate"], e["input"]): e["verdict"] for e in found["gates"] if e["sample"] == "random"}
    assert verdicts["background", "model"] == "NOT MEASURED"
    assert verdicts["background", "stored"] != "NOT MEASURED"
