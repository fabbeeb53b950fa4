"""What the terminal shows: a bar per step on a terminal, plain lines in a log."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from infra import processes

LINE_EVERY_S = 15.0


class Screen:
    """Shows one step after another."""

    def __init__(self, total_steps: int, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.total = total_steps
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._label = ""
        self._started = self._last_line = 0.0

    def say(self, text: str, style: str = "") -> None:
        """A line of its own."""
        self.console.print(Text(text, style=style))

    def skipped(self, index: int, name: str) -> None:
        """A step that was done before."""
        self.say(f"{self._head(index, name)} done before, skipped", "dim")

    def begin(self, index: int, name: str) -> None:
        """A step starts."""
        self._label = self._head(index, name)
        self._started = self._last_line = time.monotonic()
        if not self.console.is_terminal:
            self.say(f"{self._label} started")
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[count]}"),
        )
        self._bar = Progress(*columns, console=self.console, transient=True)
        self._task = self._bar.add_task(self._label, total=None, count="")
        self._bar.start()

    def update(self, found: processes.Progress | None) -> None:
        """The step went on."""
        if found is None:
            return
        elapsed = time.monotonic() - self._started
        count = f"{found.done}/{found.total} {found.unit}{_eta(found, elapsed)}"
        if self._bar is not None and self._task is not None:
            # a bar whose units are all done stops its clock, but the step still writes and checks
            total = found.total + (found.done >= found.total)
            self._bar.update(self._task, completed=found.done, total=total, count=count)
        elif time.monotonic() - self._last_line > LINE_EVERY_S:
            self._last_line = time.monotonic()
            self.say(f"{self._label} {count}")

    def end(self, ok: bool, note: str = "") -> float:
        """The step ended; returns its seconds."""
        seconds = time.monotonic() - self._started
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
        mark, style = ("done", "green") if ok else ("FAILED", "bold red")
        self.say(f"{self._label} {mark} in {seconds:.0f} s{note}", style)
        return seconds

    def _head(self, index: int, name: str) -> str:
        return f"[{index}/{self.total}] {name}"


def _eta(found: processes.Progress, elapsed: float) -> str:
    if not 0 < found.done < found.total:
        return ""
    return f", about {elapsed / found.done * (found.total - found.done):.0f} s left"
