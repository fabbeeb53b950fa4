"""The contract of a step: identity, skip or refuse, publish, report, provenance, exit codes (docs/architecture.md, section 4).

Every Spark job and Ray entry point is ``run_job(job, body, argv)``; what "done" means is decided here and nowhere
else, so the pipeline runner can ask the same question without starting an engine.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from lensdata import __version__, storage, tables
from lensdata.config.base import Config, config_hash, flattened, load_config
from lensdata.config.secrets import refuse_secrets
from lensdata.errors import InputError

log = logging.getLogger(__name__)

EXIT_DONE, EXIT_FAILED, EXIT_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130
RUNNING = "_running.json"  # in the folder a step works in: who is at work
HASHED_BYTES = 256 << 20  # inputs up to this size are identified by content, larger ones by size and etag or mtime


class JobFailed(Exception):
    """The run failed for a reason that one sentence explains (a gate, a validation): exit 1, no stack trace."""


@dataclass(frozen=True)
class Job:
    """What a step is, known without importing its engine.

    Attributes
    ----------
    kind
        ``table``: written aside, then published whole. ``part``: many atomic parts in the final folder; a
        restart goes on with what is missing.
    file_lists
        Inputs that may be a ``.txt`` file with a path or address per line; their identity is that of the files.
    retries
        Takes ``--retry``: go on with a finished output, to ask again for what failed.
    plans
        What it does with ``--plan-only``, if it takes that.
    many
        Inputs of which there may be several, each with a name of its own: ``inputs.members.resnet=URI``.
    """

    name: str
    module: str
    engine: Literal["spark", "ray", "python"]
    config: type[Config]
    meaning: str
    inputs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    kind: Literal["table", "part"] = "table"
    many: tuple[str, ...] = ()
    file_lists: tuple[str, ...] = ()
    retries: bool = False
    plans: str | None = None


@dataclass(frozen=True)
class Request:
    """One command line, checked."""

    job: Job
    config: Any
    inputs: dict[str, str]
    output: str
    force: bool = False
    test_limit: int | None = None
    argv: tuple[str, ...] = ()
    retry: bool = False


@dataclass(frozen=True)
class JobRun:
    """What the body of a step works with; it writes into ``output``."""

    config: Any
    inputs: dict[str, str]
    output: str
    final: str
    resumed: bool
    force: bool
    test_limit: int | None
    argv: tuple[str, ...] = ()
    identity: dict[str, Any] = field(default_factory=dict)
    retry: bool = False

    def path(self, *parts: str) -> str:
        """A path under the output folder."""
        return storage.join(self.output, *parts)


@dataclass(frozen=True)
class Outcome:
    """What a body made: rows, an order-independent content identity, and counts for ``_report.json``."""

    rows: int
    content: str
    report: dict[str, Any] = field(default_factory=dict)


def parse(job: Job, argv: Sequence[str]) -> Request:
    """Read ``--config FILE --output URI [--force] [--test-limit N] inputs.NAME=URI key=value``.

    Raises
    ------
    InputError
        An unknown or missing input, an unknown key, a value out of range.
    """
    parser = _Parser(prog=f"{job.module}", description=job.meaning)
    parser.add_argument("--config", help="YAML file; defaults where left out")
    parser.add_argument("--output", required=True, help="folder or s3:// URI to write")
    parser.add_argument("--force", action="store_true", help="replace a finished output")
    if job.retries:
        parser.add_argument("--retry", action="store_true", help="ask again for what failed in a finished output")
    if job.plans:
        parser.add_argument("--plan-only", action="store_true", help=job.plans)
    parser.add_argument("--test-limit", type=int, help="work on the first N units only")
    parser.add_argument("settings", nargs="*", metavar="inputs.NAME=URI | key=value")
    keys = [name for name, known in job.config.model_fields.items() if known.annotation in (int, float, str)]
    for name in keys:  # --max-bad-files 3 says the same as max_bad_files=3
        parser.add_argument(f"--{name.replace('_', '-')}", dest=f"key {name}", help=argparse.SUPPRESS)
    args = parser.parse_intermixed_args(list(argv))
    inputs: dict[str, str] = {}
    options = vars(args)
    overrides = [f"{name}={options[f'key {name}']}" for name in keys if options[f"key {name}"] is not None]
    for item in args.settings:
        if item.startswith("inputs.") and "=" in item:
            name, _, uri = item.removeprefix("inputs.").partition("=")
            inputs[name] = resolve(uri)
        else:
            overrides.append(item)
    known = job.inputs + job.optional
    for name in inputs:
        many, _, own = name.partition(".")
        if name not in known and not (many in job.many and own):
            takes = [*known, *(f"{each}.NAME" for each in job.many)]
            raise InputError(f"{job.name} has no input {name!r}; it takes {', '.join(takes) or 'none'}.")
    for name in job.inputs:
        if name not in inputs:
            raise InputError(f"{job.name} needs inputs.{name}=URI.")
    if args.test_limit is not None and args.test_limit < 1:
        raise InputError(f"--test-limit must be at least 1, found {args.test_limit}.")
    config = load_config(job.config, args.config, overrides)
    refuse_secrets({"--output": args.output} | {f"inputs.{name}": uri for name, uri in inputs.items()})
    _check_places(job, inputs, _absolute(args.output))
    return Request(
        job,
        config,
        inputs,
        _absolute(args.output),
        args.force,
        args.test_limit,
        tuple(argv),
        job.retries and args.retry,
    )


def _check_places(job: Job, inputs: dict[str, str], output: str) -> None:
    """Refuse an output that would replace an input or change what an input holds, and names that Spark takes for patterns."""
    for name, uri in inputs.items():
        within = uri.rstrip("/") + "/"
        if f"{output}/".startswith(within) or within.startswith(f"{output}/"):
            raise InputError(f"Output {output} and inputs.{name}={uri} lie one in the other; choose another --output.")
    for uri in (output, *inputs.values()) if job.engine == "spark" else ():
        if set(uri) & set("[]{}*?"):
            raise InputError(
                f"{uri}: Spark takes the characters [ ] {{ }} * ? of a path for a pattern; rename the folder."
            )


def resolve(value: str) -> str:
    """An input's URI, absolute; ``lenscat`` is the catalogue that the package of that name carries."""
    if value == "lenscat":
        from lensdata.catalogue.lenses import lenscat_csv

        return str(lenscat_csv())
    return _absolute(value)


def _absolute(uri: str) -> str:
    if "://" in uri:
        return uri.rstrip("/")
    return os.path.abspath(uri)


def identity(request: Request) -> dict[str, Any]:
    """What a finished output must agree with to be skipped: configuration, inputs, limit."""
    return {
        "config_hash": config_hash(request.config),
        "inputs": {
            name: input_identity(uri, may_be_list=name in request.job.file_lists)
            for name, uri in sorted(request.inputs.items())
        },
        "test_limit": request.test_limit,
        "schema_version": tables.SCHEMA_VERSION,
    }


def input_identity(uri: str, *, may_be_list: bool = False) -> Any:
    """Identity of an input: a table's content hash, a file's SHA-256, names, sizes and versions of a folder or a list.

    Raises
    ------
    InputError
        Nothing there, or a step's folder without ``_SUCCESS``.
    """
    described = storage.join(uri, "_table.json")
    if storage.exists(described):
        tables.require_success(uri)
        return storage.read_json(described)["content"]
    if not storage.exists(uri):
        raise InputError(f"Input {uri} does not exist.")
    if storage.is_folder(uri):
        if storage.exists(storage.join(uri, "_started.json")):
            tables.require_success(uri)
        return _files_identity(storage.list_files(uri))
    if may_be_list and storage.is_file_list(uri):
        return _files_identity(storage.read_file_list(uri))
    if storage.size(uri) <= HASHED_BYTES:
        return storage.sha256(uri)
    return storage.version(uri)


def _files_identity(uris: list[str]) -> list[dict[str, Any]]:
    """Files by content where that is little to read, so that a copy is the same input; else by size and version."""
    versions = storage.versions(uris)
    if sum(entry["size"] for entry in versions) > HASHED_BYTES:
        return sorted(versions, key=lambda entry: str(entry["name"]))
    found = [{"name": entry["name"], "sha256": storage.sha256(uri)} for uri, entry in zip(uris, versions, strict=True)]
    return sorted(found, key=lambda entry: str(entry["name"]))


State = Literal["done", "fresh", "resume", "replace"]


def state(request: Request, wanted: dict[str, Any] | None = None) -> State:
    """Whether the step is done, starts afresh, goes on, or replaces an older output.

    Raises
    ------
    InputError
        The output was made by another configuration or from other inputs, and ``--force`` was not given.
    """
    wanted = wanted or identity(request)
    finished = storage.exists(storage.join(request.output, "_SUCCESS"))
    name = "_table.json" if finished else "_started.json"
    described = storage.join(request.output, name)
    if not storage.exists(described):
        if _foreign_files(request.output):  # --force replaces what a step made, nothing else
            raise InputError(f"Output {request.output} holds files that no step wrote; choose another folder.")
        return "replace" if storage.exists(request.output) else "fresh"
    if request.force:
        return "replace"
    found = storage.read_json(described).get("identity", {})
    if found != wanted:
        raise InputError(
            f"Output {request.output} was made with {_difference(found, wanted, request)}; "
            "choose another --output, or use --force to replace it."
        )
    return "done" if finished and not request.retry else "resume"


def changed_inputs(request: Request) -> list[str] | None:
    """Inputs whose content is no longer what the output was made from; None where something else differs as well."""
    described = storage.join(request.output, "_table.json")
    if not storage.exists(described):
        described = storage.join(request.output, "_started.json")
    if not storage.exists(described):
        return None
    found, wanted = storage.read_json(described).get("identity", {}), identity(request)
    if {**found, "inputs": None} != {**wanted, "inputs": None}:
        return None
    old, new = found["inputs"], wanted["inputs"]
    return [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]


def _foreign_files(output: str) -> bool:
    """Files that no step wrote; half-written marks of a killed start and an interrupted publication are ours."""
    if storage.exists(storage.join(output, storage.PUBLISHING)):
        return False
    return any(not name.rsplit("/", 1)[-1].startswith(".") for name in storage.list_files(output))


def _difference(found: dict[str, Any], wanted: dict[str, Any], request: Request) -> str:
    if found.get("config_hash") != wanted["config_hash"]:
        stored = storage.join(request.output, "_config.json")
        changed = []
        if storage.exists(stored):
            old, new = flattened(storage.read_json(stored)), flattened(request.config.model_dump(mode="json"))
            changed = [
                f"{k}={old.get(k)!r} (now {new.get(k)!r})"
                for k in sorted(old.keys() | new.keys())
                if old.get(k) != new.get(k)
            ]
        return f"another configuration: {', '.join(changed[:4]) or 'its hash differs'}"
    if found.get("test_limit") != wanted["test_limit"]:
        return f"--test-limit {found.get('test_limit')} (now {wanted['test_limit']})"
    old_inputs, new_inputs = found.get("inputs", {}), wanted["inputs"]
    names = [
        name for name in sorted(old_inputs.keys() | new_inputs.keys()) if old_inputs.get(name) != new_inputs.get(name)
    ]
    return f"other content of input {', '.join(names)}" if names else "another version of the tables"


def run_job(job: Job, body: Callable[[JobRun], Outcome], argv: Sequence[str]) -> int:
    """Run a step from its command line; returns the exit code (0 done, 2 bad input, 1 failed)."""
    return exit_code(job.name, lambda: run_request(parse(job, argv), body))


def exit_code(name: str, action: Callable[[], int]) -> int:
    """What a program returns: the result of ``action``, or the code of its error, which becomes one sentence."""
    setup_logging()
    try:
        return action()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INPUT
    except JobFailed as error:
        print(f"error: {name} failed: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print(f"error: {name} was interrupted; the same command goes on or begins again.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:  # the one place that turns a crash into an exit code
        message = " ".join(str(error).split())[:400]
        if type(error).__module__.startswith("botocore."):  # no credentials, no such bucket, no way there
            print(f"error: {name}: the store does not answer as it should: {message}", file=sys.stderr)
            return EXIT_INPUT
        log.exception("step=%s failed", name)
        print(f"error: {name} failed: {type(error).__name__}: {message}", file=sys.stderr)
        return EXIT_FAILED


def run_request(request: Request, body: Callable[[JobRun], Outcome]) -> int:
    """Run a step, or skip it where it is done; errors are raised."""
    job, wanted = request.job, identity(request)
    now = state(request, wanted)
    if now == "done":
        log.info(
            "step=%s output=%s skipped: already done with this configuration and these inputs", job.name, request.output
        )
        return EXIT_DONE
    started = time.time()
    for old in storage.leftovers(request.output):
        _refuse_running(request.output, old)
        storage.remove(old)
    if job.kind == "part":
        _refuse_running(request.output, request.output)
    work, aside = request.output, None
    if job.kind == "table":
        work = storage.join(
            request.output, "..", f"_temporary-{request.output.rsplit('/', 1)[-1]}-{uuid.uuid4().hex[:8]}"
        )
    elif now == "replace":
        aside = storage.set_aside(request.output)
        if aside is None:
            storage.discard_folder(request.output)
    storage.make_folder(work)
    if job.kind == "part":
        # what the folder was begun with goes first: a refusal reads it to name the keys that differ
        storage.write_json(storage.join(work, "_config.json"), request.config.model_dump(mode="json"))
        storage.write_json(storage.join(work, "_started.json"), {"step": job.name, "identity": wanted})
    mark = {"host": platform.node(), "process": os.getpid(), "start": _start_of(os.getpid())}
    storage.write_json(storage.join(work, RUNNING), mark)
    log.info("step=%s output=%s state=%s", job.name, request.output, now)
    run = JobRun(
        request.config,
        request.inputs,
        work,
        request.output,
        now == "resume",
        request.force,
        request.test_limit,
        request.argv,
        wanted,
        request.retry,
    )
    try:
        outcome = body(run)
    except (InputError, JobFailed) as error:
        _withdraw(job, run, aside, error)
        raise
    finally:
        storage.remove(storage.join(work, RUNNING))
    _finish(request, work, wanted, outcome, started)
    if aside is not None:
        storage.remove(aside)
    if job.kind == "table":
        storage.publish_folder(work, request.output)
    log.info("step=%s done rows=%d seconds=%.1f", job.name, outcome.rows, time.time() - started)
    return EXIT_DONE


def _refuse_running(output: str, leftover: str) -> None:
    """Leave the work folder of another process alone while that is alive."""
    process = process_in(leftover)
    if process is not None:
        raise InputError(
            f"Output {output} is being written by process {process}; wait for it or stop it. If that is another program, "
            f"remove {storage.join(leftover, RUNNING)}."
        )


def process_in(folder: str) -> int | None:
    """The process that works in a folder, if it is alive on this machine; of another machine's nobody can tell."""
    mark = storage.join(folder, RUNNING)
    if not storage.exists(mark):
        return None
    owner = storage.read_json(mark)
    if owner["host"] != platform.node():
        return None
    process = int(owner["process"])
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # alive, and somebody else's
    # a restarted container, or a machine long in use, gave its number to another
    return process if owner["start"] == _start_of(process) else None


def _start_of(process: int) -> str | None:
    """When a process began, in the kernel's ticks since boot; None where the kernel does not say."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _withdraw(job: Job, run: JobRun, aside: str | None, error: Exception) -> None:
    """Leave nothing of a step that refused its input; an older output that was set aside comes back.

    A part step that failed in its work keeps its parts, and one that was resumed keeps all it has.
    """
    if job.kind == "table":
        storage.remove(run.output)
        return
    if isinstance(error, JobFailed) or run.resumed:
        return
    names = {name.rsplit("/", 1)[-1] for name in storage.list_files(run.output)}
    if names <= {"_started.json", "_config.json", "_plan.json", RUNNING}:
        storage.remove(run.output)
        if aside is not None:
            os.rename(aside, run.output)


def _finish(request: Request, work: str, wanted: dict[str, Any], outcome: Outcome, started: float) -> None:
    described = storage.join(work, "_table.json")
    entry = storage.read_json(described) if storage.exists(described) else {"schema_version": tables.SCHEMA_VERSION}
    entry |= {"step": request.job.name, "rows": outcome.rows, "content": outcome.content, "identity": wanted}
    report = {
        "step": request.job.name,
        "rows": outcome.rows,
        **outcome.report,
        "seconds": round(time.time() - started, 2),
        "provenance": provenance(request.argv),
        "inputs": request.inputs,
    }
    storage.write_json(storage.join(work, "_config.json"), request.config.model_dump(mode="json"))
    storage.write_json(storage.join(work, "_report.json"), report)
    storage.write_json(described, entry)
    storage.write_bytes(storage.join(work, "_SUCCESS"), b"")


def provenance(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Versions, commit, machine and time of a run (R-T6)."""
    packages = ("pyspark", "ray", "torch", "torchvision", "pyarrow", "numpy", "pandas", "healpy", "astropy")
    return {
        "lensdata": __version__,
        "git_commit": git_commit(),
        "utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": sys.orig_argv if argv and sys.argv[1:] == list(argv) else [*sys.argv[:1], *argv],
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "versions": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Commit of the checkout the package runs from, with ``-dirty`` where files differ; None outside one."""
    root = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None


def progress(done: int, total: int, unit: str) -> None:
    """One line that a log reader understands and the pipeline runner turns into a bar with an ETA."""
    log.info("progress done=%d total=%d unit=%s", done, total, unit)


def setup_logging() -> None:
    """Plain, timed lines on standard error."""
    if not logging.getLogger().handlers:
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr
        )
    for name in ("py4j", "matplotlib", "fsspec", "botocore"):
        logging.getLogger(name).setLevel(logging.WARNING)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise InputError(f"{self.prog}: {message}.")
