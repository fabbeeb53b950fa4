"""The selection function end to end: arcs on galaxies that a run never saw, completeness with intervals, a page (R-E7)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lensdata import storage, tables
from lensdata.audit.completeness import SelectionFunction
from lensdata.config.base import load_config
from lensdata.config.selection import SelectionConfig
from lensdata.hashing import cutout_id
from lensdata.shards.manifests import read_manifest
from lensdata.simulation import lenses
from lensdata.simulation.injection import Grid, on_stamps, unit_arcs
from lensdata.simulation.selection_design import einstein_radius
from ray_train import evaluate, selection_function
from ray_train.realism import as_drawn, real_lenses
from ray_train.scoring import load_scorer
from tests.selection import Trained, trained_on

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained_on(tmp_path_factory.mktemp("selection"))


MANY_NODES = f"grid.arc_snr={list(range(1, 90))}"


def measure(output: Path, trained: Trained, *words: str) -> int:
    return selection_function.main(trained.words(output, *words))


@pytest.fixture(scope="module")
def measured(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("measured") / "out"
    assert measure(output, trained) == 0
    return output


def rows_of(output: Path) -> pd.DataFrame:
    return tables.read_table(str(output), tables.INJECTION_SCORES).to_pandas()


def test_hosts_are_galaxies_that_the_run_has_not_learnt_from(trained: Trained, measured: Path) -> None:
    known = tables.read_table(storage.join(trained.run, "scores")).to_pandas().set_index("cutout_id")
    rows = rows_of(measured)
    used = known.loc[rows["source_id"].unique()]
    assert set(used["split"]) <= {"val", "test"}
    assert (used["label"] == 0).all()


def test_an_injection_is_its_host_and_its_arc_and_every_logit_can_be_made_again(
    trained: Trained, measured: Path
) -> None:
    """The network is shown the stamps anew, by another way than the step's."""
    config = load_config(SelectionConfig, measured / "_config.json")
    scorer = load_scorer(trained.run, "best", torch.device("cpu"))
    manifest = read_manifest(trained.manifest)
    rows = rows_of(measured).sample(12, random_state=1)
    images = scorer.images(manifest.layout())
    hosts = manifest.take_ids(rows["source_id"].tolist())
    stamps = hosts.stamps()
    with torch.inference_mode():
        logits = scorer.model(images.prepare(torch.from_numpy(np.array(stamps)))).squeeze(1).numpy()
    np.testing.assert_allclose(rows["logit_host"], logits, atol=1e-4)
    columns = {name: rows[name].to_numpy() for name in lenses.PARAMETERS}
    seeing = hosts.table.select([f"psfsize_{band}" for band in "grz"]).to_pandas().to_numpy()
    unit, _ = unit_arcs(columns, seeing, Grid(oversampling=config.oversampling))
    unit = on_stamps(unit, *stamps.shape[1:3]).numpy()
    flux = rows[[f"lensed_flux_{band}" for band in "grz"]].to_numpy() / unit.sum(axis=(2, 3))
    together = stamps + np.moveaxis(unit * flux[:, :, None, None], 1, -1)
    with torch.inference_mode():
        logits = scorer.model(images.prepare(torch.from_numpy(together.astype(np.float32)))).squeeze(1).numpy()
    np.testing.assert_allclose(rows["logit"], logits, atol=2e-3)


def test_arcs_are_found_more_often_than_hosts_and_bright_ones_more_often_than_faint(measured: Path) -> None:
    found = json.loads((measured / "selection.json").read_text())
    share = next(row for row in found["shares"] if row["fpr"] == 0.1)
    assert share["with_arc"]["low"] > share["without_arc"]["high"]
    cells = pd.DataFrame(found["per_cell"])
    by = cells[cells["fpr"] == 0.1].groupby("arc_snr")["completeness"].mean()
    assert by[100] > by[30] > by[10]


def test_completeness_is_what_the_logits_and_thresholds_say(trained: Trained, measured: Path) -> None:
    scores = tables.read_table(storage.join(trained.run, "scores")).to_pandas()
    negatives = np.sort(scores[(scores["split"] == "test") & (scores["label"] == 0)]["logit"])[::-1]
    allowed = int(0.1 * len(negatives))
    rows = rows_of(measured)
    hits = rows["logit"] > negatives[allowed]
    own = hits.groupby([rows["theta_e_node"], rows["brightness_node"], rows["psf_bin"], rows["depth_bin"]]).agg(
        ["sum", "size"]
    )
    cells = pd.DataFrame(json.loads((measured / "selection.json").read_text())["per_cell"])
    cells = cells[cells["fpr"] == 0.1].set_index(["theta_e", "arc_snr", "psf_bin", "depth_bin"]).loc[own.index]
    assert (cells["hits"] == own["sum"].to_numpy()).all()
    assert (cells["n"] == own["size"].to_numpy()).all()


def test_the_function_can_be_read_again_without_torch(measured: Path) -> None:
    program = (
        "import sys; from lensdata.audit.completeness import SelectionFunction; "
        f"f = SelectionFunction.load({str(measured / 'selection_function')!r}); "
        "print(f(theta_e=[1.5, 9.0], arc_snr=30.0, psf=1.3, depth=f.conditions['depth'][0, 0], fpr=0.1).tolist()); "
        "assert not {'torch', 'ray', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    inside, outside = json.loads(done.stdout.replace("nan", "NaN"))
    assert 0 <= inside <= 1
    assert np.isnan(outside)


def test_a_rate_that_the_negatives_cannot_hold_says_so(measured: Path) -> None:
    found = json.loads((measured / "selection.json").read_text())
    assert "allows no false positive among" in found["thresholds"][2]["reason"]
    assert found["totals"][2]["value"] is None
    page = (measured / "report.html").read_text()
    assert "allows no false positive among" in page


def test_the_page_has_every_figure_and_names_the_gate_first(measured: Path) -> None:
    page = (measured / "report.html").read_text()
    assert page.index("Realism gate") < page.index("Completeness at FPR")
    for name in ("map_0.1", "map_0.02", "by_theta_e", "by_resolution", "smooth", "conditions", "groups", "deltas"):
        assert (measured / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert page.count("<img ") == 36
    assert not re.search(r'(src|href)="?http', page)


@pytest.mark.ray
def test_workers_of_ray_give_the_same_table(trained: Trained, measured: Path, tmp_path: Path) -> None:
    assert measure(tmp_path / "ray", trained, "execution.num_workers=2", "execution.runtime=ray") == 0
    ours, theirs = (
        rows_of(place).sort_values("injection_id", ignore_index=True) for place in (tmp_path / "ray", measured)
    )
    pd.testing.assert_frame_equal(ours, theirs)


def test_a_missing_cell_is_made_again_and_the_rest_is_kept(trained: Trained, measured: Path, tmp_path: Path) -> None:
    output = tmp_path / "again"
    shutil.copytree(measured, output)
    for name in ("_SUCCESS", "_table.json", "_report.json", "selection.json", "dataset/part-00004.parquet"):
        (output / name).unlink()
    kept = (output / "dataset" / "part-00003.parquet").stat().st_mtime_ns
    assert measure(output, trained) == 0
    assert (output / "dataset" / "part-00003.parquet").stat().st_mtime_ns == kept
    assert (output / "selection.json").read_bytes() == (measured / "selection.json").read_bytes()


def test_the_einstein_radius_can_follow_from_the_host(trained: Trained, tmp_path: Path) -> None:
    manifest = read_manifest(trained.manifest)
    random = np.random.default_rng(3)
    folder = tmp_path / "with_mass"
    table = manifest.table.append_column("sigma_v", pa.array(random.uniform(150, 350, len(manifest))))
    table = table.append_column("z_lens", pa.array(random.uniform(0.1, 0.6, len(manifest))))
    shards = [storage.join(trained.manifest, name) for name in table["shard"].to_pylist()]
    table = table.set_column(table.column_names.index("shard"), "shard", pa.array(shards))
    (folder / "dataset").mkdir(parents=True)
    pq.write_table(table, folder / "dataset" / "part-00000.parquet")
    tables.finish_table(str(folder))
    mass = Trained(str(folder), trained.run)
    few = ("grid.theta_e_from=velocity_dispersion", "grid.arc_snr=[30,100]", "grid.per_cell=20")
    assert measure(tmp_path / "out", mass, *few) == 0
    rows = rows_of(tmp_path / "out")
    known = rows.dropna(subset=["theta_e_node"])
    assert 0 < len(known) < len(rows)
    assert (abs(known["theta_e"] - known["theta_e_node"]) <= 0.5).all()
    hosts = table.to_pandas().set_index("source_id").loc[rows["source_id"]]
    expected = einstein_radius(hosts["sigma_v"].to_numpy(), hosts["z_lens"].to_numpy(), rows["z_source"].to_numpy())
    np.testing.assert_allclose(rows["theta_e"], np.maximum(expected, 0.1))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("checkpoint=last",), "are of checkpoint best and one view"),
        (("grid.theta_e_from=velocity_dispersion",), "has no column 'sigma_v'"),
        (("hosts.mag_r=[5,6]",), "no host that passes the cuts"),
        (("grid.per_host=1", MANY_NODES), "too few for one injection per cell"),
        (("threshold_splits=[]",), "threshold_splits"),
        (("threshold_splits=[train]",), "should be 'val' or 'test'"),
        (("fpr_levels=[0.001,0.0001]",), "allow no false positive at any of fpr_levels=0.001, 0.0001"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_one_sentence(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert measure(tmp_path / "out", trained, *words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("theta_e,arc_snr,psf,weight\n1,30,1.2,1\n", "it has no depth"),
        ("theta_e,arc_snr,psf,depth,weight\n1,bright,1.2,24,1\n", "Column 'arc_snr' of a population holds numbers"),
        ("theta_e,arc_snr,psf,depth,weight\n1,30,1.2,24,\n", "finite, not negative"),
    ],
)
def test_a_population_that_is_none_is_refused_before_anything_is_scored(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    population = tmp_path / "population.csv"
    population.write_text(text)
    assert measure(tmp_path / "out", trained, f"inputs.population={population}") == 2
    said = capsys.readouterr().err
    assert f"inputs.population={population}: " in said
    assert message in said
    assert not (tmp_path / "out" / "dataset").exists()


def test_a_galaxy_that_the_run_knows_with_an_arc_or_as_a_control_carries_none(trained: Trained, tmp_path: Path) -> None:
    manifest = read_manifest(trained.manifest)
    scores = tables.read_table(storage.join(trained.run, "scores")).to_pandas()
    held_out = scores.loc[(scores["split"] == "test") & (scores["label"] == 0), "cutout_id"].to_numpy()[:2]
    learnt = [cutout_id(held_out[:1], "injection")[0], cutout_id(held_out[1:], "control")[0]]
    known = pa.table({"cutout_id": learnt, "split": ["train", "train"]})
    (tmp_path / "scores" / "dataset").mkdir(parents=True)
    pq.write_table(known, tmp_path / "scores" / "dataset" / "part-00000.parquet")
    tables.finish_table(str(tmp_path / "scores"))
    seen = selection_function.as_never_seen(manifest, str(tmp_path)).table.to_pandas().set_index("cutout_id")["split"]
    before = manifest.table.to_pandas().set_index("cutout_id")["split"]
    assert (seen[held_out] == "train").all()
    assert seen.drop(held_out).equals(before.drop(held_out))


def test_injections_are_matched_by_what_was_drawn_whatever_the_axes_are() -> None:
    by_magnitude = {"theta_e": [1.0], "theta_e_drawn": [1.1], "arc_mag": [20.0], "arc_snr_drawn": [33.0]}
    found = as_drawn(pd.DataFrame(by_magnitude | {"mag_g": [20.0], "mag_r": [19.0]}))
    assert found[["theta_e", "arc_snr", "gr"]].iloc[0].tolist() == [1.1, 33.0, 1.0]


def test_arcs_that_somebody_injected_are_no_real_lenses_for_the_gate(trained: Trained) -> None:
    manifest = read_manifest(trained.manifest)
    index = manifest.table.column_names.index("kind")
    injected = np.where(manifest.column("label") == 1, "injection", "plain")
    arcs = replace(manifest, table=manifest.table.set_column(index, "kind", pa.array(injected)))
    assert len(real_lenses(manifest, SelectionConfig())) > 0
    assert len(real_lenses(arcs, SelectionConfig())) == 0


def test_scores_of_another_run_are_refused(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = tmp_path / "scores"
    shutil.copytree(storage.join(trained.run, "scores"), scores)
    for path in (scores / "dataset").iterdir():
        rows = pq.read_table(path)
        other = pa.array(["another"] * len(rows))
        pq.write_table(rows.set_column(rows.column_names.index("run_id"), "run_id", other), path)
    assert measure(tmp_path / "out", trained, f"inputs.scores={scores}") == 2
    assert "has scores of run another" in capsys.readouterr().err


def test_a_population_is_weighted_and_what_lies_outside_is_a_share(
    trained: Trained, measured: Path, tmp_path: Path
) -> None:
    function = SelectionFunction.load(str(measured / "selection_function"))
    depth = float(function.conditions["depth"][0, 0])
    population = pd.DataFrame({
        "theta_e": [0.75, 2.5, 3.5], "arc_snr": [100.0, 100.0, 100.0], "depth": depth,
        "psf": float(function.conditions["psf"][0, 0]),
        "weight": [3.0, 1.0, 1.0],
    })  # fmt: skip
    population.to_csv(tmp_path / "population.csv", index=False)
    assert measure(tmp_path / "fresh", trained, f"inputs.population={tmp_path / 'population.csv'}") == 0
    total = json.loads((tmp_path / "fresh" / "selection.json").read_text())["totals"][0]
    where = {"arc_snr": 100.0, "psf": population["psf"][0], "depth": depth, "fpr": 0.1}
    small, large = float(function(theta_e=0.75, **where)), float(function(theta_e=2.5, **where))
    assert total["value"] == pytest.approx((3 * small + large) / 4, abs=1e-6)
    assert total["outside"] == pytest.approx(0.2)
    assert "20.0% lies outside the grid" in (tmp_path / "fresh" / "report.html").read_text()


def test_the_report_of_the_run_tells_the_gate_and_what_the_light_alone_does(
    trained: Trained, measured: Path, tmp_path: Path
) -> None:
    given = ("resamples=200", f"inputs.manifest={trained.manifest}", f"inputs.run={trained.run}")
    assert evaluate.main(["--output", str(tmp_path / "ev"), *given, f"inputs.selection={measured}"]) == 0
    found = json.loads((tmp_path / "ev" / "metrics.json").read_text())
    whole = json.loads((measured / "selection.json").read_text())
    assert found["selection"]["totals"] == whole["totals"]
    line = next(line for line in found["verdicts"] if line["section"] == "selection")
    assert (line["verdict"], line["value"]) == (whole["realism"]["verdict"], whole["realism"]["auc"]["value"])
    page = (tmp_path / "ev" / "report.html").read_text()
    assert "with the same light scrambled it is" in page
    assert (tmp_path / "ev" / "figures" / "selection.pdf").exists()
    schema = json.loads(resources.files("lensdata.report").joinpath("metrics.schema.json").read_text())
    jsonschema.validate(found, schema)


def test_the_report_refuses_a_selection_function_of_another_run(
    trained: Trained, measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(measured, other)
    described = json.loads((other / "_table.json").read_text())
    described["identity"]["inputs"]["run"] = "another"
    (other / "_table.json").write_text(json.dumps(described))
    given = ("resamples=200", f"inputs.manifest={trained.manifest}", f"inputs.run={trained.run}")
    assert evaluate.main(["--output", str(tmp_path / "ev"), *given, f"inputs.selection={other}"]) == 2
    assert "was made of another run than" in capsys.readouterr().err
