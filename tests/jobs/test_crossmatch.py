"""The crossmatch of two catalogues, both ways, against all pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lensdata.sky.healpix import cells_with_margin, pix2ang, widest_order
from spark_jobs.transforms import cells
from spark_jobs.transforms.crossmatch import nearest_within

pytestmark = pytest.mark.slow

ARCSEC = 1 / 3600
PLACES = {
    "RA 0/360": (0.0, 0.0),
    "north pole": (123.0, 90.0),
    "south pole": (200.0, -90.0),
    "corner of four base pixels": (45.0, 0.0),
    "corner of three base pixels": (0.0, 41.8103149),
    "border of a polar cap": (90.0, 66.0),
    "anywhere": (217.3, 11.9),
}


def great_circle_arcsec(ra1, dec1, ra2, dec2):
    """Vincenty's formula, exact at all separations; independent of unit vectors and trees."""
    a, b = np.radians(dec1)[:, None], np.radians(dec2)[None, :]
    d = np.radians(ra2)[None, :] - np.radians(ra1)[:, None]
    across = np.hypot(np.cos(b) * np.sin(d), np.cos(a) * np.sin(b) - np.sin(a) * np.cos(b) * np.cos(d))
    return np.degrees(np.arctan2(across, np.sin(a) * np.sin(b) + np.cos(a) * np.cos(b) * np.cos(d))) * 3600


def offset(ra, dec, distance_arcsec, angle):
    """The point at a distance and a position angle from (ra, dec), on the sphere."""
    ra, dec, d = np.radians(ra), np.radians(dec), np.radians(np.asarray(distance_arcsec) / 3600)
    sin_dec = np.sin(dec) * np.cos(d) + np.cos(dec) * np.sin(d) * np.cos(angle)
    east = np.arctan2(np.sin(angle) * np.sin(d) * np.cos(dec), np.cos(d) - np.sin(dec) * sin_dec)
    return np.degrees(ra + east) % 360, np.degrees(np.arcsin(np.clip(sin_dec, -1, 1)))


def planted(seed: int, radius: float, each: int = 12) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Left rows around hard places, and right rows just inside, just outside and anywhere around each."""
    rng = np.random.default_rng(seed)
    centre = np.repeat(np.array(list(PLACES.values())), each, axis=0)
    left_ra, left_dec = offset(
        *centre.T, rng.uniform(0, 4 * radius, len(centre)), rng.uniform(0, 2 * np.pi, len(centre))
    )
    share = rng.choice([1 - 1e-6, 1 + 1e-6, 0.3, 0.9, 1.5, 0.0], len(centre))
    right_ra, right_dec = offset(left_ra, left_dec, radius * share, rng.uniform(0, 2 * np.pi, len(centre)))
    left = pd.DataFrame({"id": rng.permutation(len(centre)) + 10**12, "ra": left_ra, "dec": left_dec})
    right = pd.DataFrame({"id": rng.permutation(len(centre)) * 3, "ra": right_ra, "dec": right_dec})
    twins = right.iloc[::5].assign(id=lambda rows: rows["id"] + 1)  # at the same position: the smaller id wins
    return left, pd.concat([right, twins], ignore_index=True)


def brute_force(left, right, radius):
    distance = great_circle_arcsec(*(frame[name].to_numpy() for frame in (left, right) for name in ("ra", "dec")))
    found = {}
    for row, name in enumerate(left["id"]):
        best = distance[row].min()
        if best <= radius:
            tied = np.flatnonzero(distance[row] <= best + 1e-9)
            found[name] = (right["id"].to_numpy()[tied].min(), best)
    return found


def crossmatch(spark, left, right, radius, way, partitions=3):
    frames = (spark.createDataFrame(frame).repartition(partitions) for frame in (left, right))
    rows = nearest_within(*frames, radius, way).collect()
    assert len({row.id for row in rows}) == len(rows), "a left row matched twice"
    return {row.id: (row.match_id, row.separation_arcsec) for row in rows}


def same(found, expected):
    assert {a: b[0] for a, b in found.items()} == {a: b[0] for a, b in expected.items()}
    assert all(abs(found[name][1] - expected[name][1]) < 1e-6 for name in expected)


@pytest.mark.parametrize("way", ["broadcast", "partitioned"])
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1), radius=st.sampled_from([0.5, 1.5, 11.0, 60.0]), order=st.integers(0, 9))
def test_both_ways_find_what_all_pairs_give(spark, monkeypatch, way, seed, radius, order):
    # cells as small as the margins allow: many borders
    monkeypatch.setattr("spark_jobs.transforms.crossmatch.cell_order", lambda rows, r: min(order, widest_order(r)))
    left, right = planted(seed, radius)
    same(crossmatch(spark, left, right, radius, way), brute_force(left, right, radius))


@pytest.mark.slow
def test_the_answer_does_not_depend_on_the_partitions(spark, monkeypatch):
    left, right = planted(1, 11.0)
    answers = [crossmatch(spark, left, right, 11.0, way, n) for way in ("broadcast", "partitioned") for n in (1, 7)]
    monkeypatch.setattr(cells, "ROWS_PER_TASK", 5)
    answers.append(crossmatch(spark, left, right, 11.0, "partitioned", 4))
    assert all(answer == answers[0] for answer in answers)


def test_of_equal_neighbours_the_smaller_id_is_taken(spark):
    left = pd.DataFrame({"id": [1], "ra": [10.0], "dec": [0.0]})
    right = pd.DataFrame({"id": [9, 7, 8, 5, 6], "ra": [10.0] * 5, "dec": [1e-4, -1e-4, 1e-4, -1e-4, 1e-3]})
    for way in ("broadcast", "partitioned"):
        assert crossmatch(spark, left, right, 1.0, way)[1][0] == 5


def test_a_match_beyond_the_radius_or_with_an_empty_catalogue_is_none(spark):
    left = pd.DataFrame({"id": [1], "ra": [0.0], "dec": [0.0]})
    right = pd.DataFrame({"id": [2], "ra": [359.999], "dec": [0.0]})  # 3.6 arcsec away over RA 0
    for way in ("broadcast", "partitioned"):
        assert crossmatch(spark, left, right, 3.59, way) == {}
        assert crossmatch(spark, left, right, 3.61, way)[1][0] == 2
        empty = spark.createDataFrame([], "id long, ra double, dec double")
        assert nearest_within(spark.createDataFrame(left), empty, 5.0, way).count() == 0
        assert nearest_within(empty, spark.createDataFrame(left), 5.0, way).count() == 0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    radius=st.floats(0.1, 3600.0),
    below=st.integers(0, 8),
    place=st.sampled_from(list(PLACES.values())),
)
def test_a_cell_gets_every_row_within_the_radius_of_any_point_in_it(seed, radius, below, place):
    rng = np.random.default_rng(seed)
    order = max(0, widest_order(radius) - below)
    near = offset(*place, rng.uniform(0, 3 * radius, 60), rng.uniform(0, 2 * np.pi, 60))
    pixels = rng.integers(0, 12 << 2 * order, 60)
    ra, dec = (np.concatenate(each) for each in zip(near, pix2ang(pixels, 1 << order), strict=True))
    rows, placed = cells_with_margin(ra, dec, order, radius)
    members = set(zip(rows.tolist(), placed.tolist(), strict=True))
    assert len(members) == len(rows), "a row stands in a cell twice"
    angle = rng.uniform(0, 2 * np.pi, len(ra))
    other = offset(ra, dec, radius * rng.choice([0.5, 0.999, 1.0], len(ra)), angle)
    _, home = cells_with_margin(*other, order, radius)
    for row, cell in enumerate(home[: len(ra)]):
        assert (row, int(cell)) in members
