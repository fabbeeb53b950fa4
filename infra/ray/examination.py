"""What `lensdata doctor --ray` finds on a cluster: who is let in, and every node's versions, clock and room."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import requests

from infra.checks import CLOCK_WARN_S, DISK_FAIL_GB, GB, Finding, clock
from infra.ray import local, nodes, submit
from infra.ray.dashboard import ANSWERS_WITHIN_S
from infra.ray.packing import Packed
from lensdata.errors import InputError
from lensdata.steps import EXIT_DONE

COMMAND = ("python", "-m", "infra.ray.nodes")


def cluster(address: str) -> Iterator[Finding]:
    """The dashboard, with and without a token, and then a job that looks at every node."""
    address = local.find(address)
    found = submit.Cluster(address)  # refuses another release of Ray
    yield Finding("cluster", "OK", f"Ray {found.dashboard.version()} at {address}")
    yield open_door(address)
    for answer in ask(found):
        yield from judge(answer, nodes.describe())


def open_door(address: str) -> Finding:
    """Whether the cluster lets somebody in who has no token."""
    code = requests.get(f"{address}/api/jobs/", timeout=ANSWERS_WITHIN_S).status_code
    if code in (401, 403):
        return Finding("cluster auth", "OK", f"who has no token is refused ({code})")
    return Finding("cluster auth", "FAIL", f"a request without a token is answered ({code})", "401",
                   "start every node with RAY_AUTH_MODE=token")  # fmt: skip


def ask(cluster: submit.Cluster) -> list[dict[str, Any]]:
    """What the nodes say of themselves.

    Raises
    ------
    InputError
        The job failed.
    """
    words: list[str] = []
    submission_id, _ = cluster.submit(submit.Submission(Packed(COMMAND, None, None, {})), lambda _: None)
    code = cluster.follow(submission_id, words.append, words.append)
    lines = [line for line in "".join(words).splitlines() if line.startswith(nodes.MARK)]
    if code != EXIT_DONE or not lines:
        last = "".join(words).strip().splitlines()[-1:]
        raise InputError(f"The job {submission_id}, which looks at the nodes, failed: {' '.join(last)[:200]}")
    answers: list[dict[str, Any]] = json.loads(lines[-1].removeprefix(nodes.MARK))
    return answers


def judge(answer: dict[str, Any], ours: dict[str, Any]) -> Iterator[Finding]:
    """The findings of one node: the same versions as here, the same time as the head, room, a token."""
    name = f"node {answer['node']}"
    if "error" in answer:
        yield Finding(name, "FAIL", answer["error"], "an answer", "see the node's log, and whether it is reachable")
        return
    other = _differences(answer, ours)
    gpus = f"{len(answer['gpus'])} x {answer['gpus'][0]}" if answer["gpus"] else "no GPU"
    here = f"{answer['machine']}, Python {answer['python']}, Ray {answer['packages']['ray']}, {gpus}"
    if other:
        yield Finding(name, "FAIL", "; ".join(other), "the same as here", "use one image, or one lock file, everywhere")
    else:
        yield Finding(name, "OK", here)
    if abs(answer["clock_ahead_s"]) > CLOCK_WARN_S:
        yield clock(f"{name} clock", answer["clock_ahead_s"])
    if answer["auth_mode"] != "token":
        yield Finding(
            f"{name} auth", "FAIL", f"RAY_AUTH_MODE={answer['auth_mode']}", "token", "export it before ray start"
        )
    if answer["disk_free_bytes"] < DISK_FAIL_GB * GB:
        free = answer["disk_free_bytes"] / GB
        yield Finding(f"{name} disk", "FAIL", f"{free:.1f} GB free", f"{DISK_FAIL_GB} GB", "free some room on it")


def _differences(answer: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """Where pickles or results could differ: minor of Python, versions of packages."""
    out = []
    if answer["python"].split(".")[:2] != ours["python"].split(".")[:2]:
        out.append(f"Python {answer['python']} (here {ours['python']})")
    for package, have in answer["packages"].items():
        here = ours["packages"][package]
        if here and have != here:
            out.append(f"{package} {have or 'missing'} (here {here})")
    return out
