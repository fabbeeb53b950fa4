"""Cluster definitions: what is left to be replaced in one, Ray's own check of it, and the lines that start and end it (R-I2)."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from infra.ray import auth
from lensdata.errors import InputError

PLACEHOLDER = re.compile(r"REPLACE_[A-Z0-9_]+")
KUBERNETES_KINDS = ("RayCluster", "RayJob")


@dataclass(frozen=True)
class Definition:
    """A cluster definition that was read."""

    path: Path
    values: dict[str, Any]

    @property
    def kubernetes(self) -> bool:
        """Whether KubeRay reads it, rather than `ray up`."""
        return self.values.get("kind") in KUBERNETES_KINDS

    @property
    def name(self) -> str:
        """The cluster's name."""
        return str(self.values["metadata"]["name"] if self.kubernetes else self.values.get("cluster_name", ""))

    def up(self, *, yes: bool) -> list[str]:
        """The line that starts the cluster, or brings it to what the file says."""
        if self.kubernetes:
            return ["kubectl", "apply", "-f", str(self.path)]
        return ["ray", "up", *(["--yes"] if yes else []), str(self.path)]

    def down(self, *, yes: bool) -> list[str]:
        """The line that ends it."""
        if self.kubernetes:
            return ["kubectl", "delete", "-f", str(self.path)]
        return ["ray", "down", *(["--yes"] if yes else []), str(self.path)]

    def reach(self, head_ip: str = "HEAD_IP") -> list[str]:
        """The lines after which its dashboard is at this machine's loopback, and Ray's commands have the token."""
        address = f"http://127.0.0.1:{auth.DASHBOARD_PORT}"
        if not self.kubernetes:
            access = self.values.get("auth", {})
            user, key = access.get("ssh_user", "ubuntu"), access.get("ssh_private_key")
            # Without a key in the file Ray made one, under a name that it alone knows.
            tunnel = auth.tunnel(f"{user}@{head_ip}", key) if key else auth.attached_tunnel(str(self.path))
            return [tunnel, *auth.exports(address, auth.token_path())]
        name = shlex.quote(self.name)
        service = f"svc/{name}-head-svc"
        if self.values["kind"] == "RayJob":  # its cluster gets a name of its own
            name = f"$(kubectl get rayjob {name} -o jsonpath='{{.status.rayClusterName}}')"
            service = f"svc/{name}-head-svc"
        return [
            f"kubectl port-forward {service} {auth.DASHBOARD_PORT}:{auth.DASHBOARD_PORT}",
            f"export RAY_AUTH_TOKEN=$(kubectl get secret {name} -o jsonpath='{{.data.auth_token}}' | base64 -d)",
            f"export RAY_AUTH_MODE=token RAY_ADDRESS={address}",
        ]


def read(path: Path) -> Definition:
    """A definition in which everything was replaced that has to be.

    Raises
    ------
    InputError
        No such file, not YAML, or placeholders are left.
    """
    if not path.is_file():
        raise InputError(f"Cluster file {path} does not exist; configs/infra/ray has those to start from.")
    text = path.read_text()
    left = sorted(set(PLACEHOLDER.findall(_without_comments(text))))
    if left:
        raise InputError(f"{path} is not ready: replace {', '.join(left)} (its comments say by what) and run again.")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"Cluster file {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict) or not ("cluster_name" in values or values.get("kind") in KUBERNETES_KINDS):
        raise InputError(f"{path} is neither a cluster file of `ray up` nor a RayCluster or RayJob of KubeRay.")
    return Definition(path, values)


def check(definition: Definition) -> None:
    """Ray's own check of a file for `ray up`: its schema, and the rules of the provider.

    Raises
    ------
    InputError
        Ray refuses the file.
    """
    if definition.kubernetes:  # the server checks these when they are applied
        return
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        # The raw file of a local provider is not what the schema describes: Ray fills it in first, too.
        validate_config(prepare_config(dict(definition.values)))
    except Exception as error:  # jsonschema's, click's, ValueError: whatever Ray has against the file
        reason = getattr(error, "message", "") or " ".join(str(error).split())
        raise InputError(f"{definition.path}: Ray refuses this cluster file: {reason[:300]}") from error


def _without_comments(text: str) -> str:
    return "\n".join(re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines())
