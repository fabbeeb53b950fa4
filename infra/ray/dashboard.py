"""What a cluster's dashboard says over HTTP: nodes, resources, jobs. No Ray is needed to ask."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import requests

from infra.ray import auth
from lensdata.errors import InputError

ANSWERS_WITHIN_S = 10.0
DEFAULT_ADDRESS = f"http://127.0.0.1:{auth.DASHBOARD_PORT}"


@dataclass(frozen=True)
class Node:
    """A node of a cluster."""

    name: str
    ip: str
    alive: bool
    head: bool
    resources: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A submitted job."""

    submission_id: str
    status: str
    entrypoint: str
    started_ms: int | None


def address_of(given: str | None) -> str:
    """The address of a dashboard; of none, the end of a tunnel on this machine.

    Raises
    ------
    InputError
        The address is not that of a dashboard.
    """
    found = given or DEFAULT_ADDRESS
    if not found.startswith(("http://", "https://")):
        raise InputError(
            f"{found} is not the address of a Ray dashboard; give --address http://HOST:PORT, through a tunnel {DEFAULT_ADDRESS}."
        )
    return found.rstrip("/")


class Dashboard:
    """Asks the dashboard at an address, with a token, or that of this user."""

    def __init__(self, address: str, token: str | None = None) -> None:
        self.address = address.rstrip("/")
        self._token = token

    def get(self, path: str) -> Any:
        """The JSON that a path answers.

        Raises
        ------
        InputError
            Nobody answers, the token is not the cluster's, or the answer is an error.
        """
        try:
            answer = requests.get(
                self.address + path,
                headers={"Authorization": f"Bearer {self._token or auth.token()}"},
                timeout=ANSWERS_WITHIN_S,
            )
        except requests.RequestException as error:
            raise InputError(
                f"No Ray dashboard answers at {self.address} ({type(error).__name__}); is the cluster up, and the tunnel open?"
            ) from error
        if answer.status_code in (401, 403):
            raise InputError(
                f"The cluster at {self.address} refuses this token; RAY_AUTH_TOKEN_PATH must name a copy of the head's."
            )
        if not answer.ok:
            raise InputError(
                f"{self.address}{path} answered {answer.status_code}: {' '.join(answer.text.split())[:200]}."
            )
        return answer.json()

    def version(self) -> str:
        """The release of Ray on the cluster."""
        return str(self.get("/api/version")["ray_version"])

    def nodes(self) -> list[Node]:
        """Every node that was ever in the cluster."""
        found = self.get("/api/v0/nodes?detail=1&limit=1000")["data"]["result"]["result"]
        return [
            Node(
                one.get("node_name") or one["node_ip"],
                one["node_ip"],
                one["state"] == "ALIVE",
                bool(one["is_head_node"]),
                {key: value for key, value in one["resources_total"].items() if not key.startswith("node:")},
            )
            for one in found
        ]

    def total(self, resource: str) -> float:
        """How much of a resource the living nodes have."""
        return sum(node.resources.get(resource, 0.0) for node in self.nodes() if node.alive)

    def jobs(self) -> list[Job]:
        """Submitted jobs, the latest first."""
        found = [
            Job(one["submission_id"], one["status"], one["entrypoint"], one.get("start_time"))
            for one in self.get("/api/jobs/")
            if one.get("submission_id")
        ]
        return sorted(found, key=lambda job: job.started_ms or 0, reverse=True)
