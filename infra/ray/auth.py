"""The token that every request to a Ray cluster carries, and the tunnel through which requests go (R-I2).

Ray's default of RAY_AUTH_MODE differs between `ray.init`, `ray start` and clients; here it is always said.
"""

from __future__ import annotations

import os
import secrets
import shlex
import stat
from pathlib import Path

from lensdata.errors import InputError

TOKEN_BYTES = 32
DASHBOARD_PORT = 8265
PROMETHEUS_PORT = 9090
GRAFANA_PORT = 3000
TUNNELLED_PORTS = (DASHBOARD_PORT, PROMETHEUS_PORT, GRAFANA_PORT)


def token_path() -> Path:
    """Where Ray looks for the token of this user."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()


def ensure_token(path: Path) -> bool:
    """Write a new token that only its owner can read, unless there is one; returns whether it is new.

    Raises
    ------
    InputError
        The file can be read by others.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise InputError(
                f"The token {path} can be read by others (mode {mode:o}); change it with `chmod 600 {shlex.quote(str(path))}`."
            ) from None
        return False
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(TOKEN_BYTES))
    return True


def token() -> str:
    """The token of this user, which takes precedence in Ray's own order: the variable, then the file.

    Raises
    ------
    InputError
        There is none, or it cannot be one.
    """
    found = os.environ.get("RAY_AUTH_TOKEN", "")
    if not found and token_path().is_file():
        found = token_path().read_text().strip()
    if not found:
        raise InputError(
            f"There is no token for Ray: copy the cluster's to {token_path()} (mode 600), or name its file by "
            "RAY_AUTH_TOKEN_PATH."
        )
    if not (found.isascii() and found.isprintable()) or " " in found:
        raise InputError(
            "The token for Ray is not one line of letters and digits; copy the cluster's file again, unchanged."
        )
    return found


def use_token() -> None:
    """Let Ray's clients in this process authenticate; call it before the first import of Ray."""
    token()
    os.environ["RAY_AUTH_MODE"] = "token"


def tunnel(target: str, key: str | None = None) -> str:
    """The command that brings dashboard, Prometheus and Grafana of a head to this machine's loopback.

    >>> tunnel("ubuntu@192.0.2.7")
    'ssh -N -L 8265:127.0.0.1:8265 -L 9090:127.0.0.1:9090 -L 3000:127.0.0.1:3000 ubuntu@192.0.2.7'
    """
    ports = " ".join(f"-L {port}:127.0.0.1:{port}" for port in TUNNELLED_PORTS)
    identity = f"-i {shlex.quote(key)} " if key else ""
    return f"ssh -N {identity}{ports} {target}"


def attached_tunnel(file: str) -> str:
    """The same by Ray itself, with the key that it made for a cluster file without one; a shell on the head comes with it.

    >>> attached_tunnel("mine.yaml")
    'RAY_AUTH_MODE=token ray attach --port-forward=8265 --port-forward=9090 --port-forward=3000 mine.yaml'
    """
    ports = " ".join(f"--port-forward={port}" for port in TUNNELLED_PORTS)
    return f"RAY_AUTH_MODE=token ray attach {ports} {shlex.quote(file)}"


def exports(address: str, path: Path) -> list[str]:
    """What a shell needs to reach a cluster with Ray's own commands."""
    return [
        f"export RAY_ADDRESS={address}",
        "export RAY_AUTH_MODE=token",
        f"export RAY_AUTH_TOKEN_PATH={shlex.quote(str(path))}",
    ]
