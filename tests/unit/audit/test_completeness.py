"""The selection function: counts, thresholds and intervals against independent implementations (R-E7)."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import numpy as np
import pandas as pd
import pytest
from astropy.stats import binom_conf_interval
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import ks_2samp

from lensdata.audit import completeness, intervals, roc
from lensdata.audit.completeness import (
    SelectionFunction,
    cells,
    marginal,
    paired,
    resampled,
    thresholds,
    weighted_total,
)
from lensdata.audit.completeness_model import fit
from lensdata.errors import InputError
from tests.unit.audit.test_completeness_surface import hosts, injections

AXES = ("theta_e", "arc_snr", "psf_bin", "depth_bin")
LEVELS = (1e-2, 1e-3)
LOGITS = arrays(np.float64, st.integers(1, 60), elements=st.integers(-5, 5).map(float))


def experiment(count: int = 120, resamples: int = 200, seed: int = 0, negatives: int = 20_000):
    """Injections on some hosts and a few resamples of them."""
    rng = np.random.default_rng(seed)
    rows = injections(rng, hosts(rng, count))
    return rows, resampled(rows, rng.normal(size=negatives), LEVELS, resamples, seed)


@pytest.fixture(scope="module")
def measured():
    rows, drawn = experiment()
    found = cells(rows, completeness.axes_of(rows, "arc_snr"), drawn)
    return rows, drawn, SelectionFunction.of(rows, found, drawn, fit(rows, "arc_snr", drawn))


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 3000)), min_size=1, max_size=20))
def test_jeffreys_limits_are_those_of_astropy_and_of_the_scalar_function(pairs):
    """Against astropy, since the data that come with the project hold no completeness grid with counts."""
    hits, trials = np.array([(min(k, n), n) for k, n in pairs]).T
    low, high = completeness.jeffreys(hits, trials)
    expected = binom_conf_interval(hits, trials, confidence_level=0.95, interval="jeffreys")
    np.testing.assert_allclose([low, high], expected, atol=1e-9)
    scalar = [intervals.binomial(int(k), int(n)) for k, n in zip(hits, trials, strict=True)]
    np.testing.assert_array_equal(low, [one.low for one in scalar])
    np.testing.assert_array_equal(high, [one.high for one in scalar])


@given(LOGITS, LOGITS, st.floats(0.01, 0.9))
def test_a_fixed_threshold_finds_the_completeness_of_the_roc_curve(lenses, negatives, level):
    (found,) = thresholds(negatives, [level])
    assert found.allowed == roc.allowed(level, len(negatives))
    if found.above is None:
        assert found.allowed == 0
        assert str(len(negatives)) in found.reason
        return
    assert (negatives > found.above).sum() <= found.allowed
    curve = roc.compress(np.r_[np.ones(len(lenses)), np.zeros(len(negatives))], np.r_[lenses, negatives]).roc()
    assert np.mean(lenses > found.above) == pytest.approx(float(roc.tpr_at_fpr(curve, level)))


def test_resampled_thresholds_are_those_of_negatives_drawn_one_by_one():
    rng, size, levels = np.random.default_rng(1), 500, (0.1, 0.01)
    negatives = rng.normal(size=size)
    rows = hosts(rng, 20)
    explicit = []
    for _ in range(3000):
        drawn = np.sort(rng.choice(negatives, size))[::-1]
        explicit.append([drawn[roc.allowed(level, size)] for level in levels])
    explicit = np.transpose(explicit)
    single = resampled(rows, negatives, levels, 3000, 2).above
    patches = resampled(rows, negatives, levels, 3000, 3, groups=np.arange(size)).above
    for found in (single, patches):
        for one, expected in zip(found, explicit, strict=True):
            assert ks_2samp(one, expected).pvalue > 1e-3
        assert np.corrcoef(found)[0, 1] == pytest.approx(np.corrcoef(explicit)[0, 1], abs=0.06)
        assert (found[1] >= found[0]).all()  # one resample gives both levels


def test_negatives_of_a_patch_of_sky_that_score_alike_make_the_threshold_less_sure():
    rng = np.random.default_rng(4)
    patch = np.repeat(np.arange(100), 50)
    negatives = rng.normal(size=100)[patch] + 0.1 * rng.normal(size=5000)
    rows = hosts(rng, 20)
    alone, together = (resampled(rows, negatives, (0.05,), 500, 0, groups).above[0].std() for groups in (None, patch))
    assert together > 3 * alone


def test_every_cell_counts_its_injections_and_an_empty_one_says_so(measured):
    rows, drawn, _ = measured
    some = rows[~((rows["theta_e"] == 1.0) & (rows["psf_bin"] == 2))]
    found = cells(some, completeness.axes_of(rows, "arc_snr"), drawn)
    assert len(found.table) == 2 * np.prod(found.shape)
    for level, threshold in enumerate(drawn.thresholds):
        table = found.table[found.table["fpr"] == LEVELS[level]].set_index(list(AXES))
        groups = some.groupby(list(AXES))
        expected = groups["logit"].agg(n="size", hits=lambda one, above=threshold.above: (one > above).sum())
        np.testing.assert_array_equal(table.loc[expected.index, ["n", "hits"]].astype(int), expected)
        np.testing.assert_array_equal(table.loc[expected.index, "hosts"], groups["source_id"].nunique())
        empty = table.loc[table.index.difference(expected.index)]
        assert len(empty) > 0
        assert (empty["n"] == 0).all()
        assert empty["completeness"].isna().all()
        assert (table["few"] == (table["n"] < 100)).all()


def test_resampled_completeness_is_that_of_an_explicit_loop_over_hosts():
    rows, drawn = experiment(count=30, resamples=5)
    found = cells(rows, completeness.axes_of(rows, "arc_snr"), drawn)
    place = {host: number for number, host in enumerate(drawn.hosts)}
    where = found.table[found.table["fpr"] == LEVELS[0]].reset_index(drop=True)
    for number in range(5):
        weight = rows["source_id"].map(lambda host, n=number: drawn.weights[n][place[host]]).astype(float)
        for at in range(0, len(where), 7):
            inside = (rows[list(AXES)] == where.loc[at, list(AXES)].astype(float)).all(axis=1)
            total = weight[inside].sum()
            expected = (weight * (rows["logit"] > drawn.above[0, number]))[inside].sum() / total if total else np.nan
            assert found.draws[0, at, number] == pytest.approx(expected, nan_ok=True)


def test_every_resample_draws_as_many_hosts_of_each_bin_as_there_are(measured):
    rows, drawn, _ = measured
    bins = rows.drop_duplicates("source_id").set_index("source_id").loc[drawn.hosts, ["psf_bin", "depth_bin"]]
    for members in bins.groupby(["psf_bin", "depth_bin"]).indices.values():
        assert (drawn.weights[:, members].sum(axis=1) == len(members)).all()


def test_where_nothing_was_found_the_interval_is_no_narrower_than_the_binomial(measured):
    table = measured[2].cells.table
    none = table[(table["hits"] == 0) & (table["n"] > 0)]
    assert len(none) > 10
    assert (none["high_total"] >= none["high"]).all()
    assert (none["high"] > 0).all()
    assert ((table["low_total"] <= table["low"]) | table["low"].isna()).all()


def test_a_rate_that_allows_nothing_has_a_reason_and_no_number():
    rows, drawn = experiment(count=30, negatives=500)
    found = cells(rows, completeness.axes_of(rows, "arc_snr"), drawn)
    rare = found.table[found.table["fpr"] == 1e-3]
    assert rare[["completeness", "low", "high_total", "hits"]].isna().all(axis=None)
    assert found.table[found.table["fpr"] == 1e-2]["hits"].notna().all()
    assert drawn.records()[1]["above"] is None
    assert "none" not in drawn.records()[0]["reason"]
    function = SelectionFunction.of(rows, found, drawn)
    with pytest.raises(InputError, match="not measured: this rate allows no false positive among 500"):
        function(theta_e=1.0, arc_snr=20.0, psf=1.3, depth=23.8, fpr=1e-3)
    assert np.isnan(weighted_total(found, cell_weights(found))["completeness"].iloc[1])


def test_a_marginal_counts_the_same_injections(measured):
    rows, drawn, function = measured
    found = marginal(rows, ["theta_e"], drawn)
    table = function.cells.table
    np.testing.assert_array_equal(found["n"], table.groupby(["fpr", "theta_e"], sort=False)["n"].sum())
    np.testing.assert_array_equal(found["hits"], table.groupby(["fpr", "theta_e"], sort=False)["hits"].sum())
    both = marginal(rows.assign(type="SER"), ["type", "psf_bin"], drawn)
    assert both.groupby("fpr")["n"].sum().eq(len(rows)).all()


def test_many_alike_injections_on_few_hosts_are_less_sure_than_as_many_independent_ones():
    rng = np.random.default_rng(2)
    rows = injections(rng, hosts(rng, 100), np.array([2.0]), np.array([20.0]), per_cell=10)
    found = marginal(rows, ["theta_e"], resampled(rows, rng.normal(size=10**6), (1e-2,), 500, 0)).iloc[0]
    assert found[["n", "hosts"]].tolist() == [1000, 100]
    assert found["high_total"] - found["low_total"] > 1.5 * (found["high"] - found["low"])


def test_a_marginal_in_bins_of_theta_e_over_seeing_takes_each_injection_once(measured):
    rows, drawn, _ = measured
    ratio = rows["theta_e"] / rows["psf"]
    edges = [0.5, 1.0, 2.0, float(ratio.max())]
    found = marginal(rows, ["theta_e_fwhm"], drawn, {"theta_e_fwhm": edges})
    expected = np.histogram(ratio, edges)[0]
    np.testing.assert_array_equal(found[found["fpr"] == 1e-2]["n"], expected)
    assert found["theta_e_fwhm_low"].tolist() == [0.5, 1.0, 2.0] * 2


def test_the_pair_of_host_and_arc_tells_what_the_arc_did(measured):
    rows, drawn, _ = measured
    rng = np.random.default_rng(0)
    alone = rng.normal(0, 1.5, len(rows))
    rows = rows.assign(logit_host=alone, logit=alone + 2 * rows["theta_e"], logit_scrambled=alone + 0.5)
    found = paired(rows, drawn)
    arc = found.deltas[found.deltas["quantity"] == "arc - host"].set_index("theta_e")
    assert arc["median"].iloc[0] == pytest.approx(np.median(2 * rows["theta_e"]))
    for theta_e, row in arc.iloc[1:].iterrows():
        assert row["median"] == pytest.approx(2 * theta_e)
        assert row["low"] - 1e-9 <= row["median"] <= row["high"] + 1e-9
    level = found.levels.iloc[0]
    hit, before = rows["logit"] > drawn.thresholds[0].above, rows["logit_host"] > drawn.thresholds[0].above
    assert level["without_arc"] == pytest.approx(before.mean())
    assert level["net"] == pytest.approx((hit & ~before).sum() / (~before).sum())
    assert level["net"] < level["with_arc"]
    assert level["scrambled"] < level["with_arc"]
    assert all(
        level[f"{name}_low"] <= level[name] <= level[f"{name}_high"] for name in ("net", "with_arc", "scrambled")
    )


def at_node(function: SelectionFunction, row: pd.Series) -> dict[str, float]:
    """Arguments of the point where a cell lies."""
    psf, depth = (
        function.conditions[name][list(function.cells.axes[column]).index(row[column]), 0]
        for name, column in completeness.CONDITIONS.items()
    )
    return {"theta_e": row["theta_e"], "arc_snr": row["arc_snr"], "psf": psf, "depth": depth}


def test_the_function_gives_the_value_of_a_cell_at_its_node(measured):
    function = measured[2]
    table = function.cells.table[function.cells.table["fpr"] == 1e-2]
    for _, row in table.iloc[::11].iterrows():
        where = at_node(function, row)
        assert function(**where, fpr=1e-2) == pytest.approx(row["completeness"], nan_ok=True)
        limits = [float(side) for side in function.interval(**where, fpr=1e-2)]
        assert limits == pytest.approx([row["low_total"], row["high_total"]], nan_ok=True)


def whole_grid(measured) -> SelectionFunction:
    """A function whose every cell has injections."""
    rows, drawn, _ = measured
    rows = rows[rows["psf_bin"].isin([1, 2]) & rows["depth_bin"].isin([1, 2])]
    return SelectionFunction.of(rows, cells(rows, completeness.axes_of(rows, "arc_snr"), drawn), drawn)


def test_between_nodes_it_is_linear_and_outside_it_is_nan(measured):
    function = whole_grid(measured)
    psf, depth = function.conditions["psf"], function.conditions["depth"]
    inside = {"psf": psf[:, 0].mean(), "depth": depth[:, 0].mean()}
    ends = [
        function(theta_e=theta_e, arc_snr=snr, **inside, fpr=1e-2) for theta_e, snr in product((1.5, 2.0), (10, 20))
    ]
    middle = function(theta_e=1.75, arc_snr=np.sqrt(200), **inside, fpr=1e-2)
    assert middle == pytest.approx(np.mean(ends))
    corners = [function(theta_e=2.0, arc_snr=20, psf=p, depth=d, fpr=1e-2) for p, d in product(psf[:, 0], depth[:, 0])]
    assert function(theta_e=2.0, arc_snr=20, **inside, fpr=1e-2) == pytest.approx(np.mean(corners))
    for beyond in ({"theta_e": 3.1}, {"theta_e": 0.4}, {"arc_snr": 4.9}, {"arc_snr": 81}, {"arc_snr": -1.0}, {"theta_e": np.nan},
                   {"psf": psf[:, 2].max() + 0.01}, {"psf": psf[:, 1].min() - 0.01}, {"depth": 30.0}):  # fmt: skip
        where = {"theta_e": 2.0, "arc_snr": 20.0, **inside} | beyond
        assert np.isnan(function(**where, fpr=1e-2))
        assert np.isnan(function.interval(**where, fpr=1e-2)).all()


def test_a_cell_of_seeing_holds_to_the_edge_of_its_hosts(measured):
    function = whole_grid(measured)
    median, least, _ = function.conditions["psf"][0]
    values = [function(theta_e=2.0, arc_snr=20, psf=psf, depth=23.75, fpr=1e-2) for psf in (least, median)]
    assert values[0] == values[1]


def test_where_a_needed_cell_is_empty_there_is_no_value(measured):
    rows, drawn, _ = measured
    rows = rows[rows["psf_bin"].isin([1, 2]) & rows["depth_bin"].isin([1, 2])]
    axes = completeness.axes_of(rows, "arc_snr")
    some = rows[(rows["theta_e"] != 2.0) | (rows["arc_snr"] != 20.0)]
    function = SelectionFunction.of(rows, cells(some, axes, drawn), drawn)
    where = {"psf": 1.3, "depth": 23.8, "fpr": 1e-2}
    assert np.isnan(function(theta_e=2.1, arc_snr=20.0, **where))
    assert np.isfinite(function(theta_e=1.5, arc_snr=20.0, **where))  # a neighbour of no weight may be empty


def test_arguments_broadcast_as_arrays_do(measured):
    function = whole_grid(measured)
    found = function(theta_e=np.array([[1.0], [2.0]]), arc_snr=[10.0, 20.0, 40.0], psf=1.3, depth=23.8, fpr=1e-2)
    assert found.shape == (2, 3)
    assert found[1, 2] == function(theta_e=2.0, arc_snr=40.0, psf=1.3, depth=23.8, fpr=1e-2)
    low, high = function.interval(theta_e=[1.0, 2.0], arc_snr=10.0, psf=1.3, depth=23.8, fpr=1e-2)
    assert (low < high).all()


WHERE = {"theta_e": 1.0, "arc_snr": 20.0, "psf": 1.3, "depth": 23.8}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arc_mag": 20.0}, "no argument 'arc_mag'; it takes theta_e, arc_snr, psf, depth"),
        ({"mag_r": 19.0}, "no argument 'mag_r'"),
        ({"seeing": 1.0}, "no argument 'seeing'"),
        ({"psf": None}, "needs 'psf', one of its axes"),
        ({"fpr": 5e-3}, "not measured at FPR 0.005; choose one of 0.01, 0.001"),
        ({"kind": "cubic"}, "kind is 'grid' or 'smooth', found 'cubic'"),
        ({"kind": "smooth"}, "no smooth model; ask for kind='grid'"),
        ({"psf": [1.0, 1.1], "depth": [23.0, 23.1, 23.2]}, "shapes that fit"),
        ({"psf": "good"}, "numbers or arrays"),
    ],
)
def test_a_wrong_question_is_answered_with_one_sentence(measured, change, message):
    with pytest.raises(InputError, match=message):
        whole_grid(measured)(**(WHERE | {"fpr": 1e-2} | change))


def test_what_is_saved_is_what_is_loaded(measured, tmp_path):
    function = measured[2]
    function.save(str(tmp_path / "selection"))
    loaded = SelectionFunction.load(str(tmp_path / "selection"))
    pd.testing.assert_frame_equal(loaded.cells.table, function.cells.table)
    np.testing.assert_array_equal(loaded.cells.draws, function.cells.draws)
    assert loaded.thresholds == function.thresholds
    assert loaded.model.reports == function.model.reports
    rng = np.random.default_rng(0)
    where = {"theta_e": rng.uniform(0.4, 3.1, 50), "arc_snr": rng.uniform(4, 90, 50), "psf": 1.3, "depth": 23.8}
    for kind in ("grid", "smooth"):
        np.testing.assert_array_equal(loaded(**where, kind=kind), function(**where, kind=kind))
        np.testing.assert_array_equal(loaded.interval(**where, kind=kind), function.interval(**where, kind=kind))
    population = pd.DataFrame(where).assign(weight=1.0)
    pd.testing.assert_frame_equal(weighted_total(loaded, population), weighted_total(function, population))


def test_loading_and_evaluating_needs_no_sklearn_torch_or_ray(measured, tmp_path):
    measured[2].save(str(tmp_path))
    program = (
        "import sys\n"
        "from lensdata.audit.completeness import SelectionFunction\n"
        f"function = SelectionFunction.load({str(tmp_path)!r})\n"
        "where = dict(theta_e=2.0, arc_snr=40.0, psf=1.3, depth=23.8)\n"
        "assert function(**where, kind='smooth') > 0.1 and function.interval(**where)[1] > 0.1\n"
        "assert not {'sklearn', 'torch', 'ray'} & set(sys.modules), 'heavy imports'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ('{"schema_version": 99}', "version 99, expected 1"),
        ("[]", "version None"),
        ("{", "valid JSON"),
    ],
)
def test_a_folder_that_holds_no_selection_function_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / completeness.RECORD).write_text(text)
    with pytest.raises(InputError, match=message):
        SelectionFunction.load(str(tmp_path))


def cell_weights(found) -> pd.DataFrame:
    """Each cell with the weight of its injections."""
    table = found.table[found.table["fpr"] == LEVELS[0]]
    return table[list(AXES)].assign(weight=table["n"].astype(float))


def test_cells_weighted_by_their_injections_add_up_to_the_share_of_all(measured):
    rows, drawn, function = measured
    found = weighted_total(function.cells, cell_weights(function.cells))
    for level, threshold in enumerate(drawn.thresholds):
        hits = rows["logit"] > threshold.above
        assert found["completeness"].iloc[level] == pytest.approx(hits.mean())
        draws = [
            np.average(rows["logit"] > above, weights=weights[drawn.place(rows)])
            for above, weights in zip(drawn.above[level], drawn.weights, strict=True)
        ]
        # cells hold their weight here, whatever hosts a resample drew
        assert found.loc[level, ["low", "high"]].tolist() == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.01)
    assert found["measured"].tolist() == pytest.approx([1.0, 1.0])
    assert found["n_effective"].tolist() == pytest.approx([len(rows)] * 2)


def test_the_part_of_a_population_beyond_the_grid_is_reported_and_not_made_up(measured):
    rows, drawn, _ = measured
    some = rows[rows["psf_bin"].isin([1, 2]) & rows["depth_bin"].isin([1, 2])]
    full = whole_grid(measured)
    axes = completeness.axes_of(some, "arc_snr")
    holed = SelectionFunction.of(some, cells(some[some["theta_e"] != 3.0], axes, drawn), drawn)
    population = pd.DataFrame([
        {"theta_e": 1.5, "arc_snr": 20.0, "psf": 1.3, "depth": 23.8, "weight": 3.0},
        {"theta_e": 2.0, "arc_snr": 40.0, "psf": 1.3, "depth": 23.8, "weight": 1.0},
        {"theta_e": 2.9, "arc_snr": 20.0, "psf": 1.3, "depth": 23.8, "weight": 2.0},
        {"theta_e": 4.0, "arc_snr": 20.0, "psf": 1.3, "depth": 23.8, "weight": 4.0},
    ])  # fmt: skip
    values = full(**{name: population[name] for name in WHERE}, fpr=1e-2)
    found = weighted_total(full, population).iloc[0]
    assert found["completeness"] == pytest.approx(values[:3] @ [3, 1, 2] / 6)
    assert found[["measured", "outside", "empty"]].tolist() == pytest.approx([0.6, 0.4, 0.0])
    assert found["low"] < found["completeness"] < found["high"]
    binned = population.assign(psf_bin=2, depth_bin=2)  # as a table of galaxies has them: it is a population still
    pd.testing.assert_frame_equal(weighted_total(full, binned), weighted_total(full, population))
    lacking = weighted_total(holed, population).iloc[0]
    assert lacking["completeness"] == pytest.approx(values[:2] @ [3, 1] / 4)
    assert lacking[["measured", "outside", "empty"]].tolist() == pytest.approx([0.4, 0.4, 0.2])


def test_the_smooth_total_is_the_mean_of_the_smooth_function(measured):
    function = measured[2]
    rng = np.random.default_rng(1)
    population = pd.DataFrame({
        "theta_e": rng.uniform(0.5, 3.5, 200), "arc_snr": rng.uniform(5, 80, 200), "psf": 1.3, "depth": 23.8,
        "weight": rng.uniform(0, 1, 200),
    })  # fmt: skip
    value = function(**{name: population[name] for name in WHERE}, fpr=1e-2, kind="smooth")
    inside = np.isfinite(value)
    found = weighted_total(function, population, kind="smooth").iloc[0]
    assert found["completeness"] == pytest.approx(np.average(value[inside], weights=population["weight"][inside]))
    assert found["outside"] == pytest.approx(population["weight"][~inside].sum() / population["weight"].sum())
    assert found["low"] < found["completeness"] < found["high"]


@pytest.mark.parametrize(
    ("population", "message"),
    [
        ({"theta_e": [1.0]}, "needs a column 'weight'"),
        (
            {"theta_e": [1.0], "arc_snr": ["bright"], "psf": [1.2], "depth": [24.0], "weight": [1.0]},
            "'arc_snr' .* numbers",
        ),
        ({"theta_e": [1.0], "weight": [1.0]}, "it has no arc_snr, psf, depth"),
        ({"theta_e": [1.0], "weight": [0.0]}, "not all zero"),
        ({"theta_e": [1.0], "weight": [-1.0]}, "not negative"),
    ],
)
def test_a_population_that_is_none_is_refused(measured, population, message):
    with pytest.raises(InputError, match=message):
        weighted_total(measured[2], pd.DataFrame(population))


def test_occupancy_of_the_survey_weights_the_bins_of_seeing_and_depth():
    found = completeness.occupancy([1.1, 1.3, 1.3, 1.5], [800.0, 800.0, 800.0, np.nan], area=[1.0, 2.0, 1.0, 9.0])
    assert found["weight"].tolist() == [0.25, 0.75]
    assert found["psf_bin"].tolist() == [1, 2]


def test_injections_that_do_not_fit_the_grid_are_refused(measured):
    rows, drawn, _ = measured
    axes = completeness.axes_of(rows, "arc_snr")
    with pytest.raises(InputError, match="theta_e off the nodes"):
        cells(rows.assign(theta_e=rows["theta_e"] + 0.01), axes, drawn)
    with pytest.raises(InputError, match="no column 'arc_mag'"):
        completeness.axes_of(rows, "arc_mag")
    with pytest.raises(InputError, match="no finite logit"):
        cells(rows.assign(logit=np.nan), axes, drawn)
    with pytest.raises(InputError, match="were not resampled"):
        cells(rows.assign(source_id=rows["source_id"] + 10**7), axes, drawn)
    moved = rows.assign(psf_bin=np.arange(len(rows)) % 2)
    with pytest.raises(InputError, match="hosts in two bins"):
        resampled(moved, [0.0, 1.0], (0.5,), 5, 0)
    with pytest.raises(InputError, match="finite logits of negatives"):
        resampled(rows, [np.nan], (0.5,), 5, 0)
    with pytest.raises(InputError, match="between 0 and 1"):
        thresholds([1.0], [1.0])


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_the_order_of_the_injections_does_not_matter(seed):
    rows, drawn = experiment(count=25, resamples=20)
    mixed = rows.sample(frac=1, random_state=seed)
    axes = completeness.axes_of(rows, "arc_snr")
    pd.testing.assert_frame_equal(cells(rows, axes, drawn).table, cells(mixed, axes, drawn).table)


def test_the_magnitude_of_the_arc_can_be_the_axis_instead():
    rng = np.random.default_rng(7)
    rows = injections(rng, hosts(rng, 100))
    rows["arc_mag"] = 25 - np.round(np.log2(rows["arc_snr"] / 5))
    rows = rows.drop(columns="arc_snr")
    drawn = resampled(rows, rng.normal(size=20_000), (1e-2,), 100, 0)
    found = cells(rows, completeness.axes_of(rows, "arc_mag"), drawn)
    function = SelectionFunction.of(rows, found, drawn, fit(rows, "arc_mag", drawn))
    where = {"theta_e": 1.75, "psf": 1.3, "depth": 23.8, "fpr": 1e-2}
    for kind in ("grid", "smooth"):
        faint, bright = function(**where, arc_mag=[24.0, 21.0], kind=kind)
        assert faint < bright
    with pytest.raises(InputError, match="no argument 'arc_snr'"):
        function(**where, arc_snr=20.0)
