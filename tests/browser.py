"""A headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_S = 30


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
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = subprocess.Popen(
            [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
             f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            return asyncio.run(_look(_port(Path(profile)), page, width, height, questions, dark))
        finally:
            browser.terminate()
            browser.wait(PATIENCE_S)


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
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json") as answer:
            [tab] = [each for each in await answer.json(content_type=None) if each["type"] == "page"]
        async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
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
