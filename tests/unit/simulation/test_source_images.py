"""Pictures of galaxies as sources: what is read, what is refused, and that light stays light."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from lensdata.errors import InputError
from lensdata.simulation.injection import Grid, unit_arcs
from lensdata.simulation.source_images import COLUMN, SourceImages
from tests.unit.simulation.lens_columns import plain

FWHM = np.full((1, 1), 1.1)


def blob(height: int, width: int, y: float, x: float, sigma: float = 4.0) -> np.ndarray:
    rows, columns = np.indices((height, width))
    return np.exp(-0.5 * ((rows - y) ** 2 + (columns - x) ** 2) / sigma**2)


def picture(image: np.ndarray) -> SourceImages:
    return SourceImages.of([image], ["it"])


def lensed(image: np.ndarray, **changes: float) -> tuple[np.ndarray, float]:
    """Patch and magnification of one lens."""
    columns = plain(**changes) | {COLUMN: np.zeros(1, int)}
    images, magnification = unit_arcs(columns, FWHM, Grid(), sources=picture(image))
    return images[0, 0].numpy(), float(magnification[0])


def test_a_picture_has_flux_1_and_its_centroid_in_the_middle() -> None:
    found = SourceImages.of([7 * blob(41, 61, 12, 40), blob(21, 21, 10, 10)], ["large", "small"])
    assert found.pixels.shape[0] == 2
    np.testing.assert_allclose(found.pixels.sum((1, 2)), 1, rtol=1e-6)
    where = np.arange(found.pixels.shape[1]) - (found.pixels.shape[1] - 1) / 2
    for image in found.pixels:
        assert abs((image.sum(0) * where).sum()) < 0.6
        assert abs((image.sum(1) * where).sum()) < 0.6
    assert found.half_light_pixels[0] == pytest.approx(4 * 1.1774, abs=0.5)


def test_without_mass_a_picture_keeps_its_flux_whatever_its_size_and_turn() -> None:
    image = blob(61, 61, 30, 30) * (1 + 0.3 * np.sin(np.arange(61)))
    for radius, angle in ((0.05, 0.0), (0.2, 0.7), (0.6, 2.0)):
        _, magnification = lensed(image, theta_e=0.0, source_radius=radius, source_angle=angle)
        assert magnification == pytest.approx(1, rel=1e-3)


def test_a_picture_of_a_profile_is_lensed_like_the_profile() -> None:
    """A Gaussian: a Sersic source of index 0.5."""
    for changes in ({"source_x": 0.3}, {"source_x": -0.2, "source_y": 0.5, "lens_q": 0.7, "shear_1": 0.05}):
        image, magnification = lensed(blob(301, 301, 150, 150, 30.0), source_radius=0.25, **changes)
        expected, mu = unit_arcs(plain(source_radius=0.25, source_index=0.5, **changes), FWHM, Grid())
        assert magnification == pytest.approx(float(mu), rel=5e-3)
        assert np.abs(image - expected[0, 0].numpy()).max() < 0.01 * image.max()


def test_a_picture_turns_with_its_angle_and_points_along_x_at_0() -> None:
    image = blob(81, 81, 40, 40, 3.0) + blob(81, 81, 40, 60, 3.0)  # two lumps side by side
    flat, _ = lensed(image, theta_e=0.0, source_radius=0.8)
    upright, _ = lensed(image, theta_e=0.0, source_radius=0.8, source_angle=np.pi / 2)
    assert flat.sum(0).var() < flat.sum(1).var()
    np.testing.assert_allclose(upright, np.rot90(flat, -1), atol=0.02 * flat.max())


def test_every_lens_has_the_picture_that_its_row_names() -> None:
    sources = SourceImages.of([blob(41, 41, 20, 20), blob(41, 41, 20, 20) * (np.arange(41) > 20)], ["a", "b"])
    columns = plain(4, source_x=0.3) | {COLUMN: np.array([0, 1, 0, 1])}
    images, _ = unit_arcs(columns, np.repeat(FWHM, 4, 0), Grid(), sources=sources)
    np.testing.assert_array_equal(images[0], images[2])
    np.testing.assert_array_equal(images[1], images[3])
    assert float((images[0] - images[1]).abs().max()) > 0.01 * float(images.max())


def test_a_folder_of_both_formats_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    image = blob(31, 35, 15, 17).astype(np.float32)
    np.savez(tmp_path / "c.npz", image_gri=np.stack([image, 2 * image, image]), source_z=2.0)
    np.savez(tmp_path / "a.npz", image=image)
    fits.writeto(tmp_path / "b.fits", image)
    (tmp_path / "notes.txt").write_text("not an image")
    found = SourceImages.load(str(tmp_path))
    assert found.names == ("a.npz", "b.fits", "c.npz")
    np.testing.assert_allclose(found.pixels[1], found.pixels[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"image": np.zeros((5, 5))}, "adds up to 0"),
        ({"image": np.full((5, 5), np.nan)}, "NaN"),
        ({"image": np.ones(5)}, "shape"),
        ({"picture": np.ones((5, 5))}, "picture"),
        (b"no zip archive", "it is no NPZ file"),
    ],
)
def test_a_bad_file_is_named_in_one_sentence(tmp_path: Path, content: dict | bytes, sentence: str) -> None:
    path = tmp_path / "source.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises(InputError, match=sentence) as said:
        SourceImages.load(str(tmp_path))
    assert "source.npz" in str(said.value)
    assert "\n" not in str(said.value)


def test_a_truncated_fits_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no \\*.npz"):
        SourceImages.load(str(tmp_path))
    fits.writeto(tmp_path / "source.fits", blob(50, 50, 25, 25))
    content = (tmp_path / "source.fits").read_bytes()
    (tmp_path / "source.fits").write_bytes(content[:6000])
    with pytest.raises(InputError, match="source.fits"):
        SourceImages.load(str(tmp_path))
