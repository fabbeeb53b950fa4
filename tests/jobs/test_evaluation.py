"""Training on the small survey's shards, and the report of it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lensdata import tables
from lensdata.shards.manifests import read_manifest
from ray_train import evaluate, train

pytestmark = pytest.mark.slow

TINY_TRAINING = Path(__file__).parents[2] / "configs" / "training" / "tiny.yaml"


@pytest.fixture(scope="module")
def judged(tiny, built, trained):
    out = trained.parent / "evaluate"
    argv = [f"inputs.run={trained}", f"inputs.manifest={built}/audit_70_15_15", "--output", str(out), "resamples=500"]
    argv += ["smallest_stratum=2"]  # a survey of so few lenses
    assert evaluate.main([*argv, f"pipeline_folder={tiny.folder}"]) == 0
    return out


def test_the_numbers_are_those_of_the_scores(built, trained, judged):
    found = json.loads((judged / "metrics.json").read_text())
    scores = tables.read_table(str(trained / "scores"), tables.SCORES).to_pandas()
    test = scores[scores["split"] == "test"]
    assert found["auc"]["value"] == pytest.approx(roc_auc_score(test["label"], test["logit"]))
    assert found["auc"]["low"] <= found["auc"]["value"] <= found["auc"]["high"]
    manifest = read_manifest(str(built / "audit_70_15_15"))
    assert (found["auc"]["n_positive"], found["auc"]["n_negative"]) == (
        int((manifest.split("test").column("label") == 1).sum()),
        int((manifest.split("test").column("label") == 0).sum()),
    )
    assert set(scores["cutout_id"]) == set(manifest.column("cutout_id").tolist())
    assert np.allclose(test["score"], 1 / (1 + np.exp(-test["logit"].astype(float))), atol=1e-6)


def test_recalibration_is_fitted_on_validation_and_the_splits_are_compared(built, judged):
    found = json.loads((judged / "metrics.json").read_text())
    manifest = read_manifest(str(built / "audit_70_15_15"))
    assert found["recalibration"]["fitted_on"] == "validation split"
    assert found["recalibration"]["n_fit_positive"] == int((manifest.split("val").column("label") == 1).sum())
    assert {entry["name"] for entry in found["strata"]["groups"]["split"]} == {"train", "val", "test"}
    assert sum(entry["n_positive"] for entry in found["strata"]["groups"]["tier"]) == found["auc"]["n_positive"]


def test_the_test_split_is_not_read_where_validation_is_judged(built, trained, tmp_path):
    argv = [f"inputs.run={trained}", f"inputs.manifest={built}/audit_70_15_15", "--output", str(tmp_path / "e")]
    assert evaluate.main([*argv, "resamples=100", "split=val"]) == 0
    found = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert {entry["name"] for entry in found["strata"]["groups"]["split"]} == {"train", "val"}
    assert "half of the val split" in found["recalibration"]["fitted_on"]


class Page(HTMLParser):
    """Collects what a browser would fetch, headings and images."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.figures: list[dict[str, str | None]] = []
        self.anchors: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if values.get("id") else []
        if tag == "img":
            self.images.append(values)
        if tag == "figure" and values.get("class") == "plot":
            self.figures.append(values)
        if tag == "a" and str(values.get("href", "")).startswith("#"):
            self.anchors.append(str(values["href"])[1:])
        address = str(values.get("href") if tag == "link" else values.get("src"))
        if tag in ("script", "iframe") or (tag in ("img", "link") and not address.startswith("data:")):
            self.fetched.append(f"{tag} {values}")


def test_the_report_needs_no_network_and_every_picture_has_a_text(judged):
    page = Page((judged / "report.html").read_text())
    assert page.fetched == []
    assert len(page.images) > 10
    assert all(image["alt"] for image in page.images)
    assert len(page.figures) >= 6
    assert all(figure["aria-label"] for figure in page.figures)
    assert set(page.anchors) <= set(page.ids)


def test_the_report_says_what_was_dropped_and_why(judged):
    text = (judged / "report.html").read_text()
    for words in ("What was dropped, and why", "near lens", "the same source in two sweep files", "empty band"):
        assert words in text


def test_a_run_that_chose_its_checkpoint_on_the_judged_rows_is_refused(built, tmp_path, capsys):
    argv = [
        "--config",
        str(TINY_TRAINING),
        f"inputs.manifest={built}/parity_70_30",
        "--output",
        str(tmp_path / "parity"),
    ]
    assert train.main([*argv, "execution.runtime=local"]) == 0
    argv = [f"inputs.run={tmp_path}/parity", f"inputs.manifest={built}/audit_70_15_15", "--output", str(tmp_path / "e")]
    assert evaluate.main(argv) == 2
    assert "test rows as another split" in capsys.readouterr().err


def test_an_auc_below_the_required_one_fails_the_step(built, trained, tmp_path, capsys):
    argv = [f"inputs.run={trained}", f"inputs.manifest={built}/audit_70_15_15", "--output", str(tmp_path / "e")]
    assert evaluate.main([*argv, "resamples=100", "require_auc_above=1.0"]) == 1
    assert "required is more than 1.0" in capsys.readouterr().err


def test_a_calibration_error_that_is_not_below_the_required_one_fails_the_step(built, trained, tmp_path, capsys):
    argv = [f"inputs.run={trained}", f"inputs.manifest={built}/audit_70_15_15", "--output", str(tmp_path / "e")]
    assert evaluate.main([*argv, "resamples=100", "require_ece_below=0.0"]) == 1
    assert "required is less than 0.0" in capsys.readouterr().err


def test_training_on_a_manifest_without_lenses_is_refused(tiny, built, tmp_path, capsys):
    manifest = tables.read_table(str(built / "audit_70_15_15"), tables.MANIFEST)
    negatives = manifest.filter(np.asarray(manifest["label"]) == 0)
    tables.write_table(negatives, str(built / "negatives_only"), tables.MANIFEST)
    argv = ["--config", str(TINY_TRAINING), f"inputs.manifest={built}/negatives_only", "--output", str(tmp_path / "t")]
    assert train.main([*argv, "execution.runtime=local"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "label 1" in error or "positive" in error or "class" in error
