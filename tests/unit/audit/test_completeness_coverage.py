"""Do the intervals of the selection function hold the truth in 95% of experiments? Run with -s to see the figures (R-E7).

Measured at false-positive rates of 1e-2 and 1e-3 with 20,000 negatives, percent:

==========================================  ===========  ===========================
interval                                    1e-2, 1e-3   where
==========================================  ===========  ===========================
cells, Jeffreys                             95, 94       each host once in a cell
cells, hosts and negatives                  96, 97       each host once in a cell
nodes (all hosts), Jeffreys                 94, 88       each host once in a cell
nodes (all hosts), hosts and negatives      96, 94       each host once in a cell
total over cells                            94, 94       each host once in a cell
cells, Jeffreys                             86, 83       each host four times
cells, hosts and negatives                  94, 95       each host four times
nodes (all hosts), Jeffreys                 84, 69       each host four times
nodes (all hosts), hosts and negatives      94, 96       each host four times
smooth bands, logits of logistic scatter    94, 94       500 hosts, RMS error 0.027
smooth bands, logits of normal scatter      93, 91       500 hosts, RMS error 0.028
the same between 0.05 and 0.95              94, 95       500 hosts
smooth bands, logits of normal scatter      93, 96       2,000 hosts, RMS error 0.016
total of a population, smooth model         92, 95       300 hosts, 80 experiments
==========================================  ===========  ===========================
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lensdata.audit import completeness, completeness_model
from lensdata.audit.completeness import SelectionFunction, cells, marginal, resampled, weighted_total
from tests.unit.audit.test_completeness_surface import Scatter, hosts, injections, truth

pytestmark = pytest.mark.slow
LEVELS = (1e-2, 1e-3)
NEGATIVES = 20_000
GRID_THETA_E, GRID_SNR = np.array([0.75, 1.5, 2.5]), np.array([10.0, 20.0, 40.0])
BINS = [1, 2]  # of seeing and depth, the most common ones


def population(count: int, seed: int) -> pd.DataFrame:
    """Hosts of the bins."""
    pool = hosts(np.random.default_rng(seed), 3 * count)
    return pool[pool["psf_bin"].isin(BINS) & pool["depth_bin"].isin(BINS)].iloc[:count].reset_index(drop=True)


def true_cells(pool: pd.DataFrame, fpr: float) -> pd.DataFrame:
    """Completeness of each cell over the hosts of a population, in the order of `Cells.table`."""
    records = []
    for theta_e in GRID_THETA_E:
        for snr in GRID_SNR:
            value = truth(fpr, theta_e=theta_e, arc_snr=snr, **{name: pool[name] for name in ("psf", "depth", "mag_r")})
            bins = pool.assign(truth=value).groupby(["psf_bin", "depth_bin"], as_index=False)["truth"].mean()
            records.append(bins.assign(theta_e=theta_e, arc_snr=snr))
    return pd.concat(records).sort_values(["theta_e", "arc_snr", "psf_bin", "depth_bin"], ignore_index=True)


def held(low, high, truth_of) -> float:
    return float(np.mean((low <= truth_of) & (truth_of <= high)))


def measure(per_cell: int, experiments: int = 250) -> pd.DataFrame:
    """Coverage of both intervals of cells, of marginals and of totals, at each rate."""
    pool = population(20_000, 99)
    true = {fpr: true_cells(pool, fpr) for fpr in LEVELS}
    records = []
    for seed in range(experiments):
        rng = np.random.default_rng(seed)
        carriers = pool.iloc[rng.choice(len(pool), 400, replace=False)].reset_index(drop=True)
        rows = injections(rng, carriers, GRID_THETA_E, GRID_SNR, per_cell)
        drawn = resampled(rows, rng.normal(size=NEGATIVES), LEVELS, 400, seed)
        found = cells(rows, completeness.axes_of(rows, "arc_snr"), drawn)
        weights = true[LEVELS[0]].assign(weight=1.0)
        total = weighted_total(found, weights).set_index("fpr")
        by_node = marginal(rows, ["theta_e", "arc_snr"], drawn)
        for fpr, expected in true.items():
            table = found.table[found.table["fpr"] == fpr]
            nodes = by_node[by_node["fpr"] == fpr]
            share = carriers.groupby(["psf_bin", "depth_bin"]).size().rename("share")
            of_bins = expected.merge(share, on=["psf_bin", "depth_bin"])
            of_bins["part"] = of_bins["truth"] * of_bins["share"] / len(carriers)
            of_nodes = of_bins.groupby(["theta_e", "arc_snr"])["part"].sum().to_numpy()
            value = expected["truth"].to_numpy()
            records.append({
                "fpr": fpr,
                "cells, Jeffreys": held(table["low"], table["high"], value),
                "cells, hosts and negatives": held(table["low_total"], table["high_total"], value),
                "nodes, Jeffreys": held(nodes["low"], nodes["high"], of_nodes),
                "nodes, hosts and negatives": held(nodes["low_total"], nodes["high_total"], of_nodes),
                "total": held(total.loc[fpr, "low"], total.loc[fpr, "high"], value.mean()),
            })  # fmt: skip
    return pd.DataFrame(records).groupby("fpr").mean()


def test_intervals_of_cells_cover_where_each_host_is_in_a_cell_once():
    found = measure(per_cell=1)
    print(f"\nCoverage, one injection per host and cell:\n{found.round(3).to_string()}")  # noqa: T201
    assert found["cells, hosts and negatives"].between(0.93, 0.975).all()
    assert found["nodes, hosts and negatives"].between(0.93, 0.975).all()
    assert found["total"].between(0.92, 0.985).all()


def test_with_many_arcs_on_one_host_jeffreys_covers_too_little_and_resampled_hosts_cover():
    found = measure(per_cell=4)
    print(f"\nCoverage, four injections per host and cell:\n{found.round(3).to_string()}")  # noqa: T201
    assert (found["cells, Jeffreys"] < 0.9).all()
    assert (found["nodes, Jeffreys"] < 0.85).all()
    assert found["cells, hosts and negatives"].between(0.92, 0.97).all()
    assert found["nodes, hosts and negatives"].between(0.92, 0.97).all()
    assert found["total"].between(0.92, 0.985).all()


def measure_bands(scatter: Scatter, count: int, experiments: int, negatives: int = NEGATIVES) -> pd.DataFrame:
    """Coverage of the smooth model's bands at points of the population, and its errors, at each rate."""
    rng = np.random.default_rng(5)
    pool = hosts(rng, 600)
    where = {name: pool[name].to_numpy() for name in ("psf", "depth", "mag_r")}
    where |= {"theta_e": rng.uniform(0.5, 3, 600), "arc_snr": np.exp(rng.uniform(*np.log([5, 80]), 600))}
    records = []
    for seed in range(experiments):
        rng = np.random.default_rng(1000 + seed)
        rows = injections(rng, hosts(rng, count), scatter=scatter)
        drawn = resampled(rows, rng.normal(size=negatives), LEVELS, 300, seed)
        model = completeness_model.fit(rows, "arc_snr", drawn)
        for level, fpr in enumerate(LEVELS):
            expected = truth(fpr, scatter, **where)
            value, (low, high) = model.completeness(level, **where), model.band(level, **where)
            known, middle = np.isfinite(value), (expected > 0.05) & (expected < 0.95)
            error = (value - expected)[known]
            records.append({
                "fpr": fpr, "covered": held(low[known], high[known], expected[known]),
                "covered, 0.05 to 0.95": held(*(part[known & middle] for part in (low, high, expected))),
                "RMS": np.sqrt(np.mean(error**2)), "largest": np.abs(error).max(), "width": np.mean((high - low)[known]),
            })  # fmt: skip
    found = pd.DataFrame(records).groupby("fpr").mean()
    print(f"\nSmooth model, {count} hosts, {scatter} scatter, {experiments} experiments:\n{found.round(4).to_string()}")  # noqa: T201
    return found


@pytest.mark.parametrize(
    ("scatter", "count", "experiments", "least"),
    [("logistic", 500, 60, 0.925), ("normal", 500, 60, 0.90), ("normal", 2000, 30, 0.92)],
)
def test_the_bands_of_the_smooth_model_cover_on_average_over_the_surface(scatter, count, experiments, least):
    """Where logits scatter normally, no logistic surface is right: where completeness is below 0.01 or above 0.99 bands then miss,
    by less than 0.005."""
    found = measure_bands(scatter, count, experiments)
    assert found["covered"].between(least, 0.985).all()
    assert found["covered, 0.05 to 0.95"].between(0.91, 0.995).all()
    assert (found["RMS"] < 0.04).all()


def test_with_the_penalty_of_the_least_error_bands_would_cover_less(monkeypatch):
    """Why the fit takes a tenth of it."""
    loose = measure_bands("logistic", 500, 25, negatives=10**6)
    monkeypatch.setattr(completeness_model, "UNDERSMOOTHED", 1.0)
    best = measure_bands("logistic", 500, 25, negatives=10**6)
    assert (best["covered"] < loose["covered"] - 0.01).all()
    assert (loose["RMS"] < 1.15 * best["RMS"]).all()


def test_the_total_of_a_population_by_the_smooth_model_covers():
    rng = np.random.default_rng(8)
    pool = hosts(rng, 3000)
    inner = pool[pool["psf"].between(1.0, 1.7) & pool["depth"].between(23.1, 24.5) & pool["mag_r"].between(17.6, 20.4)]
    people = inner.assign(
        theta_e=rng.uniform(0.6, 2.8, len(inner)), arc_snr=np.exp(rng.uniform(*np.log([6, 70]), len(inner))), weight=1.0
    ).iloc[:500]
    where = {name: people[name].to_numpy() for name in ("psf", "depth", "mag_r", "theta_e", "arc_snr")}
    hits = []
    for seed in range(80):
        rng = np.random.default_rng(5000 + seed)
        rows = injections(rng, hosts(rng, 300))
        drawn = resampled(rows, rng.normal(size=NEGATIVES), LEVELS, 300, seed)
        found = cells(rows, completeness.axes_of(rows, "arc_snr"), drawn)
        function = SelectionFunction.of(rows, found, drawn, completeness_model.fit(rows, "arc_snr", drawn))
        total = weighted_total(function, people, kind="smooth")
        expected = np.array([truth(fpr, **where).mean() for fpr in LEVELS])
        hits.append((total["low"] <= expected) & (expected <= total["high"]))
    covered = np.mean(hits, axis=0)
    print(f"\nTotals by the smooth model: {covered.round(3)}")  # noqa: T201
    assert (covered > 0.89).all()
