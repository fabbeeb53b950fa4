"""What is known of a stamp without its pixels, as columns of numbers (R-E4)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lensdata.audit.baseline import catalogue_values, file_properties, observing_conditions
from tests.samples import random_sample


def test_observing_conditions_are_numbers_of_the_observation_alone() -> None:
    rows = random_sample(5, 5).assign(nobs_z_bin="3-7", mag_z=1.0)
    found = observing_conditions(rows)
    assert found.shape == (10, 14)  # four kinds in three bands, reddening, declination
    for name in ("psfdepth_g", "galdepth_z"):
        assert np.isclose(found, np.log10(rows[[name]].to_numpy(float))).all(axis=0).any()
    one = rows.assign(psfdepth_g=np.where(np.arange(10) == 3, 0.0, rows["psfdepth_g"]))
    assert np.isnan(observing_conditions(one)).sum() == 1  # no depth is unknown, not minus infinity


def test_catalogue_values_have_a_column_per_type() -> None:
    rows = random_sample(20, 20)
    found = catalogue_values(rows)
    kinds = rows["type"].nunique()
    np.testing.assert_array_equal(found[:, -kinds:].sum(axis=1), 1)
    for kind in rows["type"].unique():
        assert any(np.array_equal(column == 1, rows["type"] == kind) for column in found[:, -kinds:].T)


def test_file_properties_tell_routes_and_known_requests() -> None:
    rows = pd.DataFrame(
        {
            "route": ["service", "tiles", None], "layer": ["ls-dr10"] * 3, "request_hash": ["a", None, "c"],
            "missing_frac_g": [0.0, 0.1, 0.0], "edge_score": [0.1, 0.2, 0.3],
        }
    )  # fmt: skip
    found = file_properties(rows)
    np.testing.assert_array_equal(found[:, :2], rows[["edge_score", "missing_frac_g"]])
    np.testing.assert_array_equal(found[:, 2:5], np.eye(3))
    np.testing.assert_array_equal(found[:, 5], [0, 1, 0])


def test_tables_without_such_columns_give_none() -> None:
    rows = pd.DataFrame({"label": [0, 1]})
    assert observing_conditions(rows).shape == catalogue_values(rows).shape == file_properties(rows).shape == (2, 0)
