"""Starting a cluster once, and watching it until it ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from infra.emr import aws
from infra.emr.request import RUN_TAG
from lensdata.config.emr import EmrConfig
from lensdata.errors import InputError

log = logging.getLogger(__name__)

LIVING = ("STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING")
ENDED = ("TERMINATED", "TERMINATED_WITH_ERRORS")
STEP_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "INTERRUPTED")
START_ATTEMPTS = 4
MISSED_LOOKS = 30  # in a row, with growing pauses: hours; the cluster needs nobody to look
LONGEST_PAUSE_S = 300.0


@dataclass(frozen=True)
class StepState:
    """A step as EMR sees it."""

    id: str
    name: str
    state: str
    reason: str = ""


@dataclass(frozen=True)
class ClusterState:
    """A cluster as EMR sees it, its steps in order."""

    id: str
    state: str
    reason: str
    created: datetime
    steps: tuple[StepState, ...]

    @property
    def failed_step(self) -> StepState | None:
        """The step that ended the cluster."""
        return next((step for step in self.steps if step.state == "FAILED"), None)


Seen = Callable[[ClusterState], None]


def find(emr: Any, name: str, run: str, states: tuple[str, ...] = LIVING) -> str | None:
    """The cluster of a run that is in one of these states, newest first; found by its name, known by its tag."""
    for page in emr.get_paginator("list_clusters").paginate(ClusterStates=list(states)):
        for found in page["Clusters"]:
            if found["Name"] != name:
                continue
            cluster = emr.describe_cluster(ClusterId=found["Id"])["Cluster"]
            if {"Key": RUN_TAG, "Value": run} in cluster.get("Tags", []):
                return str(found["Id"])
    return None


def start(clients: aws.Clients, request: dict[str, Any], run: str, pause_s: float) -> str:
    """Start a cluster, once, whatever happens to the answers; returns its id.

    RunJobFlow has no idempotency token. A refusal (throttling) started nothing and is repeated; after an answer that was lost
    or an error of the server, the cluster is looked for before another is asked for.

    Raises
    ------
    botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError
        AWS refused, or did not answer again and again.
    """
    for attempt in range(START_ATTEMPTS):
        try:
            return str(clients.emr_once.run_job_flow(**request)["JobFlowId"])
        except aws.NOT_LOGGED_IN:
            raise
        except (ClientError, BotoCoreError) as error:
            refused = isinstance(error, ClientError) and _status(error) < 500
            if (refused and aws.code_of(error) not in aws.THROTTLED) or attempt == START_ATTEMPTS - 1:
                raise
            time.sleep(min(pause_s * 2**attempt, LONGEST_PAUSE_S))
            found = None if refused else find(clients.emr, request["Name"], run)
            if found:
                log.info("cluster=%s was started by a request whose answer was lost", found)
                return found
    raise AssertionError


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))


def look(emr: Any, cluster: str) -> ClusterState:
    """The state of a cluster and its steps."""
    found = emr.describe_cluster(ClusterId=cluster)["Cluster"]
    steps = [step for page in emr.get_paginator("list_steps").paginate(ClusterId=cluster) for step in page["Steps"]]
    status = found["Status"]
    return ClusterState(
        cluster,
        status["State"],
        _reason(status.get("StateChangeReason", {})),
        status["Timeline"]["CreationDateTime"],
        tuple(_step(step) for step in reversed(steps)),  # EMR lists the newest first
    )


def _step(step: dict[str, Any]) -> StepState:
    status = step["Status"]
    details = status.get("FailureDetails", {})
    said = [
        details.get("Reason", ""),
        details.get("Message", ""),
        status.get("StateChangeReason", {}).get("Message", ""),
    ]
    return StepState(step["Id"], step["Name"], status["State"], " ".join(dict.fromkeys(filter(None, said))))


def _reason(found: dict[str, Any]) -> str:
    return ": ".join(filter(None, (found.get("Code", ""), found.get("Message", ""))))


def watch(emr: Any, cluster: str, config: EmrConfig, seen: Seen) -> ClusterState:
    """Look until the cluster ended; ``seen`` gets every look. A look that fails is missed, not the end.

    Raises
    ------
    InputError
        Credentials expired or were refused, or AWS did not answer for hours; the cluster goes on.
    """
    missed = 0
    while True:
        try:
            state = look(emr, cluster)
            missed = 0
        except (ClientError, BotoCoreError) as error:
            missed += 1
            if missed > MISSED_LOOKS or not _passing(error):
                with aws.sentences(f"watching cluster {cluster}"):
                    raise
            log.warning("cluster=%s look missed (%d in a row): %s", cluster, missed, error)
        else:
            seen(state)
            if state.state in ENDED:
                return state
            _end_if_old(emr, state, config)
        time.sleep(min(config.poll_s * 2**missed, max(LONGEST_PAUSE_S, config.poll_s)))


def _passing(error: Exception) -> bool:
    """Whether an error may be gone at the next look."""
    if isinstance(error, ClientError):
        return aws.code_of(error) in aws.THROTTLED or _status(error) >= 500
    return not isinstance(error, aws.NOT_LOGGED_IN)


def _end_if_old(emr: Any, state: ClusterState, config: EmrConfig) -> None:
    hours = (datetime.now(UTC) - state.created).total_seconds() / 3600
    if hours > config.max_hours and state.state != "TERMINATING":
        terminate(emr, state.id)
        raise InputError(
            f"Cluster {state.id} is {hours:.1f} hours old, more than max_hours={config.max_hours:g}, and was ended; finished "
            "steps stand. Raise max_hours if the work needs longer."
        )


def terminate(emr: Any, cluster: str) -> None:
    """End a cluster."""
    with aws.sentences(f"ending cluster {cluster}"):
        emr.terminate_job_flows(JobFlowIds=[cluster])
