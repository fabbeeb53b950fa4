"""Lenses for the tests of the engine of arcs."""

from __future__ import annotations

import numpy as np

from lensdata.config.simulation import LensesConfig
from lensdata.simulation import lenses
from lensdata.simulation.randomness import KeyedDraws

Columns = dict[str, np.ndarray]


def drawn(count: int, key: int = 1) -> Columns:
    """As the step ``inject`` draws them, 0.5 to 3 arcsec."""
    random = np.random.default_rng(3)
    hosts = {
        "type": np.array(["DEV"] * count),
        "shape_e1": random.normal(0, 0.2, count),
        "shape_e2": random.normal(0, 0.2, count),
    }
    return lenses.draw_lenses(KeyedDraws(key, "test", np.arange(count)), hosts, LensesConfig(theta_e_arcsec=(0.5, 3.0)))


def plain(count: int = 1, **changes: float | np.ndarray) -> Columns:
    """Round lenses of 1.5 arcsec without shear, each with a small round source on its axis."""
    values = dict.fromkeys(lenses.PARAMETERS, 0.0) | {
        "theta_e": 1.5, "lens_q": 1.0, "source_radius": 0.2, "source_index": 1.0, "source_q": 1.0,
    }  # fmt: skip
    values |= changes
    return {name: np.broadcast_to(np.asarray(value, float), (count,)).copy() for name, value in values.items()}


def seeing(count: int) -> np.ndarray:
    """FWHM in three bands, arcsec."""
    return np.random.default_rng(4).uniform(0.9, 1.8, (count, 3))
