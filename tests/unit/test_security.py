"""Attacks that a stranger's file, configuration or server could try, each tried (docs/security.md)."""

from __future__ import annotations

import pickle
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path

import numpy as np
import pytest
import torch

from lensdata import network, storage, web
from lensdata.catalogue.sweeps import list_sweeps
from lensdata.config.base import load_config
from lensdata.config.cutouts import FetchCutoutsConfig, Server
from lensdata.config.secrets import secret_in
from lensdata.config.training import TrainingConfig
from lensdata.cutouts.client import PoliteClient, Tally
from lensdata.cutouts.coadds import coadd_path
from lensdata.cutouts.coordinator import LocalTurns
from lensdata.cutouts.pace import Pace
from lensdata.errors import InputError
from lensdata.report.figures import canvas, svg
from lensdata.report.page import render
from lensdata.shards import importing, maintenance, npz
from lensdata.shards.layout import SURVEY_LAYOUT
from ray_train.core import state
from ray_train.networks import read_weights


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def trap(tmp_path):
    sprung = tmp_path / "sprung"
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()  # the trap works
    sprung.unlink()
    return sprung


def test_code_in_an_npz_is_not_run(tmp_path, trap):
    np.savez(tmp_path / "7.npz", cutout=np.array([Trap(trap)], dtype=object))

    with pytest.raises(InputError):
        npz.read_cutout(str(tmp_path / "7.npz"))

    assert not trap.exists()


@pytest.mark.parametrize(
    "load",
    [
        lambda path: state.load(path.read_bytes()),
        lambda path: read_weights(TrainingConfig(model={"weights": str(path)}), None),
        lambda path: read_weights(TrainingConfig(), str(path)),
    ],
    ids=["checkpoint", "model.weights", "init_from"],
)
def test_code_in_a_checkpoint_is_not_run(tmp_path, trap, load):
    path = tmp_path / "epoch_001.pt"
    torch.save({"model": Trap(trap)}, path)

    with pytest.raises((InputError, state.CheckpointError)):
        load(path)

    assert not trap.exists()


def test_code_in_a_yaml_file_is_not_run(tmp_path, trap):
    path = tmp_path / "config.yaml"
    path.write_text(f"seed: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{trap}]]\n")

    with pytest.raises(InputError, match="is not valid YAML"):
        load_config(TrainingConfig, path)
    with pytest.raises(InputError, match="is not valid YAML"):
        load_config(TrainingConfig, None, [f"seed=!!python/object/apply:os.remove [{trap}]"])

    assert not trap.exists()


@contextmanager
def listening(address: str, target: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """A server that answers 200, or leads to ``target``; yields its address and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if target is None else 302)
            if target is not None:
                self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer((address, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{address}:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def forbidden(monkeypatch):
    """A host of this machine that stands for the one at which a cloud keeps credentials."""
    monkeypatch.setattr(network, "METADATA", (ip_network("127.0.0.9/32"),))
    with listening("127.0.0.9") as (url, asked):
        yield url
    assert not asked


def test_a_redirect_to_the_credentials_of_a_machine_is_not_followed(forbidden):
    with listening("127.0.0.1", f"{forbidden}/latest/meta-data/iam") as (url, asked):
        with pytest.raises(network.ForbiddenHost, match="at which clouds keep credentials: never asked"):
            web.describe(f"{url}/sweep.fits")
        assert asked


def test_a_name_that_turns_into_a_forbidden_number_is_not_asked(forbidden, monkeypatch):
    port = int(forbidden.rsplit(":", 1)[1])
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: real("127.0.0.9" if host == "innocent.example" else host, *rest, **more),
    )

    with pytest.raises(network.ForbiddenHost, match=r"innocent\.example is 127\.0\.0\.9"):
        web.describe(f"http://innocent.example:{port}/sweep.fits")


def test_a_cutout_service_may_not_be_the_forbidden_host_either(forbidden):
    client = PoliteClient(
        Server(requests_per_second=100), LocalTurns(Pace(100.0, 60.0, 1800.0, 60.0, now=time.monotonic()))
    )

    with pytest.raises(network.ForbiddenHost):
        client.ask(f"{forbidden}/viewer/fits-cutout", lambda answer: answer, Tally())


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.170.2",
        "::ffff:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "2002:a9fe:a9fe::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "fd20:ce::254",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
    ],
)
def test_addresses_of_clouds_credentials_are_known(address):
    with pytest.raises(network.ForbiddenHost):
        network.require_public("somewhere", address)


@pytest.mark.parametrize(
    "address", ["128.55.206.109", "10.0.0.7", "127.0.0.1", "2620:83:8000::1", "64:ff9b::128.55.206.109"]
)
def test_other_addresses_are_not_refused(address):
    network.require_public("somewhere", address)


def test_an_operator_may_name_the_only_hosts_that_are_asked(monkeypatch):
    monkeypatch.setenv(network.ALLOWED_HOSTS, "portal.nersc.gov, .legacysurvey.org")
    for host in ("portal.nersc.gov", "www.legacysurvey.org", "WWW.legacysurvey.org."):
        network.require_allowed(host)
    for host in ("evil.example", "legacysurvey.org.evil.example", "evillegacysurvey.org", "nersc.gov"):
        with pytest.raises(network.ForbiddenHost, match="is not among the hosts that LENSDATA_ALLOWED_HOSTS allows"):
            network.require_allowed(host)
    with listening("127.0.0.1") as (url, asked):
        with pytest.raises(network.ForbiddenHost):
            web.describe(f"{url}/sweep.fits")
        assert not asked


@pytest.mark.parametrize("name", ["../../../etc/passwd", "0959p805/../..", "", "0959x805", "0959p805\n"])
def test_a_brick_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(InputError, match="is no name of a brick"):
        coadd_path(name, "image", "r")


def test_names_of_imported_stamps_lead_nowhere(tmp_path):
    """Names become columns and keys, never paths: what is written stays in the folder asked for."""
    rng = np.random.default_rng(0)
    names = ["../../escaped", "/tmp/escaped", "..\\escaped", "a/../../b"] * 5
    np.savez(tmp_path / "stamps.npz", images=rng.normal(size=(20, 16, 16, 3)).astype(np.float32), label=np.arange(20) % 2,
             name=np.array([f"{name}{number}" for number, name in enumerate(names)]))  # fmt: skip
    before = set(tmp_path.rglob("*"))

    assert (
        importing.main([f"inputs.stamps={tmp_path / 'stamps.npz'}", "unit=other", "--output", str(tmp_path / "out")])
        == 0
    )

    made = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "out") for path in made)


def test_keys_of_an_object_store_lead_nowhere(bucket, tmp_path):
    """A store may hold objects whose keys climb; packed and exported again they stay inside."""
    folder = storage.join(bucket, "climbing")
    for key in ("1.npz", "..%2F..%2Fescaped.npz", "....//escaped.npz"):
        npz.write_stamp(f"{folder}/{key}", np.ones(SURVEY_LAYOUT.shape, np.float32))
    before = set(tmp_path.rglob("*"))

    maintenance.import_npz(folder, str(tmp_path / "packed"))

    assert all(path.is_relative_to(tmp_path / "packed") for path in set(tmp_path.rglob("*")) - before)


def test_words_in_a_drawing_cannot_become_script():
    """Drawings are put into a page as they are; everything else in a page is escaped by its template."""
    figure, (axes,) = canvas()
    axes.set_title("--><script>alert(1)</script>")

    drawn = re.sub(r"<!--.*?-->", "", svg(figure), flags=re.DOTALL)

    assert "alert" not in drawn


def test_words_in_a_page_are_escaped():
    page = render("base.html", title="<script>alert(1)</script>")

    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


SECRETS = {
    "https://me:hunter2secret@example.org/files": "hunter2secret",
    "https://bucket.s3.amazonaws.com/x?X-Amz-Signature=deadbeef0123": "deadbeef0123",
    "AKIA" + "A1B2C3D4E5F6G7H8": "A1B2C3D4E5F6G7H8",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEow": "MIIEow",
    "hf_" + "a" * 34: "a" * 34,
    "github_pat_" + "a1" * 11 + "_" + "b2" * 29: "a1" * 11,
}


@pytest.mark.parametrize(("text", "secret"), SECRETS.items())
def test_a_secret_in_a_configuration_is_refused_and_not_repeated(text, secret, tmp_path, caplog):
    path = tmp_path / "config.yaml"
    path.write_text(f"service:\n  contact: {text!r}\n")
    for load in (
        lambda: load_config(FetchCutoutsConfig, path),
        lambda: load_config(FetchCutoutsConfig, None, [f"service.contact={text!r}"]),
    ):
        with pytest.raises(
            InputError, match=r"service\.contact holds an? .* give credentials by the environment"
        ) as caught:
            load()
        assert secret not in str(caught.value)
    assert secret not in caplog.text


def test_a_secret_in_an_address_of_the_command_line_is_refused_and_written_nowhere(tmp_path, capsys):
    settings = ["inputs.stamps=https://me:hunter2secret@example.org/stamps.npz", "--output", str(tmp_path / "out")]

    assert importing.main(settings) == 2

    assert "inputs.stamps holds a password in an address" in (said := capsys.readouterr().err)
    assert "hunter2secret" not in said
    assert not (tmp_path / "out").exists()


def test_a_secret_in_a_list_of_files_is_refused(tmp_path):
    path = tmp_path / "sweeps.txt"
    path.write_text("# mirror\nhttps://me:hunter2secret@example.org/sweep-000.fits\n")

    with pytest.raises(InputError, match=r"sweeps\.txt, line 2, holds a password in an address") as caught:
        list_sweeps(str(path))
    assert "hunter2secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["s3://bucket/a:b@c", "https://example.org/a@b", "http://[::1]:8080/x", "2026-11-22T10:00:00", "AKIA"]
)
def test_what_only_looks_like_a_secret_is_none(text):
    assert secret_in(text) is None
