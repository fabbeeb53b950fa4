"""Arcs on hosts without a lens, each beside its control: what is written, what is refused, what trains on it (R-S10, R-P6)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lensdata import storage, tables
from lensdata.audit import baseline
from lensdata.hashing import cutout_id
from lensdata.shards import subsample
from lensdata.shards.folders import open_folder
from lensdata.shards.manifests import read_manifest
from lensdata.shards.reader import open_shard
from lensdata.shards.verification import verify
from lensdata.simulation import inject, lenses
from lensdata.simulation.injection import Grid, unit_arcs
from ray_train import train
from ray_train.core.images import ImageRecipe
from ray_train.diagnostics import theta_e_figures
from tests import planted
from tests.injected import QUICK, host_manifest, injected_set

TRAINING = (
    "images.crop=31", "model.arch=shielded_resnet", "model.preset=h21", "epochs=1", "batch.micro_batch=16",
    "batch.accumulation=1", "schedule.name=constant", "execution.runtime=local", "execution.threads=1", "precision=fp32",
    "trackers.tensorboard=false",
)  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the step for 96 hosts, a fifth of the arcs without light."""
    return injected_set(tmp_path_factory.mktemp("made"), "arcs.arcless_fraction=0.2", "execution.gallery_stamps=6")


def frame(folder: Path) -> pd.DataFrame:
    """A manifest with its stamps in a column."""
    manifest = read_manifest(str(folder))
    return manifest.table.to_pandas().assign(pixels=list(manifest.stamps()))


def injections(made: Path) -> pd.DataFrame:
    return tables.read_table(str(made / "injections"), tables.INJECTIONS).to_pandas().set_index("source_id")


def contents(made: Path) -> list[str]:
    return [
        json.loads((made / name / "_table.json").read_text())["content"] for name in ("", "shards", "paired_shards")
    ]


def test_every_injected_host_is_there_twice_with_its_arc_and_without(made: Path) -> None:
    rows = frame(made / "unpaired")
    assert (rows.groupby("source_id")["label"].apply(sorted).map(tuple) == (0, 1)).all()
    assert (rows["kind"] == np.where(rows["label"] == 1, "injection", "control")).all()
    assert (
        rows["cutout_id"]
        == [cutout_id(source, kind)[0] for source, kind in zip(rows["source_id"], rows["kind"], strict=True)]
    ).all()
    assert set(rows["source_id"]) == set(injections(made).index)
    assert rows.groupby("split")["label"].mean().eq(0.5).all()


def test_stamp_less_control_is_the_arc_that_the_table_of_injections_describes(made: Path) -> None:
    """Drawn again from the parameters alone, each by itself."""
    rows, drawn = frame(made / "unpaired").set_index(["source_id", "label"])["pixels"], injections(made)
    hosts = read_manifest(str(made.parent / "hosts" / "manifest")).table.to_pandas().set_index("source_id")
    for source, values in drawn.head(8).iterrows():
        seeing = hosts.loc[source, [f"psfsize_{band}" for band in "grz"]].to_numpy(np.float64)
        columns = {name: np.array([values[name]], np.float64) for name in lenses.PARAMETERS}
        unit, _ = unit_arcs(columns, seeing[None], Grid(oversampling=2))
        flux = values[[f"source_flux_{band}" for band in "grz"]].to_numpy(np.float64)
        expected = np.moveaxis(unit[0, :, 5:68, 5:68].numpy() * flux[:, None, None], 0, -1)
        np.testing.assert_allclose(
            rows[source, 1] - rows[source, 0], expected, atol=2e-6 * np.abs(rows[source, 0]).max()
        )
        np.testing.assert_allclose(
            values[[f"lensed_flux_{band}" for band in "grz"]].to_numpy(float), expected.sum((0, 1)), rtol=1e-6
        )


def test_arcs_have_the_signal_to_noise_that_their_row_says(made: Path) -> None:
    drawn = injections(made)
    rows = frame(made / "unpaired").set_index(["source_id", "label"])["pixels"]
    for source, values in drawn.head(10).iterrows():
        arc = (rows[source, 1] - rows[source, 0])[..., 1]
        assert np.sqrt((arc.astype(np.float64) ** 2).sum()) / values["pixel_sigma_r"] == pytest.approx(
            values["arc_snr"], rel=1e-3
        )
    dark = drawn["arc_snr"] == 0
    assert 0 < dark.sum() < len(drawn) / 2
    assert drawn.loc[dark, "source_mag_r"].isna().all()
    assert (
        (drawn.loc[~dark, "lensed_flux_r"] / drawn.loc[~dark, "source_flux_r"] / drawn.loc[~dark, "magnification"])
        .between(0.97, 1.03)
        .all()
    )


@pytest.mark.parametrize(("normalisation", "typical"), [("per_sample_robust", 0.8), ("residual", 0.45)])
def test_the_arc_is_still_seen_after_normalisation(made: Path, normalisation: str, typical: float) -> None:
    """Less of it where the round part of the light, and of the arc, is taken off."""
    rows = frame(made / "paired")
    rows = rows[(rows["label"] == 1) & (rows["arc_snr"] > 20)]
    seen = (
        ImageRecipe(normalisation=normalisation, crop=None).prepare(torch.from_numpy(np.stack(rows["pixels"]))).numpy()
    )
    stored = np.moveaxis(np.stack(rows["pixels"]), -1, 1)
    difference, arc = (stack[:, 1] - stack[:, 4] for stack in (seen, stored))
    likeness = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(difference, arc, strict=True)]
    assert np.median(likeness) > typical
    assert np.quantile(likeness, 0.1) > 0.1


def test_no_host_is_in_two_splits_and_splits_are_the_hosts_own(made: Path) -> None:
    hosts = read_manifest(str(made.parent / "hosts" / "manifest")).table.to_pandas().set_index("source_id")["split"]
    for name in ("unpaired", "paired"):
        rows = frame(made / name)
        assert rows.groupby("source_id")["split"].nunique().max() == 1
        assert (rows["split"] == hosts.loc[rows["source_id"]].to_numpy()).all()
    assert (rows["split"] == hosts.loc[rows["control_source_id"]].to_numpy()).all()


def test_pairs_are_an_arc_with_its_own_host_or_two_hosts_without(made: Path) -> None:
    rows, single = frame(made / "paired"), frame(made / "unpaired").set_index("cutout_id")["pixels"]
    plain = frame(made.parent / "hosts" / "manifest").set_index("source_id")["pixels"]
    assert read_manifest(str(made / "paired")).layout().bands == ("g", "r", "z", "g_ctrl", "r_ctrl", "z_ctrl")
    for row in rows.to_dict("records"):
        own = single[row["cutout_id"]] if row["label"] == 1 else plain[row["source_id"]]
        np.testing.assert_array_equal(row["pixels"], np.concatenate([own, plain[row["control_source_id"]]], axis=-1))
    arcs, others = rows[rows["label"] == 1], rows[rows["label"] == 0]
    assert (arcs["source_id"] == arcs["control_source_id"]).all()
    assert (others["source_id"] != others["control_source_id"]).all()
    injected = set(arcs["source_id"])
    assert not injected & (set(others["source_id"]) | set(others["control_source_id"]))


def test_identical_pairs_come_by_name_and_never_alone(tmp_path: Path) -> None:
    rows = frame(injected_set(tmp_path, "paired_negatives=matched_and_identical", count=48, size=24) / "paired")
    others = rows[rows["label"] == 0]
    same = np.array([np.array_equal(pixels[..., :3], pixels[..., 3:]) for pixels in others["pixels"]])
    assert (same == (others["control_match"] == "identical")).all()
    assert same.sum() == (~same).sum() > 0


def test_what_comes_out_depends_on_neither_order_nor_passes(made: Path, tmp_path: Path) -> None:
    hosts = made.parent / "hosts"
    table = read_manifest(str(hosts / "manifest")).table
    order = np.random.default_rng(0).permutation(table.num_rows)
    shuffled = str(hosts / "shuffled")
    for part, rows in enumerate(np.array_split(order, 2)):
        with storage.new_file(f"{shuffled}/dataset/part-{part:05d}.parquet") as path:
            pq.write_table(table.take(pa.array(rows)), path)
    tables.finish_table(shuffled)
    again = ["--output", str(tmp_path / "again"), f"inputs.manifest={shuffled}", *QUICK, "arcs.arcless_fraction=0.2"]
    assert inject.main([*again, "execution.scratch_gb=1e-6", "execution.memory_mb=1", "execution.threads=2"]) == 0
    assert contents(tmp_path / "again") == contents(made)


def test_sources_with_the_shapes_of_pictures_are_drawn_by_key(tmp_path: Path) -> None:
    y, x = np.indices((41, 41)) - 20
    (tmp_path / "pictures").mkdir()
    for number, angle in enumerate((0.0, 0.8, 1.6)):
        lump = np.exp(-0.02 * (x**2 + y**2)) * (1.1 + np.cos(3 * np.arctan2(y, x) + angle))
        np.savez(tmp_path / "pictures" / f"{number}.npz", image=lump.astype(np.float32))
    out = injected_set(tmp_path, f"inputs.sources={tmp_path / 'pictures'}", count=48, size=24)
    drawn = injections(out)
    assert drawn["source_index"].isna().all()
    assert (drawn["lensed_flux_r"] > 0).all()
    assert json.loads((out / "_report.json").read_text())["source_images"] == ["0.npz", "1.npz", "2.npz"]


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = host_manifest(tmp_path / "hosts", 48, 24)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "broken.npz").write_bytes(b"nothing")
    argv = ["--output", str(tmp_path / "out"), f"inputs.manifest={manifest}", f"inputs.sources={tmp_path / 'pictures'}"]
    assert inject.main([*argv, *QUICK]) == 2
    assert "broken.npz cannot be read" in capsys.readouterr().err


def test_counts_add_up_and_excluded_bricks_are_among_them(tmp_path: Path) -> None:
    out = injected_set(tmp_path, "hosts.excluded_bricks=[0460m800]", "max_hosts=40", count=120, size=24)
    report = json.loads((out / "_report.json").read_text())
    assert report["hosts"] + report["dropped_rows"] == report["rows_of_the_manifest"] == 120
    assert set(report["dropped"]) >= {"excluded brick", "type", "beyond max_hosts"}
    assert abs(report["hosts"] - 40) <= 3
    rows = frame(out / "unpaired")
    assert "0460m800" not in set(rows["brickname"])
    assert len(rows) == report["rows"] == 2 * report["injected"]


def test_the_injected_share_is_kept_in_every_split_and_cell(made: Path) -> None:
    report = json.loads((made / "_report.json").read_text())
    assert report["injected"] == pytest.approx(report["hosts"] / 2, abs=1.5)
    for share in report["injected_per_cell"].values():
        taken, whole = map(int, share.split(" of "))
        assert abs(taken - whole / 2) <= 1


def test_the_written_stamps_pass_verification_and_a_gallery_shows_some(made: Path) -> None:
    for name in ("shards", "paired_shards"):
        assert not verify(open_folder(str(made / name))).faults
    assert (made / "gallery.png").read_bytes()[:4] == b"\x89PNG"


def test_nothing_but_pixels_tells_the_labels_apart(made: Path) -> None:
    """Neither what the files say of a stamp nor its row in the catalogue."""
    rows = read_manifest(str(made / "unpaired"))
    said = open_shard(rows.shard_uris()[0]).read_rows(0).to_pandas().drop(columns=["pixel_hash"])
    assert not set(said.columns) & {"kind", "name"}
    hosts = rows.table.to_pandas().sort_values(["source_id", "label"])
    names = [name for name in (*baseline.FEATURES, "psf_bin", "depth_bin", "fold", "split") if name in hosts]
    assert (
        hosts[hosts["label"] == 0][names]
        .reset_index(drop=True)
        .equals(hosts[hosts["label"] == 1][names].reset_index(drop=True))
    )


def test_figures_per_einstein_radius_find_their_columns(made: Path) -> None:
    rows = read_manifest(str(made / "unpaired"))
    logits = np.where(rows.column("label") == 1, 1.0, -1.0).astype(np.float32)
    bins = theta_e_figures(rows, logits)["theta_e_auc"]
    assert sum(entry["n"] for entry in bins) > 15
    assert all(entry["auc"] == 1 for entry in bins)


@pytest.mark.parametrize("name", ["unpaired", "paired"])
def test_a_network_trains_on_it(made: Path, tmp_path: Path, name: str) -> None:
    """The gates before the first epoch refuse pairs of which all of label 0 are identical."""
    argv = [
        "--output",
        str(tmp_path / name),
        f"inputs.manifest={made / name}",
        "images.normalisation=per_sample_robust",
        *TRAINING,
    ]
    assert train.main(argv) == 0
    record = json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])
    assert ("paired_lr_auc" in record) == (name == "paired")


def test_a_subsample_keeps_the_radii(tmp_path: Path) -> None:
    whole = injected_set(tmp_path, count=240, size=24) / "unpaired"
    assert subsample.main(["--output", str(tmp_path / "half"), f"inputs.manifest={whole}", "fraction=0.5"]) == 0
    counts = []
    for folder in (whole, tmp_path / "half"):
        rows = read_manifest(str(folder)).table.to_pandas()
        assert rows.groupby("split")["label"].mean().sub(0.5).abs().max() < 0.1
        counts.append(np.histogram(rows["theta_e"].dropna(), subsample.THETA_E_EDGES_ARCSEC)[0])
    assert np.abs(counts[1] - counts[0] / 2).max() <= 3


def test_a_limit_takes_few_hosts_of_every_split(tmp_path: Path) -> None:
    manifest = host_manifest(tmp_path / "hosts", 96, 24)
    assert (
        inject.main(["--output", str(tmp_path / "out"), f"inputs.manifest={manifest}", *QUICK, "--test-limit", "20"])
        == 0
    )
    report = json.loads((tmp_path / "out" / "_report.json").read_text())
    assert report["hosts"] == 20
    assert set(read_manifest(str(tmp_path / "out" / "unpaired")).column("split")) == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("columns", "settings", "sentence"),
    [
        ({"source_id": np.arange(96) // 4}, (), "splits"),
        ({"source_id": np.arange(96) // 2}, (), "lists host"),
        ({"psfsize_g": np.nan}, (), "'no psfsize': 6"),
        ({"type": "REX"}, (), "no host that passes the cuts"),
        ({}, ("max_hosts=8",), "are needed: raise max_hosts, or"),
        ({}, ("--test-limit", "8"), "are needed: raise --test-limit, or"),
        ({}, ("max_hosts=24", "--test-limit", "8"), "are needed: raise --test-limit or max_hosts, or"),
        ({"type": np.where(np.arange(96) % 9, "REX", "DEV")}, (), "are needed: widen hosts.types"),
        ({}, ("arcs.theta_e_arcsec=[3,1]",), "theta_e_arcsec is (smallest, largest)"),
        ({}, ("arcs.arc_snr=[0,1]",), "arc_snr is"),
        ({}, ("injected_fraction=1",), "injected_fraction"),
        ({}, ("electrons_per_nanomaggy=[1,0,1]",), "above 0"),
    ],
)
def test_what_cannot_be_injected_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], columns: dict, settings: tuple[str, ...], sentence: str
) -> None:
    manifest = host_manifest(tmp_path / "hosts", 96, 16, **columns)
    assert inject.main(["--output", str(tmp_path / "out"), f"inputs.manifest={manifest}", *QUICK, *settings]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert sentence in said
    assert "np." not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("absent", ["psfdepth_r", "brickname"])
def test_a_missing_column_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], absent: str) -> None:
    manifest = Path(host_manifest(tmp_path / "hosts", 48, 16))
    path = next((manifest / "dataset").glob("*.parquet"))
    pq.write_table(pq.read_table(path).drop_columns([absent]), path)
    assert inject.main(["--output", str(tmp_path / "out"), f"inputs.manifest={manifest}", *QUICK]) == 2
    assert f"has no column '{absent}'" in capsys.readouterr().err


def test_pictures_and_other_bands_are_refused(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inject.main(["--output", str(tmp_path / "out"), f"inputs.manifest={made / 'paired'}", *QUICK]) == 2
    assert "stamps with bands ('g', 'r', 'z', 'g_ctrl', 'r_ctrl', 'z_ctrl')" in capsys.readouterr().err


def test_a_planted_core_is_in_the_stamps_of_label_1_alone(made: Path, tmp_path: Path) -> None:
    copy = frame(Path(planted.plant_core(str(made / "unpaired"), str(tmp_path), 0.2))).set_index("cutout_id")
    rows = frame(made / "unpaired").set_index("cutout_id")
    y, x = np.indices((63, 63)) - 31
    for key, row in rows.iterrows():
        added = copy.loc[key, "pixels"] - row["pixels"]
        assert (added[np.hypot(y, x) >= 3] == 0).all()
        assert (added[np.hypot(y, x) < 3] > 0).all() == bool(row["label"])
    assert (copy.loc[rows.index, "theta_e"].fillna(0) == rows["theta_e"].fillna(0)).all()
