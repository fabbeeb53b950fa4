"""Scoring by Ray: a worker per device, each with the network; parts are handed out as workers get free.

Import it after `ray_environment.prepare`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from lensdata import steps
from lensdata.config.scoring import ScoreExecutionConfig
from lensdata.errors import InputError
from lensdata.steps import JobFailed
from ray_train.core.data import DataError
from ray_train.ray_backend import cpus_per_worker, ray_session, use_gpu
from ray_train.scoring import Assignment, Part, Worker

log = logging.getLogger(__name__)

AHEAD = 2  # parts that wait at a worker, so that none is idle while this process learns of a finished one


class LoggedWorker:
    """A worker in a process of Ray."""

    def __init__(self, kind: Callable[[Assignment], Any], task: Assignment) -> None:
        steps.setup_logging()
        self._worker = kind(task)

    def score(self, part: Any, floor: float) -> dict[str, Any]:
        """Score a part and write its file; returns figures for the report."""
        return self._worker.score(part, floor)  # type: ignore[no-any-return]

    def pool(self, part: Any) -> tuple[list[int], list[float]]:
        """Keys and mean logits over the views of a part's stamps."""
        return self._worker.pool(part)  # type: ignore[no-any-return]


class RayCrew:
    """Workers of a kind on a cluster, or of a Ray in this process."""

    def __init__(
        self, task: Assignment, execution: ScoreExecutionConfig, kind: Callable[[Assignment], Any] = Worker
    ) -> None:
        self._session = contextlib.ExitStack()
        self._session.enter_context(ray_session(execution.num_workers * cpus_per_worker(execution)))
        try:
            gpu = use_gpu(execution)
        except InputError:
            self._session.close()
            raise
        self._failures = execution.max_failures
        # a worker whose process dies is started again and its parts are given to it again, by Ray
        actor = ray.remote(LoggedWorker).options(
            num_cpus=cpus_per_worker(execution), num_gpus=1 if gpu else 0,
            max_restarts=execution.max_failures, max_task_retries=execution.max_failures,
        )  # fmt: skip
        self._workers = [actor.remote(kind, task) for _ in range(execution.num_workers)]

    def __enter__(self) -> RayCrew:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            ray.kill(worker)
        self._session.close()

    def score(self, todo: Iterator[Any], tally: Any) -> None:
        """Score parts and add each to the tally as it is done."""
        for facts in self._results(todo, lambda worker, part: worker.score.remote(part, tally.floor)):
            tally.add(facts)

    def pool(self, todo: list[Part]) -> Iterator[Any]:
        """Mean logits over the views, part by part, in no order."""
        return self._results(iter(todo), lambda worker, part: worker.pool.remote(part))

    def _results(self, todo: Iterator[Any], send: Callable[[Any, Any], Any]) -> Iterator[Any]:
        """What becomes of each part, as it is done.

        Raises
        ------
        InputError, JobFailed
            Of a worker, or because one died too often.
        """
        running: dict[Any, Any] = {}
        try:
            first = itertools.islice(todo, AHEAD * len(self._workers))
            for worker, part in zip(itertools.cycle(self._workers), first, strict=False):
                running[send(worker, part)] = worker
            while running:
                [done], _ = ray.wait(list(running), num_returns=1)
                worker = running.pop(done)
                yield ray.get(done)
                for part in itertools.islice(todo, 1):
                    running[send(worker, part)] = worker
        except RayTaskError as error:
            if isinstance(error.cause, InputError | JobFailed | DataError):
                raise error.cause from None
            raise
        except RayActorError as error:
            log.error("worker died: %s", " ".join(str(error).split()))  # Ray's account of it is a page
            raise JobFailed(
                f"a worker of Ray died, and no restart is left (execution.max_failures={self._failures}); the log above has "
                "Ray's reason, and the parts that are done stay: give the same command again."
            ) from error
        except RayError as error:
            raise JobFailed(
                f"Ray was lost while stamps were scored ({type(error).__name__}); the parts that are done stay: give the same "
                "command again when Ray runs."
            ) from error
