"""What is done to stamps before a network sees them again (R-E5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from lensdata import tables
from lensdata.audit import sensitivity
from lensdata.config.probe import ProbeConfig
from lensdata.errors import InputError
from lensdata.shards.layout import ImageLayout
from lensdata.shards.manifests import read_manifest
from ray_train import probe
from ray_train.core.images import ImageRecipe, azimuthal_median
from ray_train.core.probes import CORE_RADII, FWHM_TO_SIGMA, Stamps, blur, grey, normal, probes, scramble, sky
from tests.unit.ray_train.test_train import run

RECIPE = ImageRecipe(normalisation="identity", crop=None)
SIZE, SCALE = 41, 0.5  # 41 pixels of 0.5": the background beyond 8" is inside


def stamps_of(count: int = 6, size: int = SIZE, recipe: ImageRecipe = RECIPE, seed: int = 0) -> Stamps:
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size // 2
    galaxy = 5 * np.exp(-np.hypot(x, y) / 3)[None, :, :, None] * random.uniform(0.5, 2, (count, 1, 1, 3))
    stored = (galaxy + random.normal(0, 0.1, (count, size, size, 3)) + 0.3).astype(np.float32)
    return Stamps(torch.from_numpy(stored), torch.arange(count) + 10**12, torch.full((count, 3), 4.0), recipe)


def radii(size: int = SIZE) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size // 2
    return np.hypot(x, y)


def changed(stamps: Stamps, name: str, level: float) -> torch.Tensor:
    found = [each for each in probes(SIZE, 3, SCALE) if (each.name, each.level) == (name, level)]
    assert len(found) == 1, (name, level)
    return found[0].change(stamps)


@pytest.mark.parametrize("fill", ["zero", "noise", "azimuthal"])
@pytest.mark.parametrize("level", CORE_RADII)
def test_a_hidden_core_leaves_every_pixel_outside_as_it_was(fill: str, level: float) -> None:
    stamps = stamps_of()
    found, plain = changed(stamps, f"core_{fill}", level).numpy(), stamps.input.numpy()
    inside = radii() < level
    np.testing.assert_array_equal(found[:, :, ~inside], plain[:, :, ~inside])
    if fill == "zero":
        assert not found[:, :, inside].any()
    if fill == "azimuthal":
        np.testing.assert_allclose(found[:, :, inside], azimuthal_median(stamps.input).numpy()[:, :, inside])


def test_the_noise_that_fills_a_stamp_is_like_its_own_sky() -> None:
    stamps = stamps_of(40)
    found = changed(stamps, "background_only", 8.0).numpy()
    inside = radii() < 8 / SCALE
    np.testing.assert_allclose(found[:, :, inside].std(), 0.1, rtol=0.1)
    np.testing.assert_allclose(np.median(found[:, :, inside]), 0.3, atol=0.02)


@settings(max_examples=20, deadline=None)
@given(size=st.integers(9, 40), seed=st.integers(0, 99))
def test_a_scramble_keeps_the_values_of_every_ring_and_moves_all_planes_alike(size: int, seed: int) -> None:
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 2, size, size)))
    x[:, 1] = x[:, 0] + 1
    found = scramble(x, torch.tensor([seed, seed + 1, -seed]))
    np.testing.assert_array_equal(found[:, 1], found[:, 0] + 1)
    ring = np.floor(radii(size) + 0.5).astype(int)
    for number in range(ring.max() + 1):
        np.testing.assert_array_equal(np.sort(found[:, 0, ring == number]), np.sort(x[:, 0, ring == number]))


def test_a_scramble_breaks_an_arc_and_leaves_a_round_galaxy() -> None:
    stamps = stamps_of(30)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    arc = (np.abs(radii() - 9) < 1.5) & (np.abs(np.arctan2(y, x)) < 0.5)
    picture = torch.from_numpy(np.broadcast_to(arc, (30, 1, SIZE, SIZE)).astype(np.float32).copy())
    found = scramble(picture, stamps.keys)[:, 0].numpy()
    # how much of the arc's pixels have an arc's pixel beside them on the next ring
    along = [np.mean(ndimage.binary_erosion(each > 0.5, np.ones((2, 2)))) for each in found]
    assert np.mean(along) < 0.5 * np.mean(ndimage.binary_erosion(arc, np.ones((2, 2))))
    round_galaxy = torch.from_numpy(np.exp(-np.floor(radii() + 0.5) / 3))[None, None]
    np.testing.assert_array_equal(scramble(round_galaxy, stamps.keys[:1]), round_galaxy)


def test_the_eight_views_are_the_square_s_own() -> None:
    stamps = stamps_of(1)
    found = {changed(stamps, "d4", float(view)).numpy().tobytes() for view in range(1, 8)} | {
        stamps.input.numpy().tobytes()
    }
    plain = stamps.input.numpy()
    wanted = {
        np.ascontiguousarray(np.rot90(flipped, turn, (2, 3))).tobytes()
        for flipped in (plain, plain[..., ::-1])
        for turn in range(4)
    }
    assert found == wanted


def test_a_shift_moves_a_stamp_by_three_pixels() -> None:
    stamps = stamps_of()
    plain = stamps.input.numpy()
    for number, step in enumerate(((0, 3), (0, -3), (3, 0), (-3, 0))):
        found = changed(stamps, "shift", float(number)).numpy()
        np.testing.assert_array_equal(found[:, :, 5:-5, 5:-5], np.roll(plain, step, (2, 3))[:, :, 5:-5, 5:-5])


def test_bands_are_mixed_within_the_stamp_and_within_its_control() -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 6, 5, 5)))
    found = grey(x, [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_allclose(found[:, 4], x[:, 3:].mean(dim=1))
    np.testing.assert_allclose(found[:, 0], x[:, :3].mean(dim=1))
    paired = [each for each in probes(SIZE, 6, SCALE, [(0, 3), (1, 4), (2, 5)]) if each.name == "permuted"]
    six = replace(stamps_of(), stored_NHWC=torch.randn(2, SIZE, SIZE, 6))
    np.testing.assert_array_equal(paired[0].change(six), six.input[:, [1, 2, 0, 4, 5, 3]])
    assert not [each for each in probes(SIZE, 1, SCALE) if each.name in ("grey", "permuted")]


@settings(max_examples=15, deadline=None)
@given(sigma=st.floats(0.6, 3), seed=st.integers(0, 99))
def test_a_blur_is_scipy_s_of_the_continued_stamp(sigma: float, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(40, 33)).astype(np.float32)
    found = blur(torch.from_numpy(x)[None, None], torch.full((1, 1), sigma))[0, 0].numpy()
    continued = np.pad(x.astype(np.float64), 16, mode="reflect")
    wanted = np.fft.ifft2(ndimage.fourier_gaussian(np.fft.fft2(continued), sigma)).real[16:-16, 16:-16]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_wider_seeing_widens_a_star_and_keeps_its_flux_and_the_sky_s_noise() -> None:
    fwhm, factor = 5.0, 1.4
    star = np.exp(-(radii(61) ** 2) / 2 / (fwhm * FWHM_TO_SIGMA) ** 2)
    stamps = Stamps(
        torch.from_numpy(np.repeat(star[None, :, :, None], 3, axis=3).astype(np.float32)), torch.tensor([1]),
        torch.full((1, 3), fwhm), RECIPE,
    )  # fmt: skip
    [wider] = [each for each in probes(61, 3, SCALE) if (each.name, each.level) == ("seeing", factor)]
    found = wider.change(stamps)[0, 0].numpy()
    np.testing.assert_allclose(found.sum(), star.sum(), rtol=1e-3)
    above = found > found.max() / 2
    np.testing.assert_allclose(2 * np.sqrt(above.sum() / np.pi), factor * fwhm, rtol=0.05)
    noisy = stamps_of(40)
    before, after = (sky(x)[1].mean().item() for x in (noisy.input, changed(noisy, "seeing", 1.4)))
    np.testing.assert_allclose(after, before, rtol=0.1)


def test_more_noise_is_as_much_more_as_it_says() -> None:
    stamps = stamps_of(60)
    for factor in (1.5, 2.0):
        ratio = sky(changed(stamps, "depth", factor))[1] / sky(stamps.input)[1]
        np.testing.assert_allclose(ratio.mean().item(), factor, rtol=0.05)


def test_every_probe_gives_a_stamp_the_same_input_alone_and_among_others() -> None:
    recipe = ImageRecipe(normalisation="per_sample_robust", crop=21)
    many = stamps_of(5, recipe=recipe)
    for each in probes(21, 3, SCALE):
        together = each.change(many)
        assert together.shape == (5, 3, 21, 21)
        assert bool(torch.isfinite(together).all())
        for one in (0, 4):
            alone = Stamps(many.stored_NHWC[one : one + 1], many.cutout_ids[one : one + 1], many.fwhm[:1], recipe)
            np.testing.assert_allclose(each.change(alone)[0], together[one], atol=1e-5, err_msg=each.name)


def test_noise_by_key_is_normal_and_differs_between_stamps() -> None:
    found = normal(torch.arange(20) * 7919, (3, 50, 50)).flatten(1).double().numpy()
    assert stats.kstest(found.ravel(), "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(found) - np.eye(20)).max() < 0.06


def test_pictures_are_not_shown_at_another_seeing_or_depth() -> None:
    names = [{each.name for each in probes(SIZE, 3, SCALE, flux=flux)} for flux in (True, False)]
    assert names[0] - names[1] == {"seeing", "depth"}
    assert names[1] < names[0]
    scorer = SimpleNamespace(images=lambda layout: RECIPE, config=SimpleNamespace(images=SimpleNamespace(bands=None)))
    for unit, shown in (("nanomaggy", names[0]), ("rgb8", names[1])):
        layout = ImageLayout(
            shape=(SIZE, SIZE, 3), dtype="float32", bands=("g", "r", "z"), unit=unit, pixscale_arcsec=SCALE
        )
        assert {each.name for each in probe.Prober(scorer, layout, ProbeConfig()).probes()} == shown


def test_the_stamps_that_are_probed_are_of_both_classes(arc_manifest: Callable[..., str]) -> None:
    manifest = read_manifest(arc_manifest(60, size=24))
    with pytest.raises(InputError, match="rows_max .* is 1; give at least 2"):
        probe.chosen(manifest, ProbeConfig(rows_max=1), None)
    with pytest.raises(InputError, match="give at least 2"):
        probe.chosen(manifest, ProbeConfig(), 1)
    for size in (2, 3, 7):
        found = probe.chosen(manifest, ProbeConfig(rows_max=size), None).column("label")
        assert set(found) == {0, 1}
        assert len(found) <= size


def test_a_probed_run_says_of_untouched_stamps_what_its_scores_say_and_goes_on_where_it_broke_off(
    tmp_path: Path, arc_manifest: Callable[..., str]
) -> None:
    manifest, folder, output = arc_manifest(300, size=24), tmp_path / "run", tmp_path / "probes"
    assert run(folder, manifest, "epochs=1") == 0
    line = ["--output", str(output), f"inputs.manifest={manifest}", f"inputs.run={folder}", "rows_max=0", "batch=7",
            "part_rows=1", "attribution_stamps=4", "execution.threads=1"]  # fmt: skip
    assert probe.main(line) == 0
    found = tables.read_table(str(output)).to_pandas()
    scores = tables.read_table(str(folder / "scores")).to_pandas().query("split == 'val'").set_index("cutout_id")
    plain = found[found["probe"] == "none"].set_index("cutout_id")
    np.testing.assert_allclose(plain["logit"], scores.loc[plain.index, "logit"], rtol=1e-4, atol=1e-5)
    table = sensitivity.wide(found, read_manifest(manifest).table.to_pandas())
    assert len(table) == len(scores) == len(plain)
    assert len(found) == table.size
    made = {part.name: part.stat().st_mtime_ns for part in (output / "dataset").iterdir()}
    assert len(made) > 1
    broken = sorted(made)[1]
    (output / "dataset" / broken).unlink()
    (output / "_SUCCESS").unlink()
    assert probe.main(line) == 0
    again = {part.name: part.stat().st_mtime_ns for part in (output / "dataset").iterdir()}
    assert again.keys() == made.keys()
    assert {name for name in made if again[name] != made[name]} == {broken}
    repaired = tables.read_table(str(output)).to_pandas()
    np.testing.assert_allclose(repaired["logit"], found["logit"], rtol=1e-4, atol=1e-5)
    fractions = tables.read_table(str(output / "attributions"), check=False).to_pandas()
    assert set(fractions["method"]) == {"integrated_gradients", "grad_cam"}
    known = fractions.dropna(subset=["core"])
    np.testing.assert_allclose(known[["core", "arc", "background"]].sum(axis=1), 1, atol=1e-5)
