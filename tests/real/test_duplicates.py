"""The noise hash on a real coadd: its bits must be as independent there as on simulated noise."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from lensdata.cutouts.duplicates import noise_hash


def tiles(path) -> np.ndarray:
    """Stamps side by side over a brick, one band: (n, 101, 101, 1)."""
    with fits.open(path) as file:
        image = next(hdu.data for hdu in file if getattr(hdu, "data", None) is not None)
    corners = [(y, x) for y in range(0, image.shape[0] - 101, 101) for x in range(0, image.shape[1] - 101, 101)]
    cut = np.stack([image[y : y + 101, x : x + 101] for y, x in corners])[..., None].astype(np.float32)
    return cut[(cut != 0).mean(axis=(1, 2, 3)) > 0.95]


def test_real_stamps_differ_in_half_of_their_bits_and_are_known_again(real_data):
    path = real_data / "brick_coadd_dr6" / "legacysurvey-0959p805-image-g.fits.fz"  # its z has a hole in every tile
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    stamps = tiles(path)
    bits = np.unpackbits(noise_hash(stamps), axis=1).astype(int)
    assert bits.shape[1] == 64
    differing = (bits[:, None] != bits[None]).sum(axis=2)[np.triu_indices(len(bits), 1)]
    assert len(stamps) > 100
    assert differing.mean() == pytest.approx(32, abs=0.5)
    assert differing.std() == pytest.approx(np.sqrt(64) / 2, abs=0.4)  # as 64 independent coins
    for changed in (stamps * 1.3, stamps + 0.01, stamps.astype(np.float16).astype(np.float32)):
        assert (np.unpackbits(noise_hash(changed), axis=1) != bits).sum(axis=1).max() <= 2
