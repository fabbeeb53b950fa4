"""Score every stamp of a manifest, or of a survey's shards, with a checkpoint of a run.

    python -m ray_train.score --output scores/field inputs.manifest=manifests/field inputs.run=runs/demo
    python -m ray_train.score --output scores/dr10 inputs.shards=s3://BUCKET/dr10/shards inputs.run=runs/audit keep=top \
        execution.num_workers=4

A manifest is read whole, and every row gets its score. Of shards only the names are read: each is a part of the work, so the
memory does not grow with their number; with ``keep=top`` the highest scores and a histogram of all are kept. A restart makes
the parts that are missing; the table is the same whoever made which part.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lensdata import jobs, steps, storage, tables
from lensdata.audit.histogram import LogitHistogram, merged, threshold
from lensdata.config.scoring import ScoreConfig, ScoreExecutionConfig
from lensdata.errors import InputError
from lensdata.hashing import text_hash
from lensdata.shards.derived import renamed
from lensdata.shards.manifests import Manifest, read_manifest
from lensdata.steps import JobRun, Outcome
from ray_train import ray_environment
from ray_train.context import choose_device
from ray_train.core.data import DataError
from ray_train.scoring import (
    Assignment,
    Part,
    Worker,
    as_trained,
    check_fit,
    histogram_file,
    load_scorer,
    parity_file,
    parts,
    rows_file,
    scores_file,
)
from ray_train.training import write_part

log = logging.getLogger(__name__)

HISTOGRAM = "histogram.parquet"
POOLED_ROWS = 2048  # stamps per part of the second pass


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; returns its exit code."""
    return steps.run_job(jobs.find("score"), score, sys.argv[1:] if argv is None else list(argv))


def score(run: JobRun) -> Outcome:
    """Score the parts that are not there yet, then put together what is kept."""
    config: ScoreConfig = run.config
    work, total = work_of(run)
    task = Assignment(run.inputs["run"], run.output, config.model_dump(mode="json"))
    # a wrong run, device or stamps are an error of this process, before any worker starts
    check_fit(
        load_scorer(task.run, config.checkpoint, choose_device(config.execution.device)),
        next(work()).manifest().layout(),
    )
    tally = Tally(run, total)
    todo = (part for part in work() if part.index not in tally.done)
    try:
        with crew(task, config.execution) as members:
            members.score(todo, tally)
            report = {"parts": total, "checkpoint": config.checkpoint} | tally.report()
            if config.keep == "all":
                rows, content = tables.content_hash(tables.iterate(run.output, check=False))
                return Outcome(rows, content, report)
            return survey(run, tally, members, report)
    except DataError as error:
        raise steps.JobFailed(str(error)) from error


def work_of(run: JobRun) -> tuple[Callable[[], Iterator[Part]], int]:
    """The parts of the work, to be asked for as often as wanted, and how many there are.

    Raises
    ------
    InputError
        Neither or both of manifest and shards are given, or there is nothing to score.
    """
    config: ScoreConfig = run.config
    given = [name for name in ("manifest", "shards") if name in run.inputs]
    if len(given) != 1:
        raise InputError(
            f"score needs inputs.manifest=URI or inputs.shards=URI, found {' and '.join(given) or 'neither'}."
        )
    if given == ["shards"]:
        return _shard_work(run.inputs["shards"], run.test_limit)
    manifest = read_manifest(run.inputs["manifest"])
    wanted = np.isin(manifest.column("split").astype(str), config.splits)
    manifest = as_trained(manifest, run.inputs["run"]).where(wanted)
    if run.test_limit is not None:
        manifest = manifest.head(run.test_limit)
    if not len(manifest):
        raise InputError(f"Manifest {manifest.uri} has no rows in split {', '.join(config.splits)}.")
    slices = list(parts(manifest, config.part_rows))
    return lambda: (Part(index, part.uri, part.table) for index, part in enumerate(slices)), len(slices)


def _shard_work(folder: str, limit: int | None) -> tuple[Callable[[], Iterator[Part]], int]:
    if not storage.exists(folder):
        raise InputError(f"Input {folder} does not exist; run the step that writes the shards first.")
    prefix = storage.join(folder) + "/"
    names = [name.removeprefix(prefix) for name in storage.list_files(folder, ".parquet")]
    names = [name for name in names if not name.rsplit("/", 1)[-1].startswith(("_", "."))][:limit]
    if not names:
        raise InputError(f"Input {folder} has no Parquet file; inputs.shards is a folder of shards of stamps.")
    return lambda: (Part(index, folder, shard=name) for index, name in enumerate(names)), len(names)


class Tally:
    """What is done so far: parts, stamps, seconds and, of a survey, the histogram."""

    def __init__(self, run: JobRun, total: int) -> None:
        self._survey, self._total = run.config.keep == "top", total
        self._top_k: int = run.config.top_k
        folder = run.path("parts") if self._survey else run.path("dataset")
        names = {uri.rsplit("/", 1)[-1] for uri in storage.list_files(folder)} if storage.exists(folder) else set()
        file = rows_file if self._survey else scores_file
        self.done = {index for index in range(total) if file("", index).rsplit("/", 1)[-1] in names}
        self._output, self._rows, self._busy, self._since = run.output, 0, 0.0, time.perf_counter()
        self.histogram = merged([])
        for index in sorted(self.done) if self._survey else ():  # one at a time: all of them are as large as the survey
            self.histogram = merged([self.histogram, self._stored(index)])

    @property
    def floor(self) -> float:
        """A logit that top_k stamps reach already: rows below it are not among the highest."""
        return self.histogram.floor(self._top_k) if self._survey else float("-inf")

    def add(self, facts: dict[str, Any]) -> None:
        """Take in a part that a worker has made."""
        self.done.add(facts["index"])
        self._rows += facts["rows"]
        self._busy += facts["seconds"]
        if self._survey:
            self.histogram = merged([self.histogram, LogitHistogram(*facts["histogram"])])
        steps.progress(len(self.done), self._total, "parts")

    def report(self) -> dict[str, Any]:
        """Figures of this attempt; parts of an earlier one are not in its rates."""
        seconds = time.perf_counter() - self._since
        found = {
            "scored_now": self._rows,
            "stamps_per_second": round(self._rows / seconds, 1),
            "stamps_per_second_and_worker": round(self._rows / self._busy, 1) if self._busy else None,
        }
        measured = parity_file(self._output)
        return found | (storage.read_json(measured) if storage.exists(measured) else {})

    def _stored(self, index: int) -> LogitHistogram:
        table = pq.read_table(storage.open_arrow(histogram_file(self._output, index)))
        return LogitHistogram(table["bin"].to_numpy(), table["count"].to_numpy())


class LocalCrew:
    """This process as the only worker."""

    def __init__(self, task: Assignment, kind: Callable[[Assignment], Any] = Worker) -> None:
        self._worker = kind(task)

    def score(self, todo: Iterator[Any], tally: Any) -> None:
        """Score parts and add each to the tally as it is done."""
        for part in todo:
            tally.add(self._worker.score(part, tally.floor))

    def pool(self, todo: Sequence[Part]) -> Iterator[tuple[list[int], list[float]]]:
        """Keys and mean logits over the views, part by part."""
        return (self._worker.pool(part) for part in todo)


@contextlib.contextmanager
def crew(
    task: Assignment, execution: ScoreExecutionConfig, kind: Callable[[Assignment], Any] = Worker
) -> Iterator[Any]:
    """Workers of a kind for as long as they are needed: Ray's, or this process."""
    on_cluster = bool(os.environ.get("RAY_ADDRESS")) or execution.num_workers > 1
    if execution.runtime == "local" or (execution.runtime == "auto" and not on_cluster):
        yield LocalCrew(task, kind)
        return
    ray_environment.prepare()
    from ray_train.score_backend import RayCrew  # after the line above; and a local run needs no Ray

    with RayCrew(task, execution, kind) as members:
        yield members


def survey(run: JobRun, tally: Tally, members: Any, report: dict[str, Any]) -> Outcome:
    """The highest rows of all parts as one table, the histogram, and the thresholds."""
    config: ScoreConfig = run.config
    rows = highest(run, tally)
    if config.views == "d4":
        rows = with_pooled(rows, config.pool_top, run.inputs, members)
    rows = renamed(rows, run.inputs.get("shards") or run.inputs["manifest"], run.final)
    histogram = tally.histogram
    write_part(pa.table({"bin": histogram.bins, "count": histogram.counts}), run.path(HISTOGRAM))
    logits = rows["logit"].to_numpy()
    report |= {
        "stamps": histogram.total, "kept": len(logits), "lowest_kept": float(logits.min()),
        "thresholds": [threshold(histogram, logits, level) for level in config.fpr_levels],
    }  # fmt: skip
    keys = [name for name in tables.SURVEY_SCORES.names if name != "shard"]  # an address is no content
    count, content = tables.write_table(rows, run.output, tables.SURVEY_SCORES, identity=keys)
    counted = text_hash(f"{histogram.bins.tolist()} {histogram.counts.tolist()}")
    return Outcome(count, text_hash(content + counted), report)


def highest(run: JobRun, tally: Tally) -> pa.Table:
    """The top_k highest rows, from the highest down; of equal logits the smaller cutout_id first.

    Raises
    ------
    InputError
        One of them lies in two shards: it was counted twice.
    """
    floor, k = tally.floor, run.config.top_k + 1  # one more, which may be the same stamp as the last
    kept: pa.Table | None = None
    waiting: list[pa.Table] = []
    for index in sorted(tally.done):
        part = pq.read_table(storage.open_arrow(rows_file(run.output, index)))
        waiting.append(part.filter(pc.greater_equal(part["logit"], floor)))
        if sum(len(one) for one in waiting) > k:
            kept, waiting = _top(waiting if kept is None else [kept, *waiting], k), []
    rows = _top(waiting if kept is None else [kept, *waiting], k)
    repeated = len(rows) - pc.count_distinct(rows["cutout_id"]).as_py()
    if repeated:
        raise InputError(
            f"{repeated} of the highest {len(rows)} stamps lie in two shards of {run.inputs.get('shards')}; give each once."
        )
    return rows.slice(0, run.config.top_k)


def _top(pieces: list[pa.Table], k: int) -> pa.Table:
    rows = pa.concat_tables(pieces)
    order = np.lexsort((rows["cutout_id"].to_numpy(), -rows["logit"].to_numpy()))
    return rows.take(pa.array(order[:k]))


def with_pooled(rows: pa.Table, count: int, inputs: dict[str, str], members: Any) -> pa.Table:
    """The rows with `pooled_logit` of the first ``count``, whose stamps are read again."""
    uri = inputs.get("shards") or inputs["manifest"]
    first = rows.slice(0, count).select(["cutout_id", "shard", "row_group", "row"])
    for name, value in (("label", pa.array([0] * len(first), pa.int8())), ("split", pa.array(["test"] * len(first)))):
        first = first.append_column(name, value)
    first = first.append_column("sample_weight", pa.array(np.ones(len(first), np.float32)))
    first = first.sort_by([(name, "ascending") for name in ("shard", "row_group", "row")])
    todo = [Part(index, uri, one.table) for index, one in enumerate(parts(Manifest(uri, first), POOLED_ROWS))]
    found: dict[int, float] = {}
    for place, (keys, logits) in enumerate(members.pool(todo)):
        found |= dict(zip(keys, logits, strict=True))
        steps.progress(place + 1, len(todo), "parts of the second pass")
    pooled = pa.array([found.get(key) for key in rows["cutout_id"].to_pylist()], pa.float32())
    return rows.set_column(rows.column_names.index("pooled_logit"), "pooled_logit", pooled)


if __name__ == "__main__":
    sys.exit(main())
