"""Batches, retries, routes and plans of the fetch (R-C1, R-C2)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lensdata import storage, tables
from lensdata.cutouts.stored import read_stored
from lensdata.hashing import pixel_hash
from lensdata.shards.manifests import read_manifest
from lensdata.simulation.rendering import Renderer
from lensdata.simulation.sky import brick_pixels, bricks_at
from lensdata.simulation.world import Survey
from spark_jobs import build_manifests, fetch_cutouts, validate_catalogue
from tests.jobs.conftest import fetch_argv

QUANTUM = 1e-4  # of the coadds' pixels, nanomaggies


@pytest.fixture
def serve(tiny):
    """Servers that end with the test."""
    servers = []

    def start(**faults):
        servers.append(tiny.serve(**faults))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ledger_of(folder):
    return tables.read_table(str(folder / "ledger"), tables.LEDGER).to_pandas().sort_values("cutout_id")


def content(folder, *parts):
    return storage.read_json(str(folder.joinpath(*parts) / "_table.json"))["content"]


@pytest.mark.slow
def test_a_later_batch_asks_only_for_what_is_missing_and_both_are_read_as_one(tiny, serve, fetched, tmp_path):
    server = serve()
    first, second = tmp_path / "first", tmp_path / "second"
    assert fetch_cutouts.main(fetch_argv(tiny, server, first, "--test-limit", "40")) == 0
    before = len(tiny.requests())
    argv = fetch_argv(tiny, server, second, "--test-limit", "100", f"inputs.reuse={first}")
    assert fetch_cutouts.main(argv) == 0
    assert len(tiny.requests()) - before == 60
    ledger = ledger_of(second)
    assert len(ledger) == 100
    assert (ledger["attempts"] == 0).sum() == 40
    whole = ledger_of(fetched).set_index("cutout_id")
    both = ledger[ledger["cutout_id"].isin(whole.index[whole["outcome"] == "stored"])]
    assert (both["pixel_hash"] == whole.loc[both["cutout_id"], "pixel_hash"].to_numpy()).all()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for folder in (first, second):
        folder.rename(moved / folder.name)  # together: the second names the first by a relative path
    second = moved / "second"
    stored = ledger[ledger["outcome"] == "stored"]
    assert len(read_stored(str(second), stored)) == len(stored)
    sample = f"{tiny.folder}/sample"
    out = tmp_path / "built"
    assert build_manifests.main([f"inputs.sample={sample}", f"inputs.cutouts={second}", "--output", str(out)]) == 0
    assert set(read_manifest(str(out / "audit_70_15_15")).column("cutout_id")) == set(stored["cutout_id"])
    argv = [f"inputs.sample={sample}", f"inputs.cutouts={second}", "--output", str(tmp_path / "validated")]
    assert validate_catalogue.main(argv) == 0
    found = storage.read_json(str(tmp_path / "validated" / "validation.json"))["duplicates"]["near"]
    assert (found["searched"], found["stamps"]) == (True, len(stored))


def test_batches_that_do_not_fit_together_are_refused(tiny, serve, tmp_path, capsys):
    server = serve()
    first = tmp_path / "first"
    assert fetch_cutouts.main(fetch_argv(tiny, server, first, "--test-limit", "4")) == 0
    for change, told in (
        ("size=64", "size=101"),
        ("dtype=float16", "dtype='float32'"),
        ("route=tiles", "by route 'service'"),
    ):
        argv = [entry for entry in fetch_argv(tiny, server, tmp_path / "second") if not entry.startswith("route=")]
        route = [] if change.startswith("route") else ["route=service"]
        assert fetch_cutouts.main([*argv, f"inputs.reuse={first}", change, *route]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "second").exists()


def test_retry_asks_again_for_what_failed_and_for_nothing_else(tiny, serve, tmp_path):
    output = tmp_path / "out"
    broken = serve(permanent_500=0.4)
    argv = fetch_argv(tiny, broken, output, "--test-limit", "40", "execution.max_failed_fraction=1.0")
    assert fetch_cutouts.main(argv) == 0
    failed = int((ledger_of(output)["outcome"] == "failed").sum())
    files = set(tables.dataset_files(str(output / "parts")))
    assert failed > 5
    healthy = serve()
    argv = fetch_argv(tiny, healthy, output, "--test-limit", "40", "execution.max_failed_fraction=1.0")
    before = len(tiny.requests())
    assert fetch_cutouts.main(argv) == 0  # done, skipped
    assert len(tiny.requests()) == before
    assert fetch_cutouts.main([*argv, "--retry"]) == 0
    assert len(tiny.requests()) - before == failed
    assert "failed" not in set(ledger_of(output)["outcome"])
    assert files < set(tables.dataset_files(str(output / "parts")))  # into new files


def test_a_task_publishes_what_it_has_when_its_time_is_over_and_another_round_asks_for_the_rest(tiny, serve, tmp_path):
    server = serve(latency_s=0.15)
    argv = fetch_argv(tiny, server, tmp_path / "out", "--test-limit", "40", "execution.task_budget_s=0.5")
    before = len(tiny.requests())
    assert fetch_cutouts.main(argv) == 0
    assert len(ledger_of(tmp_path / "out")) == 40
    assert len(tiny.requests()) - before == 40
    assert len(list((tmp_path / "out" / "ledger" / "dataset").iterdir())) > 2


def test_counters_can_be_read_by_prometheus(fetched):
    text = (fetched / "fetch.prom").read_text()
    ledger = ledger_of(fetched)
    assert f'lensdata_fetch_events_total{{event="stored"}} {(ledger["outcome"] == "stored").sum()}\n' in text
    assert f'lensdata_fetch_events_total{{event="requests"}} {ledger["attempts"].sum()}\n' in text


def test_the_plan_is_shown_and_nothing_is_written(tiny, serve, tmp_path, capsys):
    argv = [entry for entry in fetch_argv(tiny, serve(), tmp_path / "out") if not entry.startswith("route=")]
    assert fetch_cutouts.main([*argv, "--plan-only", "plan.looked_at=0"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()[1:4]] == ["*", "bricks", "tiles"]
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def one_brick(tiny, tmp_path_factory):
    """A sample in one brick, and that brick's stamps by each route over HTTP."""
    folder = tmp_path_factory.mktemp("one_brick")
    sample = tables.read_table(f"{tiny.folder}/sample", tables.SAMPLE).to_pandas()
    names = sample["brickname"].value_counts()
    rows = sample[sample["brickname"] == names.index[0]]
    tables.write_table(pa.Table.from_pandas(rows, preserve_index=False), str(folder / "sample"), tables.SAMPLE)
    server = tiny.serve()
    for route in ("bricks", "tiles", "service"):
        argv = [
            f"inputs.sample={folder}/sample", "--output", str(folder / route), f"route={route}",
            f"service.url={server.url}/viewer/fits-cutout", f"coadds.url={server.url}/dr10/south",
            "service.requests_per_second=2000", "coadds.requests_per_second=2000", "quality.missing_frac_max=1.0",
        ]  # fmt: skip
        assert fetch_cutouts.main(argv) == 0
    server.shutdown()
    server.server_close()
    return folder, rows


def test_whole_bricks_and_tiles_give_the_renderers_pixels(tiny, one_brick):
    folder, rows = one_brick
    bricks, tiles = (ledger_of(folder / route) for route in ("bricks", "tiles"))
    assert (bricks["pixel_hash"].to_numpy() == tiles["pixel_hash"].to_numpy()).all()
    assert set(bricks["outcome"]) == {"stored"}
    stamps = read_stored(str(folder / "tiles"), tiles)
    renderer = Renderer(Survey.load(str(tiny.folder / "survey")))
    by_id = rows.set_index("source_id")
    for stamp, line in zip(stamps, tiles.itertuples(), strict=True):
        source = by_id.loc[line.source_id]
        brick = bricks_at(source["ra"], source["dec"])
        x, y = brick_pixels(source["ra"], source["dec"], float(brick.ra[0]), float(brick.dec[0]))
        left, low = round(float(x)) - 50, round(float(y)) - 50
        assert (line.offset_x, line.offset_y) == pytest.approx((x - left - 50, y - low - 50), abs=2e-3)
        truth = renderer.render_window(int(brick.brickid[0]), low, left, 101, 101, "grz")
        # half a quantum, and a tenth of one: arcs drawn on a window differ so much from those drawn on the brick
        assert np.abs(stamp - np.moveaxis(truth, 0, -1)).max() < 0.6 * QUANTUM


def test_the_service_agrees_within_its_resampling(one_brick):
    folder, _ = one_brick
    service, tiles = (ledger_of(folder / route) for route in ("service", "tiles"))
    assert service["offset_x"].isna().all()
    resampled, native = read_stored(str(folder / "service"), service), read_stored(str(folder / "tiles"), tiles)
    flux = [stamps[:, 30:71, 30:71].sum(axis=(1, 2)) for stamps in (resampled, native)]
    assert np.allclose(*flux, rtol=0.02, atol=0.5)
    # two resamplings have less noise than one: why routes are never mixed
    noise = [np.median(np.abs(np.diff(stamps[:, :20], axis=2)), axis=(1, 2)) for stamps in (resampled, native)]
    assert 0.6 < np.median(noise[0] / noise[1]) < 0.98


def test_the_plan_predicts_the_bytes_of_every_route(one_brick):
    folder, rows = one_brick
    for route in ("service", "bricks", "tiles"):
        report = storage.read_json(str(folder / route / "_report.json"))
        assert report["route"] == route
        assert report["predicted_bytes"] == pytest.approx(report["bytes"], rel=0.2)
        assert report["requested"] == len(rows)


def test_stamps_of_two_grids_are_not_packed_together(one_brick, tmp_path, capsys):
    folder, rows = one_brick
    mixed = tmp_path / "mixed"
    half = ledger_of(folder / "tiles").iloc[: len(rows) // 2]
    rest = ledger_of(folder / "service").iloc[len(rows) // 2 :]
    both = [frame.assign(part=[f"{folder}/{route}/parts/dataset/{name}" for name in frame["part"]])
            for frame, route in ((half, "tiles"), (rest, "service"))]  # fmt: skip
    ledger = pa.Table.from_pandas(pd.concat(both), preserve_index=False)
    tables.write_table(ledger, str(mixed / "ledger"), tables.LEDGER)
    storage.write_bytes(str(mixed / "_SUCCESS"), b"")
    argv = [f"inputs.sample={folder}/sample", f"inputs.cutouts={mixed}", "--output", str(tmp_path / "out")]
    assert build_manifests.main(argv) == 2
    assert "by route tiles" in capsys.readouterr().err


def test_an_outage_that_lasts_ends_the_run_in_a_sentence_and_another_run_goes_on(tiny, serve, tmp_path, capsys):
    output = tmp_path / "out"
    dead = serve(rate_503=1.0)
    argv = fetch_argv(tiny, dead, output, "--test-limit", "40", "service.outage_max_s=2")
    assert fetch_cutouts.main(argv) == 1
    assert "did not answer for 2 s; run again to go on (0 of 40 stamps are settled)" in capsys.readouterr().err
    assert fetch_cutouts.main(fetch_argv(tiny, serve(), output, "--test-limit", "40")) == 0
    assert "failed" not in set(ledger_of(output)["outcome"])


def refusal(folder, tmp_path, capsys, *settings):
    """What a fetch that is refused says; it leaves no output."""
    argv = [f"inputs.sample={folder}/sample", "--output", str(tmp_path / "out"), *settings]
    assert fetch_cutouts.main(argv) == 2
    assert not (tmp_path / "out").exists()
    return capsys.readouterr().err


def test_a_mirror_without_ranges_is_refused_for_tiles(tiny, serve, one_brick, tmp_path, capsys):
    folder, _ = one_brick
    server = serve(accept_ranges=False)
    assert "ignores Range requests" in refusal(folder, tmp_path, capsys, "route=tiles", f"coadds.url={server.url}")


def test_a_retry_that_is_refused_leaves_the_finished_output_as_it_was(tiny, serve, tmp_path, capsys):
    output = tmp_path / "out"
    argv = fetch_argv(tiny, serve(permanent_500=0.3), output, "--test-limit", "20", "execution.max_failed_fraction=1.0")
    assert fetch_cutouts.main(argv) == 0
    before = {path: path.read_bytes() for path in output.rglob("*.parquet")}
    typo = [entry for entry in argv if not entry.startswith("service.url=")] + ["service.url=http://127.0.0.1:9/x"]
    assert fetch_cutouts.main([*typo, "--retry"]) == 2
    assert "check service.url" in capsys.readouterr().err
    assert (output / "_SUCCESS").exists()
    assert {path: path.read_bytes() for path in output.rglob("*.parquet")} == before


def test_an_object_that_moved_between_batches_is_asked_for_again_and_packed_once(tiny, serve, tmp_path):
    server = serve()
    first, sample = tmp_path / "first", tmp_path / "sample"
    assert fetch_cutouts.main(fetch_argv(tiny, server, first, "--test-limit", "20")) == 0
    moved = tables.read_table(f"{tiny.folder}/sample", tables.SAMPLE).to_pandas()
    key = ledger_of(first).query("outcome == 'stored'")["source_id"].iloc[0]
    moved = moved[moved["source_id"].isin(ledger_of(first)["source_id"])].reset_index(drop=True)
    moved.loc[moved["source_id"] == key, "ra"] += 1 / 3600
    tables.write_table(pa.Table.from_pandas(moved, preserve_index=False), str(sample), tables.SAMPLE)
    argv = [
        entry
        for entry in fetch_argv(tiny, server, tmp_path / "second", f"inputs.reuse={first}")
        if "inputs.sample" not in entry
    ]
    before = len(tiny.requests())
    assert fetch_cutouts.main([*argv, f"inputs.sample={sample}"]) == 0
    assert len(tiny.requests()) - before == 1
    assert storage.read_json(str(tmp_path / "second" / "_report.json"))["reused"] == 19
    out = tmp_path / "built"
    argv = [f"inputs.sample={sample}", f"inputs.cutouts={tmp_path}/second", "--output", str(out)]
    assert build_manifests.main(argv) == 0
    ledger = ledger_of(tmp_path / "second").set_index("cutout_id")
    manifest = read_manifest(str(out / "audit_70_15_15"))
    for cutout, stamp in zip(manifest.column("cutout_id").tolist(), manifest.stamps(), strict=True):
        assert pixel_hash(stamp) == ledger.loc[cutout, "pixel_hash"]


def test_a_folder_without_coadds_is_refused_with_its_key(one_brick, tmp_path, capsys):
    folder, _ = one_brick
    assert "coadds.url=" in refusal(folder, tmp_path, capsys, "route=bricks", f"coadds.url={tmp_path}")
