"""Sources of tables that others made, as they come."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

from lensdata.catalogue.positives import match, read_sources
from lensdata.config.catalogue import MatchPositivesConfig

ROWS = pd.DataFrame(
    {"RA": [10.0, 20.0], "DEC": [-5.0, 5.0], "TYPE": ["SER ", "DEV "], "BRICKNAME": ["0100m050 ", "0200p050"]}
)


@pytest.mark.parametrize("ending", ["csv", "parquet", "fits"])
def test_blanks_around_a_type_do_not_hide_its_stratum(tmp_path, ending):
    path = tmp_path / f"sources.{ending}"
    frame = ROWS.assign(NOBS_Z=np.array([4, 12], np.int16))
    {"csv": lambda: frame.to_csv(path, index=False), "parquet": lambda: frame.to_parquet(path),
     "fits": lambda: Table.from_pandas(frame).write(path)}[ending]()  # fmt: skip
    sources = read_sources(str(path))
    assert sources["type"].tolist() == ["SER", "DEV"]
    assert sources["brickname"].tolist() == ["0100m050", "0200p050"]
    assert sources["stratum"].tolist() == ["SER/3-5", "DEV/11+"]


@pytest.mark.parametrize("missing", [None, np.nan])
def test_a_source_without_exposures_has_no_stratum(tmp_path, missing):
    frame = ROWS.assign(NOBS_Z=pd.array([4, missing], dtype="Int16") if missing is None else [4.0, missing])
    frame.to_parquet(tmp_path / "sources.parquet")
    sources = read_sources(str(tmp_path / "sources.parquet"))
    assert sources["stratum"].tolist() == ["SER/3-5", None]
    assert sources["nobs_z_bin"].tolist() == ["3-5", None]


def test_a_table_without_exposures_has_no_strata(tmp_path):
    ROWS.to_csv(tmp_path / "sources.csv", index=False)
    sources = read_sources(str(tmp_path / "sources.csv"))
    assert sources["stratum"].isna().all()
    assert sources["nobs_z_bin"].isna().all()


@pytest.mark.parametrize(("search", "found"), [(4.0, False), (6.0, True)])
def test_the_nearest_source_is_named_within_the_search_radius(tmp_path, search, found):
    ROWS.to_csv(tmp_path / "sources.csv", index=False)
    sources = read_sources(str(tmp_path / "sources.csv"))
    lens = {"name": ["a"], "ra": [10.0], "dec": [-5.0 + 5 / 3600], "grading": ["confident"], "tier": ["A"]}
    _, unmatched = match(pd.DataFrame(lens), sources, MatchPositivesConfig(), search)
    assert unmatched["reason"].tolist() == ["no_source_in_radius"]
    assert unmatched["nearest_source_id"].notna().tolist() == [found]
