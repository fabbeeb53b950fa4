"""The job: sweep files in the real schema, truth, sources, and what it refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from lensdata.hashing import pack_source_id
from lensdata.simulation import survey as survey_job
from lensdata.simulation.facts import sweep_columns
from lensdata.simulation.sweeps import sweep_name
from lensdata.simulation.world import Survey


def _sweeps(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: fits.getdata(path, 1) for path in sorted((folder / "sweeps").glob("*.fits"))}


def _ids(rows: np.ndarray) -> np.ndarray:
    return pack_source_id(rows["RELEASE"], rows["BRICKID"], rows["OBJID"])


def test_sweeps_have_the_130_columns_of_dr10_in_order_and_format(tiny_folder: Path) -> None:
    for path in (tiny_folder / "sweeps").glob("*.fits"):
        with fits.open(path) as file:
            file.verify("exception")
            columns = file[1].columns
            assert [(c.name, c.format) for c in columns] == [(c.name, c.format) for c in sweep_columns()]
            assert file[1].header["NAXIS1"] == 505
            assert path.stat().st_size % 2880 == 0


def test_our_copy_of_the_columns_is_that_of_the_survey(real_data: Path) -> None:
    with (real_data / "tractor" / "dr10_sweep_columns.csv").open() as handle:
        published = list(csv.DictReader(handle))
    assert [row["column"] for row in published] == [column.name for column in sweep_columns()]
    formats = {
        "int16": "I",
        "int32": "J",
        "int64": "K",
        "float32": "E",
        "float64": "D",
        "uint8": "B",
        "boolean": "L",
        "float32[5]": "5E",
    }
    for row, column in zip(published, sweep_columns(), strict=True):
        expected = formats.get(row["type"]) or row["type"].removeprefix("char[").rstrip("]") + "A"
        assert column.format == expected, column.name


def test_files_are_named_by_their_boxes_and_hold_their_rows(tiny_folder: Path) -> None:
    for name, rows in _sweeps(tiny_folder).items():
        own = np.array([sweep_name(ra, dec) == name for ra, dec in zip(rows["RA"], rows["DEC"], strict=True)])
        assert own.mean() > 0.9  # the rest are repeats from beyond the edge
        assert set(rows["TYPE"]) <= {"SER", "DEV", "REX", "EXP", "PSF"}
        assert (rows["RELEASE"] == 10000).all()


def test_some_rows_near_edges_are_in_two_files_with_the_same_content(tiny_folder: Path, tiny: Survey) -> None:
    rows = np.concatenate([np.asarray(part) for part in _sweeps(tiny_folder).values()])
    ids = _ids(rows)
    unique, first, counts = np.unique(ids, return_index=True, return_counts=True)
    assert (counts > 1).sum() >= 5
    assert len(unique) == len(tiny.sources["source_id"])
    for repeated in unique[counts > 1]:
        pair = rows[ids == repeated]
        assert pair[0].tobytes() == pair[1].tobytes()
    assert len(first) == len(unique)


def test_sweep_values_are_those_that_are_drawn(tiny_folder: Path, tiny: Survey) -> None:
    order = {int(source): k for k, source in enumerate(tiny.sources["source_id"])}
    for rows in _sweeps(tiny_folder).values():
        k = np.array([order[int(source)] for source in _ids(rows)])
        for band in "griz":
            seen = rows[f"NOBS_{band.upper()}"] > 0
            np.testing.assert_allclose(
                rows[f"FLUX_{band.upper()}"][seen], tiny.sources[f"flux_{band}"][k][seen], rtol=1e-6
            )
            assert (rows[f"FLUX_{band.upper()}"][~seen] == 0).all()
        for column in ("RA", "DEC", "SHAPE_R", "SHAPE_E1", "SERSIC", "MASKBITS", "TYPE", "BRICKNAME"):
            expected = tiny.sources[column.lower()][k]
            np.testing.assert_array_equal(
                rows[column], expected.astype(rows[column].dtype) if expected.dtype.kind == "f" else expected
            )


def test_derived_columns_are_consistent(tiny_folder: Path) -> None:
    for rows in _sweeps(tiny_folder).values():
        observed = rows["NOBS_R"] > 0
        assert (rows["GALDEPTH_R"][observed] < rows["PSFDEPTH_R"][observed]).all()
        assert (rows["GALDEPTH_R"][observed] > 0.3 * rows["PSFDEPTH_R"][observed]).all()
        np.testing.assert_allclose(rows["MW_TRANSMISSION_G"], 10 ** (-0.4 * 3.214 * rows["EBV"]), rtol=1e-5)
        best = np.array(["PSF", "REX", "DEV", "EXP", "SER"])[rows["DCHISQ"].argmax(axis=1)]
        np.testing.assert_array_equal(best, rows["TYPE"])
        assert np.isfinite(np.stack([rows[c.name].astype(float) for c in sweep_columns() if c.format == "E"])).all()


def test_truth_names_the_lenses_and_their_arcs(tiny_folder: Path, tiny: Survey) -> None:
    truth = pd.read_parquet(tiny_folder / "truth.parquet")
    lenses = truth[truth["is_lens"]]
    assert truth["source_id"].dtype == np.int64
    assert truth["source_id"].is_unique
    assert 30 <= len(lenses) <= 40
    assert lenses["theta_e"].between(*tiny.config.lenses.theta_e_arcsec).all()
    assert lenses["arc_snr"].between(*tiny.config.lenses.arc_snr).all()
    assert lenses["arc_mag_r"].between(18, 24).all()
    assert lenses["lens_name"].str.contains("DESI-").all()
    others = truth[~truth["is_lens"]]
    assert others[["theta_e", "arc_snr", "arc_mag_r"]].isna().all(axis=None)
    assert others["lens_name"].isna().all()


def test_a_finished_survey_is_skipped_and_another_configuration_refused(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(Path(__file__).parents[3] / "configs" / "simulation" / "tiny.yaml")
    before = (tiny_folder / "survey.json").stat().st_mtime_ns
    assert survey_job.main(["--config", config, "--output", str(tiny_folder)]) == 0
    assert (
        survey_job.main(["--config", config, "--output", str(tiny_folder), "faults.rate_503=0.5"]) == 0
    )  # faults are not the sky
    assert survey_job.main(["--config", config, "--output", str(tiny_folder), "seed=7"]) == 2
    assert "seed=42 (now 7)" in capsys.readouterr().err
    assert (tiny_folder / "survey.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("galaxies.pool_rows_per_lense=3", "did you mean"),
        ("galaxies.type_mix={EXP: 1.0}", "a mix gives a share"),
        ("sky.ra_max=1", "must exceed"),
        ("lenses.fraction=1.5", "less than or equal to 1"),
        ("sky={ra_min: 200, ra_max: 205, dec_min: -80, dec_max: -75}", "No lens of the list lies in the box"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, complaint: str
) -> None:
    assert survey_job.main(["--output", str(tmp_path / "out"), override]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert "Traceback" not in error
