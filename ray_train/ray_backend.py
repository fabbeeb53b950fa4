"""Starting Ray and running the training loop in Ray Train's workers (R-T1).

Import it after `ray_environment.prepare`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

import ray
import ray.train
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.train.torch import TorchTrainer

from lensdata import steps, storage
from lensdata.config.training import ExecutionConfig, TrainingConfig
from lensdata.errors import InputError
from lensdata.steps import JobFailed
from ray_train.context import RayTrainContext, choose_device, tell, use_threads
from ray_train.core.loop import TrainingError
from ray_train.core.recipe import Recipe
from ray_train.gauges import RayGauges
from ray_train.run_folder import RunFolder
from ray_train.trackers import Patient, build_trackers
from ray_train.training import Plan, recipe_of, run_training

log = logging.getLogger(__name__)

FOLLOW_SECONDS = 2.0
RAY_FOLDER = "ray"  # in the run folder, while Ray trains
HEAD_ANSWERS_SECONDS = 5.0


@contextlib.contextmanager
def ray_session(cpus: int) -> Iterator[None]:
    """Connect to the cluster that RAY_ADDRESS names, or start one in this process for as long as it is needed.

    `cpus`: what a Ray of this process must have at least; it may promise more than the machine's cores.

    Raises
    ------
    InputError
        No Ray answers at RAY_ADDRESS.
    """
    if ray.is_initialized():
        yield
        return
    if address := os.environ.get("RAY_ADDRESS"):
        require_head(address)
        ray.init(log_to_driver=False)
    else:
        cores = max(os.cpu_count() or 1, cpus)
        ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    try:
        yield
    finally:
        ray.shutdown()


def require_head(address: str) -> None:
    """Refuse a ``host:port`` that nobody listens at: Ray asks there for minutes, and then names no reason."""
    place = urlsplit(f"//{address}")
    if "://" in address or place.hostname is None or place.port is None:  # a name that Ray resolves itself
        return
    try:
        socket.create_connection((place.hostname, place.port), HEAD_ANSWERS_SECONDS).close()
    except OSError as error:
        raise InputError(
            f"RAY_ADDRESS names {address}, where no Ray head answers ({error}); start one with `ray start --head`, or "
            "unset RAY_ADDRESS to use a Ray of this process."
        ) from error


@contextlib.contextmanager
def followed(folder: RunFolder, recipe: Recipe) -> Iterator[None]:
    """Log the epochs here as they appear in the run folder.

    Ray's own relay of the workers' output mixes in its internals and prefixes every line; the workers' complete
    logs are in Ray's session folder.
    """
    stopped, told = threading.Event(), len(folder.records())

    def follow() -> None:
        nonlocal told
        ending = False
        while not ending:
            ending = stopped.wait(FOLLOW_SECONDS)
            records = folder.records()
            while told < len(records):
                told += 1
                tell(records[:told], recipe)

    thread = threading.Thread(target=follow, name="follow-run", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def cpus_per_worker(execution: ExecutionConfig) -> int:
    """CPUs that a worker reserves: what it was given, all cores of an embedded Ray, one on a cluster."""
    if execution.threads:
        return execution.threads
    if os.environ.get("RAY_ADDRESS"):
        return 1
    return max(1, (os.cpu_count() or 1) // execution.num_workers)


def use_gpu(execution: ExecutionConfig) -> bool:
    """Whether workers get a GPU each.

    Raises
    ------
    InputError
        The cluster cannot hold the workers: Ray would wait for ever.
    """
    have = ray.cluster_resources()
    gpus = have.get("GPU", 0) >= execution.num_workers
    if execution.device == "cuda" and not gpus:
        raise InputError(
            f"execution.device is cuda for {execution.num_workers} workers; Ray has {have.get('GPU', 0):g} GPUs."
        )
    wanted = cpus_per_worker(execution) * execution.num_workers
    if wanted > have.get("CPU", 0):
        raise InputError(f"{execution.num_workers} workers want {wanted} CPUs; Ray has {have.get('CPU', 0):g}.")
    return gpus and execution.device != "cpu"


def train_on_ray(plan: Plan, config: TrainingConfig) -> None:
    """Run a plan in Ray Train's workers.

    Raises
    ------
    JobFailed
        Training stopped for a reason that a restart would meet again, its workers died too often, or Ray was lost.
    """
    with ray_session(config.execution.num_workers * cpus_per_worker(config.execution)):
        folder = storage.join(plan.output, RAY_FOLDER)
        storage.remove(folder)  # of an attempt that was killed
        try:
            with followed(RunFolder(plan.output), recipe_of(config)):
                make_trainer(plan, config, folder).fit()
                _raise_reason(plan)
        except ray.train.WorkerGroupError as error:
            _raise_reason(plan)
            dead = [rank for rank, failure in error.worker_failures.items() if _died(failure)]
            if not dead:  # an error in the loop, with its stack
                raise
            log.warning("ray=workers_died ranks=%s error=%r", dead, str(error))
            raise JobFailed(
                f"worker {dead[0]} of Ray died, and no restart is left (execution.max_failures="
                f"{config.execution.max_failures}); see whether its machine ran out of memory, and give the same command "
                f"again: the run folder {plan.output} keeps what is done."
            ) from error
        except RayTaskError:  # an error in Ray's own tasks, with its stack
            raise
        except RayError as error:
            log.warning("ray=lost error=%r", error)
            raise JobFailed(
                f"Ray was lost while the run was going on ({type(error).__name__}); the run folder {plan.output} keeps what "
                "is done: give the same command again when Ray runs."
            ) from error
        finally:
            storage.remove(folder)  # Ray's bookkeeping; the run itself lies beside it


def _reason_file(plan: Plan) -> str:
    return storage.join(plan.output, RAY_FOLDER, "_reason.json")


def _raise_reason(plan: Plan) -> None:
    """Why a worker stopped for good, if one did, as the error it was."""
    if storage.exists(_reason_file(plan)):
        reason = storage.read_json(_reason_file(plan))
        raise (InputError if reason["input"] else JobFailed)(reason["sentence"])


def _died(failure: Exception) -> bool:
    """Whether a worker's process ended, rather than raised."""
    return isinstance(getattr(failure, "health_check_failure", failure), RayActorError)


def make_trainer(plan: Plan, config: TrainingConfig, folder: str) -> TorchTrainer:
    """The trainer; `folder` takes what Ray writes while it runs."""
    execution = config.execution
    gpu = use_gpu(execution)
    resources: dict[str, float] = {"CPU": cpus_per_worker(execution), **({"GPU": 1} if gpu else {})}
    filesystem, path = storage.filesystem(folder) if storage.is_s3(folder) else (None, folder)
    return TorchTrainer(
        train_worker,
        train_loop_config=asdict(plan),
        scaling_config=ray.train.ScalingConfig(num_workers=execution.num_workers, use_gpu=gpu,
                                               resources_per_worker=resources),
        run_config=ray.train.RunConfig(
            # A new name each time: what is done is in our run folder, and Ray shall not look for its own.
            name=f"attempt-{uuid.uuid4().hex[:8]}",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=execution.max_failures),
        ),
    )  # fmt: skip


def train_worker(values: dict[str, Any]) -> None:
    """What each worker runs.

    A reason that a restart would meet again is left in a file for the driver. Where one worker alone may have met it, that
    one raises as well: Ray ends the others, who wait for it, and starts all again, and they see the file and return.
    """
    steps.setup_logging()
    plan = Plan(**values)
    config = TrainingConfig.model_validate(plan.config)
    session, folder = ray.train.get_context(), RunFolder(plan.output)
    if storage.exists(_reason_file(plan)):
        return
    use_threads(config.execution.threads, session.get_local_world_size())
    device = choose_device(config.execution.device)
    rank = session.get_world_rank()
    trackers = build_trackers(config.trackers, folder, plan.config) if rank == 0 else []
    trackers.append(Patient(RayGauges(folder.run_id, rank)))
    context = RayTrainContext(
        folder, recipe_of(config), device, rank, session.get_world_size(), session.get_local_rank(),
        session.get_local_world_size(), config.health.fatal, trackers,
    )  # fmt: skip
    try:
        run_training(plan, context)
        context.close()
    except (InputError, JobFailed) as error:
        storage.write_json(_reason_file(plan), {"input": isinstance(error, InputError), "sentence": str(error)})
        met_by_all = isinstance(error.__cause__, TrainingError) or context.world == 1
        if not met_by_all:
            raise
