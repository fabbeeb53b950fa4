"""A small sky of crafted sweeps and lenses, and the chain of catalogue jobs over it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lensdata.config.simulation import FaultsConfig
from lensdata.simulation import survey as survey_job
from lensdata.simulation.server import Service, SimulationServer
from spark_jobs import (
    assign_splits,
    build_manifests,
    extract_pool,
    fetch_cutouts,
    match_positives,
    sample_negatives,
)
from tests.sweeps import galaxies, write_sweep

TINY_TRAINING = Path(__file__).parents[2] / "configs" / "training" / "tiny.yaml"
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


TINY = Path(__file__).parents[2] / "configs" / "simulation" / "tiny.yaml"
FAULTS = {
    "rate_503": 0.05,
    "rate_reset": 0.03,
    "rate_truncated": 0.03,
    "rate_429": 0.02,
    "retry_after_s": 0.2,
    "permanent_500": 0.02,
}


class Sky:
    """A survey on disk and servers of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "access.jsonl"

    def serve(self, **faults):
        server = SimulationServer(Service(str(self.folder / "survey")), FaultsConfig(**faults), access_log=self.log)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server

    def requests(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture(scope="session")
def tiny(spark, tmp_path_factory):
    sky = Sky(tmp_path_factory.mktemp("tiny"))
    assert (
        survey_job.main(["--config", str(TINY), "--output", str(sky.folder / "survey"), "inputs.lenses=lenscat"]) == 0
    )
    run_chain(SimpleNamespace(sweeps=sky.folder / "survey" / "sweeps", lens_csv="lenscat"), sky.folder, ratio=5)
    return sky


def fetch_argv(sky, server, output, *more):
    return [
        f"inputs.sample={sky.folder}/sample",
        "--output",
        str(output),
        "route=service",
        f"service.url={server.url}/viewer/fits-cutout",
        "service.requests_per_second=2000",
        "service.backoff_s=0.01",
        "service.max_attempts=20",
        "execution.stamps_per_part=32",
        *more,
    ]


@pytest.fixture(scope="session")
def fetched(tiny):
    server = tiny.serve(**FAULTS)
    assert fetch_cutouts.main(fetch_argv(tiny, server, tiny.folder / "cutouts")) == 0
    server.shutdown()
    server.server_close()
    return tiny.folder / "cutouts"


@pytest.fixture(scope="session")
def built(tiny, fetched):
    argv = [
        f"inputs.sample={tiny.folder}/sample",
        f"inputs.cutouts={fetched}",
        "--output",
        str(tiny.folder / "built"),
        "row_group_stamps=16",
        "execution.shard_bytes=4194304",
    ]
    assert build_manifests.main(argv) == 0
    return tiny.folder / "built"


@pytest.fixture(scope="session")
def trained(built, tmp_path_factory):
    """A network trained for one epoch on the small survey."""
    from ray_train import train

    out = tmp_path_factory.mktemp("run") / "train"
    argv = ["--config", str(TINY_TRAINING), f"inputs.manifest={built}/audit_70_15_15", "--output", str(out)]
    assert train.main([*argv, "execution.runtime=local"]) == 0
    return out
