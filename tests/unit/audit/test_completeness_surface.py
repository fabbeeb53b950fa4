"""A completeness surface that is known: simulated hosts, injections and negatives for the tests of the selection function."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import norm

from lensdata.catalogue.strata import DEPTH_EDGES_MAG, PSF_EDGES_ARCSEC, bin_index

Scatter = Literal["logistic", "normal"]
THETA_E = np.array([0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0])
ARC_SNR = np.array([5.0, 10.0, 20.0, 40.0, 80.0])
HOST_SPREAD = 0.7  # of the logit between hosts: what makes the injections of one host alike
LOGISTIC_SCALE, NORMAL_SPREAD = (
    0.5,
    0.9,
)  # of the logit between injections on one host; much the same standard deviation
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(15)


def mean_logit(theta_e, psf, arc_snr, mag_r, depth):
    """Rises with theta_E/FWHM until the arc is resolved, with S/N, and with depth; falls for bright and for faint hosts."""
    ratio, bright = np.tanh(1.3 * np.log(theta_e / psf) + 0.4), np.log10(arc_snr) - 1.3
    host = -0.35 * (mag_r - 19) - 0.1 * (mag_r - 19) ** 2 + 0.4 * (depth - 23.8)
    return 1.2 + 2.0 * ratio + 2.2 * bright + 0.7 * ratio * bright + host


def truth(fpr: float, scatter: Scatter = "logistic", **where) -> np.ndarray:
    """Completeness over all hosts that look so, at the threshold of exactly this rate: negatives are standard normal."""
    margin = mean_logit(**where) - norm.isf(fpr)
    if scatter == "normal":
        return norm.cdf(margin / np.hypot(HOST_SPREAD, NORMAL_SPREAD))
    parts = (
        weight * expit((margin + HOST_SPREAD * node) / LOGISTIC_SCALE)
        for node, weight in zip(NODES, NODE_WEIGHTS, strict=True)
    )
    return sum(parts) / NODE_WEIGHTS.sum()


def hosts(rng: np.random.Generator, count: int) -> pd.DataFrame:
    psf = np.clip(1.3 * np.exp(0.15 * rng.normal(size=count)), 0.85, 2.0)
    depth = np.clip(rng.normal(23.8, 0.35, count), 22.6, 25.0)
    return pd.DataFrame({
        "source_id": 10**6 + rng.permutation(count), "psf": psf, "depth": depth,
        "mag_r": 17 + 4 * rng.beta(3, 3, count),
        "psf_bin": bin_index(psf, PSF_EDGES_ARCSEC).astype(int), "depth_bin": bin_index(depth, DEPTH_EDGES_MAG).astype(int),
    })  # fmt: skip


def injections(
    rng: np.random.Generator,
    carriers: pd.DataFrame,
    theta_e: np.ndarray = THETA_E,
    arc_snr: np.ndarray = ARC_SNR,
    per_cell: int = 1,
    scatter: Scatter = "logistic",
) -> pd.DataFrame:
    """Every host carries ``per_cell`` arcs at each node."""
    nodes = np.stack(np.meshgrid(theta_e, arc_snr, indexing="ij")).reshape(2, -1).repeat(per_cell, axis=1)
    rows = carriers.loc[carriers.index.repeat(nodes.shape[1])].reset_index(drop=True)
    rows["theta_e"], rows["arc_snr"] = np.tile(nodes, len(carriers))
    own = np.repeat(HOST_SPREAD * rng.normal(size=len(carriers)), nodes.shape[1])
    noise = (
        LOGISTIC_SCALE * rng.logistic(size=len(rows))
        if scatter == "logistic"
        else NORMAL_SPREAD * rng.normal(size=len(rows))
    )
    where = {name: rows[name] for name in ("theta_e", "psf", "arc_snr", "mag_r", "depth")}
    return rows.assign(logit=mean_logit(**where) + own + noise)


def test_the_known_surface_is_what_very_many_injections_give():
    rng = np.random.default_rng(0)
    one = hosts(rng, 1).loc[[0] * 40_000].reset_index(drop=True)
    where = {name: one[name].to_numpy() for name in ("psf", "mag_r", "depth")}
    for scatter in ("logistic", "normal"):
        rows = injections(rng, one, np.array([1.0]), np.array([20.0]), scatter=scatter)
        expected = truth(1e-2, scatter, theta_e=1.0, arc_snr=20.0, **where)[0]
        assert abs((rows["logit"] > norm.isf(1e-2)).mean() - expected) < 0.01
