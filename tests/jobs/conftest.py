"""A small sky of crafted sweeps and lenses, and the chain of catalogue jobs over it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from spark_jobs import assign_splits, extract_pool, match_positives, sample_negatives
from tests.sweeps import galaxies, write_sweep

LENSES = 60
ROWS = 6000


def crafted_sky(folder: Path) -> SimpleNamespace:
    """Two sweep files that share 25 sources on their edge, and lenses at 60 of the galaxies."""
    table = galaxies(ROWS, seed=3)
    write_sweep(
        folder / "sweeps" / "sweep-010m010-015m005.fits", {name: values[:4000] for name, values in table.items()}
    )
    write_sweep(
        folder / "sweeps" / "sweep-015m010-020m005.fits", {name: values[3975:] for name, values in table.items()}
    )
    rng = np.random.default_rng(1)
    at = rng.choice(ROWS, LENSES, replace=False)
    lenses = pd.DataFrame(
        {
            "name": [f"DESI-{i:03d}" for i in range(LENSES)],
            "ra": table["RA"][at] + rng.normal(0, 0.1 / 3600, LENSES),
            "dec": table["DEC"][at] + rng.normal(0, 0.1 / 3600, LENSES),
            "grading": np.where(np.arange(LENSES) % 6 == 0, "confident", "probable"),
        }
    )
    lenses.loc[LENSES] = ["DESI-nowhere", 200.0, 5.0, "probable"]
    lenses.loc[LENSES + 1] = ["OTHER-1", 201.0, 5.0, "probable"]
    lenses.to_csv(folder / "lenses.csv", index=False)
    return SimpleNamespace(
        folder=folder, table=table, lenses=lenses, at=at, sweeps=folder / "sweeps", lens_csv=folder / "lenses.csv"
    )


def run_chain(sky: SimpleNamespace, out: Path, *, rows_per_split: int = 1500, ratio: int = 10) -> Path:
    """extract_pool, match_positives, sample_negatives, assign_splits through ``main(argv)``."""
    assert extract_pool.main([f"inputs.sweeps={sky.sweeps}", f"inputs.lenses={sky.lens_csv}", "--output", f"{out}/pool",
                              f"execution.rows_per_split={rows_per_split}"]) == 0  # fmt: skip
    assert (
        match_positives.main(
            [
                f"inputs.near_lenses={out}/pool/near_lenses",
                f"inputs.lenses={sky.lens_csv}",
                "--output",
                f"{out}/positives",
            ]
        )
        == 0
    )
    assert (
        sample_negatives.main(
            [
                f"inputs.pool={out}/pool",
                f"inputs.positives={out}/positives",
                "--output",
                f"{out}/negatives",
                f"ratio={ratio}",
            ]
        )
        == 0
    )
    assert (
        assign_splits.main(
            [f"inputs.positives={out}/positives", f"inputs.negatives={out}/negatives", "--output", f"{out}/sample"]
        )
        == 0
    )
    return out


@pytest.fixture(scope="session")
def sky(tmp_path_factory) -> SimpleNamespace:
    return crafted_sky(tmp_path_factory.mktemp("sky"))


@pytest.fixture(scope="session")
def chain(sky, spark, tmp_path_factory) -> Path:
    return run_chain(sky, tmp_path_factory.mktemp("chain"))
