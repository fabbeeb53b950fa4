"""Groups of stamps that share sky, and the rule that keeps them in one split."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord, search_around_sky
from hypothesis import given, settings
from hypothesis import strategies as st

from lensdata.sky import groups, splits
from lensdata.sky.healpix import ang2pix

RADIUS = 37.0


def clumps(seed: int, dec: float, ra: float, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objects strewn so densely that chains form, about a place where a naive search goes wrong; source_ids in no order."""
    rng = np.random.default_rng(seed)
    spread = RADIUS / 3600 * np.sqrt(count) / 2
    decs = dec + rng.normal(0, spread, count)
    ras = ra + rng.normal(0, spread, count) / max(np.cos(np.radians(dec)), 1e-3)
    over = np.abs(decs) > 90  # across a pole
    decs = np.where(over, np.sign(decs) * 180 - decs, decs)
    return rng.choice(2**50, count, replace=False).astype(np.int64), np.where(over, ras + 180, ras) % 360, decs


def closure_by_hand(ids: np.ndarray, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, bool]:
    """Groups by astropy's search and a union-find; and whether a pair lies so near the radius that rounding decides."""
    sky = SkyCoord(ra, dec, unit="deg")
    one, two, apart, _ = search_around_sky(sky, sky, (RADIUS + 0.01) * u.arcsec)
    apart = apart.to_value(u.arcsec)
    parent = list(range(len(ids)))

    def root(member: int) -> int:
        while parent[member] != member:
            member = parent[member]
        return member

    for a, b in zip(one[apart <= RADIUS], two[apart <= RADIUS], strict=True):
        parent[root(a)] = root(b)
    roots = np.array([root(member) for member in range(len(ids))])
    smallest = {value: ids[roots == value].min() for value in np.unique(roots)}
    return np.array([smallest[value] for value in roots]), bool((np.abs(apart - RADIUS) < 1e-6).any())


PLACES = {
    "seed": st.integers(0, 2**32 - 1),
    "dec": st.sampled_from([-90.0, -33.0, 0.0, 89.99, 90.0]),
    "ra": st.sampled_from([0.0, 123.4, 359.999]),
    "count": st.integers(1, 60),
}


@settings(max_examples=60, deadline=None)
@given(**PLACES)
def test_groups_are_the_closure_of_friends_everywhere_on_the_sky(seed, dec, ra, count):
    ids, ras, decs = clumps(seed, dec, ra, count)
    expected, undecided = closure_by_hand(ids, ras, decs)
    if not undecided:
        assert np.array_equal(groups.group_ids(ids, ras, decs, RADIUS), expected)


@settings(max_examples=40, deadline=None)
@given(**PLACES, order=st.randoms(use_true_random=False))
def test_kept_together_no_group_is_in_two_splits_or_folds_whatever_the_order_of_rows(seed, dec, ra, count, order):
    ids, ras, decs = clumps(seed, dec, ra, count)
    pixel = ang2pix(ras, decs)

    def place(rows):
        group = groups.group_ids(ids[rows], ras[rows], decs[rows], RADIUS)
        by = groups.placing_pixels(ids[rows], group, pixel[rows], "keep_together")
        return pd.DataFrame(
            {"group": group, "split": splits.assign_splits(by), "fold": splits.assign_folds(by)}, index=ids[rows]
        )

    found = place(np.arange(count))
    assert (found.groupby("group")[["split", "fold"]].nunique() == 1).all(axis=None)
    own = pd.Series(splits.assign_splits(pixel), index=ids)
    assert (found["split"] == own.loc[found["group"]].to_numpy()).all()  # that of the member called group_id
    shuffled = order.sample(range(count), count)
    pd.testing.assert_frame_equal(place(np.array(shuffled)).sort_index(), found.sort_index())


def test_by_default_every_object_goes_where_its_own_pixel_goes():
    assert groups.placing_pixels([1, 2], [1, 1], [70, 80], "report").tolist() == [70, 80]


def test_a_group_without_its_reference_is_an_error():
    with pytest.raises(ValueError, match="no source_id"):
        groups.placing_pixels([2, 3], [1, 1], [70, 80], "keep_together")


def test_the_report_counts_groups_that_span_splits_and_the_lenses_in_them():
    sample = pd.DataFrame(
        {"group_id": [1, 1, 1, 4, 4, 6], "split": ["train", "val", "train", "test", "test", "val"], "label": [1, 0, 1, 0, 0, 1]}
    )  # fmt: skip
    assert groups.group_report(sample) == {
        "groups": 3,
        "groups_of_several": 2,
        "groups_in_two_splits": 1,
        "stamps_in_those_groups": 3,
        "lenses_in_those_groups": 2,
        "largest_group": 3,
    }
