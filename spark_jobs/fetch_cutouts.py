"""A stamp for every object of the sample: many small tasks, each published whole, restartable anywhere (R-C1 to R-C4).

A part of stamps is published by its ledger rows. A restart, a further round of the same run, ``--retry`` and a later batch
(``inputs.reuse``) are one operation: ask for what no ledger row settles yet.
"""

from __future__ import annotations

import logging
import math
import posixpath
import secrets
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from lensdata import steps, storage, tables
from lensdata.config.cutouts import Coadds, FetchCutoutsConfig, Route, Service
from lensdata.cutouts import planning
from lensdata.cutouts.client import require_ranges, require_reachable
from lensdata.cutouts.coadds import Kind, coadd_files, coadd_uri
from lensdata.cutouts.coordinator import Coordinator, LocalTurns
from lensdata.cutouts.outcome import EXCLUDED, FAILED, STORED
from lensdata.cutouts.pace import Pace
from lensdata.cutouts.planning import RoutePlan
from lensdata.cutouts.publishing import (
    LEDGER_IDENTITY,
    keep_one_row_per_stamp,
    ledger_bytes,
    part_index,
    remove_orphans,
    settled_ids,
)
from lensdata.cutouts.request import make_request
from lensdata.cutouts.watching import Watcher
from lensdata.errors import InputError
from lensdata.hashing import cutout_id
from lensdata.jobs import JOBS
from lensdata.steps import JobFailed, JobRun, Outcome, progress, run_job
from spark_jobs import datasets
from spark_jobs.session import build_session
from spark_jobs.transforms.fetching import Asked, Fetch, fetch_group, group_requests

log = logging.getLogger(__name__)
JOB = JOBS["fetch_cutouts"]
PLAN, REUSED = "_plan.json", "reused-00000.parquet"
PLAN_ONLY = "--plan-only"
# What two batches must share to be read as one; the objects asked for may differ.
SHARED = ("layer", "bands", "size", "pixscale_arcsec", "extras", "dtype", "kind", "quality")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code. With ``--plan-only`` the routes are compared and nothing is fetched."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if PLAN_ONLY in arguments:
        return steps.exit_code(JOB.name, lambda: plan_only(arguments))
    return run_job(JOB, fetch_cutouts, arguments)


def plan_only(argv: Sequence[str]) -> int:
    """Print the comparison of the routes; needs no Spark and writes nothing."""
    request = steps.parse(JOB, argv)
    asked = plan_requests(request.inputs, request.config, request.test_limit)
    reused = reused_rows(request.inputs, request.config, request.output)
    settled = settled_ids(storage.join(request.output, "ledger"))
    asked = [entry for entry in asked if entry.cutout_id not in settled]
    plans, chosen = plan_fetch(asked, reused, request.inputs, request.config)
    sys.stdout.write(planning.table(plans, chosen) + "\n")
    return steps.EXIT_DONE


def fetch_cutouts(run: JobRun) -> Outcome:
    """Ask for what no ledger row settles yet, then check and finish."""
    config, ledger_folder = run.config, run.path("ledger")
    asked = plan_requests(run.inputs, config, run.test_limit)
    reused = reused_rows(run.inputs, config, run.final)
    plan = settle_plan(run, asked, reused)
    route: Route = plan["route"]
    take_over(run, reused, asked, route)
    settled = settled_ids(ledger_folder)
    missing = [entry for entry in asked if entry.cutout_id not in settled]
    progress(len(asked) - len(missing), len(asked), "stamps")
    if missing:
        require_server(config, route, missing[0].brickname)
    for mark in ("_SUCCESS", "_table.json", "ledger/_SUCCESS", "parts/_SUCCESS") if run.retry and missing else ():
        storage.remove(run.path(mark))  # of the output that --retry goes on with; all that can be refused has been
    spark = build_session(JOB.name, config.execution.shuffle_partitions)
    loss = fetch_missing(spark, run, plan, missing, len(asked)) if missing else {}
    keep_one_row_per_stamp(ledger_folder)
    ledger = tables.read_table(ledger_folder, tables.LEDGER, check=False)
    remove_orphans(run.path("parts"), ledger)
    report = check(ledger, len(asked), config) | {"reused": count_reused(ledger_folder)} | plan | loss
    datasets.finish(spark, run.path("parts"), None, identity=["cutout_id", "request_hash", "pixel_hash"])
    rows, content = datasets.finish(spark, ledger_folder, tables.LEDGER, identity=LEDGER_IDENTITY)
    return Outcome(rows, content, report)


def plan_requests(inputs: dict[str, str], config: FetchCutoutsConfig, limit: int | None) -> list[Asked]:
    """What to ask for, by brick and id, so that stamps of a brick come together.

    Raises
    ------
    InputError
        No object of the sample has a wanted label.
    """
    columns = ["source_id", "ra", "dec", "brickname", "label"]
    sample = tables.read_table(inputs["sample"], columns=columns)
    sample = sample.filter(pc.is_in(sample["label"], pa.array(config.labels, pa.int8())))
    if sample.num_rows == 0:
        raise InputError(f"No object in {inputs['sample']} has a label among {list(config.labels)}.")
    if sample["brickname"].null_count:
        key = sample.filter(pc.is_null(sample["brickname"]))["source_id"][0].as_py()
        raise InputError(
            f"{inputs['sample']}: source_id {key} has no brickname; every object needs the name of its brick."
        )
    sample = sample.sort_by([("brickname", "ascending"), ("source_id", "ascending")]).slice(0, limit)
    ids = cutout_id(sample["source_id"].to_numpy(), config.kind).tolist()
    values = (sample[name].to_pylist() for name in ("source_id", "ra", "dec", "brickname"))
    return [Asked(*row) for row in zip(ids, *values, strict=True)]


def plan_routes(asked: list[Asked], config: FetchCutoutsConfig) -> tuple[Sequence[RoutePlan], RoutePlan]:
    """What each route would cost for these objects, and the one to take: the one that is configured, or the planner's.

    Raises
    ------
    InputError
        The route that is configured gives no such stamps.
    """
    per_brick = Counter(entry.brickname for entry in asked)
    here = not storage.is_http(config.coadds.url)
    plans = planning.plan_routes(
        per_brick, config.bands, config.size, config.extras, config.plan.prices,
        service_rate=config.service.requests_per_second,
        coadds_rate=math.inf if here else config.coadds.requests_per_second,
        cores=config.plan.prices.cores, file_bytes=look_at_files(list(per_brick), config), pixscale_arcsec=config.pixscale_arcsec,
    )  # fmt: skip
    if config.route == "auto":
        return plans, planning.choose(plans, config.plan.prefer)
    chosen = next(plan for plan in plans if plan.route == config.route)
    if not chosen.possible:
        raise InputError(f"Route {chosen.route} {chosen.why}; choose another route.")
    return plans, chosen


def look_at_files(bricks: list[str], config: FetchCutoutsConfig) -> dict[Kind, float]:
    """Mean sizes of some bricks' files by kind, bytes; prices serve where nobody answers, and where the route is settled."""
    if config.route == "service" or not bricks:
        return {}
    found: dict[Kind, list[int]] = {}
    chosen = bricks[:: max(1, len(bricks) // max(1, config.plan.looked_at))][: config.plan.looked_at]
    uris = [(kind, coadd_uri(config.coadds.url, brick, kind, band))
            for brick in chosen for kind, band in coadd_files(config.bands, config.extras)]  # fmt: skip
    reason: Exception | None = None
    try:
        if storage.is_http(config.coadds.url):
            require_reachable(config.coadds, config.coadds.url, "coadds.url")
        for kind, uri in uris:
            try:
                found.setdefault(kind, []).append(storage.size(uri))
            except InputError as error:  # a brick, or a band of it, that is not there
                reason = error
    except (InputError, OSError) as error:
        reason = error
    if not any(found.values()) and reason is not None:
        if config.route != "auto":
            raise InputError(
                f"coadds.url={config.coadds.url} gives none of the {len(uris)} files looked at: {reason}"
            ) from reason
        log.warning("sizes of coadds are reckoned by the price: %s", reason)
    return {kind: float(np.mean(sizes)) for kind, sizes in found.items() if sizes}


def plan_fetch(
    asked: list[Asked], reused: pa.Table, inputs: dict[str, str], config: FetchCutoutsConfig
) -> tuple[Sequence[RoutePlan], RoutePlan]:
    """The plans for what an earlier batch does not have, by its route if there is one.

    Raises
    ------
    InputError
        The earlier batch came by another route than the one that is configured.
    """
    if reused.num_rows:
        route = reused["route"][0].as_py()
        if config.route not in ("auto", route):
            raise InputError(
                f"{inputs['reuse']} was fetched by route {route!r}, the configuration asks for {config.route!r}; "
                "a data set has one route, for their noise differs (R-C1)."
            )
        config = config.model_copy(update={"route": route})
        known = set(reused["cutout_id"].to_pylist())
        asked = [entry for entry in asked if entry.cutout_id not in known]
    return plan_routes(asked, config)


def settle_plan(run: JobRun, asked: list[Asked], reused: pa.Table) -> dict[str, Any]:
    """The one route of the whole data set and what it is expected to cost, settled once: an interrupted run keeps its own."""
    stored = run.path(PLAN)
    if storage.exists(stored):
        return dict(storage.read_json(stored))
    plans, chosen = plan_fetch(asked, reused, run.inputs, run.config)
    log.info("routes:\n%s", planning.table(plans, chosen))
    plan = {
        "route": chosen.route,
        "predicted_bytes": round(chosen.bytes),
        "predicted_requests": round(chosen.requests),
        "predicted_seconds": round(chosen.seconds),
    }
    storage.write_json(stored, plan)
    return plan


def require_server(config: FetchCutoutsConfig, route: Route, brickname: str) -> None:
    """Refuse a server that is not there, or that cannot do what the route needs, before anything is changed.

    Raises
    ------
    InputError
        Nobody answers, or ``tiles`` would get whole files.
    """
    server = config.service if route == "service" else config.coadds
    if storage.is_http(server.url):
        require_reachable(server, server.url, "service.url" if route == "service" else "coadds.url")
        if route == "tiles":
            require_ranges(server, coadd_uri(server.url, brickname, "image", config.bands[0]))


def reused_rows(inputs: dict[str, str], config: FetchCutoutsConfig, output: str) -> pa.Table:
    """Ledger rows of an earlier batch that need no further request, their ``part`` as seen from ``output``.

    Raises
    ------
    InputError
        The batch is not finished, or its stamps are not such as are asked for here.
    """
    if "reuse" not in inputs:
        return tables.LEDGER.schema.empty_table()
    batch = inputs["reuse"]
    tables.require_success(batch)
    if storage.read_json(storage.join(batch, "_table.json")).get("step") != JOB.name:
        raise InputError(f"inputs.reuse={batch} is no output of {JOB.name}; name that of an earlier batch.")
    theirs, ours = storage.read_json(storage.join(batch, "_config.json")), config.model_dump(mode="json")
    for name in SHARED:
        if theirs.get(name) != ours[name]:
            raise InputError(
                f"{batch} was fetched with {name}={theirs.get(name)!r}, the configuration asks for {ours[name]!r}; "
                "two batches that are read as one must agree."
            )
    rows = tables.read_table(storage.join(batch, "ledger"), tables.LEDGER)
    rows = rows.filter(pc.not_equal(rows["outcome"], FAILED))
    parts = [
        name and _seen_from(output, storage.join(batch, "parts", "dataset", name)) for name in rows["part"].to_pylist()
    ]
    columns = {"part": parts, "attempts": [0] * len(parts), "seconds": [0.0] * len(parts), "bytes": [0] * len(parts)}
    for name, values in columns.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(name), pa.array(values, rows.schema.field(name).type))
    return rows


def _seen_from(output: str, uri: str) -> str:
    """A file relative to ``<output>/parts/dataset`` where both lie on this file system, so that they can move together."""
    if storage.is_s3(uri) or storage.is_s3(output):
        return uri
    return posixpath.relpath(uri, storage.join(output, "parts", "dataset"))


def take_over(run: JobRun, reused: pa.Table, asked: list[Asked], route: Route) -> None:
    """Publish the reused rows of the objects that are asked for, once; a row of other coordinates is none of them."""
    uri = run.path("ledger", "dataset", REUSED)
    if not reused.num_rows or storage.exists(uri):
        return
    hashes = {entry.cutout_id: make_request(*entry[:4], run.config, route).hash for entry in asked}
    ids, found = reused["cutout_id"].to_pylist(), reused["request_hash"].to_pylist()
    kept = reused.filter(pa.array([hashes.get(key) == value for key, value in zip(ids, found, strict=True)]))
    log.info("reused=%d of=%d batch=%s", kept.num_rows, len(asked), run.inputs["reuse"])
    if kept.num_rows:
        storage.write_bytes(uri, ledger_bytes(kept))


def count_reused(ledger: str) -> int:
    """Rows that an earlier batch settled."""
    uri = storage.join(ledger, "dataset", REUSED)
    return int(pq.read_metadata(storage.open_arrow(uri)).num_rows) if storage.exists(uri) else 0


def fetch_missing(
    spark: SparkSession, run: JobRun, plan: dict[str, Any], missing: list[Asked], total: int
) -> dict[str, Any]:
    """Fetch in rounds of one stage of small tasks, until every stamp has its ledger row; returns what storing lost.

    Raises
    ------
    JobFailed
        The server did not answer for too long; what came is kept.
    """
    config: FetchCutoutsConfig = run.config
    route: Route = plan["route"]
    server = config.service if route == "service" else config.coadds
    pace = Pace(
        server.requests_per_second, server.backoff_max_s, server.outage_max_s, server.connect_timeout_s + server.read_timeout_s,
        now=time.monotonic(), resumed=run.resumed or route != "service",  # the plan has just looked at files
    )  # fmt: skip
    turns = LocalTurns(pace)
    host = str(spark.conf.get("spark.driver.host", "127.0.0.1"))
    bind = str(spark.conf.get("spark.driver.bindAddress", host))
    losses: list[dict[str, float]] = []
    with (
        Coordinator(turns, host, config.execution.coordinator_port, bind) as coordinator,
        Watcher(turns, run.path("fetch.prom"), total - len(missing), total),
    ):
        fetch = Fetch(config, route, run.output, secrets.token_hex(4), coordinator.address, coordinator.key)
        while missing:
            used = [part_index(name) for name in storage.list_files(run.path("ledger"), ".parquet")]
            groups = group_requests(
                missing, config.execution.stamps_per_part, 1 + max(used, default=-1), whole_bricks=route != "service"
            )
            tasks = task_count(len(groups), len(missing), plan, total, server, config.execution.task_budget_s)
            losses += spark.sparkContext.parallelize(groups, tasks).mapPartitions(fetch_group(fetch)).collect()
            settled, before = settled_ids(run.path("ledger"), fetch.token), len(missing)
            missing = [entry for entry in missing if entry.cutout_id not in settled]
            require_progress(pace, server, before - len(missing), total - len(missing), total, config)
    return {name: max(entry[name] for entry in losses if entry) for name in next(filter(None, losses), {})}


def task_count(
    groups: int, missing: int, plan: dict[str, Any], total: int, server: Service | Coadds, budget_s: float
) -> int:
    """A task per group, but no more than the rate can feed: else all would begin, and none end within its time."""
    requests_per_group = max(1.0, plan["predicted_requests"] / max(total, 1) * missing / groups)
    return max(1, min(groups, int(server.requests_per_second * budget_s / requests_per_group)))


def require_progress(
    pace: Pace, server: Service | Coadds, new: int, settled: int, total: int, config: FetchCutoutsConfig
) -> None:
    """Go on with another round unless there is no hope in it.

    Raises
    ------
    JobFailed
        An outage too long, a server that wants us to wait long, or no stamp settled within a task's time.
    """
    wait_s = pace.named_wait_s(time.monotonic())
    if settled == total or not (pace.given_up or (new == 0 and not pace.down)):
        return
    if pace.given_up:
        why = f"did not answer for {server.outage_max_s:g} s; run again to go on"
    elif wait_s > 0:
        why = f"asks to wait {wait_s:.0f} s; run again then"
    else:
        why = f"settled no stamp in execution.task_budget_s={config.execution.task_budget_s:g}; raise it and run again"
    raise JobFailed(f"{server.url} {why} ({settled} of {total} stamps are settled)")


def check(ledger: pa.Table, total: int, config: FetchCutoutsConfig) -> dict[str, Any]:
    """Every request has one line; releases and routes are not mixed; failures are within bounds.

    Raises
    ------
    JobFailed
        Releases are mixed, or more stamps failed than ``execution.max_failed_fraction``.
    """
    if ledger.num_rows != total:
        raise RuntimeError(f"the ledger has {ledger.num_rows} lines for {total} requests")
    outcomes = Counter(ledger["outcome"].to_pylist())
    reasons = Counter(reason for reason in ledger["reason"].to_pylist() if reason)
    stored = ledger.filter(pc.equal(ledger["outcome"], STORED))
    versions = sorted(
        {f"{a} {b}" for a, b in zip(stored["survey"].to_pylist(), stored["version"].to_pylist(), strict=True)}
    )
    routes = set(stored["route"].to_pylist())
    if "service" in routes and len(routes) > 1:
        raise JobFailed(
            f"the stamps came by routes {', '.join(sorted(routes))}, whose noise differs; fetch all by one (R-C1)"
        )
    if config.require_survey_version and len(versions) > 1:
        raise JobFailed(
            f"the stamps mix releases {', '.join(versions)}; restrict the sample, or set require_survey_version=false"
        )
    if outcomes[FAILED] > config.execution.max_failed_fraction * total:
        named = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(4))
        raise JobFailed(
            f"{outcomes[FAILED]} of {total} stamps failed ({named}); run again to ask for these, "
            "or raise execution.max_failed_fraction"
        )
    asked = ledger.filter(pc.greater(ledger["attempts"], 0))
    return {
        "requested": total,
        "stored": outcomes[STORED],
        "excluded": outcomes[EXCLUDED],
        "failed": outcomes[FAILED],
        "reasons": dict(sorted(reasons.items())),
        "releases": versions,
        "attempts": int(pc.sum(ledger["attempts"]).as_py()),
        "bytes": int(pc.sum(ledger["bytes"]).as_py()),
        "median_seconds_per_stamp": round(float(np.median(np.asarray(asked["seconds"], dtype=float))), 3)
        if asked.num_rows
        else None,
    }


if __name__ == "__main__":
    sys.exit(main())
