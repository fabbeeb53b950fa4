"""``lensdata report``: finds or makes evaluations, and puts several side by side."""

from __future__ import annotations

import argparse
import re
import sys

from infra import pipeline as pipelines
from lensdata import storage
from lensdata.errors import InputError
from lensdata.steps import EXIT_DONE


def run(args: argparse.Namespace) -> int:
    """Evaluate what is not evaluated yet, compare where there are several, and say where the page is."""
    evaluations: dict[str, str] = {}
    for name, folder in named(args.folders):
        found = _evaluation(folder)
        if found is None:
            found = storage.join(args.output, name)
            code = pipelines.run_command(_evaluate(folder, found))
            if code != EXIT_DONE:
                return code
        evaluations[name] = found
    if len(evaluations) == 1:
        print(f"report  {storage.join(next(iter(evaluations.values())), 'report.html')}")
        return EXIT_DONE
    output = storage.join(args.output, "comparison")
    inputs = [f"inputs.evaluations.{name}={uri}" for name, uri in evaluations.items()]
    command = [sys.executable, "-m", "lensdata.report.comparison", "--output", output, "--force", *inputs]
    code = pipelines.run_command(command)
    if code == EXIT_DONE:
        print(f"report  {storage.join(output, 'report.html')}")
    return code


def named(folders: list[str]) -> list[tuple[str, str]]:
    """(name, folder) of each argument; without a name the last part of the path that tells it from the others."""
    out: list[tuple[str, str]] = []
    for argument in folders:
        name, equals, folder = argument.partition("=")
        if not equals or "/" in name:
            folder = argument
            parts = [part for part in re.split(r"[/:]+", argument.rstrip("/")) if part not in ("", ".", "..")]
            name = parts[-1] if parts else "run"
            if name in {known for known, _ in out} and len(parts) > 1:
                name = f"{parts[-2]}-{name}"
        if name in {known for known, _ in out}:
            raise InputError(
                f"Two folders are called {name!r}; give them names: lensdata report one={out[-1][1]} two={folder}."
            )
        out.append((name, folder))
    return out


def _evaluation(folder: str) -> str | None:
    """The evaluation that a folder is or holds; None for a training run."""
    for place in (folder, storage.join(folder, "evaluate")):
        if storage.exists(storage.join(place, "metrics.json")):
            return place
    if storage.exists(storage.join(folder, "run_info.json")):
        return None
    raise InputError(
        f"{folder} holds neither metrics.json (an evaluation), nor evaluate/metrics.json (a pipeline's output), nor "
        "run_info.json (a training run)."
    )


def _evaluate(folder: str, output: str) -> list[str]:
    manifest = storage.read_json(storage.join(folder, "run_info.json"))["manifest"]["uri"]
    settings = [f"inputs.run={folder}", f"inputs.manifest={manifest}", "--output", output]
    return [sys.executable, "-m", "ray_train.evaluate", *settings]
