"""The server over real HTTP: traps, files, ranges, faults, log, command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests

from lensdata.simulation.server import SimulationServer, main
from lensdata.simulation.sky import bricks_by_id
from lensdata.simulation.world import Survey

ServerFactory = Callable[..., SimulationServer]
GOOD = {"layer": "ls-dr10", "pixscale": "0.262", "bands": "grz", "size": "101"}


def _get(server: SimulationServer, path: str = "/viewer/fits-cutout", **query: object) -> requests.Response:
    return requests.get(server.url + path, params=query, timeout=60)  # type: ignore[arg-type]


def _log(server: SimulationServer) -> list[dict[str, object]]:
    assert server._log is not None
    return [json.loads(line) for line in Path(server._log.name).read_text().splitlines()]


def _positions(tiny: Survey, n: int) -> list[dict[str, str]]:
    rows = np.flatnonzero(tiny.sources["origin"] == "pool")[:n]
    return [{"ra": repr(float(tiny.sources["ra"][row])), "dec": repr(float(tiny.sources["dec"][row]))} for row in rows]


@pytest.mark.parametrize("path", ["/viewer/fits-cutout", "/viewer/cutout.fits", "/viewer/fits-cutout/"])
def test_a_good_query_gets_126720_bytes_of_fits(serve: ServerFactory, tiny: Survey, path: str) -> None:
    answer = _get(serve(), path, **GOOD, **_positions(tiny, 1)[0])
    assert answer.status_code == 200
    assert len(answer.content) == 126720
    assert answer.content.startswith(b"SIMPLE")


def test_the_traps_of_the_service_are_there(serve: ServerFactory, tiny: Survey) -> None:
    server, place = serve(), _positions(tiny, 1)[0]
    small = {"size": "21"}
    assert b"VERSION = 'DR9     '" in _get(server, **place, **small).content
    unknown = _get(server, layer="ls-dr11", **place, **small)
    assert (unknown.status_code, unknown.content) == (200, b"no such layer")
    assert b"BANDS   = 'griz    '" in _get(server, layer="ls-dr10", bands="gry", **place, **small).content
    assert _get(server, layer="ls-dr10", ra=place["ra"]).status_code == 400
    assert _get(server, layer="ls-dr10", size="101.0", **place).status_code == 500
    assert _get(server, **(GOOD | {"ra": "200", "dec": "50"})).status_code == 500
    assert _get(server, "/viewer/nothing").status_code == 404


def test_a_band_that_was_not_observed_is_a_plane_of_zeros(serve: ServerFactory, tiny: Survey) -> None:
    from lensdata.simulation.conditions import observe

    nobs = observe(tiny.config.seed, tiny.config.sky, tiny.sources["brickid"]).nobs[:, [0, 1, 3]]
    row = int(np.flatnonzero((nobs == 0).any(axis=1))[0])
    answer = _get(serve(), **GOOD, ra=float(tiny.sources["ra"][row]), dec=float(tiny.sources["dec"][row]))
    planes = np.frombuffer(answer.content[2880 : 2880 + 3 * 101 * 101 * 4], ">f4").reshape(3, -1)
    assert answer.status_code == 200
    np.testing.assert_array_equal((planes == 0).all(axis=1), nobs[row] == 0)


def test_one_connection_serves_many_requests_and_threads_get_equal_bytes(serve: ServerFactory, tiny: Survey) -> None:
    server, places = serve(), _positions(tiny, 4)
    with requests.Session() as session:
        one = [
            session.get(server.url + "/viewer/fits-cutout", params=GOOD | place, timeout=60).content for place in places
        ]
    with ThreadPoolExecutor(4) as pool:
        many = list(pool.map(lambda place: _get(server, **GOOD, **place).content, places))
    assert one == many


def test_sweeps_are_listed_and_served(serve: ServerFactory, tiny_folder: Path) -> None:
    server = serve()
    listing = _get(server, "/cfs/cosmo/dr10/south/sweep/10.1/").text
    for path in sorted((tiny_folder / "sweeps").glob("*.fits")):
        assert f'href="{path.name}"' in listing
    assert _get(server, f"/sweep/10.1/{path.name}").content == path.read_bytes()
    assert _get(server, "/sweep/10.1/sweep-100p000-105p005.fits").status_code == 404
    assert requests.head(f"{server.url}/sweep/10.1/{path.name}", timeout=60).headers["Content-Length"] == str(
        path.stat().st_size
    )


@pytest.mark.parametrize(
    ("asked", "status", "first", "last"),
    [
        ("bytes=0-99", 206, 0, 99),
        ("bytes=2880-", 206, 2880, None),
        ("bytes=-50", 206, -50, None),
        ("bytes=5-2", 416, None, None),
        ("lines=1-2", 200, 0, None),
    ],
)
def test_ranges_of_files(
    serve: ServerFactory, tiny_folder: Path, asked: str, status: int, first: int | None, last: int | None
) -> None:
    path = next((tiny_folder / "sweeps").glob("*.fits"))
    whole = path.read_bytes()
    answer = requests.get(f"{serve().url}/sweep/10.1/{path.name}", headers={"Range": asked}, timeout=60)
    assert answer.status_code == status
    if first is not None:
        expected = whole[first : None if last is None else last + 1]
        assert answer.content == expected
        if status == 206:
            start = first % len(whole)
            assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(expected) - 1}/{len(whole)}"


def test_a_server_without_ranges_sends_the_whole_file(serve: ServerFactory, tiny_folder: Path) -> None:
    path = next((tiny_folder / "sweeps").glob("*.fits"))
    answer = requests.get(
        f"{serve(accept_ranges=False).url}/sweep/10.1/{path.name}", headers={"Range": "bytes=0-9"}, timeout=60
    )
    assert (answer.status_code, len(answer.content)) == (200, path.stat().st_size)


def test_a_brick_is_made_when_asked_for_and_kept(
    serve: ServerFactory, tiny: Survey, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def small(renderer: object, brick: int, band: str, folder: str) -> None:
        from lensdata.simulation.bricks import coadd_path

        made.append((brick, band))
        path = Path(folder) / coadd_path(str(bricks_by_id([brick]).name[0]), band)
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(range(256)) * 30)

    monkeypatch.setattr("lensdata.simulation.service.write_brick", small)
    server, brick = serve(), int(tiny.bricks[0])
    name = str(bricks_by_id([brick]).name[0])
    url = f"{server.url}/dr10/south/coadd/{name[:3]}/{name}/legacysurvey-{name}-image-r.fits.fz"
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: requests.get(url, headers={"Range": "bytes=3-6"}, timeout=60), range(3)))
    assert [answer.content for answer in answers] == [b"\x03\x04\x05\x06"] * 3
    assert made == [(brick, "r")]
    assert requests.get(url.replace(name, "2000p500"), timeout=60).status_code == 404
    assert requests.get(url.replace("image-r", "image-y"), timeout=60).status_code == 404


def test_429_says_when_to_come_back_and_later_attempts_succeed(serve: ServerFactory, tiny: Survey) -> None:
    server = serve(rate_429=0.5, retry_after_s=3)
    outcomes = []
    for place in _positions(tiny, 8):
        for _ in range(12):
            answer = _get(server, **GOOD, **place)
            if answer.status_code == 429:
                assert answer.headers["Retry-After"] == "3"
            outcomes.append(answer.status_code)
            if answer.status_code == 200:
                break
        assert answer.status_code == 200
    assert 2 < outcomes.count(429) < 30


def test_faults_are_the_same_in_every_run(serve: ServerFactory, tiny: Survey) -> None:
    def run(order: slice) -> dict[str, list[object]]:
        server = serve(rate_503=0.3, rate_429=0.2, permanent_500=0.2, seed=5)
        for place in _positions(tiny, 10)[order]:
            for _ in range(3):
                _get(server, **(GOOD | {"size": "11"}), **place)
        found: dict[str, list[object]] = {}
        for entry in _log(server):
            found.setdefault(str(entry["ra"]), []).append(entry["status"])
        return found

    first = run(slice(None))
    assert first == run(slice(None, None, -1))
    assert {200, 429, 500, 503} <= {status for statuses in first.values() for status in statuses}
    assert any(statuses == [500] * 3 for statuses in first.values())


def test_truncated_bodies_and_resets_reach_the_client_as_errors(serve: ServerFactory, tiny: Survey) -> None:
    place = _positions(tiny, 1)[0]
    with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)):
        _get(serve(rate_truncated=1), **GOOD, **place)
    server = serve(rate_reset=1)
    with pytest.raises(requests.exceptions.ConnectionError):
        _get(server, **GOOD, **place)
    assert _log(server)[0]["fault"] == "reset"


def test_latency_and_a_limit_on_the_rate(serve: ServerFactory, tiny: Survey) -> None:
    slow = serve(latency_s=0.2)
    started = time.monotonic()
    _get(slow, "/")
    assert time.monotonic() - started >= 0.2
    limited = serve(max_requests_per_s=3)
    statuses = [_get(limited, "/").status_code for _ in range(6)]
    assert statuses[:3] == [200, 200, 200]
    assert 429 in statuses


def test_the_access_log_has_every_request(serve: ServerFactory, tiny: Survey) -> None:
    server, place = serve(), _positions(tiny, 1)[0]
    _get(server, **GOOD, **place)
    _get(server, "/sweep/10.1/")
    first, second = _log(server)
    assert (first["status"], first["bytes"], first["ra"], first["layer"]) == (200, 126720, place["ra"], "ls-dr10")
    assert (second["path"], second["fault"]) == ("/sweep/10.1/", None)
    assert float(str(first["time"])) <= float(str(second["time"]))


def test_the_command_line_serves_and_stops_on_sigterm(tiny_folder: Path, tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    command = [
        sys.executable,
        "-m",
        "lensdata.simulation.server",
        "--survey",
        str(tiny_folder),
        "--port-file",
        str(port_file),
    ]
    process = subprocess.Popen(
        [*command, "--faults", "permanent_500=1"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url == f"http://127.0.0.1:{port_file.read_text().strip()}"
        assert (
            requests.get(url + "/viewer/fits-cutout", params=GOOD | {"ra": "15", "dec": "-3"}, timeout=60).status_code
            == 500
        )
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"), [([], "holds no survey.json"), (["--faults", "rate_404=1"], "unknown key")]
)
def test_a_wrong_command_line_is_one_sentence(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    folder = tiny_folder if arguments else tmp_path
    assert main(["--survey", str(folder), *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_a_port_that_is_taken_is_said_in_one_sentence(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        assert main(["--survey", str(tiny_folder), "--port", str(port)]) == 2

    assert f"127.0.0.1:{port} cannot be listened on (Address already in use)" in capsys.readouterr().err
