"""The leaves of a HATS catalogue; that the client opens one is asserted in tests/jobs/test_hats_client.py."""

from __future__ import annotations

import healpy
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lensdata.catalogue import hats

COUNTS = st.dictionaries(st.integers(0, 12 * 4**6 - 1), st.integers(1, 1000), max_size=200)


@settings(max_examples=100, deadline=None)
@given(counts=COUNTS, max_rows=st.integers(1, 5000))
def test_leaves_cover_every_row_once_and_are_as_coarse_as_the_limit_allows(counts, max_rows):
    found = hats.leaves(counts, max_rows)
    numbers = dict(hats.leaf_of_cells(found, counts))
    assert set(numbers) == set(counts)
    for number, leaf in enumerate(found):
        inside = [cell for cell in counts if cell >> 2 * (6 - leaf.order) == leaf.pixel]
        assert sorted(inside) == sorted(cell for cell in counts if numbers[cell] == number)
        assert leaf.rows == sum(counts[cell] for cell in inside)
        assert leaf.rows <= max_rows or leaf.order == 6
        if leaf.order:  # its parent would have had too many
            parent = [cell for cell in counts if cell >> 2 * (7 - leaf.order) == leaf.pixel >> 2]
            assert sum(counts[cell] for cell in parent) > max_rows


def test_leaves_are_in_the_order_of_the_sky():
    rng = np.random.default_rng(0)
    counts = dict(zip(rng.permutation(12 * 4**6)[:5000].tolist(), rng.integers(1, 50, 5000).tolist(), strict=True))
    starts = [leaf.pixel << 2 * (29 - leaf.order) for leaf in hats.leaves(counts, 2000)]
    assert starts == sorted(starts)


def test_the_index_is_healpys_pixel_of_order_29():
    from lensdata.sky.healpix import ang2pix

    ra, dec = np.array([0.0, 359.99, 123.4]), np.array([-89.9, 31.2, 0.0])
    theta, phi = np.radians(90 - dec), np.radians(ra)
    assert np.array_equal(ang2pix(ra, dec, 1 << 29), healpy.ang2pix(1 << 29, theta, phi, nest=True))
    assert np.array_equal(ang2pix(ra, dec, 1 << 29) >> 44, ang2pix(ra, dec))
