"""Who carries an arc and who is whose control, by key and not by order."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lensdata.config.injection import InjectConfig
from lensdata.simulation.injected_hosts import LEVELS, match_controls
from lensdata.simulation.injected_stamps import inject, light_angle
from lensdata.simulation.randomness import KeyedDraws


def rows(count: int = 60) -> pd.DataFrame:
    random = np.random.default_rng(2)
    return pd.DataFrame(
        {
            "source_id": random.permutation(count), "split": random.choice(["train", "val"], count),
            "psf_bin": random.integers(0, 2, count), "depth_bin": random.integers(0, 3, count),
            "type": random.choice(["DEV", "SER"], count), "mag_r": random.uniform(17, 21, count),
            "shape_r": random.uniform(0.5, 3, count),
        }
    )  # fmt: skip


def test_a_control_is_another_host_with_what_its_level_says_in_common() -> None:
    hosts = rows()
    control, level = match_controls(hosts)
    assert (control != np.arange(len(hosts))).all()
    for row, (other, number) in enumerate(zip(control, level, strict=True)):
        for name in ("split", *LEVELS[number]):
            assert hosts[name][row] == hosts[name][other]


def test_a_control_is_the_nearest_in_magnitude_and_size() -> None:
    hosts = rows()
    control, level = match_controls(hosts)
    for row in np.flatnonzero(level == 0):
        same = np.ones(len(hosts), bool)
        for name in ("split", *LEVELS[0]):
            same &= (hosts[name] == hosts[name][row]).to_numpy()
        same[row] = False
        away = ((hosts["mag_r"] - hosts["mag_r"][row]) / 0.5) ** 2
        away += ((np.log(hosts["shape_r"]) - np.log(hosts["shape_r"][row])) / 0.3) ** 2
        assert away[control[row]] == pytest.approx(away[same].min())


def test_a_lonely_host_takes_a_control_from_a_wider_cell_of_its_split() -> None:
    hosts = rows().assign(type="DEV", psf_bin=0, depth_bin=0, split="train")
    hosts.loc[0, "type"], hosts.loc[1, "psf_bin"] = "SER", 4
    control, level = match_controls(hosts)
    assert [level[0], level[1], level[2]] == [1, 3, 0]
    assert min(control) >= 0


def test_controls_do_not_depend_on_the_order_of_rows() -> None:
    hosts = rows()
    shuffled = hosts.sample(frac=1, random_state=1).reset_index(drop=True)
    pairs = [
        dict(zip(frame["source_id"], frame["source_id"].to_numpy()[match_controls(frame)[0]], strict=True))
        for frame in (hosts, shuffled)
    ]
    assert pairs[0] == pairs[1]


def test_keyed_draws_give_an_object_its_numbers_whoever_is_with_it() -> None:
    together, alone = KeyedDraws(42, "arcs", np.arange(2000)), KeyedDraws(42, "arcs", [7])
    for name, arguments in (("random", ()), ("uniform", (2, 3)), ("standard_normal", ()), ("beta", (1.5, 1.5))):
        many, single = getattr(together, name)(*arguments, 2000), getattr(alone, name)(*arguments, 1)
        assert many[7] == single[0]
    assert abs(np.corrcoef(together.random(2000), together.random(2000))[0, 1]) < 0.1
    assert together.beta(1.5, 1.5, 2000).std() == pytest.approx(0.25, abs=0.02)
    with pytest.raises(ValueError, match="3 numbers for 2000 objects"):
        together.random(3)


@pytest.mark.parametrize("angle", [0.0, 0.6, 1.5, 2.8])
def test_the_direction_of_light_is_found_on_the_stamp(angle: float) -> None:
    y, x = (np.indices((61, 61)) - 30) * 0.262
    along, across = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    light = np.exp(-0.5 * (along**2 + (across / 0.6) ** 2))[None]
    light[0, :3] = np.nan
    found = light_angle(light, 0.262)[0]
    assert np.cos(2 * (found - angle)) == pytest.approx(1, abs=1e-6)


def hosts_of_stamps(count: int) -> pd.DataFrame:
    frame = rows(count).assign(source_id=np.arange(count), split="train", axis_ratio=0.8)
    for band, mag in zip("grz", (20.5, 19.5, 18.9), strict=True):
        frame[f"mag_{band}"], frame[f"psfsize_{band}"], frame[f"psfdepth_{band}"] = mag, 1.3, 1000.0
    return frame


def test_missing_pixels_stay_missing_and_all_others_get_the_arc() -> None:
    stamps = np.random.default_rng(0).normal(0, 0.01, (2, 63, 63, 3)).astype(np.float32)
    stamps[0, 20:30, :, 0], stamps[1, :, 40:, 2] = 0, np.nan
    found, drawn = inject(stamps, hosts_of_stamps(2), InjectConfig(oversampling=2), 0.262)
    assert (found[0, 20:30, :, 0] == 0).all()
    assert np.isnan(found[1, :, 40:, 2]).all()
    assert (found[0, 30:33, 30:33, 0] > stamps[0, 30:33, 30:33, 0]).all()
    assert found.dtype == np.float32
    assert drawn["theta_e"].between(0.5, 3).all()


def test_photon_noise_of_an_arc_is_an_option() -> None:
    stamps = np.random.default_rng(0).normal(0, 0.01, (2, 63, 63, 3)).astype(np.float32)
    hosts = hosts_of_stamps(2)
    smooth, _ = inject(stamps, hosts, InjectConfig(oversampling=2), 0.262)
    noisy, drawn = inject(stamps, hosts, InjectConfig(oversampling=2, electrons_per_nanomaggy=(50, 50, 50)), 0.262)
    assert (noisy != smooth).any()
    total = (noisy - stamps).astype(np.float64).sum(axis=(1, 2))[:, 1]
    error = np.sqrt(drawn["lensed_flux_r"] / 50)
    assert (np.abs(total - drawn["lensed_flux_r"]) < 5 * error).all()
