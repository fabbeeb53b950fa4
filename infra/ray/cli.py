"""``lensdata ray``: start a cluster, submit steps to it, look at it, end it (R-I2)."""

from __future__ import annotations

import argparse
import difflib
import math
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.pipeline import run_command
from infra.ray import auth, clusters, local
from infra.ray.dashboard import Dashboard
from infra.ray.packing import is_python, pack
from lensdata import jobs
from lensdata.errors import InputError
from lensdata.steps import EXIT_DONE, EXIT_FAILED


def add_parsers(commands: Any) -> None:
    """Add ``ray`` and its commands to the console command's subparsers."""
    ray = commands.add_parser("ray", help="start, use, look at and end Ray clusters")
    known = ray.add_subparsers(required=True, metavar="COMMAND")

    up = _command(known, "up", _up, "start a cluster, or nodes on this machine to rehearse with")
    up.add_argument(
        "cluster", metavar="FILE|local", help="a cluster file (configs/infra/ray), or processes of this machine"
    )
    up.add_argument("--yes", action="store_true", help="do not ask before machines are started")
    up.add_argument("--nodes", type=int, default=2, help="local: number of nodes, head included (%(default)s)")
    up.add_argument("--cpus", type=int, default=2, help="local: CPUs that each node offers (%(default)s)")
    _folder(up)

    submit = _command(
        known, "submit", _submit, "run a step on a cluster and follow it; the same line again goes on following"
    )
    _address(submit)
    submit.add_argument("--cpus", type=_amount, help="CPUs for the submitted process itself; none by default")
    submit.add_argument(
        "--gpus", type=_amount, help="GPUs for it; by default one for score and probe where there is one"
    )
    submit.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="a variable of the job; no secrets"
    )
    submit.add_argument("--no-wait", action="store_true", help="do not follow it")
    submit.add_argument("words", nargs=argparse.REMAINDER, metavar="STEP ARGUMENT... | -- COMMAND...",
                        help="train, tune, score, probe, … with its arguments, or a whole command")  # fmt: skip

    logs = _command(known, "logs", _logs, "follow a submitted job from its beginning")
    stop = _command(known, "stop", _stop, "stop a submitted job; the cluster stays")
    for command in (logs, stop):
        command.add_argument("job", metavar="JOB", help="its submission id, see `lensdata ray status`")
        _address(command)
    _command(known, "token", _token, "make the token that every request to a cluster carries, unless there is one")
    _address(_command(known, "status", _status, "nodes, resources and jobs of a cluster"))

    down = _command(
        known, "down", _down, "end a cluster: its machines, or exactly the processes that `up local` started"
    )
    down.add_argument("cluster", metavar="FILE|local", nargs="?", default="local", help="as for up; local by default")
    down.add_argument("--yes", action="store_true", help="do not ask before machines are ended")
    _folder(down)


def _command(known: Any, name: str, function: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = known.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(function=function)
    return parser


def _folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", default=local.FOLDER, help="of a local cluster: token, logs, state (%(default)s)")


def _address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address",
        metavar="URL",
        help=f"the cluster's dashboard; else RAY_ADDRESS, a local cluster of {local.FOLDER}, or the tunnel's end",
    )


def _up(args: argparse.Namespace) -> int:
    if args.cluster == "local":
        return _up_local(args)
    definition = clusters.read(Path(args.cluster))
    clusters.check(definition)
    if not definition.kubernetes and auth.ensure_token(auth.token_path()):
        print(f"new token in {auth.token_path()}")
    code = _run(definition.up(yes=args.yes))
    if code == EXIT_DONE:
        _print_reach(definition.reach(_head_ip(definition)))
    return code


def _token(args: argparse.Namespace) -> int:
    path = auth.token_path()
    print(f"{'new token in' if auth.ensure_token(path) else 'token of before in'} {path}")
    return EXIT_DONE


def _up_local(args: argparse.Namespace) -> int:
    cluster = local.start(Path(args.folder), args.nodes, args.cpus)
    count = len(cluster.nodes)
    print(f"{count} Ray node{'s' * (count > 1)} on this machine, loopback only, token in {cluster.token_path}")
    print(f"  dashboard   {cluster.dashboard}")
    for node in cluster.nodes:
        print(f"  {node.name:<11} metrics http://{local.LOOPBACK}:{node.metrics_port}/metrics, log {node.log}")
    _print_reach(auth.exports(cluster.dashboard, Path(cluster.token_path)))
    print(f"End it with `lensdata ray down{'' if args.folder == local.FOLDER else f' --folder {args.folder}'}`.")
    return EXIT_DONE


def _print_reach(lines: list[str]) -> None:
    print("To use it:")
    for line in lines:
        print(f"  {line}")


def _head_ip(definition: clusters.Definition) -> str:
    if definition.kubernetes:
        return ""
    found = subprocess.run(
        [_program("ray"), "get-head-ip", str(definition.path)], capture_output=True, text=True, check=False
    )
    lines = found.stdout.split()
    return lines[-1] if found.returncode == 0 and lines else "HEAD_IP"


def _submit(args: argparse.Namespace) -> int:
    from infra.ray import submit

    own = args.words[:1] == ["--"]
    words = args.words[1:] if own else args.words
    if words and not own:
        _require_step(words[0])
    variables = dict(_variable(text) for text in args.env)
    submission = submit.Submission(pack(words), args.cpus, args.gpus, variables)
    return submit.run(submission, local.find(args.address), _say, _write, wait=not args.no_wait)


def _require_step(word: str) -> None:
    """Without the two dashes a step is meant: a slip of the pen shall not go to the cluster as a command."""
    if word in jobs.JOBS or is_python(word):
        return
    near = difflib.get_close_matches(word, jobs.JOBS, 1)
    hint = f"did you mean {near[0]}?" if near else "`lensdata ray submit -- COMMAND...` sends any other command."
    raise InputError(f"There is no step {word}; {hint}")


def _amount(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no amount; give 0 or more")
    return value


def _variable(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise InputError(f"--env takes NAME=VALUE, found {text!r}.")
    return name, value


def _logs(args: argparse.Namespace) -> int:
    from infra.ray import submit

    return submit.Cluster(local.find(args.address)).follow(args.job, _write, _say)


def _stop(args: argparse.Namespace) -> int:
    from infra.ray import submit

    at_work = submit.Cluster(local.find(args.address)).stop(args.job)
    print(f"job {args.job} {'is being stopped' if at_work else 'had ended before'}")
    return EXIT_DONE


def _status(args: argparse.Namespace) -> int:
    dashboard = Dashboard(local.find(args.address))
    nodes = dashboard.nodes()
    print(f"Ray {dashboard.version()} at {dashboard.address}")
    for node in sorted(nodes, key=lambda node: (not node.head, node.name)):
        state = "alive" if node.alive else "dead"
        print(f"  {node.name:<16} {'head' if node.head else 'worker':<7} {state:<6} {_amounts(node.resources)}")
    jobs = dashboard.jobs()
    print(f"{len(jobs)} job{'s' * (len(jobs) != 1)}")
    for job in jobs:
        began = (
            datetime.fromtimestamp(job.started_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if job.started_ms else "-"
        )
        print(f"  {job.submission_id:<40} {job.status:<10} {began}")
    return EXIT_DONE if any(node.alive and node.head for node in nodes) else EXIT_FAILED


def _amounts(resources: dict[str, float]) -> str:
    gib = resources.get("memory", 0.0) / 2**30
    own = {key: value for key, value in resources.items() if key not in ("CPU", "GPU", "memory", "object_store_memory")}
    shown = [f"{resources.get('CPU', 0):g} CPU", f"{resources.get('GPU', 0):g} GPU", f"{gib:.0f} GiB"]
    return ", ".join(shown + [f"{value:g} {key}" for key, value in sorted(own.items())])


def _down(args: argparse.Namespace) -> int:
    if args.cluster == "local":
        ended = local.stop(Path(args.folder))
        print(f"ended {ended} node{'s' * (ended != 1)} of {args.folder}")
        return EXIT_DONE
    return _run(clusters.read(Path(args.cluster)).down(yes=args.yes))


def _run(command: list[str]) -> int:
    return run_command([_program(command[0]), *command[1:]], {"RAY_AUTH_MODE": "token"})


def _program(name: str) -> str:
    """The program beside this Python, so that its Ray is the one that is used; otherwise from the path."""
    beside = Path(sys.executable).with_name(name)
    if not beside.exists() and shutil.which(name) is None:
        raise InputError(
            f"The program {name}, which starts and ends this cluster, is not installed here; install it first."
        )
    return str(beside) if beside.exists() else name


def _say(line: str) -> None:
    print(line, flush=True)


def _write(piece: str) -> None:
    print(piece, end="", flush=True)
