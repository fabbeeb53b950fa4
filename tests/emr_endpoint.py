"""Amazon EMR over HTTP on the loopback interface: its JSON protocol, its states, its faults.

moto's EMR never finishes a step and answers 500 to instance fleets. This one checks every request against botocore's model of
the service, keeps a log of calls, moves a cluster one state per look, and fails as it is told. With a runner it runs each
step's command line on this machine: `LocalRunner` stands for the primary and for YARN, and Spark reads and writes ``s3://``.

As a program it is what the command lines of a step find on a primary: ``spark-submit``, ``aws s3 cp`` and ``hostname``.
"""

# ruff: noqa: T201 - it is a program, too
from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import botocore.session
from botocore.validate import ParamValidator

JARS = "LENSDATA_S3A_JARS"
MARK = "LENSDATA_TEST_CLUSTER"  # in the environment of all a cluster starts: what it left running is ended with it
RELEASES = {"emr-7.13.0": "3.5.6-amzn-2", "emr-7.5.0": "3.5.2-amzn-1", "emr-6.15.0": "3.4.1-amzn-2"}
PAGE = 3  # steps per page, so that pages are followed
_DONE = ("COMPLETED", "FAILED", "CANCELLED", "INTERRUPTED")


@dataclass(frozen=True)
class Result:
    """What running a step came to."""

    code: int
    stdout: str = ""
    stderr: str = ""
    containers: dict[str, str] = field(default_factory=dict)  # path below containers/ and text


Runner = Callable[[str, list[str], str], Result]


@dataclass
class Step:
    """A step of a cluster."""

    id: str
    request: dict[str, Any]
    state: str = "PENDING"
    result: Result | None = None
    thread: threading.Thread | None = None


@dataclass
class Cluster:
    """A cluster and how far it is."""

    id: str
    request: dict[str, Any]
    created: float
    state: str = "STARTING"
    reason: dict[str, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)


@dataclass
class Fault:
    """How the next call of an operation ends; ``kind`` throttle, expired, error, denied, lost (done, but nobody is told)."""

    operation: str
    kind: str


class Refused(Exception):
    """An answer with an error."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


class EmrEndpoint(ThreadingHTTPServer):
    """EMR. Use as a context manager and point ``AWS_ENDPOINT_URL_EMR`` to ``url``.

    Attributes
    ----------
    calls
        (operation, parameters) of every request, in order, refused ones too.
    ends
        How steps end by name where there is no runner, COMPLETED if not named; LOST ends the cluster with it, as spot does.
    """

    daemon_threads = True

    def __init__(self, runner: Runner | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runner = runner
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.faults: deque[Fault] = deque()
        self.ends: dict[str, str] = {}
        self.said: dict[str, Result] = {}
        self.hold: str | None = None  # a step that does not end until this is None again
        self.security: dict[str, str] = {}
        self.clusters: dict[str, Cluster] = {}
        self.lock = threading.RLock()
        self.model = botocore.session.get_session().get_service_model("emr")
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        """Address without a slash at the end."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __exit__(self, *details: object) -> None:
        self.shutdown()
        for cluster in self.clusters.values():
            self._sweep(cluster)
        super().__exit__(*details)

    def operations(self) -> list[str]:
        """Names of the calls, repeated looks at a cluster as one."""
        return [name for name, _ in self.calls if name not in ("DescribeCluster", "ListSteps", "ListClusters")]

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request."""
        with self.lock:
            self.calls.append((operation, given))
            fault = self._fault(operation)
            if fault in _FAULTS:
                raise Refused(*_FAULTS[fault])
            report = ParamValidator().validate(given, self.model.operation_model(operation).input_shape)
            if report.has_errors():
                raise Refused("ValidationException", report.generate_report())
            found = dict(getattr(self, f"_{operation}")(given))
            if fault == "lost":
                raise ConnectionAbortedError
            return found

    def _fault(self, operation: str) -> str | None:
        for fault in self.faults:
            if fault.operation == operation:
                self.faults.remove(fault)
                return fault.kind
        return None

    # ------------------------------------------------------------------ operations

    def _RunJobFlow(self, given: dict[str, Any]) -> dict[str, Any]:
        if given["ReleaseLabel"] not in RELEASES:
            raise Refused("ValidationException", f"The supplied release label is invalid: {given['ReleaseLabel']}.")
        if given.get("SecurityConfiguration") not in (None, *self.security):
            raise Refused("InvalidRequestException", "The security configuration does not exist.")
        number = len(self.clusters) + 1
        cluster = Cluster(f"j-TEST{number:09d}", given, time.time())
        cluster.steps = [Step(f"s-{number:02d}{i:06d}", step) for i, step in enumerate(given["Steps"])]
        self.clusters[cluster.id] = cluster
        return {"JobFlowId": cluster.id, "ClusterArn": f"arn:aws:elasticmapreduce:cluster/{cluster.id}"}

    def _DescribeCluster(self, given: dict[str, Any]) -> dict[str, Any]:
        cluster = self._find(given["ClusterId"])
        self._advance(cluster)
        request = cluster.request
        return {
            "Cluster": {
                "Id": cluster.id,
                "Name": request["Name"],
                "Status": self._status(cluster),
                "Tags": request.get("Tags", []),
                "LogUri": request.get("LogUri"),
                "ReleaseLabel": request["ReleaseLabel"],
            }
        }

    def _ListClusters(self, given: dict[str, Any]) -> dict[str, Any]:
        wanted = given.get("ClusterStates")
        found = [c for c in reversed(list(self.clusters.values())) if wanted is None or c.state in wanted]
        return {"Clusters": [{"Id": c.id, "Name": c.request["Name"], "Status": self._status(c)} for c in found]}

    def _ListSteps(self, given: dict[str, Any]) -> dict[str, Any]:
        newest_first = list(reversed(self._find(given["ClusterId"]).steps))
        start = int(given.get("Marker", 0))
        found: dict[str, Any] = {"Steps": [_shown(step) for step in newest_first[start : start + PAGE]]}
        return found | ({"Marker": str(start + PAGE)} if start + PAGE < len(newest_first) else {})

    def _TerminateJobFlows(self, given: dict[str, Any]) -> dict[str, Any]:
        for name in given["JobFlowIds"]:
            cluster = self._find(name)
            if not cluster.state.startswith("TERMINAT"):
                self._end(cluster, "USER_REQUEST", "Terminated by user request")
        return {}

    def _DescribeReleaseLabel(self, given: dict[str, Any]) -> dict[str, Any]:
        if given["ReleaseLabel"] not in RELEASES:
            raise Refused("InvalidRequestException", "Release label is not valid.")
        applications = [
            {"Name": "Hadoop", "Version": "3.4.1"},
            {"Name": "Spark", "Version": RELEASES[given["ReleaseLabel"]]},
        ]
        return {"ReleaseLabel": given["ReleaseLabel"], "Applications": applications}

    def _DescribeSecurityConfiguration(self, given: dict[str, Any]) -> dict[str, Any]:
        if given["Name"] not in self.security:
            raise Refused(
                "InvalidRequestException", f"Security configuration with name '{given['Name']}' does not exist."
            )
        return {"Name": given["Name"], "SecurityConfiguration": self.security[given["Name"]]}

    # ------------------------------------------------------------------ states

    def _find(self, name: str) -> Cluster:
        if name not in self.clusters:
            raise Refused("InvalidRequestException", f"Cluster id '{name}' is not valid.")
        return self.clusters[name]

    def _status(self, cluster: Cluster) -> dict[str, Any]:
        return {
            "State": cluster.state,
            "StateChangeReason": cluster.reason,
            "Timeline": {"CreationDateTime": cluster.created},
        }

    def _advance(self, cluster: Cluster) -> None:
        """One state further; a step that runs is asked whether it ended."""
        if cluster.state in ("STARTING", "BOOTSTRAPPING"):
            cluster.state = "BOOTSTRAPPING" if cluster.state == "STARTING" else "RUNNING"
        elif cluster.state == "RUNNING":
            self._advance_steps(cluster)
        elif cluster.state == "TERMINATING":
            ok = cluster.reason["Code"] in ("ALL_STEPS_COMPLETED", "USER_REQUEST")
            cluster.state = "TERMINATED" if ok else "TERMINATED_WITH_ERRORS"

    def _advance_steps(self, cluster: Cluster) -> None:
        step = next((step for step in cluster.steps if step.state not in _DONE), None)
        if step is None:
            self._end(cluster, "ALL_STEPS_COMPLETED", "Steps completed")
        elif step.state == "PENDING":
            step.state = "RUNNING"
            self._start(cluster, step)
        elif step.request["Name"] != self.hold and (step.thread is None or not step.thread.is_alive()):
            self._finish(cluster, step)

    def _start(self, cluster: Cluster, step: Step) -> None:
        if self.runner is None or step.request["Name"] in self.ends:
            return
        runner = self.runner

        def work() -> None:
            step.result = runner(step.request["Name"], step.request["HadoopJarStep"]["Args"], cluster.id)

        step.thread = threading.Thread(target=work, daemon=True)
        step.thread.start()

    def _finish(self, cluster: Cluster, step: Step) -> None:
        name = step.request["Name"]
        end = self.ends.get(name, "COMPLETED")
        if end == "LOST":
            step.state = "INTERRUPTED"
            self._end(cluster, "INSTANCE_FAILURE", "The master node was terminated: spot interruption")
            return
        result = step.result or self.said.get(name) or Result(0 if end == "COMPLETED" else 1)
        step.state = "COMPLETED" if result.code == 0 and end == "COMPLETED" else "FAILED"
        self._log(cluster, step, result)
        if step.state == "FAILED" and step.request["ActionOnFailure"] == "TERMINATE_CLUSTER":
            self._end(cluster, "STEP_FAILURE", "Shut down as step failed")

    def _end(self, cluster: Cluster, code: str, message: str) -> None:
        cluster.state, cluster.reason = "TERMINATING", {"Code": code, "Message": message}
        for step in cluster.steps:
            if step.state not in _DONE:
                step.state = "CANCELLED"
        self._sweep(cluster)

    def _sweep(self, cluster: Cluster) -> None:
        """End what a step left running on the primary."""
        mark = f"{MARK}={_mark(cluster.id)}\0".encode()
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and mark in (entry / "environ").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:  # it has just ended, or is somebody else's
                continue

    def _log(self, cluster: Cluster, step: Step, result: Result) -> None:
        """What EMR copies to LogUri."""
        bucket, _, prefix = cluster.request["LogUri"].removeprefix("s3://").partition("/")
        base = f"{prefix}{cluster.id}"
        texts = {f"steps/{step.id}/stdout": result.stdout, f"steps/{step.id}/stderr": result.stderr}
        texts[f"steps/{step.id}/controller"] = f"INFO startExec {step.request['HadoopJarStep']['Args'][:1]}\n"
        texts |= {f"containers/{name}": text for name, text in result.containers.items()}
        for name, text in texts.items():
            body = gzip.compress(text.encode())
            boto3.client("s3").put_object(Bucket=bucket, Key=f"{base}/{name}.gz", Body=body)


_FAULTS = {
    "throttle": ("ThrottlingException", "Rate exceeded"),
    "expired": ("ExpiredTokenException", "The security token included in the request is expired"),
    "denied": ("AccessDeniedException", "User is not authorized to perform this"),
    "error": ("InternalServerException", "Internal failure", 500),
}


def _shown(step: Step) -> dict[str, Any]:
    status: dict[str, Any] = {"State": step.state, "StateChangeReason": {}}
    if step.state == "FAILED":
        status["FailureDetails"] = {"Reason": "Unknown Error.", "LogFile": f"steps/{step.id}/stderr.gz"}
    return {"Id": step.id, "Name": step.request["Name"], "Status": status}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: EmrEndpoint
    wbufsize = 1 << 16  # head and body in one packet: apart, each answer waits 40 ms for an acknowledgement
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """One call."""
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        operation = self.headers["X-Amz-Target"].removeprefix("ElasticMapReduce.")
        try:
            status, found = 200, self.server.answer(operation, given)
        except Refused as error:
            status, found = error.status, {"__type": error.code, "message": error.message}
        except ConnectionAbortedError:
            self.close_connection = True
            return
        body = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: ``calls`` says it."""


# ---------------------------------------------------------------------- a primary on this machine


class LocalRunner:
    """Runs the command line of a step in an empty folder, with a primary's programs first on the PATH."""

    def __init__(self, folder: Path, plant: Callable[[str], str | None] = lambda name: None) -> None:
        self.folder = folder
        self.plant = plant  # a name of a step to a line that runs in its place
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        for name in ("spark-submit", "aws", "hostname"):
            program = self.bin / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" {name} "$@"\n')
            program.chmod(0o755)

    def __call__(self, name: str, command: list[str], cluster: str) -> Result:
        """Run a step to its end."""
        work = self.folder / cluster / name
        work.mkdir(parents=True)
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SPARK", "PYSPARK"))
        }
        environment |= {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            MARK: _mark(cluster),
            "HADOOP_CONTAINERS": str(work / "containers"),
        }
        with (work / "stdout").open("wb") as out, (work / "stderr").open("wb") as err:
            code = subprocess.run(
                command, cwd=work, env=environment, stdout=out, stderr=err, stdin=subprocess.DEVNULL, check=False
            ).returncode
        found = {
            path.relative_to(work / "containers").as_posix(): path.read_text(errors="replace")
            for path in (work / "containers").rglob("*")
            if path.name in ("stdout", "stderr") and len(path.relative_to(work / "containers").parts) == 3
        }
        return Result(code, (work / "stdout").read_text(), (work / "stderr").read_text(), found)


def _mark(cluster: str) -> str:
    """A cluster of this process: other tests that run beside it have clusters of the same names."""
    return f"{os.getpid()}-{cluster}"


def _download(uri: str, target: Path) -> Path:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    boto3.client("s3").download_file(bucket, key, str(target))
    return target


def _spark_submit(argv: list[str]) -> int:
    """Stand for YARN: one container, which is driver and executors, with archives and files placed as YARN places them."""
    options: dict[str, str] = {}
    conf: dict[str, str] = {}
    while argv[0].startswith("--"):
        key, value, *argv = argv
        if key == "--conf":
            conf.update([value.split("=", 1)])
        else:
            options[key] = value
    assert options["--deploy-mode"] == "cluster", options
    application = f"application_{int(time.time() * 1000)}_0001"
    container = Path(os.environ["HADOOP_CONTAINERS"]) / application / f"container_{application[12:]}_01_000001"
    container.mkdir(parents=True)
    for word in options["--archives"].split(","):
        uri, _, name = word.partition("#")
        packed = _download(uri, container / f".{name}.tar.gz")
        with tarfile.open(packed) as tar:
            tar.extractall(container / name, filter="data")
    for uri in filter(None, options.get("--files", "").split(",")):
        _download(uri, container / uri.rsplit("/", 1)[-1])
    job = _download(argv[0], container / argv[0].rsplit("/", 1)[-1])
    print(f"25/01/01 00:00:00 INFO YarnClientImpl: Submitted application {application}", file=sys.stderr, flush=True)
    code = _driver(container, job, argv[1:], conf)
    if code:
        print(f"\t diagnostics: User application exited with status {code}", file=sys.stderr)
        print(f"Exception in thread main: Application {application} finished with failed status", file=sys.stderr)
    return 1 if code else 0


def _driver(container: Path, job: Path, arguments: list[str], conf: dict[str, str]) -> int:
    import pyspark

    home = Path(pyspark.__file__).parent
    given = {
        key.removeprefix("spark.yarn.appMasterEnv."): value for key, value in conf.items() if "appMasterEnv" in key
    }
    environment = os.environ | {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1"} | given
    libraries = [str(path) for path in sorted((home / "python" / "lib").glob("*.zip"))]
    environment["PYTHONPATH"] = ":".join([given["PYTHONPATH"], *libraries])  # as YARN appends them
    settings = {
        key: value
        for key, value in conf.items()
        if not key.startswith(("spark.yarn", "spark.executorEnv", "spark.dynamic"))
    }
    settings |= _s3a() | {"spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1"}
    line = [str(home / "bin" / "spark-submit"), "--master", "local[2]", "--driver-memory", "2g"]
    line += [item for key, value in settings.items() for item in ("--conf", f"{key}={value}")]
    with (container / "stdout").open("wb") as out, (container / "stderr").open("wb") as err:
        return subprocess.run(
            [*line, str(job), *arguments], cwd=container, env=environment, stdout=out, stderr=err, check=False
        ).returncode


def _s3a() -> dict[str, str]:
    """Spark's settings for ``s3://`` on a store of this machine, where the jars are."""
    if not os.environ.get(JARS):
        return {}
    endpoint = os.environ["AWS_ENDPOINT_URL_S3"]
    return {
        "spark.driver.extraClassPath": f"{os.environ[JARS]}/*",
        "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "spark.hadoop.fs.s3a.endpoint": endpoint,
        "spark.hadoop.fs.s3a.path.style.access": "true",
        "spark.hadoop.fs.s3a.connection.ssl.enabled": "false",
        "spark.hadoop.fs.s3a.access.key": os.environ["AWS_ACCESS_KEY_ID"],
        "spark.hadoop.fs.s3a.secret.key": os.environ["AWS_SECRET_ACCESS_KEY"],
    }


def _aws(argv: list[str]) -> int:
    source, target = [word for word in argv if not word.startswith("--")][-2:]
    _download(source, Path(target))
    return 0


def main(argv: list[str]) -> int:
    """A program of a primary."""
    program, *rest = argv
    if program == "hostname":
        print("127.0.0.1")
        return 0
    return {"spark-submit": _spark_submit, "aws": _aws}[program](rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
