"""What a step of a cluster said, from the logs that EMR copies to S3."""

from __future__ import annotations

import gzip
import re
import time
import zlib
from pathlib import Path
from typing import Any

from lensdata.config.emr import EmrConfig

_APPLICATION = re.compile(r"application_\d+_\d+")
_EXIT = re.compile(r"exited with (?:status|code)?:? ?(\d+)", re.IGNORECASE)
_NOISE = re.compile(
    r" INFO (Client|RMProxy|YarnClientImpl|ShutdownHookManager)\b|^\s+(client token|queue|start time|tracking URL|user):"
)


def prefix_of(config: EmrConfig, cluster: str) -> str:
    """Where the logs of a cluster lie, below the bucket."""
    return f"{config.prefix}/logs/{cluster}/"


def fetch(s3: Any, config: EmrConfig, cluster: str, step: str, wait_s: float) -> str:
    """The log of a step: what ``spark-submit`` said, then the driver's own output.

    In cluster mode the driver runs in a container of its own, so its words lie beside those of its executors under the id of the
    application that the step's log names. EMR copies logs every five minutes and once more at the end.

    Returns
    -------
    str
        Empty where no log came within ``wait_s``.
    """
    deadline = time.monotonic() + wait_s
    while True:
        said = _read(s3, config.bucket, f"{prefix_of(config, cluster)}steps/{step}/", ("stderr", "stdout"))
        application = _APPLICATION.search(said)
        driver = _driver(s3, config, cluster, application[0]) if application else ""
        if (said and not application) or driver or time.monotonic() >= deadline:
            return f"{said}\n{driver}".strip()
        time.sleep(min(config.poll_s, max(0.0, deadline - time.monotonic()) + 0.01))


def _driver(s3: Any, config: EmrConfig, cluster: str, application: str) -> str:
    base = f"{prefix_of(config, cluster)}containers/{application}/"
    # the application master, which is the driver, has the first container of each attempt
    return _read(s3, config.bucket, base, ("stdout", "stderr"), r"_000001/")


def _read(s3: Any, bucket: str, prefix: str, names: tuple[str, ...], within: str = "") -> str:
    texts: dict[str, list[str]] = {name: [] for name in names}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            name = entry["Key"].rsplit("/", 1)[-1].partition(".")[0]
            if name in texts and re.search(within, entry["Key"]):
                body = s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
                texts[name].append(_text(entry["Key"], body))
    return "\n".join(text for name in names for text in texts[name] if text)


def _text(key: str, body: bytes) -> str:
    if key.endswith(".gz"):
        try:
            body = gzip.decompress(body)
        except (OSError, EOFError, zlib.error):  # copied while it was written: what is whole of it
            body = zlib.decompressobj(wbits=31).decompress(body)
    return body.decode("utf-8", "replace")


def keep(said: str, path: Path) -> None:
    """Append a fetched log to the run's own log file of the step, without YARN's progress lines."""
    lines = [line for line in said.splitlines() if line.strip() and not _NOISE.search(line)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        handle.write("\n".join([*lines, ""]))


def exit_code(said: str) -> int:
    """What the driver returned, as far as its log tells; 1 where it does not."""
    found = _EXIT.findall(said)
    return int(found[-1]) if found else 1
