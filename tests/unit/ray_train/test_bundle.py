"""Model bundles: what is in them, that they score as their run did, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensdata import tables
from lensdata.errors import InputError
from lensdata.shards.layout import ImageLayout
from lensdata.shards.manifests import Manifest, read_manifest
from ray_train import bundle as bundles
from ray_train import make_bundle
from ray_train.core.images import NORMALISATIONS, ImageRecipe, Statistics
from ray_train.core.models import build_model

Bundled = dict[str, Path]


def validation(bundled: Bundled, run: str = "one") -> tuple[Manifest, np.ndarray]:
    """Validation rows, and the logits that the run itself gave them."""
    manifest = read_manifest(str(bundled["manifest"])).split("val")
    scores = tables.read_table(str(bundled[run] / "scores"), tables.SCORES).to_pandas().set_index("cutout_id")
    return manifest, scores.loc[manifest.column("cutout_id"), "logit"].to_numpy()


def make(bundled: Bundled, output: Path, *settings: str, runs: tuple[str, ...] = ("one",)) -> int:
    line = [f"inputs.manifest={bundled['manifest']}", *(f"inputs.runs.{name}={bundled[name]}" for name in runs)]
    return make_bundle.main(["--output", str(output), *line, "execution.threads=1", *settings])


@pytest.fixture
def copy(bundled: Bundled, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return Path(shutil.copytree(bundled["bundle"], tmp_path / "copy"))


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The bundle with another record."""
    record = json.loads((folder / "bundle.json").read_text())
    change(record)
    (folder / "bundle.json").write_text(json.dumps(record))
    return folder


def rehashed(folder: Path, name: str) -> Path:
    """The bundle with the hash of a file as it is now: an attacker can write that, too."""
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return changed(folder, lambda record: record["files"].update({name: digest}))


def test_a_bundle_scores_as_its_run_did(bundled: Bundled) -> None:
    manifest, expected = validation(bundled)
    bundle = bundles.load(str(bundled["bundle"]))
    found = bundle.score(manifest.stamps(), manifest.layout(), batch=7)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_bundle_needs_nothing_but_its_folder(
    bundled: Bundled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, expected = validation(bundled)
    stamps, layout = manifest.stamps(), manifest.layout()
    moved = shutil.copytree(bundled["bundle"], tmp_path / "elsewhere")
    for name in ("_SUCCESS", "_table.json", "_report.json", "_config.json"):
        (moved / name).unlink()
    monkeypatch.chdir(tmp_path)
    np.testing.assert_allclose(bundles.load("elsewhere").score(stamps, layout), expected, atol=1e-4)


def test_the_same_run_makes_the_same_bundle(bundled: Bundled, tmp_path: Path) -> None:
    assert make(bundled, tmp_path / "again") == 0
    first, second = (
        json.loads((folder / "bundle.json").read_text()) for folder in (bundled["bundle"], tmp_path / "again")
    )
    assert first["files"]["weights-0.pt"] == second["files"]["weights-0.pt"]
    assert {**first, "git_commit": None} == {**second, "git_commit": None}


def test_several_runs_are_their_mean_logit(bundled: Bundled, tmp_path: Path) -> None:
    assert make(bundled, tmp_path / "both", runs=("one", "two")) == 0
    manifest, one = validation(bundled)
    _, two = validation(bundled, "two")
    found = bundles.load(str(tmp_path / "both")).score(manifest.stamps(), manifest.layout())
    np.testing.assert_allclose(found, (one + two) / 2, atol=1e-4)


def test_a_run_is_not_averaged_with_itself(
    bundled: Bundled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = bundled | {"again": bundled["one"]}
    assert make(twice, tmp_path / "out", runs=("one", "again")) == 2
    assert "is given more than once" in capsys.readouterr().err


def test_figures_of_the_training_split_and_a_choice_of_bands_come_along(
    bundled: Bundled, tmp_path: Path, trained: Callable[..., Path]
) -> None:
    settings = ("images.normalisation=lanusse", "images.dtype=float16", "images.bands=[z,g]", "model.averaging=0.9")
    run = trained(tmp_path / "run", str(bundled["manifest"]), *settings)
    assert make(bundled | {"one": run}, tmp_path / "bundle", "calibration=none") == 0
    manifest, expected = validation(bundled | {"one": run})
    found = bundles.load(str(tmp_path / "bundle")).score(manifest.stamps(), manifest.layout())
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_probabilities_are_calibrated_and_follow_the_prevalence(bundled: Bundled) -> None:
    manifest, logits = validation(bundled)
    label, bundle = manifest.column("label"), bundles.load(str(bundled["bundle"]))
    p = bundle.probability(logits)
    assert p.mean() == pytest.approx(label.mean(), abs=1e-4)  # what a maximum-likelihood line with an offset implies
    prior, rare = label.mean(), 1e-4
    odds = p / (1 - p) * (rare / (1 - rare)) / (prior / (1 - prior))
    np.testing.assert_allclose(bundle.probability(logits, rare), odds / (1 + odds), rtol=1e-6)
    np.testing.assert_allclose(bundle.probability(logits, prior), p, rtol=1e-6)


def test_thresholds_let_no_more_validation_negatives_pass_than_their_rate_allows(bundled: Bundled) -> None:
    rows = make_bundle.validation_rows([str(bundled["one"])], str(bundled["manifest"]))
    rng = np.random.default_rng(0)
    many = rows.iloc[[0] * 3000].assign(label=np.arange(3000) % 6 == 0, logit=rng.normal(size=3000))
    many["logit"] += 2 * many["label"]
    negative = many["logit"][~many["label"]]
    for level, allowed in ((1e-2, 25), (1e-3, 2)):
        found = make_bundle.threshold_at(level, many.astype({"label": int}))
        assert found.false_positives_allowed == allowed
        assert (negative >= found.logit).sum() == found.false_positives <= allowed
        assert found.low < found.logit
    unmeasured = make_bundle.threshold_at(1e-4, many.astype({"label": int}))
    assert unmeasured.logit is None
    assert unmeasured.reason == "2500 validation negatives allow no false positive"


def test_thresholds_and_calibration_never_see_the_test_split(bundled: Bundled, tmp_path: Path) -> None:
    runs = {name: Path(shutil.copytree(bundled[name], tmp_path / name)) for name in ("one",)}
    part = runs["one"] / "scores" / "dataset" / "test.parquet"
    part.unlink()
    assert make(bundled | runs, tmp_path / "bundle") == 0
    first, second = (
        json.loads((folder / "bundle.json").read_text()) for folder in (bundled["bundle"], tmp_path / "bundle")
    )
    assert (first["thresholds"], first["calibration"]) == (second["thresholds"], second["calibration"])


def test_the_interval_of_a_quantile_holds_it_in_19_of_20_samples() -> None:
    rng = np.random.default_rng(3)
    truth, inside = 2.326348, 0  # exceeded by 1% of standard normals
    for _ in range(400):
        low, high = make_bundle.quantile_limits(np.sort(rng.normal(size=1000))[::-1], 0.01)
        inside += low <= truth <= high
    assert 0.93 < inside / 400 <= 1


# --- what is refused -----------------------------------------------------------------------------------------------------


def test_code_in_the_weights_is_not_run(copy: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"

    class Trap:
        def __reduce__(self):
            return (Path.touch, (sprung,))

    torch.save({"weights": Trap(), "statistics": None}, copy / "weights-0.pt")
    with pytest.raises(InputError, match="cannot be read"):
        bundles.load(str(rehashed(copy, "weights-0.pt")))
    assert not sprung.exists()


def test_a_changed_byte_is_noticed(copy: Path) -> None:
    data = bytearray((copy / "weights-0.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "weights-0.pt").write_bytes(data)
    with pytest.raises(InputError, match="is not the file that was written"):
        bundles.load(str(copy))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", "a/b.pt", ".hidden", "s3://bucket/x"])
def test_a_name_that_leads_out_of_the_bundle_is_refused(copy: Path, name: str) -> None:
    with pytest.raises(InputError, match="should match pattern"):
        bundles.load(str(changed(copy, lambda record: record["files"].update({name: "0" * 64}))))
    with pytest.raises(InputError, match="should match pattern"):
        bundles.load(str(changed(copy, lambda record: record["members"][0].update(weights=name))))


def change_parameters(record: dict[str, Any]) -> None:
    record["calibration"]["parameters"] = {"slope": 1.0}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda record: record.update(format_version=99), "has format version 99, this lensdata reads 1"),
        (lambda record: record.update(format="other"), "is not the record of a model bundle"),
        (lambda record: record["files"].pop("weights-0.pt"), "has no SHA-256 of weights-0.pt"),
        (lambda record: record["files"].update({"gone.txt": "0" * 64}), "lacks its file gone.txt"),
        (lambda record: record["members"][0].update(arch="resnet18"), "are not those of resnet18"),
        (lambda record: record["members"][0].update(arch="nosuch"), "unknown architecture 'nosuch'"),
        (lambda record: record["members"][0].update(bands=["g", "i", "z"]), "takes 3 planes of the bands g, i, z"),
        (lambda record: record["members"][0].update(normalisation="magic"), "normalisation 'magic' is unknown"),
        (lambda record: record["members"][0].update(normalisation="lanusse"), "needs figures of the training split"),
        (lambda record: record["members"][0].update(crop=64), "a crop of 64 pixels does not fit"),
        (change_parameters, "platt has the parameters slope, offset"),
        (lambda record: record["calibration"].update(prevalence=0), "calibration.prevalence"),
        (lambda record: record.update(surprise=1), "surprise"),
    ],
)  # fmt: skip
def test_a_record_that_does_not_fit_is_refused_in_a_sentence(
    copy: Path, change: Callable[..., None], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        bundles.load(str(changed(copy, change)))


def test_a_folder_that_is_no_bundle_and_a_broken_record_are_named(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no bundle\.json"):
        bundles.load(str(tmp_path))
    (copy / "bundle.json").write_text("{")
    with pytest.raises(InputError, match="is not valid JSON"):
        bundles.load(str(copy))
    (copy / "bundle.json").write_bytes(b" " * (2 << 20))
    with pytest.raises(InputError, match="more than any record"):
        bundles.load(str(copy))


def test_a_bundle_can_be_pinned(copy: Path) -> None:
    digest = bundles.load(str(copy)).sha256
    bundles.load(str(copy), sha256=digest)
    with pytest.raises(InputError, match=f"has SHA-256 {digest}, expected 0000"):
        bundles.load(str(copy), sha256="0" * 64)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"bands": ("g", "r", "i")}, "have bands g, r, i, but the model was trained on g, r, z"),
        ({"unit": "rgb8"}, "have unit rgb8, but the model was trained on nanomaggy"),
        ({"pixscale_arcsec": 0.2}, "have 0.2 arcsec per pixel, but the model was trained on 0.262"),
        ({"shape": (18, 16, 3)}, "have size 18 x 16 pixels, but the model was trained on 16 x 16"),
    ],
)
def test_stamps_of_another_kind_are_refused(bundled: Bundled, change: dict[str, Any], sentence: str) -> None:
    layout = replace(read_manifest(str(bundled["manifest"])).layout(), **change)
    with pytest.raises(InputError, match=sentence):
        bundles.load(str(bundled["bundle"])).score(np.zeros((1, *layout.shape), np.float32), layout)


def test_a_run_and_a_manifest_that_do_not_belong_together_are_refused(
    bundled: Bundled, tmp_path: Path, arc_manifest: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(bundled | {"manifest": Path(arc_manifest())}, tmp_path / "out") == 2
    assert "was trained on a manifest of content" in capsys.readouterr().err
    assert make(bundled | {"one": tmp_path}, tmp_path / "out", "--force") == 2
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_was_changed_after_its_scores_makes_no_bundle(
    bundled: Bundled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(bundled["one"], tmp_path / "one"))
    best = json.loads((run / "best.json").read_text())
    other = (
        bundled["two"] / "checkpoints" / f"{json.loads((bundled['two'] / 'best.json').read_text())['checkpoint']}.pt"
    )
    data = other.read_bytes()
    (run / "checkpoints" / f"{best['checkpoint']}.pt").write_bytes(data)
    (run / "best.json").write_text(json.dumps(best | {"sha256": hashlib.sha256(data).hexdigest()}))
    assert make(bundled | {"one": run}, tmp_path / "out") == 1
    assert "differ from the run's" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_that_ranks_lenses_below_others_is_no_finder(bundled: Bundled) -> None:
    rows = make_bundle.validation_rows([str(bundled["one"])], str(bundled["manifest"]))
    with pytest.raises(InputError, match="this run is no finder"):
        make_bundle.calibration_of(rows.assign(logit=-rows["logit"]), "platt")


def test_the_card_says_what_is_not_known(bundled: Bundled) -> None:
    card = (bundled["bundle"] / "model_card.md").read_text()
    assert "Not known: the bundle was made without an evaluation." in card
    assert "validation negatives allow no false positive" in card
    assert "no audit was given" in card


# --- ONNX ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_onnx_scores_real_stamps_as_torch_does_at_any_batch_size(bundled: Bundled, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from ray_train import onnx_export

    assert make(bundled, tmp_path / "onnx", "onnx=true") == 0
    manifest, expected = validation(bundled)
    model = (tmp_path / "onnx" / "model.onnx").read_bytes()
    for batch in (1, 5, len(expected)):
        np.testing.assert_allclose(onnx_export.run(model, manifest.stamps(), batch), expected, atol=1e-4)
    record = json.loads((tmp_path / "onnx" / "bundle.json").read_text())
    assert record["onnx"]["max_difference"] < record["onnx"]["tolerance"]
    assert record["files"]["model.onnx"] == hashlib.sha256(model).hexdigest()


def test_an_onnx_model_beyond_its_tolerance_fails_the_step(
    bundled: Bundled, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    _, logits = validation(bundled)
    monkeypatch.setattr(make_bundle.onnx_export, "export", lambda finder, shape: b"")
    monkeypatch.setattr(make_bundle.onnx_export, "run", lambda model, stamps: np.sort(logits) + np.float32(0.002))
    assert make(bundled, tmp_path / "out", "onnx=true", "checked_stamps=4096") == 1
    assert "ONNX and torch differ by up to 0.002" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_onnx_without_its_packages_is_a_sentence(
    bundled: Bundled, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_bundle.onnx_export.importlib.util, "find_spec", lambda name: None)
    assert make(bundled, tmp_path / "out", "onnx=true") == 2
    assert "install the extra lensdata[onnx]" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NORMALISATIONS if name != "rgb8"])
def test_every_normalisation_is_exported_with_missing_pixels_and_empty_bands(name: str) -> None:
    pytest.importorskip("onnxruntime")
    from ray_train import onnx_export

    generator = torch.Generator().manual_seed(0)
    measured = NORMALISATIONS[name].measured
    recipe = ImageRecipe(
        normalisation=name, crop=21, planes=(2, 0),
        statistics=Statistics(torch.randn(2, 21, 21, generator=generator), torch.tensor([0.7, 1.3])) if measured else None,
    )  # fmt: skip

    class Prepared(bundles.Finder):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.networks = torch.nn.ModuleList([build_model("shielded_resnet", 2, preset="h21").eval()])
            self.recipes = [recipe]

    finder = Prepared()
    stamps = torch.randn(6, 65, 65, 3, generator=generator)
    stamps[0, :7] = torch.nan
    stamps[1] = 0
    stamps[2, ..., 0] = 0
    stamps[3] = stamps[3].round()  # ties
    with torch.no_grad():
        expected = finder(stamps).numpy()
    assert np.isfinite(expected).all()
    found = onnx_export.run(onnx_export.export(finder, (65, 65, 3)), stamps.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_layout_without_a_scale_is_taken_on_trust(bundled: Bundled) -> None:
    bundle = bundles.load(str(bundled["bundle"]))
    layout = ImageLayout(shape=(16, 16, 3), dtype="float32", bands=("g", "r", "z"), unit="nanomaggy")
    assert np.isfinite(bundle.score(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), layout)).all()
