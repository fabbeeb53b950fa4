"""The smooth selection function: it recovers a known surface, and says where it cannot (R-E7)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lensdata.audit import completeness, completeness_model
from lensdata.audit.completeness import SelectionFunction, cells, resampled, weighted_total
from lensdata.errors import InputError
from tests.unit.audit.test_completeness_surface import ARC_SNR, THETA_E, hosts, injections, truth

LEVELS = (1e-2, 1e-3)
HOST_COLUMNS = ("psf", "depth", "mag_r")


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(3)
    rows = injections(rng, hosts(rng, 500))
    drawn = resampled(rows, rng.normal(size=400_000), LEVELS, 200, 3)
    return rows, drawn, completeness_model.fit(rows, "arc_snr", drawn)


def points(count: int = 400, seed: int = 5) -> dict[str, np.ndarray]:
    """Arguments between the nodes, on hosts of the population without its outer hundredths."""
    rng = np.random.default_rng(seed)
    pool = hosts(rng, 3 * count)
    inner = np.all([pool[name].between(*pool[name].quantile([0.01, 0.99])) for name in HOST_COLUMNS], axis=0)
    pool = pool[inner].iloc[:count]
    where = {name: pool[name].to_numpy() for name in HOST_COLUMNS}
    return where | {"theta_e": rng.uniform(0.5, 3, count), "arc_snr": np.exp(rng.uniform(*np.log([5, 80]), count))}


def test_the_model_recovers_the_known_surface(fitted):
    """500 hosts with 35 arcs each: RMS 0.022 and 0.021, at most 0.08 and 0.10 on this seed."""
    where = points()
    for level, fpr in enumerate(LEVELS):
        error = fitted[2].completeness(level, **where) - truth(fpr, **where)
        assert np.isfinite(error).all()
        print(f"\nFPR {fpr:g}: RMS {np.sqrt(np.mean(error**2)):.4f}, at most {np.abs(error).max():.4f}")  # noqa: T201
        assert np.sqrt(np.mean(error**2)) < 0.03
        assert np.abs(error).max() < 0.12


def test_without_a_magnitude_it_averages_over_the_hosts(fitted):
    rows, _, model = fitted
    where = {name: values for name, values in points(30).items() if name != "mag_r"}
    mags = rows.drop_duplicates("source_id")["mag_r"].quantile((np.arange(200) + 0.5) / 200)
    mean = np.mean([model.completeness(0, **where, mag_r=np.full(30, mag)) for mag in mags], axis=0)
    np.testing.assert_allclose(model.completeness(0, **where), mean, atol=0.005)


@pytest.mark.parametrize(
    "beyond",
    [{"theta_e": 3.2}, {"theta_e": 0.4}, {"arc_snr": 90.0}, {"arc_snr": -1.0}, {"psf": 2.3}, {"depth": 26.0}, {"mag_r": 22.0},
     {"theta_e": np.nan}, {"theta_e": 3.0, "psf": 0.8}],
)  # fmt: skip
def test_outside_the_data_there_is_no_value(fitted, beyond):
    inside = {"theta_e": 1.5, "arc_snr": 20.0, "psf": 1.3, "depth": 23.8, "mag_r": 19.0}
    arguments = {name: np.array([value]) for name, value in (inside | beyond).items()}
    assert np.isnan(fitted[2].completeness(0, **arguments))
    assert np.isnan(fitted[2].band(0, **arguments)).all()
    assert np.isfinite(fitted[2].completeness(0, **{name: np.array([value]) for name, value in inside.items()}))


def test_the_band_holds_the_fit_and_widens_with_fewer_hosts(fitted):
    rows, drawn, model = fitted
    where = points(100)
    low, high = model.band(0, **where)
    value = model.completeness(0, **where)
    assert ((low <= value) & (value <= high)).mean() > 0.97
    few = rows[np.isin(rows["source_id"], drawn.hosts[::6])]
    fewer = completeness_model.fit(few, "arc_snr", resampled(few, np.linspace(-3, 3, 1000), (1e-2,), 200, 0))
    low_few, high_few = fewer.band(0, **where)
    assert np.nanmean(high_few - low_few) > 1.6 * np.mean(high - low)


def test_held_out_hosts_are_predicted_better_than_by_cells_or_a_constant(fitted):
    for report in fitted[2].reports:
        losses = report["log_loss"]
        assert losses["model"] < losses["cells"] < losses["constant"]
        assert 0.95 < report["calibration_slope"] < 1.05
    assert fitted[2].reports[0]["hits"] == (fitted[0]["logit"] > fitted[1].thresholds[0].above).sum()


def test_a_surface_that_rises_is_reported_as_rising_and_one_that_falls_as_falling(fitted):
    rows = fitted[0]
    for report in fitted[2].reports:
        assert report["falls"]["brightness"]["largest_drop_low"] <= 0
    rng = np.random.default_rng(0)
    # arcs of the largest radii leave the stamp
    turned = rows.assign(logit=rows["logit"] - 4.0 * np.clip(rows["theta_e"] - 2.0, 0, None))
    model = completeness_model.fit(turned, "arc_snr", resampled(turned, rng.normal(size=10**5), (1e-2,), 200, 0))
    falls = model.reports[0]["falls"]
    assert falls["theta_e"]["largest_drop_low"] > 0.1
    assert falls["theta_e"]["share"] > 0.1
    assert falls["brightness"]["largest_drop_low"] <= 0


def test_a_residual_of_a_cell_that_no_smooth_surface_has_stands_out(fitted):
    rows, drawn, model = fitted
    assert abs(model.reports[0]["largest_residual"]) < 6
    assert model.reports[0]["cells_checked"] > 20
    odd = (rows["theta_e"] == 2.0) & (rows["arc_snr"] == 20.0) & (rows["psf_bin"] == 2) & (rows["depth_bin"] == 2)
    broken = completeness_model.fit(rows.assign(logit=rows["logit"].where(~odd, -9.0)), "arc_snr", drawn)
    assert broken.reports[0]["largest_residual"] < -6


def test_rows_with_a_null_are_left_out_and_counted(fitted):
    rows, drawn, _ = fitted
    holed = rows.assign(
        mag_r=rows["mag_r"].where(rows["mag_r"] < 20.0), depth=rows["depth"].where(rows["depth"] < 24.5)
    )
    model = completeness_model.fit(holed, "arc_snr", drawn)
    lost = int(holed[["mag_r", "depth"]].isna().any(axis=1).sum())
    assert model.reports[0]["n_left_out"] == lost > 0
    assert model.basis.ranges["mag_r"][1] < 20.0


def test_conditions_that_do_not_vary_take_no_term(fitted):
    rows, drawn, _ = fitted
    same = rows.assign(depth=23.8, mag_r=19.0)
    model = completeness_model.fit(same, "arc_snr", drawn)
    assert model.basis.intervals["depth"] == model.basis.intervals["mag_r"] == 0
    where = {"theta_e": np.array([2.0, 2.0]), "arc_snr": np.array([20.0, 20.0]), "psf": np.array([1.3, 1.3])}
    value = model.completeness(0, **where, depth=np.array([23.8, 23.9]))
    assert np.isfinite(value).tolist() == [True, False]


def test_too_few_found_injections_are_no_fit_but_a_reason(fitted):
    rows, drawn, _ = fitted
    highest = np.sort(rows["logit"])[-30]
    rare = resampled(rows, np.r_[np.linspace(highest, highest + 1, 21), np.linspace(-1, 4, 2000)], (1e-2, 0.5), 20, 0)
    model = completeness_model.fit(rows, "arc_snr", rare)
    assert "a fit needs 50 found" in model.reports[0]["reason"]
    assert "reason" not in model.reports[1]
    function = SelectionFunction.of(rows, cells(rows, completeness.axes_of(rows, "arc_snr"), rare), rare, model)
    with pytest.raises(InputError, match="no fit at FPR 0.01"):
        function(theta_e=1.0, arc_snr=20.0, psf=1.3, depth=23.8, fpr=1e-2, kind="smooth")
    population = pd.DataFrame({"theta_e": [1.0], "arc_snr": [20.0], "psf": [1.3], "depth": [23.8], "weight": [1.0]})
    total = weighted_total(function, population, kind="smooth")
    assert total["completeness"].notna().tolist() == [False, True]
    few = rows[np.isin(rows["source_id"], drawn.hosts[:10])]
    report = completeness_model.fit(few, "arc_snr", resampled(few, np.linspace(-3, 3, 1000), (0.1,), 20, 0)).reports[0]
    assert report["reason"] == "10 hosts carry all injections; a fit needs 20"
    with pytest.raises(InputError, match="needs the column 'mag_r'"):
        completeness_model.fit(rows.drop(columns="mag_r"), "arc_snr", drawn)
    with pytest.raises(InputError, match="None of"):
        completeness_model.fit(rows.assign(mag_r=np.nan), "arc_snr", drawn)


def test_the_model_agrees_with_the_grid_where_that_has_many_injections(fitted):
    rows, drawn, model = fitted
    found = completeness.marginal(rows, ["theta_e", "arc_snr"], drawn)
    found = found[found["fpr"] == 1e-2]
    one = rows.drop_duplicates("source_id")
    for _, cell in found.iloc[::4].iterrows():
        where = {name: one[name].to_numpy() for name in HOST_COLUMNS}
        where |= {name: np.full(len(one), cell[name]) for name in ("theta_e", "arc_snr")}
        assert model.completeness(0, **where).mean() == pytest.approx(cell["completeness"], abs=0.05)
    assert len(found) == len(THETA_E) * len(ARC_SNR)


def test_the_fit_is_the_same_whatever_the_order_of_the_injections(fitted):
    rows, drawn, model = fitted
    mixed = completeness_model.fit(rows.sample(frac=1, random_state=0), "arc_snr", drawn)
    where = points(50)
    np.testing.assert_allclose(mixed.completeness(0, **where), model.completeness(0, **where), atol=1e-4)
    assert isinstance(model.table().to_pandas(), pd.DataFrame)


def test_where_nothing_is_found_and_the_threshold_is_badly_known_the_band_stays_with_the_cells():
    """Few negatives at a rare rate: a straight line from the sample's fit would take bands of faint arcs to all of 0 to 1."""
    rng = np.random.default_rng(8)
    rows = injections(rng, hosts(rng, 150), np.array([1.0, 2.0]), np.array([10.0, 80.0]))
    rows["logit"] -= 0.5
    drawn = resampled(rows, rng.standard_t(3, size=400), (0.01,), 200, 1)
    model = completeness_model.fit(rows, "arc_snr", drawn)
    by_node = completeness.marginal(rows, ["theta_e", "arc_snr"], drawn)
    faint = by_node[by_node["arc_snr"] == 10]
    assert (faint["high_total"] < 0.05).all()
    where = {"theta_e": faint["theta_e"].to_numpy(), "arc_snr": np.full(2, 10.0)}
    where |= {name: np.full(2, rows[name].median()) for name in ("psf", "depth")}
    _, high = model.band(0, **where)
    assert (high < 0.2).all()
