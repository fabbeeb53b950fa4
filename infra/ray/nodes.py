"""What every node of a cluster is like: a job that `lensdata doctor --ray` submits; prints one line of JSON."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import Any

MARK = "lensdata-nodes "
PACKAGES = ("lensdata", "ray", "torch", "numpy", "pyarrow")
ANSWER_WITHIN_S = 120
SHM = Path("/dev/shm")  # looked at, nothing is written  # noqa: S108  # nosec B108


def describe() -> dict[str, Any]:
    """This node: versions, processor, GPUs, room, how it authenticates."""
    return {
        "host": platform.node(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "gpus": gpus(),
        "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
        "shm_bytes": shutil.disk_usage(SHM).total if SHM.is_dir() else None,
        "auth_mode": os.environ.get("RAY_AUTH_MODE", ""),
    }


def now() -> float:
    """This node's clock."""
    return time.time()


def version(package: str) -> str:
    """The installed version without its local part (``+cpu``); empty where there is none."""
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return ""


def gpus() -> list[str]:
    """The names of the GPUs that torch can use."""
    try:
        import torch
    except ImportError:
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def main() -> int:
    """Ask every living node, and print what they said."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    ray.init(log_to_driver=False)
    ask, clock = ray.remote(num_cpus=0)(describe), ray.remote(num_cpus=0)(now)
    answers = []
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        there = On(node["NodeID"], soft=False)
        answer = {"node": node["NodeName"], "ip": node["NodeManagerAddress"]}
        try:
            answer |= ray.get(ask.options(scheduling_strategy=there).remote(), timeout=ANSWER_WITHIN_S)
            ray.get(
                clock.options(scheduling_strategy=there).remote(), timeout=ANSWER_WITHIN_S
            )  # the worker is warm now
            before = time.time()
            theirs = ray.get(clock.options(scheduling_strategy=there).remote(), timeout=ANSWER_WITHIN_S)
            answer["clock_ahead_s"] = theirs - (before + time.time()) / 2
        except Exception as error:  # noqa: BLE001 - what this node has is what is asked for; the others are asked as well
            answer["error"] = " ".join(str(error).split())[:300]
        answers.append(answer)
    print(MARK + json.dumps(answers), flush=True)  # noqa: T201 - read from the job's log
    return 0


if __name__ == "__main__":
    sys.exit(main())
