"""Submits a command to a Ray cluster once, follows its words, and ends with its exit code (R-I2, R-I4).

A submission is found again by an id made of step and output: a launcher that was killed, or lost its tunnel, goes on
following when it is started again. Ctrl-C ends the following, not the job.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.ray import auth
from infra.ray.dashboard import Dashboard
from infra.ray.packing import Packed
from lensdata.errors import InputError
from lensdata.hashing import text_hash
from lensdata.steps import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED

# Runs are listed on the dashboard's Train page; lines come as they are written.
SETTINGS = {"RAY_TRAIN_ENABLE_STATE_TRACKING": "1", "PYTHONUNBUFFERED": "1"}
SECRET = re.compile(r"key|secret|token|passw|credential", re.IGNORECASE)
IN_ITS_OWN_PROCESS = ("score", "probe")  # use the GPU of the process that was submitted, not of Ray's workers
LOST_PATIENCE_S = 900.0
LOST_PAUSE_S = 3.0
KEY = "lensdata_key"  # of a job's metadata

Say = Callable[[str], None]


@dataclass(frozen=True)
class Submission:
    """A command for a cluster.

    Attributes
    ----------
    cpus, gpus
        What the submitted process itself takes; Ray's workers ask for theirs. None: as its step needs it.
    environment
        More variables. They are stored and shown, so that names of secrets are refused.
    """

    packed: Packed
    cpus: float | None = None
    gpus: float | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.environment:
            if SECRET.search(name):
                raise InputError(
                    f"Variable {name} looks like a secret, and what is submitted with a job is stored and shown: give "
                    "nodes their rights by a role, or by their own environment."
                )

    def stem(self) -> str:
        """The submission id without its attempt."""
        if self.packed.output is None:
            return f"lensdata-command-{self.packed.key()}"
        return f"lensdata-{self.packed.job}-{text_hash(f'{self.packed.job} {self.packed.output}')}"

    def runtime_env(self) -> dict[str, Any]:
        """The environment of the job, but for its working directory; packages are in the image."""
        return {"env_vars": SETTINGS | self.environment}


def equivalent(submission: Submission, address: str, submission_id: str) -> str:
    """The line that a user would type; it takes all of the configuration's folder, we only what is asked for."""
    line = ["ray", "job", "submit", "--address", address, "--submission-id", submission_id]
    line += ["--working-dir", str(submission.packed.root)] if submission.packed.root else []
    line += ["--runtime-env-json", json.dumps(submission.runtime_env())]
    line += ["--entrypoint-num-cpus", f"{submission.cpus:g}"] if submission.cpus else []
    line += ["--entrypoint-num-gpus", f"{submission.gpus:g}"] if submission.gpus else []
    return shlex.join([*line, "--", *submission.packed.command])


def run(submission: Submission, address: str, say: Say, write: Say, *, wait: bool = True) -> int:
    """Submit, or find what was submitted before, and follow it.

    Parameters
    ----------
    say, write
        Take a line of ours, and a piece of the job's own words.

    Returns
    -------
    int
        The exit code of the command; 130 where it was stopped.
    """
    cluster = Cluster(address)
    submission = cluster.with_gpu(submission)
    submission_id, new = cluster.submit(submission, say)
    if not new:
        say(f"job {submission_id} is at work on this already: following it")
    for place in submission.packed.local_places() if new else []:
        say(f"note: {place} must be the same disk on every node")
    if not wait:
        say(f"follow it with `lensdata ray logs {submission_id} --address {address}`")
        return EXIT_DONE
    try:
        return cluster.follow(submission_id, write, say)
    except KeyboardInterrupt:
        say(f"\nNo longer following; job {submission_id} goes on. Follow it by the same command again, or stop it with")
        say(f"  lensdata ray stop {submission_id} --address {address}")
        raise


class Cluster:
    """A running cluster, by the address of its dashboard.

    Raises
    ------
    InputError
        Nobody answers there, the token is wrong, or its Ray is of another release.
    """

    def __init__(self, address: str) -> None:
        auth.use_token()
        from ray import __version__ as ours  # after the line above
        from ray.job_submission import JobSubmissionClient

        self.dashboard = Dashboard(address)
        theirs = self.dashboard.version()
        if theirs.split(".")[:2] != ours.split(".")[:2]:
            raise InputError(
                f"The cluster at {address} runs Ray {theirs}, this machine has {ours}; install the same release."
            )
        for name in ("dashboard_sdk", "job.sdk"):  # what they upload and close is no news
            logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
        self.client = JobSubmissionClient(address)

    def with_gpu(self, submission: Submission) -> Submission:
        """A step that computes in its own process asks for a GPU where the cluster has one, unless it was told."""
        if submission.gpus is not None or submission.packed.job not in IN_ITS_OWN_PROCESS:
            return submission
        return Submission(
            submission.packed, submission.cpus, min(1.0, self.dashboard.total("GPU")), submission.environment
        )

    def submit(self, submission: Submission, say: Say) -> tuple[str, bool]:
        """The submission id of a running job that does the same, or of a new one; and whether it is new.

        Raises
        ------
        InputError
            A job with another command line writes to the same output.
        """
        stem = submission.stem()
        before = self._attempts(stem)
        for job in before:
            if not job.status.is_terminal():
                self._require_same(job, submission)
                return job.submission_id, False
        # One more than the last, not their number: of deleted jobs a number would be given again, and taken for a race.
        submission_id = f"{stem}-{1 + max((_attempt(job) for job in before), default=0)}"
        with _working_dir(submission.packed) as folder:
            say(f"$ {equivalent(submission, self.dashboard.address, submission_id)}")
            try:
                self.client.submit_job(
                    entrypoint=shlex.join(submission.packed.command),
                    submission_id=submission_id,
                    runtime_env=submission.runtime_env() | ({"working_dir": str(folder)} if folder else {}),
                    metadata={KEY: submission.packed.key()},
                    entrypoint_num_cpus=submission.cpus,
                    entrypoint_num_gpus=submission.gpus,
                )
            except RuntimeError as error:
                if "already exists" not in str(error):  # else another launcher was a moment faster
                    raise InputError(f"The cluster refused the job: {_reason(error)}") from error
                [job] = [job for job in self._attempts(stem) if job.submission_id == submission_id]
                self._require_same(job, submission)
                return submission_id, False
        return submission_id, True

    def follow(self, submission_id: str, write: Say, say: Say) -> int:
        """Write what the job says until it ends; a lost connection is taken up again where it broke."""
        words, lost_since = _Words(write), None
        while True:
            try:
                self._info(submission_id)  # a job that is not known has no words, and never will
                asyncio.run(self._tail(submission_id, words))
                info = self._info(submission_id)
                lost_since = None
            except (OSError, RuntimeError, *_web_errors()) as error:
                if lost_since is None:
                    say(f"lost sight of job {submission_id} ({type(error).__name__}); it goes on, and I look for it")
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > LOST_PATIENCE_S:
                    raise InputError(
                        f"{self.dashboard.address} did not answer for {LOST_PATIENCE_S / 60:.0f} minutes; job {submission_id} may "
                        "go on: open the tunnel and give the same command again to follow it."
                    ) from error
                time.sleep(LOST_PAUSE_S)
                continue
            if info.status.is_terminal():
                return self._ended(info, submission_id, say)
            time.sleep(0.3)  # the words have ended, and the cluster has not written down how

    def stop(self, submission_id: str) -> bool:
        """Ask a job to end; returns whether it was at work."""
        try:
            return bool(self.client.stop_job(submission_id))
        except RuntimeError as error:
            raise InputError(f"Job {submission_id} cannot be stopped: {_reason(error)}") from error

    def _info(self, submission_id: str) -> Any:
        try:
            return self.client.get_job_info(submission_id)
        except RuntimeError as error:
            if "status code 404" not in str(error):
                raise
            raise InputError(
                f"The cluster at {self.dashboard.address} knows no job {submission_id} (`lensdata ray status` lists them); if its "
                "head was started anew, give the command of the job again: its output keeps what is done."
            ) from error

    async def _tail(self, submission_id: str, words: _Words) -> None:
        words.begin()
        async for piece in self.client.tail_job_logs(submission_id):
            words.add(piece)

    def _attempts(self, stem: str) -> list[Any]:
        return [job for job in self.client.list_jobs() if (job.submission_id or "").rpartition("-")[0] == stem]

    @staticmethod
    def _require_same(job: Any, submission: Submission) -> None:
        if (job.metadata or {}).get(KEY) != submission.packed.key():
            raise InputError(
                f"Job {job.submission_id} is at work on {submission.packed.output} with another command line or configuration "
                f"({job.entrypoint}); wait until it ends, or stop it with `lensdata ray stop {job.submission_id}`."
            )

    @staticmethod
    def _ended(info: Any, submission_id: str, say: Say) -> int:
        status = str(info.status.value)
        if status == "SUCCEEDED":
            return EXIT_DONE
        if status == "STOPPED":
            say(f"job {submission_id} was stopped")
            return EXIT_INTERRUPTED
        code = info.driver_exit_code
        if code is None or code < 0:  # a signal, or it never began: Ray's own words are all there is
            say(f"error: job {submission_id} failed: {' '.join((info.message or 'no reason given').split())}")
            return EXIT_FAILED
        return int(code) or EXIT_FAILED


class _Words:
    """Passes on what a job says, once: a new connection begins with its first word."""

    def __init__(self, write: Say) -> None:
        self._write, self._written, self._seen = write, 0, 0

    def begin(self) -> None:
        """A connection begins."""
        self._seen = 0

    def add(self, piece: str) -> None:
        """The connection brought a piece."""
        fresh = piece[max(0, self._written - self._seen) :]
        self._seen += len(piece)
        if fresh:
            self._write(fresh)
            self._written = self._seen


@contextmanager
def _working_dir(packed: Packed) -> Iterator[Path | None]:
    """A folder with the configuration, which Ray packs and keeps; None where there is nothing to take."""
    if not packed.files:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="lensdata-job-") as folder:
        for name, path in packed.files.items():
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        yield Path(folder)


def _attempt(job: Any) -> int:
    number = str(job.submission_id).rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def _web_errors() -> tuple[type[Exception], ...]:
    import aiohttp  # a dependency of Ray's dashboard
    import requests

    return (aiohttp.ClientError, requests.RequestException)


def _reason(error: Exception) -> str:
    """The last line of a message that holds a stack trace, the message otherwise."""
    lines = [line.strip() for line in str(error).replace("\\n", "\n").splitlines() if line.strip(" \".'")]
    return lines[-1] if lines else type(error).__name__
