"""A small survey, made once, and a server of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from lensdata.config.base import load_config
from lensdata.config.simulation import FaultsConfig, MockSurveyConfig
from lensdata.simulation import survey as survey_job
from lensdata.simulation.catalogue import LensList
from lensdata.simulation.rendering import Renderer
from lensdata.simulation.server import SimulationServer
from lensdata.simulation.service import Service
from lensdata.simulation.world import Survey

hypothesis.settings.register_profile("simulation", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("simulation")

TINY = Path(__file__).parents[3] / "configs" / "simulation" / "tiny.yaml"


@pytest.fixture(scope="session")
def tiny_config() -> MockSurveyConfig:
    return load_config(MockSurveyConfig, TINY)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulation") / "tiny"
    assert survey_job.main(["--config", str(TINY), "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Survey:
    return Survey.load(str(tiny_folder))


@pytest.fixture(scope="session")
def renderer(tiny: Survey) -> Renderer:
    return Renderer(tiny)


@pytest.fixture(scope="session")
def many_lenses() -> LensList:
    """Positions all over the box of the demo, for statistics."""
    random = np.random.default_rng(1)
    ra, dec = random.uniform(5, 45, 600), random.uniform(-15, 0, 600)
    return LensList(np.array([f"DESI-{k}" for k in range(600)]), ra, dec)


ServerFactory = Callable[..., SimulationServer]


@pytest.fixture
def serve(tiny_folder: Path, tmp_path: Path) -> Iterator[ServerFactory]:
    """Starts servers of the small survey with given faults; stops them at the end."""
    started: list[SimulationServer] = []

    def start(**faults: object) -> SimulationServer:
        log = tmp_path / f"access-{len(started)}.jsonl"
        server = SimulationServer(Service(str(tiny_folder)), FaultsConfig(**faults), access_log=log)  # type: ignore[arg-type]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()
