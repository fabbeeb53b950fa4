"""Stamps from a server that fails in every way it can, through shards to manifests."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow.compute as pc

from lensdata import storage, tables
from lensdata.hashing import cutout_id, pixel_hash
from lensdata.shards.manifests import read_manifest
from spark_jobs import build_manifests, fetch_cutouts, validate_catalogue
from tests.jobs.conftest import fetch_argv


def test_every_object_has_one_line_in_the_ledger_and_faults_lose_nothing(tiny, fetched):
    ledger = tables.read_table(str(fetched / "ledger"), tables.LEDGER).to_pandas()
    sample = tables.read_table(str(tiny.folder / "sample"), tables.SAMPLE).to_pandas()
    assert set(ledger["cutout_id"]) == set(sample["source_id"])
    failed = ledger[ledger["outcome"] == "failed"]
    assert set(failed["reason"]) <= {"http_500"}
    assert (ledger["attempts"] > 1).sum() > 5
    assert (ledger.loc[ledger["outcome"] == "excluded", "reason"].str.contains("band|pixels")).all()
    statuses = Counter(request["status"] for request in tiny.requests())
    assert statuses[429] > 0
    assert statuses[503] > 0


def test_stored_pixels_are_those_the_server_renders(tiny, fetched):
    parts = tables.dataset_files(str(fetched / "parts"))
    from lensdata.shards.reader import open_shard
    from lensdata.simulation.cutouts import CutoutRequest, cutout_pixels, parse_query
    from lensdata.simulation.rendering import Renderer
    from lensdata.simulation.world import Survey

    renderer = Renderer(Survey.load(str(tiny.folder / "survey")))
    sample = tables.read_table(str(tiny.folder / "sample"), tables.SAMPLE).to_pandas().set_index("source_id")
    shard = open_shard(parts[0])
    stamps, rows = shard.read_group(0), shard.read_rows(0).to_pylist()
    for stamp, row in list(zip(stamps, rows, strict=True))[:5]:
        source = sample.loc[row["source_id"]]
        query = {
            "ra": f"{source['ra']:.7f}",
            "dec": f"{source['dec']:.7f}",
            "layer": "ls-dr10",
            "size": "101",
            "bands": "grz",
            "pixscale": "0.262",
        }
        request: CutoutRequest = parse_query(query)
        assert np.array_equal(stamp, np.moveaxis(cutout_pixels(renderer, request), 0, -1))
        assert row["pixel_hash"] == pixel_hash(stamp)


def test_a_restart_asks_only_for_what_is_not_published(tiny, fetched, tmp_path):
    half = tmp_path / "half"
    server = tiny.serve()
    argv = fetch_argv(tiny, server, half)
    assert fetch_cutouts.main(argv) == 0
    ledger = sorted((half / "ledger" / "dataset").glob("*.parquet"))
    for name in ("_SUCCESS", "_table.json", "ledger/_SUCCESS", "parts/_SUCCESS"):
        (half / name).unlink()
    ledger[0].unlink()
    before = len(tiny.requests())
    assert fetch_cutouts.main(argv) == 0
    again = len(tiny.requests()) - before
    server.shutdown()
    server.server_close()
    assert again == 32
    contents = [storage.read_json(str(folder / "ledger" / "_table.json"))["rows"] for folder in (half, fetched)]
    assert contents[0] == contents[1]


def test_manifests_place_every_stamp_and_drops_have_reasons(tiny, fetched, built):
    ledger = tables.read_table(str(fetched / "ledger"), tables.LEDGER)
    stored = set(ledger.filter(pc.equal(ledger["outcome"], "stored"))["cutout_id"].to_pylist())
    for name in ("audit_70_15_15", "parity_70_30"):
        manifest = read_manifest(str(built / name))
        assert set(manifest.column("cutout_id").tolist()) == stored
    rejected = tables.read_table(str(built / "rejected"), tables.REJECTED).to_pandas()
    assert len(rejected) + len(stored) == ledger.num_rows
    assert rejected["reason"].notna().all()
    assert len(tables.dataset_files(str(built / "shards"))) > 1


def test_the_row_named_by_the_manifest_holds_the_pixels_of_the_ledger(built, fetched):
    ledger = tables.read_table(str(fetched / "ledger"), tables.LEDGER).to_pandas().set_index("cutout_id")
    manifest = read_manifest(str(built / "audit_70_15_15"))
    for key, stamp in zip(manifest.column("cutout_id").tolist(), manifest.stamps(), strict=True):
        assert pixel_hash(stamp) == ledger.loc[key, "pixel_hash"]


def test_parity_merges_test_into_val_and_audit_weighs_tiers(built):
    audit, parity = (
        read_manifest(str(built / name)).table.to_pandas().set_index("cutout_id")
        for name in ("audit_70_15_15", "parity_70_30")
    )
    assert set(parity["split"]) == {"train", "val"}
    assert (parity["sample_weight"] == 1).all()
    assert (parity["split"] == audit["split"].replace("test", "val").loc[parity.index]).all()
    assert (audit.loc[audit["tier"] == "B", "sample_weight"] == 0.5).all()
    assert (audit.loc[audit["tier"] != "B", "sample_weight"] == 1.0).all()


def test_stamps_are_in_random_order_so_that_a_row_group_is_a_fair_sample(built):
    manifest = read_manifest(str(built / "audit_70_15_15"))
    bricks = manifest.table.to_pandas().sort_values(["shard", "row_group", "row"])["brickname"].to_numpy()
    repeats = (bricks[1:] == bricks[:-1]).mean()
    assert repeats < 0.2


def test_controls_have_keys_of_their_own_and_other_pixels(tiny, spark, built):
    server = tiny.serve()
    argv = fetch_argv(tiny, server, tiny.folder / "controls", "layer=ls-dr10-noarcs", "kind=control", "labels=[1]")
    assert fetch_cutouts.main(argv) == 0
    server.shutdown()
    server.server_close()
    out = tiny.folder / "control_manifest"
    assert (
        build_manifests.main(
            [
                f"inputs.sample={tiny.folder}/sample",
                f"inputs.cutouts={tiny.folder}/controls",
                "--output",
                str(out),
                "kind=control",
                "manifests=[audit_70_15_15]",
            ]
        )
        == 0
    )
    controls = read_manifest(str(out / "audit_70_15_15"))
    plain = read_manifest(str(built / "audit_70_15_15"))
    ids = {int(source): place for place, source in enumerate(plain.column("source_id"))}
    assert (controls.column("label") == 1).all()
    assert np.array_equal(controls.column("cutout_id"), cutout_id(controls.column("source_id"), "control"))
    with_arcs, without = plain.stamps(), controls.stamps()
    both = [
        (place, ids[int(source)]) for place, source in enumerate(controls.column("source_id")) if int(source) in ids
    ]
    brighter = [float((with_arcs[j] - without[i]).sum()) for i, j in both]
    assert len(both) > 20
    assert np.median(brighter) > 1.0  # the arcs: more light, never less
    assert min(brighter) > -1e-2


def test_validation_covers_the_manifests(tiny, built, tmp_path):
    argv = [
        f"inputs.sample={tiny.folder}/sample",
        f"inputs.quotas={tiny.folder}/negatives/quotas",
        f"inputs.manifests={built}",
        "--output",
        str(tmp_path / "v"),
    ]
    assert validate_catalogue.main(argv) == 0
    names = [check["name"] for check in storage.read_json(str(tmp_path / "v" / "validation.json"))["checks"]]
    assert "audit_70_15_15: no null stamp reference" in names


def test_an_outage_fails_the_step_and_a_rerun_asks_for_what_failed(tiny, tmp_path, capsys):
    output = tmp_path / "outage"
    broken = tiny.serve(permanent_500=0.5)
    assert fetch_cutouts.main(fetch_argv(tiny, broken, output, "--test-limit", "40")) == 1
    broken.shutdown()
    broken.server_close()
    assert "of 40 stamps failed (http_500" in capsys.readouterr().err
    ledger = tables.read_table(str(output / "ledger"), tables.LEDGER, check=False).to_pandas()
    failed = int((ledger["outcome"] == "failed").sum())
    assert 0 < failed < 40
    healthy = tiny.serve()
    before = len(tiny.requests())
    # another part size must not matter: what is done is known by cutout_id
    assert (
        fetch_cutouts.main(fetch_argv(tiny, healthy, output, "--test-limit", "40", "execution.stamps_per_part=7")) == 0
    )
    healthy.shutdown()
    healthy.server_close()
    assert len(tiny.requests()) - before == failed
    ledger = tables.read_table(str(output / "ledger"), tables.LEDGER).to_pandas()
    assert len(ledger) == 40
    assert "failed" not in set(ledger["outcome"])


def test_a_part_that_was_not_published_is_no_duplicate_after_a_restart(tiny, tmp_path):
    output = tmp_path / "orphan"
    server = tiny.serve()
    argv = fetch_argv(tiny, server, output, "--test-limit", "64")
    assert fetch_cutouts.main(argv) == 0
    content = storage.read_json(str(output / "parts" / "_table.json"))["content"]
    for name in ("_SUCCESS", "_table.json", "ledger/_SUCCESS", "parts/_SUCCESS"):
        (output / name).unlink()
    next(
        (output / "ledger" / "dataset").glob("part-00000-*.parquet")
    ).unlink()  # killed between the stamps and their ledger rows
    assert fetch_cutouts.main(argv) == 0
    server.shutdown()
    server.server_close()
    assert storage.read_json(str(output / "parts" / "_table.json"))["content"] == content
