"""A headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_S = 30


KEY_TEXTS = {"Enter": "\r", " ": " "}  # of named keys that type something
KEY_CODES = {
    "Enter": 13,
    "Tab": 9,
    "Escape": 27,
    "Backspace": 8,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
}


@dataclass
class Look:
    """What a page is like at one width: what it complained of, what it fetched, and answers to expressions."""

    complaints: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    picture: bytes = b""


def look(page: Path, width: int, questions: dict[str, str], *, dark: bool = False, height: int = 900) -> Look:
    """Load a local page at a width and answer JavaScript expressions; the picture shows all of it."""
    if not page.is_file():
        raise FileNotFoundError(page)
    with _chromium() as port:
        return asyncio.run(_look(port, page, width, height, questions, dark))


@contextmanager
def _chromium() -> Iterator[int]:
    """A browser of its own profile; the port of its tools."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = subprocess.Popen(
            [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
             f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield _port(Path(profile))
        finally:
            browser.terminate()
            browser.wait(PATIENCE_S)


class Tab:
    """A page that a test uses as a person does: opens addresses, presses keys, reads what it shows.

    Attributes
    ----------
    complaints, fetched
        As in `Look`, since the tab was opened.
    """

    def __init__(self, tools: _Tools, found: Look, loop: asyncio.AbstractEventLoop) -> None:
        self._tools, self._found, self._loop = tools, found, loop

    @property
    def complaints(self) -> list[str]:
        return self._found.complaints

    @property
    def fetched(self) -> list[str]:
        return self._found.fetched

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str) -> None:
        self._ask("Page.navigate", url=address)
        self._loop.run_until_complete(self._tools.wait(lambda event: event.get("method") == "Page.loadEventFired"))

    def press(self, *keys: str) -> None:
        """Press keys one after another: characters, or names such as Enter and ArrowRight."""
        for key in keys:
            text = key if len(key) == 1 else KEY_TEXTS.get(key, "")
            code = KEY_CODES.get(key, ord(key.upper()) if len(key) == 1 and key.isalnum() else 0)
            same = {"key": key, "windowsVirtualKeyCode": code}
            kind = "keyDown" if text else "rawKeyDown"
            self._ask("Input.dispatchKeyEvent", type=kind, text=text, unmodifiedText=text, **same)
            self._ask("Input.dispatchKeyEvent", type="keyUp", **same)

    def read(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        told = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise RuntimeError(f"{expression}: {told['exceptionDetails']}")
        return told["result"].get("value")

    def wait(self, expression: str) -> Any:
        """The value of an expression as soon as that is something."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if value := self.read(expression):
                return value
            time.sleep(0.02)
        raise TimeoutError(
            f"{expression} stayed {self.read(expression)!r}; the page says {self.read('document.body.innerText')!r}"
        )

    def picture(self) -> bytes:
        """What the tab shows, as a PNG."""
        return base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        return self._loop.run_until_complete(self._tools.ask(method, **params))


@contextmanager
def open_tab(width: int = 1280, height: int = 900, *, dark: bool = False) -> Iterator[Tab]:
    """A tab of a browser without a past."""
    with _chromium() as port, asyncio.Runner() as runner:
        found, loop = Look(), runner.get_loop()
        session = runner.run(_session())
        try:
            socket = runner.run(_connected(session, port))
            tools = _Tools(socket, found)
            for domain in ("Page", "Runtime", "Log", "Network"):
                runner.run(tools.ask(f"{domain}.enable"))
            tab = Tab(tools, found, loop)
            tab.resize(width, height, dark=dark)
            yield tab
        finally:
            runner.run(session.close())


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()


async def _connected(session: aiohttp.ClientSession, port: int) -> aiohttp.ClientWebSocketResponse:
    async with session.get(f"http://127.0.0.1:{port}/json") as answer:
        [tab] = [each for each in await answer.json(content_type=None) if each["type"] == "page"]
    return await session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)


def _port(profile: Path) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        told = profile / "DevToolsActivePort"
        if told.exists() and told.read_text().strip():
            return int(told.read_text().split()[0])
        time.sleep(0.05)
    raise TimeoutError("Chromium did not say where it listens")


async def _look(port: int, page: Path, width: int, height: int, questions: dict[str, str], dark: bool) -> Look:
    found = Look()
    async with aiohttp.ClientSession() as session, await _connected(session, port) as socket:
        tools = _Tools(socket, found)
        for domain in ("Page", "Runtime", "Log", "Network"):
            await tools.ask(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await tools.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await tools.ask("Emulation.setEmulatedMedia", features=[scheme])
        await tools.ask("Page.navigate", url=page.as_uri())
        await tools.wait(lambda event: event.get("method") == "Page.loadEventFired")
        for name, expression in questions.items():
            told = await tools.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
            found.answers[name] = told["result"].get("value")
        shot = await tools.ask("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        found.picture = base64.b64decode(shot["data"])
    return found


class _Tools:
    """Questions and answers over one socket; what the page complains of meanwhile is kept."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, found: Look) -> None:
        self._socket, self._found, self._number = socket, found, 0
        self._loaded = False

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        answer = await self.wait(lambda event: event.get("id") == self._number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            event: dict[str, Any] = json.loads(await self._socket.receive_str(timeout=PATIENCE_S))
            self._keep(event)
            if wanted(event):
                return event

    def _keep(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self._found.complaints.append(params["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self._found.complaints.append(str(params["exceptionDetails"].get("text")))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self._found.complaints.append(str(params["args"]))
        elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(
            ("data:", "file:", "about:")
        ):
            self._found.fetched.append(params["request"]["url"])
