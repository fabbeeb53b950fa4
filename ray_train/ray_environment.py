"""Environment variables that Ray reads when it is imported; call `prepare` before the first import of Ray."""

from __future__ import annotations

import os
import secrets
import sys


def prepare() -> None:
    """Say explicitly how this process talks to Ray; what the user has set stays.

    The default of RAY_AUTH_MODE differs between `ray.init`, `ray start` and clients, and between releases. A Ray
    that lives in this process (no RAY_ADDRESS) gets a token of its own: no file in the home folder, and nobody
    else on the machine can use it.
    """
    if "ray" in sys.modules:  # too late: Ray has read them
        return
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ.get("RAY_ADDRESS"):
        return
    if os.environ["RAY_AUTH_MODE"] == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # One machine, which nobody takes away, and a controller that is next door: start and end sooner.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
