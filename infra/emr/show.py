"""What the terminal shows of a cluster."""

from __future__ import annotations

from infra.emr.watch import STEP_ENDED, ClusterState, StepState
from infra.screen import Screen


class Show:
    """Turns each look at a cluster into lines and bars; keeps the seconds of finished pipeline steps."""

    def __init__(self, screen: Screen, names: list[str]) -> None:
        self.seconds: dict[str, float] = {}
        self._screen, self._names = screen, names
        self._cluster = ""
        self._states: dict[str, str] = {}
        self._open: str | None = None

    def __call__(self, state: ClusterState) -> None:
        for step in state.steps:
            before = self._states.get(step.id, "PENDING")
            if step.state != before:
                self._states[step.id] = step.state
                self._changed(step, before)
        if state.state != self._cluster:
            self._cluster = state.state
            reason = f" ({state.reason})" if state.reason else ""
            self._screen.say(f"cluster {state.id} {state.state}{reason}", "dim")
        self._screen.update(None)

    def stop(self) -> None:
        """Nobody watches any more."""
        if self._open:
            self._screen.end(False, " (no longer watched)")
            self._open = None

    def _changed(self, step: StepState, before: str) -> None:
        ours = step.name in self._names
        if step.state == "RUNNING":
            if ours:
                self._screen.begin(self._names.index(step.name) + 1, step.name)
                self._open = step.name
            else:
                self._screen.say(f"{step.name} started", "dim")
        elif step.state in STEP_ENDED:
            self._ended(step, ours, before)

    def _ended(self, step: StepState, ours: bool, before: str) -> None:
        ok = step.state == "COMPLETED"
        seconds = 0.0
        if self._open == step.name:
            seconds = self._screen.end(ok, "" if step.state in ("COMPLETED", "FAILED") else f" ({step.state})")
            self._open = None
        elif ok or before == "RUNNING" or step.state == "FAILED":  # it ended between two looks, or before we watched
            self._screen.say(f"{step.name} {'done' if ok else step.state}", "" if ok else "bold red")
        if ok and ours:
            self.seconds[step.name] = seconds
