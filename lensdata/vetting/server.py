"""The local server behind the page: pictures, grades, and nothing that a blind grader must not know.

A page asks by the number that a stamp has for its grader. In a blind session no answer holds a key, a score, a name or
whether a stamp is a control; the figures that tell come when the last stamp is graded.

Whoever asks needs the token of the printed address, as a cookie from then on, and a Host of this machine: a foreign page can
neither read (DNS rebinding) nor write (JSON, Origin).
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import math
import shlex
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

from aiohttp import web

from lensdata.errors import InputError
from lensdata.report.galleries import viewer_link
from lensdata.vetting.admission import HEADERS, LOCAL_NAMES, admit, is_any, names_of
from lensdata.vetting.agreement import summary
from lensdata.vetting.grades import GRADES, KEY, KINDS, Ledger, check_name
from lensdata.vetting.pictures import COLOUR, GAINS, channels, draw
from lensdata.vetting.session import Session, token
from lensdata.vetting.stamps import StampStore

log = logging.getLogger(__name__)

THREADS = 4
BODY_MAX = 4096
UNSAID = "."  # of a stamp without a grade; the others are told by the first letter of their grade
PAGE_TYPES = {"page.html": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Vetting:
    """The answers of one server.

    Parameters
    ----------
    ledger
        Open for writing.
    graders
        The only names that are let in; all by default.
    hosts
        Names besides those of the loopback by which a browser may call this server.
    secret
        What the printed address carries.
    """

    def __init__(
        self,
        session: Session,
        stamps: StampStore,
        ledger: Ledger,
        *,
        secret: str,
        graders: Sequence[str] = (),
        hosts: Iterable[str] = (),
    ) -> None:
        self._session, self._stamps, self._ledger, self._secret = session, stamps, ledger, secret
        self._graders = tuple(check_name(name) for name in graders)
        self._hosts = LOCAL_NAMES | set(hosts)
        self._writing = asyncio.Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="vetting")
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._cookie = f"lensdata-vet-{session.id}"  # cookies know no ports: servers of two folders must not share one
        self._pages = {
            name: resources.files("lensdata.vetting").joinpath(name).read_text(encoding="utf-8") for name in PAGE_TYPES
        }

    def application(self) -> web.Application:
        """The routes with what guards them."""
        app = web.Application(middlewares=[self._guard], client_max_size=BODY_MAX)
        app.router.add_get("/", self._page)
        app.router.add_get("/{name:page\\.(?:js|css)}", self._page)
        app.router.add_get("/api/session", self._about)
        app.router.add_get("/api/marks/{grader}", self._marks)
        app.router.add_get("/api/facts/{grader}/{number}", self._facts)
        app.router.add_get("/api/summary/{grader}", self._summary)
        app.router.add_post("/api/grade", self._grade)
        app.router.add_post("/api/undo", self._undo)
        app.router.add_get("/picture/{session}/{grader}/{number}", self._picture)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            admit(request, self._hosts, self._cookie, self._secret)
            response = await handler(request)
        except web.HTTPException as error:
            response = _said(error.status, error.text or error.reason)
        except InputError as error:
            response = _said(400, str(error))
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    async def _page(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name", "page.html")
        response = web.Response(text=self._pages[name], content_type=PAGE_TYPES[name])
        if "token" in request.query:
            response.set_cookie(self._cookie, self._secret, httponly=True, samesite="Strict", path="/")
        return response

    async def _about(self, request: web.Request) -> web.Response:
        layout, session = self._stamps.layout, self._session
        height, width, _ = layout.shape
        known = sorted(self._ledger.standing.grades)
        return web.json_response({
            "session": session.id, "name": session.folder.name, "stamps": len(session), "blind": session.blind,
            "grades": GRADES, "kinds": KINDS, "graders": self._graders or known, "closed": bool(self._graders),
            "channels": channels(layout), "stretches": list(GAINS), "height": height, "width": width,
            "pixscale_arcsec": layout.pixscale_arcsec,
        })  # fmt: skip

    async def _marks(self, request: web.Request) -> web.Response:
        """Every grade of a grader so far: one letter per number, and the kinds of those that have one."""
        grader = self._grader(request.match_info["grader"])
        own = self._ledger.standing.grades.get(grader, {})
        keys = self._session.cutout_ids[self._session.order(grader)].tolist()
        lines = [own.get(key) for key in keys]
        return web.json_response({
            "marks": "".join((line.grade or UNSAID)[0] if line else UNSAID for line in lines),
            "kinds": {number: line.kind for number, line in enumerate(lines, 1) if line and line.kind},
        })  # fmt: skip

    async def _facts(self, request: web.Request) -> web.Response:
        """What is known of a stamp; of a blind session nobody is told."""
        item = self._item(self._grader(request.match_info["grader"]), request.match_info["number"])
        if self._session.blind:
            raise web.HTTPForbidden(text="This session is blind.")
        [row] = self._session.items.slice(item, 1).to_pylist()
        row = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        link = viewer_link(row["ra"], row["dec"]) if row["ra"] is not None and row["dec"] is not None else None
        shown = ("cutout_id", "rank", "logit", "score", "ra", "dec", "label", "lens_name", "control")
        return web.json_response(
            {name: row[name] for name in shown} | {"cutout_id": str(row["cutout_id"]), "viewer": link}
        )

    async def _picture(self, request: web.Request) -> web.Response:
        asked = request.match_info
        item = self._item(self._grader(asked["grader"]), asked["number"])
        channel, stretch = request.query.get("channel", COLOUR), request.query.get("stretch", "normal")
        residual = "residual" in request.query
        if asked["session"] != self._session.id or channel not in channels(self._stamps.layout) or stretch not in GAINS:
            raise web.HTTPNotFound(text="There is no such picture.")
        loop = asyncio.get_running_loop()
        try:
            png = await loop.run_in_executor(self._threads, self._drawn, item, channel, stretch, residual)
        except (InputError, OSError) as error:  # its address would tell a blind grader what it is
            log.error("stamp=%s cannot be shown: %s", self._session.cutout_ids[item], error)
            raise web.HTTPInternalServerError(text="This stamp cannot be read; the terminal says why.") from error
        return web.Response(body=png, content_type="image/png", headers={"Cache-Control": "private, max-age=86400"})

    def _drawn(self, item: int, channel: str, stretch: str, residual: bool) -> bytes:
        return draw(self._stamps.stamp(item), self._stamps.layout, channel, stretch, residual=residual)

    async def _grade(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        grader = self._grader(body["grader"])
        item = self._item(grader, body.get("number"))
        if body.get("grade") not in GRADES or body.get("kind") not in (
            None,
            *(KINDS if body["grade"] == "not" else ()),
        ):
            raise InputError(f"A grade is one of {', '.join(GRADES)}, and not alone has a kind of {', '.join(KINDS)}.")
        seconds = body.get("seconds")
        if not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
            raise InputError("seconds must be a number from 0 on.")
        await self._write(lambda: self._ledger.grade(
            cutout_id=int(self._session.cutout_ids[item]), grader=grader, grade=body["grade"], kind=body.get("kind"),
            seconds=float(seconds), key=body["key"],
        ))  # fmt: skip
        return web.json_response(
            {"number": item_number(body["number"]), "grade": body["grade"], "kind": body.get("kind")}
        )

    async def _undo(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        grader = self._grader(body["grader"])
        line = await self._write(lambda: self._ledger.undo(grader=grader, key=body["key"]))
        if line is None:
            return web.json_response({"number": None})
        keys = self._session.cutout_ids[self._session.order(grader)]
        number = int((keys == line.cutout_id).argmax()) + 1
        return web.json_response({"number": number, "grade": line.grade, "kind": line.kind})

    async def _summary(self, request: web.Request) -> web.Response:
        """Own progress; agreement and controls as soon as they can no longer tell which stamps are controls."""
        grader = self._grader(request.match_info["grader"])
        own = dict(self._ledger.standing.grades.get(grader, {}))  # a copy: another tab may be grading
        told: dict[str, Any] = {
            "graded": len(own),
            "stamps": len(self._session),
            "finished": len(own) == len(self._session),
        }
        told["grades"] = {grade: sum(line.grade == grade for line in own.values()) for grade in GRADES}
        if told["finished"] or not self._session.blind:
            loop = asyncio.get_running_loop()
            async with self._writing:  # nothing changes while it is counted
                told["all"] = await loop.run_in_executor(self._disk, summary, self._session, self._ledger.standing)
            folder = shlex.quote(str(self._session.folder))
            told["export"] = (
                f"lensdata vet export {folder} --output {shlex.quote(str(self._session.folder) + '-grades')}"
            )
        return web.json_response(told)

    async def _write(self, action: Callable[[], Any]) -> Any:
        async with self._writing:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._disk, action)
            except OSError as error:
                log.error("ledger=%s cannot be written: %s", self._ledger.path, error)
                raise web.HTTPInsufficientStorage(
                    text=f"The grade is not saved ({error.strerror}); make room for {self._ledger.path.name}, it is sent again."
                ) from error

    async def _body(self, request: web.Request) -> dict[str, Any]:
        try:
            body = await request.json()
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError("The body is no JSON.") from error
        if not isinstance(body, dict) or not {"grader", "key", "session"} <= body.keys():
            raise InputError("The body needs session, grader and key.")
        if body["session"] != self._session.id:
            raise web.HTTPConflict(
                text="This grade belongs to another session than the one that is open now; load the page again."
            )
        if not isinstance(body["key"], str) or not KEY.fullmatch(body["key"]):
            raise InputError("key must be 1 to 64 letters, digits and dashes.")
        return body

    def _grader(self, name: Any) -> str:
        checked = check_name(str(name))
        if self._graders and checked not in self._graders:
            raise web.HTTPForbidden(
                text=f"{checked} is not among the graders of this session: {', '.join(self._graders)}."
            )
        return checked

    def _item(self, grader: str, number: Any) -> int:
        place = item_number(number)
        if not 1 <= place <= len(self._session):
            raise web.HTTPNotFound(text=f"There is no stamp {place}; the session has {len(self._session)}.")
        return int(self._session.order(grader)[place - 1])


def item_number(value: Any) -> int:
    """The number of a stamp as a page sends it."""
    if isinstance(value, bool) or not str(value).isascii() or not str(value).isdigit() or len(str(value)) > 9:
        raise InputError(f"number must be a whole number from 1 on, found {str(value)[:20]!r}.")
    return int(value)


def serve(
    session: Session,
    ledger: Ledger,
    *,
    port: int,
    listen: str = "127.0.0.1",
    graders: Sequence[str] = (),
    ready: Callable[[str], None],
) -> None:
    """Serve until interrupted.

    Parameters
    ----------
    port
        0 for any that is free.
    ready
        Is told the address to open.

    Raises
    ------
    InputError
        The port is taken, or the address is none of this machine's.
    """
    vetting = Vetting(
        session, StampStore(session), ledger, secret=token(session.folder), graders=graders, hosts=names_of(listen)
    )
    asyncio.run(
        _serve(vetting, session.folder.name, port, listen, lambda url: ready(f"{url}?token={token(session.folder)}"))
    )


async def _serve(vetting: Vetting, name: str, port: int, listen: str, ready: Callable[[str], None]) -> None:
    runner = web.AppRunner(vetting.application(), access_log=None, shutdown_timeout=2)
    await runner.setup()
    try:
        site = web.TCPSite(runner, listen, port, reuse_address=True)
        try:
            await site.start()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise InputError(
                    f"Port {port} is taken; stop what listens there, or give another by --port."
                ) from error
            raise InputError(f"{listen} port {port} cannot be listened on ({error.strerror}); give another.") from error
        bound = runner.addresses[0][1]
        name_here = socket.gethostname() if is_any(listen) else listen
        host = f"[{name_here}]" if ":" in name_here else name_here
        log.info("vetting=%s listens on %s port %d", name, listen, bound)
        ready(f"http://{host}:{bound}/")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _said(status: int, sentence: str) -> web.Response:
    return web.json_response({"error": sentence}, status=status)
