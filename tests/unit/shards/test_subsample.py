"""The stratified subsample: counts, balance, nesting, order."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensdata import storage, tables
from lensdata.shards import subsample as job
from lensdata.shards.manifests import read_manifest
from lensdata.shards.subsample import subsample, wanted

CELLS = ["split", "label", "psf_bin", "depth_bin", "radius"]


def manifest(seed: int, count: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    label = (rng.random(count) < 0.3).astype(np.int8)
    return pd.DataFrame(
        {
            "cutout_id": rng.choice(2**55, count, replace=False),
            "split": rng.choice(["train", "val", "test"], count, p=[0.7, 0.2, 0.1]),
            "label": label,
            "psf_bin": pd.array(rng.choice([0, 1, 2], count, p=[0.6, 0.3, 0.1]), dtype="Int8"),
            "depth_bin": pd.array(np.where(rng.random(count) < 0.2, None, rng.integers(0, 3, count)), dtype="Int8"),
            "theta_e": np.where(label == 1, rng.uniform(0.4, 3.2, count), np.nan),
        }
    )


def chosen(frame: pd.DataFrame, fraction: float, seed: int = 42) -> pd.DataFrame:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return frame.iloc[subsample(table, fraction, seed)]


def by_cell(frame: pd.DataFrame) -> pd.Series:
    """Counts per cell, the Einstein radii binned by pandas."""
    edges = [-np.inf, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, np.inf]
    binned = frame.assign(radius=pd.cut(frame["theta_e"], edges, right=False).cat.codes)
    return binned.groupby(CELLS, dropna=False, observed=True).size()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 400), fraction=st.floats(0.01, 1.0))
def test_every_split_and_label_keeps_exactly_its_share_and_every_cell_nearly(seed, count, fraction):
    frame = manifest(seed, count)
    part = chosen(frame, fraction)
    whole, kept = (rows.groupby(["split", "label"]).size() for rows in (frame, part))
    assert kept.to_dict() == {key: wanted(int(size), fraction) for key, size in whole.items()}
    cells, taken = by_cell(frame), by_cell(part)
    found = taken.reindex(cells.index, fill_value=0)
    for key, group in cells.groupby(level=["split", "label"]):
        share = kept[key] / whole[key]
        # Sainte-Lague: all cells are cut at one rank t, so a cell of n holds t n to within a half (and one tie); t differs
        # from the share by at most half a row per cell
        slack = 1.0 + group * (0.5 * len(group) + 1) / whole[key]
        assert (np.abs(found.loc[group.index] - share * group) <= slack).all()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    small=st.floats(0.01, 1.0),
    large=st.floats(0.01, 1.0),
    order=st.integers(0, 2**32 - 1),
)
def test_a_smaller_share_is_inside_a_larger_one_and_the_order_of_rows_does_not_matter(seed, small, large, order):
    frame = manifest(seed, 200)
    small, large = sorted((small, large))
    inner, outer = (set(chosen(frame, fraction)["cutout_id"]) for fraction in (small, large))
    assert inner <= outer
    assert set(chosen(frame.sample(frac=1, random_state=order), small)["cutout_id"]) == inner


def test_distributions_are_kept_and_a_seed_gives_other_rows():
    frame = manifest(1, 20_000)
    part = chosen(frame, 0.10)
    assert abs(part["label"].mean() - frame["label"].mean()) < 1e-3
    lenses, some = frame["theta_e"].dropna(), part["theta_e"].dropna()
    assert abs(lenses.mean() - some.mean()) < 0.05
    for name in ("psf_bin", "depth_bin"):
        shares = [rows[name].value_counts(normalize=True, dropna=False) for rows in (frame, part)]
        assert (shares[0] - shares[1]).abs().max() < 0.005
    other = chosen(frame, 0.10, seed=43)
    assert len(other) == len(part)
    assert len(set(other["cutout_id"]) & set(part["cutout_id"])) < 0.2 * len(part)


def test_a_manifest_without_bins_keeps_label_balance():
    frame = manifest(2, 500)[["cutout_id", "split", "label"]]
    part = chosen(frame, 0.2)
    assert part.groupby(["split", "label"]).size().sum() == len(part) == pytest.approx(100, abs=3)


@pytest.fixture
def manifest_uri(import_stamps) -> str:
    rng = np.random.default_rng(0)
    return import_stamps(rng.normal(size=(60, 8, 8, 3)).astype(np.float32), np.arange(60) % 3 == 0)


def test_training_reads_a_subsample_and_finds_the_same_pixels(manifest_uri, tmp_path):
    uri = manifest_uri
    assert job.main([f"inputs.manifest={uri}", "--output", str(tmp_path / "runs" / "part"), "fraction=0.4"]) == 0
    whole, part = read_manifest(uri), read_manifest(str(tmp_path / "runs" / "part"))
    assert 20 <= len(part) <= 28
    assert all(name.startswith("..") for name in part.table["shard"].to_pylist())  # both folders can be moved together
    same = whole.take_ids(part.column("cutout_id").tolist())
    assert np.array_equal(part.stamps(), same.stamps())
    assert storage.read_json(str(tmp_path / "runs" / "part" / "_table.json"))["table"] == tables.MANIFEST.name


def test_a_share_outside_its_range_is_refused(manifest_uri, tmp_path, capsys):
    argv = [f"inputs.manifest={manifest_uri}", "--output", str(tmp_path / "part"), "fraction=1.5"]
    assert job.main(argv) == 2
    assert "fraction" in capsys.readouterr().err
