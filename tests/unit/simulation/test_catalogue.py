"""Rows of the sky: what is in it, and that no column tells a lens."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from lensdata.config.simulation import MockSurveyConfig
from lensdata.errors import InputError
from lensdata.simulation import populations
from lensdata.simulation.catalogue import LensList, build_sources
from lensdata.simulation.conditions import observe
from lensdata.simulation.populations import Columns

CONFIG = MockSurveyConfig(oversampling=1)
CUT_BITS = 0x38E2


@pytest.fixture(scope="module")
def sky(many_lenses: LensList) -> Columns:
    """A sky of 600 lenses with its observing conditions as further columns."""
    sources = build_sources(CONFIG, many_lenses)
    seen = observe(CONFIG.seed, CONFIG.sky, sources["brickid"])
    for k, band in ((0, "g"), (1, "r"), (3, "z")):
        sources |= {
            f"nobs_{band}": seen.nobs[:, k],
            f"psfsize_{band}": seen.psfsize[:, k],
            f"depth_{band}": seen.psfdepth[:, k],
        }
    return sources


def _passes(sky: Columns) -> np.ndarray:
    nobs = np.minimum(np.minimum(sky["nobs_g"], sky["nobs_r"]), sky["nobs_z"])
    clean = (sky["maskbits"] & CUT_BITS) == 0
    return (nobs >= 3) & clean & (populations.mag_of(sky["flux_z"]) < 20) & np.isin(sky["type"], ("SER", "DEV", "REX"))


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(many_lenses: LensList) -> None:
    some = LensList(many_lenses.name[:20], many_lenses.ra[:20], many_lenses.dec[:20])
    first, again = build_sources(CONFIG, some), build_sources(CONFIG, some)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    other = build_sources(CONFIG.model_copy(update={"seed": 1}), some)
    assert set(other["source_id"]) != set(first["source_id"])


def test_source_ids_are_unique_and_objid_is_unique_in_a_brick(sky: Columns) -> None:
    assert len(np.unique(sky["source_id"])) == len(sky["source_id"])
    assert len(np.unique(sky["brickid"] * 10**7 + sky["objid"])) == len(sky["objid"])


def test_hosts_lie_at_their_lenses(sky: Columns, many_lenses: LensList) -> None:
    host = np.flatnonzero(sky["origin"] == "host")
    listed = {name: k for k, name in enumerate(many_lenses.name)}
    k = np.array([listed[name] for name in sky["lens_name"][host]])
    shift = np.hypot(
        (sky["ra"][host] - many_lenses.ra[k]) * np.cos(np.radians(sky["dec"][host])),
        sky["dec"][host] - many_lenses.dec[k],
    )
    assert shift.max() * 3600 < 1.0
    assert 0.95 * len(many_lenses.name) < len(host) < len(many_lenses.name)


@pytest.mark.parametrize(
    "column", ["flux_g", "flux_r", "flux_z", "flux_w1", "shape_r", "shape_e1", "shape_e2", "sersic", "objid"]
)
def test_hosts_have_the_columns_of_the_negatives(sky: Columns, column: str) -> None:
    host, keep = sky["origin"] == "host", _passes(sky)
    negatives = keep & np.isin(sky["origin"], ("pool", "companion"))
    assert stats.ks_2samp(sky[column][host & keep], sky[column][negatives]).pvalue > 1e-3


def test_a_classifier_on_catalogue_columns_cannot_tell_lenses(sky: Columns) -> None:
    host, keep = sky["origin"] == "host", _passes(sky)
    chosen = np.flatnonzero(keep)
    random = np.random.default_rng(0)
    negatives = random.choice(chosen[~host[chosen]], 6 * int(host[chosen].sum()), replace=False)
    rows = np.concatenate([chosen[host[chosen]], negatives])
    names = [f"{kind}_{band}" for kind in ("flux", "nobs", "psfsize", "depth") for band in "grz"]
    names += ["shape_r", "shape_e1", "shape_e2", "sersic", "maskbits", "objid"]
    features = np.stack([sky[name][rows].astype(float) for name in names], 1)
    model = GradientBoostingClassifier(n_estimators=40, max_depth=3, subsample=0.5, random_state=0)
    scores = cross_val_predict(model, features, host[rows], cv=3, method="predict_proba")[:, 1]
    assert 0.4 < roc_auc_score(host[rows], scores) < 0.6


def test_every_stratum_has_six_negatives_per_lens_and_enough_confusers(sky: Columns) -> None:
    keep, host = _passes(sky), sky["origin"] == "host"
    confuser = (
        populations.is_ring_proxy(sky)
        | populations.is_edge_on(sky)
        | populations.is_blue(sky)
        | populations.is_large(sky)
    )
    for kind in ("SER", "DEV", "REX"):
        for low, high in ((3, 5), (6, 10), (11, 99)):
            stratum = (sky["type"] == kind) & (sky["nobs_z"] >= low) & (sky["nobs_z"] <= high)
            lenses = int((stratum & host).sum())
            assert lenses > 0
            assert (stratum & keep & ~host).sum() >= 2 * 6 * lenses
            assert (stratum & keep & ~host & confuser).sum() >= 2 * 0.15 * 6 * lenses


def test_every_kind_of_row_and_every_cut_is_there(sky: Columns) -> None:
    assert set(sky["type"]) == {"SER", "DEV", "REX", "EXP", "PSF"}
    assert set(sky["structure"]) == {"none", "ring", "clumps", "spiral", "tail"}
    for bit in (1, 5, 6, 7, 11, 12, 13):
        assert (sky["maskbits"] & (1 << bit)).any(), bit
    assert (sky["maskbits"] & ~CUT_BITS).any()
    for band in "grz":
        assert np.isin(sky[f"nobs_{band}"], (1, 2)).any()
    assert (sky["flux_z"] < 0).any()
    assert (sky["flux_z"] == 0).any()
    assert (populations.mag_of(sky["flux_z"]) > 20).mean() > 0.1
    assert 0.2 < _passes(sky).mean() < 0.7


def test_close_pairs_are_within_five_arcsec_and_one_magnitude(sky: Columns) -> None:
    keep = np.flatnonzero(_passes(sky))
    companions = keep[sky["origin"][keep] == "companion"]
    assert len(companions) > 100
    found = 0
    for row in companions[:100]:
        near = keep[(sky["brickid"][keep] == sky["brickid"][row]) & (keep != row)]
        distance = np.hypot(
            (sky["ra"][near] - sky["ra"][row]) * np.cos(np.radians(sky["dec"][row])), sky["dec"][near] - sky["dec"][row]
        )
        mag = np.abs(populations.mag_of(sky["flux_r"][near]) - populations.mag_of(sky["flux_r"][row]))
        found += bool(((distance * 3600 < 5) & (mag < 1)).any())
    assert found > 80  # the others' partners fail a cut or lie in the next brick


def test_most_ring_proxies_have_no_ring_and_rings_are_ring_proxies(sky: Columns) -> None:
    ring, proxy = sky["structure"] == "ring", populations.is_ring_proxy(sky)
    assert (proxy | ~ring).all()
    assert 0.15 < ring[proxy].mean() < 0.5


def test_exposures_and_depth_agree(sky: Columns) -> None:
    observed = sky["nobs_r"] > 0
    assert stats.spearmanr(sky["nobs_r"][observed], sky["depth_r"][observed]).statistic > 0.4
    assert stats.spearmanr(sky["psfsize_r"][observed], sky["depth_r"][observed]).statistic < -0.1


def test_a_box_without_lenses_is_refused_in_one_sentence() -> None:
    far = LensList(np.array(["DESI-0"]), np.array([200.0]), np.array([30.0]))
    with pytest.raises(InputError, match="No lens of the list lies in the box"):
        build_sources(CONFIG, far)
