"""Bins and strata of values that are not there."""

from __future__ import annotations

import numpy as np

from lensdata.catalogue import strata


def test_an_unknown_number_of_exposures_is_in_no_bin_and_no_stratum():
    bins = strata.nobs_bin(np.array([np.nan, 0, 4, 40]))
    assert bins.tolist() == [None, "none", "3-5", "11+"]
    types = np.array(["SER", "SER", "SER", "SER"])
    assert strata.stratum(types, bins).tolist() == [None, None, "SER/3-5", "SER/11+"]


def test_bins_of_whole_numbers_hold_no_objects():
    """A survey has billions of rows, none of which lacks its exposures."""
    assert strata.nobs_bin(np.array([1, 6], np.int16)).dtype.kind == "U"
