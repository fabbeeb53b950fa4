"""What the terminal shows while a study runs: a live table, or a line per trial in a log. Read from the study's folder alone."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from rich.console import Console
from rich.live import Live

from lensdata import steps, storage
from lensdata.audit.studies import read_trial
from lensdata.errors import InputError
from lensdata.report.study_screen import TrialLine, study_table
from ray_train.run_folder import RunFolder
from ray_train.trial import CONFIGS, FAILED, METRICS, RUNS, STOPPED, Task

log = logging.getLogger(__name__)

EVERY_S, EVERY_S3_S = 2.0, 15.0
LINES_AROUND = 8  # of the screen, for title, heads and caption
ENDED = ("done", "failed", "stopped")


class Watch:
    """What is known of each trial, updated by looking into the folder."""

    def __init__(self, study: str, tasks: Sequence[Task]) -> None:
        self._study = study
        self._epochs = {task.trial: int(task.config["epochs"]) for task in tasks}
        self.lines = {task.trial: TrialLine(task.trial) for task in tasks}

    def look(self) -> list[TrialLine]:
        """Read what is new; returns the lines that changed their status."""
        changed = []
        for name in self._names():
            before = self.lines.get(name, TrialLine(name))
            if before.status not in ENDED:
                self.lines[name] = self._line(name)
                if self.lines[name].status != before.status:
                    changed.append(self.lines[name])
        return changed

    def progress(self) -> tuple[int, int]:
        """Epochs done and epochs in all; a trial that has ended counts as all of its epochs."""
        done = total = 0
        for name, line in self.lines.items():
            epochs = self._epochs.get(name, line.epoch or 0)
            total += epochs
            done += epochs if line.status in ENDED else min(epochs, line.epoch or 0)
        return done, total

    def _names(self) -> list[str]:
        folder = storage.join(self._study, CONFIGS)
        begun = storage.list_files(folder) if storage.exists(folder) else []
        return list(dict.fromkeys([*self.lines, *(uri.rsplit("/", 1)[-1].removesuffix(".yaml") for uri in begun)]))

    def _line(self, name: str) -> TrialLine:
        run = storage.join(self._study, RUNS, name)
        for uri in (
            storage.join(run, METRICS),
            *(storage.join(self._study, kind, f"{name}.json") for kind in (STOPPED, FAILED)),
        ):
            if storage.exists(uri):
                return replace(TrialLine.of(read_trial(uri)), name=name)
        records = RunFolder(run).records()
        if not records:
            begun = storage.exists(storage.join(self._study, CONFIGS, f"{name}.yaml"))
            return TrialLine(name, "running" if begun else "waiting")
        seconds = sum(record["seconds"] + record["val_seconds"] for record in records)
        return TrialLine(name, "running", len(records), max(record["val_auc"] for record in records), seconds=seconds)


@contextmanager
def watched(study: str, tasks: Sequence[Task], title: str) -> Iterator[None]:
    """Show the trials until the block ends."""
    console = Console(stderr=True)
    watch, stopped = Watch(study, tasks), threading.Event()
    live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def follow() -> None:
        ending, shown = False, (0, 0)
        while not ending:
            ending = stopped.wait(EVERY_S3_S if storage.is_s3(study) else EVERY_S)
            try:
                changed = watch.look()
            except (InputError, OSError, ValueError) as error:  # a file that is just being replaced
                log.debug("watch=%r", error)
                continue
            if live is not None:
                rows = max(4, console.height - LINES_AROUND)
                live.update(study_table(watch.lines.values(), title, rows), refresh=True)
                continue
            for line in changed:
                tell(line)
            if shown != (shown := watch.progress()):
                steps.progress(*shown, "epochs")

    thread = threading.Thread(target=follow, name="watch-study", daemon=True)
    thread.start()
    try:
        with logging_above(live) if live is not None else nullcontext():
            yield
    finally:
        stopped.set()
        thread.join()


@contextmanager
def logging_above(live: Live) -> Iterator[None]:
    """Start the live display, and let log lines appear above it instead of in it."""
    with live:
        handlers = [one for one in logging.getLogger().handlers if isinstance(one, logging.StreamHandler)]
        streams = [(one, one.setStream(sys.stderr)) for one in handlers if one.stream is sys.__stderr__]
        try:
            yield
        finally:
            for one, stream in streams:
                if stream is not None:
                    one.setStream(stream)


def tell(line: TrialLine) -> None:
    """A trial's new status as a log line."""
    log.info(
        "trial=%s status=%s epochs=%r val_auc=%s core_gate=%s core_reliance=%s",
        line.name, line.status, line.epoch_told, *(
            "-" if value is None else f"{value:.4f}" for value in (line.val_auc, line.core_gate_auc, line.core_reliance)
        ),
    )  # fmt: skip
